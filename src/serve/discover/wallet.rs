//! What apps can ask.
#![forbid(unsafe_code)]

use super::{Method, TX};

const KEY: (&str, bool, &str) = ("key", true, "key name");

/// The methods of `wallet.sock`.
pub const WALLET: &[Method] = &[
    Method { name: "rpc.discover", summary: "This document", params: &[], result: "OpenRPC document" },
    Method { name: "web3_clientVersion", summary: "Name and version", params: &[], result: "string" },
    Method {
        name: "eth_accounts",
        summary: "Accounts that this app may use",
        params: &[],
        result: "array of addresses",
    },
    Method { name: "eth_chainId", summary: "The chain of this app", params: &[], result: "0x quantity" },
    Method {
        name: "eth_signTransaction",
        summary: "Decides and signs a payment",
        params: &[("transaction", true, "transaction object with 0x quantities")],
        result: "raw transaction, or {raw, tx} as the app is registered",
    },
    Method {
        name: "personal_sign",
        summary: "Signs an EIP-191 message where the policy says so",
        params: &[("data", true, "0x bytes"), ("account", true, "address")],
        result: "65-byte signature r || s || v",
    },
    Method {
        name: "account_version",
        summary: "Version of Clef's external API",
        params: &[],
        result: "string",
    },
    Method {
        name: "account_list",
        summary: "Accounts that this app may use",
        params: &[],
        result: "array of addresses",
    },
    Method {
        name: "account_signTransaction",
        summary: "Decides and signs a payment (Clef)",
        params: &[("transaction", true, "SendTxArgs"), ("methodSelector", false, "ignored hint")],
        result: "{raw, tx}",
    },
    Method {
        name: "claviger_hello",
        summary: "Gives this connection's nonce; from then on each request shows it, with a number of its own, in a \
                  member claviger {nonce, seq} beside jsonrpc",
        params: &[],
        result: "{nonce}",
    },
    Method {
        name: "claviger_status",
        summary: "Whether payments can be signed now",
        params: &[],
        result: "object",
    },
    Method {
        name: "claviger_governance",
        summary: "The rules in force, who approves, and how they came about",
        params: &[],
        result: "{policy, key_policy, authority, approvals, duties, history}",
    },
    Method {
        name: "claviger_waitGovernance",
        summary: "Waits for entries about who decides what: a change is announced before it is in force",
        params: &[
            ("since", false, "index of the last entry that is known"),
            ("timeout_ms", false, "at most 60000"),
        ],
        result: "{news, since}",
    },
    Method {
        name: "claviger_listKeys",
        summary: "Keys that this app may use",
        params: &[],
        result: "array of keys",
    },
    Method {
        name: "claviger_signPayment",
        summary: "Decides and signs a payment",
        params: &[
            TX,
            ("key", false, "key name, when the transaction has no from"),
            ("wait", false, "false: answer at once with a request id"),
        ],
        result: "{request, status, raw, tx, hash} or {request, status: pending}",
    },
    Method {
        name: "claviger_simulatePayment",
        summary: "The same decision without a signature or a reservation",
        params: &[
            TX,
            ("key", false, "key name, when the transaction has no from"),
            ("wait", false, "ignored"),
        ],
        result: "{payment, decision}",
    },
    Method {
        name: "claviger_waitRequest",
        summary: "Waits for a request made with wait: false, or for one that its user or people must confirm",
        params: &[("request", true, "request id"), ("timeout_ms", false, "at most 60000")],
        result: "as claviger_signPayment",
    },
    Method {
        name: "claviger_cancelRequest",
        summary: "Cancels a request that has not been reserved",
        params: &[("request", true, "request id")],
        result: "{request, cancelled}",
    },
    Method {
        name: "claviger_requestUser",
        summary: "Asks for the user: show them the code, they run claviger user unlock CODE",
        params: &[],
        result: "{code, expires_seconds}",
    },
    Method {
        name: "claviger_userSession",
        summary: "Who is here for this connection; waits for somebody",
        params: &[("timeout_ms", false, "at most 60000; 0 when absent")],
        result: "{users}",
    },
    Method {
        name: "claviger_unlockUser",
        summary: "Hands the PIN of the app's own user over, where pin_on_wallet_socket names the app's tier",
        params: &[("pin", true, "PIN")],
        result: "{user, app, idle_seconds, hard_seconds}",
    },
    Method {
        name: "claviger_signLogin",
        summary: "Signs a login challenge with an authentication key; never a payment",
        params: &[
            KEY,
            ("audience", true, "who asks: printable ASCII, such as https://example.org"),
            ("challenge", true, "0x bytes, 16 to 256"),
        ],
        result: "{request, signature, message, algorithm, public_key}: the signature is over message",
    },
    Method {
        name: "claviger_encrypt",
        summary: "Encrypts with AES-256-GCM under a fresh nonce",
        params: &[KEY, ("plaintext", true, "0x bytes"), ("aad", false, "0x bytes, bound and not kept")],
        result: "{request, ciphertext, key}: nonce, ciphertext, tag; the generation that made it",
    },
    Method {
        name: "claviger_decrypt",
        summary: "Decrypts what claviger_encrypt made",
        params: &[
            KEY,
            ("ciphertext", true, "0x bytes"),
            ("aad", false, "0x bytes, as when it was encrypted"),
        ],
        result: "{request, plaintext}",
    },
    Method {
        name: "claviger_mac",
        summary: "Makes an HMAC-SHA256 with an integrity key",
        params: &[KEY, ("data", true, "0x bytes")],
        result: "{request, mac, key}",
    },
    Method {
        name: "claviger_verifyMac",
        summary: "Compares a MAC in constant time, without telling the right one",
        params: &[KEY, ("data", true, "0x bytes"), ("mac", true, "0x bytes")],
        result: "{request, valid}",
    },
    Method {
        name: "claviger_random",
        summary: "Random bytes of token and kernel, conditioned in the token",
        params: &[KEY, ("bytes", true, "1 to 4096")],
        result: "{request, random}",
    },
];
