//! Why the store did not do it.
#![forbid(unsafe_code)]

/// Why the store did not do it. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The queue in front of the writer is full.
    #[error("the writer's queue is full")]
    Busy,
    /// The disk or the database said no.
    #[error("it could not be written down: {0}")]
    Failed(String),
    /// The state directory cannot be used.
    #[error("{0}")]
    Open(String),
    /// What is stored was changed behind the daemon's back, or is damaged.
    #[error("{0}")]
    Tampered(String),
    /// Whether the state directory is as it was left is not known yet, or it is not.
    #[error("{0}")]
    Frozen(String),
    /// The clock went back by more than is tolerated, milliseconds.
    #[error("the clock went back by {0} ms")]
    ClockStepped(i64),
    /// A key's name or public half is registered already.
    #[error("{0}")]
    KeyExists(String),
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::{Error as E, ErrorCode as C};
        let damaged = match &error {
            E::SqliteFailure(e, _) => matches!(e.code, C::DatabaseCorrupt | C::NotADatabase),
            E::FromSqlConversionFailure(..)
            | E::IntegralValueOutOfRange(..)
            | E::InvalidColumnType(..)
            | E::Utf8Error(..) => true,
            _ => false,
        };
        if damaged {
            return Self::Tampered(format!(
                "the database cannot be read ({error}): it was changed behind the daemon's back, or is damaged; restore it from a copy"
            ));
        }
        Self::Failed(error.to_string())
    }
}
