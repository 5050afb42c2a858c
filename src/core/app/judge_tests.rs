use super::super::Apps;
use super::super::facts::{Changed, Code as Executed, Filters, Status};
use super::*;

fn registered(more: &str) -> App {
    let text = format!(
        "[[app]]\nid = \"pay\"\npath = \"/usr/bin/pay\"\nsha256 = \"{}\"\nuid = 1000\n{more}",
        "ab".repeat(32)
    );
    Apps::parse(&text).unwrap().all()[0].clone()
}

fn file(path: &str, ino: u64, digest: u8) -> FileFacts {
    FileFacts { path: path.into(), dev: 1, ino, links: 1, sealed: true, digest: Ok([digest; 32]) }
}

fn pinned() -> PinFacts {
    let exe = file("/usr/bin/pay", 7, 0xab);
    PinFacts { pid: 9, uid: 1000, gid: 1000, exe: Ok(exe), named: Ok((1, 7)), race_free: true }
}

fn facts() -> Facts {
    let (exe, library) = (file("/usr/bin/pay", 7, 0xab), file("/lib/libc.so.6", 8, 0xcd));
    Facts {
        same: true,
        exe: Ok(exe.clone()),
        named: Ok((1, 7)),
        code: Ok(Executed { files: vec![exe, library], ..Executed::default() }),
        status: Ok(Status {
            uids: [1000; 4],
            egid: 1000,
            tracer: 0,
            threads: 1,
            filters: Filters::default(),
        }),
        tracer: Ok(0),
        usual_filters: Ok(Filters::default()),
        elsewhere: Ok(vec![]),
        dumpable: Ok(true),
        group: Ok("/system.slice/pay.service".into()),
    }
}

fn asked(app: &App, pin: &PinFacts, facts: &Facts, proven: bool) -> Result<Tier, Code> {
    judge(app, Asking { pin, proven, now: Timestamp(1_000) }, facts).map_err(|refusal| refusal.code)
}

fn outcome(more: &str, change: impl FnOnce(&mut Facts)) -> Result<Tier, Code> {
    let mut facts = facts();
    change(&mut facts);
    asked(&registered(more), &pinned(), &facts, true)
}

fn code_of(facts: &mut Facts) -> &mut Executed {
    facts.code.as_mut().unwrap()
}

// [clause 8.2.4-c] test
#[test]
fn each_check_refuses_by_itself() {
    assert_eq!(outcome("", |_| {}), Ok(Tier::T1));
    let bad = |change: fn(&mut Facts)| outcome("", change).unwrap_err();
    assert_eq!(bad(|f| f.same = false), Code::AppChanged);
    assert_eq!(bad(|f| f.elsewhere = Ok(vec!["user".into()])), Code::AppNamespace);
    assert_eq!(bad(|f| f.status.as_mut().unwrap().uids[0] = 0), Code::AppChanged);
    assert_eq!(bad(|f| f.named = Ok((1, 99))), Code::AppReplaced);
    assert_eq!(bad(|f| f.named = Err("gone".into())), Code::AppReplaced);
    assert_eq!(bad(|f| f.exe.as_mut().unwrap().links = 0), Code::AppReplaced);
    assert_eq!(bad(|f| f.exe.as_mut().unwrap().digest = Ok([0; 32])), Code::AppReplaced);
    assert_eq!(bad(|f| f.exe = Err("no".into())), Code::AppUnseen);
    assert_eq!(bad(|f| f.tracer = Ok(5)), Code::AppTraced);
    assert_eq!(bad(|f| f.status.as_mut().unwrap().filters.mode = 2), Code::AppSeccomp);
    assert_eq!(bad(|f| f.status.as_mut().unwrap().filters.no_new_privs = true), Code::AppSeccomp);
    assert_eq!(bad(|f| code_of(f).files[1].sealed = false), Code::AppForeignCode);
    assert_eq!(bad(|f| code_of(f).files[1].links = 0), Code::AppForeignCode);
    assert_eq!(bad(|f| drop(code_of(f).files.remove(0))), Code::AppForeignCode);
    assert_eq!(bad(|f| code_of(f).changed = Changed(Ok(vec!["1-2".into()]))), Code::AppPatched);
    assert_eq!(bad(|f| code_of(f).writable.push("1-2".into())), Code::AppWritableCode);
    assert_eq!(bad(|f| code_of(f).anonymous.push("1-2".into())), Code::AppWritableCode);
    assert_eq!(outcome("revoked = true\n", |_| {}), Err(Code::AppRevoked));
    assert_eq!(outcome("not_after = \"1970-01-01\"\n", |_| {}), Err(Code::AppExpired));
    assert_eq!(outcome("not_after = \"1970-01-02\"\n", |_| {}), Ok(Tier::T1));
    assert_eq!(outcome("gid = 990\n", |_| {}), Err(Code::AppGroup));
    assert_eq!(outcome("unit = \"other.service\"\n", |_| {}), Err(Code::AppGroup));
    assert_eq!(outcome("seccomp = \"filter\"\n", |_| {}), Err(Code::AppSeccomp));
    let exact = format!("[app.libs]\n\"/lib/libc.so.6\" = \"{}\"\n", "cd".repeat(32));
    assert_eq!(outcome(&exact, |f| code_of(f).files[1].sealed = false), Ok(Tier::T1));
    assert_eq!(outcome(&exact, |f| code_of(f).files[1].digest = Ok([1; 32])), Err(Code::AppForeignCode));
}

// [clause 8.2.4-c] test
#[test]
fn what_was_not_seen_earns_no_tier() {
    let unseen: [fn(&mut Facts); 7] = [
        |f| f.code = Err("no".into()),
        |f| f.status = Err("no".into()),
        |f| f.tracer = Err("no".into()),
        |f| f.elsewhere = Err("no".into()),
        |f| f.usual_filters = Err("no".into()),
        |f| code_of(f).changed = Changed(Err("no".into())),
        |f| code_of(f).files[1].digest = Err("no".into()),
    ];
    for change in unseen {
        assert_eq!(outcome("", change), Err(Code::AppTier));
        assert_eq!(outcome("tier = \"T0\"\n", change), Ok(Tier::T0));
        let both = outcome("tier = \"T0\"\n", |f| {
            change(f);
            f.exe.as_mut().unwrap().digest = Ok([0; 32]);
        });
        assert_eq!(both, Err(Code::AppReplaced), "what is seen to be wrong is refused at every tier");
    }
}

// [clause 8.2.4-e] test
#[test]
fn tiers_are_earned() {
    let mut guarded = facts();
    guarded.dumpable = Ok(false);
    guarded.status.as_mut().unwrap().egid = 990;
    let (plain, setgid) = (registered(""), registered("gid = 990\n"));
    let (pin, own) = (pinned(), PinFacts { gid: 990, ..pinned() });
    assert_eq!(
        asked(&plain, &pin, &guarded, true),
        Ok(Tier::T2),
        "a program that others cannot read, by hello"
    );
    assert_eq!(asked(&plain, &pin, &guarded, false), Ok(Tier::T1), "it may have inherited the connection");
    assert_eq!(asked(&setgid, &own, &guarded, false), Ok(Tier::T2), "its group was there when it connected");
    assert_eq!(asked(&setgid, &pin, &guarded, true), Err(Code::AppGroup));
    let mut open = guarded.clone();
    open.exe.as_mut().unwrap().sealed = false;
    assert_eq!(asked(&plain, &pin, &open, true), Ok(Tier::T1));
    assert_eq!(asked(&registered("tier = \"T2\"\n"), &pin, &open, true), Err(Code::AppTier));
    assert_eq!(asked(&registered("allow_jit = true\n"), &pin, &guarded, true), Ok(Tier::T1));
    let unit = registered("unit = \"pay.service\"\n");
    assert_eq!(asked(&unit, &pin, &facts(), false), Ok(Tier::T3));
    let mut mounts = facts();
    mounts.elsewhere = Ok(vec!["mnt".into()]);
    assert_eq!(asked(&unit, &pin, &mounts, false), Ok(Tier::T3), "a unit has mounts of its own");
    assert_eq!(asked(&plain, &pin, &mounts, false), Err(Code::AppNamespace));
    // Before Linux 6.5 a number may have been recycled before anybody looked.
    let racy = PinFacts { race_free: false, ..pinned() };
    assert_eq!(asked(&plain, &racy, &guarded, false), Err(Code::AppTier));
    assert_eq!(asked(&plain, &racy, &guarded, true), Ok(Tier::T2));
}
