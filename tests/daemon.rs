//! The real daemon over its real sockets: what it signs, what it refuses, what it survives.

mod support;

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};
use support::{BOB, Daemon, code};

// [clause 8.7.1-c] test
#[test]
fn payments_are_signed_refused_and_written_down() {
    let daemon = Daemon::start();
    let mut wallet = daemon.wallet();
    let lower = daemon.address.to_lowercase();
    assert_eq!(wallet.call("eth_accounts", &json!([]))["result"], json!([lower]));
    assert_eq!(wallet.call("eth_chainId", &Value::Null)["result"], "0x1");
    assert_eq!(wallet.call("account_version", &json!([]))["result"], "6.1.0");
    let first = wallet.call("eth_signTransaction", &json!([daemon.tx(0, 100)]));
    assert!(first["result"].as_str().unwrap().starts_with("0x02"), "{first}");
    // The same payload again: the same bytes, no second debit.
    assert_eq!(wallet.call("eth_signTransaction", &json!([daemon.tx(0, 100)]))["result"], first["result"]);
    let clef = wallet.call("account_signTransaction", &json!([daemon.tx(1, 100), null]));
    assert!(clef["result"]["tx"]["r"].is_string() && clef["result"]["raw"].is_string());
    let sign = |wallet: &mut support::Client, tx: Value| {
        code(&wallet.call("eth_signTransaction", &json!([tx]))).to_owned()
    };
    let mut changed = |field: &str, value: Value, nonce| {
        let mut tx = daemon.tx(nonce, 1);
        tx[field] = value;
        sign(&mut wallet, tx)
    };
    assert_eq!(changed("value", json!("0x65"), 2), "over_limit");
    assert_eq!(changed("value", json!("0x64"), 2), "window_exceeded");
    assert_eq!(changed("value", json!("0x63"), 0), "nonce_conflict");
    assert_eq!(changed("value", json!("0x".to_owned() + &"f".repeat(65)), 2), "payment_malformed");
    assert_eq!(
        changed("to", json!("0x3333333333333333333333333333333333333333"), 2),
        "destination_not_listed"
    );
    assert_eq!(changed("to", Value::Null, 2), "contract_creation");
    assert_eq!(changed("input", json!("0xdeadbeef"), 2), "contract_call_unknown");
    assert_eq!(changed("chainId", json!("0x2"), 2), "chain_unknown");
    assert_eq!(changed("from", json!(BOB), 2), "key_unknown");
    assert_eq!(changed("surprise", json!("0x1"), 2), "payment_malformed");
    assert_eq!(changed("maxFeePerGas", json!("0xffffffffffff"), 2), "fee_too_high");
    assert_eq!(changed("value", json!("0x1"), 2), "ok");
    assert_eq!(code(&wallet.call("eth_sign", &json!([daemon.address, "0x00"]))), "method_not_found");
    let message = wallet.call("personal_sign", &json!(["0x6869", daemon.address]));
    assert_eq!(message["result"].as_str().unwrap().len(), 2 + 130);
    let report = daemon.verify_log();
    assert_eq!((report["results"].as_u64(), report["intents"].as_u64()), (Some(4), Some(4)));
    let log = support::cli_ok(&daemon.home, &["log", "show", "--from", "0", "--count", "100"]).to_string();
    for word in
        ["over_limit", "window_exceeded", "destination_not_listed", "contract_call_unknown", "nonce_conflict"]
    {
        assert!(log.contains(word), "{word} is not in the log");
    }
}

// [clause 8.2.3-b] test
#[test]
fn strangers_bytes_cost_their_connection_and_nothing_else() {
    let daemon = Daemon::start();
    let hostile: [(&[u8], &str); 8] = [
        (b"GET / HTTP/1.1\r\n\r\n", "parse_error"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"eth_accounts\",}", "parse_error"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1}", "invalid_request"),
        (b"[]", "invalid_request"),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"eth_signTransaction\",\"params\":[1]}",
            "payment_malformed",
        ),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"eth_signTransaction\",\"params\":{}}",
            "invalid_params",
        ),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"claviger_signPayment\",\"params\":{\"x\":1}}",
            "invalid_params",
        ),
        (&[0xff, 0xfe, 0x00], "parse_error"),
    ];
    for (bytes, expected) in hostile {
        let mut client = daemon.wallet();
        client.send(bytes);
        assert_eq!(code(&client.line()), expected, "{}", String::from_utf8_lossy(bytes));
    }
    let mut deep = daemon.wallet();
    deep.send(&b"[".repeat(1000));
    assert_eq!(code(&deep.line()), "too_deep");
    let mut large = daemon.wallet();
    let mut body = b"{\"x\":\"".to_vec();
    body.resize(400_000, b'a');
    // The daemon may close before all of it is written.
    drop(large.stream.write_all(&body));
    assert_eq!(code(&large.line()), "too_large");
    let _silent: Vec<_> = (0..20).map(|_| daemon.wallet()).collect();
    let mut half = daemon.wallet();
    half.send(b"{\"jsonrpc\":");
    let mut good = daemon.wallet();
    assert_eq!(code(&good.call("eth_signTransaction", &json!([daemon.tx(0, 1)]))), "ok");
    let edge = daemon
        .operator()
        .call("operator_keyMove", &json!({"name": "hot", "to": "pre-active", "reason": "a test"}));
    assert_eq!(code(&edge), "key_edge");
    // All of that stands in the log; a flood of it does not fill it.
    for _ in 0..200 {
        assert_eq!(code(&good.call("no_such_method", &json!([]))), "method_not_found");
    }
    let log = support::cli_ok(&daemon.home, &["log", "show", "--from", "0", "--count", "1000"]).to_string();
    for word in ["parse_error", "invalid_request", "invalid_params", "too_deep", "key_edge"] {
        assert!(log.contains(word), "{word} is not in the log");
    }
    let floods = log.matches("method_not_found").count();
    assert!((1..100).contains(&floods), "{floods}");
    daemon.verify_log();
}

#[test]
fn the_openrpc_document_is_what_is_served() {
    let daemon = Daemon::start();
    for mut client in [daemon.wallet(), daemon.operator()] {
        let document = client.call("rpc.discover", &Value::Null);
        let methods = document["result"]["methods"].as_array().unwrap().clone();
        assert!(methods.len() > 10);
        for method in methods {
            let name = method["name"].as_str().unwrap();
            let reply = client.call(name, &json!({"no-such-parameter": 1}));
            let code = code(&reply);
            assert!(code != "method_not_found" && code != "internal", "{name}: {reply}");
        }
        assert_eq!(code(&client.call("no_such", &json!([]))), "method_not_found");
    }
}

// [clause 8.4.3-b] test
#[test]
fn requests_can_be_waited_for_and_simulated() {
    let daemon = Daemon::start();
    let mut wallet = daemon.wallet();
    let simulated = wallet.call("claviger_simulatePayment", &json!({"transaction": daemon.tx(0, 101)}));
    assert_eq!(simulated["result"]["decision"]["code"], "over_limit");
    assert_eq!(simulated["result"]["decision"]["rule"], "pay");
    let simulated = wallet.call("claviger_simulatePayment", &json!({"transaction": daemon.tx(0, 100)}));
    assert_eq!(simulated["result"]["decision"]["outcome"], "permit");
    let begun =
        wallet.call("claviger_signPayment", &json!({"transaction": daemon.tx(0, 100), "wait": false}));
    assert_eq!(begun["result"]["status"], "pending");
    let done = wallet
        .call("claviger_waitRequest", &json!({"request": begun["result"]["request"], "timeout_ms": 10_000}));
    assert_eq!(done["result"]["status"], "signed", "{done}");
    let late = wallet.call("claviger_cancelRequest", &json!({"request": begun["result"]["request"]}));
    assert_eq!(late["result"]["cancelled"], false);
    assert_eq!(code(&wallet.call("claviger_waitRequest", &json!({"request": "ffff"}))), "request_unknown");
}

// [clause 8.7.1-d] test
#[test]
fn a_crash_and_a_reload_forget_nothing_that_was_spent() {
    let mut daemon = Daemon::start();
    assert_eq!(code(&daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(0, 100)]))), "ok");
    daemon.signal("KILL");
    daemon.restart();
    assert_eq!(code(&daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(1, 100)]))), "ok");
    // Another name for the rule, and a new window: what was spent counts in it.
    daemon.apply(&support::POLICY.replace("id = \"pay\"", "id = \"renamed\"").replace("24h", "48h"));
    assert_eq!(
        code(&daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(2, 100)]))),
        "window_exceeded"
    );
    // A broken policy file changes nothing.
    std::fs::write(daemon.home.join("policy.toml"), "schema = 9").unwrap();
    daemon.signal("HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(code(&daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(2, 50)]))), "ok");
    assert_eq!(daemon.verify_log()["results"], 3);
}

// [clause 8.7.1-c] test
#[test]
fn a_new_policy_is_held_against_the_past_before_it_is_in_force() {
    let daemon = Daemon::start();
    let mut wallet = daemon.wallet();
    for (nonce, value, wanted) in
        [(0, 100, "ok"), (1, 60, "ok"), (2, 101, "over_limit"), (2, 100, "window_exceeded")]
    {
        assert_eq!(code(&wallet.call("eth_signTransaction", &json!([daemon.tx(nonce, value)]))), wanted);
    }
    let outcomes = |policy: String| {
        let file = daemon.home.join("replay.toml");
        std::fs::write(&file, policy).unwrap();
        let told = support::cli_ok(&daemon.home, &["policy", "replay", file.to_str().unwrap()]);
        assert_eq!(told["judged"], 4, "{told}");
        let changed = told["changed"].as_array().unwrap().clone();
        changed
            .iter()
            .map(|c| (c["was"].as_str().unwrap().to_owned(), c["now"].as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    let pair = |was: &str, now: &str| (was.to_owned(), now.to_owned());
    assert_eq!(outcomes(support::POLICY.to_owned()), []);
    // A wider window lets the last one through; a lower line stops the first, which leaves room for the others.
    assert_eq!(outcomes(support::POLICY.replace("\"250\"", "\"1000\"")), [pair("window_exceeded", "permit")]);
    assert_eq!(
        outcomes(support::POLICY.replace("\"100\"", "\"99\"")),
        [pair("permit", "over_limit"), pair("window_exceeded", "over_limit")]
    );
    assert_eq!(
        outcomes(support::POLICY.replace("bob = \"0x2222", "bob = \"0x3222")).len(),
        4,
        "nobody is on the list any more"
    );
    let asks = "per_tx.max = \"100\"\napprove = [{ above = \"60\", quorum = 1, of = \"ops\" }]";
    assert_eq!(
        outcomes(support::POLICY.replace("per_tx.max = \"100\"", asks)),
        [pair("permit", "approval_needed")]
    );
}

// [clause 8.8-a] test
#[test]
fn everybody_sees_the_rules_and_how_they_came_about() {
    let mut daemon = Daemon::start();
    daemon.apply(&support::POLICY.replace("\"250\"", "\"300\""));
    for restarted in [false, true] {
        if restarted {
            daemon.restart();
        }
        let told = daemon.wallet().call("claviger_governance", &Value::Null)["result"].clone();
        let history = told["history"].as_array().unwrap();
        let classes: Vec<&str> =
            history.iter().filter(|e| e["kind"] == "policy").map(|e| e["class"].as_str().unwrap()).collect();
        assert!(classes.contains(&"loosens") && classes.contains(&"start"), "{classes:?}");
        let last = history.iter().rfind(|e| e["kind"] == "policy").unwrap();
        assert_eq!(last["hash"], told["policy"]);
        assert!(last["at"].is_string() && last["uid"].is_number() && last["entry"].is_number());
    }
    let shown = support::cli_ok(&daemon.home, &["policy", "history"]);
    assert_eq!(shown["approvals"], json!([]));
}

// [clause 8.2.4-e] test
#[test]
fn after_a_hello_requests_show_the_nonce_on_the_wire() {
    let daemon = Daemon::start();
    let mut wallet = daemon.wallet();
    assert_eq!(code(&wallet.call("eth_accounts", &json!([]))), "ok", "clients that know no hello are served");
    let nonce = wallet.call("claviger_hello", &Value::Null)["result"]["nonce"].as_str().unwrap().to_owned();
    let mut asked = |proof: Value| {
        let mut request = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_accounts"});
        if !proof.is_null() {
            request["claviger"] = proof;
        }
        wallet.send(request.to_string().as_bytes());
        code(&wallet.line()).to_owned()
    };
    assert_eq!(asked(json!({"nonce": nonce, "seq": 1})), "ok");
    assert_eq!(asked(json!({"nonce": nonce, "seq": 1})), "app_nonce");
    assert_eq!(asked(Value::Null), "app_nonce");
    assert_eq!(asked(json!({"nonce": "00".repeat(16), "seq": 2})), "app_nonce");
    assert_eq!(asked(json!({"nonce": nonce})), "invalid_request");
    assert_eq!(asked(json!({"nonce": nonce, "seq": 2})), "ok");
    let mut other = daemon.wallet();
    other.send(
        json!({"jsonrpc": "2.0", "id": 1, "method": "eth_accounts", "claviger": {"nonce": nonce, "seq": 3}})
            .to_string()
            .as_bytes(),
    );
    assert_eq!(code(&other.line()), "app_nonce", "a nonce is one connection's");
}

// [clause 8.2.4-a] test
#[test]
fn as_many_connections_as_there_may_be_are_each_known() {
    let daemon = Daemon::start();
    let mut wallets: Vec<_> = (0..250).map(|_| daemon.wallet()).collect();
    for wallet in &mut wallets {
        assert_eq!(code(&wallet.call("eth_accounts", &json!([]))), "ok");
    }
    let last = wallets.last_mut().unwrap();
    assert_eq!(code(&last.call("eth_signTransaction", &json!([daemon.tx(0, 1)]))), "ok");
}

// [clause 8.2.4-h] test
#[test]
fn without_anybody_who_looks_nothing_is_signed_and_the_daemon_ends() {
    let mut daemon = Daemon::start();
    let mut wallet = daemon.wallet();
    assert_eq!(code(&wallet.call("eth_signTransaction", &json!([daemon.tx(0, 1)]))), "ok");
    let looks = |process: &std::fs::DirEntry| {
        let read = |name: &str| std::fs::read_to_string(process.path().join(name)).unwrap_or_default();
        let child = read("status").lines().any(|l| *l == format!("PPid:\t{}", daemon.pid()));
        child && read("cmdline").split('\0').nth(1) == Some("--attest")
    };
    let found = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).find(looks).unwrap();
    let pid = found.file_name().into_string().unwrap();
    assert!(std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    std::thread::sleep(Duration::from_millis(100));
    wallet.send(
        json!({"jsonrpc": "2.0", "id": 1, "method": "eth_signTransaction", "params": [daemon.tx(1, 1)]})
            .to_string()
            .as_bytes(),
    );
    // Refused, or told nothing when the daemon was faster.
    let told = wallet.line();
    assert!(told.is_null() || code(&told) == "app_unseen" || code(&told) == "stopping", "{told}");
    assert!(!daemon.wait());
}

#[test]
fn who_hangs_up_leaves_nothing_in_the_log() {
    let daemon = Daemon::start();
    let entries = || support::cli_ok(&daemon.home, &["status"])["log"]["entries"].clone();
    let before = entries();
    drop(daemon.wallet());
    drop(daemon.operator());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(entries(), before);
}

#[test]
fn sigterm_ends_in_order() {
    let mut daemon = Daemon::start();
    let mut wallet = daemon.wallet();
    wallet.send(
        json!({"jsonrpc": "2.0", "id": 1, "method": "eth_signTransaction", "params": [daemon.tx(0, 1)]})
            .to_string()
            .as_bytes(),
    );
    assert_eq!(code(&wallet.line()), "ok");
    daemon.signal("TERM");
    assert!(daemon.wait());
    assert!(!daemon.home.join("wallet.sock").exists());
}

// [clause 8.2.3-a] test
#[test]
fn a_user_that_is_no_operator_gets_nothing() {
    let mut daemon = Daemon::start();
    let file = daemon.home.join("clavigerd.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let start = text.find("uids = ").unwrap();
    let end = start + text[start..].find('\n').unwrap();
    std::fs::write(&file, format!("{}uids = [4000000000]{}", &text[..start], &text[end..])).unwrap();
    daemon.signal("TERM");
    daemon.wait();
    // The operator socket refuses us, so readiness is asked of the wallet socket.
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_clavigerd"))
        .arg("--config")
        .arg(&file)
        .spawn()
        .unwrap();
    for _ in 0..200 {
        if daemon.home.join("operator.sock").exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let reply = daemon.operator().call("operator_keyList", &Value::Null);
    let mut child = child;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(code(&reply), "operator_unknown");
}

// [clause 8.7.1-a] test
#[test]
fn a_key_is_made_once_and_listed_only_to_those_who_may_use_it() {
    let daemon = Daemon::start();
    let mut operator = daemon.operator();
    assert_eq!(
        code(&operator.call("operator_keyCreate", &json!({"name": "hot", "algorithm": "p256"}))),
        "key_exists"
    );
    assert_eq!(
        code(&operator.call("operator_keyCreate", &json!({"name": "x y", "algorithm": "p256"}))),
        "invalid_params"
    );
    assert_eq!(
        code(&operator.call("operator_keyCreate", &json!({"name": "other", "algorithm": "p256"}))),
        "ok"
    );
    assert_eq!(operator.call("operator_keyList", &Value::Null)["result"].as_array().unwrap().len(), 4);
    let listed = daemon.wallet().call("claviger_listKeys", &Value::Null);
    assert_eq!(listed["result"].as_array().unwrap().len(), 1);
    assert_eq!(listed["result"][0]["name"], "hot");
}

// [clause 8.2.5-c] test
#[test]
fn a_rejected_passphrase_latches_until_an_operator_unlocks() {
    let mut daemon = Daemon::start();
    let pin = daemon.home.join("token.pin");
    let right = std::fs::read_to_string(&pin).unwrap();
    std::fs::write(&pin, "wrong").unwrap();
    daemon.signal("TERM");
    daemon.wait();
    {
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_clavigerd"))
            .arg("--config")
            .arg(daemon.home.join("clavigerd.toml"))
            .spawn()
            .unwrap();
        let _guard = Guard(child);
        let locked = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            support::cli(&daemon.home, &["status"]).1.contains("\"locked\"")
        });
        assert!(locked);
        assert_eq!(
            code(&daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(0, 1)]))),
            "token_locked"
        );
        let wrong = daemon.operator().call("operator_unlock", &json!({"pin": "still wrong"}));
        assert_eq!(wrong["result"]["state"], "locked", "{wrong}");
        let unlocked = daemon.operator().call("operator_unlock", &json!({"pin": right}));
        assert_eq!(unlocked["result"]["state"], "usable", "{unlocked}");
        assert_eq!(code(&daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(0, 1)]))), "ok");
        let log =
            support::cli_ok(&daemon.home, &["log", "show", "--from", "0", "--count", "100"]).to_string();
        assert!(!log.contains(&right) && !log.contains("still wrong"));
    }
}

struct Guard(std::process::Child);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
