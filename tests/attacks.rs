//! Programs of the same user that want a payment signed in an app's name, against the real daemon.
//!
//! The daemon runs as root, the app and its attackers as a user without privileges. `tests/attacks/` holds both: `victim`
//! is registered, `mallory` tries. Run as root; elsewhere there is nothing to see, and each test says so.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

mod stage;
mod support;

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use stage::{Running, Stage, USER, built, coded, copy, victim};
use support::cli_ok;

/// Whom a daemon runs as that is not root.
const DAEMON: u32 = 47_333;

// [clause 8.2.4-c] test
#[test]
fn what_others_do_to_a_running_app_is_seen() {
    let Some(stage) = Stage::set() else { return };
    let attacked = |what: &str, wanted: &str, attack: &dyn Fn(&mut Running) -> Option<Running>| {
        let mut app = stage.working();
        let held = attack(&mut app);
        assert_eq!(app.asks(&stage.payment()), wanted, "{what}");
        drop(held);
    };
    let ready = |mut mallory: Running| {
        assert_eq!(mallory.line(), "ready");
        Some(mallory)
    };
    attacked("nothing", "ok", &|_| None);
    attacked("a debugger", "app_traced", &|app| ready(stage.mallory(&["trace", &app.pid()])));
    attacked("a debugger on another thread", "app_traced", &|app| {
        assert_eq!(app.say("thread"), "done");
        let tasks = std::fs::read_dir(format!("/proc/{}/task", app.pid())).unwrap();
        let names: Vec<String> = tasks.map(|t| t.unwrap().file_name().into_string().unwrap()).collect();
        let other = names.iter().find(|name| **name != app.pid()).unwrap();
        ready(stage.mallory(&["trace", other]))
    });
    attacked("a patch of its code", "app_patched", &|app| {
        ready(stage.mallory(&["patch", &app.pid(), &victim(&stage)]))
    });
    attacked("memory that is written and executed", "app_writable_code", &|app| {
        assert_eq!(app.say("rwx"), "done");
        None
    });
    attacked("a library that is loaded later", "app_foreign_code", &|app| {
        assert_eq!(app.say(&format!("load {}", stage.lair.join("evil.so").display())), "done");
        None
    });
    attacked("a new file in the place of its executable", "app_replaced", &|_| {
        let fresh = stage.apps.join("fresh");
        copy(&stage.apps.join("victim"), &fresh, 0o755, 0, 0);
        std::fs::rename(fresh, stage.apps.join("victim")).unwrap();
        None
    });

    let mut preloaded = stage.start(
        Command::new(victim(&stage)).arg(stage.socket()).env("LD_PRELOAD", stage.lair.join("evil.so")),
    );
    assert_eq!(preloaded.line(), "connected");
    assert_eq!(preloaded.asks(&stage.payment()), "app_foreign_code");
    let mut supervised = stage.mallory(&["supervise", &victim(&stage), &stage.socket()]);
    assert_eq!(supervised.line(), "connected");
    assert_eq!(supervised.asks(&stage.payment()), "app_seccomp");
    stage.signed(8);
}

// [clause 8.2.4-a] test
#[test]
fn other_files_and_places_are_not_the_app() {
    let Some(stage) = Stage::set() else { return };
    let lair = |name: &str| stage.lair.join(name).to_str().unwrap().to_owned();
    copy(&stage.apps.join("victim"), &stage.lair.join("copy"), 0o755, USER, USER);
    let started = |what: &str, wanted: &str, command: &mut Command| {
        let mut running = stage.start(command);
        assert_eq!(running.line(), "connected", "{what}");
        assert_eq!(running.asks(&stage.payment()), wanted, "{what}");
    };
    let (socket, app) = (stage.socket(), victim(&stage));
    started("the app", "ok", Command::new(&app).arg(&socket));
    started("a modified copy", "app_unknown", Command::new(lair("modified")).arg(&socket));
    started("an exact copy", "app_unknown", Command::new(lair("copy")).arg(&socket));
    started(
        "the app by its loader",
        "app_unknown",
        Command::new(std::fs::canonicalize("/lib64/ld-linux-x86-64.so.2").unwrap()).args([&app, &socket]),
    );
    started(
        "its bytes from memory",
        "app_unknown",
        Command::new(lair("mallory")).args(["memfd", &app, &socket]),
    );
    started(
        "the app in a user namespace",
        "app_namespace",
        Command::new("unshare").args(["--user", "--", &app, &socket]),
    );
    let script = format!("mount --bind {} {app} && exec {app} {socket}", lair("modified"));
    started(
        "another file that is mounted over it",
        "app_replaced",
        Command::new("unshare").args(["--user", "--map-root-user", "--mount", "--", "sh", "-c", &script]),
    );
    let mut spoof = stage.mallory(&["spoof", &lair("evil.so"), &socket, &stage.payment(), &app]);
    let said = spoof.line();
    assert_eq!(coded(&said), "app_namespace", "{said}");

    // The file itself is another one than was registered: an update that nobody looked at.
    copy(&stage.lair.join("modified"), &stage.apps.join("fresh"), 0o755, 0, 0);
    std::fs::rename(stage.apps.join("fresh"), stage.apps.join("victim")).unwrap();
    started("a replaced file", "app_replaced", Command::new(&app).arg(&socket));
    stage.signed(1);
}

// [clause 8.2.4-b] test
#[test]
fn a_connection_is_one_program_and_its_bytes() {
    let Some(stage) = Stage::set() else { return };
    let (socket, app) = (stage.socket(), victim(&stage));
    let mallory = stage.lair.join("mallory").to_str().unwrap().to_owned();

    let mut working = stage.working();
    let fd = working.say("fd");
    assert_eq!(working.asks(&format!("exec {mallory} write {fd} {}", stage.payment())), "app_changed");
    let mut working = stage.working();
    // The same program again is another program too: what it inherited is not its own.
    let said = working.say(&format!("exec {app} {socket}"));
    assert_eq!(said, "connected");
    assert_eq!(working.asks(&stage.payment()), "ok", "its own new connection");

    let working = stage.working();
    let mut thief = {
        let mut told = stage.working();
        let fd = told.say("fd");
        stage.mallory(&["steal", &told.pid(), &fd, &stage.payment()]).line();
        stage.mallory(&["steal", &working.pid(), &fd, &stage.payment()])
    };
    assert_eq!(coded(&thief.line()), "app_sender", "a stolen descriptor");

    assert_eq!(coded(&stage.mallory(&["rights", &socket, &stage.payment()]).line()), "app_descriptor");
    for (attack, wanted) in
        [("fork-then-exec", "app_sender"), ("clone", "app_sender"), ("forge", "app_namespace")]
    {
        let mut asked = stage.while_it_sleeps(&[attack, &socket, &stage.payment(), &app]);
        assert_eq!(asked.line(), "ready", "{attack}");
        assert_eq!(coded(&asked.line()), wanted, "{attack}");
    }
    stage.signed(5);
}

// [clause 8.2.4-e] test
#[test]
fn what_was_written_before_the_app_ran_is_not_the_apps() {
    let Some(stage) = Stage::set() else { return };
    let guarded = stage.apps.join("guarded").to_str().unwrap().to_owned();
    let (socket, request) = (stage.socket(), stage.payment());
    let mut asked = stage.while_it_sleeps(&["write-then-exec", &socket, &request, &guarded]);
    assert_eq!(asked.line(), "ready");
    let said = asked.line();
    assert_eq!(coded(&said), "app_group", "{said}");

    // The number of a process that has ended is given to the app.
    stage.daemon.signal("STOP");
    let mut gone = stage.mallory(&["leave", &socket, &stage.payment()]);
    let pid: u32 = gone.line().parse().unwrap();
    let mut reused = None;
    for _ in 0..50 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let candidate = stage.start(Command::new(victim(&stage)).args(["/nonexistent", "idle"]));
        if candidate.child.id() == pid {
            reused = Some(candidate);
            break;
        }
    }
    assert!(reused.is_some(), "the number {pid} was not given again");
    stage.daemon.signal("CONT");
    let said = gone.line();
    assert!(["app_unknown", "app_sender", "app_changed"].contains(&coded(&said).as_str()), "{said}");
    stage.signed(0);
}

// [clause 8.2.4-c] test
#[test]
fn a_digest_is_not_believed_twice_of_a_file_that_others_can_change() {
    let Some(stage) = Stage::set() else { return };
    let library = stage.lair.join("evil.so");
    let mut libs = String::from("serial = 1\n[app.libs]\n");
    {
        let app = stage.working();
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", app.pid())).unwrap();
        let mut paths: Vec<&str> = maps
            .lines()
            .filter(|l| l.contains("r-xp"))
            .filter_map(|l| l.split_once('/').map(|(_, p)| p))
            .collect();
        paths.sort_unstable();
        paths.dedup();
        for path in paths.iter().map(|p| format!("/{p}")).chain([library.to_str().unwrap().to_owned()]) {
            let digest = claviger::service::executable_digest(Path::new(&path)).unwrap();
            libs.push_str(&format!("{path:?} = \"{}\"\n", hex::encode(digest)));
        }
    }
    copy(&built().join("victim"), &stage.apps.join("listed"), 0o755, 0, 0);
    stage.register("listed", &libs);
    stage.daemon.apply(&support::POLICY.replace("[\"test\"]", "[\"listed\"]"));
    let mut app = stage.app("listed", &[]);
    let mut writer = stage.mallory(&["dirty", library.to_str().unwrap()]);
    assert_eq!(writer.line(), "ready");
    assert_eq!(app.say(&format!("load {}", library.display())), "done");
    assert_eq!(app.asks(&stage.payment()), "ok", "it is listed");
    let times = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).unwrap();
    let before = times(&library);
    assert_eq!(writer.say(""), "changed");
    assert_eq!(times(&library), before, "the times of the file tell nothing");
    assert_eq!(app.asks(&stage.payment()), "app_foreign_code");
    stage.signed(2);
}

// [clause 8.2.4-e] test
#[test]
fn a_protected_app_is_out_of_reach_and_says_hello() {
    let Some(stage) = Stage::set() else { return };
    let mut app = stage.app("guarded", &["hello"]);
    assert_eq!(app.asks(&stage.payment()), "ok");
    let fd = app.say("fd");
    for words in [
        vec!["trace", &app.pid()],
        vec!["flicker", &app.pid()],
        vec!["poke", &app.pid()],
        vec!["patch", &app.pid(), "guarded"],
        vec!["steal", &app.pid(), &fd, "{}"],
    ] {
        let said = stage.mallory(&words).line();
        assert!(said.contains("permitted") || said.contains("denied"), "{words:?}: {said}");
    }
    assert_eq!(app.asks(&stage.payment()), "ok");
    // A library that somebody wants in it is not let in by the loader.
    let path = stage.apps.join("guarded");
    let mut preloaded = stage.start(
        Command::new(&path).arg(stage.socket()).arg("hello").env("LD_PRELOAD", stage.lair.join("evil.so")),
    );
    assert_eq!(preloaded.line(), "connected");
    assert_eq!(preloaded.asks(&stage.payment()), "ok");
    // Where setgid does not count, it is not the app.
    let mut bare = stage
        .start(Command::new("setpriv").arg("--no-new-privs").arg(&path).arg(stage.socket()).arg("hello"));
    assert_eq!(bare.line(), "connected");
    assert_eq!(bare.asks(&stage.payment()), "app_group");
    let log = cli_ok(&stage.daemon.home, &["log", "show", "--from", "0", "--count", "100"]).to_string();
    assert!(log.contains("T2"), "the tier stands in the log");
    // The same program without protection, where protection is asked for.
    copy(&stage.apps.join("victim"), &stage.apps.join("open"), 0o755, 0, 0);
    stage.register("open", "tier = \"T2\"\n");
    assert_eq!(stage.app("open", &["hello"]).asks(&stage.payment()), "app_tier");
    stage.signed(3);
}

// [clause 8.2.4-c] test
#[test]
fn operators_see_what_will_be_trusted_what_changed_and_what_a_process_is() {
    let Some(stage) = Stage::set() else { return };
    let home = &stage.daemon.home;
    let app = stage.working();
    let told = cli_ok(home, &["app", "verify", &app.pid()]);
    assert_eq!((&told["accepted"], &told["without_hello"]["tier"]), (&json!(true), &json!("T1")), "{told}");
    let mut tracer = stage.mallory(&["trace", &app.pid()]);
    assert_eq!(tracer.line(), "ready");
    let (accepted, said) = support::cli(home, &["app", "verify", &app.pid()]);
    assert!(!accepted && said.contains("app_traced"), "{said}");
    drop(tracer);
    let file = home.join("apps.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let told =
        cli_ok(home, &["app", "enrol", "seen", "--pid", &app.pid(), "--tier", "T1", "--exact", "--dry-run"]);
    assert_eq!((&told["uid"], &told["path"]), (&json!(USER), &json!(victim(&stage))));
    assert!(told["libs"].as_object().unwrap().keys().any(|k| k.contains("libc")), "{told}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    copy(&stage.lair.join("modified"), &stage.apps.join("fresh"), 0o755, 0, 0);
    std::fs::rename(stage.apps.join("fresh"), stage.apps.join("victim")).unwrap();
    let told = cli_ok(home, &["app", "update", "victim"]);
    assert!(
        told["differences"].to_string().contains("+ sha256") && told["written"] == json!(false),
        "{told}"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    cli_ok(home, &["app", "update", "victim", "--yes"]);
    assert_eq!(stage.app("victim", &[]).asks(&stage.payment()), "ok", "it was looked at");
    assert_eq!(cli_ok(home, &["app", "show", "victim"])["serial"], 1);
    let status = cli_ok(home, &["status"]);
    assert_eq!(status["attestation"]["level"], 3, "{status}");
    // Back to what was before: somebody puts an old file in its place.
    std::fs::write(&file, before).unwrap();
    assert!(!support::cli(home, &["reload"]).0);
    stage.signed(2);
}

// [clause 8.2.4-h] test
#[test]
fn a_daemon_of_its_own_user_leaves_its_privileges_to_whoever_looks() {
    let Some(stage) = Stage::set() else { return };
    let bin = stage.daemon.home.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let home = stage.daemon.home.join("own");
    std::fs::create_dir(&home).unwrap();
    chown(&home, Some(DAEMON), Some(DAEMON)).unwrap();
    for (name, built) in
        [("claviger", env!("CARGO_BIN_EXE_claviger")), ("clavigerd", env!("CARGO_BIN_EXE_clavigerd"))]
    {
        copy(Path::new(built), &bin.join(name), 0o755, 0, 0);
    }
    let config = home.join("house/clavigerd.toml");
    let command = |words: &[&str]| {
        let mut command = Command::new(bin.join("claviger"));
        command.uid(DAEMON).gid(DAEMON).args(["--json", "--config"]).arg(&config).args(words);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap_or_default()
    };
    command(&["init", "--yes", "--dir", home.join("house").to_str().unwrap(), "--profile", "embedded"]);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("mode = \"0660\"", "mode = \"0666\"")).unwrap();
    let (user, three) = (DAEMON.to_string(), "+sys_ptrace,+dac_read_search,+checkpoint_restore");
    let mut daemon = Running::of(
        Command::new("setpriv")
            .args([
                "--reuid",
                &user,
                "--regid",
                &user,
                "--clear-groups",
                "--inh-caps",
                three,
                "--ambient-caps",
                three,
            ])
            .arg(bin.join("clavigerd"))
            .arg("--config")
            .arg(&config)
            .stderr(Stdio::null()),
    );
    let status = command(&["status", "--wait", "30"]);
    assert_eq!(status["attestation"]["level"], 3, "{status}");
    let capabilities = |pid: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("CapPrm:")).unwrap().trim().to_owned();
        u64::from_str_radix(&line, 16).unwrap()
    };
    assert_eq!(capabilities(&daemon.pid()), 0, "who has the keys sees nobody");
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.pid())).unwrap();
    let looks = children.split_whitespace().next().unwrap();
    assert_eq!(capabilities(looks), 1 << 2 | 1 << 19 | 1 << 40);
    // An app of another user, whole: nothing of it could be seen without the three.
    command(&["key", "create", "hot"]);
    let app = victim(&stage);
    command(&["app", "enrol", "victim", "--path", &app, "--uid", &USER.to_string(), "--tier", "T1"]);
    let policy = home.join("policy.toml");
    let rule = "schema = 1\n[[rule]]\nid = \"note\"\neffect = \"permit\"\nacts = [\"message\"]\nkeys = [\"hot\"]\napps = [\"victim\"]\n";
    std::fs::write(&policy, rule).unwrap();
    command(&["policy", "apply", policy.to_str().unwrap()]);
    let account = command(&["key", "show", "hot"])["address"].as_str().unwrap().to_owned();
    let note = |words: &str| {
        let request =
            json!({"jsonrpc": "2.0", "id": 1, "method": "personal_sign", "params": [words, account]});
        request.to_string()
    };
    let socket = home.join("house/wallet.sock");
    let mut asking = stage.start(Command::new(&app).arg(&socket));
    assert_eq!(asking.line(), "connected");
    assert_eq!(asking.asks(&note("0x01")), "ok");
    let mut tracer = stage.mallory(&["trace", &asking.pid()]);
    assert_eq!(tracer.line(), "ready");
    assert_eq!(asking.asks(&note("0x02")), "app_traced");
    assert!(daemon.child.try_wait().unwrap().is_none());
}
