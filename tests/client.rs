//! The client library against the real daemon: blocking and for tokio.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

mod support;

use std::time::Duration;

use claviger::client::{
    self, Address, Client, Code, Error, Name, Options, Payment, Purpose, Retry, Standing, ask,
};
use support::{Daemon, POLICY, cli_ok, own_uid};

fn options(daemon: &Daemon) -> Options {
    Options::new().socket(daemon.home.join("wallet.sock")).daemon_uid(own_uid())
}

fn payment(daemon: &Daemon, nonce: u64, value: u64) -> Payment {
    Payment::from_json(&daemon.tx(nonce, value)).unwrap()
}

#[test]
fn everything_that_an_app_asks_is_typed_and_checked() {
    let daemon = Daemon::start();
    let home = &daemon.home;
    for (name, purpose) in
        [("site", "authentication"), ("dice", "random"), ("vault", "encryption"), ("tags", "integrity")]
    {
        cli_ok(home, &["key", "create", name, "--purpose", purpose]);
    }
    let others = "\n[[rule]]\nid = \"others\"\neffect = \"permit\"\nkeys = [\"site\", \"dice\", \"vault\", \"tags\"]\napps = [\"test\"]\n\
                  acts = [\"login\", \"random\", \"encrypt\", \"decrypt\", \"mac\", \"verify-mac\"]\n";
    daemon.apply(&format!("{POLICY}{others}"));
    let mut client = options(&daemon).connect().unwrap();
    assert!(client.status().unwrap().signing);
    assert_eq!(client.governance().unwrap().policy.len(), 64);
    assert_eq!(client.chain_id().unwrap(), 1, "the only one of the policy");
    let news = client.wait_governance(0, Duration::ZERO).unwrap();
    assert!(!news.news.is_empty(), "the policy was applied");
    assert!(client.wait_governance(news.since, Duration::ZERO).unwrap().news.is_empty());
    let keys = client.list_keys().unwrap();
    let hot = keys.iter().find(|key| key.purpose == Purpose::Payment).unwrap();
    let account = hot.address.unwrap();
    assert_eq!((account, hot.name.as_str()), (Address::parse(&daemon.address).unwrap(), "hot"));

    let paid = payment(&daemon, 1, 50);
    assert_eq!(client.simulate_payment(&paid).unwrap().payment["nonce"], 1);
    let signed = client.sign_payment(&paid).unwrap();
    assert!(signed.raw_hex().starts_with("0x02") && signed.request.is_some());
    assert_eq!(client.sign_payment(&paid).unwrap().raw, signed.raw, "the same payment, the same signature");

    let begun = payment(&daemon, 2, 1);
    let request = client.begin_payment(&begun).unwrap();
    let standing = client.wait_payment(&begun, request, Duration::from_secs(20)).unwrap();
    let waited = standing.signed().unwrap();
    assert_eq!(client.sign_payment(&begun).unwrap().raw, waited.raw);
    // Another payment's signature is not taken for this one's.
    let told = client.wait_payment(&paid, request, Duration::ZERO);
    assert!(matches!(told, Err(Error::Mismatch { .. })), "{told:?}");
    assert!(!client.cancel_payment(request).unwrap(), "it is signed");

    let Err(Error::Refused(why)) = client.sign_payment(&payment(&daemon, 3, 101)) else {
        panic!("it is too much")
    };
    assert_eq!(
        (why.code(), why.known(), why.number(), why.retry(), why.clause(), why.rule()),
        ("over_limit", Some(Code::OverLimit), 4001, Retry::Operator, "8.7.1-c", Some("pay"))
    );
    assert!(why.message().contains("100") && !why.advice().is_empty());
    assert!(matches!(Payment::from_json(&serde_json::json!({"from": account})), Err(Error::Invalid(_))));

    client.sign_message(account, b"hello").unwrap();
    let name = |text: &str| Name::parse(text).unwrap();
    let login = client.sign_login(&name("site"), "https://example.org", &[7; 32]).unwrap();
    assert!(login.message.starts_with(b"\xffclaviger login"));
    assert_eq!(client.random(&name("dice"), 48).unwrap().len(), 48);
    let sealed = client.encrypt(&name("vault"), b"secret", b"beside").unwrap();
    assert_eq!(client.decrypt(&name("vault"), &sealed, b"beside").unwrap(), b"secret");
    let other = client.decrypt(&name("vault"), &sealed, b"other").unwrap_err();
    assert_eq!(other.refused().unwrap().known(), Some(Code::DataInvalid));
    let mac = client.mac(&name("tags"), b"data").unwrap();
    assert!(client.verify_mac(&name("tags"), b"data", &mac).unwrap());
    assert!(!client.verify_mac(&name("tags"), b"date", &mac).unwrap());

    // Several under way, asked for in another order than they were sent.
    let first = client.send(ask::sign_payment(&payment(&daemon, 10, 1))).unwrap();
    let second = client.send(ask::sign_payment(&payment(&daemon, 11, 1))).unwrap();
    let third = client.send(ask::list_keys()).unwrap();
    assert_eq!(client.receive(third).unwrap(), keys);
    let second = client.receive(second).unwrap();
    let first = client.receive(first).unwrap();
    assert_eq!(
        (first.transaction["nonce"].as_str(), second.transaction["nonce"].as_str()),
        (Some("0xa"), Some("0xb"))
    );
    // Every request showed the nonce: without it a connection that said hello gets nothing.
    let refused = daemon.wallet().call("claviger_status", &serde_json::json!({}));
    assert_eq!(support::code(&refused), "ok", "who says no hello needs none");
}

#[test]
fn a_reply_that_is_lost_is_unknown_and_the_same_payment_settles_it() {
    let mut daemon = Daemon::start();
    let mut client = options(&daemon).timeout(Duration::from_millis(700)).connect().unwrap();
    let paid = payment(&daemon, 1, 100);
    daemon.signal("STOP");
    let told = client.sign_payment(&paid);
    daemon.signal("CONT");
    assert!(matches!(&told, Err(error @ Error::Unknown { .. }) if error.ask_again()), "{told:?}");
    // On the same connection: the late reply is not taken for the answer to this.
    let signed = client.sign_payment(&paid).unwrap();
    let late = payment(&daemon, 2, 100);
    let under_way = client.send(ask::sign_payment(&late)).unwrap();
    daemon.restart();
    let told = client.receive(under_way);
    assert!(matches!(told, Ok(_) | Err(Error::Unknown { .. })), "{told:?}");
    // It connects again when it is told to, and not before.
    let told = client.sign_payment(&late);
    assert!(matches!(told, Err(Error::Unknown { .. } | Error::Disconnected(_))), "{told:?}");
    assert!(matches!(client.sign_payment(&late), Err(Error::Disconnected(_))));
    client.reconnect().unwrap();
    // What was sent before is not answered by what is said now, whatever its number.
    let before: Vec<_> = (0..3).map(|_| client.send(ask::list_keys()).unwrap()).collect();
    client.reconnect().unwrap();
    let after = client.send(ask::list_keys()).unwrap();
    assert!(before.into_iter().all(|sent| matches!(client.receive(sent), Err(Error::Unknown { .. }))));
    assert_eq!(client.receive(after).unwrap().len(), 1);
    assert_eq!(client.sign_payment(&paid).unwrap().raw, signed.raw);
    client.sign_payment(&late).unwrap();
    // 250 in a day: both were counted once, and a third does not fit.
    let told = client.sign_payment(&payment(&daemon, 3, 100)).unwrap_err();
    assert_eq!(told.refused().unwrap().known(), Some(Code::WindowExceeded));
    daemon.verify_log();
}

// [clause 8.5.4-a] test
#[test]
fn a_payment_that_waits_for_people_is_waited_for_and_checked_like_any_other() {
    if !support::ssh_keygen_is_here() {
        return;
    }
    let mut daemon = Daemon::start();
    let dir = daemon.home.join("people");
    std::fs::create_dir(&dir).unwrap();
    let key = support::keygen(&dir, "alice", "ed25519");
    let people = format!(
        "schema = 1\ndeployment = \"test-1\"\nfiles_allowed = true\n[[person]]\nid = \"alice\"\ngroups = [\"ops\"]\nkeys = [\"{key}\"]\n"
    );
    std::fs::write(daemon.home.join("authority.toml"), people).unwrap();
    let file = daemon.home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("authority_file = \"authority.toml\"\n{config}")).unwrap();
    daemon.restart();
    let approve = "per_tx.max = \"100\"\napprove = [{ above = \"50\", quorum = 1, of = \"ops\" }]";
    daemon.apply(&POLICY.replace("per_tx.max = \"100\"", approve));

    let mut client = options(&daemon).connect().unwrap();
    let waiting = |client: &mut Client, payment: &Payment| {
        let why = client.sign_payment(payment).unwrap_err();
        let why = why.refused().unwrap();
        assert_eq!((why.known(), why.retry()), (Some(Code::ApprovalNeeded), Retry::Later));
        why.waiting().unwrap()
    };
    let paid = payment(&daemon, 1, 60);
    let request = waiting(&mut client, &paid);
    let standing = client.wait_payment(&paid, request, Duration::from_millis(50)).unwrap();
    assert_eq!(standing, Standing::Pending(request));
    let id = request.to_string();
    let shown = cli_ok(&daemon.home, &["approval", "show", &id]);
    let text = shown["text"].as_str().unwrap();
    let signature = dir.join("signature");
    let made = support::ssh_sign(&dir.join("alice"), "clavigerd-approval@v1", text, &[]);
    std::fs::write(&signature, made).unwrap();
    cli_ok(&daemon.home, &["approval", "approve", &id, "--signature", signature.to_str().unwrap()]);
    let signed = client.wait_payment(&paid, request, Duration::from_secs(20)).unwrap().signed().unwrap();
    assert_eq!(client.sign_payment(&paid).unwrap().raw, signed.raw);

    let other = payment(&daemon, 2, 60);
    let request = waiting(&mut client, &other);
    assert!(client.cancel_payment(request).unwrap());
    let told = client.wait_payment(&other, request, Duration::ZERO).unwrap_err();
    assert!(told.refused().is_some(), "{told}");
    assert_eq!(daemon.verify_log()["results"], 1);
}

#[tokio::test]
async fn many_tasks_share_one_connection() {
    let daemon = Daemon::start();
    let client = options(&daemon).connect_tokio().await.unwrap();
    let tasks: Vec<_> = (0..40)
        .map(|nonce| {
            let (client, payment) = (client.clone(), payment(&daemon, nonce, 1));
            tokio::spawn(async move { client.sign_payment(&payment).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    // A future that is dropped leaves the connection whole.
    let dropped = payment(&daemon, 50, 1);
    tokio::time::timeout(Duration::from_micros(1), client.sign_payment(&dropped)).await.ok();
    assert_eq!(client.list_keys().await.unwrap().len(), 1);
    let begun = payment(&daemon, 51, 1);
    let request = client.begin_payment(&begun).await.unwrap();
    let standing = client.wait_payment(&begun, request, Duration::from_secs(20)).await.unwrap();
    assert!(matches!(standing, Standing::Signed(_)));
    let refused = client.sign_payment(&payment(&daemon, 52, 101)).await.unwrap_err();
    assert_eq!(refused.refused().unwrap().code(), "over_limit");

    let slow = options(&daemon).timeout(Duration::from_millis(500)).connect_tokio().await.unwrap();
    daemon.signal("STOP");
    let told = slow.sign_payment(&payment(&daemon, 60, 1)).await;
    daemon.signal("CONT");
    assert!(matches!(told, Err(Error::Unknown { .. })), "{told:?}");
    slow.sign_payment(&payment(&daemon, 60, 1)).await.unwrap();
    drop(daemon);
    let told = client.status().await;
    assert!(matches!(told, Err(Error::Unknown { .. } | Error::Disconnected(_))), "{told:?}");
    assert!(matches!(client.status().await, Err(Error::Disconnected(_))));
}

#[test]
fn strangers_are_told_what_to_do() {
    let daemon = Daemon::start();
    daemon.apply(&POLICY.replace("[\"test\"]", "[\"other\"]"));
    std::fs::write(daemon.home.join("apps.toml"), "").unwrap();
    cli_ok(&daemon.home, &["reload"]);
    let mut client: Client = options(&daemon).connect().unwrap();
    let told = client.list_keys().unwrap_err();
    assert_eq!(told.refused().unwrap().known(), Some(Code::AppUnknown));
    assert!(told.to_string().contains("apps.toml"), "{told}");
    let nowhere = Options::new().socket(daemon.home.join("nowhere.sock")).connect();
    assert!(matches!(nowhere, Err(client::Error::Unreachable { .. })));
}
