//! Users before a real daemon: PINs, sessions, confirmations, and what tries to get around them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they cannot go on"
)]

mod authenticator;
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use authenticator::{Authenticator, RP};
use serde_json::{Value, json};
use support::{Client, Daemon, POLICY, cli, cli_ok, code, keygen, own_uid, ssh_keygen_is_here, ssh_sign};

/// Looked for afterwards wherever the daemon writes.
const PIN: &str = "canary-739182";
const NAMESPACE: &str = "clavigerd-user@v1";

struct Desk {
    daemon: Daemon,
    device: Authenticator,
}

/// anna is the user who runs the tests; `hot` is hers.
fn document(device: &Authenticator, head: &str, uid: u32) -> String {
    format!(
        "schema = 1\n{head}\n[[user]]\nname = \"anna\"\nuid = {uid}\nkeys = [\"hot\"]\nfido = [\"{}\"]\n[[user.limit]]\nchain = \"eip155:1\"\nasset = \"native\"\nsession = \"20\"\npin = \"60\"\nfido = \"100\"\n[[user.credential]]\nrp = \"{RP}\"\npublic = \"{}\"\naaguid = \"ee882879-721c-4913-9775-3dfcce97072a\"\n",
        device.line(),
        device.cose()
    )
}

/// Runs the command line with lines for its standard input.
fn typed(daemon: &Daemon, words: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_claviger"))
        .args(["--json", "--config"])
        .arg(daemon.home.join("clavigerd.toml"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
}

impl Desk {
    /// A daemon that knows users, and nobody enrolled.
    fn bare(head: &str, uid: u32) -> Self {
        let mut daemon = Daemon::start();
        let file = daemon.home.join("clavigerd.toml");
        let config = std::fs::read_to_string(&file).unwrap();
        let more = "\n[user]\nsocket = \"user.sock\"\n";
        std::fs::write(&file, format!("users_file = \"users.toml\"\n{config}{more}")).unwrap();
        let device = Authenticator::new(7);
        std::fs::write(daemon.home.join("users.toml"), document(&device, head, uid)).unwrap();
        daemon.restart();
        Self { daemon, device }
    }

    /// And anna enrolled.
    fn start(head: &str) -> Self {
        let desk = Self::bare(head, own_uid());
        desk.enrols(&format!("{PIN}\n"), &[]);
        desk
    }

    fn enrols(&self, input: &str, more: &[&str]) {
        let told = cli_ok(&self.daemon.home, &["user", "reset", "anna", "--reason", "test"]);
        let words = [&["user", "enrol", told["code"].as_str().unwrap()], more].concat();
        let (good, said) = typed(&self.daemon, &words, input);
        assert!(good, "{said}");
    }

    fn user(&self) -> Client {
        Client::open(&self.daemon.home.join("user.sock"))
    }

    fn tries(&self, app: &mut Client, pin: &str) -> Value {
        let shown = app.call("claviger_requestUser", &Value::Null);
        self.user().call("user_unlock", &json!({"code": shown["result"]["code"], "pin": pin}))
    }

    fn unlocks(&self, app: &mut Client) {
        let reply = self.tries(app, PIN);
        assert_eq!(code(&reply), "ok", "{reply}");
    }

    fn pays(&self, app: &mut Client, nonce: u64, value: u64) -> Value {
        app.call("claviger_signPayment", &json!({"transaction": self.daemon.tx(nonce, value)}))
    }

    fn shown(&self, request: &str) -> Value {
        self.user().call("user_show", &json!({"request": request}))["result"].clone()
    }

    fn confirms(&self, request: &str, pin: &str, more: &[(&str, &str)]) -> String {
        let mut said = json!({"request": request, "digest": self.shown(request)["digest"], "pin": pin});
        for (name, value) in more {
            said[*name] = json!(value);
        }
        code(&self.user().call("user_confirm", &said)).to_owned()
    }

    fn log(&self) -> Vec<Value> {
        let shown = cli_ok(&self.daemon.home, &["log", "show", "--from", "0", "--count", "1000"]);
        shown["entries"].as_array().unwrap().clone()
    }

    fn events(&self, event: &str) -> Vec<Value> {
        self.log().into_iter().filter(|e| e["kind"] == "user" && e["event"] == event).collect()
    }

    fn anna(&self) -> Value {
        cli_ok(&self.daemon.home, &["user", "show", "anna"])
    }

    fn hashes(&self) -> u64 {
        let mut stream = UnixStream::connect(self.daemon.home.join("metrics.sock")).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find(|l| l.starts_with("claviger_user_hashes_total")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The session is gone, and why stands in the log.
    fn gone(&self, app: &mut Client, why: &str, nonce: u64) {
        let until = Instant::now() + Duration::from_secs(5);
        while !self.events("closed").last().is_some_and(|e| e["why"] == why) {
            assert!(Instant::now() < until, "no session ended by {why}");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(code(&self.pays(app, nonce, 1)), "user_locked", "after {why}");
    }
}

fn waits(reply: &Value, step: &str) -> String {
    assert_eq!(code(reply), "step_up_needed", "{reply}");
    assert_eq!(reply["error"]["data"]["facts"]["step"], step, "{reply}");
    reply["error"]["data"]["facts"]["request"].as_str().unwrap().to_owned()
}

fn signed(reply: &Value) -> &str {
    reply["result"]["raw"].as_str().unwrap_or_else(|| panic!("{reply}"))
}

// [clause 8.2.3-d] test
#[test]
fn a_key_that_has_a_user_waits_for_them_and_the_session_is_the_connection() {
    let desk = Desk::start("");
    let mut app = desk.daemon.wallet();
    assert_eq!(code(&desk.pays(&mut app, 0, 1)), "user_needed");
    // A wallet that knows nothing of users shows what the refusal says, and that is how to go on.
    let refused = app.call("eth_signTransaction", &json!([desk.daemon.tx(0, 1)]));
    let asked = app.call("claviger_requestUser", &Value::Null);
    let shown = asked["result"]["code"].as_str().unwrap();
    let said = refused["error"]["message"].as_str().unwrap();
    assert!(said.contains(&format!("claviger user unlock {shown}")), "{said}");
    // Who is at the terminal sees what the daemon saw of the app.
    let seen = desk.user().call("user_request", &json!({"code": shown}));
    let pid = format!("pid {}", std::process::id());
    assert_eq!(seen["result"]["app"], "test");
    assert!(seen["result"]["program"].as_str().unwrap().contains(&pid), "{seen}");
    let (good, said) = typed(&desk.daemon, &["user", "unlock", &shown.to_lowercase()], &format!("{PIN}\n"));
    assert!(good, "{said}");
    let here = app.call("claviger_userSession", &json!({"timeout_ms": 1000}));
    assert_eq!(here["result"]["users"], json!(["anna"]));
    assert!(signed(&desk.pays(&mut app, 0, 20)).starts_with("0x02"));
    let message = app.call("personal_sign", &json!(["0x6869", desk.daemon.address]));
    assert_eq!(code(&message), "ok", "{message}");
    // Neither another connection of the same process nor the code again gives anything.
    let mut other = desk.daemon.wallet();
    assert_eq!(code(&desk.pays(&mut other, 0, 20)), "user_needed", "even for what was signed before");
    let message = other.call("personal_sign", &json!(["0x6869", desk.daemon.address]));
    assert_eq!(code(&message), "user_needed");
    let again = desk.user().call("user_unlock", &json!({"code": shown, "pin": PIN}));
    assert_eq!(code(&again), "user_code");
    assert_eq!(
        code(&desk.user().call("user_unlock", &json!({"code": "AAAA-AAAA", "pin": PIN}))),
        "user_code"
    );
    // A code that cost no try took none: the count stands where the right PIN left it.
    assert_eq!(desk.anna()["wrong_pins"], 0);
    // PINs are not typed into apps unless the document says so.
    assert_eq!(code(&other.call("claviger_unlockUser", &json!({"pin": PIN}))), "user_needed");
    desk.daemon.verify_log();
}

// [clause 8.2.3-d] test
#[test]
fn a_pin_is_found_nowhere_and_its_key_serves_nobody_else() {
    let desk = Desk::start("pin_on_wallet_socket = [\"T1\"]");
    let wrong = "wrong-canary-5521";
    let mut app = desk.daemon.wallet();
    assert_eq!(code(&desk.tries(&mut app, wrong)), "user_wrong");
    assert_eq!(code(&app.call("claviger_unlockUser", &json!({"pin": wrong}))), "user_wrong");
    assert_eq!(code(&app.call("claviger_unlockUser", &json!({"pin": PIN}))), "ok");
    assert!(signed(&desk.pays(&mut app, 0, 1)).starts_with("0x"));
    let (good, said) = typed(&desk.daemon, &["user", "pin"], &format!("{PIN}\nsecond-canary-99\n"));
    assert!(good, "{said}");
    assert_eq!(code(&desk.tries(&mut app, PIN)), "user_wrong", "the PIN of before");
    assert_eq!(code(&desk.tries(&mut app, "second-canary-99")), "ok");
    // When the key of the records has a successor, the record follows it with the next PIN.
    cli_ok(&desk.daemon.home, &["key", "rotate", "claviger-pepper", "--reason", "test"]);
    let renewed = desk.tries(&mut app, "second-canary-99");
    assert!(renewed["result"]["note"].as_str().unwrap().contains("renewed"), "{renewed}");
    assert_eq!(desk.events("enrolled").last().unwrap()["how"], "upgraded");
    assert!(desk.tries(&mut app, "second-canary-99")["result"]["note"].is_null());
    assert_eq!(code(&desk.tries(&mut app, wrong)), "user_wrong");
    // An app that a policy lets use the key of the records could try PINs by itself.
    desk.daemon.apply(&format!(
        "{POLICY}[[rule]]\nid = \"mac\"\neffect = \"permit\"\nacts = [\"mac\", \"verify-mac\"]\nkeys = [\"claviger-pepper\"]\napps = [\"test\"]\n"
    ));
    let mac = app.call("claviger_mac", &json!({"key": "claviger-pepper", "data": "0x00"}));
    assert_eq!(code(&mac), "key_not_allowed", "{mac}");
    desk.daemon.verify_log();
    let mut places = vec![desk.daemon.home.clone()];
    let mut files = 0;
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(place).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                places.push(path);
                continue;
            }
            let Ok(bytes) = std::fs::read(&path) else { continue };
            files += 1;
            for secret in [PIN, wrong, "second-canary-99"] {
                let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
                assert!(!found, "a PIN stands in {}", path.display());
            }
        }
    }
    assert!(files > 5, "{files} files were looked at");
}

// [clause 8.2.3-e] test
#[test]
fn no_kill_gives_a_try_back_and_the_last_one_is_the_last() {
    let mut desk = Desk::start("");
    for n in 1..=4 {
        let mut app = desk.daemon.wallet();
        let reply = desk.tries(&mut app, "not-the-pin");
        assert_eq!(code(&reply), "user_wrong");
        assert_eq!(reply["error"]["data"]["facts"]["tries_left"], 10 - n);
        desk.daemon.signal("KILL");
        desk.daemon.restart();
        assert_eq!(desk.anna()["wrong_pins"], n);
    }
    // The fifth is cut off while it is compared: it stands on disk before anybody knows whether it was right.
    let mut app = desk.daemon.wallet();
    let shown = app.call("claviger_requestUser", &Value::Null);
    let (mut user, mut operator) = (desk.user(), desk.daemon.operator());
    let params = json!({"code": shown["result"]["code"], "pin": PIN});
    user.send(
        json!({"jsonrpc": "2.0", "id": 7, "method": "user_unlock", "params": params}).to_string().as_bytes(),
    );
    let until = Instant::now() + Duration::from_secs(5);
    while operator.call("operator_users", &Value::Null)["result"]["users"][0]["wrong_pins"] != 5 {
        assert!(Instant::now() < until, "the right PIN was never counted before it was compared");
    }
    desk.daemon.signal("KILL");
    desk.daemon.restart();
    assert_eq!(desk.anna()["wrong_pins"], 5);
    // From here on there are waits, for the right PIN too, and a restart begins them anew.
    let mut app = desk.daemon.wallet();
    for _ in 0..2 {
        let reply = desk.tries(&mut app, PIN);
        assert_eq!(code(&reply), "user_throttled");
        assert!(reply["error"]["data"]["facts"]["wait_seconds"].as_u64().unwrap() > 10, "{reply}");
        desk.daemon.signal("KILL");
        desk.daemon.restart();
        app = desk.daemon.wallet();
    }
    assert_eq!(desk.events("try").len(), 5, "what was kept out was not compared");
    // A document that allows fewer closes it at once; an operator opens it again, with a new PIN.
    std::fs::write(desk.daemon.home.join("users.toml"), document(&desk.device, "most_tries = 5", own_uid()))
        .unwrap();
    cli_ok(&desk.daemon.home, &["reload"]);
    assert_eq!(code(&desk.tries(&mut app, PIN)), "user_suspended");
    assert_eq!(desk.anna()["suspended"], true);
    desk.daemon.signal("KILL");
    desk.daemon.restart();
    app = desk.daemon.wallet();
    assert_eq!(code(&desk.tries(&mut app, PIN)), "user_suspended");
    desk.enrols("another-pin-1\n", &[]);
    assert_eq!(code(&desk.tries(&mut app, PIN)), "user_wrong", "the PIN of before a reset");
    let told = desk.tries(&mut app, "another-pin-1");
    assert_eq!(told["result"]["wrong_pins_before"], 1, "{told}");
    for n in 0..5 {
        assert_eq!(code(&desk.tries(&mut app, "not-the-pin")), "user_wrong", "{n}");
    }
    assert_eq!(code(&desk.tries(&mut app, "another-pin-1")), "user_suspended");
    assert_eq!(code(&desk.pays(&mut app, 0, 1)), "user_locked", "a session does not outlive its user");
    assert_eq!(desk.events("suspended").len(), 1);
    // A count that is set back behind the daemon's back is found.
    desk.daemon.verify_log();
    assert_eq!(desk.events("try").len(), 5 + 2 + 5);
}

// [clause 8.2.3-e] test
#[test]
fn who_is_unknown_takes_as_long_and_is_told_the_same() {
    let desk = Desk::bare("", own_uid() + 1);
    desk.enrol_somebody_else();
    let mut app = desk.daemon.wallet();
    let mut measure = |what: &str| {
        let mut seen = Vec::new();
        for _ in 0..3 {
            let (before, began) = (desk.hashes(), Instant::now());
            let reply = desk.tries(&mut app, "not-the-pin");
            seen.push(began.elapsed());
            assert_eq!(desk.hashes() - before, 1, "{what}: one Argon2 for each try");
            assert_eq!(code(&reply), "user_wrong", "{what}");
            let mut told = reply["error"].clone();
            told["data"]["facts"]["tries_left"].take();
            seen.sort();
            if seen.len() == 3 {
                return (
                    seen[0],
                    told["data"].clone(),
                    reply["error"]["data"]["facts"]["tries_left"].clone(),
                );
            }
        }
        unreachable!()
    };
    let unknown = measure("unknown");
    let put = |uid| {
        std::fs::write(desk.daemon.home.join("users.toml"), document(&desk.device, "", uid)).unwrap();
        cli_ok(&desk.daemon.home, &["reload"]);
    };
    put(own_uid());
    let wrong = measure("wrong");
    assert_eq!((&unknown.1, &unknown.2), (&wrong.1, &wrong.2), "both are told the same");
    let (low, high) = (unknown.0.min(wrong.0), unknown.0.max(wrong.0));
    // What decides is that Argon2 ran once for each; without it an answer takes a few milliseconds.
    eprintln!("fastest of three: unknown {:?}, wrong {:?}", unknown.0, wrong.0);
    assert!(high < low * 4, "unknown {:?}, wrong {:?}", unknown.0, wrong.0);
    // And in the end they are kept out alike.
    for _ in 0..2 {
        assert_eq!(code(&desk.tries(&mut app, "not-the-pin")), "user_wrong");
    }
    let known = desk.tries(&mut app, "not-the-pin");
    put(own_uid() + 1);
    for _ in 0..2 {
        assert_eq!(code(&desk.tries(&mut app, "not-the-pin")), "user_wrong");
    }
    let stranger = desk.tries(&mut app, "not-the-pin");
    assert_eq!((code(&known), code(&stranger)), ("user_throttled", "user_throttled"));
}

impl Desk {
    /// anna's PIN is enrolled while she has this uid, and then she gets another.
    fn enrol_somebody_else(&self) {
        let put = |uid| {
            std::fs::write(self.daemon.home.join("users.toml"), document(&self.device, "", uid)).unwrap();
            cli_ok(&self.daemon.home, &["reload"]);
        };
        put(own_uid());
        self.enrols(&format!("{PIN}\n"), &[]);
        put(own_uid() + 1);
    }
}

// [clause 8.2.3-f] test
#[test]
fn a_session_ends_on_every_event_that_ends_it() {
    let desk = Desk::start("");
    let home = &desk.daemon.home;
    let mut app = desk.daemon.wallet();
    desk.unlocks(&mut app);
    cli_ok(home, &["user", "lock"]);
    desk.gone(&mut app, "locked", 0);
    desk.unlocks(&mut app);
    cli_ok(home, &["user", "lock", "--all"]);
    desk.gone(&mut app, "locked", 0);
    assert_eq!(desk.events("closed").len(), 2);
    desk.unlocks(&mut app);
    desk.daemon.apply(&POLICY.replace("\"250\"", "\"249\""));
    desk.gone(&mut app, "rules-changed", 0);
    desk.unlocks(&mut app);
    cli_ok(home, &["reload"]);
    assert!(
        signed(&desk.pays(&mut app, 0, 1)).starts_with("0x"),
        "a reload that changes nothing ends nothing"
    );
    cli_ok(home, &["user", "reset", "anna", "--reason", "test"]);
    desk.gone(&mut app, "user-stopped", 1);
    desk.enrols(&format!("{PIN}\n"), &[]);
    // An app that leaves takes its session along.
    let mut leaving = desk.daemon.wallet();
    desk.unlocks(&mut leaving);
    drop(leaving);
    let until = Instant::now() + Duration::from_secs(5);
    while desk.anna()["sessions"] != json!([]) {
        assert!(Instant::now() < until, "the session of a connection that is closed");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(desk.events("closed").last().unwrap()["why"], "left");
    // By the clock: idle, then whatever is asked.
    std::fs::write(home.join("users.toml"), document(&desk.device, "idle_seconds = 2", own_uid())).unwrap();
    cli_ok(home, &["reload"]);
    desk.unlocks(&mut app);
    desk.gone(&mut app, "idle", 1);
    std::fs::write(
        home.join("users.toml"),
        document(&desk.device, "idle_seconds = 2\nhard_seconds = 4", own_uid()),
    )
    .unwrap();
    cli_ok(home, &["reload"]);
    desk.unlocks(&mut app);
    let began = Instant::now();
    let mut nonce = 1;
    while code(&desk.pays(&mut app, nonce, 0)) == "ok" {
        assert!(began.elapsed() < Duration::from_secs(10), "used all the time, it never ended");
        nonce += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(began.elapsed() > Duration::from_millis(3500) && nonce > 2);
    desk.gone(&mut app, "hard-limit", nonce);
    // Whoever takes an operator's place cannot lock somebody else's by being nobody.
    desk.daemon.verify_log();
}

// [clause 8.2.3-f] test
#[test]
fn an_app_that_becomes_another_program_loses_its_user() {
    let desk = Desk::start("");
    let python = Command::new("python3")
        .args(["-c", "import sys,os;print(os.path.realpath(sys.executable))"])
        .output();
    let python = String::from_utf8(python.unwrap().stdout).unwrap().trim().to_owned();
    cli_ok(&desk.daemon.home, &["app", "add", "py", "--path", &python]);
    let script = "import socket,sys,os,json\ns=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);s.set_inheritable(True)\ns.sendall(b'{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"claviger_requestUser\"}')\nprint(json.loads(s.recv(4096))['result']['code'],flush=True)\nsys.stdin.readline();os.execv('/bin/sleep',['sleep','30'])";
    let mut child = Command::new(&python)
        .args(["-c", script])
        .arg(desk.daemon.home.join("wallet.sock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut shown).unwrap();
    let reply = desk.user().call("user_unlock", &json!({"code": shown.trim(), "pin": PIN}));
    assert_eq!(reply["result"]["app"], "py", "{reply}");
    assert_eq!(desk.anna()["sessions"].as_array().unwrap().len(), 1);
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while desk.events("closed").is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(desk.events("closed").first().map(|e| e["why"].clone()), Some(json!("app-changed")));
}

// [clause 8.2.3-g] test
#[test]
fn splitting_a_payment_does_not_get_around_the_confirmation() {
    let desk = Desk::start("");
    let mut app = desk.daemon.wallet();
    desk.unlocks(&mut app);
    for nonce in 0..4 {
        assert_eq!(code(&desk.pays(&mut app, nonce, 5)), "ok", "{nonce}");
    }
    let request = waits(&desk.pays(&mut app, 4, 1), "pin");
    // Neither a new session nor a restart makes the day begin anew.
    cli_ok(&desk.daemon.home, &["user", "lock"]);
    desk.unlocks(&mut app);
    let anew = waits(&desk.pays(&mut app, 4, 1), "pin");
    assert_ne!(anew, request, "what waited in a session ended with it");
    let mut desk = desk;
    desk.daemon.signal("KILL");
    desk.daemon.restart();
    let mut app = desk.daemon.wallet();
    desk.unlocks(&mut app);
    let request = waits(&desk.pays(&mut app, 4, 1), "pin");
    assert_eq!(waits(&desk.pays(&mut app, 4, 1), "pin"), request, "the same payload waits once");
    // Nothing was reserved for what waits, and it is shown as it was decoded.
    let shown = cli_ok(&desk.daemon.home, &["user", "pending"]);
    let text = shown[0]["text"].as_str().unwrap();
    for line in
        ["user: anna", "app: test", "key: hot", "pay: ", "(@friends/bob)", "fee: at most", "step: pin"]
    {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
    // Its app waits; the user confirms; it is signed.
    let (good, said) = typed(&desk.daemon, &["user", "confirm", &request], "wrong-pin\n");
    assert!(!good && said.contains("user_wrong"), "{said}");
    app.send(json!({"jsonrpc": "2.0", "id": 7, "method": "claviger_waitRequest", "params": {"request": request, "timeout_ms": 20_000}}).to_string().as_bytes());
    std::thread::sleep(Duration::from_millis(200));
    let (good, said) = typed(&desk.daemon, &["user", "confirm", &request], &format!("{PIN}\n"));
    assert!(good, "{said}");
    let told = app.line();
    assert_eq!(told["result"]["status"], "signed", "{told}");
    assert_eq!(signed(&desk.pays(&mut app, 4, 1)), signed(&told), "asked again, it is the same signature");
    // One confirmation is one payment.
    waits(&desk.pays(&mut app, 5, 1), "pin");
    assert_eq!(desk.events("confirmed").len(), 1);
    let intents: Vec<Value> = desk.log().into_iter().filter(|e| e["kind"] == "intent").collect();
    assert!(intents.iter().all(|e| e["user"] == "anna"), "{intents:?}");
    desk.daemon.verify_log();
}

// [clause 8.2.3-g] test
#[test]
fn payments_at_once_do_not_see_the_same_room() {
    let desk = Desk::start("");
    let mut app = desk.daemon.wallet();
    desk.unlocks(&mut app);
    let at_once: Vec<Value> = (0..8)
        .map(|nonce| json!({"jsonrpc": "2.0", "id": nonce, "method": "claviger_signPayment", "params": {"transaction": desk.daemon.tx(nonce, 6)}}))
        .collect();
    app.send(json!(at_once).to_string().as_bytes());
    let replies = app.line();
    let count = |wanted: &str| replies.as_array().unwrap().iter().filter(|r| code(r) == wanted).count();
    assert_eq!((count("ok"), count("step_up_needed")), (3, 5), "{replies}");
}

// [clause 8.2.3-g] test
#[test]
fn what_was_confirmed_is_that_payload_and_no_other() {
    let desk = Desk::start("");
    let mut app = desk.daemon.wallet();
    desk.unlocks(&mut app);
    let request = waits(&desk.pays(&mut app, 0, 30), "pin");
    // What is typed is for what was shown.
    let other = json!({"request": request, "digest": "00".repeat(32), "pin": PIN});
    assert_eq!(code(&desk.user().call("user_confirm", &other)), "request_unknown");
    assert_eq!(desk.anna()["wrong_pins"], 0);
    assert_eq!(desk.confirms(&request, PIN, &[]), "ok");
    assert_eq!(desk.confirms(&request, PIN, &[]), "request_unknown", "once");
    for (nonce, value) in [(0, 31), (0, 29), (1, 30)] {
        waits(&desk.pays(&mut app, nonce, value), "pin");
    }
    let mut fee = desk.daemon.tx(0, 30);
    fee["maxFeePerGas"] = json!("0x3b9aca01");
    waits(&app.call("claviger_signPayment", &json!({"transaction": fee})), "pin");
    // Nor is it for another connection of the same app, where the user is as well.
    let mut second = desk.daemon.wallet();
    desk.unlocks(&mut second);
    waits(&desk.pays(&mut second, 0, 30), "pin");
    assert_eq!(code(&desk.pays(&mut app, 0, 30)), "ok", "the very payload");
    // A user who refuses is heard, and an app may take back what it asked.
    let refused = waits(&desk.pays(&mut app, 1, 30), "pin");
    cli_ok(&desk.daemon.home, &["user", "refuse", &refused]);
    let waited = app.call("claviger_waitRequest", &json!({"request": refused}));
    assert_eq!(code(&waited), "step_up_refused");
    let taken = waits(&desk.pays(&mut second, 2, 30), "pin");
    assert_eq!(code(&app.call("claviger_cancelRequest", &json!({"request": taken}))), "request_unknown");
    let cancelled = second.call("claviger_cancelRequest", &json!({"request": taken}));
    assert_eq!(cancelled["result"]["cancelled"], true, "{cancelled}");
    assert_eq!(desk.confirms(&taken, PIN, &[]), "invalid_params", "there is nothing to show");
    // What is locked before it is asked for again is not signed.
    let late = waits(&desk.pays(&mut app, 3, 5), "pin");
    assert_eq!(desk.confirms(&late, PIN, &[]), "ok");
    cli_ok(&desk.daemon.home, &["user", "lock"]);
    assert_eq!(code(&desk.pays(&mut app, 3, 5)), "user_locked");
    desk.unlocks(&mut app);
    waits(&desk.pays(&mut app, 3, 5), "pin");
    desk.daemon.verify_log();
}

// [clause 8.2.3-h] test
#[test]
fn larger_payments_take_an_authenticator_and_the_largest_take_people() {
    let desk = Desk::start("");
    let mut app = desk.daemon.wallet();
    desk.unlocks(&mut app);
    let small = waits(&desk.pays(&mut app, 9, 25), "pin");
    assert_eq!(desk.confirms(&small, PIN, &[]), "ok");
    let request = waits(&desk.pays(&mut app, 0, 61), "fido");
    let shown = desk.shown(&request);
    let (text, hash) = (shown["text"].as_str().unwrap(), shown["client_data_hash"].as_str().unwrap());
    let by = |flags, counter| desk.device.sshsig(NAMESPACE, text, flags, counter);
    let confirm = |signature: &str| desk.confirms(&request, PIN, &[("signature", signature)]);
    assert_eq!(desk.confirms(&request, PIN, &[]), "user_assertion", "the PIN alone");
    assert_eq!(confirm(&by(4, 1)), "user_assertion", "no touch");
    assert_eq!(confirm(&by(1, 1)), "user_assertion", "nobody was asked who they are");
    let elsewhere = desk.device.sshsig("clavigerd-approval@v1", text, 5, 1);
    assert_eq!(confirm(&elsewhere), "user_assertion", "another namespace");
    let changed = desk.device.sshsig(NAMESPACE, &text.replace("61", "60"), 5, 1);
    assert_eq!(confirm(&changed), "user_assertion", "another text");
    let stranger = Authenticator::new(8).sshsig(NAMESPACE, text, 5, 1);
    assert_eq!(confirm(&stranger), "user_assertion", "another's");
    assert_eq!(desk.anna()["wrong_pins"], 0, "no try was taken for these");
    assert_eq!(desk.confirms(&request, "wrong-pin", &[("signature", &by(5, 5))]), "user_wrong");
    assert_eq!(confirm(&by(5, 5)), "ok");
    assert_eq!(code(&desk.pays(&mut app, 0, 61)), "ok");
    // What was enough for the small one before is not enough beside this.
    waits(&desk.pays(&mut app, 9, 25), "fido");
    // The next one through a raw assertion; the counters of the two keys are their own.
    let request = waits(&desk.pays(&mut app, 1, 19), "fido");
    let next = desk.shown(&request);
    let next_hash = next["client_data_hash"].as_str().unwrap();
    let confirm = |assertion: &str| desk.confirms(&request, PIN, &[("assertion", assertion)]);
    assert_eq!(confirm(&desk.device.assertion(hash, 5, 1)), "user_assertion", "of another request");
    assert_eq!(confirm(&desk.device.assertion(next_hash, 1, 1)), "user_assertion", "nobody was asked");
    assert_eq!(confirm(&Authenticator::new(8).assertion(next_hash, 5, 1)), "user_assertion", "another's");
    let made = desk.daemon.home.join("made");
    std::fs::write(&made, desk.device.assertion(next_hash, 5, 1)).unwrap();
    let words = ["user", "confirm", &request, "--assertion", made.to_str().unwrap()];
    let (good, said) = typed(&desk.daemon, &words, &format!("{PIN}\n"));
    assert!(good, "{said}");
    assert_eq!(code(&desk.pays(&mut app, 1, 19)), "ok");
    let copied = waits(&desk.pays(&mut app, 2, 20), "fido");
    let text = desk.shown(&copied)["text"].as_str().unwrap().to_owned();
    for counter in [5, 4, 0] {
        let signature = desk.device.sshsig(NAMESPACE, &text, 5, counter);
        assert_eq!(desk.confirms(&copied, PIN, &[("signature", &signature)]), "user_assertion", "a copy");
    }
    let signature = desk.device.sshsig(NAMESPACE, &text, 5, 6);
    std::fs::write(&made, signature).unwrap();
    let words = ["user", "confirm", &copied, "--signature", made.to_str().unwrap()];
    let (good, said) = typed(&desk.daemon, &words, &format!("{PIN}\n"));
    assert!(good, "{said}");
    assert_eq!(code(&desk.pays(&mut app, 2, 20)), "ok");
    // Now the day is used up, and no step of one person is enough.
    assert_eq!(code(&desk.pays(&mut app, 3, 1)), "step_up_people");
    let proofs = desk.events("confirmed");
    assert_eq!(proofs.len(), 4);
    assert!(
        proofs.iter().skip(1).all(|p| p["proof"].is_string() && p["authenticator"].is_string()),
        "{proofs:?}"
    );
    desk.daemon.verify_log();
}

#[test]
fn duress_looks_like_a_session_and_stops_the_keys() {
    let desk = Desk::bare("", own_uid());
    desk.enrols(&format!("{PIN}\nforced-pin-1\n"), &["--duress"]);
    let mut app = desk.daemon.wallet();
    let right = desk.tries(&mut app, PIN);
    assert_eq!(code(&desk.pays(&mut app, 0, 1)), "ok");
    let forced = desk.tries(&mut app, "forced-pin-1");
    assert_eq!(right["result"], forced["result"], "both are told the same");
    assert_eq!(code(&desk.pays(&mut app, 1, 1)), "key_state");
    let shown = cli_ok(&desk.daemon.home, &["key", "show", "hot"]);
    assert_eq!(shown["state"], "suspended");
    assert_eq!(desk.events("duress").len(), 1);
    desk.daemon.verify_log();
}

// [clause 8.2.3-e] test
#[test]
fn where_people_decide_on_users_one_operator_does_not() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut desk = Desk::start("");
    let home = desk.daemon.home.clone();
    let key = keygen(&home, "olga", "ed25519");
    let authority = format!(
        "schema = 1\ndeployment = \"test-1\"\nfiles_allowed = true\n[quorum.authority]\nquorum = 1\nof = \"ops\"\n[quorum.users]\nquorum = 1\nof = \"ops\"\n[[person]]\nid = \"olga\"\ngroups = [\"ops\"]\nkeys = [\"{key}\"]\n"
    );
    std::fs::write(home.join("authority.toml"), authority).unwrap();
    let file = home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("authority_file = \"authority.toml\"\n{config}")).unwrap();
    desk.daemon.restart();
    for words in [&["user", "remove", "anna"][..], &["user", "reset", "anna", "--reason", "forgot"]] {
        let (good, said) = cli(&home, words);
        assert!(!good && said.contains("change_needed"), "{said}");
    }
    // Neither the file nor its absence from the configuration does it either.
    std::fs::write(home.join("users.toml"), "schema = 1\n").unwrap();
    desk.daemon.restart();
    assert_eq!(code(&desk.pays(&mut desk.daemon.wallet(), 0, 1)), "user_needed");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace("users_file = \"users.toml\"\n", "")).unwrap();
    desk.daemon.restart();
    assert_eq!(code(&desk.pays(&mut desk.daemon.wallet(), 0, 1)), "user_needed");
    std::fs::write(&file, config).unwrap();
    std::fs::write(home.join("users.toml"), document(&desk.device, "", own_uid())).unwrap();
    desk.daemon.restart();
    let list = cli_ok(&home, &["approval", "list"]);
    for change in list.as_array().unwrap() {
        let id = change["request"].as_str().unwrap();
        let shown = cli_ok(&home, &["approval", "show", id]);
        let text = shown["text"].as_str().unwrap();
        if !text.contains("user: anna") {
            continue;
        }
        let signature = ssh_sign(&home.join("olga"), "clavigerd-policy@v1", text, &[]);
        let reply =
            desk.daemon.operator().call("operator_approve", &json!({"request": id, "signature": signature}));
        assert_eq!(code(&reply), "ok", "{reply}");
    }
    let told = cli_ok(&home, &["user", "reset", "anna", "--reason", "forgot"]);
    let (good, said) =
        typed(&desk.daemon, &["user", "enrol", told["code"].as_str().unwrap()], "fresh-pin-22\n");
    assert!(good, "{said}");
    let mut app = desk.daemon.wallet();
    assert_eq!(code(&desk.tries(&mut app, PIN)), "user_wrong");
    assert_eq!(code(&desk.tries(&mut app, "fresh-pin-22")), "ok");
    let (good, said) = cli(&home, &["user", "reset", "anna", "--reason", "again"]);
    assert!(!good && said.contains("change_needed"), "what was agreed on was for once: {said}");
}

#[test]
fn operators_add_list_and_remove_users() {
    let desk = Desk::bare("", own_uid());
    let home = &desk.daemon.home;
    let added = cli_ok(home, &["user", "add", "ben", "--uid", "4242", "--key", "cold"]);
    assert_eq!(added["user"], "ben");
    let (good, said) = cli(home, &["user", "add", "eve", "--uid", "4243", "--key", "hot"]);
    assert!(!good && said.contains("two users"), "{said}");
    let names = |value: &Value| -> Vec<String> {
        value["users"].as_array().unwrap().iter().map(|u| u["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&cli_ok(home, &["user", "list"])), ["anna", "ben"]);
    // The code is ben's, and the one at the terminal is not ben.
    let (good, said) =
        typed(&desk.daemon, &["user", "enrol", added["code"].as_str().unwrap()], "bens-pin-1\n");
    assert!(!good && said.contains("user_code"), "{said}");
    cli_ok(home, &["user", "remove", "ben"]);
    assert_eq!(names(&cli_ok(home, &["user", "list"])), ["anna"]);
    let file = std::fs::read_to_string(home.join("users.toml")).unwrap();
    assert!(!file.contains("ben") && file.contains("anna"));
    for (pin, why) in [("short", "at least 6"), ("1111111", "again and again")] {
        let told = cli_ok(home, &["user", "reset", "anna", "--reason", "test"]);
        let (good, said) =
            typed(&desk.daemon, &["user", "enrol", told["code"].as_str().unwrap()], &format!("{pin}\n"));
        assert!(!good && said.contains(why), "{said}");
    }
}

// [clause 8.2.4-q] test
#[test]
fn nobody_types_a_pin_for_a_machine_that_is_not_as_it_must_be() {
    let mut desk = Desk::start("");
    let file = desk.daemon.home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let config = format!("{config}\n[device]\nevery_seconds = 600\nrequire = [\"own-config\"]\n");
    std::fs::write(&file, &config).unwrap();
    desk.daemon.restart();
    let mut app = desk.daemon.wallet();
    desk.unlocks(&mut app);
    std::fs::write(&file, format!("{config}# somebody was here\n")).unwrap();
    let (mut other, before) = (desk.daemon.wallet(), desk.hashes());
    assert_eq!(code(&desk.tries(&mut other, PIN)), "device_unfit", "the newest sample is minutes old");
    assert_eq!(desk.hashes(), before, "the PIN was not even compared");
    assert_eq!(code(&desk.pays(&mut app, 0, 1)), "device_unfit", "what was found counts for everybody");
    std::fs::write(&file, &config).unwrap();
    desk.unlocks(&mut other);
    assert_eq!(code(&desk.pays(&mut other, 0, 1)), "ok");
}

const DUTIES: &str =
    "[duties]\ntext = \"Lock the screen. Report a loss at once.\"\nack = [\"users\", \"apps\"]\n";

// [clause 8.8-d] test
#[test]
fn no_key_signs_for_whoever_has_not_acknowledged_the_duties() {
    let mut desk = Desk::start(DUTIES);
    let home = desk.daemon.home.clone();
    let mut app = desk.daemon.wallet();
    desk.unlocks(&mut app);
    let refused = desk.pays(&mut app, 0, 1);
    assert_eq!(code(&refused), "duties_unacknowledged", "{refused}");
    let said = refused["error"]["message"].as_str().unwrap();
    assert!(said.contains("user anna") && said.contains("claviger duties ack"), "{refused}");

    let (good, shown) = typed(&desk.daemon, &["duties", "show"], "");
    assert!(good && shown.contains("Report a loss at once."), "{shown}");
    let (good, told) = typed(&desk.daemon, &["duties", "ack"], "not-her-pin\n");
    assert!(!good && told.contains("user_wrong"), "{told}");
    let hash = serde_json::from_str::<Value>(&shown).unwrap()["hash"].as_str().unwrap().to_owned();
    let other = desk.user().call("user_acknowledge", &json!({"duties": "00".repeat(32), "pin": PIN}));
    assert_eq!(code(&other), "approval_stale", "what was not read is not acknowledged");
    let (good, told) = typed(&desk.daemon, &["duties", "ack"], &format!("{PIN}\n"));
    assert!(good, "{told}");
    let refused = desk.pays(&mut app, 0, 1);
    assert_eq!(code(&refused), "duties_unacknowledged", "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("--app test"), "{refused}");
    let nobody = desk.daemon.operator().call("operator_dutiesAck", &json!({"app": "x", "duties": hash}));
    assert_eq!(code(&nobody), "app_unknown");
    cli_ok(&home, &["duties", "ack", "--app", "test"]);
    assert_eq!(code(&desk.pays(&mut app, 0, 1)), "ok");

    // Who did and who did not is there for everybody whom the rules bind.
    let rules = app.call("claviger_governance", &json!({}))["result"].clone();
    let known = rules["duties"]["acknowledged"].to_string();
    assert!(known.contains("user anna") && known.contains("app test"), "{rules}");
    assert!(rules["duties"]["missing"].to_string().contains("app claviger-cli"), "{rules}");
    assert_eq!(cli_ok(&home, &["policy", "show"])["duties"]["hash"], hash.as_str());
    let acknowledged = desk.events("acknowledged");
    assert_eq!(acknowledged.len(), 2, "{acknowledged:?}");
    assert_eq!(acknowledged[0]["duties"], hash.as_str());
    assert_eq!(acknowledged[0]["policy"], rules["policy"]);

    // It stands after a restart; another text is read anew, another policy only where the document says so.
    desk.daemon.restart();
    let mut app = desk.daemon.wallet();
    desk.unlocks(&mut app);
    assert_eq!(code(&desk.pays(&mut app, 1, 1)), "ok");
    desk.daemon.apply(&POLICY.replace("\"250\"", "\"240\""));
    desk.unlocks(&mut app);
    assert_eq!(code(&desk.pays(&mut app, 2, 1)), "ok");
    let put = |head: &str| {
        let file = home.join("next.toml");
        std::fs::write(&file, document(&desk.device, head, own_uid())).unwrap();
        cli_ok(&home, &["user", "apply", file.to_str().unwrap()]);
    };
    put(&format!("{DUTIES}again = \"policy\"\n"));
    desk.unlocks(&mut app);
    assert_eq!(code(&desk.pays(&mut app, 3, 1)), "duties_unacknowledged", "it was under another policy");
    put(&DUTIES.replace("screen", "door"));
    desk.unlocks(&mut app);
    assert_eq!(code(&desk.pays(&mut app, 3, 1)), "duties_unacknowledged", "other words");
    put(DUTIES);
    desk.unlocks(&mut app);
    assert_eq!(code(&desk.pays(&mut app, 3, 1)), "ok");
    desk.daemon.verify_log();
}
