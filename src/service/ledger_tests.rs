//! The policy inside the writer: what it makes known, what it stops, and what a restart remembers.

use std::path::Path;

use super::*;
use crate::core::key::{KeyRecord, Operation, Origin, PublicKey, Purpose, State};
use crate::core::payment::{Asset, Chain, Effect};
use crate::core::proof::{Present, RequestId};
use crate::core::units::Address;
use crate::store::{Ask, Because, EntryKind, NonceClaim, ReserveReply, Store, StoreConfig};

fn policy(more: &str) -> Arc<Policy> {
    let text = format!(
        "schema = 1\n[assets.ETH]\nchain = \"eip155:1\"\nnative = true\ndecimals = 18\n{more}\n[[rule]]\nid = \"pay\"\neffect = \"permit\"\nkeys = [\"k\"]\napps = [\"a\"]\nchains = [\"eip155:1\"]\nassets = [\"ETH\"]\nto.allow = [\"*\"]\nfee.max = \"9\"\nper_tx.max = \"100000\"\n"
    );
    Arc::new(Policy::parse(&text).unwrap_or_else(|e| panic!("{e}")))
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

async fn open(dir: &Path, policy: Arc<Policy>) -> Store {
    let config = StoreConfig { dir: dir.join("state"), allow_volatile: true, fs_magic: 0 };
    let store = Store::open(config).unwrap();
    store.swap_ledger(Box::new(PolicyLedger::new(policy))).await.unwrap();
    if store.keys().await.unwrap().is_empty() {
        let public = PublicKey::Ed25519([1; 32]);
        let key = KeyRecord::new(
            name("k"),
            [1; 16].into(),
            Purpose::Payment,
            public,
            "s".into(),
            Origin::Generated,
            Timestamp(5),
        );
        store.insert_key(key, 0).await.unwrap();
        activate(&store).await;
    }
    store
}

async fn activate(store: &Store) {
    let because = Because { actor: "test".into(), reason: "test".into(), policy: [0; 32] };
    store.move_key(name("k"), State::Active, because).await.unwrap().unwrap();
}

fn ask(nonce: u64, to: u8, amount: u64, looked_at: Option<Timestamp>) -> Ask {
    let to = Address([to; 20]);
    let amount = U256::from(amount);
    let payment = Payment {
        chain: Chain(1),
        from: Address([9; 20]),
        effect: Effect::Transfer { asset: Asset::Native, to, amount },
        max_fee: U256::from(1),
        fee_per_gas: U256::from(1),
        nonce,
    };
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&nonce.to_be_bytes());
    Ask {
        request: RequestId(u128::from(nonce)),
        app: name("a"),
        tier: Tier::T1,
        key: name("k"),
        operation: Operation::SignPayment,
        act: serde_json::json!(payment),
        digest,
        present: Present::assertion(digest, None),
        authority: None,
        device: [0; 32],
        debit: Debit {
            at: Timestamp(0),
            key: name("k"),
            app: name("a"),
            chain: Some(Chain(1)),
            asset: Some(Asset::Native),
            to: Some(to),
            amount,
        },
        nonce: Some(NonceClaim { chain: Chain(1), nonce, payment_fingerprint: digest }),
        facts: Box::new(SignFacts {
            app: name("a"),
            tier: Tier::T1,
            key: name("k"),
            sweeping: false,
            looked_at,
            payment: Some(payment),
            other: (Act::Create, 0),
            digest,
        }),
        start: Box::new(drop),
    }
}

async fn outcome(store: &Store, ask: Ask) -> Result<(), (Refusal, bool)> {
    match store.reserve(ask).await.unwrap() {
        ReserveReply::New(_) => Ok(()),
        ReserveReply::Refused { refusal, tripped } => Err((refusal, tripped)),
        _ => panic!("another reply"),
    }
}

// [clause 8.4.3-d] test
#[tokio::test]
async fn a_new_destination_is_known_from_its_first_request_on_across_restarts_and_rule_changes() {
    let dir = tempfile::tempdir().unwrap();
    let with = |delay: &str| {
        let text = format!("new_destination = {{ delay = \"{delay}\" }}");
        let whole = format!(
            "schema = 1\n[assets.ETH]\nchain = \"eip155:1\"\nnative = true\ndecimals = 18\n[[rule]]\nid = \"pay\"\neffect = \"permit\"\nkeys = [\"k\"]\napps = [\"a\"]\nchains = [\"eip155:1\"]\nassets = [\"ETH\"]\nto.allow = [\"*\"]\nfee.max = \"9\"\n{text}\n"
        );
        Arc::new(Policy::parse(&whole).unwrap())
    };
    let store = open(dir.path(), policy("")).await;
    assert!(outcome(&store, ask(0, 1, 5, None)).await.is_ok());
    store.swap_ledger(Box::new(PolicyLedger::new(with("24h")))).await.unwrap();
    // Paid a moment ago is new as well.
    let paid = outcome(&store, ask(1, 1, 5, None)).await.unwrap_err().0;
    assert_eq!(paid.code, Code::DestinationNew);
    let first = outcome(&store, ask(2, 2, 5, None)).await.unwrap_err().0;
    assert!(first.sentence.contains("24h after this request"), "{}", first.sentence);
    let again = outcome(&store, ask(3, 2, 5, None)).await.unwrap_err().0;
    assert!(again.sentence.contains("allowed from "), "{}", again.sentence);
    store.close().await;
    drop(store);
    // The log tells the same as the table, or it would not open.
    let store = open(dir.path(), with("24h")).await;
    let later = outcome(&store, ask(4, 2, 5, None)).await.unwrap_err().0;
    assert_eq!(
        later.facts["first"], again.facts["first"],
        "the first request counts, before a restart and after"
    );
    let paid_later = outcome(&store, ask(5, 1, 5, None)).await.unwrap_err().0;
    assert_eq!(paid_later.facts["first"], paid.facts["first"]);
}

// [clause 8.4.3-c] test
#[tokio::test]
async fn too_many_new_destinations_suspend_the_key_before_it_signs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), policy("[tripwire]\nnew_destinations = 3\nwithin = \"1h\"")).await;
    assert!(outcome(&store, ask(0, 1, 5, None)).await.is_ok());
    assert!(outcome(&store, ask(1, 1, 5, None)).await.is_ok(), "the same one is not new");
    assert!(outcome(&store, ask(2, 2, 5, None)).await.is_ok());
    let (refusal, tripped) = outcome(&store, ask(3, 3, 5, None)).await.unwrap_err();
    assert_eq!((refusal.code, tripped), (Code::Tripped, true), "{refusal}");
    let (refusal, _) = outcome(&store, ask(4, 1, 5, None)).await.unwrap_err();
    assert_eq!(refusal.code, Code::KeyState, "the key is suspended for everything");
    let log = store.entries(0, 100).await.unwrap();
    let told = log.iter().any(|e| {
        let entry: crate::core::log::entry::Entry = crate::core::log::entry::Entry::decode(e).unwrap();
        matches!(entry.kind, EntryKind::KeyMoved { to: State::Suspended, actor, reason, .. }
            if actor == "tripwire" && reason.contains("3 destinations in 60 minutes"))
    });
    assert!(told, "the log says why");
    // Who activates it has looked: what was before does not count, and the destination is not new any more.
    activate(&store).await;
    let looked = Some(store.now().await.unwrap());
    assert!(outcome(&store, ask(5, 3, 5, looked)).await.is_ok());
    store.close().await;
}

// [clause 8.4.3-c] test
#[tokio::test]
async fn an_amount_far_above_what_is_usual_suspends_the_key_before_it_signs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), policy("[tripwire]\namount_factor = 10")).await;
    for (nonce, amount) in [(0, 90), (1, 100), (2, 80)] {
        assert!(outcome(&store, ask(nonce, 1, amount, None)).await.is_ok());
    }
    assert!(outcome(&store, ask(3, 1, 1000, None)).await.is_ok(), "ten times is not more than ten times");
    store.close().await;
    drop(store);
    let store = open(dir.path(), policy("[tripwire]\namount_factor = 10")).await;
    let simulated = store.explain(Box::new(*ask(4, 1, 10_001, None).facts.downcast::<SignFacts>().unwrap()));
    let simulated = simulated.await.unwrap().unwrap();
    assert_eq!((&simulated["outcome"], &simulated["code"]), (&"deny".into(), &"tripped".into()));
    let (refusal, tripped) = outcome(&store, ask(4, 1, 10_001, None)).await.unwrap_err();
    assert_eq!((refusal.code, tripped), (Code::Tripped, true));
    assert!(refusal.sentence.contains("10 times"), "{refusal}");
    // Its amount is not debited, and nothing was reserved.
    activate(&store).await;
    let looked = Some(store.now().await.unwrap());
    assert!(
        outcome(&store, ask(4, 1, 10_001, looked)).await.is_ok(),
        "with a new history nothing is unusual yet"
    );
    store.close().await;
}
