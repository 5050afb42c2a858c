//! `claviger-connect` against the real daemon, and against programs that want to speak through it.
//!
//! The daemon runs as root, the app and its attackers as users without privileges: run as root; elsewhere there is nothing to
//! see, and each test says so.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they cannot go on"
)]

mod stage;
mod support;

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use stage::{GROUP, Running, Stage, USER, coded, copy};
use support::{BOB, POLICY, cli_ok};

const HELPER: &str = "claviger-connect";

/// The helper installed for the user `USER`, who is the app's alone here, and registered at T2.
fn installed() -> Option<Stage> {
    let stage = Stage::set()?;
    let helper = stage.apps.join(HELPER);
    copy(Path::new(env!("CARGO_BIN_EXE_claviger-connect")), &helper, 0o2755, 0, GROUP);
    settings(&stage, "");
    stage.register(HELPER, &format!("gid = {GROUP}\ntier = \"T2\"\n"));
    stage.daemon.apply(&POLICY.replace("[\"test\"]", &format!("[{HELPER:?}]")));
    Some(stage)
}

fn helper(stage: &Stage) -> PathBuf {
    stage.apps.join(HELPER)
}

fn settings(stage: &Stage, more: &str) {
    let text = format!("# whose\nuid = {USER}\nsocket = {}\n{more}", stage.socket());
    std::fs::write(stage.apps.join("claviger-connect.conf"), text).unwrap();
}

/// A shell of the user, which starts the helper as its child.
fn app(stage: &Stage, script: &str) -> Running {
    stage.start(Command::new("sh").args(["-c", script]).arg(helper(stage)))
}

/// The helper's process, below that shell.
fn child(app: &Running) -> String {
    let path = format!("/proc/{0}/task/{0}/children", app.pid());
    std::fs::read_to_string(path).unwrap().split_whitespace().next().unwrap().to_owned()
}

fn ended(pid: &str) -> bool {
    (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.is_empty() || status.contains("State:\tZ")
    })
}

const STARTS_IT: &str = "\"$0\"; echo ended $?";

// [clause 8.2.4-p] test
#[test]
fn the_app_speaks_through_it_at_tier_two() {
    let Some(stage) = installed() else { return };
    let (path, uid) = (helper(&stage), USER.to_string());
    let words =
        ["app", "enrol", "pay", "--path", path.to_str().unwrap(), "--uid", &uid, "--tier", "T2", "--dry-run"];
    assert_eq!(cli_ok(&stage.daemon.home, &words)["gid"], GROUP, "what docs/apps.md says is enough");
    let mut shell = app(&stage, STARTS_IT);
    assert_eq!(shell.asks(&stage.payment()), "ok");
    assert_eq!(shell.asks(&stage.payment()), "ok");
    // Who says hello by itself, and shows what it was given, is served as well; the nonce stays with the helper.
    let hello = shell.say(r#"{"jsonrpc":"2.0","id":"h","method":"claviger_hello"}"#);
    assert_eq!(serde_json::from_str::<Value>(&hello).unwrap()["result"]["nonce"], "0".repeat(32));
    let mut request: Value = serde_json::from_str(&stage.payment()).unwrap();
    request["claviger"] = json!({"nonce": "0".repeat(32), "seq": 1});
    assert_eq!(shell.asks(&request.to_string()), "ok");
    assert_eq!(shell.asks(&format!("[{}]", stage.payment())), "invalid_request");
    assert_eq!(shell.asks(r#"{"jsonrpc":"2.0","id":1,"method":"a","more":1}"#), "invalid_request");
    assert_eq!(shell.asks(&stage.payment()), "ok", "what it refused by itself ends nothing");
    let log = cli_ok(&stage.daemon.home, &["log", "show", "--from", "0", "--count", "200"]).to_string();
    assert!(log.contains("T2") && log.contains(HELPER), "{log}");

    // What comes in one go is answered whole, also after the last word.
    let two = format!("{}\n{}\n", stage.payment(), stage.payment());
    let file = stage.lair.join("two");
    std::fs::write(&file, two).unwrap();
    chown(&file, Some(USER), Some(USER)).unwrap();
    let mut shell = app(&stage, &format!("\"$0\" < {}; echo ended $?", file.display()));
    assert_eq!((coded(&shell.line()).as_str(), coded(&shell.line()).as_str()), ("ok", "ok"));
    assert_eq!(shell.line(), "ended 0");
    stage.signed(6);

    // The examples as they stand, as that user: no digest of theirs is registered anywhere.
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut signed = 6;
    for (program, script) in [
        (support::rust_example(), None),
        ("/usr/bin/python3".into(), Some(examples.join("python/pay.py"))),
        ("/usr/bin/node".into(), Some(examples.join("node/pay.mjs"))),
    ] {
        if !program.exists() {
            eprintln!("skipped: there is no {} that another user can start", program.display());
            continue;
        }
        signed += 1;
        let pay = |nonce: u64, value: &str| {
            let mut command = Command::new(&program);
            command.args(&script).arg("--through").arg(helper(&stage)).args(["--to", BOB, "--value", value]);
            command.args(["--nonce", &(900 + nonce + signed).to_string()]).uid(USER).gid(USER);
            let out = command.current_dir(&stage.lair).output().unwrap();
            String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr)
        };
        let said = pay(0, "1");
        assert!(said.starts_with("signed 0x"), "{}: {said}", program.display());
        let said = pay(100, "101");
        assert!(said.starts_with("refused over_limit"), "{}: {said}", program.display());
    }
    stage.signed(signed);
}

// [clause 8.2.4-p] test
#[test]
fn whoever_else_starts_it_says_nothing_to_the_daemon() {
    let Some(stage) = installed() else { return };
    let refused = |what: &str, why: &str, command: &mut Command| {
        let mut running = Running::of(command.current_dir(&stage.lair));
        // It may be gone before it is asked.
        std::io::Write::write_all(&mut running.stdin, stage.payment().as_bytes()).ok();
        let said = running.line();
        assert!(said.contains("connect_refused") && said.contains(why), "{what}: {said}");
    };
    let sh = |user: u32| {
        let mut command = Command::new("sh");
        command.args(["-c", STARTS_IT]).arg(helper(&stage)).uid(user).gid(USER);
        command
    };
    refused("another user", "speaks for user", &mut sh(USER + 1));
    refused("root", "speaks for user", &mut sh(0));
    let told = claviger::client::Options::new().through(helper(&stage)).connect();
    let Err(claviger::client::Error::Refused(why)) = told else { panic!("it was taken") };
    assert_eq!(why.code(), "connect_refused");
    refused("a parent of another user", "not of user", Command::new(helper(&stage)).uid(USER).gid(USER));
    let bare = "setpriv --no-new-privs \"$0\"; echo ended";
    refused(
        "setgid does not count",
        "not setgid",
        Command::new("sh").args(["-c", bare]).arg(helper(&stage)).uid(USER).gid(USER),
    );
    // Its group is its own in a user namespace no more than under no_new_privs.
    let inside = "unshare --user \"$0\"; echo ended";
    refused(
        "a user namespace",
        "",
        Command::new("sh").args(["-c", inside]).arg(helper(&stage)).uid(USER).gid(USER),
    );

    settings(&stage, "program = /usr/bin/env\n");
    refused("another program", "none of the programs", &mut sh(USER));
    let shell = std::fs::canonicalize("/bin/sh").unwrap();
    settings(&stage, &format!("program = {}\n", shell.display()));
    assert_eq!(app(&stage, STARTS_IT).asks(&stage.payment()), "ok");
    // The named program starts it and gives way to another: seen at the next request.
    let script = "exec 3<&0; trap 'exec sleep 1000' USR1; \"$0\" <&3 & while :; do wait; done";
    let mut gone = app(&stage, script);
    assert_eq!(gone.asks(&stage.payment()), "ok");
    assert!(Command::new("kill").args(["-USR1", &gone.pid()]).status().unwrap().success());
    let other = || std::fs::read_link(format!("/proc/{}/exe", gone.pid())).unwrap() != shell;
    assert!((0..100).any(|_| other() || {
        std::thread::sleep(Duration::from_millis(50));
        false
    }));
    let said = gone.say(&stage.payment());
    assert!(said.contains("connect_refused"), "{said}");
    settings(&stage, "");

    // Files that others can change, or that stand where others put them.
    let conf = stage.apps.join("claviger-connect.conf");
    chown(&conf, Some(USER), None).unwrap();
    refused("a file of the user's", "only root can change", &mut sh(USER));
    chown(&conf, Some(0), None).unwrap();
    std::fs::set_permissions(&stage.apps, std::fs::Permissions::from_mode(0o777)).unwrap();
    refused("a directory of everybody", "others than root", &mut sh(USER));
    std::fs::set_permissions(&stage.apps, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::hard_link(helper(&stage), stage.lair.join("second")).unwrap();
    refused("a second name", "more names", &mut sh(USER));
    std::fs::remove_file(stage.lair.join("second")).unwrap();
    let plain = stage.apps.join("plain");
    copy(&helper(&stage), &plain, 0o755, 0, GROUP);
    refused(
        "a copy without setgid",
        "not setgid",
        Command::new("sh").args(["-c", STARTS_IT]).arg(&plain).uid(USER).gid(USER),
    );
    std::fs::rename(&conf, stage.apps.join("away")).unwrap();
    refused("nothing beside it", "cannot be read", &mut sh(USER));
    std::fs::rename(stage.apps.join("away"), &conf).unwrap();

    // Somebody else's socket hears nothing.
    let theirs = stage.lair.join("theirs.sock");
    let listener = std::os::unix::net::UnixListener::bind(&theirs).unwrap();
    std::fs::set_permissions(&theirs, std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::write(&conf, format!("uid = {USER}\nsocket = {}\ndaemon = 990\n", theirs.display())).unwrap();
    let mut shell = app(&stage, STARTS_IT);
    assert_eq!(shell.line(), "ended 3");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut listener.accept().unwrap().0, &mut said).unwrap();
    assert_eq!(said, "");
    settings(&stage, "");
    assert_eq!(app(&stage, STARTS_IT).asks(&stage.payment()), "ok");
    stage.signed(3);
}

// [clause 8.2.4-p] test
#[test]
fn programs_of_its_user_do_not_get_into_it() {
    let Some(stage) = installed() else { return };
    let secret = stage.lair.join("secret");
    std::fs::write(&secret, "not for the helper").unwrap();
    chown(&secret, Some(USER), Some(USER)).unwrap();
    let script = format!(
        "exec 7<{}; export CLAVIGER_SOCKET=/nowhere LD_PRELOAD={}; \"$0\"; echo ended",
        secret.display(),
        stage.lair.join("evil.so").display()
    );
    let mut shell = stage.start(Command::new("sh").args(["-c", &script]).arg(helper(&stage)));
    assert_eq!(shell.asks(&stage.payment()), "ok", "what the environment says does not count");
    let pid = child(&shell);
    let open: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap().display().to_string())
        .collect();
    assert!(!open.iter().any(|link| link.contains("secret")), "{open:?}");
    let known = |link: &String| {
        ["pipe:", "socket:", "anon_inode:[pidfd]", "pidfd:", "/dev/null", "/dev/pts"]
            .iter()
            .any(|k| link.starts_with(k))
            || link.contains("daemon.log")
    };
    assert!(open.len() <= 7 && open[3..].iter().all(known), "{open:?}");
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    assert!(!maps.contains("evil.so"));
    for words in [
        vec!["trace", &pid],
        vec!["flicker", &pid],
        vec!["poke", &pid],
        vec!["patch", &pid, HELPER],
        vec!["steal", &pid, "3", "{}"],
        vec!["steal", &pid, "4", "{}"],
    ] {
        let said = stage.mallory(&words).line();
        assert!(said.contains("permitted") || said.contains("denied"), "{words:?}: {said}");
    }
    assert_eq!(shell.asks(&stage.payment()), "ok");
    // A debugger that is there from the start: the kernel then counts no setgid bit.
    if Path::new("/usr/bin/strace").exists() {
        let traced = app(&stage, "strace -o /dev/null \"$0\"; echo ended").line();
        assert!(traced.contains("connect_refused"), "{traced}");
    }
    stage.signed(2);
}

// [clause 8.2.4-p] test
#[test]
fn it_ends_with_its_parent_and_holds_no_more_than_one_request() {
    let Some(stage) = installed() else { return };
    // Its input stays open in this test; the shell alone is killed.
    let mut shell = app(&stage, STARTS_IT);
    assert_eq!(shell.asks(&stage.payment()), "ok");
    let pid = child(&shell);
    assert!(Command::new("kill").args(["-KILL", &shell.pid()]).status().unwrap().success());
    assert!(ended(&pid), "it outlived the app");
    let mut shell = app(&stage, STARTS_IT);
    assert_eq!(shell.asks(&stage.payment()), "ok");
    let pid = child(&shell);
    // A request that never ends: more bytes than it may have, and more levels.
    let flood = |running: &mut Running, piece: &[u8]| {
        for _ in 0..4096 {
            if std::io::Write::write_all(&mut running.stdin, piece).is_err() {
                break;
            }
        }
    };
    flood(&mut shell, &[b"{\"a\":\"".as_slice(), &[b'a'; 4096]].concat());
    assert_eq!(coded(&shell.line()), "too_large");
    assert_eq!(shell.line(), "ended 1");
    assert!(ended(&pid));
    let mut shell = app(&stage, STARTS_IT);
    flood(&mut shell, b"[[[[[[[[");
    assert_eq!(coded(&shell.line()), "too_deep");
    let mut shell = app(&stage, STARTS_IT);
    assert_eq!(coded(&shell.say("GET / HTTP/1.1")), "parse_error");
    // Many that are whole, answers unread: it waits, and does not grow.
    let mut shell = app(&stage, STARTS_IT);
    assert_eq!(shell.asks(&stage.payment()), "ok");
    let pid = child(&shell);
    let memory = |word: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(word)).unwrap().to_owned();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let before = memory("VmHWM:");
    let padded = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\",\"params\":[\"{}\"]}}\n",
        "a".repeat(200_000)
    );
    for _ in 0..50 {
        std::io::Write::write_all(&mut shell.stdin, padded.as_bytes()).unwrap();
        assert_eq!(coded(&shell.line()), "method_not_found");
    }
    assert!(memory("VmHWM:") < before + 8 * 1024, "{before} kB, then {} kB", memory("VmHWM:"));
    // The daemon goes: so does the helper.
    stage.daemon.signal("KILL");
    assert!(ended(&pid));
    assert_eq!(shell.line(), "ended 0");
}

// [clause 8.2.4-e] test
#[test]
fn an_app_with_the_library_is_at_tier_two_by_its_hello() {
    let Some(stage) = Stage::set() else { return };
    // Root's and not readable, so not dumpable; setgid to nothing: only the hello tells whose connection it is.
    copy(&support::rust_example(), &stage.apps.join("pay"), 0o711, 0, 0);
    copy(&support::rust_example(), &stage.apps.join("group"), 0o2755, 0, GROUP);
    stage.register("pay", "tier = \"T2\"\n");
    stage.register("group", &format!("gid = {GROUP}\ntier = \"T2\"\n"));
    stage.daemon.apply(&POLICY.replace("[\"test\"]", "[\"pay\", \"group\", \"guarded\"]"));
    let pay = |name: &str, words: &[&str]| {
        let mut command = Command::new(stage.apps.join(name));
        command.args(["--to", BOB, "--value", "1"]).args(words).current_dir(&stage.lair);
        let out = command.env("CLAVIGER_SOCKET", stage.socket()).uid(USER).gid(USER).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let said = pay("pay", &["--nonce", "5"]);
    assert!(said.starts_with("signed 0x"), "{said}");
    let said = pay("group", &["--nonce", "6", "--socket", &stage.socket()]);
    assert!(said.starts_with("signed 0x"), "{said}");
    // Who starts a program with more rights than their own does not choose whom it talks with.
    let said = pay("group", &["--nonce", "7"]);
    assert!(said.contains(claviger::client::DEFAULT_SOCKET) && !said.contains("signed"), "{said}");
    stage.signed(2);
}
