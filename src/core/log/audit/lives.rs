//! The life of every key, walked again edge by edge.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::super::key::{Algorithm, Operation, Purpose, State};
use super::super::super::units::Name;
use super::copies::Copies;
use super::texts::{InForce, Stood};
use super::{Findings, Place, Rule};

struct Life {
    state: State,
    purpose: Option<Purpose>,
    algorithm: Option<Algorithm>,
    serial: String,
    destroying: bool,
    /// Its lock was destroyed: no bundle of it opens.
    shredded: bool,
    /// Its last move stands at this index.
    moved: u64,
    copies: Copies,
    /// It came back where it may be in other hands.
    suspect: bool,
}

/// What a use of a key found.
#[derive(Default)]
pub(super) struct Used {
    /// It pays to listed destinations only.
    pub(super) sweeping: bool,
    /// The token that it lives in was found unfit.
    pub(super) unfit: bool,
}

#[derive(Default)]
pub(super) struct Lives {
    keys: BTreeMap<String, Life>,
    publics: HashMap<String, String>,
    /// Tokens that were tried: whether they were found fit, the last time.
    tried: HashMap<String, bool>,
    untried_told: HashSet<String>,
    pub(super) policy: InForce<()>,
}

/// What a new key's entry says.
pub(super) struct Birth {
    pub(super) key: String,
    pub(super) algorithm: String,
    pub(super) purpose: String,
    pub(super) public: String,
    pub(super) serial: String,
    pub(super) state: State,
    /// An older entry does not say the state: every key was active from the beginning.
    pub(super) said: bool,
    /// It came back from a backup: it begins stopped, and its predecessors may stand in another log.
    pub(super) restored: bool,
}

/// Generation and line of a key's name.
fn generation(name: &str) -> Option<(Name, u32)> {
    let line = Name::parse(name)?.line();
    let number = name.split_once('@').map_or(Some(1), |(_, n)| n.parse().ok())?;
    Some((line, number))
}

impl Lives {
    pub(super) fn tried(&mut self, serial: String, fit: bool) {
        self.tried.insert(serial, fit);
    }

    // [clause 8.7.1-a] a name or a key that comes back is found, whatever became of the first
    pub(super) fn born(&mut self, place: Place, birth: Birth, found: &mut Findings) {
        let mut wrong = |what: String| found.breach(Rule::KeyBirth, place.index, what);
        let key = birth.key;
        let (purpose, algorithm) = (Purpose::parse(&birth.purpose), Algorithm::parse(&birth.algorithm));
        if !purpose.zip(algorithm).is_some_and(|(p, a)| p.takes(a)) {
            wrong(format!("key {key} is a {} key of {}", birth.purpose, birth.algorithm));
        }
        let begins = if birth.restored { State::Suspended } else { State::PreActive };
        if birth.said && birth.state != begins {
            wrong(format!("key {key} begins {}", birth.state.as_str()));
        }
        if let Some(other) = self.publics.insert(birth.public, key.clone())
            && other != key
        {
            wrong(format!("key {key} is the very key that was registered as {other}"));
        }
        match generation(&key) {
            None => wrong(format!("{key:?} is no name of a key")),
            Some((line, number)) => {
                if number > 1 && !birth.restored && !self.keys.contains_key(line.as_str()) {
                    wrong(format!("key {key} has no predecessor"));
                }
            }
        }
        let state = if birth.said { birth.state } else { State::Active };
        let life = Life {
            state,
            purpose,
            algorithm,
            serial: birth.serial,
            destroying: false,
            shredded: false,
            moved: place.index,
            copies: Copies::default(),
            suspect: false,
        };
        if let Some(before) = self.keys.insert(key.clone(), life) {
            wrong(format!("key {key} was made under a name that was used before"));
            // A tombstone stays one.
            if before.state == State::Destroyed {
                self.keys.insert(key, before);
            }
        }
    }

    // [clause 8.7.1-b] the life of each key is walked again, edge by edge
    pub(super) fn moved(
        &mut self,
        place: Place,
        key: &str,
        (from, to): (State, State),
        policy: &str,
        found: &mut Findings,
    ) {
        // A tripwire acts by the payment policy.
        if policy.bytes().any(|b| b != b'0') && matches!(self.policy.at(place, policy), Stood::Not) {
            let what = format!("key {key} moved under the key policy {policy}, which was not in force");
            found.breach(Rule::KeyEdge, place.index, what);
        }
        let Some(life) = self.keys.get_mut(key) else {
            found.breach(Rule::KeyEdge, place.index, format!("key {key} moved and was never made"));
            return;
        };
        let mut wrong = |rule, what: String| found.breach(rule, place.index, what);
        let (at, purpose) = (life.state, life.purpose.unwrap_or(Purpose::Payment));
        if at == State::Destroyed {
            wrong(Rule::KeyDestroyed, format!("key {key} became {} after it was destroyed", to.as_str()));
            return;
        }
        if at != from {
            let what = format!("key {key} moved from {}, and it was {}", from.as_str(), at.as_str());
            wrong(Rule::KeyEdge, what);
        }
        if !from.leads_to(to, purpose) {
            let what = format!("key {key} moved from {} to {}, and no edge does", from.as_str(), to.as_str());
            wrong(Rule::KeyEdge, what);
        }
        if life.destroying != (to == State::Destroyed) {
            let what = if life.destroying {
                format!("key {key} became {} in its destruction", to.as_str())
            } else {
                format!("key {key} was destroyed, and nothing says that this was begun")
            };
            wrong(Rule::KeyDestroyed, what);
        }
        if to == State::Active && life.suspect {
            wrong(Rule::KeyEdge, format!("key {key} came back to sweep, and became active"));
        }
        // [clause 8.7.1-p] destroyed is what has no copy left
        if to == State::Destroyed {
            if let Some(left) = life.copies.left() {
                wrong(
                    Rule::KeyDestroyed,
                    format!("key {key} was called destroyed, and its copy was not: {left}"),
                );
            }
            if life.copies.backed && !life.shredded {
                wrong(Rule::KeyDestroyed, format!("key {key} was called destroyed, and its lock was not"));
            }
        }
        (life.state, life.destroying, life.moved) = (to, false, place.index);
    }

    /// State, whether it is being destroyed, and copies of a key.
    pub(super) fn copies_of(&mut self, key: &str) -> Option<(State, bool, &mut Copies)> {
        self.keys.get_mut(key).map(|life| (life.state, life.destroying, &mut life.copies))
    }

    /// Whether this is the public half of that key.
    pub(super) fn is_key(&self, key: &str, public: &str) -> bool {
        self.publics.get(public).is_some_and(|name| name == key)
    }

    /// Where its last move stands.
    pub(super) fn moved_at(&self, key: &str) -> Option<u64> {
        self.keys.get(key).map(|life| life.moved)
    }

    /// A bundle was made of it.
    pub(super) fn backed(&mut self, key: &str) {
        if let Some(life) = self.keys.get_mut(key) {
            life.copies.backed = true;
        }
    }

    /// What is said at the end.
    pub(super) fn end(&self, found: &mut Findings) {
        for (key, life) in &self.keys {
            if life.state == State::Destroyed && life.copies.uncertified() {
                let what = format!("key {key} was destroyed copy by copy, and nothing certifies it");
                found.breach(Rule::KeyDestroyed, life.moved, what);
            }
        }
    }

    /// The lock of a key goes while the key goes, and not before.
    pub(super) fn shredded(&mut self, place: Place, key: &str, found: &mut Findings) {
        match self.keys.get_mut(key) {
            Some(life) if life.destroying || life.state == State::Destroyed => life.shredded = true,
            _ => {
                let what = format!("the lock of key {key} was destroyed, and the key was not");
                found.breach(Rule::KeyDestroyed, place.index, what);
            }
        }
    }

    // [clause 8.7.1-s] what was destroyed with its backups does not come back, and a log that says so is wrong
    pub(super) fn restored(
        &mut self,
        place: Place,
        key: &str,
        (serial, sweep_only): (String, bool),
        found: &mut Findings,
    ) {
        let mut wrong = |rule, what: String| found.breach(rule, place.index, what);
        match self.keys.get_mut(key) {
            None => wrong(Rule::KeyBirth, format!("key {key} came back and was never made")),
            Some(life) if life.shredded || life.destroying || life.state == State::Destroyed => {
                wrong(Rule::KeyDestroyed, format!("key {key} came back after it was destroyed"));
            }
            Some(life) => {
                if life.state == State::Active {
                    wrong(Rule::KeyEdge, format!("key {key} came back and was not stopped first"));
                }
                life.serial = serial;
                life.suspect |= sweep_only;
            }
        }
    }

    // [clause 8.7.1-g] both moves stand right before the entry that links the two
    pub(super) fn rotated(&mut self, place: Place, line: &str, from: &str, to: &str, found: &mut Findings) {
        let mut wrong = |what: String| found.breach(Rule::KeyRotation, place.index, what);
        let of_line = |name: &str| generation(name).filter(|(l, _)| l.as_str() == line).map(|(_, n)| n);
        if of_line(from).zip(of_line(to)).is_none_or(|(old, new)| new <= old) {
            wrong(format!("{to} is no later generation of {from} in the line {line}"));
        }
        let (Some(old), Some(new)) = (self.keys.get(from), self.keys.get(to)) else {
            return wrong(format!("{from} or {to} was never made"));
        };
        if old.purpose != new.purpose {
            wrong(format!("{to} has another purpose than {from}"));
        }
        let together = place.index.checked_sub(2) == Some(new.moved)
            && place.index.checked_sub(1) == Some(old.moved)
            && new.state == State::Active
            && matches!(old.state, State::SweepOnly | State::Deactivated);
        if !together {
            wrong(format!("{to} did not take over as {from} ended"));
        }
    }

    /// Whether it is a payment key whose destruction begins just now.
    pub(super) fn pays(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|life| life.purpose == Some(Purpose::Payment) && !life.destroying)
    }

    // [clause 8.7.1-h] what is destroyed is not spoken of any more
    pub(super) fn destroying(&mut self, place: Place, key: &str, found: &mut Findings) {
        match self.keys.get_mut(key) {
            None => {
                found.breach(Rule::KeyDestroyed, place.index, format!("key {key} was never made"));
            }
            Some(life) if life.state == State::Destroyed || life.destroying => {
                let what = format!("the destruction of key {key} begins a second time");
                found.breach(Rule::KeyDestroyed, place.index, what);
            }
            Some(life) => life.destroying = true,
        }
    }

    pub(super) fn due(&self, place: Place, key: &str, found: &mut Findings) {
        if self.keys.get(key).is_none_or(|k| k.state == State::Destroyed) {
            let what = format!("key {key} is due, and there is no such key any more");
            found.breach(Rule::KeyDestroyed, place.index, what);
        }
    }

    /// A use of a key is reserved.
    /// What a key is for, where the log said so.
    pub(super) fn purpose(&self, key: &str) -> Option<Purpose> {
        self.keys.get(key).and_then(|life| life.purpose)
    }

    pub(super) fn used(
        &mut self,
        place: Place,
        key: &str,
        operation: Option<Operation>,
        found: &mut Findings,
    ) -> Used {
        let Some(life) = self.keys.get(key) else {
            found.breach(Rule::KeyUse, place.index, format!("key {key} was used and never made"));
            return Used::default();
        };
        let Some(operation) = operation else {
            found.breach(Rule::KeyPurpose, place.index, format!("nothing says what key {key} did"));
            return Used::default();
        };
        // [clause 8.7.2-a] purpose and algorithm are held against every use
        let fits = life.purpose.is_some_and(|p| p.may(operation))
            && life.algorithm.is_some_and(|a| a.does(operation));
        if !fits {
            found.breach(Rule::KeyPurpose, place.index, format!("key {key} is not for {operation}"));
        }
        if life.state == State::Destroyed {
            let what = format!("key {key} was used after it was destroyed");
            found.breach(Rule::KeyDestroyed, place.index, what);
        } else if !life.state.may(operation) || life.destroying {
            let state = if life.destroying { "being destroyed" } else { life.state.as_str() };
            let what = format!("key {key} was used for {operation} while it was {state}");
            found.breach(Rule::KeyUse, place.index, what);
        }
        let tried = self.tried.get(&life.serial).copied();
        let pays = life.purpose == Some(Purpose::Payment);
        if pays && tried.is_none() && self.untried_told.insert(life.serial.clone()) {
            let what = format!("key {key} was used, and its token {} was never tried", life.serial);
            found.breach(Rule::SelfTest, place.index, what);
        }
        Used { sweeping: life.state == State::SweepOnly, unfit: pays && tried == Some(false) }
    }
}
