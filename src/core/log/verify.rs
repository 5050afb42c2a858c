//! The offline verifier: an exported directory and the public key suffice.
//!
//! Checks the signature, every hash, and the story that the entries tell: no result without its intent, no policy
//! that was not announced, no index out of order.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use serde_json::Value;

use super::super::key::State;
use super::super::units::{U256, parse_decimal};
use super::checkpoint::{self, CheckpointError};
use super::entry::{Entry, EntryKind};
use super::export::{WIDTH, bundle_path, tile_path, tiles, unbundle};
use super::merkle::{Frontier, Hash, leaf_hash};

/// What an honest log says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Name of the log.
    pub origin: String,
    /// Entries under the checkpoint.
    pub entries: u64,
    /// Root, hex.
    pub root: String,
    /// Requests that were reserved.
    pub intents: u64,
    /// Signatures that were released.
    pub results: u64,
    /// Requests that were refused.
    pub refusals: u64,
    /// Operations in the token's own log that were not asked for here.
    pub strange: u64,
    /// Intents that failed or were found without an outcome.
    pub unfinished: u64,
    /// Debited amounts in base units, by key, chain and asset.
    pub totals: BTreeMap<String, String>,
}

/// Why a log does not verify.
#[derive(Debug, thiserror::Error)]
pub enum VerifyLogError {
    /// A file cannot be read.
    #[error("{0} cannot be read: {1}")]
    Read(String, std::io::Error),
    /// A file is missing.
    #[error("{0} is missing")]
    Missing(String),
    /// The checkpoint is not accepted.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The entries are not those that were signed.
    #[error("{0}")]
    Tree(String),
    /// An entry tells an impossible story.
    #[error("entry {0}: {1}")]
    Entry(u64, String),
}

type Reader<'a> = &'a dyn Fn(&str) -> std::io::Result<Option<Vec<u8>>>;

fn file(read: Reader<'_>, name: &str) -> Result<Vec<u8>, VerifyLogError> {
    read(name)
        .map_err(|e| VerifyLogError::Read(name.to_owned(), e))?
        .ok_or_else(|| VerifyLogError::Missing(name.to_owned()))
}

/// Verifies an exported log through a file reader.
// [clause 8.7.1-e] removing, changing or reordering an entry is found here, without the daemon
pub fn verify(read: Reader<'_>, vkey: &str) -> Result<Report, VerifyLogError> {
    let note = file(read, "checkpoint")?;
    let head = checkpoint::verify(&String::from_utf8_lossy(&note), vkey)?;
    let mut tree = Frontier::default();
    let mut leaves: Vec<Hash> = Vec::new();
    let mut story = Story::default();
    let mut left = head.size;
    let mut n = 0;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(WIDTH);
        let name = bundle_path(n, count);
        let entries =
            unbundle(&file(read, &name)?).ok_or_else(|| VerifyLogError::Tree(format!("{name} is cut")))?;
        if entries.len() != count {
            return Err(VerifyLogError::Tree(format!("{name} holds {} entries, not {count}", entries.len())));
        }
        for bytes in entries {
            story.entry(tree.size(), &bytes)?;
            let leaf = leaf_hash(&bytes);
            leaves.push(leaf);
            tree.push(leaf);
        }
        left = left.saturating_sub(count as u64);
        n += 1;
    }
    if tree.root() != head.root {
        return Err(VerifyLogError::Tree(
            "the entries are not those that the checkpoint signs: one was changed, removed, added or moved"
                .into(),
        ));
    }
    for (level, n, tile) in tiles(&leaves) {
        let name = tile_path(level, n, tile.len());
        if file(read, &name)? != tile.concat() {
            return Err(VerifyLogError::Tree(format!("{name} does not hold the hashes of the entries")));
        }
    }
    Ok(Report { origin: head.origin, entries: head.size, root: hex::encode(head.root), ..story.report() })
}

#[derive(PartialEq)]
enum Stage {
    Open,
    Done,
    Broken,
}

#[derive(Default)]
struct Story {
    report: Report,
    last_ms: i64,
    requests: HashMap<String, Stage>,
    keys: BTreeMap<String, State>,
    policies: HashSet<String>,
    totals: BTreeMap<String, U256>,
}

impl Story {
    fn entry(&mut self, index: u64, bytes: &[u8]) -> Result<(), VerifyLogError> {
        let wrong = |why: &str| Err(VerifyLogError::Entry(index, why.to_owned()));
        let entry: Entry =
            serde_json::from_slice(bytes).map_err(|e| VerifyLogError::Entry(index, e.to_string()))?;
        if entry.v != 1 || entry.seq != index {
            return wrong("its index is not its place in the log");
        }
        if entry.at_ms < self.last_ms {
            return wrong("its time is before that of the entry before it");
        }
        self.last_ms = entry.at_ms;
        match entry.kind {
            EntryKind::Policy { hash, .. } => {
                self.policies.insert(hash);
            }
            EntryKind::KeyCreated { key, state, .. } => {
                if self.keys.insert(key, state).is_some() {
                    return wrong("a key was made under a name that was used before");
                }
            }
            // [clause 8.7.1-b] the life of each key is walked again, edge by edge
            EntryKind::KeyMoved { key, from, to, .. } => {
                if self.keys.insert(key, to) != Some(from) {
                    return wrong("a key moved from a state that it was not in");
                }
                if !from.next().contains(&to) {
                    return wrong("a key moved along an edge that there is not");
                }
            }
            EntryKind::Intent { request, key, act, policy, debited, .. } => {
                if !matches!(
                    self.keys.get(&key),
                    None | Some(State::Active | State::SweepOnly | State::Deactivated)
                ) {
                    return wrong("a key was used in a state that allows nothing");
                }
                if !self.policies.contains(&policy) {
                    return wrong("it was decided under a policy that no earlier entry announced");
                }
                if self.requests.insert(request, Stage::Open).is_some() {
                    return wrong("its request id stands twice");
                }
                self.report.intents += 1;
                if debited {
                    self.debit(&key, &act).map_err(|why| VerifyLogError::Entry(index, why))?;
                }
            }
            EntryKind::Result { request, .. } => match self.requests.insert(request, Stage::Done) {
                Some(Stage::Open) => self.report.results += 1,
                Some(Stage::Done | Stage::Broken) => return wrong("its request had an outcome already"),
                None => return wrong("a signature was released without an earlier intent"),
            },
            EntryKind::Failed { request, .. } | EntryKind::InDoubt { request } => {
                match self.requests.insert(request, Stage::Broken) {
                    Some(Stage::Open) => self.report.unfinished += 1,
                    Some(Stage::Done | Stage::Broken) => return wrong("its request had an outcome already"),
                    None => return wrong("an outcome stands without an earlier intent"),
                }
            }
            EntryKind::Refusal { .. } => self.report.refusals += 1,
            EntryKind::StrangeOperation { .. } => self.report.strange += 1,
            EntryKind::Start { .. }
            | EntryKind::Stop {}
            | EntryKind::Apps { .. }
            | EntryKind::Waiting { .. }
            | EntryKind::Voice { .. }
            | EntryKind::WaitingEnded { .. }
            | EntryKind::Authority { .. }
            | EntryKind::Users { .. }
            | EntryKind::User(_)
            | EntryKind::ChangeAsked { .. }
            | EntryKind::ChangeEnded { .. }
            | EntryKind::KeyRotated { .. }
            | EntryKind::KeyDestroying { .. }
            | EntryKind::KeyDue { .. }
            | EntryKind::KeyPolicy { .. }
            | EntryKind::SelfTest { .. }
            | EntryKind::Token { .. }
            | EntryKind::Operator { .. } => {}
        }
        Ok(())
    }

    fn debit(&mut self, key: &str, act: &Value) -> Result<(), String> {
        let Some(effect) = act.get("effect") else { return Ok(()) };
        let text = |v: &Value, m: &str| v.get(m).and_then(Value::as_str).map(str::to_owned);
        let amount = text(effect, "amount").or_else(|| text(effect, "value")).unwrap_or_else(|| "0".into());
        let amount = parse_decimal(&amount).ok_or("its amount is no number")?;
        let asset = text(effect, "asset").unwrap_or_else(|| "native".into());
        let name = format!("{key} {} {asset}", text(act, "chain").unwrap_or_default());
        let total = self.totals.entry(name).or_default();
        *total = total.checked_add(amount).ok_or("the sum of amounts is past 2^256")?;
        Ok(())
    }

    fn report(self) -> Report {
        let totals = self.totals.into_iter().map(|(name, total)| (name, total.to_string())).collect();
        let open = self.requests.values().filter(|s| **s == Stage::Open).count() as u64;
        Report { totals, unfinished: self.report.unfinished + open, ..self.report }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::log::export::files;
    use crate::core::units::Timestamp;
    use ed25519_dalek::{Signer, SigningKey};
    use serde_json::json;

    type Files = HashMap<String, Vec<u8>>;

    fn log(kinds: &[EntryKind]) -> Vec<Vec<u8>> {
        (0..)
            .zip(kinds)
            .map(|(i, k)| Entry::encode(i, Timestamp(1000 + i64::try_from(i).unwrap()), k).unwrap())
            .collect()
    }

    fn intent(request: &str) -> EntryKind {
        EntryKind::Intent {
            request: request.into(),
            app: "a".into(),
            tier: "T1".into(),
            key: "k".into(),
            act: json!({"chain": "eip155:1", "effect": {"kind": "transfer", "asset": "native", "amount": "5"}}),
            digest: String::new(),
            rule: "r".into(),
            policy: hex::encode([1; 32]),
            debited: true,
            approved_by: Vec::new(),
            user: None,
        }
    }

    fn result(request: &str) -> EntryKind {
        EntryKind::Result { request: request.into(), signature: None }
    }

    fn signed(entries: &[Vec<u8>]) -> (Files, String) {
        let key = SigningKey::from_bytes(&[5; 32]);
        let public = key.verifying_key().to_bytes();
        let mut tree = Frontier::default();
        entries.iter().for_each(|e| tree.push(leaf_hash(e)));
        let body = checkpoint::body("log", tree.size(), &tree.root());
        let note = checkpoint::note(&body, "log", &public, &key.sign(body.as_bytes()).to_bytes());
        let mut all: Files = files(entries).into_iter().collect();
        all.insert("checkpoint".into(), note.into_bytes());
        (all, checkpoint::verifier_key("log", &public))
    }

    fn check(files: &Files, vkey: &str) -> Result<Report, VerifyLogError> {
        verify(&|name| Ok(files.get(name).cloned()), vkey)
    }

    fn good() -> Vec<EntryKind> {
        let mut kinds = vec![EntryKind::policy([1; 32], 1, 0, "start".into())];
        for i in 0..300 {
            kinds.push(intent(&format!("q{i}")));
            kinds.push(result(&format!("q{i}")));
        }
        kinds
    }

    // [clause 8.7.1-e] test
    #[test]
    fn a_changed_removed_moved_or_added_entry_is_found() {
        let entries = log(&good());
        let (files, vkey) = signed(&entries);
        let report = check(&files, &vkey).unwrap();
        assert_eq!((report.entries, report.intents, report.results), (601, 300, 300));
        assert_eq!(report.totals["k eip155:1 native"], "1500");
        let mut tampered: Vec<Vec<Vec<u8>>> = Vec::new();
        for at in [0, 5, 255, 256, 600] {
            let mut e = entries.clone();
            let end = e[at].len() - 3;
            e[at][end] ^= 1;
            tampered.push(e);
            let mut e = entries.clone();
            e.remove(at);
            tampered.push(e);
            let mut e = entries.clone();
            e.insert(at, entries[at].clone());
            tampered.push(e);
            let mut e = entries.clone();
            e.swap(at, (at + 1) % 601);
            tampered.push(e);
        }
        for e in tampered {
            let mut copy: Files = super::super::export::files(&e).into_iter().collect();
            copy.insert("checkpoint".into(), files["checkpoint"].clone());
            assert!(check(&copy, &vkey).is_err());
        }
        let mut broken = files.clone();
        broken.get_mut("tile/0/000").unwrap()[3] ^= 1;
        assert!(check(&broken, &vkey).is_err());
    }

    #[test]
    fn impossible_stories_are_found_even_when_they_are_signed() {
        for extra in [vec![result("x")], vec![intent("q1")], vec![intent("y"), result("y"), result("y")]] {
            let mut kinds = good();
            kinds.extend(extra);
            let (files, vkey) = signed(&log(&kinds));
            assert!(matches!(check(&files, &vkey), Err(VerifyLogError::Entry(..))));
        }
        let (files, vkey) = signed(&log(&[intent("no-policy")]));
        assert!(check(&files, &vkey).is_err());
    }
}
