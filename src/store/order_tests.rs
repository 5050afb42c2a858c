use super::tests::{ask, code, open, ready};
use super::*;
use crate::core::log::orders::OrderEvent;
use crate::core::order::standing::Heard;
use crate::core::order::{Level, Order, Scope};
use crate::refusal::Code;

pub(super) fn order(number: u64, scope: Scope) -> Order {
    Order {
        deployment: "d".into(),
        device: "a".repeat(64),
        epoch: 1,
        number,
        level: Level::Suspend,
        scope,
        issued: Timestamp(1_700_000_000_000),
        previous: None,
        reason: "lost".into(),
    }
}

pub(super) fn entry(order: &Order) -> EntryKind {
    EntryKind::Order(OrderEvent::Heard {
        order: order.hash(),
        text: order.render(),
        signatures: vec![],
        by: vec!["gina".into()],
        heard: "raised".into(),
        carrier: "operator".into(),
        latch: None,
    })
}

// [clause 8.2.1-a] [clause 8.2.1-c] test
#[tokio::test]
async fn an_order_stops_the_very_next_reservation_and_no_row_lifts_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = ready(dir.path(), 1000).await;
    let other = order(1, Scope::Key(Name::parse("other").unwrap()));
    let heard = store.hear_order(other.clone(), entry(&other)).await.unwrap().unwrap();
    assert_eq!(heard.effect.heard, Heard::Raised);
    assert_eq!(code(&store.reserve(ask(1, 7, 0, 1)).await.unwrap()), "new");
    let all = order(2, Scope::Key(Name::parse("k").unwrap()));
    store.hear_order(all.clone(), entry(&all)).await.unwrap().unwrap();
    let ReserveReply::Refused { refusal, .. } = store.reserve(ask(2, 7, 1, 2)).await.unwrap() else {
        panic!("reserved after an order");
    };
    assert_eq!(refusal.code, Code::Suspended);
    let standing = store.standing().await.unwrap();
    store.close().await;
    drop(store);
    let file = dir.path().join("state/claviger.db");
    Connection::open(&file).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE);").unwrap();
    let kept = std::fs::read(&file).unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!(store.standing().await.unwrap(), standing, "the log tells it again");
    store.close().await;
    drop(store);
    for change in [
        "UPDATE meta SET value = CAST(replace(value, 'suspend', 'none') AS BLOB) WHERE name = 'standing'",
        "DELETE FROM meta WHERE name = 'standing'",
    ] {
        for more in ["-wal", "-shm"] {
            std::fs::remove_file(dir.path().join(format!("state/claviger.db{more}"))).ok();
        }
        std::fs::write(&file, &kept).unwrap();
        assert_eq!(Connection::open(&file).unwrap().execute(change, []).unwrap(), 1, "{change}");
        let found = open(dir.path()).err();
        assert!(
            matches!(&found, Some(StoreError::Tampered(why)) if why.contains("level of inactivation")),
            "{change}: {found:?}"
        );
    }
}
