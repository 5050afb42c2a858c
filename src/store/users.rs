//! What is kept of users. Each row is told by the log as well, and compared with it at the start.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::writer::Work;
use super::{EntryKind, Store, StoreError, rows};
use crate::core::log::user::UserEvent;
use crate::core::units::Timestamp;
use crate::core::user::throttle::MOST;
use crate::core::user::{Verifier, fido2};
use crate::refusal::{Code, Refusal};

/// What is kept of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserRow {
    /// Who.
    pub name: String,
    /// The record of their PIN.
    pub verifier: Option<String>,
    /// Tries since the last right one.
    pub tries: u32,
    /// Until an operator has looked.
    pub suspended: bool,
    /// SHA-256 of the code that they may enrol with, and until when.
    pub invite: Option<([u8; 32], Timestamp)>,
}

const COLUMNS: &str = "name, verifier, tries, suspended, invite, invite_expires";

fn read(r: &Row<'_>) -> Result<UserRow, rusqlite::Error> {
    let suspended = match r.get(3)? {
        0i64 => false,
        1 => true,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(3, other)),
    };
    let code: Option<[u8; 32]> = r.get(4)?;
    let expires: Option<i64> = r.get(5)?;
    if code.is_some() != expires.is_some() {
        return Err(rusqlite::Error::InvalidColumnType(
            5,
            "invite_expires".into(),
            r.get_ref(5)?.data_type(),
        ));
    }
    Ok(UserRow {
        name: r.get(0)?,
        verifier: r.get(1)?,
        tries: r.get(2)?,
        suspended,
        invite: code.zip(expires.map(Timestamp)),
    })
}

pub(super) fn one(db: &Connection, name: &str) -> Result<Option<UserRow>, StoreError> {
    let mut query = db.prepare_cached(&format!("SELECT {COLUMNS} FROM users WHERE name = ?1"))?;
    Ok(query.query_row([name], read).optional()?)
}

pub(super) fn all(db: &Connection) -> Result<Vec<UserRow>, StoreError> {
    let mut query = db.prepare_cached(&format!("SELECT {COLUMNS} FROM users ORDER BY name"))?;
    let rows = query.query_map([], read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn unknown(name: &str) -> Refusal {
    Refusal::new(Code::UserUnknown, format!("{name} was never let in by an operator"))
}

fn note(work: &mut Work, event: UserEvent) -> Result<(), StoreError> {
    work.append(&EntryKind::User(event)).map(drop)
}

fn put_verifier(work: &mut Work, name: &str, verifier: &str, how: &str) -> Result<(), StoreError> {
    work.settled()?;
    work.db.execute(
        "UPDATE users SET verifier = ?2, invite = NULL, invite_expires = NULL WHERE name = ?1",
        params![name, verifier],
    )?;
    let (user, how) = (name.to_owned(), how.to_owned());
    note(work, UserEvent::Enrolled { user, verifier: Verifier::hash(verifier), how })
}

fn invite(
    work: &mut Work,
    name: &str,
    code: [u8; 32],
    expires: Timestamp,
    uid: u32,
    reason: &str,
) -> Result<(), StoreError> {
    work.settled()?;
    work.db.execute(
        "INSERT OR REPLACE INTO users(name, verifier, tries, suspended, invite, invite_expires) VALUES(?1, NULL, 0, 0, ?2, ?3)",
        params![name, code, expires.0],
    )?;
    note(
        work,
        UserEvent::Invited {
            user: name.to_owned(),
            code: hex::encode(code),
            expires_ms: expires.0,
            uid,
            reason: reason.to_owned(),
        },
    )
}

fn enrol(
    work: &mut Work,
    name: &str,
    code: [u8; 32],
    verifier: &str,
) -> Result<Result<(), Refusal>, StoreError> {
    let now = work.now();
    let open = one(&work.db, name)?.and_then(|row| row.invite);
    if open.is_none_or(|(there, expires)| there != code || now >= expires) {
        let why = format!("this is no code that {name} may enrol with now");
        return Ok(Err(Refusal::new(Code::UserCode, why)));
    }
    put_verifier(work, name, verifier, "enrolled")?;
    Ok(Ok(()))
}

/// Counts a try. `shown` is what the log calls whoever tries.
// [clause 8.2.3-e] on disk before anything is compared: whoever cuts the power has tried
fn count_try(
    work: &mut Work,
    name: Option<&str>,
    shown: &str,
    what: &str,
    most: u32,
) -> Result<Result<u32, Refusal>, StoreError> {
    work.settled()?;
    let mut tries = 0;
    if let Some(name) = name
        && let Some(row) = one(&work.db, name)?
    {
        if row.suspended || row.tries >= most.min(MOST) {
            let why = format!("{} wrong PINs were typed", row.tries);
            return Ok(Err(Refusal::new(Code::UserSuspended, why)));
        }
        tries = row.tries.saturating_add(1);
        work.db.execute("UPDATE users SET tries = ?2 WHERE name = ?1", params![name, tries])?;
    }
    note(work, UserEvent::Try { user: shown.to_owned(), what: what.to_owned() })?;
    Ok(Ok(tries))
}

fn proved(work: &mut Work, name: &str, what: &str, verifier: Option<&str>) -> Result<(), StoreError> {
    work.settled()?;
    work.db.execute("UPDATE users SET tries = 0 WHERE name = ?1", [name])?;
    note(work, UserEvent::Proved { user: name.to_owned(), what: what.to_owned() })?;
    if let Some(verifier) = verifier {
        put_verifier(work, name, verifier, "upgraded")?;
    }
    Ok(())
}

fn suspend(work: &mut Work, name: &str, why: &str) -> Result<(), StoreError> {
    work.db.execute("UPDATE users SET suspended = 1 WHERE name = ?1", [name])?;
    note(work, UserEvent::Suspended { user: name.to_owned(), why: why.to_owned() })
}

/// Keeps what an authenticator counted, unless it comes from a copy.
fn count_up(work: &mut Work, authenticator: &str, counter: u32) -> Result<Result<(), Refusal>, StoreError> {
    let last = super::approvals::counter(&work.db, authenticator)?;
    // [clause 8.2.3-h] compared and kept in one transaction, so that no two signatures share a number
    if !fido2::rises(last, counter) {
        let why = format!("the counter of {authenticator} does not rise: it may have been copied");
        return Ok(Err(Refusal::new(Code::UserAssertion, why)));
    }
    work.db.execute(
        "INSERT INTO counters VALUES(?1, ?2) ON CONFLICT(key) DO UPDATE SET counter = max(counter, ?2)",
        params![authenticator, counter],
    )?;
    work.touched.insert(rows::counter(authenticator));
    Ok(Ok(()))
}

/// What the log says of each user.
#[derive(Default)]
pub(super) struct Told(BTreeMap<String, UserTold>);

/// Of a user: SHA-256 of the record, tries, whether suspended, SHA-256 of an open code and its end.
#[derive(Default, PartialEq, Eq)]
struct UserTold {
    verifier: Option<String>,
    tries: u32,
    suspended: bool,
    invite: Option<(String, i64)>,
}

impl Told {
    pub(super) fn hear(&mut self, event: UserEvent) {
        match event {
            UserEvent::Invited { user, code, expires_ms, .. } => {
                let told = UserTold { invite: Some((code, expires_ms)), ..UserTold::default() };
                self.0.insert(user, told);
            }
            UserEvent::Enrolled { user, verifier, .. } => {
                self.of(&user, |told| (told.verifier, told.invite) = (Some(verifier), None));
            }
            UserEvent::Try { user, .. } => self.of(&user, |told| told.tries = told.tries.saturating_add(1)),
            UserEvent::Proved { user, .. } => self.of(&user, |told| told.tries = 0),
            UserEvent::Suspended { user, .. } => self.of(&user, |told| told.suspended = true),
            _ => {}
        }
    }

    fn of(&mut self, user: &str, change: impl FnOnce(&mut UserTold)) {
        if let Some(told) = self.0.get_mut(user) {
            change(told);
        }
    }

    /// Tries are not given back by changing a row: each is read as strictly as it is written, so that no cell is free.
    // [clause 8.2.3-e] a count that was set back behind the daemon's back is found before the next try
    pub(super) fn agrees(&self, db: &Connection) -> Result<bool, StoreError> {
        let rows = all(db)?;
        let same = |row: &UserRow| {
            let found = UserTold {
                verifier: row.verifier.as_deref().map(Verifier::hash),
                tries: row.tries,
                suspended: row.suspended,
                invite: row.invite.map(|(code, at)| (hex::encode(code), at.0)),
            };
            self.0.get(&row.name) == Some(&found)
        };
        Ok(rows.len() == self.0.len() && rows.iter().all(same))
    }
}

impl Store {
    /// One user.
    pub async fn user(&self, name: String) -> Result<Option<UserRow>, StoreError> {
        self.read(move |db| one(db, &name)).await
    }

    /// All users that were ever let in.
    pub async fn users(&self) -> Result<Vec<UserRow>, StoreError> {
        self.read(all).await
    }

    /// Lets a user enrol, once, with a code.
    pub async fn invite_user(
        &self,
        name: String,
        code: [u8; 32],
        expires: Timestamp,
        uid: u32,
        reason: String,
    ) -> Result<(), StoreError> {
        self.writer.submit(move |work| invite(work, &name, code, expires, uid, &reason)).await
    }

    /// Takes the record of a PIN, for a code that was given out.
    pub async fn enrol_user(
        &self,
        name: String,
        code: [u8; 32],
        verifier: String,
    ) -> Result<Result<(), Refusal>, StoreError> {
        self.writer.submit(move |work| enrol(work, &name, code, &verifier)).await
    }

    /// Puts another record in place: of a user who proved the old PIN just now.
    pub async fn change_user(
        &self,
        name: String,
        verifier: String,
    ) -> Result<Result<(), Refusal>, StoreError> {
        self.writer
            .submit(move |work| {
                if one(&work.db, &name)?.is_none() {
                    return Ok(Err(unknown(&name)));
                }
                put_verifier(work, &name, &verifier, "changed").map(Ok)
            })
            .await
    }

    /// Counts a try before it is compared; gives its number.
    pub async fn count_try(
        &self,
        name: Option<String>,
        shown: String,
        what: &'static str,
        most: u32,
    ) -> Result<Result<u32, Refusal>, StoreError> {
        self.writer.submit(move |work| count_try(work, name.as_deref(), &shown, what, most)).await
    }

    /// The PIN was right: tries begin anew. A record that got old is replaced.
    pub async fn user_proved(
        &self,
        name: String,
        what: &'static str,
        verifier: Option<String>,
    ) -> Result<(), StoreError> {
        self.writer.submit(move |work| proved(work, &name, what, verifier.as_deref())).await
    }

    /// Nothing more until an operator has looked.
    pub async fn suspend_user(&self, name: String, why: String) -> Result<(), StoreError> {
        self.writer.submit(move |work| suspend(work, &name, &why)).await
    }

    /// Writes a confirmation down, with the counter of the authenticator that made it.
    pub async fn user_confirmed(
        &self,
        event: UserEvent,
        counter: Option<(String, u32)>,
    ) -> Result<Result<(), Refusal>, StoreError> {
        self.writer
            .submit(move |work| {
                work.settled()?;
                if let Some((authenticator, counter)) = counter
                    && let Err(refusal) = count_up(work, &authenticator, counter)?
                {
                    return Ok(Err(refusal));
                }
                note(work, event).map(Ok)
            })
            .await
    }
}
