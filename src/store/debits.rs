//! What was spent, as it stands in the database.
#![forbid(unsafe_code)]

use rusqlite::{Connection, params};

use super::StoreError;
use super::schema::int;
use crate::core::payment::{Asset, Chain};
use crate::core::policy::window::Debit;
use crate::core::units::{Address, Name, Timestamp, U256};

pub(super) fn insert(db: &Connection, debit: &Debit) -> Result<(), StoreError> {
    let asset: Option<Vec<u8>> = debit.asset.map(|a| match a {
        Asset::Native => Vec::new(),
        Asset::Erc20(contract) => contract.0.to_vec(),
    });
    db.prepare_cached(
        "INSERT INTO debits(at, key, app, chain, asset, amount, dest) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        debit.at.0,
        debit.key.as_str(),
        debit.app.as_str(),
        debit.chain.map(|c| int(c.0)),
        asset,
        debit.amount.to_be_bytes::<32>(),
        debit.to.map(|to| to.0)
    ])?;
    Ok(())
}

/// All from a moment on, oldest first.
pub(super) fn since(db: &Connection, since: Timestamp) -> Result<Vec<Debit>, StoreError> {
    let mut query =
        db.prepare("SELECT at, key, app, chain, asset, amount, dest FROM debits WHERE at >= ?1 ORDER BY id")?;
    let rows = query.query_map([since.0], |r| {
        Ok((
            r.get::<_, i64>(0)?,
            r.get::<_, String>(1)?,
            r.get::<_, String>(2)?,
            r.get::<_, Option<i64>>(3)?,
            r.get::<_, Option<Vec<u8>>>(4)?,
            r.get::<_, [u8; 32]>(5)?,
            r.get::<_, Option<[u8; 20]>>(6)?,
        ))
    })?;
    let mut debits = Vec::new();
    for row in rows {
        let (at, key, app, chain, asset, amount, dest) = row?;
        let asset = match asset.as_deref() {
            None => None,
            Some([]) => Some(Asset::Native),
            Some(bytes) => Some(Asset::Erc20(Address(
                bytes.try_into().map_err(|_| StoreError::Failed("a debit's asset cannot be read".into()))?,
            ))),
        };
        let name = |text: String| {
            Name::parse(&text).ok_or_else(|| StoreError::Failed("a debit's name cannot be read".into()))
        };
        debits.push(Debit {
            at: Timestamp(at),
            key: name(key)?,
            app: name(app)?,
            chain: chain.map(|c| Chain(c.cast_unsigned())),
            asset,
            to: dest.map(Address),
            amount: U256::from_be_bytes(amount),
        });
    }
    Ok(debits)
}
