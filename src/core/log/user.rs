//! What the log says of users: who was enrolled, every try of a PIN before it is compared, sessions, confirmations. Of a PIN
//! nothing stands here but that it was right or not.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum UserEvent {
    /// An operator let them enrol; what was enrolled before is worth nothing any more, and all tries are given back.
    Invited {
        /// Who.
        user: String,
        /// SHA-256 of the code that they enrol with.
        code: String,
        /// Until when, milliseconds since the epoch.
        expires_ms: i64,
        /// The operator.
        uid: u32,
        /// Why.
        reason: String,
    },
    /// A record was put in place of another.
    Enrolled {
        /// Who.
        user: String,
        /// SHA-256 of the record.
        verifier: String,
        /// `enrolled`, `changed` or `upgraded`.
        how: String,
    },
    /// A PIN is about to be compared: this stands on disk before it is.
    Try {
        /// Who; `uid N` when nobody is.
        user: String,
        /// For what.
        what: String,
    },
    /// It was right: tries begin anew.
    Proved {
        /// Who.
        user: String,
        /// For what.
        what: String,
    },
    /// They can do nothing until an operator has looked.
    Suspended {
        /// Who.
        user: String,
        /// Why.
        why: String,
    },
    /// The PIN of somebody who is being forced was typed. Their keys are stopped.
    Duress {
        /// Who.
        user: String,
    },
    /// They are here, for one connection of one process.
    Opened {
        /// Who.
        user: String,
        /// App.
        app: String,
        /// Process, user, executable.
        caller: String,
    },
    /// They are gone.
    Closed {
        /// Who.
        user: String,
        /// App.
        app: String,
        /// Why.
        why: String,
    },
    /// A payment waits for them.
    Asked {
        /// Request id.
        request: String,
        /// Who.
        user: String,
        /// The step that it takes.
        step: String,
        /// What they are shown.
        text: String,
    },
    /// They confirmed it.
    Confirmed {
        /// Request id.
        request: String,
        /// Who.
        user: String,
        /// The step that was taken.
        step: String,
        /// SHA-256 of what will be signed.
        digest: String,
        /// What the authenticator made: SSHSIG, or the lines of an assertion.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proof: Option<String>,
        /// Names its key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        authenticator: Option<String>,
    },
    /// Somebody whom the duties bind acknowledged them.
    Acknowledged {
        /// Whom it is for: `user anna (uid 1000)`, `app pay (uid 998)`.
        who: String,
        /// Who said so, as the kernel reported it.
        uid: u32,
        /// SHA-256 of the text that they read.
        duties: String,
        /// SHA-256 of the policy in force then.
        policy: String,
    },
    /// They refused it.
    Refused {
        /// Request id.
        request: String,
        /// Who.
        user: String,
    },
}
