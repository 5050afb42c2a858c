//! One entry after the other: its form, its place, and what it may follow.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::super::super::key::Origin;
use super::super::super::order::{Level, Scope, Standing, against};
use super::super::super::policy::Policy;
use super::super::super::proof::Tier;
use super::super::super::units::{Name, Timestamp};
use super::super::super::user::duties;
use super::super::copies::CopyEvent;
use super::super::entry::{Entry, EntryKind};
use super::super::mention::mentioned;
use super::super::orders::follow;
use super::apps::Registry;
use super::balance::{Balances, Known};
use super::changes::Changes;
use super::lives::{Birth, Lives};
use super::people::People;
use super::present::Present;
use super::spend::{Intent, Judged, Spend, act_of, operation};
use super::texts::{Stood, Texts};
use super::{Findings, Place, Report, Rule};

/// An intent that has no outcome for so long, while the log goes on, was left alone, milliseconds.
const LEFT_MS: i64 = 3_600_000;

/// Who the log says it is, when the key policy ends a key by itself.
const BY_POLICY: &str = "key policy";
/// And when an order wipes it.
const BY_ORDER: &str = "order";

/// A request that was reserved and has no outcome yet.
struct Open {
    place: Place,
    /// Why nothing should come of it, if something should not.
    against: Option<(Rule, String)>,
}

/// The story so far.
#[derive(Default)]
pub(super) struct Story {
    report: Report,
    last: Option<Place>,
    texts: Texts,
    lives: Lives,
    spend: Spend,
    people: People,
    present: Present,
    changes: Changes,
    balances: Balances,
    apps: Registry,
    open: BTreeMap<String, Open>,
    done: HashSet<String>,
    /// Where an operation stands that was not asked for, until an operator has looked.
    strange: Option<u64>,
    /// What stands against this device.
    standing: Standing,
}

impl Story {
    pub(super) fn new(texts: &[String]) -> Self {
        Self { texts: Texts::with(texts), ..Self::default() }
    }

    pub(super) fn entry(&mut self, index: u64, bytes: &[u8], found: &mut Findings) {
        let (entry, members) = match Entry::decode(bytes).and_then(|e| Ok((e, Entry::members(bytes)?))) {
            Ok(both) => both,
            Err(e) => return found.breach(Rule::Form, index, format!("it cannot be read: {e}")),
        };
        let place = Place { index, ms: entry.at_ms };
        self.form(place, &entry, &members, found);
        let place = Place { index, ms: self.last.map_or(place.ms, |last| last.ms.max(place.ms)) };
        self.last = Some(place);
        self.hear(place, entry.kind, &members, found);
    }

    fn form(&self, place: Place, entry: &Entry, members: &Value, found: &mut Findings) {
        let mut wrong = |what: String| found.breach(Rule::Form, place.index, what);
        if entry.seq != place.index {
            wrong(format!("it says that it is entry {}", entry.seq));
        }
        if self.last.is_some_and(|last| entry.at_ms < last.ms) {
            wrong("its time is before that of the entry before it".into());
        }
        if entry.at != Timestamp(entry.at_ms).to_string() {
            wrong(format!("its time is written as {} and as {}", entry.at, entry.at_ms));
        }
        match entry.strangers(members) {
            Ok(members) if members.is_empty() => {}
            Ok(members) => wrong(format!("it has members that no such entry has: {}", members.join(", "))),
            Err(e) => wrong(e),
        }
    }

    fn hear(&mut self, place: Place, kind: EntryKind, members: &Value, found: &mut Findings) {
        if let (EntryKind::Refusal { .. }, Some((line, to))) = (&kind, mentioned(&kind)) {
            self.spend.mention(place, line, to);
        }
        follow(&mut self.standing, &kind);
        match kind {
            EntryKind::Start { .. } => self.started(found),
            EntryKind::Document { hash, part, parts, text, .. } => {
                self.texts.part(place, hash, part, parts, &text, found);
            }
            EntryKind::Policy { hash, kept, books, .. } => {
                let people = self.people.authorities.latest();
                self.spend.announce(place, (&hash, kept.as_deref(), &books), people, &mut self.texts, found);
            }
            EntryKind::Authority { hash, .. } => self.people.announce(place, &hash, &mut self.texts, found),
            EntryKind::KeyPolicy { hash, .. } => {
                self.lives.policy.announce(place, &hash, || {
                    self.texts.find(place, "key policy", &hash, found).map(|_| ())
                });
            }
            EntryKind::Apps { hash, registrations, .. } => {
                let people = self.people.authorities.latest();
                let named = (hash.as_str(), registrations.as_deref());
                self.apps.announce(place, named, people, &mut self.texts, found);
            }
            EntryKind::Users { hash, .. } => self.present.announce(place, &hash, &mut self.texts, found),
            EntryKind::User(event) => self.present.hear(event),
            EntryKind::KeyCreated {
                key, algorithm, purpose, public, token_serial, state, origin, ..
            } => {
                let said = members.get("state").is_some();
                let restored = matches!(origin, Origin::Restored { .. });
                let birth =
                    Birth { key, algorithm, purpose, public, serial: token_serial, state, said, restored };
                self.lives.born(place, birth, found);
            }
            EntryKind::KeyMoved { key, from, to, key_policy, .. } => {
                self.lives.moved(place, &key, (from, to), &key_policy, found);
            }
            EntryKind::KeyRotated { line, from, to, .. } => {
                self.lives.rotated(place, &line, &from, &to, found);
            }
            EntryKind::LockDestroyed { key, .. } => self.lives.shredded(place, &key, found),
            EntryKind::KeyRestored { key, token_serial, sweep_only, .. } => {
                self.lives.restored(place, &key, (token_serial, sweep_only), found);
            }
            EntryKind::KeyDestroying { key, actor, .. } => {
                // Older logs count no time, and know no statements; what the key policy does by itself was agreed on with it.
                let ordered = actor == BY_ORDER && self.wiped(&key);
                let asked = actor != BY_POLICY && !ordered && !self.spend.elapsed().is_empty();
                if asked && self.lives.pays(&key) {
                    self.balances.destroying(place, &key, found);
                }
                self.lives.destroying(place, &key, found);
            }
            EntryKind::Balance { key, account, text, signature, waiver, .. } => {
                let (statement, waived) = (text.zip(signature), waiver.is_some());
                let known = Known { key: &key, account: &account, statement, waived };
                let authority = self.people.authorities.latest();
                let policy = self.spend.rulings.latest().map(|ruling| &ruling.policy);
                let assets = policy.into_iter().flat_map(Policy::assets).collect();
                self.balances.hear(place, known, authority, assets, found);
            }
            EntryKind::BackupMade { key, .. } => self.lives.backed(&key),
            EntryKind::KeyCopy(event) => {
                self.report.alarms += u64::from(matches!(event, CopyEvent::Overdue { .. }));
                self.lives.copy(place, event, found);
            }
            EntryKind::KeyDue { key, .. } => self.lives.due(place, &key, found),
            EntryKind::Intent {
                request,
                app,
                tier,
                key,
                act,
                digest,
                policy,
                debited,
                approved_by,
                user,
                ..
            } => {
                self.obeyed(place, &app, &key, found);
                let Some((act, len, payment)) = act_of(&act) else {
                    found.breach(Rule::Form, place.index, "what it does is not written as it should be");
                    self.lives.used(place, &key, None, found);
                    self.opened(place, request, None, found);
                    return;
                };
                let tier = serde_json::from_value(tier.into()).unwrap_or(Tier::T0);
                let intent = Intent { request, app, tier, key, digest, policy, debited, act, len, payment };
                self.intent(place, intent, &approved_by, user, found);
            }
            EntryKind::Waiting { request, app, key, uid, text } => {
                self.people.waits(place, (request, app, key), uid, text, found);
            }
            EntryKind::Voice { request, person, yes, signature, .. } if self.changes.is_one(&request) => {
                let voice = (person.as_str(), yes, signature.as_str());
                self.changes.voice(place, &request, voice, &mut self.people.authorities, found);
            }
            EntryKind::ChangeAsked { change, matter, text, .. } => {
                self.changes.asked(place, change, &matter, text, found);
            }
            EntryKind::ChangeEnded { change, how, .. } => {
                let elapsed = self.spend.elapsed();
                let counted = (!elapsed.is_empty()).then(|| elapsed.total());
                self.changes.ended(place, &change, &how, counted, found);
            }
            EntryKind::Elapsed { counted_ms } => {
                if self.spend.counted(place, counted_ms) {
                    self.changes.counted(counted_ms);
                } else {
                    found.breach(Rule::Delay, place.index, "the log counts time backwards");
                }
            }
            EntryKind::Voice { request, person, key, yes, signature } => {
                self.people.voice(place, &request, (&person, &key, yes), &signature, found);
            }
            EntryKind::WaitingEnded { request, .. } => self.people.ended(place, &request, found),
            EntryKind::Result { request, signature } => {
                self.report.results += 1;
                if self.standing.level(&Scope::All).is_some() {
                    let what = "an answer was released while an order stood against the device";
                    found.breach(Rule::Order, place.index, what);
                }
                self.outcome(place, &request, true, found);
                self.spend.outcome(&request, signature.is_some());
            }
            EntryKind::Failed { request, .. } | EntryKind::InDoubt { request } => {
                self.report.unfinished += 1;
                self.outcome(place, &request, false, found);
                self.spend.outcome(&request, false);
            }
            EntryKind::SelfTest { serial, unfit, .. } => self.lives.tried(serial, unfit.is_none()),
            EntryKind::StrangeOperation { .. } => {
                self.report.strange += 1;
                self.strange.get_or_insert(place.index);
            }
            EntryKind::Operator { act, .. } if act == "token-check" => self.strange = None,
            EntryKind::Refusal { .. } => self.report.refusals += 1,
            EntryKind::Alarm { .. } => self.report.alarms += 1,
            EntryKind::Stop {}
            | EntryKind::Ceremony { .. }
            | EntryKind::Registration { .. }
            | EntryKind::Token { .. }
            | EntryKind::Device { .. }
            | EntryKind::Rows { .. }
            | EntryKind::State { .. }
            | EntryKind::Order(_)
            | EntryKind::Operator { .. } => {}
        }
    }

    /// Whether an order stands that wipes this key.
    fn wiped(&self, key: &str) -> bool {
        let line = Name::parse(key).map(|name| Scope::Key(name.line()));
        let scopes = std::iter::once(Scope::All).chain(line);
        scopes.into_iter().any(|scope| self.standing.level(&scope) == Some(Level::Wipe))
    }

    // [clause 8.2.1-a] whoever reads the log sees that an order was obeyed
    fn obeyed(&self, place: Place, app: &str, key: &str, found: &mut Findings) {
        if let Some((app, key)) = Name::parse(app).zip(Name::parse(key))
            && let Some(refusal) = against(&self.standing, &app, &key)
        {
            found.breach(Rule::Order, place.index, format!("a key was used though {}", refusal.sentence));
        }
    }

    /// What a crash left open is settled before the next start, and what is in force is announced after it.
    fn started(&mut self, found: &mut Findings) {
        for (request, open) in std::mem::take(&mut self.open) {
            let what = format!("its request {request} has no outcome, and the daemon started again");
            found.breach(Rule::Outcome, open.place.index, what);
            self.done.insert(request);
        }
        self.spend.rulings.forget();
        self.people.authorities.forget();
        self.lives.policy.forget();
        self.apps.forget();
        self.present.forget();
    }

    fn intent(
        &mut self,
        place: Place,
        intent: Intent,
        approved_by: &[String],
        user: Option<String>,
        found: &mut Findings,
    ) {
        self.apps.asked(place, &intent, self.lives.purpose(&intent.key), found);
        let used = self.lives.used(place, &intent.key, Some(operation(intent.act)), found);
        let judged = self.spend.judge(place, &intent, used.sweeping, found);
        let policy = match self.spend.rulings.at(place, &intent.policy) {
            Stood::Known(ruling) => Some(&ruling.policy),
            Stood::Not | Stood::Unread => None,
        };
        match &judged {
            Judged::Yes { again: true, .. } | Judged::No if approved_by.is_empty() => {}
            Judged::Yes { needs: Some(needs), .. } => {
                self.people.check(place, &intent, approved_by, Some((needs, policy)), found);
            }
            Judged::Yes { needs: None, .. } | Judged::No => {
                self.people.check(place, &intent, approved_by, None, found);
            }
        }
        let registered = self.apps.named(&intent.app);
        let names: Vec<String> = registered.map(|a| duties::app(a.id.as_str(), a.uid)).collect();
        self.present.answers(place, &names, user.as_deref(), &intent.policy, found);
        let away = self.present.used(place, &intent.key, &intent.app, user, found);
        // [clause 8.2.5-e] nothing comes of what was reserved after a strange operation
        let against = match self.strange {
            Some(at) => Some((Rule::Strange, format!("after the strange operation at entry {at}"))),
            None if used.unfit => Some((Rule::SelfTest, "by a token that was found unfit".to_owned())),
            None => away,
        };
        self.opened(place, intent.request, against, found);
    }

    // [clause 8.7.1-d] one intent before each outcome, one outcome after each intent
    fn opened(
        &mut self,
        place: Place,
        request: String,
        against: Option<(Rule, String)>,
        found: &mut Findings,
    ) {
        self.report.intents += 1;
        if self.done.contains(&request) || self.open.contains_key(&request) {
            found.breach(Rule::Outcome, place.index, format!("the request {request} was reserved before"));
        }
        self.open.insert(request, Open { place, against });
    }

    fn outcome(&mut self, place: Place, request: &str, released: bool, found: &mut Findings) {
        match self.open.remove(request) {
            Some(open) => {
                if let Some((rule, why)) = open.against.filter(|_| released) {
                    found.breach(rule, place.index, format!("an answer was released {why}"));
                }
            }
            None if self.done.contains(request) => {
                let what = format!("the request {request} had an outcome already");
                found.breach(Rule::Outcome, place.index, what);
            }
            None => {
                let what = format!("the request {request} has an outcome without an intent");
                found.breach(Rule::Outcome, place.index, what);
            }
        }
        self.done.insert(request.to_owned());
    }

    /// What is said at the end.
    pub(super) fn end(self, found: &mut Findings) -> Report {
        self.lives.end(found);
        let last = self.last.map_or(0, |p| p.ms);
        for (request, open) in &self.open {
            if last.saturating_sub(open.place.ms) > LEFT_MS {
                let what = format!("its request {request} has no outcome, and the log went on for an hour");
                found.breach(Rule::Outcome, open.place.index, what);
            }
        }
        let unfinished = self.report.unfinished + self.open.len() as u64;
        let totals = self.spend.totals.into_iter().map(|(name, total)| (name, total.to_string())).collect();
        Report {
            totals,
            unfinished,
            judged: self.spend.judged,
            approvals: self.people.approved,
            ..self.report
        }
    }
}
