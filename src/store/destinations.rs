//! When each line of keys was first asked to pay a destination: written in the transaction that asks, told by the log.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, VecDeque};

use rusqlite::{Connection, params};

use super::schema::int;
use super::{EntryKind, StoreError};
use crate::core::log::entry::Entry;
use crate::core::log::mention::mentioned;
use crate::core::payment::{Asset, Payment};
use crate::core::policy::history::Mention;
use crate::core::units::{Address, Name, Timestamp};

/// First mentions as the log tells them: by line of keys and destination.
pub(super) type Mentions = BTreeMap<(String, [u8; 20]), i64>;

/// Keeps what an entry makes known.
pub(super) fn hear(mentions: &mut Mentions, at: i64, kind: &EntryKind) {
    if let Some((line, to)) = mentioned(kind) {
        mentions.entry((line.to_string(), to.0)).or_insert(at);
    }
}

/// Writes a first mention down; a later one changes nothing. Whether it was the first.
pub(super) fn write(db: &Connection, mention: &Mention) -> Result<bool, StoreError> {
    let added = db
        .prepare_cached("INSERT OR IGNORE INTO destinations(line, address, first) VALUES(?1, ?2, ?3)")?
        .execute(params![mention.key.as_str(), mention.to.0, mention.at.0])?;
    Ok(added > 0)
}

fn rows(db: &Connection) -> Result<Mentions, StoreError> {
    let mut query = db.prepare("SELECT line, address, first FROM destinations")?;
    let rows = query.query_map([], |r| Ok(((r.get(0)?, r.get(1)?), r.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// All of them, oldest first.
pub(super) fn all(db: &Connection) -> Result<Vec<Mention>, StoreError> {
    let mut all = Vec::new();
    for ((line, to), at) in rows(db)? {
        let key = Name::parse(&line).ok_or_else(|| {
            StoreError::Failed("the name of a key beside a destination cannot be read".into())
        })?;
        all.push(Mention { key, to: Address(to), at: Timestamp(at) });
    }
    all.sort_by_key(|m| m.at);
    Ok(all)
}

/// Whether the table says what the log says.
pub(super) fn same(db: &Connection, mentions: &Mentions) -> Result<bool, StoreError> {
    Ok(rows(db)? == *mentions)
}

/// A debit of schema 3 as the log tells it.
type Old = (i64, String, String, Option<i64>, Option<Vec<u8>>, Vec<u8>);

/// Schema 3 knew no destinations: they are taken from the log, which is held against its signatures afterwards.
pub(super) fn fill(db: &Connection) -> Result<(), StoreError> {
    let mut mentions = Mentions::new();
    let mut debits: HashMap<Old, VecDeque<Option<Address>>> = HashMap::new();
    let mut query = db.prepare("SELECT data FROM entries ORDER BY seq")?;
    let mut entries = query.query([])?;
    while let Some(row) = entries.next()? {
        let data = row.get_ref(0)?.as_blob().map_err(|e| StoreError::Open(e.to_string()))?;
        // What cannot be read is found, and told, when the whole log is read after this.
        let Ok(entry) = Entry::decode(data) else { continue };
        hear(&mut mentions, entry.at_ms, &entry.kind);
        let EntryKind::Intent { app, key, act, debited: true, .. } = entry.kind else { continue };
        let payment: Option<Payment> = serde_json::from_value(act).ok();
        let spent = payment.as_ref().and_then(|p| p.effect.debit());
        let asset = spent.map(|(asset, _)| match asset {
            Asset::Native => Vec::new(),
            Asset::Erc20(contract) => contract.0.to_vec(),
        });
        let amount = spent.map(|(_, a)| a).unwrap_or_default().to_be_bytes::<32>().to_vec();
        let line = Name::parse(&key).map(|n| n.line().to_string()).unwrap_or_default();
        let row = (entry.at_ms, line, app, payment.as_ref().map(|p| int(p.chain.0)), asset, amount);
        debits.entry(row).or_default().push_back(payment.and_then(|p| p.effect.counterparty()));
    }
    drop(entries);
    for ((line, to), at) in mentions {
        db.execute(
            "INSERT INTO destinations(line, address, first) VALUES(?1, ?2, ?3)",
            params![line, to, at],
        )?;
    }
    let mut query = db.prepare("SELECT id, at, key, app, chain, asset, amount FROM debits ORDER BY id")?;
    let rows: Vec<(i64, Old)> = query
        .query_map([], |r| {
            Ok((r.get(0)?, (r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?, r.get(6)?)))
        })?
        .collect::<Result<_, _>>()?;
    for (id, old) in rows {
        // A row that the log does not tell stays as it is, and is found when they are compared.
        if let Some(Some(to)) = debits.get_mut(&old).and_then(VecDeque::pop_front) {
            db.execute("UPDATE debits SET dest = ?2 WHERE id = ?1", params![id, to.0])?;
        }
    }
    Ok(())
}
