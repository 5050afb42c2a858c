use std::sync::Mutex as StdMutex;

use super::*;
use crate::core::key::{Operation, Origin, PublicKey, Purpose};
use crate::core::log::entry::Entry;
use crate::core::payment::{Asset, Chain};
use crate::core::policy::history::Mention;
use crate::core::policy::window::Debit;
use crate::core::proof::{Authorized, Tier};
use crate::core::units::{Address, U256, sha256};
use crate::refusal::Code;

/// A ledger with one limit over everything.
struct Limit {
    max: u64,
    spent: u64,
}

impl Ledger for Limit {
    fn decide(&self, facts: &dyn Any, _now: Timestamp, how: How) -> Result<Verdict, Refusal> {
        let amount: u64 = *facts.downcast_ref().unwrap();
        if !how.debited && self.spent + amount > self.max {
            return Err(Refusal::new(Code::WindowExceeded, "used up"));
        }
        let rule = Name::parse("r").unwrap();
        if how.replacing && amount != 7 {
            return Err(Refusal::new(Code::NonceConflict, "no replacement"));
        }
        Ok(Verdict {
            authorized: Authorized::assertion([0; 32], rule.clone()),
            rule,
            needs: None,
            policy_hash: [1; 32],
        })
    }
    fn explain(&self, _: &dyn Any, _: Timestamp) -> Result<Value, Refusal> {
        Ok(Value::Null)
    }
    fn commit(&mut self, debit: &Debit) {
        self.spent += u64::try_from(debit.amount).unwrap();
    }
    fn rebuild(&mut self, rows: &[Debit], _: &[Mention]) {
        self.spent = rows.iter().map(|d| u64::try_from(d.amount).unwrap()).sum();
    }
    fn fill(&mut self, _: Timestamp) {
        self.spent = self.max;
    }
}

pub(super) fn open(dir: &std::path::Path) -> Result<Store, StoreError> {
    Store::open(StoreConfig { dir: dir.join("state"), allow_volatile: true, fs_magic: 0 })
}

pub(super) async fn ready(dir: &std::path::Path, max: u64) -> Store {
    let store = open(dir).unwrap();
    store.swap_ledger(Box::new(Limit { max, spent: 0 })).await.unwrap();
    let text = "schema = 1".to_owned();
    let entry = EntryKind::policy(sha256(text.as_bytes()), text.len(), 0, "start".into());
    store.announce(Text { what: "policy", text, beside: None }, entry).await.unwrap();
    // A second opening finds the key there.
    if store.keys().await.unwrap().is_empty() {
        store.insert_key(key("k", 1), 0).await.unwrap();
        store.move_key(Name::parse("k").unwrap(), State::Active, because()).await.unwrap().unwrap();
    }
    store
}

pub(super) fn because() -> Because {
    Because { actor: "test".into(), reason: "test".into(), policy: [2; 32] }
}

pub(super) fn key(name: &str, byte: u8) -> KeyRecord {
    KeyRecord::new(
        Name::parse(name).unwrap(),
        [byte; 16].into(),
        Purpose::Payment,
        PublicKey::Ed25519([byte; 32]),
        "s".into(),
        Origin::Generated,
        Timestamp(5),
    )
}

pub(super) fn ask(request: u128, amount: u64, nonce: u64, digest: u8) -> Ask {
    let (key, app) = (Name::parse("k").unwrap(), Name::parse("a").unwrap());
    let debit = Debit {
        at: Timestamp(0),
        key: key.clone(),
        app: app.clone(),
        chain: Some(Chain(1)),
        asset: Some(Asset::Native),
        to: Some(Address([2; 20])),
        amount: U256::from(amount),
    };
    Ask {
        request: RequestId(request),
        app,
        tier: Tier::T1,
        key,
        act: serde_json::json!({
            "chain": "eip155:1", "from": Address([1; 20]), "max_fee": "1", "fee_per_gas": "1", "nonce": nonce,
            "effect": {"kind": "transfer", "asset": "native", "to": Address([2; 20]), "amount": amount.to_string()},
        }),
        operation: Operation::SignPayment,
        authority: None,
        device: [0; 32],
        digest: [digest; 32],
        debit,
        nonce: Some(NonceClaim {
            chain: Chain(1),
            nonce,
            payment_fingerprint: [u8::try_from(amount % 251).unwrap(); 32],
        }),
        facts: Box::new(amount),
        start: Box::new(drop),
        present: crate::core::proof::Present::assertion([digest; 32], None),
    }
}

pub(super) fn code(reply: &ReserveReply) -> &'static str {
    match reply {
        ReserveReply::New(_) => "new",
        ReserveReply::Again(_) => "again",
        ReserveReply::Already { .. } => "already",
        ReserveReply::Refused { refusal, .. } => refusal.code.as_str(),
        ReserveReply::Needs { .. } => "needs",
        ReserveReply::Step(step) => step.as_str(),
    }
}

// [clause 8.7.1-d] test
#[tokio::test]
async fn concurrent_requests_never_exceed_the_limit_and_a_restart_forgets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = ready(dir.path(), 100).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64u64 {
        let store = store.clone();
        tasks.spawn(async move {
            let reply = store.reserve(ask(u128::from(n), 3, n, 1)).await.unwrap();
            if let ReserveReply::New(reserved) = &reply {
                let _recorded = store.finish(reserved.request(), Some([0; 64])).await.unwrap();
            }
            code(&reply)
        });
    }
    let outcomes = tasks.join_all().await;
    assert_eq!(outcomes.iter().filter(|o| **o == "new").count(), 33);
    assert_eq!(outcomes.iter().filter(|o| **o == "window_exceeded").count(), 31);
    let head = store.log_head();
    store.close().await;
    drop(store);
    let store = ready(dir.path(), 100).await;
    assert_eq!(store.log_head().size, head.size + 1);
    assert_eq!(code(&store.reserve(ask(1000, 3, 1000, 1)).await.unwrap()), "window_exceeded");
    assert_eq!(code(&store.reserve(ask(1001, 1, 1001, 1)).await.unwrap()), "new");
}

// [clause 8.4.3-b] test
#[tokio::test]
async fn one_nonce_is_one_payment() {
    let dir = tempfile::tempdir().unwrap();
    let store = ready(dir.path(), 100).await;
    let reserved = match store.reserve(ask(1, 5, 0, 1)).await.unwrap() {
        ReserveReply::New(reserved) => reserved,
        other => panic!("{}", code(&other)),
    };
    // No outcome yet: the same payload may be tried again without a new debit.
    assert_eq!(code(&store.reserve(ask(2, 5, 0, 1)).await.unwrap()), "again");
    assert!(store.finish(reserved.request(), Some([1; 64])).await.is_ok());
    let _recorded = store.finish(RequestId(2), Some([2; 64])).await.unwrap();
    match store.reserve(ask(3, 5, 0, 1)).await.unwrap() {
        ReserveReply::Already { signature, request } => {
            assert_eq!((signature, request), ([2; 64], RequestId(2)));
        }
        other => panic!("{}", code(&other)),
    }
    assert_eq!(code(&store.reserve(ask(4, 6, 0, 2)).await.unwrap()), "nonce_conflict");
    assert_eq!(code(&store.reserve(ask(5, 5, 0, 3)).await.unwrap()), "nonce_conflict");
    // A fee bump of the same payment, where the rule allows it.
    assert_eq!(code(&store.reserve(ask(6, 7, 1, 1)).await.unwrap()), "new");
    assert_eq!(code(&store.reserve(ask(7, 7, 1, 2)).await.unwrap()), "again");
    // 5 + 7 were debited, nothing twice.
    assert_eq!(code(&store.reserve(ask(8, 88, 2, 1)).await.unwrap()), "new");
    assert_eq!(code(&store.reserve(ask(9, 1, 3, 1)).await.unwrap()), "window_exceeded");
}

#[tokio::test]
async fn a_request_that_a_crash_left_open_is_in_doubt_and_stays_debited() {
    let dir = tempfile::tempdir().unwrap();
    let store = ready(dir.path(), 100).await;
    let _reserved = store.reserve(ask(1, 60, 0, 1)).await.unwrap();
    store.close().await;
    drop(store);
    let store = ready(dir.path(), 100).await;
    let entries = store.entries(0, 100).await.unwrap();
    let kinds: Vec<Entry> = entries.iter().map(|e| Entry::decode(e).unwrap()).collect();
    assert!(
        kinds.iter().any(
            |e| matches!(&e.kind, EntryKind::InDoubt { request } if *request == RequestId(1).to_string())
        )
    );
    assert_eq!(code(&store.reserve(ask(2, 60, 1, 1)).await.unwrap()), "window_exceeded");
    assert_eq!(code(&store.reserve(ask(3, 60, 0, 1)).await.unwrap()), "again");
}

// [clause 8.7.1-d] test
#[tokio::test]
async fn a_full_disk_loses_nothing_and_service_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let store = ready(dir.path(), 1_000_000).await;
    let limit = |pages: u32| {
        store.writer.submit(move |work: &mut Work| {
            Ok(work.db.execute_batch(&format!("PRAGMA max_page_count = {pages}"))?)
        })
    };
    limit(40).await.unwrap();
    let failures = StdMutex::new(0);
    let mut kept = 0;
    for n in 0..400u64 {
        match store.reserve(ask(u128::from(n), 1, n, 1)).await {
            Ok(ReserveReply::New(_)) => kept += 1,
            Ok(other) => panic!("{}", code(&other)),
            Err(StoreError::Failed(why)) => {
                assert!(why.contains("full"), "{why}");
                *failures.lock().unwrap() += 1;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(*failures.lock().unwrap() > 100 && kept > 0);
    let size = store.log_head().size;
    assert_eq!(store.entries(0, 1000).await.unwrap().len() as u64, size);
    limit(1_000_000).await.unwrap();
    assert_eq!(code(&store.reserve(ask(9000, 1, 9000, 1)).await.unwrap()), "new");
    // The policy and its text, the key, its move, their rows, and what was counted behind the move and behind the first
    // payment to a new destination.
    assert_eq!(size, kept + 8);
}

#[tokio::test]
async fn a_second_daemon_and_memory_file_systems_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::Open(why)) if why.contains("another daemon")));
    store.close().await;
    drop(store);
    let config = StoreConfig { dir: dir.path().join("other"), allow_volatile: false, fs_magic: 0x0102_1994 };
    assert!(matches!(Store::open(config), Err(StoreError::Open(why)) if why.contains("power loss")));
}

#[tokio::test]
async fn removed_entries_are_found_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = ready(dir.path(), 100).await;
    store.append(EntryKind::stop()).await.unwrap();
    let head = store.log_head();
    let body = crate::core::log::checkpoint::body("o", head.size, &head.root);
    let note = crate::core::log::checkpoint::note(&body, "o", &[0; 32], &[0; 64]);
    store.save_checkpoint(head.size, note).await.unwrap();
    store.close().await;
    drop(store);
    let file = dir.path().join("state/claviger.db");
    // All of it into the one file.
    Connection::open(&file).unwrap().execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    let kept = std::fs::read(&file).unwrap();
    let put_back = || {
        for beside in ["state/claviger.db-wal", "state/claviger.db-shm"] {
            drop(std::fs::remove_file(dir.path().join(beside)));
        }
        std::fs::write(&file, &kept).unwrap();
    };
    for change in [
        "DELETE FROM entries WHERE seq = 1",
        "DELETE FROM entries WHERE seq = 3",
        "UPDATE entries SET data = replace(data, 'operator', 'Operator') WHERE seq = 1",
        "UPDATE entries SET data = CAST(replace(CAST(data AS TEXT), 'start', 'Start') AS BLOB) WHERE seq = 1",
        "UPDATE entries SET seq = CASE seq WHEN 1 THEN 12 ELSE 11 END WHERE seq IN (1, 2); UPDATE entries SET seq = seq - 10 WHERE seq > 10",
    ] {
        put_back();
        Connection::open(&file).unwrap().execute_batch(change).unwrap();
        assert!(matches!(open(dir.path()), Err(StoreError::Tampered(_))), "{change}");
    }
    put_back();
    assert!(open(dir.path()).is_ok());
}

#[tokio::test]
async fn a_database_of_the_schema_before_is_taken_along_and_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let now = store.now().await.unwrap();
    let record =
        KeyRecord { state: State::Active, created: now, since: now, activated: Some(now), ..key("old", 7) };
    store.insert_key(record.clone(), 0).await.unwrap();
    store.close().await;
    drop(store);
    let file = dir.path().join("state/claviger.db");
    let db = Connection::open(&file).unwrap();
    for column in
        ["origin", "line", "generation", "since", "activated", "compromised", "warned", "destroying"]
    {
        db.execute_batch(&format!("ALTER TABLE keys DROP COLUMN {column};")).unwrap();
    }
    db.execute_batch(
        "DROP TABLE waiting; DROP TABLE voices; DROP TABLE counters; DROP TABLE changes; DROP TABLE destinations; DROP TABLE users; DROP TABLE copies; DROP INDEX debits_by_key; ALTER TABLE debits DROP COLUMN dest; PRAGMA user_version = 2;",
    )
    .unwrap();
    drop(db);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.keys().await.unwrap(), [record]);
    store.close().await;
    drop(store);
    let before_users =
        "DROP TABLE users; DROP TABLE copies; DROP INDEX debits_by_key; PRAGMA user_version = 4;";
    Connection::open(&file).unwrap().execute_batch(before_users).unwrap();
    let store = open(dir.path()).unwrap();
    assert!(store.users().await.unwrap().is_empty());
    store.close().await;
    drop(store);
    Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 99;").unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::Open(why)) if why.contains("99")));
}

// [clause 8.4.3-d] test
#[tokio::test]
async fn a_database_without_destinations_gets_them_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = ready(dir.path(), 1000).await;
    for n in 0..3u8 {
        assert_eq!(code(&store.reserve(ask(u128::from(n), 5, u64::from(n), 1)).await.unwrap()), "new");
    }
    let debits = |store: &Store| {
        let writer = std::sync::Arc::clone(&store.writer);
        async move {
            let all = |work: &mut Work| Ok((work.debits()?, destinations::all(&work.db)?));
            writer.submit(all).await.unwrap()
        }
    };
    let before = debits(&store).await;
    assert_eq!((before.0.len(), before.1.len()), (3, 1));
    assert!(before.0.iter().all(|d| d.to == Some(Address([2; 20]))));
    store.close().await;
    drop(store);
    let db = Connection::open(dir.path().join("state/claviger.db")).unwrap();
    db.execute_batch(
        "DROP TABLE destinations; DROP TABLE changes; DROP TABLE users; DROP TABLE copies; DROP INDEX debits_by_key; ALTER TABLE debits DROP COLUMN dest; PRAGMA user_version = 3;",
    )
    .unwrap();
    drop(db);
    let store = open(dir.path()).unwrap();
    assert_eq!(debits(&store).await, before);
}

// [clause 8.7.1-e] test
#[tokio::test]
async fn every_table_must_tell_what_the_log_tells() {
    let dir = tempfile::tempdir().unwrap();
    let store = ready(dir.path(), 1000).await;
    for n in 0..4u8 {
        let asked = store.reserve(ask(u128::from(n), 7, u64::from(n), 1)).await.unwrap();
        let ReserveReply::New(reserved) = asked else { panic!("not reserved") };
        if n < 3 {
            let _recorded = store.finish(reserved.request(), Some([n; 64])).await.unwrap();
        }
    }
    let user = |name: &str| name.to_owned();
    store.invite_user(user("anna"), [1; 32], Timestamp(i64::MAX), 0, "test".into()).await.unwrap();
    store.enrol_user(user("anna"), [1; 32], "{}".into()).await.unwrap().unwrap();
    store.count_try(Some(user("anna")), user("anna"), "test", 10).await.unwrap().unwrap();
    store.invite_user(user("ben"), [2; 32], Timestamp(i64::MAX), 0, "test".into()).await.unwrap();
    store.suspend_user(user("ben"), "test".into()).await.unwrap();
    store.insert_key(key("next", 9), 0).await.unwrap();
    store.begin_destroying(Name::parse("next").unwrap(), because()).await.unwrap().unwrap();
    store.close().await;
    drop(store);
    let file = dir.path().join("state/claviger.db");
    Connection::open(&file).unwrap().execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    let kept = std::fs::read(&file).unwrap();
    let put_back = || {
        for beside in ["state/claviger.db-wal", "state/claviger.db-shm"] {
            drop(std::fs::remove_file(dir.path().join(beside)));
        }
        std::fs::write(&file, &kept).unwrap();
    };
    for change in [
        "UPDATE keys SET state = 'active' WHERE name = 'next'",
        "UPDATE keys SET state = 'suspended' WHERE name = 'k'",
        "UPDATE keys SET purpose = 'authentication' WHERE name = 'k'",
        "UPDATE keys SET destroying = 0 WHERE name = 'next'",
        "UPDATE keys SET activated = activated + 100000000 WHERE name = 'k'",
        "UPDATE keys SET line = 'next' WHERE name = 'k'",
        "UPDATE keys SET token_serial = 'other' WHERE name = 'k'",
        "DELETE FROM keys WHERE name = 'next'",
        "INSERT INTO keys SELECT 'more', x'77', purpose, state, algorithm, zeroblob(32), token_serial, created, origin, 'more', 1, since, activated, compromised, warned, destroying FROM keys WHERE name = 'k'",
        "DELETE FROM debits WHERE id = 2",
        "UPDATE debits SET amount = zeroblob(32) WHERE id = 1",
        "UPDATE debits SET key = 'other' WHERE id = 1",
        "UPDATE debits SET app = 'other' WHERE id = 1",
        "UPDATE debits SET chain = 2 WHERE id = 1",
        "UPDATE debits SET asset = zeroblob(20) WHERE id = 1",
        "INSERT INTO debits(at, key, app, chain, asset, amount, dest) SELECT at, key, app, chain, asset, amount, dest FROM debits LIMIT 1",
        "UPDATE debits SET dest = zeroblob(20) WHERE id = 1",
        "UPDATE debits SET dest = NULL WHERE id = 1",
        "UPDATE destinations SET first = first - 86400000",
        "UPDATE destinations SET line = 'other'",
        "DELETE FROM destinations",
        "INSERT INTO destinations VALUES('k', zeroblob(20), 5)",
        "UPDATE nonces SET digest = zeroblob(32) WHERE nonce = 1",
        "UPDATE nonces SET signature = NULL WHERE nonce = 1",
        "UPDATE nonces SET signature = zeroblob(64) WHERE nonce = 1",
        "UPDATE nonces SET app = 'other' WHERE nonce = 1",
        "UPDATE nonces SET nonce = 9 WHERE nonce = 1",
        "DELETE FROM nonces WHERE nonce = 3",
        "UPDATE users SET tries = 0 WHERE name = 'anna'",
        "UPDATE users SET verifier = 'mine' WHERE name = 'anna'",
        "UPDATE users SET invite = zeroblob(32), invite_expires = 1 WHERE name = 'anna'",
        "UPDATE users SET suspended = 0 WHERE name = 'ben'",
        "UPDATE users SET invite = zeroblob(32) WHERE name = 'ben'",
        "DELETE FROM users WHERE name = 'ben'",
        "INSERT INTO nonces SELECT key, chain, 77, app, digest, fingerprint, request, at, signature FROM nonces WHERE nonce = 1",
    ] {
        put_back();
        let changed = Connection::open(&file).unwrap().execute(change, []).unwrap();
        assert_eq!(changed, 1, "{change}");
        let found = open(dir.path()).err();
        assert!(
            matches!(&found, Some(StoreError::Tampered(why)) if why.contains("log says")),
            "{change}: {found:?}"
        );
    }
    put_back();
    assert!(open(dir.path()).is_ok());
}

// [clause 8.7.1-d] test
#[tokio::test]
async fn a_payload_that_is_asked_for_again_before_its_answer_leaves_one_story() {
    for order in [[1u128, 2], [2, 1]] {
        for fails in [None, Some(1u128), Some(2)] {
            let dir = tempfile::tempdir().unwrap();
            let store = ready(dir.path(), 1000).await;
            for request in [1, 2] {
                let _ = store.reserve(ask(request, 7, 0, 1)).await.unwrap();
            }
            for request in order {
                if fails == Some(request) {
                    store.fail(RequestId(request), "token_gone", "gone").await.unwrap();
                } else {
                    let _recorded = store.finish(RequestId(request), Some([5; 64])).await.unwrap();
                }
            }
            store.close().await;
            drop(store);
            assert_eq!(open(dir.path()).err(), None, "{order:?} {fails:?}");
        }
    }
}

// [clause 8.2.3-e] test
#[tokio::test]
async fn tries_are_on_disk_before_they_are_compared_and_an_eleventh_never_comes() {
    let dir = tempfile::tempdir().unwrap();
    let anna = || "anna".to_owned();
    let store = open(dir.path()).unwrap();
    store.invite_user(anna(), [1; 32], Timestamp(i64::MAX), 0, "t".into()).await.unwrap();
    store.close().await;
    drop(store);
    for n in 1..=11 {
        // Ended between the count and the comparison, each time.
        let store = open(dir.path()).unwrap();
        let counted = store.count_try(Some(anna()), anna(), "test", 99).await.unwrap();
        match n {
            11 => assert_eq!(counted.unwrap_err().code, Code::UserSuspended, "whatever a document allows"),
            n => assert_eq!(counted, Ok(n)),
        }
        assert_eq!(store.user(anna()).await.unwrap().unwrap().tries, n.min(10));
        store.close().await;
    }
    let store = open(dir.path()).unwrap();
    store.user_proved(anna(), "test", None).await.unwrap();
    assert_eq!(store.count_try(Some(anna()), anna(), "test", 99).await.unwrap(), Ok(1));
}
