//! The auditor: an exported log, and the keys that he holds, suffice. [clause 8.7.1]
//!
//! Every hash and signature is checked, and then the story that the entries tell is gone through again: lives of keys,
//! the policy that was in force for each payment with its windows, the voices of people. What is wrong is listed, all of
//! it; what could not be shown, because the log did not hold the text for it, is listed apart.
#![forbid(unsafe_code)]

mod apps;
mod balance;
mod changes;
mod copies;
mod lives;
mod people;
mod present;
mod spend;
mod story;
mod texts;
mod tree;

use std::collections::BTreeMap;

use serde::Serialize;

use super::checkpoint::{Head, NoteKey};

/// How a file of the export is read; `None` when there is none.
pub type Reader<'a> = &'a dyn Fn(&str) -> std::io::Result<Option<Vec<u8>>>;

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A file cannot be read.
    #[error("{0} cannot be read: {1}")]
    Read(String, std::io::Error),
    /// A file is missing.
    #[error("{0} is missing")]
    Missing(String),
    /// The checkpoint is none.
    #[error("{0}: {1}")]
    Note(String, super::checkpoint::CheckpointError),
}

macro_rules! rules {
    ($($variant:ident $code:literal $clause:literal $doc:literal;)*) => {
        /// What an honest log keeps. The names are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule { $(#[doc = $doc] $variant,)* }

        impl Rule {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The stable name.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $code,)* } }
            /// The derived requirement behind it.
            #[must_use]
            pub fn clause(self) -> &'static str { match self { $(Self::$variant => $clause,)* } }
            /// What it asks.
            #[must_use]
            pub fn sentence(self) -> &'static str { match self { $(Self::$variant => $doc,)* } }
        }
    };
}

rules! {
    Signature "signature" "8.7.1-e" "the checkpoint is signed by a key that the auditor holds";
    Witnesses "witnesses" "8.7.1-e" "enough witnesses cosigned the checkpoint";
    Tree "tree" "8.7.1-e" "the entries are those that the checkpoint signs";
    Consistency "consistency" "8.7.1-e" "every checkpoint that was ever signed is a beginning of the log";
    Form "form" "8.7.1-e" "an entry has the form of its kind, its place as its number, and no time before the last one's";
    Text "text" "8.7.1-e" "what was in force stands in the log, with the hash that it has";
    KeyBirth "key-birth" "8.7.1-a" "a key is new: no name and no key comes twice, and it begins inactive";
    KeyEdge "key-edge" "8.7.1-b" "a key moves along the edges of its life, from where it is, under the key policy in force";
    KeyUse "key-use" "8.7.1-b" "a key does what its state allows";
    KeyPurpose "key-purpose" "8.7.2-a" "a key does what its purpose is";
    KeyRotation "key-rotation" "8.7.1-g" "a successor is of the same line and purpose, and takes over as its predecessor ends";
    KeyDestroyed "key-destroyed" "8.7.1-h" "a destruction is begun, then finished, and nothing follows it";
    Balance "balance" "8.7.1-t" "before a payment key is destroyed somebody who is named states that nothing is left, or it is waived by name";
    SelfTest "self-test" "8.2.5-a" "a token was tried, and found fit, before its payment keys sign";
    Strange "strange" "8.2.5-e" "after an operation that was not asked for nothing is signed until an operator has looked";
    Outcome "outcome" "8.7.1-d" "every use has one intent before it, and one outcome after it";
    Policy "policy" "8.7.1-c" "every use is permitted by the policy that was in force, within its limits and windows";
    App "app" "8.2.4-a" "every use was asked for by an app that was registered for it, and what was signed of apps was signed by who may";
    User "user" "8.2.3-d" "a key that has a user is used for that user alone, and while they are here";
    Duties "duties" "8.8-d" "whoever is to acknowledge the duties did so, by their text, before a key did something for them";
    Nonce "nonce" "8.4.3-b" "one account nonce, one payment, counted once";
    Order "order" "8.2.1-a" "nothing is used and nothing released while an order stands against it";
    Governance "governance" "8.8-b" "what takes several people was agreed on by them, over its very text, before it was made";
    Delay "delay" "8.8-c" "what waits for people to say no waits as long as it is to, by time that the log counted; the count never falls";
    Approval "approval" "8.5.4-a" "who the policy asks for has signed the text of this payment: enough people, in time, once, and not who asked";
}

/// Something that is wrong, or could not be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Index of the entry, if it is one's.
    pub entry: Option<u64>,
    /// Stable name of the rule.
    pub rule: &'static str,
    /// Requirement behind it.
    pub clause: &'static str,
    /// What.
    pub what: String,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Findings {
    breaches: Vec<Finding>,
    unproven: Vec<Finding>,
}

impl Findings {
    fn breach(&mut self, rule: Rule, entry: impl Into<Option<u64>>, what: impl Into<String>) {
        self.breaches.push(finding(rule, entry.into(), what.into()));
    }

    fn unproven(&mut self, rule: Rule, entry: impl Into<Option<u64>>, what: impl Into<String>) {
        self.unproven.push(finding(rule, entry.into(), what.into()));
    }
}

fn finding(rule: Rule, entry: Option<u64>, what: String) -> Finding {
    Finding { entry, rule: rule.as_str(), clause: rule.clause(), what }
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    index: u64,
    ms: i64,
}

/// Announced and in force are two steps: what was decided under the text before counts for so long, milliseconds.
const CHANGING_MS: i64 = 5000;

/// What the auditor brings.
#[derive(Default)]
pub struct Holdings {
    /// Verifier keys of the log; one that verifies suffices.
    pub keys: Vec<NoteKey>,
    /// Checkpoints that he kept: where each comes from, and the note.
    pub since: Vec<(String, String)>,
    /// Keys of witnesses, and how many of them must have cosigned.
    pub witnesses: Vec<NoteKey>,
    /// How many.
    pub quorum: usize,
    /// Texts that the log may not hold.
    pub texts: Vec<String>,
}

/// What a log says about itself, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Name of the log.
    pub origin: String,
    /// Entries under the checkpoint.
    pub entries: u64,
    /// Root, hex.
    pub root: String,
    /// Other checkpoints that the log was held against.
    pub checkpoints: u64,
    /// Witnesses that cosigned it.
    pub cosigned_by: Vec<String>,
    /// Requests that were reserved.
    pub intents: u64,
    /// Answers that were released.
    pub results: u64,
    /// Requests that were refused.
    pub refusals: u64,
    /// Operations in the token's own log that were not asked for here.
    pub strange: u64,
    /// Alarms that were written down.
    pub alarms: u64,
    /// Intents that failed or were found without an outcome.
    pub unfinished: u64,
    /// Intents that were decided again under the policy in force.
    pub judged: u64,
    /// Payments whose approvals were verified again.
    pub approvals: u64,
    /// Debited amounts in base units, by key, chain and asset.
    pub totals: BTreeMap<String, String>,
    /// What is wrong, all of it.
    pub breaches: Vec<Finding>,
    /// What the log does not hold enough for.
    pub unproven: Vec<Finding>,
}

/// Checks an exported log through a file reader.
// [clause 8.7.1-e] removing, changing or reordering an entry is found here, without the daemon
// [clause 8.7.1-v] all is gone through again, and all that is wrong is listed
pub fn audit(read: Reader<'_>, holdings: &Holdings) -> Result<Report, Unreadable> {
    let mut found = Findings::default();
    let mut story = story::Story::new(&holdings.texts);
    let Head { origin, size, root } =
        tree::check(read, holdings, &mut found, &mut |index, bytes, found| story.entry(index, bytes, found))?;
    let mut report = story.end(&mut found);
    (report.origin, report.entries, report.root) = (origin, size, hex::encode(root));
    (report.checkpoints, report.cosigned_by) = tree::counts(read, holdings)?;
    found.breaches.sort_by_key(|f| f.entry);
    (report.breaches, report.unproven) = (found.breaches, found.unproven);
    Ok(report)
}

#[cfg(test)]
mod tests;
