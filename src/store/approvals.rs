//! Payments that wait for people, and what people said of them.
#![forbid(unsafe_code)]

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::writer::Work;
use super::{EntryKind, Store, StoreError, rows};
use crate::core::approval::{Needs, Voice};
use crate::core::proof::RequestId;
use crate::core::units::{Address, Name, Timestamp};
use crate::refusal::{Code, Refusal};

/// Most payments of one app that wait at once.
const MOST_OF_AN_APP: i64 = 1000;
/// Most that wait at once.
const MOST: i64 = 10_000;

/// How far a payment is that waits for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitingState {
    /// For more voices.
    Waiting,
    /// Enough of them: the next time it is asked for, it is signed.
    Approved,
    /// It was reserved.
    Used,
    /// Somebody refused it.
    Rejected,
    /// Its app took it back.
    Cancelled,
    /// Its time is over.
    Expired,
}

impl WaitingState {
    const ALL: [Self; 6] =
        [Self::Waiting, Self::Approved, Self::Used, Self::Rejected, Self::Cancelled, Self::Expired];

    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Approved => "approved",
            Self::Used => "used",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// A payment that waits for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The request that asked first.
    pub request: RequestId,
    /// Who asked.
    pub app: Name,
    /// The user that the app ran as.
    pub uid: u32,
    /// With which key.
    pub key: Name,
    /// SHA-256 of what will be signed.
    pub digest: [u8; 32],
    /// The unsigned transaction.
    pub transaction: Vec<u8>,
    /// The account that pays.
    pub account: Address,
    /// The text that people sign.
    pub text: String,
    /// Whose voices.
    pub needs: Needs,
    /// The policy that asked for them.
    pub policy: [u8; 32],
    /// The document that names them.
    pub authority: [u8; 32],
    /// Until when.
    pub expires: Timestamp,
    /// How far it is.
    pub state: WaitingState,
    /// Who said yes.
    pub yes: Vec<String>,
}

impl Waiting {
    /// Whether it can be signed now, under these documents.
    fn holds(&self, policy: [u8; 32], authority: Option<[u8; 32]>, now: Timestamp) -> bool {
        self.policy == policy && Some(self.authority) == authority && now < self.expires
    }
}

const COLUMNS: &str =
    "request, app, uid, key, digest, tx, account, text, quorum, of, policy, authority, expires, state";

fn read(r: &Row<'_>) -> Result<Option<Waiting>, rusqlite::Error> {
    let (app, key, state): (String, String, String) = (r.get(1)?, r.get(3)?, r.get(13)?);
    let request = RequestId(u128::from_be_bytes(r.get(0)?));
    let account = Address(r.get(6)?);
    let (uid, digest, transaction, text) = (r.get(2)?, r.get(4)?, r.get(5)?, r.get(7)?);
    let needs = Needs { quorum: r.get(8)?, of: r.get(9)? };
    let (policy, authority, expires) = (r.get(10)?, r.get(11)?, Timestamp(r.get(12)?));
    Ok((|| {
        Some(Waiting {
            request,
            app: Name::parse(&app)?,
            uid,
            key: Name::parse(&key)?,
            digest,
            transaction,
            account,
            text,
            needs,
            policy,
            authority,
            expires,
            state: WaitingState::ALL.into_iter().find(|s| s.as_str() == state)?,
            yes: Vec::new(),
        })
    })())
}

fn with_voices(
    db: &Connection,
    found: Result<Option<Waiting>, rusqlite::Error>,
) -> Result<Option<Waiting>, StoreError> {
    let mut waiting = match found {
        Err(rusqlite::Error::QueryReturnedNoRows) => return Ok(None),
        found => found?.ok_or_else(|| StoreError::Failed("a waiting payment cannot be read".into()))?,
    };
    let mut query =
        db.prepare_cached("SELECT person FROM voices WHERE request = ?1 AND yes = 1 ORDER BY person")?;
    let rows = query.query_map([waiting.request.0.to_be_bytes()], |r| r.get(0))?;
    waiting.yes = rows.collect::<Result<_, _>>()?;
    Ok(Some(waiting))
}

pub(super) fn one(db: &Connection, request: RequestId) -> Result<Option<Waiting>, StoreError> {
    let mut query = db.prepare_cached(&format!("SELECT {COLUMNS} FROM waiting WHERE request = ?1"))?;
    let row = query.query_row([request.0.to_be_bytes()], read);
    with_voices(db, row)
}

pub(super) fn all_waiting(db: &Connection) -> Result<Vec<Waiting>, StoreError> {
    let mut query = db.prepare_cached(
        "SELECT request FROM waiting WHERE state IN ('waiting', 'approved') ORDER BY expires LIMIT 1000",
    )?;
    let ids: Vec<[u8; 16]> = query.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
    let mut all = Vec::new();
    for id in ids {
        all.extend(one(db, RequestId(u128::from_be_bytes(id)))?);
    }
    Ok(all)
}

/// The one of this app and payload that is not over.
fn current(work: &Work, app: &Name, key: &Name, digest: &[u8; 32]) -> Result<Option<Waiting>, StoreError> {
    let mut query = work.db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM waiting WHERE app = ?1 AND key = ?2 AND digest = ?3 AND state IN ('waiting', 'approved') ORDER BY expires DESC LIMIT 1"
    ))?;
    let row = query.query_row(params![app.as_str(), key.as_str(), digest], read);
    with_voices(&work.db, row)
}

fn set(work: &mut Work, request: RequestId, state: WaitingState) -> Result<(), StoreError> {
    work.touched.insert(rows::waiting(request));
    work.db.execute(
        "UPDATE waiting SET state = ?2 WHERE request = ?1",
        params![request.0.to_be_bytes(), state.as_str()],
    )?;
    Ok(())
}

/// Whether people approved this very payload, under the documents in force; who they are.
// [clause 8.5.4-a] what is signed is what was shown, under the policy and the authority that it was shown under
pub(super) fn approved(
    work: &Work,
    app: &Name,
    key: &Name,
    digest: &[u8; 32],
    policy: [u8; 32],
    authority: Option<[u8; 32]>,
) -> Result<Option<Waiting>, StoreError> {
    let found = current(work, app, key, digest)?;
    Ok(found.filter(|w| w.state == WaitingState::Approved && w.holds(policy, authority, work.now())))
}

/// An approval is used once.
pub(super) fn consume(work: &mut Work, waiting: &Waiting) -> Result<(), StoreError> {
    set(work, waiting.request, WaitingState::Used)
}

/// Writes a payment down that waits, or gives the one that waits already.
pub(super) fn open(work: &mut Work, waiting: Waiting) -> Result<Result<Waiting, Refusal>, StoreError> {
    work.settled()?;
    let now = work.now();
    if let Some(there) = current(work, &waiting.app, &waiting.key, &waiting.digest)? {
        if there.holds(waiting.policy, Some(waiting.authority), now) {
            return Ok(Ok(there));
        }
        set(work, there.request, WaitingState::Expired)?;
    }
    let count = |filter: &str, app: &str| {
        work.db.query_row(
            &format!("SELECT count(*) FROM waiting WHERE state IN ('waiting', 'approved') AND expires > ?1 {filter}"),
            params![now.0, app],
            |r| r.get::<_, i64>(0),
        )
    };
    if count("AND app = ?2", waiting.app.as_str())? >= MOST_OF_AN_APP || count("AND ?2 = ?2", "")? >= MOST {
        let why = format!("{MOST_OF_AN_APP} payments of an app, or {MOST} of all, wait for people already");
        return Ok(Err(Refusal::new(Code::Busy, why)));
    }
    work.db.execute(
        "INSERT INTO waiting VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, 'waiting')",
        params![
            waiting.request.0.to_be_bytes(),
            waiting.app.as_str(),
            waiting.uid,
            waiting.key.as_str(),
            waiting.digest,
            waiting.transaction,
            waiting.account.0,
            waiting.text,
            waiting.needs.quorum,
            waiting.needs.of,
            waiting.policy,
            waiting.authority,
            waiting.expires.0,
        ],
    )?;
    work.touched.insert(rows::waiting(waiting.request));
    work.append(&EntryKind::Waiting {
        request: waiting.request.to_string(),
        app: waiting.app.to_string(),
        key: waiting.key.to_string(),
        uid: Some(waiting.uid),
        text: waiting.text.clone(),
    })?;
    Ok(Ok(waiting))
}

/// Keeps a voice, in the tables and in the log.
pub(super) fn keep_voice(
    work: &mut Work,
    request: RequestId,
    yes: bool,
    voice: &Voice,
    signature: &str,
) -> Result<(), StoreError> {
    keep_counter(work, voice)?;
    work.db.execute(
        "INSERT OR REPLACE INTO voices VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        params![request.0.to_be_bytes(), voice.person, voice.key, yes, work.now().0, signature],
    )?;
    work.append(&EntryKind::Voice {
        request: request.to_string(),
        person: voice.person.clone(),
        key: voice.key.clone(),
        yes,
        signature: signature.to_owned(),
    })?;
    Ok(())
}

/// Keeps the highest counter of an authenticator.
pub(super) fn keep_counter(work: &mut Work, voice: &Voice) -> Result<(), StoreError> {
    if let Some(counter) = voice.counter {
        work.touched.insert(rows::counter(&voice.key));
        work.db.execute(
            "INSERT INTO counters VALUES(?1, ?2) ON CONFLICT(key) DO UPDATE SET counter = max(counter, ?2)",
            params![voice.key, counter],
        )?;
    }
    Ok(())
}

/// Counts a voice: each person once, while the request waits.
pub(super) fn count(
    work: &mut Work,
    request: RequestId,
    yes: bool,
    voice: &Voice,
    signature: &str,
) -> Result<Result<Waiting, Refusal>, StoreError> {
    work.settled()?;
    let Some(waiting) = one(&work.db, request)? else {
        return Ok(Err(Refusal::new(Code::RequestUnknown, format!("no payment {request} waits for people"))));
    };
    if waiting.state != WaitingState::Waiting && waiting.state != WaitingState::Approved {
        let why = format!("payment {request} is {} already", waiting.state.as_str());
        return Ok(Err(Refusal::new(Code::ApprovalStale, why)));
    }
    if work.now() >= waiting.expires {
        set(work, request, WaitingState::Expired)?;
        let why = format!("the time of payment {request} was over at {}", waiting.expires);
        return Ok(Err(Refusal::new(Code::ApprovalStale, why)));
    }
    // Yes and no of one person: the no counts. The same word again does not.
    let before: Option<bool> = work
        .db
        .query_row(
            "SELECT yes FROM voices WHERE request = ?1 AND person = ?2",
            params![request.0.to_be_bytes(), voice.person],
            |r| r.get(0),
        )
        .optional()?;
    if before == Some(yes) || before == Some(false) {
        let why = format!("{} has spoken about payment {request} already", voice.person);
        return Ok(Err(Refusal::new(Code::ApprovalTwice, why)));
    }
    keep_voice(work, request, yes, voice, signature)?;
    let after = one(&work.db, request)?.unwrap_or(waiting);
    let enough = u32::try_from(after.yes.len()).is_ok_and(|n| n >= after.needs.quorum);
    let state = match (yes, enough) {
        (false, _) => WaitingState::Rejected,
        (true, true) => WaitingState::Approved,
        (true, false) => WaitingState::Waiting,
    };
    set(work, request, state)?;
    Ok(Ok(Waiting { state, ..after }))
}

pub(super) fn cancel(work: &mut Work, request: RequestId, app: &Name) -> Result<bool, StoreError> {
    work.settled()?;
    let found = one(&work.db, request)?.filter(|w| &w.app == app);
    let Some(WaitingState::Waiting | WaitingState::Approved) = found.map(|w| w.state) else {
        return Ok(false);
    };
    set(work, request, WaitingState::Cancelled)?;
    work.append(&EntryKind::WaitingEnded {
        request: request.to_string(),
        how: WaitingState::Cancelled.as_str().to_owned(),
    })?;
    Ok(true)
}

/// What waits, and what was approved and not used, is over.
pub(super) fn void(work: &mut Work) -> Result<(), StoreError> {
    let ids: Vec<[u8; 16]> = {
        let mut query =
            work.db.prepare("SELECT request FROM waiting WHERE state IN ('waiting', 'approved')")?;
        query.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?
    };
    for id in ids {
        set(work, RequestId(u128::from_be_bytes(id)), WaitingState::Expired)?;
    }
    Ok(())
}

pub(super) fn counter(db: &Connection, key: &str) -> Result<Option<u32>, StoreError> {
    Ok(db.query_row("SELECT counter FROM counters WHERE key = ?1", [key], |r| r.get(0)).optional()?)
}

impl Store {
    /// A payment waits for people; gives the one that waits already for the same payload.
    pub async fn wait_for_people(&self, waiting: Waiting) -> Result<Result<Waiting, Refusal>, StoreError> {
        self.writer.submit(move |work| open(work, waiting)).await
    }

    /// Counts a voice that was judged; gives the request as it stands then.
    pub async fn count_voice(
        &self,
        request: RequestId,
        yes: bool,
        voice: Voice,
        signature: String,
    ) -> Result<Result<Waiting, Refusal>, StoreError> {
        self.writer.submit(move |work| count(work, request, yes, &voice, &signature)).await
    }

    /// Ends a request that waits: cancelled by its app.
    pub async fn stop_waiting(&self, request: RequestId, app: Name) -> Result<bool, StoreError> {
        self.writer.submit(move |work| cancel(work, request, &app)).await
    }

    /// A request that waits or waited.
    pub async fn waiting(&self, request: RequestId) -> Result<Option<Waiting>, StoreError> {
        self.read(move |db| one(db, request)).await
    }

    /// All that wait now.
    pub async fn all_waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        self.read(all_waiting).await
    }

    /// The highest counter that was seen from an authenticator's key.
    pub async fn counter_of(&self, key: String) -> Result<Option<u32>, StoreError> {
        self.read(move |db| counter(db, &key)).await
    }
}
