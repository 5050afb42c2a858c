//! The authority document: the people, their groups, their keys.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::change::{Matter, Quorum};
use super::role::{Act, Role, clash, may};
use super::sshsig::SshKey;
use super::text::Needs;
use crate::core::key::policy::length;
use crate::core::order::{LeaseTerms, OrderTerms};
use crate::core::units::sha256;

/// How long a policy that loosens rests before it is in force, where the document does not say: a day.
const USUAL_DELAY_MS: i64 = 86_400_000;

/// Why a document was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthorityError(String);

/// Somebody who may approve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// A name.
    pub id: String,
    /// Groups that approvals are asked of.
    pub groups: BTreeSet<String>,
    /// The user on this machine, if there is one: nobody approves what they, or an app of theirs, asked for.
    pub uid: Option<u32>,
    /// What they may do.
    pub roles: BTreeSet<Role>,
}

impl Person {
    /// Whether one of their roles may.
    #[must_use]
    pub fn may(&self, act: Act) -> bool {
        may(&self.roles, act)
    }
}

/// The whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    hash: [u8; 32],
    text: String,
    /// Names this deployment in every text that is signed: a signature for another one is worth nothing here.
    pub deployment: String,
    /// Whether keys in files approve, or authenticators only.
    pub files_allowed: bool,
    people: Vec<Person>,
    keys: BTreeMap<String, (SshKey, usize)>,
    /// Who may state what is left in an account: keys by fingerprint, with the observer's name.
    observers: BTreeMap<String, (SshKey, String)>,
    revoked: BTreeSet<String>,
    quorums: BTreeMap<Matter, Quorum>,
    orders: Option<OrderTerms>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    schema: u32,
    deployment: String,
    #[serde(default)]
    files_allowed: bool,
    #[serde(default)]
    revoked: Vec<String>,
    #[serde(default)]
    person: Vec<RawPerson>,
    #[serde(default)]
    observer: Vec<RawObserver>,
    #[serde(default)]
    quorum: BTreeMap<Matter, RawQuorum>,
    orders: Option<RawOrders>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOrders {
    revokers: BTreeSet<String>,
    wipe: Option<u32>,
    reactivate: Option<Needs>,
    lease: Option<RawLease>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLease {
    key: String,
    max_ttl: Option<String>,
    grace: Option<String>,
    #[serde(default)]
    required: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuorum {
    quorum: u32,
    of: String,
    delay: Option<String>,
}

/// Something outside that looks at chains; it decides nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawObserver {
    id: String,
    keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPerson {
    id: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    keys: Vec<String>,
    uid: Option<u32>,
    roles: Option<BTreeSet<Role>>,
}

fn is_word(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= 64 && text.bytes().all(good)
}

/// Observers by their keys, none of which is a person's: who decides does not vouch for what they decide on.
fn observers(
    raw: Vec<RawObserver>,
    people: &BTreeMap<String, (SshKey, usize)>,
) -> Result<BTreeMap<String, (SshKey, String)>, String> {
    let mut all: BTreeMap<String, (SshKey, String)> = BTreeMap::new();
    for observer in raw {
        let id = observer.id;
        if !is_word(&id) || all.values().any(|(_, other)| *other == id) || observer.keys.is_empty() {
            return Err(format!("observer {id:?}: one name of A-Z a-z 0-9 . _ -, once, with keys"));
        }
        for line in observer.keys {
            let key = SshKey::parse(&line).map_err(|e| format!("observer {id}: {e}"))?;
            let fingerprint = key.fingerprint();
            let elsewhere = people.contains_key(&fingerprint);
            if elsewhere || all.insert(fingerprint, (key, id.clone())).is_some() {
                return Err(format!("observer {id} has a key that stands elsewhere too"));
            }
        }
    }
    Ok(all)
}

impl Authority {
    /// Reads a document.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        let raw: Raw = toml::from_str(text).map_err(|e| AuthorityError(e.to_string()))?;
        let error = |why: String| Err(AuthorityError(why));
        if raw.schema != 1 {
            return error(format!("schema {} is not known here; this program reads schema 1", raw.schema));
        }
        if !is_word(&raw.deployment) {
            return error("deployment is 1 to 64 of A-Z a-z 0-9 . _ -".into());
        }
        let (mut people, mut keys): (Vec<Person>, BTreeMap<String, (SshKey, usize)>) =
            (Vec::new(), BTreeMap::new());
        for person in raw.person {
            let id = person.id;
            if !is_word(&id) || !person.groups.iter().all(|g| is_word(g)) {
                return error(format!("person {id:?}: names are 1 to 64 of A-Z a-z 0-9 . _ -"));
            }
            if people.iter().any(|p| p.id == id) {
                return error(format!("person {id} stands twice"));
            }
            let roles = person.roles.unwrap_or_else(|| BTreeSet::from([Role::Approver]));
            if let Some(why) = clash(&roles) {
                return error(format!("person {id}: {why}"));
            }
            if roles.is_empty() {
                return error(format!(
                    "person {id} has no role: name one, or leave roles out for an approver"
                ));
            }
            if person.keys.is_empty() && may(&roles, Act::Speak) {
                return error(format!("person {id} has no key"));
            }
            if person.uid.is_some() && people.iter().any(|p| p.uid == person.uid) {
                return error(format!("person {id} has the uid of somebody else: one user is one person"));
            }
            for line in person.keys {
                let key = SshKey::parse(&line).map_err(|e| AuthorityError(format!("person {id}: {e}")))?;
                // One key in two hands is one voice counted twice.
                if keys.insert(key.fingerprint(), (key, people.len())).is_some() {
                    return error(format!("person {id} has a key that stands elsewhere too"));
                }
            }
            people.push(Person { id, groups: person.groups.into_iter().collect(), uid: person.uid, roles });
        }
        let observers = observers(raw.observer, &keys).map_err(AuthorityError)?;
        for fingerprint in &raw.revoked {
            if !fingerprint.starts_with("SHA256:") {
                return error(format!(
                    "revoked {fingerprint:?} is no fingerprint as ssh-keygen -l prints it"
                ));
            }
        }
        let mut read = Self {
            hash: sha256(text.as_bytes()),
            text: text.to_owned(),
            deployment: raw.deployment,
            files_allowed: raw.files_allowed,
            people,
            keys,
            observers,
            revoked: raw.revoked.into_iter().collect(),
            quorums: BTreeMap::new(),
            orders: None,
        };
        for (matter, raw) in raw.quorum {
            let quorum = read.quorum_of(matter, raw).map_err(AuthorityError)?;
            read.quorums.insert(matter, quorum);
        }
        if !read.quorums.is_empty() && !read.quorums.contains_key(&Matter::Authority) {
            return error(
                "there are quorums, and none for this document: whoever changes it changes them all; add [quorum.authority]".into(),
            );
        }
        if let Some(raw) = raw.orders {
            if !read.quorums.contains_key(&Matter::Authority) {
                return error(
                    "[orders] without [quorum.authority]: whoever writes this file could name those who start again; add it".into(),
                );
            }
            read.orders = Some(read.orders_of(raw).map_err(AuthorityError)?);
        }
        Ok(read)
    }

    fn orders_of(&self, raw: RawOrders) -> Result<OrderTerms, String> {
        let revokers = |p: &Person| !p.groups.is_disjoint(&raw.revokers);
        let able =
            self.people.iter().filter(|p| revokers(p) && p.may(Act::Stop) && !self.keys_of(&p.id).is_empty());
        let (able, wipe) = (able.count(), raw.wipe.unwrap_or(2));
        if able == 0 {
            return Err("[orders]: nobody of revokers who may stop has a key that counts".into());
        }
        if wipe < 2 {
            return Err("[orders] wipe: one stolen key must not burn the money; 2 is the least".into());
        }
        if let Some(needs) = &raw.reactivate {
            let there = self.strength(&needs.of);
            if needs.quorum == 0 || usize::try_from(needs.quorum).map_or(true, |n| n > there) {
                return Err(format!(
                    "[orders] reactivate asks for {} of {}, and {there} who may speak have a key that counts",
                    needs.quorum, needs.of
                ));
            }
        }
        let lease = raw.lease.map(|lease| self.lease_of(lease)).transpose()?;
        Ok(OrderTerms { revokers: raw.revokers, wipe, reactivate: raw.reactivate, lease })
    }

    fn lease_of(&self, raw: RawLease) -> Result<LeaseTerms, String> {
        let key = SshKey::parse(&raw.key).map_err(|e| format!("[orders.lease] key: {e}"))?;
        // It lies in a machine that is on-line: who breaks into that one must not speak as a person too.
        if self.person_of(&key).is_some() {
            return Err("[orders.lease] key belongs to a person: give leases a key of their own".into());
        }
        let span = |what: &str, text: Option<String>, usual: u64| match text {
            None => Ok(usual),
            Some(text) => length(&format!("[orders.lease] {what}"), &text).map(i64::unsigned_abs),
        };
        let max_ttl_ms = span("max_ttl", raw.max_ttl, 4 * 3_600_000)?;
        let grace_ms = span("grace", raw.grace, 0)?;
        if max_ttl_ms == 0 || max_ttl_ms > 7 * 86_400_000 || grace_ms > 7 * 86_400_000 {
            return Err(
                "[orders.lease]: max_ttl and grace are a week at most, and max_ttl is not nothing".into()
            );
        }
        Ok(LeaseTerms { key, max_ttl_ms, grace_ms, required: raw.required })
    }

    /// Who may stop this device, and who may start it again.
    #[must_use]
    pub fn orders(&self) -> Option<&OrderTerms> {
        self.orders.as_ref()
    }

    fn quorum_of(&self, matter: Matter, raw: RawQuorum) -> Result<Quorum, String> {
        let what = format!("[quorum.{}]", matter.as_str());
        if raw.quorum == 0 {
            return Err(format!("{what}: a quorum of nobody decides nothing; 1 is the least"));
        }
        let there = self.strength(&raw.of);
        if usize::try_from(raw.quorum).map_or(true, |n| n > there) {
            return Err(format!(
                "{what} asks for {} of {}, and only {there} who may speak have a key that counts",
                raw.quorum, raw.of
            ));
        }
        let usual = if matter == Matter::Policy { USUAL_DELAY_MS } else { 0 };
        let delay_ms = raw.delay.map_or(Ok(usual), |d| length(&format!("{what} delay"), &d))?;
        if delay_ms > 30 * 86_400_000 {
            return Err(format!("{what}: a delay above 30d outlives the voices; name less"));
        }
        Ok(Quorum { needs: Needs { quorum: raw.quorum, of: raw.of }, delay_ms })
    }

    /// Who must agree to a change, where somebody must.
    #[must_use]
    pub fn quorum(&self, matter: Matter) -> Option<&Quorum> {
        self.quorums.get(&matter)
    }

    /// All quorums.
    pub fn quorums(&self) -> impl Iterator<Item = (Matter, &Quorum)> {
        self.quorums.iter().map(|(m, q)| (*m, q))
    }

    /// Who a user of this machine is.
    #[must_use]
    pub fn person_by_uid(&self, uid: u32) -> Option<&Person> {
        self.people.iter().find(|p| p.uid == Some(uid))
    }

    /// Whether it names who runs the daemon: then nobody else does, root included.
    #[must_use]
    pub fn names_operators(&self) -> bool {
        self.people.iter().any(|p| p.uid.is_some() && p.roles.contains(&Role::Operator))
    }

    /// SHA-256 of the text.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whose key it is.
    #[must_use]
    pub fn person_of(&self, key: &SshKey) -> Option<&Person> {
        let (known, at) = self.keys.get(&key.fingerprint())?;
        if known == key { self.people.get(*at) } else { None }
    }

    /// Which observer's key it is.
    #[must_use]
    pub fn observer_of(&self, key: &SshKey) -> Option<&str> {
        let (known, id) = self.observers.get(&key.fingerprint())?;
        (known == key).then_some(id.as_str())
    }

    /// Observers, with the fingerprints of their keys that count.
    pub fn observers(&self) -> impl Iterator<Item = (&str, &str)> {
        let counts = self.observers.iter().filter(|(f, _)| !self.is_revoked(f));
        counts.map(|(fingerprint, (_, id))| (id.as_str(), fingerprint.as_str()))
    }

    /// Whether the key does not count any more.
    #[must_use]
    pub fn is_revoked(&self, fingerprint: &str) -> bool {
        self.revoked.contains(fingerprint)
    }

    /// How many people of a group have a key that counts: a quorum above it cannot be reached.
    #[must_use]
    pub fn strength(&self, group: &str) -> usize {
        let able = |at: usize| self.keys.iter().any(|(f, (_, owner))| *owner == at && !self.is_revoked(f));
        let counts = |at: usize, p: &Person| p.groups.contains(group) && p.may(Act::Speak) && able(at);
        self.people.iter().enumerate().filter(|(at, p)| counts(*at, p)).count()
    }

    /// Fingerprints of a person's keys that count.
    #[must_use]
    pub fn keys_of(&self, person: &str) -> Vec<&str> {
        let theirs = |at: usize| self.people.get(at).is_some_and(|p| p.id == person);
        let keys = self.keys.iter().filter(|(f, (_, at))| theirs(*at) && !self.is_revoked(f));
        keys.map(|(f, _)| f.as_str()).collect()
    }

    /// All people, for those who ask who decides.
    #[must_use]
    pub fn people(&self) -> &[Person] {
        &self.people
    }
}
