//! A real PKCS#11 module: SoftHSM 2. Each step runs in this one process, because SoftHSM reads its configuration from
//! the environment once: the test starts itself again with `SOFTHSM2_CONF` set.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests stop where they cannot go on"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use claviger::core::key::{Algorithm, KeyRecord, KeyRef, Origin, Purpose, State};
use claviger::core::units::{Name, Timestamp};
use claviger::core::verify::Verifier;
use claviger::secret::{Pin, SecretBytes};
use claviger::token::keeper::{Backend, Keeper, KeeperConfig, KeeperState, Whereabouts};
use claviger::token::profile::Profile;
use claviger::token::{KeySpec, TokenError};

fn pin(text: &str) -> Option<Pin> {
    Pin::new(text.to_owned())
}

/// Each test runs both ways: the module in a process of its own, and in this one.
fn worker() -> Option<PathBuf> {
    std::env::var_os("IN_PROCESS").is_none().then(|| PathBuf::from(env!("CARGO_BIN_EXE_clavigerd")))
}

fn start(pin_text: &str) -> Keeper {
    let profile = Profile::load("softhsm2").unwrap();
    let place = Whereabouts { label: Some("test".into()), ..Whereabouts::default() };
    let backend = Backend::resolve(profile, place, worker())
        .expect("SoftHSM 2 is needed: install the package softhsm2");
    Keeper::start(backend, pin(pin_text), KeeperConfig { workers: 4, ..KeeperConfig::default() })
}

async fn until(keeper: &Keeper, wanted: impl Fn(&KeeperState) -> bool, patience: Duration) -> Duration {
    let began = Instant::now();
    while !wanted(&keeper.state()) {
        assert!(began.elapsed() < patience, "still {:?} after {patience:?}", keeper.state());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

async fn make(
    keeper: &Keeper,
    n: u8,
    algorithm: Algorithm,
    purpose: Purpose,
) -> Result<KeyRecord, TokenError> {
    let reference = KeyRef::from([n; 16]);
    let spec = KeySpec { reference, label: format!("k{n}"), algorithm, purpose };
    let name = Name::parse(&format!("k{n}")).unwrap();
    let public = keeper.generate(spec).await?;
    let record =
        KeyRecord::new(name, reference, purpose, public, String::new(), Origin::Generated, Timestamp(0));
    Ok(KeyRecord { state: State::Active, ..record })
}

async fn checkpoint(keeper: &Keeper, key: &KeyRecord) -> Result<(), TokenError> {
    let body = "origin\n1\nroot\n";
    let raw = keeper.sign_checkpoint(key, body).await?;
    let to_sign = claviger::core::payment::ToSign::Message(body.as_bytes().to_vec());
    Verifier::new(&key.public)
        .unwrap()
        .check(&to_sign, &raw)
        .map(drop)
        .map_err(|e| TokenError::Corrupt(e.to_string()))
}

fn again_with(name: &str) -> bool {
    if std::env::var_os("SOFTHSM2_CONF").is_some_and(|c| c.to_string_lossy().contains("claviger-test")) {
        return false;
    }
    for in_process in [false, true] {
        let dir = tempfile::Builder::new().prefix("claviger-test").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tokens")).unwrap();
        let conf = dir.path().join("softhsm2.conf");
        std::fs::write(
            &conf,
            format!("directories.tokendir = {}\nlog.level = ERROR\n", dir.path().join("tokens").display()),
        )
        .unwrap();
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", "test", "--so-pin", "12345678", "--pin", "1234"])
            .env("SOFTHSM2_CONF", &conf)
            .output()
            .expect("softhsm2-util is needed: install the package softhsm2");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", name, "--nocapture"]).env("SOFTHSM2_CONF", &conf);
        if in_process {
            again.env("IN_PROCESS", "1");
        }
        let done = again.status().unwrap();
        assert!(done.success(), "{name} failed under SoftHSM (in process: {in_process})");
    }
    true
}

fn tokens() -> PathBuf {
    Path::new(&std::env::var("SOFTHSM2_CONF").unwrap()).parent().unwrap().join("tokens")
}

// [clause 8.2.5-a] test
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_inside_and_the_profile_keeps_its_claims() {
    if again_with("keys_are_made_inside_and_the_profile_keeps_its_claims") {
        return;
    }
    let keeper = start("1234");
    until(&keeper, |s| *s == KeeperState::Usable, Duration::from_secs(10)).await;
    let rows = keeper.check().await.unwrap();
    assert!(rows.len() >= 8 && rows.iter().all(|r| r.ok && r.found), "{rows:#?}");
    // Many at once: the module cannot make keys side by side, the keeper makes them one after the other.
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let keeper = keeper.clone();
        let algorithm = Algorithm::ALL.into_iter().cycle().nth(n).unwrap();
        let purpose = Purpose::ALL.into_iter().find(|p| p.takes(algorithm)).unwrap();
        tasks.spawn(async move { make(&keeper, u8::try_from(n + 1).unwrap(), algorithm, purpose).await });
    }
    for made in tasks.join_all().await {
        let made = made.unwrap();
        assert_eq!(keeper.find(made.reference).await.unwrap(), Some(made.public));
        keeper.destroy(made.reference).await.unwrap();
        assert_eq!(keeper.find(made.reference).await.unwrap(), None);
    }
    keeper.stop();
}

// [clause 8.7.2-a] test
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_used_for_its_purpose_only() {
    if again_with("a_key_is_used_for_its_purpose_only") {
        return;
    }
    let keeper = start("1234");
    until(&keeper, |s| *s == KeeperState::Usable, Duration::from_secs(10)).await;
    let log = make(&keeper, 1, Algorithm::Ed25519, Purpose::Integrity).await.unwrap();
    checkpoint(&keeper, &log).await.unwrap();
    let payment = make(&keeper, 2, Algorithm::Ed25519, Purpose::Payment).await.unwrap();
    assert!(matches!(checkpoint(&keeper, &payment).await, Err(TokenError::Refused(_))));
    assert!(matches!(keeper.sign_checkpoint(&log, "no checkpoint").await, Err(TokenError::Refused(_))));
    keeper.stop();
}

// [clause 8.7.1-j] test
#[tokio::test(flavor = "multi_thread")]
async fn data_is_kept_beside_what_was_kept_last_and_none_is_told_from_gone() {
    if again_with("data_is_kept_beside_what_was_kept_last_and_none_is_told_from_gone") {
        return;
    }
    let keeper = start("1234");
    until(&keeper, |s| *s == KeeperState::Usable, Duration::from_secs(10)).await;
    let label = "claviger anchor 0011223344556677".to_owned();
    assert_eq!(keeper.data(label.clone()).await.unwrap(), Vec::<Vec<u8>>::new());
    let mut beside = Vec::new();
    for n in 0..5u8 {
        keeper.keep_data(label.clone(), vec![n; 100], beside.clone()).await.unwrap();
        let mut kept = keeper.data(label.clone()).await.unwrap();
        kept.sort_unstable();
        let wanted = if n == 0 { vec![vec![0; 100]] } else { vec![beside, vec![n; 100]] };
        assert_eq!(kept, wanted);
        beside = vec![n; 100];
    }
    assert_eq!(keeper.data("claviger anchor".into()).await.unwrap(), Vec::<Vec<u8>>::new());
    // A token that has vanished holds nothing either, and must not be taken for one that lost it.
    let away = tokens().with_extension("away");
    std::fs::rename(tokens(), &away).unwrap();
    assert!(matches!(keeper.data(label.clone()).await, Err(TokenError::Gone(_))));
    until(&keeper, |s| matches!(s, KeeperState::Unusable(_)), Duration::from_secs(10)).await;
    std::fs::rename(&away, tokens()).unwrap();
    until(&keeper, |s| *s == KeeperState::Usable, Duration::from_secs(15)).await;
    assert_eq!(keeper.data(label).await.unwrap().len(), 2);
    keeper.stop();
}

// [clause 8.2.5-c] test
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_pin_is_not_sent_again() {
    if again_with("a_rejected_pin_is_not_sent_again") {
        return;
    }
    let keeper = start("9999");
    until(&keeper, |s| matches!(s, KeeperState::Locked(_)), Duration::from_secs(10)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(matches!(keeper.state(), KeeperState::Locked(_)));
    assert_eq!(keeper.stats().reinits, 0);
    keeper.unlock(pin("1234").unwrap());
    until(&keeper, |s| *s == KeeperState::Usable, Duration::from_secs(10)).await;
    keeper.stop();
}

// [clause 8.2.5-b] test
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_vanishes_is_told_and_comes_back_by_itself() {
    if again_with("a_token_that_vanishes_is_told_and_comes_back_by_itself") {
        return;
    }
    let keeper = start("1234");
    until(&keeper, |s| *s == KeeperState::Usable, Duration::from_secs(10)).await;
    let key = make(&keeper, 1, Algorithm::Ed25519, Purpose::Integrity).await.unwrap();
    keeper.expect_keys(vec![(key.reference, key.public)]);
    let away = tokens().with_extension("away");
    std::fs::rename(tokens(), &away).unwrap();
    until(&keeper, |s| matches!(s, KeeperState::Unusable(_)), Duration::from_secs(10)).await;
    assert!(matches!(checkpoint(&keeper, &key).await, Err(TokenError::Gone(_))));
    tokio::time::sleep(Duration::from_secs(2)).await;
    std::fs::rename(&away, tokens()).unwrap();
    let took = until(&keeper, |s| *s == KeeperState::Usable, Duration::from_secs(15)).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    checkpoint(&keeper, &key).await.unwrap();
    keeper.stop();
}

// [clause 8.2.5-b] test
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_or_stands_still_is_replaced() {
    if again_with("a_worker_that_dies_or_stands_still_is_replaced") || worker().is_none() {
        return;
    }
    let keeper = start("1234");
    until(&keeper, |s| *s == KeeperState::Usable, Duration::from_secs(10)).await;
    let key = make(&keeper, 1, Algorithm::Ed25519, Purpose::Integrity).await.unwrap();
    keeper.expect_keys(vec![(key.reference, key.public)]);
    for signal in ["-KILL", "-ABRT", "-STOP"] {
        let old = keeper.stats().worker.unwrap();
        let began = Instant::now();
        assert!(Command::new("kill").args([signal, &old.to_string()]).status().unwrap().success());
        while keeper.stats().worker.is_none_or(|pid| pid == old) || keeper.state() != KeeperState::Usable {
            assert!(began.elapsed() < Duration::from_secs(5), "{signal}: {:?}", keeper.state());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        checkpoint(&keeper, &key).await.unwrap();
        assert!(!Path::new(&format!("/proc/{old}")).exists(), "{signal}: the old worker is still there");
    }
    let last = keeper.stats().worker.unwrap();
    keeper.stop();
    assert!(!Path::new(&format!("/proc/{last}")).exists(), "a worker outlived its keeper");
}

// [clause 8.2.5-b] test
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_lacks_one_key_serves_the_others_and_one_that_lacks_all_is_not_ours() {
    if again_with("a_token_that_lacks_one_key_serves_the_others_and_one_that_lacks_all_is_not_ours") {
        return;
    }
    let keeper = start("1234");
    until(&keeper, |s| *s == KeeperState::Usable, Duration::from_secs(10)).await;
    let lost = make(&keeper, 1, Algorithm::Ed25519, Purpose::Integrity).await.unwrap();
    let kept = make(&keeper, 2, Algorithm::Ed25519, Purpose::Integrity).await.unwrap();
    keeper.destroy(lost.reference).await.unwrap();
    for (expected, usable) in [(vec![&lost, &kept], true), (vec![&lost], false)] {
        keeper.stop();
        let keeper = start("1234");
        keeper.expect_keys(expected.iter().map(|k| (k.reference, k.public)).collect());
        until(
            &keeper,
            |s| if usable { *s == KeeperState::Usable } else { matches!(s, KeeperState::Unusable(_)) },
            Duration::from_secs(10),
        )
        .await;
        if usable {
            checkpoint(&keeper, &kept).await.unwrap();
        }
        keeper.stop();
    }
}

// [clause 8.2.2-d] test
#[tokio::test(flavor = "multi_thread")]
async fn only_a_trusted_key_that_does_not_unwrap_takes_keys_out() {
    if again_with("only_a_trusted_key_that_does_not_unwrap_takes_keys_out") {
        return;
    }
    let keeper = start("1234");
    until(&keeper, |s| *s == KeeperState::Usable, Duration::from_secs(10)).await;
    keeper.check().await.unwrap();
    let (by, key) = (KeyRef::from([90; 16]), SecretBytes::copy_of(&[7; 32]));
    let spec = |n: u8| KeySpec {
        reference: KeyRef::from([n; 16]),
        label: format!("k{n}"),
        algorithm: Algorithm::Secp256k1,
        purpose: Purpose::Payment,
    };
    let refused = |outcome: Result<_, TokenError>| matches!(outcome, Err(TokenError::Refused(_)));
    // Nobody put it there; a user's own wrapping key is not trusted, and unwraps.
    assert!(refused(keeper.take_wrapping_key(by, &key).await.map(drop)));
    assert!(refused(keeper.make_for_backup(spec(1), by).await.map(drop)));
    make(&keeper, 91, Algorithm::Aes256Kw, Purpose::Transport).await.unwrap();
    let own = KeyRef::from([91; 16]);
    assert!(refused(keeper.take_wrapping_key(own, &key).await.map(drop)));
    assert!(refused(keeper.make_for_backup(spec(1), own).await.map(drop)));
    assert_eq!(keeper.find(spec(1).reference).await.unwrap(), None);
    if std::env::var_os("IN_PROCESS").is_some() {
        // An officer logs in beside the daemon: from a process of its own, as the command does.
        return;
    }
    let place = Whereabouts { label: Some("test".into()), ..Whereabouts::default() };
    let Backend::Pkcs11 { place, profile, .. } =
        Backend::resolve(Profile::load("softhsm2").unwrap(), place, None).unwrap()
    else {
        panic!("another backend")
    };
    let officer = pin("12345678").unwrap();
    let wrong = claviger::token::pkcs11::officer::take(
        place.clone(),
        profile.clone(),
        &pin("87654321").unwrap(),
        by,
        key.expose(),
    );
    assert!(matches!(wrong, Err(TokenError::Locked(_))), "{wrong:?}");
    claviger::token::pkcs11::officer::take(place, profile, &officer, by, key.expose()).unwrap();
    let other = SecretBytes::copy_of(&[8; 32]);
    assert!(refused(keeper.take_wrapping_key(by, &other).await.map(drop)));
    keeper.take_wrapping_key(by, &key).await.unwrap();
    let public = keeper.make_for_backup(spec(2), by).await.unwrap();
    let wrapped = keeper.wrap_for_backup(spec(2).reference, by).await.unwrap();
    assert!(refused(keeper.wrap_for_backup(spec(2).reference, own).await.map(drop)));
    // A key that was made to stay does.
    let stays = make(&keeper, 3, Algorithm::Secp256k1, Purpose::Payment).await.unwrap();
    assert!(refused(keeper.wrap_for_backup(stays.reference, by).await.map(drop)));
    // What comes back is what it says, or does not come back.
    for (under, what) in [(&other, public), (&key, stays.public)] {
        let came = keeper.unwrap_from_backup(spec(4), by, under, what, wrapped.clone()).await;
        let proved = match came {
            Ok(_) => keeper.prove_possession(spec(4).reference, what).await,
            Err(e) => Err(e),
        };
        assert!(proved.is_err());
        drop(keeper.destroy(spec(4).reference).await);
    }
    assert_eq!(keeper.unwrap_from_backup(spec(5), by, &key, public, wrapped).await.unwrap(), public);
    keeper.prove_possession(spec(5).reference, public).await.unwrap();
    keeper.stop();
}
