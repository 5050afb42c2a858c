//! What users ask, on a socket of their own.
#![forbid(unsafe_code)]

use super::Method;

const REQUEST: (&str, bool, &str) = ("request", true, "request id");

/// The methods of `user.sock`.
pub const USER: &[Method] = &[
    Method { name: "rpc.discover", summary: "This document", params: &[], result: "OpenRPC document" },
    Method {
        name: "user_status",
        summary: "Whether one is enrolled, and where one is here",
        params: &[],
        result: "{user, keys, enrolled, sessions}",
    },
    Method {
        name: "user_enrol",
        summary: "Takes the PIN, with the code of an operator",
        params: &[
            ("code", true, "from claviger user add or reset"),
            ("pin", true, "PIN"),
            ("duress", false, "another PIN, which stops all keys of the user and does not show it"),
        ],
        result: "{user, enrolled}",
    },
    Method {
        name: "user_changePin",
        summary: "Puts another PIN in place",
        params: &[("pin", true, "PIN"), ("new", true, "the new one"), ("duress", false, "as above")],
        result: "{user, changed}",
    },
    Method {
        name: "user_request",
        summary: "Which app showed a code",
        params: &[("code", true, "from claviger_requestUser")],
        result: "{app, tier, program}",
    },
    Method {
        name: "user_unlock",
        summary: "Opens a session for the connection of that app",
        params: &[("code", true, "from claviger_requestUser"), ("pin", true, "PIN")],
        result: "{user, app, idle_seconds, hard_seconds, wrong_pins_before, note}",
    },
    Method { name: "user_lock", summary: "Ends one's sessions", params: &[], result: "{user, ended}" },
    Method {
        name: "user_duties",
        summary: "The duties that come with one's keys, and whether one acknowledged them",
        params: &[],
        result: "{text, hash, ack, again, acknowledged, who}",
    },
    Method {
        name: "user_acknowledge",
        summary: "Acknowledges the duties that were shown",
        params: &[("duties", true, "their hash, as it was shown"), ("pin", true, "PIN")],
        result: "{who, duties, policy, entry}",
    },
    Method {
        name: "user_pending",
        summary: "Payments that wait for one's confirmation, as the daemon decoded them",
        params: &[],
        result: "array of {request, status, app, key, step, digest, expires_seconds, text}",
    },
    Method {
        name: "user_show",
        summary: "One of them, with what an authenticator signs",
        params: &[REQUEST],
        result: "{request, text, namespace, client_data_hash, relying_parties, …}",
    },
    Method {
        name: "user_confirm",
        summary: "Confirms one, by what was shown",
        params: &[
            REQUEST,
            ("digest", true, "as it was shown"),
            ("pin", true, "PIN"),
            ("signature", false, "SSHSIG of an sk- key over the text, namespace clavigerd-user@v1"),
            ("assertion", false, "what fido2-assert -G prints"),
        ],
        result: "{request, status, …}",
    },
    Method {
        name: "user_refuse",
        summary: "Refuses one",
        params: &[REQUEST],
        result: "{request, status, …}",
    },
];
