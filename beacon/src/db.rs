//! What must outlast a power cut: orders, receipts, signs of life. On disk before anybody is answered.
#![forbid(unsafe_code)]

use std::path::Path;

use rusqlite::{Connection, params};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS orders(hash TEXT PRIMARY KEY, device TEXT NOT NULL, text TEXT NOT NULL,
  signatures TEXT NOT NULL, signers TEXT NOT NULL, taken INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS receipts(hash TEXT PRIMARY KEY, device TEXT NOT NULL, receipt TEXT NOT NULL,
  taken INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS devices(device TEXT PRIMARY KEY, said TEXT NOT NULL, seen INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS heartbeats(id INTEGER PRIMARY KEY CHECK (id = 1), text TEXT NOT NULL,
  signature TEXT NOT NULL) STRICT;
";
const VERSION: i64 = 1;

/// The database.
pub struct Db(Connection);

type Rows<T> = Result<Vec<T>, String>;

fn told(e: rusqlite::Error) -> String {
    format!("the database: {e}")
}

impl Db {
    /// Opens or makes it.
    pub fn open(dir: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let db = Connection::open(dir.join("beacon.db")).map_err(told)?;
        db.pragma_update(None, "journal_mode", "WAL").map_err(told)?;
        db.pragma_update(None, "synchronous", "FULL").map_err(told)?;
        // Two beacons over one folder would not hear of each other's orders.
        db.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(told)?;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(told)?;
        if version > VERSION {
            return Err(format!("the database is of a newer beacon (version {version})"));
        }
        db.execute_batch(SCHEMA).map_err(told)?;
        db.pragma_update(None, "user_version", VERSION).map_err(told)?;
        Ok(Self(db))
    }

    /// Keeps an order. The very same one is kept once.
    pub fn keep_order(
        &self,
        hash: &str,
        device: &str,
        paper: (&str, &[String]),
        signers: &[String],
        now: i64,
    ) -> Result<(), String> {
        let signatures = serde_json::json!(paper.1).to_string();
        self.0
            .execute(
                "INSERT OR IGNORE INTO orders VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![hash, device, paper.0, signatures, signers.join(" "), now],
            )
            .map(drop)
            .map_err(told)
    }

    /// Every order: text, signatures.
    pub fn orders(&self) -> Rows<(String, Vec<String>)> {
        let mut all = self.0.prepare("SELECT text, signatures FROM orders").map_err(told)?;
        let rows = all
            .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
            .map_err(told)?;
        rows.map(|row| {
            let (text, signatures) = row.map_err(told)?;
            Ok((text, serde_json::from_str(&signatures).map_err(|e| format!("an order: {e}"))?))
        })
        .collect()
    }

    /// Keeps a receipt.
    pub fn keep_receipt(&self, hash: &str, device: &str, receipt: &str, now: i64) -> Result<(), String> {
        self.0
            .execute(
                "INSERT OR IGNORE INTO receipts VALUES (?1, ?2, ?3, ?4)",
                params![hash, device, receipt, now],
            )
            .map(drop)
            .map_err(told)
    }

    /// Which orders were answered.
    pub fn answered(&self) -> Rows<(String, String)> {
        let mut all = self.0.prepare("SELECT hash, device FROM receipts").map_err(told)?;
        let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(told)?;
        rows.collect::<Result<_, _>>().map_err(told)
    }

    /// One receipt.
    pub fn receipt(&self, hash: &str) -> Option<String> {
        self.0.query_row("SELECT receipt FROM receipts WHERE hash = ?1", [hash], |row| row.get(0)).ok()
    }

    /// What devices said: hearsay, kept from time to time.
    pub fn keep_said(&mut self, said: &[(String, String, i64)]) -> Result<(), String> {
        let all = self.0.transaction().map_err(told)?;
        for (device, said, seen) in said {
            all.execute("INSERT OR REPLACE INTO devices VALUES (?1, ?2, ?3)", params![device, said, seen])
                .map_err(told)?;
        }
        all.commit().map_err(told)
    }

    /// What they said, without those that were not heard of since `old` and have no order.
    pub fn said(&self, old: i64) -> Rows<(String, String, i64)> {
        self.0
            .execute(
                "DELETE FROM devices WHERE seen < ?1 AND device NOT IN (SELECT device FROM orders)",
                [old],
            )
            .map_err(told)?;
        let mut all = self.0.prepare("SELECT device, said, seen FROM devices").map_err(told)?;
        let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).map_err(told)?;
        rows.collect::<Result<_, _>>().map_err(told)
    }

    /// Keeps the newest sign of life.
    pub fn keep_beat(&self, text: &str, signature: &str) -> Result<(), String> {
        self.0
            .execute("INSERT OR REPLACE INTO heartbeats VALUES (1, ?1, ?2)", [text, signature])
            .map(drop)
            .map_err(told)
    }

    /// The newest sign of life.
    pub fn beat(&self) -> Option<(String, String)> {
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        self.0.query_row("SELECT text, signature FROM heartbeats", [], row).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop where they cannot go on")]

    use super::*;

    #[test]
    fn what_was_kept_is_there_again_and_one_beacon_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Db::open(dir.path()).unwrap();
        db.keep_order("h", "d", ("text", &["s".into()]), &["gina".into()], 5).unwrap();
        db.keep_order("h", "d", ("text", &["t".into()]), &["gus".into()], 6).unwrap();
        db.keep_receipt("h", "d", "r", 7).unwrap();
        db.keep_receipt("h", "d", "other", 8).unwrap();
        db.keep_said(&[
            ("d".into(), "{}".into(), 1),
            ("e".into(), "{}".into(), 1),
            ("f".into(), "{}".into(), 9),
        ])
        .unwrap();
        db.keep_beat("b", "s").unwrap();
        db.keep_beat("c", "s").unwrap();
        assert!(Db::open(dir.path()).is_err(), "it is one beacon's");
        drop(db);
        let db = Db::open(dir.path()).unwrap();
        assert_eq!(db.orders().unwrap(), [("text".to_owned(), vec!["s".to_owned()])]);
        assert_eq!((db.receipt("h").as_deref(), db.receipt("i")), (Some("r"), None));
        assert_eq!(db.answered().unwrap(), [("h".to_owned(), "d".to_owned())]);
        let left: Vec<String> = db.said(5).unwrap().into_iter().map(|(device, ..)| device).collect();
        assert_eq!(left, ["d", "f"], "made-up devices do not stay for ever");
        assert_eq!(db.beat().unwrap().0, "c");
    }
}
