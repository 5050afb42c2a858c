use super::tests::{because, open};
use super::*;
use crate::core::key::{Origin, PublicKey, Purpose};

// [clause 8.7.1-h] test
#[tokio::test]
async fn a_destroyed_key_is_refused_where_it_would_be_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let key = |name: &str, purpose, n: u8, public: u8| {
        KeyRecord::new(
            Name::parse(name).unwrap(),
            [n; 16].into(),
            purpose,
            PublicKey::Ed25519([public; 32]),
            "s".into(),
            Origin::Generated,
            Timestamp(1),
        )
    };
    store.insert_key(key("old", Purpose::Payment, 1, 1), 0).await.unwrap();
    let twin = store.insert_key(key("twin", Purpose::Authentication, 2, 1), 0).await;
    assert!(
        matches!(&twin, Err(StoreError::KeyExists(why)) if why.contains("registered as old")),
        "{twin:?}"
    );
    store.move_key(Name::parse("old").unwrap(), State::Destroyed, because()).await.unwrap().unwrap();
    for (name, purpose) in
        [("old", Purpose::Payment), ("new", Purpose::Payment), ("new", Purpose::Authentication)]
    {
        let back = store.insert_key(key(name, purpose, 3, 1), 0).await;
        assert!(matches!(back, Err(StoreError::KeyTombstone(_))), "{name} {purpose}: {back:?}");
    }
    let name = store.insert_key(key("old", Purpose::Payment, 3, 2), 0).await;
    assert!(matches!(&name, Err(StoreError::KeyExists(why)) if why.contains("never used again")), "{name:?}");
    assert_eq!(store.keys().await.unwrap().len(), 1, "nothing else was written");
}
