//! The beacon as a device and a revoker see it: over its socket, with the stock ssh-keygen.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests stop where they cannot go on"
)]

mod rig;

use std::time::{Duration, Instant};

use claviger::core::log::checkpoint;
use claviger::core::order::{Heartbeat, Lease, Receipt, Scope, device_id, judge};
use claviger::core::units::Timestamp;
use ed25519_dalek::{Signer, SigningKey};
use rig::{BOOT, PLAIN, Rig, order, question, ssh_keygen_is_here};
use serde_json::{Value, json};

fn orders(told: &Value) -> usize {
    told["orders"].as_array().unwrap().len()
}

// [clause 8.2.1-b] test
#[test]
fn orders_go_in_with_signatures_alone_and_leases_come_out_until_one_stands() {
    if !ssh_keygen_is_here() {
        return;
    }
    let rig = Rig::start(&format!("{PLAIN}[lease]\nkey = \"lease\"\nseconds = 600\n"));
    let device = "a".repeat(64);
    let wanted = json!({"epoch": 1, "boot": BOOT, "nonce": "b".repeat(64)});
    // Nothing stands: no orders, and a lease that counts.
    let (status, told, _) = rig.ask(&device, &json!({"lease": wanted, "wait": 20}));
    assert_eq!((status, orders(&told)), (200, 0));
    let given = Lease::parse(told["lease"]["text"].as_str().unwrap()).unwrap();
    assert_eq!((given.seconds, given.latest.as_deref()), (600, None));
    judge::lease(&rig.authority, &given, told["lease"]["signatures"][0].as_str().unwrap()).unwrap();
    // What is no lease is not signed.
    let forged = json!({"lease": {"epoch": 1, "boot": BOOT, "nonce": "x\nreason: y"}});
    assert!(rig.ask(&device, &forged).1["lease"].is_null());
    let all = order(&device, 1, Scope::All);
    assert_eq!(rig.put(&all, "alice"), 400, "not a revoker");
    assert_eq!(rig.put(&all, "lease"), 400, "the beacon's own key");
    let mut other = all.clone();
    other.deployment = "test-2".into();
    assert_eq!(rig.put(&other, "gina"), 400, "another deployment");
    let bare = json!({"text": all.render(), "signatures": []}).to_string();
    assert_eq!(rig.asked("POST", "/v1/orders", &bare).0, 400);
    let one = order(&device, 7, Scope::parse("key:hot").unwrap());
    assert_eq!(rig.put(&one, "gina"), 200);
    // A lease names the newest order, so that it does not go past it.
    let (_, told, _) = rig.ask(&device, &json!({"lease": wanted}));
    let given = Lease::parse(told["lease"]["text"].as_str().unwrap()).unwrap();
    assert_eq!(given.latest, Some(one.hash()));
    // One that waits hears at once.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let began = Instant::now();
            (rig.ask(&device, &json!({"wait": 20, "known": [one.hash()]})).1, began.elapsed())
        });
        std::thread::sleep(Duration::from_millis(500));
        assert!(rig.asked("GET", "/", "").2.contains("connected"));
        assert_eq!(rig.put(&all, "gina"), 200);
        let (told, took) = waiting.join().unwrap();
        assert_eq!(told["orders"][0]["text"], all.render());
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
    // From here on there is no lease in this epoch.
    let (_, told, _) = rig.ask(&device, &json!({"lease": wanted}));
    assert_eq!((orders(&told), told["lease"].is_null()), (2, true));
    let after = json!({"epoch": 2, "boot": BOOT, "nonce": "c".repeat(64)});
    let (_, told, _) = rig.ask(&device, &json!({"epoch": 2, "lease": after}));
    assert_eq!((orders(&told), told["lease"].is_object()), (0, true));
    // Hearsay is shown as text.
    let (status, _, page) = rig.asked("GET", "/", "");
    assert!(status == 200 && page.contains("&lt;b&gt;") && !page.contains("<b>&"), "{page}");
    for body in [json!({}), json!({"device": "../x", "deployment": "test-1", "epoch": 1}), json!([1])] {
        assert_eq!(rig.asked("POST", "/v1/ask", &body.to_string()).0, 400, "{body}");
    }
    assert_eq!(rig.asked("GET", "/../authority.toml", "").0, 404);
    let metrics = rig.asked("GET", "/metrics", "").2;
    assert!(metrics.contains("claviger_beacon_orders_taken_total 2\n"), "{metrics}");
    assert!(metrics.contains("claviger_beacon_devices{level=\"running\"} 1\n"), "{metrics}");
    assert_eq!(rig.asked("GET", "/healthz", "").2, "ok\n");
}

#[test]
fn what_was_answered_outlasts_a_power_cut() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut rig = Rig::start(PLAIN);
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = key.verifying_key().to_bytes();
    let device = device_id("test-1", &public);
    let all = order(&device, 1, Scope::All);
    assert_eq!(rig.put(&all, "gina"), 200);
    rig.kill();
    rig.run();
    assert_eq!(orders(&rig.ask(&device, &json!({})).1), 1, "the order");
    let note = |text: &str, key: &SigningKey| {
        checkpoint::note(text, "log.example", &public, &key.sign(text.as_bytes()).to_bytes())
    };
    let receipt = Receipt {
        device: device.clone(),
        order: all.hash(),
        heard: "raised".into(),
        scope: "all".into(),
        level: "suspend".into(),
        epoch: 1,
        index: 7,
        at: Timestamp(1_700_000_000_000),
        done: "it stopped".into(),
    };
    let told = |key: &SigningKey| {
        let head = note(&checkpoint::body("log.example", 8, &[9; 32]), key);
        let vkey = checkpoint::verifier_key("log.example", &public);
        json!({"receipts": [{"order": all.hash(), "receipt": {"receipt": note(&receipt.render(), key), "checkpoint": head, "vkey": vkey}}]})
    };
    let path = format!("/v1/receipts/{}", all.hash());
    // Nobody answers in a device's place: neither another key, nor another device.
    rig.ask(&device, &told(&SigningKey::from_bytes(&[8; 32])));
    rig.ask(&"d".repeat(64), &told(&key));
    assert_eq!(rig.asked("GET", &path, "").0, 404);
    rig.ask(&device, &told(&key));
    rig.kill();
    rig.run();
    let (status, kept, _) = rig.asked("GET", &path, "");
    assert_eq!(status, 200);
    let part = |name: &str| kept[name].as_str().unwrap();
    let read = Receipt::verify(part("receipt"), part("checkpoint"), part("vkey")).unwrap().0;
    assert_eq!(read, receipt);
    assert!(rig.refuses_a_second(), "two beacons over one folder");
}

impl Rig {
    fn refuses_a_second(&self) -> bool {
        let file = self.dir.path().join("beacon.toml");
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_claviger-beacon"))
            .arg("--config")
            .arg(file)
            .output();
        !out.unwrap().status.success()
    }

    fn gets_a_lease(&self, more: &Value) -> bool {
        let mut said = json!({"lease": {"epoch": 1, "boot": BOOT, "nonce": "b".repeat(64)}});
        said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.ask(&"a".repeat(64), &said).1["lease"].is_object()
    }

    fn beats(&self, who: &str, issued: Timestamp) -> u16 {
        let text = Heartbeat { deployment: "test-1".into(), issued }.render();
        let paper = json!({"text": text, "signatures": [self.sign(who, "clavigerd-heartbeat@v1", &text)]});
        self.asked("POST", "/v1/heartbeat", &paper.to_string()).0
    }
}

// [clause 8.2.1-d] test
#[test]
fn leases_are_for_machines_that_are_as_they_must_be_and_while_somebody_is_in_charge() {
    if !ssh_keygen_is_here() {
        return;
    }
    let config = format!("{PLAIN}[lease]\nkey = \"lease\"\nonly_fit = true\nheartbeat_days = 7\n");
    let mut rig = Rig::start(&config);
    let (fit, unfit) = (json!({"facts": {"fit": true}}), json!({"facts": {"fit": false}}));
    let day = 86_400_000;
    let ago = |days: i64| claviger::service::keys::now().minus(days * day);
    assert!(!rig.gets_a_lease(&fit), "nobody ever said that they are there");
    assert_eq!(rig.beats("mallory", ago(0)), 400, "a stranger");
    assert_eq!(rig.beats("lease", ago(0)), 400, "the beacon itself");
    assert_eq!(rig.beats("alice", ago(-1)), 400, "of tomorrow");
    assert_eq!(rig.beats("alice", ago(8)), 200);
    assert!(!rig.gets_a_lease(&fit), "that was a week ago");
    // Whoever waits for a lease hears of it at once.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let began = Instant::now();
            (rig.gets_a_lease(&json!({"facts": {"fit": true}, "wait": 20})), began.elapsed())
        });
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(rig.beats("alice", ago(6)), 200);
        let (given, took) = waiting.join().unwrap();
        assert!(given && took < Duration::from_secs(10), "{took:?}");
    });
    assert_eq!(rig.beats("alice", ago(7)), 400, "an older one is none");
    assert!(!rig.gets_a_lease(&unfit) && !rig.gets_a_lease(&json!({})), "its machine is not as it must be");
    rig.kill();
    rig.run();
    assert!(rig.gets_a_lease(&fit), "it is remembered");
    let page = rig.asked("GET", "/", "").2;
    assert!(page.contains("sign of life by alice 6 days ago"), "{page}");
}

#[test]
fn an_order_goes_in_by_the_form_and_is_judged_all_the_same() {
    if !ssh_keygen_is_here() {
        return;
    }
    let rig = Rig::start(PLAIN);
    let text = order(&"a".repeat(64), 1, Scope::All).render();
    let send = |who: &str| {
        let coded = |text: &str| {
            // As a browser does: each newline is two bytes, and the last one was not pasted.
            let bytes = text.trim().replace('\n', "\r\n").into_bytes();
            bytes.iter().map(|b| format!("%{b:02X}")).collect::<String>()
        };
        let signature = rig.sign(who, "clavigerd-order@v1", &text);
        rig.asked("POST", "/upload", &format!("order={}&signatures={}", coded(&text), coded(&signature)))
    };
    let (status, _, page) = send("alice");
    assert!(status == 400 && page.contains("Not taken in"), "{page}");
    let (status, _, page) = send("gina");
    assert!(status == 200 && page.contains("Taken in"), "{page}");
    assert_eq!(orders(&rig.ask(&"a".repeat(64), &json!({})).1), 1);
}

#[test]
fn strangers_find_no_room_and_only_named_devices_are_heard_where_it_says_so() {
    if !ssh_keygen_is_here() {
        return;
    }
    let named = "a".repeat(64);
    let config =
        format!("only_named = true\n{PLAIN}[[device]]\nid = \"{named}\"\nname = \"<i>till</i> 4\"\n");
    let rig = Rig::start(&config);
    assert_eq!(rig.ask(&named, &json!({})).0, 200);
    assert_eq!(rig.ask(&"b".repeat(64), &json!({})).0, 400);
    let page = rig.asked("GET", "/?q=TILL", "").2;
    assert!(page.contains("&lt;i&gt;till&lt;/i&gt; 4") && !page.contains("<i>"), "{page}");
    let none = rig.asked("GET", "/?q=%3Cscript%3E", "").2;
    assert!(none.contains("No device is like that") && !none.contains("<script"), "{none}");
    drop(rig);
    let rig = Rig::start(&format!("{PLAIN}[limits]\ndevices = 1\nconnections = 3\n"));
    assert_eq!(rig.ask(&named, &json!({})).0, 200);
    assert_eq!(rig.ask(&"b".repeat(64), &json!({})).0, 400, "there is room for so many devices");
    // An order is taken in for a device that was never heard all the same: its signature is no stranger's.
    assert_eq!(rig.put(&order(&"b".repeat(64), 1, Scope::All), "gina"), 200);
    assert_eq!(orders(&rig.ask(&"b".repeat(64), &json!({})).1), 1);
    let big = question(&named, &json!({"x": "y".repeat(600_000)})).to_string();
    assert_eq!(rig.asked("POST", "/v1/ask", &big).0, 400);
    let held: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(&rig.addresses[0]).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(200));
    let mut more = std::net::TcpStream::connect(&rig.addresses[0]).unwrap();
    more.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(std::io::Read::read(&mut more, &mut [0; 1]).unwrap_or(0), 0, "and for so many connections");
    drop(held);
}
