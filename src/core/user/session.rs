//! When a user who was here is taken to be gone.
#![forbid(unsafe_code)]

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing was asked for too long.
    Idle,
    /// It was long enough, whatever was asked.
    Hard,
    /// Its user, or an operator, locked it.
    Locked,
    /// The app left.
    Left,
    /// The app is not the one that connected any more.
    AppChanged,
    /// Policy, apps, users or authority changed.
    Rules,
    /// The user was suspended, reset or removed.
    User,
    /// Nothing is signed any more: an order, or a token that is locked.
    Inactivated,
}

impl Ended {
    /// In the log and in sentences.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Hard => "hard-limit",
            Self::Locked => "locked",
            Self::Left => "left",
            Self::AppChanged => "app-changed",
            Self::Rules => "rules-changed",
            Self::User => "user-stopped",
            Self::Inactivated => "inactivated",
        }
    }
}

/// Whether a session is over by the clock alone. All in milliseconds of a clock that goes on while the machine sleeps
/// and is never set. One that went back has been tampered with, or the machine was started again: over.
// [clause 8.2.3-f] whoever went away is not here, and nobody is here for ever
#[must_use]
pub fn over(opened: u64, used: u64, now: u64, idle: u64, hard: u64) -> Option<Ended> {
    match (now.checked_sub(opened), now.checked_sub(used)) {
        (Some(age), _) if age >= hard => Some(Ended::Hard),
        (Some(_), Some(rest)) if rest < idle => None,
        _ => Some(Ended::Idle),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.2.3-f] test
    #[test]
    fn a_session_ends_when_nothing_is_asked_and_at_its_hard_limit() {
        let at = |used, now| over(1000, used, now, 600, 5000);
        assert_eq!(at(1000, 1000), None);
        assert_eq!(at(1000, 1599), None);
        assert_eq!(at(1000, 1600), Some(Ended::Idle));
        assert_eq!(at(5800, 5999), None);
        assert_eq!(at(5999, 6000), Some(Ended::Hard), "use does not carry it past its end");
        assert_eq!(at(1000, 999), Some(Ended::Idle), "a clock that went back");
    }
}
