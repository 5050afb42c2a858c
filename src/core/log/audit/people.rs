//! The voices of people: every signature is verified again, over the text of the payment that was signed.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use super::super::super::approval::text::PaymentText;
use super::super::super::approval::{APPROVE, Authority, Needs, REJECT, Shown, judge};
use super::super::super::payment::Payment;
use super::super::super::policy::Policy;
use super::super::super::proof::RequestId;
use super::super::super::units::{Name, Timestamp};
use super::spend::Intent;
use super::texts::{InForce, Stood, Texts};
use super::{Findings, Place, Rule};

/// A payment that waits, or waited.
struct Waiting {
    app: String,
    key: String,
    uid: Option<u32>,
    text: String,
    needs: Needs,
    yes: Vec<String>,
    over: Option<&'static str>,
}

impl Waiting {
    /// What stands behind `name: ` in the text.
    fn field(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
    }

    fn hash(&self, name: &str) -> &str {
        self.field(name).and_then(|h| h.strip_prefix("sha256:")).unwrap_or_default()
    }

    /// The time is written in one way only, in which texts stand in the order of times.
    fn is_over(&self, place: Place) -> bool {
        self.field("expires").is_none_or(|at| Timestamp(place.ms).to_string().as_str() >= at)
    }
}

fn needs(text: &str) -> Option<Needs> {
    let line = text.lines().find_map(|l| l.strip_prefix("needs: "))?;
    let (quorum, of) = line.split_once(" of ")?;
    Some(Needs { quorum: quorum.parse().ok()?, of: of.to_owned() })
}

#[derive(Default)]
pub(super) struct People {
    pub(super) authorities: InForce<Authority>,
    waiting: BTreeMap<String, Waiting>,
    /// Requests that wait, by app, key and digest.
    payloads: HashMap<(String, String, String), Vec<String>>,
    counters: HashMap<String, u32>,
    pub(super) approved: u64,
}

impl People {
    pub(super) fn announce(&mut self, place: Place, hash: &str, texts: &mut Texts, found: &mut Findings) {
        // None is in force any more.
        if hash.is_empty() {
            return self.authorities.announce(place, hash, || None);
        }
        self.authorities.announce(place, hash, || {
            let text = texts.find(place, "authority", hash, found)?;
            match Authority::parse(text) {
                Ok(authority) => Some(authority),
                Err(e) => {
                    let what = format!("this program cannot read the authority {hash}: {e}");
                    found.unproven(Rule::Approval, place.index, what);
                    None
                }
            }
        });
    }

    pub(super) fn waits(
        &mut self,
        place: Place,
        (request, app, key): (String, String, String),
        uid: Option<u32>,
        text: String,
        found: &mut Findings,
    ) {
        let mut wrong = |what: &str| found.breach(Rule::Approval, place.index, what);
        let asked = needs(&text);
        if asked.is_none() {
            wrong("its text does not say who must approve it");
        }
        let needs = asked.unwrap_or(Needs { quorum: u32::MAX, of: String::new() });
        let waiting = Waiting { app, key, uid, text, needs, yes: Vec::new(), over: None };
        let told = [("request", &request), ("app", &waiting.app), ("key", &waiting.key)];
        if told.into_iter().any(|(name, value)| waiting.field(name) != Some(value)) {
            wrong("its text is of another request, app or key");
        }
        let payload = (waiting.app.clone(), waiting.key.clone(), waiting.hash("digest").to_owned());
        self.payloads.entry(payload).or_default().push(request.clone());
        if self.waiting.insert(request, waiting).is_some() {
            wrong("its request waited before");
        }
    }

    // [clause 8.5.4-a] no voice is believed because it was counted
    pub(super) fn voice(
        &mut self,
        place: Place,
        request: &str,
        (person, key, yes): (&str, &str, bool),
        signature: &str,
        found: &mut Findings,
    ) {
        let mut wrong = |what: String| found.breach(Rule::Approval, place.index, what);
        let Some(waiting) = self.waiting.get_mut(request) else {
            return wrong(format!("{person} spoke about {request}, which does not wait"));
        };
        if let Some(how) = waiting.over {
            wrong(format!("{person} spoke about {request}, which was {how} already"));
        }
        if waiting.is_over(place) {
            wrong(format!("{person} spoke about {request} after its time"));
        }
        if yes && waiting.yes.iter().any(|p| p == person) {
            wrong(format!("{person} approved {request} twice"));
        }
        let authority = waiting.hash("authority").to_owned();
        match self.authorities.at(place, &authority) {
            Stood::Not => wrong(format!("the people of {request} were not those of the authority in force")),
            Stood::Unread => {}
            Stood::Known(authority) => {
                let shown = Shown { text: waiting.text.clone(), needs: waiting.needs.clone() };
                let namespace = if yes { APPROVE } else { REJECT };
                // Nobody has the highest user id.
                let uid = waiting.uid.unwrap_or(u32::MAX);
                let last = |of: &str| self.counters.get(of).copied();
                match judge(authority, &shown, uid, namespace, signature, last) {
                    Err(refusal) => wrong(format!("the voice of {person} does not count: {refusal}")),
                    Ok(voice) if voice.person != person || voice.key != key => {
                        wrong(format!("the voice of {person} is that of {}", voice.person));
                    }
                    Ok(voice) => {
                        if let Some(counter) = voice.counter {
                            let seen = self.counters.entry(voice.key).or_default();
                            *seen = counter.max(*seen);
                        }
                    }
                }
            }
        }
        if waiting.uid.is_none() {
            let what = format!("who asked for {request} does not stand in the log");
            found.unproven(Rule::Approval, place.index, what);
        }
        if yes {
            waiting.yes.push(person.to_owned());
            waiting.yes.sort();
        } else {
            waiting.over = Some("refused");
        }
    }

    pub(super) fn ended(&mut self, place: Place, request: &str, found: &mut Findings) {
        match self.waiting.get_mut(request) {
            Some(waiting) if waiting.over.is_none() => waiting.over = Some("ended"),
            _ => {
                let what = format!("{request} ended, and it did not wait");
                found.breach(Rule::Approval, place.index, what);
            }
        }
    }

    /// Whether the people that an intent names approved it, and were those whom the policy asks for.
    // [clause 8.5.4-a] what was signed is what was shown, to enough people, in time, and once
    pub(super) fn check(
        &mut self,
        place: Place,
        intent: &Intent,
        named: &[String],
        asked: Option<(&Needs, Option<&Policy>)>,
        found: &mut Findings,
    ) {
        let mut wrong = |what: String| found.breach(Rule::Approval, place.index, what);
        let needs = asked.map(|(needs, _)| needs);
        if named.is_empty() {
            if let Some(needs) = needs {
                wrong(format!("{} of {} must approve it, and nobody did", needs.quorum, needs.of));
            }
            return;
        }
        let payload = (intent.app.clone(), intent.key.clone(), intent.digest.clone());
        let requests = self.payloads.get(&payload).map(Vec::as_slice).unwrap_or_default();
        let fits = |w: &Waiting| w.over.is_none() && w.hash("policy") == intent.policy && w.yes == named;
        let request = requests.iter().rev().find(|r| self.waiting.get(*r).is_some_and(fits)).cloned();
        let Some((request, waiting)) = request.and_then(|r| self.waiting.get_mut(&r).map(|w| (r, w))) else {
            return wrong(format!("no approval of this payload by {} was open", named.join(", ")));
        };
        waiting.over = Some("used");
        self.approved = self.approved.saturating_add(1);
        if waiting.is_over(place) {
            wrong(format!("the approval of {request} was used after its time"));
        }
        if u32::try_from(named.len()).map_or(true, |n| n < waiting.needs.quorum) {
            wrong(format!(
                "{request} needs {} people, and {} approved it",
                waiting.needs.quorum,
                named.len()
            ));
        }
        if needs.is_some_and(|needs| *needs != waiting.needs) {
            wrong(format!("the text of {request} asks for other people than the policy"));
        }
        let authority = waiting.hash("authority").to_owned();
        match self.authorities.at(place, &authority) {
            Stood::Not => {
                wrong(format!("{request} was approved under another authority than the one in force"));
            }
            Stood::Unread => {}
            Stood::Known(authority) => {
                let policy = asked.and_then(|(_, policy)| policy);
                if let (Some(payment), Some(policy)) = (&intent.payment, policy)
                    && !is_of(waiting, &request, intent, payment, policy, authority)
                {
                    wrong(format!("the text that was signed for {request} is not that of this payment"));
                }
            }
        }
    }
}

/// Whether the text is that of the payment: rendered again, all but its time and the number that was drawn for it.
fn is_of(
    waiting: &Waiting,
    request: &str,
    intent: &Intent,
    payment: &Payment,
    policy: &Policy,
    authority: &Authority,
) -> bool {
    let mut digest = [0; 32];
    let (Some(request), Some(app), Some(key), Ok(())) = (
        RequestId::parse(request),
        Name::parse(&intent.app),
        Name::parse(&intent.key),
        hex::decode_to_slice(&intent.digest, &mut digest),
    ) else {
        return false;
    };
    let (expires, nonce) = (Timestamp(0), [0; 16]);
    let text = PaymentText { request, digest, app: &app, key: &key, payment, expires, nonce };
    let again = text.render(policy, authority, &waiting.needs).text;
    let drawn = |line: &str| line.starts_with("expires: ") || line.starts_with("nonce: ");
    let (ours, theirs) = (again.lines(), waiting.text.lines());
    again.lines().count() == waiting.text.lines().count()
        && ours.zip(theirs).all(|(a, b)| a == b || (drawn(a) && a.split(' ').next() == b.split(' ').next()))
}
