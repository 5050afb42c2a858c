//! Changes that several people had to agree on: every voice is verified again, and counted when a change was made.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::approval::sshsig::verify;
use super::super::super::approval::{Authority, Matter, REJECT};
use super::texts::{InForce, Stood};
use super::{Findings, Place, Rule};

struct Asked {
    matter: Option<Matter>,
    text: String,
    yes: BTreeSet<String>,
    no: bool,
    delay: Delay,
}

/// How far the delay of a change is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Delay {
    /// Not enough have agreed.
    #[default]
    Before,
    /// They have; the count that stands next is its beginning.
    Begins,
    /// It runs from this count on.
    From(i64),
}

impl Asked {
    /// How long it waits, milliseconds.
    fn waits(&self) -> i64 {
        let seconds = self.field("then waits").and_then(|w| w.strip_suffix(" s")?.parse::<i64>().ok());
        seconds.unwrap_or(0).saturating_mul(1000)
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
    }

    /// How many of whom its text asks for.
    fn quorum(&self) -> Option<(usize, &str)> {
        let (quorum, of) = self.field("needs")?.split_once(" of ")?;
        Some((quorum.parse().ok()?, of))
    }
}

/// Changes that wait.
#[derive(Default)]
pub(super) struct Changes(BTreeMap<String, Asked>);

impl Changes {
    pub(super) fn asked(
        &mut self,
        place: Place,
        change: String,
        matter: &str,
        text: String,
        found: &mut Findings,
    ) {
        let mut wrong = |what: String| found.breach(Rule::Governance, place.index, what);
        let known = Matter::ALL.into_iter().find(|m| m.as_str() == matter);
        let asked = Asked { matter: known, text, yes: BTreeSet::new(), no: false, delay: Delay::Before };
        if known.is_none() || asked.field("matter") != Some(matter) || asked.field("change") != Some(&change)
        {
            wrong(format!("the text of change {change} is of another change or matter"));
        }
        if self.0.insert(change.clone(), asked).is_some() {
            wrong(format!("change {change} was asked for before"));
        }
    }

    pub(super) fn is_one(&self, change: &str) -> bool {
        self.0.contains_key(change)
    }

    // [clause 8.8-b] no voice is believed because it was counted
    pub(super) fn voice(
        &mut self,
        place: Place,
        change: &str,
        (person, yes, signature): (&str, bool, &str),
        authorities: &mut InForce<Authority>,
        found: &mut Findings,
    ) {
        let mut wrong = |what: String| found.breach(Rule::Governance, place.index, what);
        let Some(asked) = self.0.get_mut(change) else { return };
        let namespace = match asked.matter.filter(|_| yes) {
            Some(matter) => matter.namespace(),
            None => REJECT,
        };
        let Ok(signature) = verify(signature, namespace, asked.text.as_bytes()) else {
            return wrong(format!("the voice of {person} about change {change} does not verify"));
        };
        let hash =
            asked.field("authority").and_then(|h| h.strip_prefix("sha256:")).unwrap_or_default().to_owned();
        match authorities.at(place, &hash) {
            Stood::Not => wrong(format!("change {change} was not before the people in force")),
            // Who comes with a new document speaks for that one alone.
            Stood::Known(authority) => match authority.person_of(&signature.key) {
                Some(of) if of.id != person => wrong(format!("the voice of {person} is that of {}", of.id)),
                None if asked.matter != Some(Matter::Authority) => {
                    wrong(format!("the voice of {person} about change {change} is a stranger's"));
                }
                Some(of) => {
                    let counts = asked.quorum().is_some_and(|(_, group)| of.groups.contains(group));
                    if yes && counts {
                        asked.yes.insert(person.to_owned());
                    }
                }
                None => {}
            },
            Stood::Unread => {
                asked.yes.insert(person.to_owned());
            }
        }
        asked.no |= !yes;
        let enough = asked.quorum().is_some_and(|(quorum, _)| asked.yes.len() >= quorum);
        if asked.delay == Delay::Before && enough {
            asked.delay = Delay::Begins;
        }
    }

    /// The log counts so much.
    pub(super) fn counted(&mut self, counted_ms: i64) {
        for asked in self.0.values_mut().filter(|a| a.delay == Delay::Begins) {
            asked.delay = Delay::From(counted_ms);
        }
    }

    /// `counted` is what the log counts by then; nothing, where it counts no time yet.
    pub(super) fn ended(
        &mut self,
        place: Place,
        change: &str,
        how: &str,
        counted: Option<i64>,
        found: &mut Findings,
    ) {
        let mut wrong = |what: String| found.breach(Rule::Governance, place.index, what);
        let Some(asked) = self.0.remove(change) else {
            return wrong(format!("change {change} ended, and nobody had asked for it"));
        };
        if how != "made" {
            return;
        }
        let enough = asked.quorum().is_some_and(|(quorum, _)| quorum > 0 && asked.yes.len() >= quorum);
        if !enough || asked.no {
            wrong(format!("change {change} was made, and those whom it asks for had not agreed"));
        }
        // [clause 8.8-c] by what the log counts, and not by the dates of its entries
        let waited = match (counted, asked.delay) {
            (None, _) => i64::MAX,
            (Some(counted), Delay::From(from)) => counted.saturating_sub(from),
            (Some(_), _) => 0,
        };
        if enough && waited < asked.waits() {
            let what = format!("change {change} was made after {waited} of {} ms", asked.waits());
            found.breach(Rule::Delay, place.index, what);
        }
    }
}
