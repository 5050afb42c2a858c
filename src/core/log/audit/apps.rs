//! Registered apps: the file, the manifests over it, and what each app may ask for.
#![forbid(unsafe_code)]

use super::super::super::app::manifest::Court;
use super::super::super::app::memory::Memory;
use super::super::super::app::{App, Apps};
use super::super::super::approval::Authority;
use super::super::super::key::Purpose;
use super::super::super::units::Name;
use super::spend::Intent;
use super::texts::{InForce, Texts};
use super::{Findings, Place, Rule};

/// Who may ask.
#[derive(Default)]
pub(super) struct Registry {
    in_force: InForce<Apps>,
    /// What was remembered last; over a start too.
    memory: Memory,
}

impl Registry {
    pub(super) fn announce(
        &mut self,
        place: Place,
        (hash, remembered): (&str, Option<&str>),
        authority: Option<&Authority>,
        texts: &mut Texts,
        found: &mut Findings,
    ) {
        let name = format!("{hash} {}", remembered.unwrap_or_default());
        let memory = &mut self.memory;
        self.in_force.announce(place, &name, || {
            let file = Apps::parse(texts.find(place, "list of apps", hash, found)?).ok()?;
            // A log of before there were manifests.
            let Some(remembered) = remembered else { return Some(file) };
            let text = texts.find(place, "list of registrations", remembered, found)?;
            let Some(new) = Memory::parse(text) else {
                let what = format!("this program cannot read the registrations {remembered}");
                found.unproven(Rule::App, place.index, what);
                return None;
            };
            // [clause 8.2.4-m] who signed is judged again, once, under the people of that moment
            for what in new.audited(&file, Court { authority, now: None }, memory) {
                found.breach(Rule::App, place.index, what);
            }
            let apps = new.in_force(&file, false).ok();
            if apps.is_none() {
                let what = format!("the registrations {remembered} make no list of apps");
                found.breach(Rule::App, place.index, what);
            }
            *memory = new;
            apps
        });
    }

    /// A start: what was in force is announced anew.
    pub(super) fn forget(&mut self) {
        self.in_force.forget();
    }

    /// Those of this name in the list that was announced last.
    pub(super) fn named<'a>(&'a self, app: &'a str) -> impl Iterator<Item = &'a App> {
        self.in_force.latest().into_iter().flat_map(Apps::all).filter(move |a| a.id.as_str() == app)
    }

    // [clause 8.2.4-a] who asked stands in the list of that moment
    pub(super) fn asked(
        &self,
        place: Place,
        intent: &Intent,
        purpose: Option<Purpose>,
        found: &mut Findings,
    ) {
        let is_it = |a: &App| a.id.as_str() == intent.app;
        let serves = |a: &App| is_it(a) && !a.revoked && intent.tier >= a.least();
        let line = Name::parse(&intent.key).map(|key| key.line());
        let scoped = |a: &App| match (&line, purpose) {
            (Some(line), Some(purpose)) => a.scope.permits(&a.id, line, purpose).is_ok(),
            _ => true,
        };
        let any =
            |test: &dyn Fn(&App) -> bool| self.in_force.holds(place, |apps| apps.all().iter().any(test));
        let what = if !any(&is_it) {
            "was no registered app".to_owned()
        } else if !any(&serves) {
            format!("was revoked, or {:?} was less than its tier", intent.tier)
        } else if !any(&|a| serves(a) && scoped(a)) {
            format!("was not registered for key {}", intent.key)
        } else {
            return;
        };
        found.breach(Rule::App, place.index, format!("{} {what}", intent.app));
    }
}
