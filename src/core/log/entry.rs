//! What entries say. What stands here is what an auditor reads.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::key::{Origin, State};
pub use super::format::{Entry, MAX_ENTRY};
use super::{copies::CopyEvent, format, orders::OrderEvent, user::UserEvent};

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EntryKind {
    /// The daemon started.
    Start {
        /// Version.
        version: String,
        /// Boot id of the kernel.
        boot_id: String,
        /// Process id.
        pid: u32,
    },
    /// The daemon stopped in order.
    Stop {},
    /// How long the daemon was there, all in all, on a clock that nobody sets: what waits for people to say no waits by
    /// this, and is dated after all that stands before it.
    Elapsed {
        /// Milliseconds since the log began to count.
        counted_ms: i64,
    },
    /// A key was made, or taken over.
    KeyCreated {
        /// Name.
        key: String,
        /// Algorithm.
        algorithm: String,
        /// Purpose.
        purpose: String,
        /// Public half, hex.
        public: String,
        /// Serial of the token.
        token_serial: String,
        /// `CKA_ID`, hex.
        reference: String,
        /// Where it comes from, and what of its past is unproven.
        #[serde(default = "format::generated")]
        origin: Origin,
        /// The state that it begins in.
        #[serde(default = "format::active")]
        state: State,
        /// Who asked.
        uid: u32,
    },
    /// A key moved along an edge of its life.
    KeyMoved {
        /// Name.
        key: String,
        /// Where it was.
        from: State,
        /// Where it is.
        to: State,
        /// Who moved it.
        actor: String,
        /// Why.
        reason: String,
        /// SHA-256 of the key policy in force.
        key_policy: String,
    },
    /// A successor took over; its own moves stand before this.
    KeyRotated {
        /// The name that policies and apps use.
        line: String,
        /// Predecessor.
        from: String,
        /// Successor.
        to: String,
        /// Who rotated it.
        actor: String,
    },
    /// What is known of what is left in the account of a payment key that somebody wants destroyed.
    Balance {
        /// Key.
        key: String,
        /// Its account.
        account: String,
        /// Who asked.
        uid: u32,
        /// Who states that nothing is left.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// The statement.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// SSHSIG over it, armoured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
        /// Why it is destroyed without such a statement.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waiver: Option<String>,
    },
    /// A key is being destroyed: it does nothing any more. The move that follows says that the token has let it go.
    KeyDestroying {
        /// Name.
        key: String,
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
    /// A state of a key ends soon, or should have ended.
    KeyDue {
        /// Name.
        key: String,
        /// Where it goes.
        to: State,
        /// When: RFC 3339, UTC.
        due: String,
        /// The time has passed and nothing was done.
        overdue: bool,
    },
    /// The security policy of keys came into force.
    KeyPolicy {
        /// SHA-256 of its text.
        hash: String,
        /// Who put it in force.
        uid: u32,
        /// SHA-256 of its text, which is kept beside the log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept: Option<String>,
    },
    /// A policy came into force.
    Policy {
        /// SHA-256 of its text.
        hash: String,
        /// Its length, bytes.
        bytes: usize,
        /// Who put it in force.
        uid: u32,
        /// tightens, loosens, incomparable, neutral, start.
        class: String,
        /// SHA-256 of its text, which is kept beside the log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept: Option<String>,
        /// SHA-256 of each signed book that it names, with its signatures, as they stand in the log.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        books: Vec<String>,
    },
    /// A text whose hash an entry after this announces; a long one in parts. It stands in the log once.
    Document {
        /// `policy`, `book` (signed, as JSON), `key-policy`, `authority`, `apps`, `registrations` or `users`.
        what: String,
        /// SHA-256 of the whole text.
        hash: String,
        /// Which part, from 1.
        part: usize,
        /// How many there are.
        parts: usize,
        /// The part.
        text: String,
    },
    /// The registered apps changed.
    Apps {
        /// SHA-256 of the text.
        hash: String,
        /// How many are in force, manifests included.
        count: usize,
        /// Who.
        uid: u32,
        /// SHA-256 of its text, which is kept beside the log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept: Option<String>,
        /// SHA-256 of what is remembered of each app, with the manifests in force: kept beside the log as well.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        registrations: Option<String>,
    },
    /// A manifest came into force, an app was revoked, or a registration was refused.
    Registration {
        /// App, as far as it is known.
        app: String,
        /// Its serial; 0 where it is not known.
        serial: u64,
        /// `in-force`, `revoked` or `refused`.
        how: String,
        /// People, the fingerprint of a release key, or an operator.
        by: String,
        /// The file that it came in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<String>,
        /// Refusal code, of what was refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        /// In words.
        sentence: String,
        /// Who ran the daemon, or asked.
        uid: u32,
    },
    /// A request was permitted and reserved; the token may sign from here on.
    Intent {
        /// Request id.
        request: String,
        /// App.
        app: String,
        /// Tier of the caller.
        tier: String,
        /// Key.
        key: String,
        /// The decoded payment or message.
        act: Value,
        /// SHA-256 of what is signed.
        digest: String,
        /// The rule that permitted it.
        rule: String,
        /// The policy that was decided under.
        policy: String,
        /// Whether its amount was debited here; false when the same payment was debited by an earlier intent.
        debited: bool,
        /// SHA-256 of the facts about the machine.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        device: String,
        /// People who approved it, where the policy asked for them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        approved_by: Vec<String>,
        /// What identifies the payment, fees aside, where it uses an account nonce; hex.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fingerprint: Option<String>,
        /// The user who was here, where the key has one; what they confirmed stands before this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
    },
    /// A payment waits for people.
    Waiting {
        /// Request id.
        request: String,
        /// App.
        app: String,
        /// Key.
        key: String,
        /// The user that the app ran as: nobody approves what they asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// The text that they sign.
        text: String,
    },
    /// A person approved or refused a payment.
    Voice {
        /// Request id.
        request: String,
        /// Who.
        person: String,
        /// Fingerprint of the key.
        key: String,
        /// Approved.
        yes: bool,
        /// SSHSIG over the text, armoured.
        signature: String,
    },
    /// A payment does not wait any more, and was not signed.
    WaitingEnded {
        /// Request id.
        request: String,
        /// `cancelled`.
        how: String,
    },
    /// Somebody asked for a change that one person cannot make.
    ChangeAsked {
        /// Its id.
        change: String,
        /// What it is about.
        matter: String,
        /// Who asked.
        uid: u32,
        /// The text that people sign.
        text: String,
    },
    /// A change was carried out, or will never be.
    ChangeEnded {
        /// Its id.
        change: String,
        /// made, vetoed, withdrawn, expired, stale or failed.
        how: String,
        /// In words.
        why: String,
    },
    /// The document of the users came into force.
    Users {
        /// SHA-256 of its text.
        hash: String,
        /// How many users.
        users: usize,
        /// Who put it in force.
        uid: u32,
        /// SHA-256 of its text, which is kept beside the log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept: Option<String>,
    },
    /// Something about a user.
    User(UserEvent),
    /// The document of the people who approve came into force.
    Authority {
        /// SHA-256 of its text.
        hash: String,
        /// How many people.
        people: usize,
        /// Who put it in force.
        uid: u32,
        /// SHA-256 of its text, which is kept beside the log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept: Option<String>,
    },
    /// About orders, what they stopped, and leases.
    Order(OrderEvent),
    /// The answer was checked and released.
    Result {
        /// Request id.
        request: String,
        /// SHA-256 of the signature's 64 bytes: `r || s` with s low, or R || S. Absent when the answer is no signature:
        /// of what a key protects, nothing stands here.
        #[serde(skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
    },
    /// The token, or a check after the intent, failed; the reservation stays.
    Failed {
        /// Request id.
        request: String,
        /// Refusal code.
        code: String,
        /// Sentence.
        sentence: String,
    },
    /// Found at start: an intent without an outcome. The reservation stays.
    InDoubt {
        /// Request id.
        request: String,
    },
    /// What the machine is, at the start and whenever it changed.
    Device {
        /// SHA-256 of the facts; intents name it.
        digest: String,
        /// Each fact.
        facts: Value,
        /// What is required and is not so.
        broken: Vec<String>,
    },
    /// The token was tried: what it enforces, and whether payment keys may live in it.
    SelfTest {
        /// Profile that drove it.
        profile: String,
        /// Model and firmware.
        token: String,
        /// Serial number.
        serial: String,
        /// Why payment keys are refused, when they are.
        unfit: Option<String>,
        /// Proofs: what was tried, claimed, found.
        proofs: Value,
    },
    /// The token's availability changed.
    Token {
        /// `probing`, `usable`, `degraded`, `unusable` or `locked`.
        state: String,
        /// Why.
        why: Option<String>,
    },
    /// The token's own log holds an operation that was not asked for here, or lacks what must stand there.
    StrangeOperation {
        /// What was found.
        what: String,
        /// The entry as the device wrote it, or null.
        device: Value,
    },
    /// Rows of the tables changed in the commit of this entry; at each start they must be found so.
    Rows {
        /// SHA-256 over the columns of each, by table and name.
        rows: BTreeMap<String, String>,
    },
    /// What was found of the state directory, or settled about it.
    State {
        /// `sealed`, `anchored`, `refused`, `accepted`.
        what: String,
        /// In words; of what an operator accepted, the reason.
        why: String,
        /// Who, where it was somebody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// Times that a log was accepted so far.
        epoch: u64,
    },
    /// A request was refused.
    Refusal {
        /// Request id, when it had one.
        request: Option<String>,
        /// App, when it is registered.
        app: Option<String>,
        /// Process, user, executable.
        caller: Option<String>,
        /// Account that was asked for.
        account: Option<String>,
        /// Refusal code.
        code: String,
        /// Clause of the derived requirements.
        clause: String,
        /// Sentence.
        sentence: String,
        /// Rule that decided.
        rule: Option<String>,
        /// The decoded payment, when it was decoded.
        act: Option<Value>,
        /// Tier of the caller, where the policy was asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tier: Option<String>,
        /// Refusals of unregistered programs that were counted and not written before this one.
        suppressed: u64,
    },
    /// A quorum came together: what it left behind for everybody to see.
    Ceremony {
        /// Which, from 1.
        epoch: u32,
        /// SHA-256 of its public half.
        quorum: String,
        /// SHA-256 of the document that is kept beside the log.
        hash: String,
        /// Groups that are needed.
        groups_needed: u8,
        /// Threshold and shares of each group.
        groups: Vec<(u8, u8)>,
        /// Commitment of each share, group by group.
        commitments: Vec<Vec<String>>,
        /// Serial of the token that took the wrapping key.
        token_serial: String,
        /// Who held it.
        uid: u32,
    },
    /// A bundle was made, and opened again but for the quorum's part.
    BackupMade {
        /// Key.
        key: String,
        /// Which ceremony it is for.
        epoch: u32,
        /// SHA-256 of the file.
        bundle: String,
        /// What the lock is known again by.
        lock: String,
        /// Places of the vault that hold the lock.
        vaults: Vec<String>,
        /// In how many directories the file stands.
        copies: usize,
    },
    /// The lock of a key was destroyed in every place of the vault: no bundle of it opens any more.
    LockDestroyed {
        /// Key.
        key: String,
        /// The places.
        vaults: Vec<String>,
    },
    /// Something about a copy of a key.
    KeyCopy(CopyEvent),
    /// A key came back from a bundle, and signed in its token.
    KeyRestored {
        /// Key.
        key: String,
        /// Public half, hex.
        public: String,
        /// Serial of the token that it was made in.
        from_serial: String,
        /// Serial of the token that holds it now.
        token_serial: String,
        /// Its id there, hex.
        reference: String,
        /// SHA-256 of the bundle.
        bundle: String,
        /// Who restored it.
        uid: u32,
        /// The old token may be in other hands: the key sweeps, and is never active again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        sweep_only: bool,
    },
    /// Something that somebody must look into: an export that stays behind, a witness that refuses.
    Alarm {
        /// `export-lag`, `export-gap`, `witness`.
        what: String,
        /// Whom it is about.
        about: String,
        /// In words.
        sentence: String,
    },
    /// An operator did something.
    Operator {
        /// Who.
        uid: u32,
        /// What.
        act: String,
        /// Details.
        detail: Value,
    },
}
