//! Changes that wait for people, and the documents in force.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::writer::Work;
use super::{EntryKind, Store, StoreError, rows};
use crate::core::approval::change::Tally;
use crate::core::approval::{Authority, Change, KeptVoice, Voice};
use crate::core::proof::RequestId;
use crate::core::units::Timestamp;
use crate::refusal::{Code, Refusal};

/// Most changes that wait at once.
const MOST: i64 = 100;

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeState {
    /// For more voices.
    Waiting,
    /// Enough of them; the time for a veto runs.
    Agreed,
    /// It was carried out.
    Made,
    /// Somebody said no.
    Vetoed,
    /// Who asked took it back.
    Withdrawn,
    /// Its time is over.
    Expired,
    /// What it started from is not in force any more.
    Stale,
    /// It could not be carried out.
    Failed,
}

impl ChangeState {
    const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Agreed,
        Self::Made,
        Self::Vetoed,
        Self::Withdrawn,
        Self::Expired,
        Self::Stale,
        Self::Failed,
    ];

    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Agreed => "agreed",
            Self::Made => "made",
            Self::Vetoed => "vetoed",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
            Self::Stale => "stale",
            Self::Failed => "failed",
        }
    }

    /// Whether something may still become of it.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Waiting | Self::Agreed)
    }
}

/// A change with all that was said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What is asked.
    pub change: Change,
    /// How far it is.
    pub state: ChangeState,
    /// When its delay is over, by the count of time ([`Store::counted`]).
    pub opens: Option<i64>,
    /// What people said.
    pub voices: Vec<KeptVoice>,
}

fn read(r: &Row<'_>) -> Result<Option<Pending>, rusqlite::Error> {
    let (data, state, opens): (String, String, Option<i64>) = (r.get(0)?, r.get(1)?, r.get(2)?);
    Ok((|| {
        Some(Pending {
            change: serde_json::from_str(&data).ok()?,
            state: ChangeState::ALL.into_iter().find(|s| s.as_str() == state)?,
            opens,
            voices: Vec::new(),
        })
    })())
}

pub(super) fn one(db: &Connection, id: RequestId) -> Result<Option<Pending>, StoreError> {
    let found = db
        .prepare_cached("SELECT data, state, opens FROM changes WHERE id = ?1")?
        .query_row([id.0.to_be_bytes()], read)
        .optional()?;
    let Some(found) = found else { return Ok(None) };
    let mut pending = found.ok_or_else(|| StoreError::Tampered(format!("change {id} cannot be read")))?;
    let mut query = db.prepare_cached(
        "SELECT person, yes, at, signature FROM voices WHERE request = ?1 ORDER BY at, person",
    )?;
    let rows = query.query_map([id.0.to_be_bytes()], |r| {
        Ok(KeptVoice { person: r.get(0)?, yes: r.get(1)?, at: Timestamp(r.get(2)?), signature: r.get(3)? })
    })?;
    pending.voices = rows.collect::<Result<_, _>>()?;
    Ok(Some(pending))
}

/// All that something may become of.
pub(super) fn all_open(db: &Connection) -> Result<Vec<Pending>, StoreError> {
    let mut query = db
        .prepare_cached("SELECT id FROM changes WHERE state IN ('waiting', 'agreed') ORDER BY expires, id")?;
    let ids: Vec<[u8; 16]> = query.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
    let mut all = Vec::new();
    for id in ids {
        all.extend(one(db, RequestId(u128::from_be_bytes(id)))?);
    }
    Ok(all)
}

fn set(work: &mut Work, id: RequestId, state: ChangeState, opens: Option<i64>) -> Result<(), StoreError> {
    work.touched.insert(rows::change(id));
    work.db.execute(
        "UPDATE changes SET state = ?2, opens = ?3 WHERE id = ?1",
        params![id.0.to_be_bytes(), state.as_str(), opens],
    )?;
    Ok(())
}

/// Writes down what is asked.
pub(super) fn open(work: &mut Work, change: &Change, text: &str) -> Result<Result<(), Refusal>, StoreError> {
    let count: i64 =
        work.db.query_row("SELECT count(*) FROM changes WHERE state IN ('waiting', 'agreed')", [], |r| {
            r.get(0)
        })?;
    if count >= MOST {
        let why = format!("{MOST} changes wait for people already: withdraw or decide some");
        return Ok(Err(Refusal::new(Code::Busy, why)));
    }
    let id = change.request().ok_or_else(|| StoreError::Failed("a change without an id".into()))?;
    work.touched.insert(rows::change(id));
    let data = serde_json::to_string(change).map_err(|e| StoreError::Failed(e.to_string()))?;
    work.db.execute(
        "INSERT INTO changes(id, data, state, opens, expires) VALUES(?1, ?2, 'waiting', NULL, ?3)",
        params![id.0.to_be_bytes(), data, change.expires.0],
    )?;
    work.append(&EntryKind::ChangeAsked {
        change: change.id.clone(),
        matter: change.matter.as_str().to_owned(),
        uid: change.uid,
        text: text.to_owned(),
    })?;
    Ok(Ok(()))
}

fn stale(why: String) -> Result<Pending, Refusal> {
    Err(Refusal::new(Code::ApprovalStale, why))
}

/// Counts a voice that was judged: each person once, while the change is open.
pub(super) fn count(
    work: &mut Work,
    id: RequestId,
    yes: bool,
    voice: &Voice,
    signature: &str,
    authority: &Authority,
) -> Result<Result<Pending, Refusal>, StoreError> {
    let Some(pending) = one(&work.db, id)? else {
        return Ok(Err(Refusal::new(Code::RequestUnknown, format!("no change {id} waits for people"))));
    };
    if !pending.state.is_open() {
        return Ok(stale(format!("change {id} is {} already", pending.state.as_str())));
    }
    if work.now() >= pending.change.expires {
        end(work, id, ChangeState::Expired, "its time is over")?;
        return Ok(stale(format!("the time of change {id} was over at {}", pending.change.expires)));
    }
    // Yes and no of one person: the no counts. The same word again does not.
    let before = pending.voices.iter().find(|v| v.person == voice.person).map(|v| v.yes);
    if before == Some(yes) || before == Some(false) {
        let why = format!("{} has spoken about change {id} already", voice.person);
        return Ok(Err(Refusal::new(Code::ApprovalTwice, why)));
    }
    work.touched.insert(rows::change(id));
    super::approvals::keep_voice(work, id, yes, voice, signature)?;
    let after = one(&work.db, id)?.unwrap_or(pending);
    let tally: Tally = after.change.tally(authority, &after.voices);
    let (state, opens) = if !tally.no.is_empty() {
        end(work, id, ChangeState::Vetoed, &format!("{} said no", voice.person))?;
        (ChangeState::Vetoed, None)
    } else if after.change.is_agreed(&tally) {
        (ChangeState::Agreed, Some(begin_delay(work, id, &after.change)?))
    } else {
        (ChangeState::Waiting, None)
    };
    Ok(Ok(Pending { state, opens, ..after }))
}

/// Enough have agreed: from here on the delay is counted. The count stands in the log behind the voice.
fn begin_delay(work: &mut Work, id: RequestId, change: &Change) -> Result<i64, StoreError> {
    work.count()?;
    let opens = change.over_at(work.clock.told.total());
    set(work, id, ChangeState::Agreed, Some(opens))?;
    Ok(opens)
}

/// Ends a change, whatever became of it.
pub(super) fn end(work: &mut Work, id: RequestId, state: ChangeState, why: &str) -> Result<(), StoreError> {
    set(work, id, state, None)?;
    work.append(&EntryKind::ChangeEnded {
        change: id.to_string(),
        how: state.as_str().to_owned(),
        why: why.to_owned(),
    })?;
    Ok(())
}

/// Appends the entry of documents that come into force together, and keeps their texts.
pub(super) fn documents(
    work: &mut Work,
    kind: &EntryKind,
    documents: &[(&'static str, String)],
) -> Result<(), StoreError> {
    work.append(kind)?;
    for (name, text) in documents {
        work.db.execute(
            "INSERT OR REPLACE INTO meta(name, value) VALUES(?1, ?2)",
            params![format!("document:{name}"), text.as_bytes()],
        )?;
    }
    Ok(())
}

/// The text of a document in force, as it was kept.
pub(super) fn kept_document(db: &Connection, name: &str) -> Result<Option<String>, StoreError> {
    let found: Option<Vec<u8>> = db
        .query_row("SELECT value FROM meta WHERE name = ?1", [format!("document:{name}")], |r| r.get(0))
        .optional()?;
    found
        .map(|bytes| {
            String::from_utf8(bytes)
                .map_err(|_| StoreError::Tampered(format!("the {name} in force cannot be read")))
        })
        .transpose()
}

impl Store {
    /// A change that waits for people.
    pub async fn open_change(&self, change: Change, text: String) -> Result<Result<(), Refusal>, StoreError> {
        self.writer.submit(move |work| open(work, &change, &text)).await
    }

    /// Counts a voice about a change that was judged; gives the change as it stands then.
    pub async fn count_change_voice(
        &self,
        id: RequestId,
        yes: bool,
        voice: Voice,
        signature: String,
        authority: Arc<Authority>,
    ) -> Result<Result<Pending, Refusal>, StoreError> {
        self.writer.submit(move |work| count(work, id, yes, &voice, &signature, &authority)).await
    }

    /// Begins the delay of a change anew, that was agreed on before time was counted.
    pub async fn begin_delay(&self, change: Change) -> Result<(), StoreError> {
        let Some(id) = change.request() else { return Ok(()) };
        self.writer.submit(move |work| begin_delay(work, id, &change).map(drop)).await
    }

    /// Ends a change.
    pub async fn end_change(&self, id: RequestId, state: ChangeState, why: String) -> Result<(), StoreError> {
        self.writer.submit(move |work| end(work, id, state, &why)).await
    }

    /// A change, open or not.
    pub async fn change(&self, id: RequestId) -> Result<Option<Pending>, StoreError> {
        self.read(move |db| one(db, id)).await
    }

    /// All changes that something may become of.
    pub async fn open_changes(&self) -> Result<Vec<Pending>, StoreError> {
        self.read(all_open).await
    }
}
