//! The beacon as a device and a revoker see it: over its socket, with the stock ssh-keygen.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use claviger::core::approval::Authority;
use claviger::core::order::{Lease, Level, Order, Scope, judge};
use claviger::core::units::Timestamp;
use serde_json::{Value, json};

struct Beacon(Child);

impl Drop for Beacon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn keygen(dir: &Path, who: &str) -> String {
    let file = dir.join(who);
    let words = ["-q", "-t", "ed25519", "-N", "", "-C", who, "-f", file.to_str().unwrap()];
    assert!(Command::new("ssh-keygen").args(words).status().unwrap().success());
    std::fs::read_to_string(file.with_extension("pub")).unwrap().trim().to_owned()
}

fn sign(dir: &Path, who: &str, text: &str) -> String {
    let mut child = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-n", "clavigerd-order@v1", "-f"])
        .arg(dir.join(who))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

fn asked(address: &str, method: &str, path: &str, body: &Value) -> (u16, Value, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let body = body.to_string();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default(), body.to_owned())
}

#[test]
fn orders_go_in_with_signatures_alone_and_leases_come_out_until_one_stands() {
    if Command::new("ssh-keygen").arg("-?").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (gina, alice, lease) = (keygen(dir, "gina"), keygen(dir, "alice"), keygen(dir, "lease"));
    let document = format!(
        "schema = 1\ndeployment = \"test-1\"\nfiles_allowed = true\n[orders]\nrevokers = [\"guards\"]\n[orders.lease]\nkey = \"{lease}\"\n[quorum.authority]\nquorum = 1\nof = \"ops\"\n[[person]]\nid = \"gina\"\ngroups = [\"guards\"]\nkeys = [\"{gina}\"]\n[[person]]\nid = \"alice\"\ngroups = [\"ops\"]\nkeys = [\"{alice}\"]\n"
    );
    let authority = Authority::parse(&document).unwrap();
    std::fs::write(dir.join("authority.toml"), document).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_claviger-beacon"))
        .args(["--listen", "127.0.0.1:0", "--dir"])
        .arg(dir.join("shelf"))
        .arg("--authority")
        .arg(dir.join("authority.toml"))
        .arg("--lease-key")
        .arg(dir.join("lease"))
        .args(["--lease-seconds", "600"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let _beacon = Beacon(child);
    let address = line.trim().rsplit(' ').next().unwrap().to_owned();
    let device = "a".repeat(64);
    let boot = "0123abcd-0000-0000-0000-000000000000";
    let wanted = json!({"epoch": 1, "boot": boot, "nonce": "b".repeat(64)});
    let ask = |more: Value| {
        let mut body = json!({"deployment": "test-1", "device": device, "epoch": 1, "version": "<b>"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        asked(&address, "POST", "/v1/ask", &body)
    };
    // Nothing stands: no orders, and a lease that counts.
    let (status, told, _) = ask(json!({"lease": wanted}));
    assert_eq!((status, told["orders"].as_array().unwrap().len()), (200, 0));
    let text = told["lease"]["text"].as_str().unwrap();
    let given = Lease::parse(text).unwrap();
    assert_eq!((given.seconds, given.latest.as_deref()), (600, None));
    judge::lease(&authority, &given, told["lease"]["signatures"][0].as_str().unwrap()).unwrap();
    // What is no lease is not signed.
    assert!(ask(json!({"lease": {"epoch": 1, "boot": boot, "nonce": "x\nreason: y"}})).1["lease"].is_null());
    let order = |number, scope| Order {
        deployment: "test-1".into(),
        device: device.clone(),
        epoch: 1,
        number,
        level: Level::Suspend,
        scope,
        issued: Timestamp(1_700_000_000_000),
        previous: None,
        reason: "lost".into(),
    };
    let all = order(1, Scope::All).render();
    let put = |text: &str, who: &str| {
        asked(&address, "POST", "/v1/orders", &json!({"text": text, "signatures": [sign(dir, who, text)]})).0
    };
    assert_eq!(put(&all, "alice"), 400, "not a revoker");
    assert_eq!(put(&all.replace("test-1", "test-2"), "gina"), 400, "another deployment");
    assert_eq!(asked(&address, "POST", "/v1/orders", &json!({"text": all, "signatures": []})).0, 400);
    let one = order(7, Scope::parse("key:hot").unwrap());
    assert_eq!(put(&one.render(), "gina"), 200);
    // A lease names the newest order, so that it does not go past it.
    let (_, told, _) = ask(json!({"lease": wanted}));
    let given = Lease::parse(told["lease"]["text"].as_str().unwrap()).unwrap();
    assert_eq!(given.latest, Some(one.hash()));
    // One that waits hears at once.
    let waiting = std::thread::spawn({
        let (address, device, known) = (address.clone(), device.clone(), one.hash());
        move || {
            let body =
                json!({"deployment": "test-1", "device": device, "epoch": 1, "wait": 20, "known": [known]});
            let began = Instant::now();
            (asked(&address, "POST", "/v1/ask", &body).1, began.elapsed())
        }
    });
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(put(&all, "gina"), 200);
    let (told, took) = waiting.join().unwrap();
    assert_eq!(told["orders"][0]["text"], all.as_str());
    assert!(took < Duration::from_secs(5), "{took:?}");
    // From here on there is no lease in this epoch.
    let (_, told, _) = ask(json!({"lease": wanted}));
    assert_eq!((told["orders"].as_array().unwrap().len(), told["lease"].is_null()), (2, true));
    let after = json!({"epoch": 2, "boot": boot, "nonce": "c".repeat(64)});
    let (_, told, _) = ask(json!({"epoch": 2, "lease": after}));
    assert_eq!((told["orders"].as_array().unwrap().len(), told["lease"].is_object()), (0, true));
    // Hearsay is shown as text.
    let (status, _, page) = asked(&address, "GET", "/", &json!({}));
    assert!(status == 200 && page.contains("&lt;b&gt;") && !page.contains("<b>"), "{page}");
    for body in [json!({}), json!({"device": "../x", "deployment": "test-1"}), json!([1])] {
        assert_eq!(asked(&address, "POST", "/v1/ask", &body).0, 400, "{body}");
    }
    assert_eq!(asked(&address, "GET", "/../authority.toml", &json!({})).0, 404);
}
