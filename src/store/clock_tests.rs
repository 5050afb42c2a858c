use super::tests::{because, open, ready};
use super::*;
use crate::core::key::State;
use crate::core::log::entry::Entry;

async fn counts(store: &Store) -> Vec<i64> {
    let size = store.log_head().size;
    let entries = store.entries(0, size).await.unwrap();
    let counted = |bytes: &Vec<u8>| match Entry::decode(bytes).unwrap().kind {
        EntryKind::Elapsed { counted_ms } => Some(counted_ms),
        _ => None,
    };
    entries.iter().filter_map(counted).collect()
}

// [clause 8.8-c] test
#[tokio::test]
async fn what_waits_is_counted_across_a_restart_and_not_while_the_daemon_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = ready(dir.path(), 100).await;
    let name = Name::parse("k").unwrap();
    store.move_key(name.clone(), State::Suspended, because()).await.unwrap().unwrap();
    let since = store.keys().await.unwrap().first().unwrap().since;
    assert!(!counts(&store).await.is_empty(), "the count stands behind what began to wait");
    assert!(!store.has_waited(since, 3_600_000).await.unwrap());
    tokio::time::sleep(std::time::Duration::from_millis(80)).await;
    assert!(store.has_waited(since, 60).await.unwrap());
    let told = counts(&store).await;
    assert!(told.windows(2).all(|w| matches!(w, [a, b] if a <= b)), "{told:?}");
    store.close().await;
    drop(store);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let back = std::time::Instant::now();
    let store = ready(dir.path(), 100).await;
    let last = told.last().copied().unwrap_or_default();
    let now = store.counted();
    let run = i64::try_from(back.elapsed().as_millis()).unwrap();
    assert!(now >= last && now <= last + run, "{last} before, {now} after: the time between was counted");
    assert!(store.has_waited(since, 60).await.unwrap());
    assert!(!store.has_waited(since, 3_600_000).await.unwrap());
    store.close().await;
}

// [clause 8.8-c] test
#[tokio::test]
async fn a_log_that_counts_backwards_is_none_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.append(EntryKind::Elapsed { counted_ms: 500 }).await.unwrap();
    store.append(EntryKind::Elapsed { counted_ms: 499 }).await.unwrap();
    store.close().await;
    drop(store);
    assert!(matches!(open(dir.path()), Err(StoreError::Tampered(why)) if why.contains("backwards")));
}
