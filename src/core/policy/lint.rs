//! What a policy says and hardly means: permits that a forbid takes back, rules that stand twice or add nothing, names that
//! nobody uses. Looked for by `policy check`, not when a policy comes into force.
#![forbid(unsafe_code)]

use super::cover::{In, is_dead, permits_within, scope_within};
use super::finding::{Finding, Weight};
use super::rule::{Kind, Policy, Rule, Set};
use crate::core::units::Name;

impl Policy {
    /// All doubts and notes, by line.
    #[must_use]
    pub fn lint(&self) -> Vec<Finding> {
        let mut found = self.doubts.clone();
        let mut say = |weight, rule: &Rule, why: String, advice: &str| {
            found.push(Finding {
                line: self.line_of(&rule.id),
                weight,
                place: format!("rule {}", rule.id),
                why,
                advice: advice.to_owned(),
            });
        };
        for (at, rule) in self.rules.iter().enumerate() {
            let all = In { rule, policy: self };
            let twin = self.rules.iter().take(at).find(|other| same_but_id(rule, other));
            if let Some(twin) = twin {
                let why = format!("it says the same as rule {} in line {}", twin.id, self.line_of(&twin.id));
                say(Weight::Doubt, rule, why, "keep one of them");
                continue;
            }
            if rule.kind == Kind::Forbid {
                continue;
            }
            if let Some(forbid) = self.killer(all) {
                // A forbid of everything stops on purpose; any other was hardly meant to.
                let weight = if everything(forbid) { Weight::Note } else { Weight::Doubt };
                let why = format!(
                    "it never permits anything: the forbid {} in line {} covers all of it",
                    forbid.id,
                    self.line_of(&forbid.id)
                );
                say(weight, rule, why, "narrow the forbid, or drop the permit");
                continue;
            }
            let wider = self.rules.iter().find(|other| {
                other.id != rule.id
                    && other.kind == Kind::Permit
                    && permits_within(all, In { rule: other, policy: self })
                    && !is_dead(In { rule: other, policy: self })
            });
            if let Some(wider) = wider {
                let why = format!(
                    "rule {} in line {} permits all of it already",
                    wider.id,
                    self.line_of(&wider.id)
                );
                say(Weight::Note, rule, why, "drop it, or narrow the other");
            }
        }
        if self.rules.iter().all(|r| r.kind == Kind::Forbid) {
            found.push(Finding {
                line: 1,
                weight: Weight::Note,
                place: String::new(),
                why: "there is no permit, so everything is refused".into(),
                advice: "write a permit for what shall be possible".into(),
            });
        }
        found.sort();
        found
    }

    /// A forbid without limits that covers all of the permit.
    fn killer(&self, permit: In<'_>) -> Option<&Rule> {
        self.rules.iter().find(|f| {
            f.kind == Kind::Forbid && !f.is_limited() && scope_within(permit, In { rule: f, policy: self })
        })
    }

    /// Keys and apps that rules name.
    #[must_use]
    pub fn named(&self) -> (Vec<&Name>, Vec<&Name>) {
        let of = |pick: fn(&Rule) -> &Set<Name>| {
            let mut names: Vec<&Name> = self
                .rules
                .iter()
                .filter_map(|r| if let Set::Only(only) = pick(r) { Some(only) } else { None })
                .flatten()
                .collect();
            names.sort();
            names.dedup();
            names
        };
        (of(|r| &r.keys), of(|r| &r.apps))
    }
}

fn everything(forbid: &Rule) -> bool {
    !forbid.is_about_payments()
        && forbid.hours.is_none()
        && matches!((&forbid.keys, &forbid.apps), (Set::Any, Set::Any))
        && forbid.acts.len() == super::rule::Act::NAMED.len()
}

fn same_but_id(a: &Rule, b: &Rule) -> bool {
    a.kind == b.kind && a.keys == b.keys && Rule { id: b.id.clone(), ..a.clone() } == *b
}
