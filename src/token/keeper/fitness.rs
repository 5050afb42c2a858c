//! Whether payment keys may live in the token: tried once at every start, and whenever an operator asks.
#![forbid(unsafe_code)]

use super::{Inner, Keeper, KeeperState, Shared};
use crate::token::audit::Strange;
use crate::token::check::{self, CheckRow};
use crate::token::profile::Profile;
use crate::token::{Description, Token, TokenError};

/// What the trial came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fitness {
    /// Not tried yet.
    #[default]
    Untried,
    /// It enforces what payment keys need.
    Fit,
    /// It does not, or its profile refuses them.
    Unfit(String),
}

/// What the keeper noticed, for the log.
#[derive(Clone, Debug)]
pub enum Event {
    /// The token was tried.
    Tried {
        /// Which.
        token: Description,
        /// Why payment keys are refused, when they are.
        unfit: Option<String>,
        /// Proof by proof.
        rows: Vec<CheckRow>,
    },
    /// The token's availability changed.
    Changed(KeeperState),
    /// The token's own log holds something that is not our doing.
    Strange(Strange),
}

/// Events that wait for the log; older ones are more worth keeping than newer ones of a token that flaps.
const MOST_EVENTS: usize = 64;

impl Shared {
    pub(super) fn note(&self, inner: &mut Inner, event: Event) {
        if inner.events.len() < MOST_EVENTS {
            inner.events.push(event);
        }
        self.noticed.notify_one();
    }

    /// Tries the token. `Err` is no verdict: it went away meanwhile.
    pub(super) fn try_out(&self, session: &mut dyn Token) -> Result<Vec<CheckRow>, TokenError> {
        let known = self.inner().strange.clone();
        let rows = session.check()?;
        let token = session.describe()?;
        let unfit = check::judge(&self.profile, &rows).err();
        if let Some(why) = &unfit {
            tracing::error!("payment keys are refused: {why}");
        }
        let mut inner = self.inner();
        // What was found while it was tried, nobody has looked into.
        if inner.strange == known {
            inner.strange = None;
        }
        inner.fitness = unfit.clone().map_or(Fitness::Fit, Fitness::Unfit);
        self.note(&mut inner, Event::Tried { token, unfit, rows: rows.clone() });
        Ok(rows)
    }
}

impl Shared {
    /// Looks into the log of a token that keeps one.
    // [clause 8.2.5-e] what the token did that nobody here asked for stops signing until an operator has looked
    pub(super) fn look_into_log(&self, session: &mut dyn Token) -> Result<(), TokenError> {
        let found = session.audit()?.strange;
        let Some(first) = found.first() else { return Ok(()) };
        let why = format!(
            "{}; nothing is signed until an operator has looked into it and run `claviger token check`",
            first.what
        );
        let mut inner = self.inner();
        inner.strange = Some(why);
        for strange in found {
            tracing::error!(entry = ?strange.entry, "CRITICAL: {}", strange.what);
            self.note(&mut inner, Event::Strange(strange));
        }
        Ok(())
    }
}

impl Keeper {
    /// What the last trial came to. A token that did what nobody asked for is unfit until the next one.
    #[must_use]
    pub fn fitness(&self) -> Fitness {
        let inner = self.shared.inner();
        match &inner.strange {
            Some(why) => Fitness::Unfit(why.clone()),
            None => inner.fitness.clone(),
        }
    }

    /// Whether the token did nothing that nobody asked for.
    pub fn not_strange(&self) -> Result<(), TokenError> {
        match &self.shared.inner().strange {
            Some(why) => Err(TokenError::Unfit(why.clone())),
            None => Ok(()),
        }
    }

    /// The profile in use.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.shared.profile
    }

    /// Whether payment keys may be made and used.
    // [clause 8.2.5-a] no payment key in a token that does not protect it
    pub fn fit_for_payments(&self) -> Result<(), TokenError> {
        match self.fitness() {
            Fitness::Fit => Ok(()),
            Fitness::Unfit(why) => Err(TokenError::Unfit(why)),
            Fitness::Untried => Err(TokenError::Gone("the token has not been tried yet".into())),
        }
    }

    /// What was noticed since the last time.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.shared.inner().events)
    }

    /// Waits until something was noticed.
    pub async fn noticed(&self) {
        self.shared.noticed.notified().await;
    }
}
