//! Orders, in the log: what stands against this device is what its entries come to, and nothing else.
#![forbid(unsafe_code)]

use rusqlite::{Connection, OptionalExtension};

use super::writer::Work;
use super::{EntryKind, Store, StoreError, rows};
use crate::core::approval::Voice;
use crate::core::log::orders::OrderEvent;
use crate::core::log::orders::follow;
use crate::core::order::{Effect, NotHeard, Order, Reactivation, Standing};
use crate::core::units::Timestamp;

/// An order that was heard, and is durable.
pub struct HeardOrder {
    /// What it changed.
    pub effect: Effect,
    /// Its entry in the log.
    pub index: u64,
    /// When.
    pub at: Timestamp,
    /// What stands from now on.
    pub standing: Standing,
}

/// A reactivation as it was judged.
pub struct Lifted {
    /// What people signed.
    pub asked: Reactivation,
    /// Their signatures.
    pub signatures: Vec<String>,
    /// Their voices.
    pub voices: Vec<Voice>,
    /// What the latch shows from now on, where it is moved.
    pub latch: Option<u64>,
}

/// What stands, as it is kept beside the log.
pub(super) fn kept(db: &Connection) -> Result<Option<String>, StoreError> {
    let found: Option<Vec<u8>> =
        db.query_row("SELECT value FROM meta WHERE name = 'standing'", [], |r| r.get(0)).optional()?;
    Ok(found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Appends an entry, follows it, and keeps what stands then: one commit.
fn write(work: &mut Work, kind: &EntryKind) -> Result<u64, StoreError> {
    let index = work.append(kind)?;
    follow(&mut work.standing, kind);
    work.save("standing", work.standing.encode().as_bytes())?;
    Ok(index)
}

fn hear(
    work: &mut Work,
    order: &Order,
    entry: EntryKind,
) -> Result<Result<HeardOrder, NotHeard>, StoreError> {
    let effect = match work.standing.clone().hear(order) {
        Ok(effect) => effect,
        Err(why) => return Ok(Err(why)),
    };
    let index = write(work, &entry)?;
    Ok(Ok(HeardOrder { effect, index, at: work.entry_time(), standing: work.standing.clone() }))
}

fn lift(work: &mut Work, lifted: &Lifted) -> Result<Result<Standing, NotHeard>, StoreError> {
    if let Err(why) = work.standing.may_lift(&lifted.asked) {
        return Ok(Err(why));
    }
    for voice in &lifted.voices {
        super::approvals::keep_counter(work, voice)?;
    }
    write(
        work,
        &EntryKind::Order(OrderEvent::Reactivated {
            text: lifted.asked.render(),
            signatures: lifted.signatures.clone(),
            by: lifted.voices.iter().map(|v| v.person.clone()).collect(),
            latch: lifted.latch,
        }),
    )?;
    Ok(Ok(work.standing.clone()))
}

impl Store {
    /// What stands against this device.
    pub async fn standing(&self) -> Result<Standing, StoreError> {
        self.writer.submit(|work| Ok(work.standing.clone())).await
    }

    /// Hears an order that was judged; its entry says how it was heard.
    // [clause 8.2.1-a] durable before it is answered
    pub async fn hear_order(
        &self,
        order: Order,
        entry: EntryKind,
    ) -> Result<Result<HeardOrder, NotHeard>, StoreError> {
        self.writer.submit(move |work| hear(work, &order, entry)).await
    }

    /// Lifts what people agreed on.
    pub async fn lift_order(&self, lifted: Lifted) -> Result<Result<Standing, NotHeard>, StoreError> {
        self.writer.submit(move |work| lift(work, &lifted)).await
    }

    /// Writes a challenge, what the latch shows, or a wipe down; gives what stands then.
    pub async fn note_order(&self, entry: EntryKind) -> Result<Standing, StoreError> {
        self.writer.submit(move |work| write(work, &entry).map(|_| work.standing.clone())).await
    }

    /// Keeps what an order was answered with.
    pub async fn keep_receipt(&self, order: String, receipt: String) -> Result<(), StoreError> {
        self.writer
            .submit(move |work| {
                work.touched.insert(rows::receipt(&order));
                work.save(&format!("receipt:{order}"), receipt.as_bytes())
            })
            .await
    }

    /// What an order was answered with.
    pub async fn receipt(&self, order: String) -> Result<Option<String>, StoreError> {
        self.read(move |db| {
            let found: Option<Vec<u8>> = db
                .query_row("SELECT value FROM meta WHERE name = ?1", [format!("receipt:{order}")], |r| {
                    r.get(0)
                })
                .optional()?;
            Ok(found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        })
        .await
    }
}
