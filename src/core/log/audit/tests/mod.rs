//! Logs made by hand: an honest one, and one for everything that can be wrong with it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they cannot go on"
)]

mod apps;
mod copies;
mod lives;
mod money;
mod orders;
mod people;
mod tree;
mod users;
mod waits;

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use super::*;
use crate::core::approval::text::PaymentText;
use crate::core::approval::{APPROVE, Authority, Needs, REJECT};
use crate::core::key::{Origin, State};
use crate::core::log::checkpoint;
use crate::core::log::entry::{Entry, EntryKind};
use crate::core::log::export::{CHECKPOINTS, files};
use crate::core::log::merkle::{Frontier, leaf_hash};
use crate::core::payment::{Asset, Chain, Effect, Payment};
use crate::core::policy::Policy;
use crate::core::proof::RequestId;
use crate::core::units::{Address, Name, Timestamp, U256, sha256};

const BOB: Address = Address([0x22; 20]);
const POLICY: &str = r#"
schema = 1
[assets.ETH]
chain = "eip155:1"
native = true
decimals = 18
[books.friends]
bob = "0x2222222222222222222222222222222222222222"
[sweep]
to = ["@friends"]
[[rule]]
id = "pay"
effect = "permit"
keys = ["hot"]
apps = ["app"]
chains = ["eip155:1"]
assets = ["ETH"]
to.allow = ["@friends"]
per_tx.max = "100"
fee.max = "1000"
window = [{ len = "1h", max = "200", scope = "key" }]
approve = [{ above = "50", quorum = 2, of = "ops" }]
"#;
const APPS: &str = "[[app]]\nid = \"app\"\npath = \"/a\"\nsha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\nuid = 7\n";
const KEYS: &str = include_str!("../../../../../config/keys.toml");

fn hash(text: &str) -> String {
    hex::encode(sha256(text.as_bytes()))
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// A person with a key in a file.
struct Person(SigningKey);

impl Person {
    fn new(n: u8) -> Self {
        Self(SigningKey::from_bytes(&[n; 32]))
    }

    fn blob(&self) -> Vec<u8> {
        [string(b"ssh-ed25519"), string(&self.0.verifying_key().to_bytes())].concat()
    }

    fn line(&self) -> String {
        format!("ssh-ed25519 {}", BASE64.encode(self.blob()))
    }

    fn fingerprint(&self) -> String {
        format!("SHA256:{}", BASE64.encode(sha256(&self.blob())).trim_end_matches('='))
    }

    /// As `ssh-keygen -Y sign` does it.
    fn sign(&self, namespace: &str, text: &str) -> String {
        let head = [string(namespace.as_bytes()), string(b""), string(b"sha512")].concat();
        let signed = [b"SSHSIG".as_slice(), &head, &string(&Sha512::digest(text.as_bytes()))].concat();
        let raw = self.0.sign(&signed).to_bytes();
        let body = [string(b"ssh-ed25519"), string(&raw)].concat();
        let all = [b"SSHSIG\0\0\0\x01".as_slice(), &string(&self.blob()), &head, &string(&body)].concat();
        format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----", BASE64.encode(all))
    }
}

fn authority() -> String {
    let mut text = String::from("schema = 1\ndeployment = \"d\"\nfiles_allowed = true\n");
    for (n, id) in [(1, "alice"), (2, "bob"), (3, "carol")] {
        let uid = if id == "carol" { "uid = 7\n" } else { "" };
        text += &format!(
            "[[person]]\nid = \"{id}\"\ngroups = [\"ops\"]\nkeys = [\"{}\"]\n{uid}",
            Person::new(n).line()
        );
    }
    text
}

fn payment(nonce: u64, amount: u64) -> Payment {
    Payment {
        chain: Chain(1),
        from: Address([1; 20]),
        effect: Effect::Transfer { asset: Asset::Native, to: BOB, amount: U256::from(amount) },
        max_fee: U256::from(10),
        fee_per_gas: U256::from(1),
        nonce,
    }
}

fn id(n: u64) -> String {
    RequestId(u128::from(n)).to_string()
}

fn digest(n: u64) -> String {
    hex::encode(sha256(&n.to_be_bytes()))
}

/// Entries with their times, milliseconds.
#[derive(Clone)]
struct Log(Vec<(i64, EntryKind)>);

impl Log {
    fn push(&mut self, kind: EntryKind) -> &mut Self {
        let at = self.0.last().map_or(1_000_000, |(at, _)| at + 1000);
        self.0.push((at, kind));
        self
    }

    fn announce(&mut self) -> &mut Self {
        self.push(EntryKind::policy(sha256(POLICY.as_bytes()), POLICY.len(), 0, "start".into()));
        self.push(EntryKind::KeyPolicy { hash: hash(KEYS), uid: 0, kept: None });
        self.push(EntryKind::apps(sha256(APPS.as_bytes()), 1, 0));
        self.push(EntryKind::Authority { hash: hash(&authority()), people: 3, uid: 0, kept: None })
    }

    fn moved(&mut self, key: &str, from: State, to: State) -> &mut Self {
        self.push(EntryKind::KeyMoved {
            key: key.into(),
            from,
            to,
            actor: "operator 0".into(),
            reason: "a test".into(),
            key_policy: hash(KEYS),
        })
    }

    fn key(&mut self, key: &str) -> &mut Self {
        self.push(EntryKind::KeyCreated {
            key: key.into(),
            algorithm: "secp256k1".into(),
            purpose: "payment".into(),
            public: hash(key),
            token_serial: "s1".into(),
            reference: "01".into(),
            origin: Origin::Generated,
            state: State::PreActive,
            uid: 0,
        })
    }

    fn tried(&mut self, unfit: Option<&str>) -> &mut Self {
        self.push(EntryKind::SelfTest {
            profile: "p".into(),
            token: "t".into(),
            serial: "s1".into(),
            unfit: unfit.map(str::to_owned),
            proofs: json!([]),
        })
    }

    fn intent(&mut self, n: u64, amount: u64) -> &mut Self {
        self.intent_with(n, json!(payment(n, amount)), &digest(n), true, &[])
    }

    fn intent_with(&mut self, n: u64, act: Value, digest: &str, debited: bool, by: &[&str]) -> &mut Self {
        self.push(EntryKind::Intent {
            request: id(n),
            app: "app".into(),
            tier: "T1".into(),
            key: "hot".into(),
            act,
            digest: digest.into(),
            rule: "pay".into(),
            policy: hash(POLICY),
            debited,
            device: String::new(),
            fingerprint: None,
            approved_by: by.iter().map(|s| (*s).to_owned()).collect(),
            user: None,
        })
    }

    fn result(&mut self, n: u64) -> &mut Self {
        self.push(EntryKind::Result { request: id(n), signature: Some(digest(n)) })
    }

    fn paid(&mut self, n: u64, amount: u64) -> &mut Self {
        self.intent(n, amount).result(n)
    }

    fn waits(&mut self, n: u64, text: &str) -> &mut Self {
        let text = text.to_owned();
        self.push(EntryKind::Waiting {
            request: id(n),
            app: "app".into(),
            key: "hot".into(),
            uid: Some(7),
            text,
        })
    }

    fn voice(&mut self, n: u64, who: (&str, u8), namespace: &str, text: &str) -> &mut Self {
        let person = Person::new(who.1);
        self.push(EntryKind::Voice {
            request: id(n),
            person: who.0.into(),
            key: person.fingerprint(),
            yes: namespace == APPROVE,
            signature: person.sign(namespace, text),
        })
    }

    fn insert(&mut self, at: usize, kind: EntryKind) {
        let time = self.0[at].0;
        self.0.insert(at, (time, kind));
    }

    /// The first entry of this kind.
    fn at(&self, kind: &str) -> usize {
        self.0.iter().position(|(_, k)| json!(k)["kind"] == kind || json!(k)["event"] == kind).unwrap()
    }

    /// Another value of one member of the first entry of a kind.
    fn set(&mut self, kind: &str, member: &str, value: Value) {
        let at = self.at(kind);
        let mut entry = json!(self.0[at].1);
        entry[member] = value;
        self.0[at].1 = serde_json::from_value(entry).unwrap();
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        (0..).zip(&self.0).map(|(i, (at, k))| Entry::encode(i, Timestamp(*at), k).unwrap()).collect()
    }

    fn report(&self) -> Report {
        let (files, holdings) = signed(&self.entries());
        check(&files, &holdings)
    }

    /// What is wrong with it: the rules, with what was said.
    fn breaches(&self) -> Vec<(&'static str, String)> {
        self.report().breaches.into_iter().map(|f| (f.rule, format!("{:?}: {}", f.entry, f.what))).collect()
    }
}

/// A daemon's beginning: two documents in force, and a key that pays.
fn begun() -> Log {
    let mut log = Log(Vec::new());
    log.push(EntryKind::start("0", "b", 1)).tried(None);
    for (what, text) in
        [("policy", POLICY), ("key-policy", KEYS), ("authority", &authority()), ("apps", APPS)]
    {
        for part in EntryKind::documents(what, text) {
            log.push(part);
        }
    }
    log.announce().key("hot").moved("hot", State::PreActive, State::Active);
    log
}

fn text_of(n: u64, nonce: u64, amount: u64) -> String {
    let (policy, authority) = (Policy::parse(POLICY).unwrap(), Authority::parse(&authority()).unwrap());
    let (app, key) = (Name::parse("app").unwrap(), Name::parse("hot").unwrap());
    let payment = payment(nonce, amount);
    PaymentText {
        request: RequestId(u128::from(n)),
        digest: sha256(&nonce.to_be_bytes()),
        app: &app,
        key: &key,
        payment: &payment,
        expires: Timestamp(3_000_000),
        nonce: [4; 16],
    }
    .render(&policy, &authority, &Needs { quorum: 2, of: "ops".into() })
    .text
}

/// A payment of 60 that two people approved: the request 90 waited, 91 was signed.
fn approved() -> Log {
    let mut log = begun();
    let text = text_of(90, 91, 60);
    log.waits(90, &text).voice(90, ("alice", 1), APPROVE, &text).voice(90, ("bob", 2), APPROVE, &text);
    log.intent_with(91, json!(payment(91, 60)), &digest(91), true, &["alice", "bob"]).result(91);
    log
}

type Files = HashMap<String, Vec<u8>>;

fn note(entries: &[Vec<u8>]) -> (String, NoteKey) {
    let key = SigningKey::from_bytes(&[5; 32]);
    let public = key.verifying_key().to_bytes();
    let mut tree = Frontier::default();
    entries.iter().for_each(|e| tree.push(leaf_hash(e)));
    let body = checkpoint::body("log", tree.size(), &tree.root());
    let note = checkpoint::note(&body, "log", &public, &key.sign(body.as_bytes()).to_bytes());
    (note, NoteKey::parse(&checkpoint::verifier_key("log", &public)).unwrap())
}

fn signed(entries: &[Vec<u8>]) -> (Files, Holdings) {
    let (note, key) = note(entries);
    let mut all: Files = files(entries).into_iter().collect();
    all.insert("checkpoint".into(), note.into_bytes());
    (all, Holdings { keys: vec![key], ..Holdings::default() })
}

fn check(files: &Files, holdings: &Holdings) -> Report {
    audit(&|name| Ok(files.get(name).cloned()), holdings).unwrap()
}

fn rules(report: &Report) -> Vec<&'static str> {
    let mut rules: Vec<_> = report.breaches.iter().map(|f| f.rule).collect();
    rules.dedup();
    rules
}

/// One change to a log, and what it must be found as.
type Case = (&'static str, fn(&mut Log), &'static str, &'static str);

fn each_is_found(base: fn() -> Log, cases: &[Case]) {
    let clean = base().report();
    assert_eq!((&clean.breaches, &clean.unproven), (&vec![], &vec![]));
    for (name, change, rule, says) in cases {
        let mut log = base();
        change(&mut log);
        let found = log.breaches();
        assert!(
            found.iter().any(|(r, what)| r == rule && what.contains(says)),
            "{name}: no {rule} that says {says:?} in {found:#?}"
        );
    }
}

fn paying() -> Log {
    let mut log = begun();
    log.paid(1, 50).paid(2, 50);
    log
}
