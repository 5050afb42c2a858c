//! Every cell of every table, and the bytes of the file: changed behind the daemon's back, it is found, or it is shown
//! that nothing reads it.
use std::collections::BTreeMap;
use std::path::Path;

use ed25519_dalek::{Signer, SigningKey};
use rusqlite::types::Value as Cell;

use super::tests::{ask, because, key, ready};
use super::*;
use crate::core::app::Apps;
use crate::core::app::memory::Memory;
use crate::core::approval::{Change, Deed, Matter, Needs, Quorum, Voice};
use crate::core::key::copies::CopyKind;
use crate::core::key::{PublicKey, Purpose};
use crate::core::log::checkpoint;
use crate::core::log::orders::OrderEvent;
use crate::core::log::user::UserEvent;
use crate::core::order::Scope;
use crate::core::units::Address;
use crate::secret::SecretBytes;

fn sealer() -> SealKey {
    SealKey::new([7; 32], SecretBytes::copy_of(&[8; 32]))
}

fn state_entry(what: &str) -> EntryKind {
    EntryKind::State { what: what.into(), why: "test".into(), uid: None, epoch: 0 }
}

fn waits(n: u8) -> Waiting {
    Waiting {
        request: RequestId(1000 + u128::from(n)),
        app: Name::parse("a").unwrap(),
        uid: 7,
        key: Name::parse("k").unwrap(),
        digest: [n; 32],
        transaction: vec![n, 2, 3],
        account: Address([n; 20]),
        text: format!("pay {n}"),
        needs: Needs { quorum: 2, of: "treasury".into() },
        policy: [1; 32],
        authority: [2; 32],
        expires: Timestamp(i64::MAX / 2),
        state: WaitingState::Waiting,
        yes: Vec::new(),
    }
}

fn asked_for(n: u128) -> Change {
    Change {
        id: RequestId(2000 + n).to_string(),
        matter: Matter::Policy,
        deed: Deed::Document { from: "aa".into(), body: format!("schema = {n}") },
        uid: 7,
        person: None,
        detail: vec!["loosens".into()],
        authority: "bb".into(),
        quorum: Quorum { needs: Needs { quorum: 2, of: "treasury".into() }, delay_ms: 5 },
        also: None,
        expires: Timestamp(i64::MAX / 2),
        nonce: "cc".into(),
    }
}

async fn sign_head(store: &Store, signer: &SigningKey) {
    let head = store.log_head();
    let body = checkpoint::body("o", head.size, &head.root);
    let signature = signer.sign(body.as_bytes()).to_bytes();
    let note = checkpoint::note(&body, "o", signer.verifying_key().as_bytes(), &signature);
    store.save_checkpoint(head.size, note).await.unwrap();
}

/// All kinds of rows, three of each where there can be, in one file.
async fn furnished(dir: &Path) {
    let store = ready(dir, 1000).await;
    let signer = SigningKey::from_bytes(&[5; 32]);
    let log_key = KeyRecord {
        purpose: Purpose::Integrity,
        public: PublicKey::Ed25519(signer.verifying_key().to_bytes()),
        ..key(LOG_KEY, 3)
    };
    store.insert_key(log_key, 0).await.unwrap();
    store.settle(Some(sealer()), vec![state_entry("sealed")]).await.unwrap();
    store.note_anchor(store.log_head().size, Some(state_entry("anchored"))).await.unwrap();
    for n in 0..4u8 {
        let mut asking = ask(u128::from(n), 7, u64::from(n), 1);
        let to = Address([2 + n; 20]);
        asking.debit.to = Some(to);
        asking.act["effect"]["to"] = serde_json::json!(to);
        let asked = store.reserve(asking).await.unwrap();
        let ReserveReply::New(reserved) = asked else { panic!("not reserved") };
        if n > 0 {
            let _recorded = store.finish(reserved.request(), Some([n; 64])).await.unwrap();
        }
        sign_head(&store, &signer).await;
    }
    store.insert_key(key("next", 9), 0).await.unwrap();
    for n in 1..4 {
        let waiting = store.wait_for_people(waits(n)).await.unwrap().unwrap();
        let person = format!("p{n}");
        let voice = Voice { person, key: format!("f{n}"), counter: Some(u32::from(n)) };
        store.count_voice(waiting.request, n < 3, voice, "armoured".into()).await.unwrap().unwrap();
    }
    for n in 1..4 {
        let change = asked_for(n);
        let text = change.render("d");
        store.open_change(change, text).await.unwrap().unwrap();
    }
    for n in 1..3 {
        let order = super::order_tests::order(n, Scope::Key(Name::parse("other").unwrap()));
        let hash = order.hash();
        let entry = super::order_tests::entry(&order);
        store.hear_order(order, entry).await.unwrap().unwrap();
        store.keep_receipt(hash, format!("receipt {n}")).await.unwrap();
    }
    let user = |n: u32| format!("u{n}");
    for n in 1..4 {
        store.invite_user(user(n), [1; 32], Timestamp(i64::MAX), 0, "t".into()).await.unwrap();
    }
    for n in 1..3 {
        store.enrol_user(user(n), [1; 32], format!("{{{n}}}")).await.unwrap().unwrap();
        store.count_try(Some(user(n)), user(n), "test", 10).await.unwrap().unwrap();
        store.suspend_user(user(n), "t".into()).await.unwrap();
    }
    let confirmed = UserEvent::Refused { request: RequestId(5).to_string(), user: user(1) };
    store.user_confirmed(confirmed, Some(("authenticator".into(), 5))).await.unwrap().unwrap();
    let policy = crate::core::key::policy::KeyPolicy::parse(crate::core::key::policy::BUILT_IN).unwrap();
    let next = Name::parse("next").unwrap();
    let plate = |n: u8| {
        let mark = format!("{n}");
        crate::core::key::copies::KeyCopy::new(CopyKind::Medium, format!("plate {n}"), mark, Timestamp(1))
    };
    store.note_copies(Name::parse("k").unwrap(), vec![plate(1)], Some(7)).await.unwrap();
    store.begin_destroying(next.clone(), because()).await.unwrap().unwrap();
    store.owe_copies(next.clone(), vec![plate(2), plate(3)], policy.deadlines).await.unwrap().unwrap();
    store
        .copy_gone(next, CopyKind::Medium, "plate 3".into(), "daemon".into(), "removed".into())
        .await
        .unwrap()
        .unwrap();
    store.end_change(RequestId(2001), ChangeState::Withdrawn, "x".into()).await.unwrap();
    store.move_key(Name::parse("k").unwrap(), State::Suspended, because()).await.unwrap().unwrap();
    store.close().await;
    drop(store);
    let file = dir.join("state/claviger.db");
    Connection::open(file).unwrap().execute_batch("VACUUM; PRAGMA journal_mode = DELETE").unwrap();
}

/// What a start says of it: the store's own word, then that of the seal.
async fn verdict(dir: &Path) -> Result<(), StoreError> {
    let store = Store::open(StoreConfig { dir: dir.join("state"), allow_volatile: true, fs_magic: 0 })?;
    let judged = store.found().judge(Some(&sealer())).map_err(StoreError::Tampered);
    store.close().await;
    judged
}

fn put_back(dir: &Path, bytes: &[u8]) {
    for beside in ["state/claviger.db-wal", "state/claviger.db-shm", "state/claviger.db-journal"] {
        drop(std::fs::remove_file(dir.join(beside)));
    }
    std::fs::write(dir.join("state/claviger.db"), bytes).unwrap();
}

type Rows = BTreeMap<String, Vec<Vec<Cell>>>;

fn columns(db: &Connection, table: &str) -> Vec<(String, bool)> {
    let mut query = db.prepare(&format!("SELECT name, pk FROM pragma_table_info('{table}')")).unwrap();
    query
        .query_map([], |r| Ok((r.get(0)?, r.get::<_, i64>(1)? > 0)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

fn dump(db: &Connection) -> Result<Rows, rusqlite::Error> {
    let mut all = Rows::new();
    let names: Vec<String> = db
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?
        .query_map([], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    for table in names {
        let mut query = db.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2"))?;
        let wide = query.column_count();
        let rows = query.query_map([], |r| (0..wide).map(|n| r.get(n)).collect::<Result<Vec<Cell>, _>>())?;
        let rows = rows.collect::<Result<_, _>>()?;
        all.insert(table, rows);
    }
    Ok(all)
}

/// Takes out what nothing but a comparison reads: the signatures of checkpoints before the newest, the numbers of debits
/// beyond their order, the size of the anchor (a hint where to look), and rows of `meta` that are not there by the names
/// that are looked for, whose own contents are compared when they are.
fn that_counts(mut rows: Rows) -> Rows {
    if let Some(notes) = rows.get_mut("checkpoints") {
        notes.truncate(notes.len());
        let newest = notes.pop();
        for note in notes.iter_mut() {
            if let Some(Cell::Text(text)) = note.get_mut(1) {
                *text = text.split("\n\n").next().unwrap_or_default().to_owned();
            }
        }
        notes.extend(newest);
    }
    for debit in rows.get_mut("debits").into_iter().flatten() {
        debit.remove(0);
    }
    if let Some(meta) = rows.get_mut("meta") {
        meta.retain(|row| matches!(row.first(), Some(Cell::Text(name)) if ["seal", "standing"].contains(&name.as_str()) || name.starts_with("receipt:") || name.starts_with("document:")));
    }
    rows
}

fn others(cell: &Cell) -> Vec<Cell> {
    match cell {
        Cell::Null => vec![Cell::Integer(0), Cell::Blob(vec![0; 64])],
        Cell::Integer(n) => {
            let far = n.wrapping_sub(40 * 86_400_000);
            [n ^ 1, n.wrapping_add(1000), far, 0].into_iter().filter(|m| m != n).map(Cell::Integer).collect()
        }
        Cell::Real(_) => vec![Cell::Null],
        Cell::Text(text) => {
            let mut cut = text.clone();
            cut.pop();
            vec![Cell::Text(format!("{text}x")), Cell::Text(cut), Cell::Blob(text.clone().into_bytes())]
        }
        Cell::Blob(bytes) => {
            let flip = |at: usize| {
                let mut bytes = bytes.clone();
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1;
                }
                Cell::Blob(bytes)
            };
            let longer = Cell::Blob([bytes.as_slice(), &[0]].concat());
            let last = flip(bytes.len().saturating_sub(1));
            vec![flip(0), flip(bytes.len() / 2), last, longer, Cell::Blob(Vec::new()), Cell::Null]
        }
    }
}

// [clause 8.7.1-i] test
#[tokio::test]
async fn every_cell_of_every_table_is_found_when_it_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    furnished(dir.path()).await;
    let file = dir.path().join("state/claviger.db");
    let kept = std::fs::read(&file).unwrap();
    let db = Connection::open(&file).unwrap();
    let all = dump(&db).unwrap();
    let tables: Vec<(String, Vec<(String, bool)>)> =
        all.keys().map(|t| (t.clone(), columns(&db, t))).collect();
    drop(db);
    let (mut found, mut idle) = (0, BTreeMap::<String, usize>::new());
    for (table, columns) in tables {
        let rows = &all[&table];
        assert!(rows.len() > 1, "{table} has no rows to change");
        let some: Vec<usize> = [0, rows.len() / 2, rows.len() - 1].into();
        let keys: Vec<usize> = (0..columns.len()).filter(|n| columns[*n].1).collect();
        let which = keys.iter().map(|n| format!("{} IS ?{}", columns[*n].0, n + 2)).collect::<Vec<_>>();
        for row in some.into_iter().map(|n| &rows[n]) {
            let mut changes: Vec<(String, Cell)> = vec![("DELETE".into(), Cell::Null)];
            for (n, (column, _)) in columns.iter().enumerate() {
                let swapped = rows.iter().map(|other| other[n].clone()).find(|other| *other != row[n]);
                let cells = others(&row[n]).into_iter().chain(swapped);
                changes.extend(cells.map(|cell| (format!("UPDATE SET {column}"), cell)));
            }
            for (what, cell) in changes {
                put_back(dir.path(), &kept);
                let db = Connection::open(&file).unwrap();
                let sql = match what.strip_prefix("UPDATE SET ") {
                    Some(column) => format!("UPDATE {table} SET {column} = ?1 WHERE {}", which.join(" AND ")),
                    None => format!("DELETE FROM {table} WHERE ?1 IS NULL AND {}", which.join(" AND ")),
                };
                let mut query = db.prepare(&sql).unwrap();
                query.raw_bind_parameter(1, &cell).unwrap();
                for n in &keys {
                    query.raw_bind_parameter(n + 2, &row[*n]).unwrap();
                }
                // What the database itself does not take needs no finding.
                let Ok(1) = query.raw_execute() else { continue };
                drop(query);
                let after = dump(&db).unwrap();
                drop(db);
                if after == all {
                    continue;
                }
                let case = format!("{table} {row:?}: {what} = {cell:?}");
                match verdict(dir.path()).await {
                    Err(StoreError::Tampered(why)) => {
                        assert!(why.len() > 20, "{case}: {why}");
                        found += 1;
                    }
                    Err(other) => panic!("{case}: {other:?}"),
                    Ok(()) => {
                        let last = table == "checkpoints" && what == "DELETE";
                        assert!(last || that_counts(after) == that_counts(all.clone()), "not found: {case}");
                        *idle.entry(format!("{table}: {what}")).or_default() += 1;
                    }
                }
            }
        }
    }
    println!("{found} changes found; without effect: {idle:#?}");
    assert!(found > 500, "{found}");
    put_back(dir.path(), &kept);
    assert_eq!(verdict(dir.path()).await, Ok(()));
}

// [clause 8.7.1-i] test
#[tokio::test]
async fn every_byte_of_the_file_is_found_or_is_read_by_nothing() {
    let dir = tempfile::tempdir().unwrap();
    furnished(dir.path()).await;
    let file = dir.path().join("state/claviger.db");
    let kept = std::fs::read(&file).unwrap();
    let before = that_counts(dump(&Connection::open(&file).unwrap()).unwrap());
    // A prime step over the whole file; all of it with EVERY_BYTE=1, which takes minutes.
    let step = if std::env::var_os("EVERY_BYTE").is_some() { 1 } else { 101 };
    let (mut found, mut idle) = (0, 0);
    for at in (0..kept.len()).step_by(step) {
        let mut bytes = kept.clone();
        bytes[at] ^= 1 << (at % 8);
        put_back(dir.path(), &bytes);
        let reads = Connection::open(&file).and_then(|db| dump(&db)).map(that_counts);
        put_back(dir.path(), &bytes);
        match verdict(dir.path()).await {
            Err(StoreError::Tampered(_) | StoreError::Open(_)) => found += 1,
            Err(other) => panic!("byte {at}: {other:?}"),
            Ok(()) => {
                assert_eq!(reads.as_ref(), Ok(&before), "byte {at} was not found");
                idle += 1;
            }
        }
    }
    println!("{found} bytes found, {idle} without effect, of {}", kept.len());
    assert!(found > 100);
}

// [clause 8.7.1-i] test
#[tokio::test]
async fn what_steers_the_database_is_found() {
    let dir = tempfile::tempdir().unwrap();
    furnished(dir.path()).await;
    let file = dir.path().join("state/claviger.db");
    let kept = std::fs::read(&file).unwrap();
    for change in [
        "CREATE TRIGGER t AFTER INSERT ON debits BEGIN DELETE FROM debits; END",
        "CREATE TABLE more(x)",
        "CREATE VIEW v AS SELECT * FROM debits",
        "DROP INDEX waiting_by_payload",
        "ALTER TABLE debits ADD COLUMN more TEXT",
        "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, 'app, key, digest', 'key, app, digest') WHERE name = 'waiting_by_payload'",
        "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, 'amount BLOB NOT NULL', 'amount BLOB') WHERE name = 'debits'",
    ] {
        put_back(dir.path(), &kept);
        Connection::open(&file).unwrap().execute_batch(change).unwrap();
        let found = verdict(dir.path()).await;
        assert!(matches!(found, Err(StoreError::Tampered(_))), "{change}: {found:?}");
    }
}

// [clause 8.7.1-i] test
#[tokio::test]
async fn entries_behind_the_seal_that_need_a_token_are_found_and_others_are_a_start_without_one() {
    let dir = tempfile::tempdir().unwrap();
    furnished(dir.path()).await;
    let file = dir.path().join("state/claviger.db");
    let kept = std::fs::read(&file).unwrap();
    let unsealed = |kind: EntryKind| async {
        put_back(dir.path(), &kept);
        let store =
            Store::open(StoreConfig { dir: dir.path().join("state"), allow_volatile: true, fs_magic: 0 })?;
        // Whoever holds the file writes what he likes; the store itself refuses.
        store.append(kind).await?;
        store.close().await;
        drop(store);
        verdict(dir.path()).await
    };
    assert_eq!(unsealed(EntryKind::stop()).await, Ok(()));
    assert_eq!(unsealed(EntryKind::start("1", "b", 1)).await, Ok(()));
    let voice = EntryKind::Voice {
        request: RequestId(1001).to_string(),
        person: "mallory".into(),
        key: "f".into(),
        yes: true,
        signature: "forged".into(),
    };
    put_back(dir.path(), &kept);
    let store = Store::open(StoreConfig { dir: dir.path().join("state"), allow_volatile: true, fs_magic: 0 })
        .unwrap();
    let order = super::order_tests::order(3, Scope::All);
    let entry = super::order_tests::entry(&order);
    store.hear_order(order, entry).await.unwrap().unwrap();
    store.close().await;
    drop(store);
    assert_eq!(verdict(dir.path()).await, Ok(()), "an order waits for no token");
    // Nothing stands that it could lift: it is found by its signatures, which are none.
    let lifts = EntryKind::Order(OrderEvent::Reactivated {
        text: "forged".into(),
        signatures: vec!["forged".into()],
        by: vec!["mallory".into()],
        latch: None,
    });
    // Nor does anybody shorten a wait, or say for somebody else what they read.
    let elapsed = EntryKind::Elapsed { counted_ms: i64::MAX };
    let read = EntryKind::User(crate::core::log::user::UserEvent::Acknowledged {
        who: "user anna (uid 1)".into(),
        uid: 1,
        duties: "00".into(),
        policy: "00".into(),
    });
    for forged in [voice, lifts, state_entry("accepted"), state_entry("sealed"), elapsed, read] {
        let found = unsealed(forged.clone()).await;
        assert!(matches!(found, Err(StoreError::Tampered(_))), "{forged:?}: {found:?}");
    }
    put_back(dir.path(), &kept);
    let store = Store::open(StoreConfig { dir: dir.path().join("state"), allow_volatile: true, fs_magic: 0 })
        .unwrap();
    assert!(matches!(store.reserve(ask(90, 1, 90, 1)).await, Err(StoreError::Frozen(_))));
    let size = store.log_head().size;
    store.count().await.unwrap();
    assert_eq!(store.log_head().size, size, "time is not told in a log that was not confirmed");
    assert!(!store.has_waited(Timestamp(0), 0).await.unwrap());
    assert!(matches!(store.wait_for_people(waits(9)).await, Err(StoreError::Frozen(_))));
    let back = store.move_key(Name::parse("k").unwrap(), State::Active, because()).await;
    assert!(matches!(back, Err(StoreError::Frozen(_))));
    store.settle(Some(sealer()), Vec::new()).await.unwrap();
    store.move_key(Name::parse("k").unwrap(), State::Active, because()).await.unwrap().unwrap();
    store.close().await;
    drop(store);
    assert_eq!(verdict(dir.path()).await, Ok(()));
}

/// The registrations of an app under each of these serials, one after the other.
async fn registered(store: &Store, serials: &[u64]) {
    let mut memory = Memory::default();
    for serial in serials {
        let digest = "ab".repeat(32);
        let text = format!(
            "[[app]]\nid = \"pay\"\npath = \"/pay\"\nsha256 = \"{digest}\"\nuid = 7\nserial = {serial}\n"
        );
        let apps = Apps::parse(&text).unwrap();
        memory = memory.with_file(&apps, &[]).unwrap_or_else(|_| {
            // What the daemon itself would never write.
            Memory::default().with_file(&apps, &[]).unwrap()
        });
        let beside = Some(("registrations", memory.render()));
        let entry = EntryKind::apps(apps.hash(), 1, 0);
        store.announce(Text { what: "apps", text, beside }, entry).await.unwrap();
    }
}

// [clause 8.2.4-n] test
#[tokio::test]
async fn a_serial_that_was_in_force_is_sealed_with_the_rest_of_the_state() {
    let dir = tempfile::tempdir().unwrap();
    furnished(dir.path()).await;
    let file = dir.path().join("state/claviger.db");
    let store = Store::open(StoreConfig { dir: dir.path().join("state"), allow_volatile: true, fs_magic: 0 });
    let store = store.unwrap();
    store.settle(Some(sealer()), Vec::new()).await.unwrap();
    registered(&store, &[3, 5]).await;
    store.close().await;
    drop(store);
    Connection::open(&file).unwrap().execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    let kept = std::fs::read(&file).unwrap();
    assert_eq!(verdict(dir.path()).await, Ok(()));
    let where_it_is = "WHERE name = 'document:registrations'";
    for change in [
        format!("DELETE FROM meta {where_it_is}"),
        format!("UPDATE meta SET value = CAST(replace(CAST(value AS TEXT), '5', '4') AS BLOB) {where_it_is}"),
        format!("UPDATE meta SET value = x'7b7d' {where_it_is}"),
    ] {
        put_back(dir.path(), &kept);
        let changed = Connection::open(&file).unwrap().execute(&change, []).unwrap();
        assert_eq!(changed, 1, "{change}");
        let found = verdict(dir.path()).await;
        assert!(matches!(found, Err(StoreError::Tampered(_))), "{change}: {found:?}");
    }
    // Entries of apps may stand behind the seal: a start without a token writes them. They never forget.
    for (serials, good) in [(&[6][..], true), (&[4][..], false)] {
        put_back(dir.path(), &kept);
        let store =
            Store::open(StoreConfig { dir: dir.path().join("state"), allow_volatile: true, fs_magic: 0 });
        let store = store.unwrap();
        registered(&store, serials).await;
        store.close().await;
        drop(store);
        assert_eq!(verdict(dir.path()).await.is_ok(), good, "{serials:?}");
    }
}
