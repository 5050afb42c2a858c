//! The ratchet: what stands against a device, by all orders that it has heard. [clause 8.2.1]
//!
//! The level of a scope is the highest that any order of it asked for since it was last reactivated. In which order they
//! come, how often, and which of them are lost on the way changes no level that an order which did arrive asks for.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Level, Order, Reactivation, Scope};

/// A number or an epoch that is ahead by more than this is not followed: counters must not be used up by one order.
pub const FARTHEST: u64 = 1 << 20;
/// Most orders of one epoch that are kept.
pub const MOST: usize = 1000;

/// What stands against a scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// How far it is stopped.
    pub level: Level,
    /// SHA-256 of the last order of that level, hex: what a reactivation must name.
    pub order: String,
}

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A level rose.
    Raised,
    /// It asks for no more than there was.
    Noted,
    /// It was heard before, to the byte.
    Again,
    /// Another order has its number: somebody signs two stories, so everything stops.
    Equivocal,
}

impl Heard {
    /// The word in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Noted => "noted",
            Self::Again => "again",
            Self::Equivocal => "equivocal",
        }
    }
}

/// What an order changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// In a word.
    pub heard: Heard,
    /// It names an order before it that never arrived.
    pub gap: bool,
    /// Its number was too far ahead to be followed; it was honoured all the same.
    pub far: bool,
    /// The level of its scope from now on.
    pub level: Level,
}

/// Why an order or a reactivation was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHeard {
    /// Of another epoch.
    #[error("it is for epoch {0}, and this is epoch {1}")]
    Epoch(u32, u32),
    /// Too far ahead, and it would stop nothing more.
    #[error("number {0} is too far ahead of {1}, and it would stop nothing that is not stopped")]
    Number(u64, u64),
    /// Too many.
    #[error("{MOST} orders of this epoch were heard, and this one would stop nothing that is not stopped")]
    Full,
    /// Nothing is held there.
    #[error("nothing stands against {0}")]
    Nothing(Scope),
    /// Terminal.
    #[error("the keys were wiped; there is nothing to go on with")]
    Wiped,
    /// Another order is to be lifted.
    #[error("what stands against {0} is order {1}, and not what this names")]
    Lifts(Scope, String),
    /// No such challenge is open.
    #[error(
        "this challenge is not the one that this device waits for: it was used, or another was made since"
    )]
    Challenge,
}

/// All that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    epoch: u32,
    highest: u64,
    held: BTreeMap<Scope, Held>,
    /// The orders of this epoch by their numbers.
    heard: BTreeMap<u64, BTreeSet<String>>,
    /// The text that people are to sign.
    challenge: Option<String>,
    /// What was wiped, so far as it could be reached.
    wiped: BTreeSet<Scope>,
    /// The latch outside the disk: its place, and what it shows at least.
    latch: Option<(String, u64)>,
    /// The incident that is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    incident: Option<String>,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            epoch: 1,
            highest: 0,
            held: BTreeMap::new(),
            heard: BTreeMap::new(),
            challenge: None,
            wiped: BTreeSet::new(),
            latch: None,
            incident: None,
        }
    }
}

impl Standing {
    /// The epoch that orders must name.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The highest number that was heard; the next order has one more.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// What stands, by scope.
    #[must_use]
    pub fn held(&self) -> &BTreeMap<Scope, Held> {
        &self.held
    }

    /// The level of a scope by itself.
    #[must_use]
    pub fn level(&self, scope: &Scope) -> Option<Level> {
        self.held.get(scope).map(|h| h.level)
    }

    /// The orders with the highest number that was heard.
    #[must_use]
    pub fn last(&self) -> Option<&str> {
        self.heard.get(&self.highest)?.first().map(String::as_str)
    }

    /// All orders of this epoch that were heard, by number.
    pub fn known(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.heard.values().flatten().map(String::as_str)
    }

    /// Whether an order of this hash was heard in this epoch.
    #[must_use]
    pub fn knows(&self, hash: &str) -> bool {
        self.known().any(|heard| heard == hash)
    }

    /// The text that people are to sign, where one was asked for.
    #[must_use]
    pub fn challenge(&self) -> Option<&str> {
        self.challenge.as_deref()
    }

    /// Scopes that are to be wiped and were not yet.
    #[must_use]
    pub fn to_wipe(&self) -> Vec<Scope> {
        let left = |(scope, held): &(&Scope, &Held)| held.level == Level::Wipe && !self.wiped.contains(scope);
        self.held.iter().filter(left).map(|(scope, _)| scope.clone()).collect()
    }

    /// The latch, and what it shows at least.
    #[must_use]
    pub fn latch(&self) -> Option<(&str, u64)> {
        self.latch.as_ref().map(|(place, value)| (place.as_str(), *value))
    }

    fn hold(&mut self, scope: &Scope, level: Level, order: &str) -> bool {
        let before = self.level(scope);
        // [clause 8.2.1-b] the level only rises here; nothing that was heard before or comes later takes it down
        if before <= Some(level) {
            self.held.insert(scope.clone(), Held { level, order: order.to_owned() });
        }
        before < Some(level)
    }

    /// Hears an order that was judged.
    pub fn hear(&mut self, order: &Order) -> Result<Effect, NotHeard> {
        let (hash, number) = (order.hash(), order.number);
        // A later epoch is the people's: what is here is then older than what they know, and stopping is safe.
        let ahead = u64::from(order.epoch.saturating_sub(self.epoch));
        if order.epoch < self.epoch || ahead > FARTHEST {
            return Err(NotHeard::Epoch(order.epoch, self.epoch));
        }
        let level = |standing: &Self| standing.level(&order.scope).unwrap_or(order.level);
        if ahead == 0 && self.heard.get(&number).is_some_and(|all| all.contains(&hash)) {
            let level = level(self);
            return Ok(Effect { heard: Heard::Again, gap: false, far: false, level });
        }
        let raises = self.level(&order.scope) < Some(order.level);
        let highest = if ahead == 0 { self.highest } else { 0 };
        let far = number.saturating_sub(highest) > FARTHEST;
        if far && !raises {
            return Err(NotHeard::Number(number, highest));
        }
        let count: usize = self.heard.values().map(BTreeSet::len).sum();
        if ahead == 0 && count >= MOST && !(raises && order.scope == Scope::All) {
            return Err(NotHeard::Full);
        }
        if ahead > 0 {
            self.begin(order.epoch);
        }
        let gap = order.previous.as_ref().is_some_and(|p| !self.knows(p));
        let there = self.heard.entry(number).or_default();
        let equivocal = !there.is_empty();
        there.insert(hash.clone());
        if !far {
            self.highest = self.highest.max(number);
        }
        let raised = self.hold(&order.scope, order.level, &hash);
        if equivocal {
            self.hold(&Scope::All, Level::Suspend, &hash);
        }
        let heard = match (equivocal, raised) {
            (true, _) => Heard::Equivocal,
            (false, true) => Heard::Raised,
            (false, false) => Heard::Noted,
        };
        Ok(Effect { heard, gap, far, level: level(self) })
    }

    fn begin(&mut self, epoch: u32) {
        (self.epoch, self.highest, self.challenge) = (epoch, 0, None);
        self.heard.clear();
    }

    /// A challenge was made; it takes the place of one before it.
    pub fn ask(&mut self, text: String) {
        self.challenge = Some(text);
    }

    /// Whether this may be lifted: the very text that this device waits for, for what stands now.
    // [clause 8.2.1-b] fresh, of this device, and for the order that stands
    pub fn may_lift(&self, asked: &Reactivation) -> Result<(), NotHeard> {
        if asked.epoch != self.epoch {
            return Err(NotHeard::Epoch(asked.epoch, self.epoch));
        }
        let Some(held) = self.held.get(&asked.scope) else {
            return Err(NotHeard::Nothing(asked.scope.clone()));
        };
        if held.level == Level::Wipe {
            return Err(NotHeard::Wiped);
        }
        if held.order != asked.lifts || held.level != asked.level {
            return Err(NotHeard::Lifts(asked.scope.clone(), held.order.clone()));
        }
        if self.challenge.as_deref() != Some(asked.render().as_str()) {
            return Err(NotHeard::Challenge);
        }
        Ok(())
    }

    /// Lifts what people agreed on. All orders of the epoch that ends are void.
    pub fn lift(&mut self, asked: &Reactivation) -> Result<(), NotHeard> {
        self.may_lift(asked)?;
        let next = self.epoch.checked_add(1).ok_or(NotHeard::Epoch(asked.epoch, self.epoch))?;
        self.held.remove(&asked.scope);
        if asked.scope == Scope::All {
            self.incident = None;
        }
        self.begin(next);
        Ok(())
    }

    /// The latch shows this at least.
    pub fn latched(&mut self, place: &str, value: u64) {
        self.latch = Some((place.to_owned(), value));
    }

    /// The latch shows more than was ever written down here: this state is an old copy.
    // [clause 8.2.1-c] an older copy of the disk lowers nothing
    pub fn found_older(&mut self, place: &str, value: u64, finding: &str) {
        self.latched(place, value);
        self.hold(&Scope::All, Level::Inactivate, finding);
    }

    /// An operator stops everything; what stands already stays.
    // [clause 8.4.4-a] one person stops; starting again is for those who start again after an order
    pub fn freeze(&mut self, incident: &str) {
        self.hold(&Scope::All, Level::Suspend, incident);
        self.incident = Some(incident.to_owned());
    }

    /// An incident is over; what an order asked for meanwhile stays.
    pub fn thaw(&mut self, incident: &str) {
        if self.incident.as_deref() == Some(incident) {
            self.incident = None;
        }
        let is_this = |held: &Held| held.order == incident && held.level == Level::Suspend;
        if self.held.get(&Scope::All).is_some_and(is_this) {
            self.held.remove(&Scope::All);
        }
    }

    /// The incident that is open, by its hash.
    #[must_use]
    pub fn incident(&self) -> Option<&str> {
        self.incident.as_deref()
    }

    /// A wipe is done, so far as the token could be reached.
    pub fn wiped(&mut self, scope: &Scope) {
        self.wiped.insert(scope.clone());
    }

    /// All of it in one line, as it is kept beside the log.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
#[path = "standing_tests.rs"]
mod tests;
