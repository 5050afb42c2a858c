//! The OpenRPC document of each socket. The dispatchers serve exactly the methods that stand here.
#![forbid(unsafe_code)]

mod user;
mod wallet;

use serde_json::{Value, json};

pub use user::USER;
pub use wallet::WALLET;

/// One method.
pub struct Method {
    /// Name.
    pub name: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Parameters: name, whether required, what it is. Positional unless the method is native.
    pub params: &'static [(&'static str, bool, &'static str)],
    /// What comes back.
    pub result: &'static str,
}

const TX: (&str, bool, &str) =
    ("transaction", true, "transaction object with 0x quantities, or 0x bytes of the unsigned transaction");

const APP: (&str, bool, &str) = ("name", true, "app id");

/// The methods of `operator.sock`.
pub const OPERATOR: &[Method] = &[
    Method { name: "rpc.discover", summary: "This document", params: &[], result: "OpenRPC document" },
    Method { name: "operator_status", summary: "State of everything", params: &[], result: "object" },
    Method {
        name: "operator_keyCreate",
        summary: "Makes a key in the token, for one purpose and for good",
        params: &[
            ("name", true, "key name"),
            (
                "purpose",
                false,
                "payment (the default), authentication, encryption, integrity, transport, random",
            ),
            (
                "algorithm",
                false,
                "secp256k1, p256, ed25519, aes256-gcm, hmac-sha256, aes256-kw; else the usual one",
            ),
        ],
        result: "key",
    },
    Method {
        name: "operator_keyAdopt",
        summary: "Takes a key over that is in the token, with what is unproven about it",
        params: &[
            ("name", true, "key name"),
            ("id", true, "CKA_ID, hex"),
            ("purpose", true, "its one purpose"),
        ],
        result: "key",
    },
    Method {
        name: "operator_keyImport",
        summary: "Puts a key into the token that was outside; without private it says whether it would",
        params: &[
            ("name", true, "key name"),
            ("purpose", true, "payment or authentication"),
            ("algorithm", true, "secp256k1, p256, ed25519"),
            ("public", true, "the public half that was shown, hex"),
            ("source", true, "mnemonic, private-key, pkcs8, keystore"),
            ("private", false, "the private half, 32 bytes in hex"),
        ],
        result: "key",
    },
    Method {
        name: "operator_keyMove",
        summary: "Moves a key along its life: active, suspended, sweep-only, deactivated, compromised, destroyed",
        params: &[
            ("name", true, "key name"),
            ("to", true, "state"),
            ("reason", true, "one line, for those who read the log in years"),
            ("evidence", false, "to destroy a payment key: a statement of its balance, with its signature"),
            ("signature", false, "SSHSIG over it, namespace clavigerd-balance@v1"),
            ("waiver", false, "or why there is none"),
        ],
        result: "key",
    },
    Method {
        name: "operator_keyRotate",
        summary: "Makes a successor and puts it in the key's place between two requests",
        params: &[("name", true, "key name"), ("reason", true, "one line")],
        result: "{line, successor, predecessor}",
    },
    Method {
        name: "operator_keysDue",
        summary: "When keys end, and what is overdue",
        params: &[],
        result: "array of {name, state, to, at, days, overdue}",
    },
    Method {
        name: "operator_governance",
        summary: "The rules in force, who approves, and how they came about",
        params: &[],
        result: "{policy, key_policy, authority, approvals, duties, history}",
    },
    Method {
        name: "operator_approvals",
        summary: "Payments and changes that wait for people",
        params: &[],
        result: "array of {request, kind, status, quorum, of, approved_by, expires, …}",
    },
    Method {
        name: "operator_approval",
        summary: "One of them, with the text that is signed",
        params: &[("request", true, "request id")],
        result: "{request, status, text, namespaces, …}",
    },
    Method {
        name: "operator_approve",
        summary: "Counts a signature over the text: a yes or a no, by its namespace",
        params: &[("request", true, "request id"), ("signature", true, "SSHSIG, armoured")],
        result: "{request, status, approved_by, …}",
    },
    Method {
        name: "operator_changeWithdraw",
        summary: "Takes a change back that one asked for",
        params: &[("request", true, "change id")],
        result: "{request, status}",
    },
    Method {
        name: "operator_authorityShow",
        summary: "The document of the people who decide",
        params: &[],
        result: "{hash, text, people}",
    },
    Method {
        name: "operator_authorityApply",
        summary: "Puts an authority document in force, or asks the old people and the new for it",
        params: &[("text", true, "authority TOML")],
        result: "object; change_needed when people must agree",
    },
    Method {
        name: "operator_users",
        summary: "The users document, and how its users stand",
        params: &[],
        result: "{hash, text, users: [{name, uid, keys, enrolled, wrong_pins, suspended, sessions, …}]}",
    },
    Method {
        name: "operator_usersApply",
        summary: "Puts a users document in force, or asks people for it",
        params: &[("text", true, "users TOML")],
        result: "object; change_needed when people must agree",
    },
    Method {
        name: "operator_userReset",
        summary: "Lets a user enrol, or enrol anew, with a code",
        params: &[("name", true, "user"), ("reason", true, "one line")],
        result: "{user, uid, code, expires}",
    },
    Method {
        name: "operator_dutiesAck",
        summary: "Acknowledges the duties for an app",
        params: &[("app", true, "app"), ("duties", true, "their hash, as they were shown")],
        result: "{who, duties, policy, entry}",
    },
    Method { name: "operator_userLock", summary: "Ends every session", params: &[], result: "{ended}" },
    Method {
        name: "operator_governanceNews",
        summary: "Waits for entries about who decides what",
        params: &[
            ("since", false, "index of the last entry that is known"),
            ("timeout_ms", false, "at most 60000"),
        ],
        result: "{news, since}",
    },
    Method {
        name: "operator_orderSend",
        summary: "Carries an order or a lease here; who signed it counts, not who carries it",
        params: &[
            ("text", true, "the very bytes that were signed"),
            ("signatures", true, "array of SSHSIG, armoured"),
        ],
        result: "{order, heard, scope, level, epoch, index, done, receipt}",
    },
    Method {
        name: "operator_orderStatus",
        summary: "This device as orders name it, and what stands against it",
        params: &[],
        result: "{device, deployment, level, held, epoch, highest, last, latch, lease, …}",
    },
    Method {
        name: "operator_orderChallenge",
        summary: "Makes the text that people sign to start again; the one before is void",
        params: &[("scope", false, "all (the default), app:NAME or key:NAME")],
        result: "{text, namespace, lifts, quorum, of, expires}",
    },
    Method {
        name: "operator_orderReactivate",
        summary: "Starts again what an order stopped, when a quorum signed the challenge",
        params: &[("text", true, "the challenge's text"), ("signatures", true, "array of SSHSIG, armoured")],
        result: "{scope, by, epoch, level, token}",
    },
    Method {
        name: "operator_incidentOpen",
        summary: "Stops everything at once; those start again who do after an order",
        params: &[("reason", true, "one line, for those who come after")],
        result: "{incident, text, index}",
    },
    Method {
        name: "operator_incidentEvidence",
        summary: "What is known of the incident that is open, signed by the key of the log; no secrets",
        params: &[],
        result: "{document, note, checkpoint, vkey}",
    },
    Method {
        name: "operator_incidentClose",
        summary: "Ends an incident where the authority document names nobody who starts again",
        params: &[("reason", true, "one line, for those who read the log in years")],
        result: "{incident, closed}",
    },
    Method {
        name: "operator_leaseRequest",
        summary: "Asks for a lease, to be signed elsewhere; the request before is void",
        params: &[],
        result: "{deployment, device, epoch, boot, nonce, latest, namespace, …}",
    },
    Method {
        name: "operator_deviceFacts",
        summary: "What is known about the machine, and what is demanded of it",
        params: &[],
        result: "{fit, broken, digest, facts: [{name, verdict, found, demand, advice}]}",
    },
    Method {
        name: "operator_deviceQuote",
        summary: "The facts about the machine, quoted by its TPM",
        params: &[("nonce", true, "16 to 64 bytes, hex, drawn by who will judge it")],
        result: "{format, nonce, facts, pcrs, key, attest, signature}",
    },
    Method {
        name: "operator_inventory",
        summary: "Compares the token's objects with the registered keys",
        params: &[],
        result: "{equal, strangers, missing, objects, keys}",
    },
    Method {
        name: "operator_keyCopies",
        summary: "Where a key is, by when each copy has to be gone, and the signed certificate when all are",
        params: &[("name", true, "key name")],
        result: "{key, state, destroying, copies, certificate}",
    },
    Method {
        name: "operator_keyCopy",
        summary: "Tells of a medium that holds a bundle of the key, or gives a receipt for a copy out of reach",
        params: &[("name", true, ""), ("what", true, "kind"), ("place", true, ""), ("gone", false, "how")],
        result: "as operator_keyCopies",
    },
    Method {
        name: "operator_backupList",
        summary: "Which payment keys have a bundle",
        params: &[],
        result: "{epoch, quorum, groups_needed, groups, vaults, keys: [{key, state, backed_up, epoch, file, bundle, at}]}",
    },
    Method {
        name: "operator_backupMake",
        summary: "Makes a fresh bundle of a key and verifies it",
        params: &[("name", true, "key name")],
        result: "{key, epoch, bundle, file}",
    },
    Method {
        name: "operator_backupVerify",
        summary: "Holds every copy of every bundle, and every place of the vault, against the register",
        params: &[],
        result: "{ok, keys: [{key, ok, wrong}]}",
    },
    Method { name: "operator_keyList", summary: "All keys", params: &[], result: "array of keys" },
    Method {
        name: "operator_keyShow",
        summary: "One key",
        params: &[("name", true, "key name")],
        result: "key",
    },
    Method { name: "operator_appList", summary: "Registered apps", params: &[], result: "array of apps" },
    Method { name: "operator_appShow", summary: "One app, as it is in force", params: &[APP], result: "app" },
    Method {
        name: "operator_appRegistrations",
        summary: "The file of apps in force, and what is remembered beside it",
        params: &[],
        result: "{apps, registrations, signed}",
    },
    Method {
        name: "operator_appRevoke",
        summary: "Takes an app out of service under its serial and every lower one",
        params: &[APP, ("reason", true, "one line")],
        result: "{app, revoked, serial}",
    },
    Method {
        name: "operator_policyShow",
        summary: "The policy in force",
        params: &[],
        result: "{hash, text, books}",
    },
    Method {
        name: "operator_policyDiff",
        summary: "What a text would change",
        params: &[("text", true, "policy TOML")],
        result: "{class, text, changes: [{rule, what, class}], notes}",
    },
    Method {
        name: "operator_policyReplay",
        summary: "Which payments of the past would end otherwise",
        params: &[("text", true, "policy TOML")],
        result: "{judged, entries, changed: [{seq, at, app, key, request, was, now}]}",
    },
    Method {
        name: "operator_policyApply",
        summary: "Puts a policy in force",
        params: &[("text", true, "policy TOML")],
        result: "object",
    },
    Method {
        name: "operator_policyExplain",
        summary: "What would be decided, and why",
        params: &[
            ("app", true, "app id"),
            TX,
            ("key", false, "key name"),
            ("tier", false, "what is known of the app: T0, T1 (when absent)"),
        ],
        result: "{payment, decision}",
    },
    Method {
        name: "operator_logShow",
        summary: "Entries of the log",
        params: &[
            ("from", false, "first index; negative counts from the end"),
            ("count", false, "at most 1000"),
            ("raw", false, "true: the bytes that are signed, in base64; else JSON"),
        ],
        result: "{size, entries}",
    },
    Method {
        name: "operator_logCheckpoints",
        summary: "Signed checkpoints of the log, oldest first, at most 1000",
        params: &[("from", false, "least size of the tree")],
        result: "{from, checkpoints: [{size, note}]}",
    },
    Method {
        name: "operator_logProve",
        summary: "An entry with its path to the signed root (C2SP tlog-proof)",
        params: &[("index", true, "of the entry")],
        result: "{index, size, proof}",
    },
    Method {
        name: "operator_logHead",
        summary: "Latest checkpoint and verifier key",
        params: &[],
        result: "{checkpoint, vkey, size}",
    },
    Method {
        name: "operator_tokenCheck",
        summary: "Proves on the device what its profile claims",
        params: &[],
        result: "array of rows",
    },
    Method {
        name: "operator_stateAccept",
        summary: "Goes on with a state directory that was refused; every window counts as full until it has passed",
        params: &[("reason", true, "one line, for those who read the log in years")],
        result: "{accepted, was, epoch}",
    },
    Method {
        name: "operator_unlock",
        summary: "Hands over the PIN",
        params: &[("pin", true, "PIN or passphrase")],
        result: "{state}",
    },
    Method { name: "operator_reload", summary: "Reads policy and apps again", params: &[], result: "object" },
];

/// The OpenRPC document.
#[must_use]
pub fn document(methods: &[Method], title: &str) -> Value {
    let native = |name: &str| ["claviger_", "operator_", "user_"].iter().any(|p| name.starts_with(p));
    let methods: Vec<Value> = methods
        .iter()
        .map(|m| {
            let params: Vec<Value> = m
                .params
                .iter()
                .map(|(name, required, what)| json!({"name": name, "required": required, "schema": {"description": what}}))
                .collect();
            json!({
                "name": m.name,
                "summary": m.summary,
                "paramStructure": if native(m.name) { "by-name" } else { "by-position" },
                "params": params,
                "result": {"name": "result", "schema": {"description": m.result}},
            })
        })
        .collect();
    json!({"openrpc": "1.3.2", "info": {"title": title, "version": env!("CARGO_PKG_VERSION")}, "methods": methods})
}
