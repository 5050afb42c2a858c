//! What can come of a request beside its answer.
#![forbid(unsafe_code)]

use std::fmt;

use serde_json::Value;

use crate::core::proof::RequestId;
use crate::refusal::{Code, Retry};

/// Why there is no answer.
///
/// After [`Error::Unknown`] it is open whether the daemon did what was asked. After a refusal nothing was given out; where
/// it is `token_timeout`, the amount stays reserved and the same payment asked again settles it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The daemon refused, and says why.
    #[error("{0}")]
    Refused(Box<Refused>),
    /// The request was on its way and no answer came: it may have been carried out. Ask again with the very same
    /// request. The same payment gives the same signature and is counted once.
    #[error("{method}: the outcome is unknown ({why}); ask again with the very same request")]
    Unknown {
        /// What was asked.
        method: &'static str,
        /// What happened to the connection.
        why: String,
    },
    /// Nothing was sent, because the connection has ended: connect again, then ask again.
    #[error("nothing was sent, the connection has ended ({0}); connect again")]
    Disconnected(String),
    /// The daemon cannot be reached.
    #[error("the daemon does not answer on {place}: {why}; is clavigerd running?")]
    Unreachable {
        /// The socket, or the helper.
        place: String,
        /// What the system says.
        why: std::io::Error,
    },
    /// Somebody else than the daemon's user opened the socket.
    #[error("{place} belongs to user {found}, not to {expected}: nothing was sent to it")]
    Stranger {
        /// The socket.
        place: String,
        /// Who listens there.
        found: u32,
        /// Who should.
        expected: String,
    },
    /// What was to be asked is no request: nothing was sent.
    #[error("this cannot be asked: {0}")]
    Invalid(String),
    /// The answer is not what was asked for. A signature that came with it was not given out.
    #[error("{method}: the answer is not what was asked for: {why}")]
    Mismatch {
        /// What was asked.
        method: &'static str,
        /// What is wrong with the answer.
        why: String,
    },
}

impl Error {
    /// The refusal, if it is one.
    #[must_use]
    pub fn refused(&self) -> Option<&Refused> {
        match self {
            Self::Refused(refused) => Some(refused),
            _ => None,
        }
    }

    /// Whether the same request should be sent again, as it was: its outcome is unknown, or asking later can help.
    #[must_use]
    pub fn ask_again(&self) -> bool {
        match self {
            Self::Unknown { .. } | Self::Disconnected(_) | Self::Unreachable { .. } => true,
            Self::Refused(refused) => refused.retry == Retry::Later,
            Self::Stranger { .. } | Self::Invalid(_) | Self::Mismatch { .. } => false,
        }
    }
}

/// A refusal of the daemon.
///
/// Decide by [`Refused::code`], which is never renamed; show [`Refused::message`] and [`Refused::advice`] to people.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    code: String,
    number: i64,
    message: String,
    advice: String,
    retry: Retry,
    clause: String,
    rule: Option<String>,
    data: Value,
}

impl Refused {
    /// Reads the member `error` of a reply; `None` when it is none of the daemon's.
    #[must_use]
    pub fn read(error: &Value) -> Option<Self> {
        let data = error.get("data").cloned().unwrap_or_default();
        let text = |name| data.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            number: error.get("code")?.as_i64()?,
            message: error.get("message")?.as_str()?.to_owned(),
            code: text("code")?,
            advice: text("advice").unwrap_or_default(),
            retry: match data.get("retry").and_then(Value::as_str) {
                Some("later") => Retry::Later,
                Some("operator") => Retry::Operator,
                _ => Retry::Never,
            },
            clause: text("clause").unwrap_or_default(),
            rule: text("rule"),
            data,
        })
    }

    /// The stable code, such as `over_limit` (docs/errors.md).
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The same as a value of this version's list; `None` for a code of a newer daemon.
    #[must_use]
    pub fn known(&self) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.as_str() == self.code)
    }

    /// The number of JSON-RPC.
    #[must_use]
    pub fn number(&self) -> i64 {
        self.number
    }

    /// The sentence for this very case. It may change.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What a person can do.
    #[must_use]
    pub fn advice(&self) -> &str {
        &self.advice
    }

    /// Whether asking again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// The derived requirement of X.1405 behind it.
    #[must_use]
    pub fn clause(&self) -> &str {
        &self.clause
    }

    /// The rule of the policy that decided, where one did.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        self.rule.as_deref()
    }

    /// Further facts: limits, figures, ids.
    #[must_use]
    pub fn facts(&self) -> &Value {
        self.data.get("facts").unwrap_or(&Value::Null)
    }

    /// The request that waits: for people (`approval_needed`) or for its user (`step_up_needed`). Wait for it with
    /// `wait_payment`, or ask again with the same payment.
    #[must_use]
    pub fn waiting(&self) -> Option<RequestId> {
        if !matches!(self.known(), Some(Code::ApprovalNeeded | Code::StepUpNeeded)) {
            return None;
        }
        self.facts().get("request").and_then(Value::as_str).and_then(RequestId::parse)
    }

    /// The member `data` of the error, as it came.
    #[must_use]
    pub fn data(&self) -> &Value {
        &self.data
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        if !self.advice.is_empty() {
            write!(f, " (advice: {})", self.advice)?;
        }
        Ok(())
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::Refused(Box::new(refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Refusal;
    use crate::wire::rpc::{Dialect, error};
    use serde_json::json;

    #[test]
    fn every_refusal_of_the_daemon_is_read_back_whole() {
        for code in Code::ALL {
            let refusal = Refusal::new(*code, "why").by_rule("r").with(json!({"n": 1}));
            let reply = error(&json!(1), &refusal, Dialect::Native);
            let read = Refused::read(&reply["error"]).unwrap();
            assert_eq!(
                (read.known(), read.number(), read.advice(), read.retry(), read.clause()),
                (Some(*code), code.rpc(), code.advice(), code.retry(), code.clause())
            );
            assert_eq!((read.message(), read.rule(), read.facts()), ("why", Some("r"), &json!({"n": 1})));
        }
    }

    #[test]
    fn codes_of_a_newer_daemon_are_kept_and_promise_nothing() {
        let read = Refused::read(&json!({"code": -1, "message": "m", "data": {"code": "new", "retry": "x"}}));
        let read = read.unwrap();
        assert_eq!((read.code(), read.known(), read.retry()), ("new", None, Retry::Never));
        assert!(Refused::read(&json!({"code": -1, "message": "of somebody else"})).is_none());
    }

    #[test]
    fn what_waits_is_named() {
        let id = RequestId(7);
        let facts = json!({"request": id.to_string()});
        for (code, waiting) in [(Code::ApprovalNeeded, Some(id)), (Code::OverLimit, None)] {
            let refusal = Refusal::new(code, "x").with(facts.clone());
            let reply = error(&json!(1), &refusal, Dialect::Native);
            assert_eq!(Refused::read(&reply["error"]).unwrap().waiting(), waiting);
        }
    }
}
