//! The users document: whose each line of keys is, what is asked of them for how much, with which authenticators.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use super::duties::{Duties, RawDuties};
use super::fido2::Credential;
use super::step::Limits;
use super::throttle::MOST;
use crate::core::approval::sshsig::SshKey;
use crate::core::payment::{Asset, Chain};
use crate::core::proof::Tier;
use crate::core::units::{Name, U256, parse_decimal, sha256};

/// Why a document was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsersError(String);

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// A name.
    pub name: Name,
    /// The user of this machine, as the kernel reports it.
    pub uid: u32,
    /// Lines of keys that do nothing without them.
    pub keys: BTreeSet<Name>,
    limits: BTreeMap<(Chain, Asset), Limits>,
    /// OpenSSH keys that live in an authenticator.
    pub fido: Vec<SshKey>,
    /// FIDO2 credentials.
    pub credentials: Vec<Credential>,
}

impl User {
    /// The limits of an asset, where the document names it.
    #[must_use]
    pub fn limits(&self, chain: Chain, asset: Asset) -> Option<&Limits> {
        self.limits.get(&(chain, asset))
    }

    /// Whether they can take the step of an authenticator.
    #[must_use]
    pub fn has_fido(&self) -> bool {
        !self.fido.is_empty() || !self.credentials.is_empty()
    }
}

/// The whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Users {
    hash: [u8; 32],
    users: Vec<Arc<User>>,
    /// A session without a request ends after this, milliseconds.
    pub idle_ms: u64,
    /// Every session ends after this, milliseconds.
    pub hard_ms: u64,
    /// Wrong PINs until a user is suspended.
    pub most_tries: u32,
    pin_on_wallet_socket: BTreeSet<String>,
    /// What those who use keys must have acknowledged.
    pub duties: Option<Duties>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    schema: u32,
    idle_seconds: Option<u64>,
    hard_seconds: Option<u64>,
    most_tries: Option<u32>,
    #[serde(default)]
    pin_on_wallet_socket: Vec<Tier>,
    duties: Option<RawDuties>,
    #[serde(default)]
    user: Vec<RawUser>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUser {
    name: Name,
    uid: u32,
    #[serde(default)]
    keys: Vec<Name>,
    #[serde(default)]
    fido: Vec<String>,
    #[serde(default)]
    limit: Vec<RawLimit>,
    #[serde(default)]
    credential: Vec<RawCredential>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimit {
    chain: Chain,
    asset: Asset,
    session: String,
    pin: String,
    fido: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCredential {
    rp: String,
    public: String,
    aaguid: String,
}

fn limits(raw: &RawLimit) -> Result<Limits, String> {
    let amount = |what: &str, text: &str| -> Result<U256, String> {
        parse_decimal(text).ok_or_else(|| {
            format!("{what} = {text:?} must be a decimal number of base units below 2^256, as a string")
        })
    };
    let read = Limits {
        session: amount("session", &raw.session)?,
        pin: amount("pin", &raw.pin)?,
        fido: amount("fido", &raw.fido)?,
    };
    if read.session > read.pin || read.pin > read.fido {
        return Err("limits rise: session, then pin, then fido".into());
    }
    Ok(read)
}

impl RawUser {
    fn read(self) -> Result<User, String> {
        if self.name.line() != self.name {
            return Err("a name holds no @".into());
        }
        if let Some(key) = self.keys.iter().find(|k| k.line() != **k) {
            return Err(format!("keys names lines, and {key} is one generation of its line"));
        }
        let mut table = BTreeMap::new();
        for raw in &self.limit {
            let what = format!("limit of {} {}", raw.chain, raw.asset);
            let read = limits(raw).map_err(|why| format!("{what}: {why}"))?;
            if table.insert((raw.chain, raw.asset), read).is_some() {
                return Err(format!("{what} stands twice"));
            }
        }
        let mut fido = Vec::new();
        for line in &self.fido {
            let key = SshKey::parse(line).map_err(|e| format!("fido: {e}"))?;
            if !key.is_fido() {
                return Err(format!(
                    "fido: {} is a key in a file; make one with ssh-keygen -t ed25519-sk",
                    key.fingerprint()
                ));
            }
            fido.push(key);
        }
        let credentials = self
            .credential
            .iter()
            .map(|c| {
                Credential::read(&c.rp, &c.public, &c.aaguid).map_err(|why| format!("credential: {why}"))
            })
            .collect::<Result<_, _>>()?;
        Ok(User {
            name: self.name,
            uid: self.uid,
            keys: self.keys.into_iter().collect(),
            limits: table,
            fido,
            credentials,
        })
    }
}

impl Users {
    /// Reads a document.
    pub fn parse(text: &str) -> Result<Self, UsersError> {
        let raw: Raw = toml::from_str(text).map_err(|e| UsersError(e.to_string()))?;
        let error = |why: String| Err(UsersError(why));
        if raw.schema != 1 {
            return error(format!("schema {} is not known here; this program reads schema 1", raw.schema));
        }
        let within = |what: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                Ok(value)
            } else {
                Err(UsersError(format!("{what} = {value} is outside {low} to {high}")))
            }
        };
        let idle_ms = within("idle_seconds", raw.idle_seconds.unwrap_or(600), 1, 3600)?.saturating_mul(1000);
        let hard_ms =
            within("hard_seconds", raw.hard_seconds.unwrap_or(43_200), 1, 86_400)?.saturating_mul(1000);
        let most_tries = raw.most_tries.unwrap_or(MOST);
        within("most_tries", most_tries.into(), 3, MOST.into())?;
        let duties = raw.duties.map(RawDuties::read).transpose();
        let duties = duties.map_err(|why| UsersError(format!("duties: {why}")))?;
        let mut users: Vec<Arc<User>> = Vec::new();
        let mut authenticators = BTreeSet::new();
        for raw in raw.user {
            let name = raw.name.to_string();
            let user = raw.read().map_err(|why| UsersError(format!("user {name}: {why}")))?;
            if users.iter().any(|u| u.name == user.name) {
                return error(format!("user {name} stands twice"));
            }
            if users.iter().any(|u| u.uid == user.uid) {
                return error(format!("user {name} has the uid of somebody else: one user is one person"));
            }
            if let Some(key) = user.keys.iter().find(|k| users.iter().any(|u| u.keys.contains(*k))) {
                return error(format!("key {key} is of two users: what one confirms the other could spend"));
            }
            let marks = user.fido.iter().map(SshKey::fingerprint);
            for mark in marks.chain(user.credentials.iter().map(Credential::fingerprint)) {
                if !authenticators.insert(mark) {
                    return error(format!("user {name} has an authenticator that stands elsewhere too"));
                }
            }
            users.push(Arc::new(user));
        }
        Ok(Self {
            hash: sha256(text.as_bytes()),
            users,
            idle_ms,
            hard_ms,
            most_tries,
            pin_on_wallet_socket: raw.pin_on_wallet_socket.iter().map(|t| format!("{t:?}")).collect(),
            duties,
        })
    }

    /// SHA-256 of the text.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// All users.
    #[must_use]
    pub fn all(&self) -> &[Arc<User>] {
        &self.users
    }

    /// Whose a line of keys is.
    #[must_use]
    pub fn of_line(&self, line: &Name) -> Option<&Arc<User>> {
        self.users.iter().find(|u| u.keys.contains(line))
    }

    /// Who a user of this machine is.
    #[must_use]
    pub fn by_uid(&self, uid: u32) -> Option<&Arc<User>> {
        self.users.iter().find(|u| u.uid == uid)
    }

    /// By name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<User>> {
        self.users.iter().find(|u| u.name.as_str() == name)
    }

    /// Whether apps of this tier may hand a PIN over themselves.
    #[must_use]
    pub fn takes_pin_from(&self, tier: Tier) -> bool {
        self.pin_on_wallet_socket.contains(&format!("{tier:?}"))
    }
}

/// The text without one user's block; `None` when there is none, or when leaving it out changes anything else.
#[must_use]
pub fn without(text: &str, name: &str) -> Option<String> {
    let before: toml::Table = text.parse().ok()?;
    let mut users = before.get("user")?.as_array()?.clone();
    let at = users.iter().position(|u| u.get("name").and_then(toml::Value::as_str) == Some(name))?;
    let mut blocks = 0usize;
    let mut inside = false;
    let kept: String = text
        .split_inclusive('\n')
        .filter(|line| {
            let line = line.trim_start();
            if line.starts_with("[[user]]") {
                inside = blocks == at;
                blocks += 1;
            } else if line.starts_with('[') && !line.starts_with("[[user.") && !line.starts_with("[user.") {
                inside = false;
            }
            !inside
        })
        .collect();
    users.remove(at);
    let mut wanted = before;
    if users.is_empty() {
        wanted.remove("user");
    } else {
        wanted.insert("user".into(), toml::Value::Array(users));
    }
    (kept.parse::<toml::Table>().ok()? == wanted).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "schema = 1\nmost_tries = 4\n\n# Anna\n[[user]]\nname = \"anna\"\nuid = 7\nkeys = [\"hot\", \"cold\"]\n[[user.limit]]\nchain = \"eip155:1\"\nasset = \"native\"\nsession = \"1\"\npin = \"2\"\nfido = \"3\"\n\n[[user]]\nname = \"ben\"\nuid = 8\nkeys = [\"ops\"]\n";

    // [clause 8.2.3-d] test
    #[test]
    fn each_line_of_keys_has_one_user_at_most() {
        let users = Users::parse(TWO).unwrap();
        let name = |text: &str| Name::parse(text).unwrap();
        assert_eq!(users.of_line(&name("cold")).map(|u| u.uid), Some(7));
        assert!(users.of_line(&name("free")).is_none());
        assert_eq!((users.idle_ms, users.hard_ms, users.most_tries), (600_000, 43_200_000, 4));
        assert!(!users.takes_pin_from(Tier::T1));
        for (from, to, why) in [
            ("\"ops\"", "\"hot\"", "two users"),
            ("uid = 8", "uid = 7", "one person"),
            ("\"ben\"", "\"anna\"", "twice"),
            ("\"ops\"", "\"ops@2\"", "generation"),
            ("pin = \"2\"", "pin = \"9\"", "rise"),
            ("pin = \"2\"", "pin = \"-2\"", "decimal"),
            ("most_tries = 4", "most_tries = 11", "outside"),
            ("most_tries = 4", "idle_seconds = 99999", "outside"),
            ("most_tries = 4", "surprise = 1", "surprise"),
            ("schema = 1", "schema = 2", "schema 2"),
            ("asset = \"native\"", "asset = \"gold\"", "asset"),
            (
                "uid = 8",
                "uid = 8\nfido = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0LVQFh8RuELKeCD2SFoR47hNvwJ0mkRPjUQEfGqHMm x\"]",
                "ed25519-sk",
            ),
        ] {
            let text = TWO.replacen(from, to, 1);
            assert_ne!(text, TWO);
            let said = Users::parse(&text).unwrap_err().to_string();
            assert!(said.contains(why), "{why}: {said}");
        }
    }

    #[test]
    fn the_shipped_example_is_read() {
        let users = Users::parse(include_str!("../../../config/users.toml")).unwrap();
        assert_eq!((users.most_tries, users.idle_ms, users.all().len()), (MOST, 600_000, 1));
    }

    #[test]
    fn a_user_is_taken_out_and_nothing_else_changes() {
        let ben = without(TWO, "anna").unwrap();
        assert_eq!(
            Users::parse(&ben).unwrap().all().iter().map(|u| u.name.as_str()).collect::<Vec<_>>(),
            ["ben"]
        );
        assert!(!ben.contains("user.limit") && ben.contains("# Anna"));
        let anna = without(TWO, "ben").unwrap();
        assert_eq!(Users::parse(&anna).unwrap().all().first().unwrap().keys.len(), 2);
        assert!(without(&anna, "anna").is_some_and(|t| Users::parse(&t).unwrap().all().is_empty()));
        assert_eq!(without(TWO, "carl"), None);
    }
}
