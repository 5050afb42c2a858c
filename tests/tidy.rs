//! The rules of the house (ARCHITECTURE.md), held in every test run.
//!
//! The checker is a function over paths and texts, so that its own tests can hand it a broken house.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a checker that breaks must fail loudly")]

mod house;

use std::collections::BTreeSet;

use house::{Source, split};

/// Each room and the rooms that it may name. A room may always name itself.
const EDGES: &[(&str, &[&str])] = &[
    ("refusal", &["core"]),
    ("secret", &["sys"]),
    ("sys", &[]),
    ("core", &["refusal", "secret"]),
    ("wire", &["core", "refusal"]),
    ("caller", &["core", "refusal", "secret", "sys"]),
    ("carrier", &["core", "refusal", "secret", "sys"]),
    ("token", &["core", "refusal", "secret", "sys"]),
    ("tpm", &["core", "refusal", "secret", "sys"]),
    ("device", &["core", "refusal", "secret", "sys"]),
    ("store", &["core", "refusal", "secret", "sys"]),
    ("config", &["core", "refusal", "secret", "sys", "wire"]),
    (
        "service",
        &[
            "caller", "carrier", "config", "core", "device", "refusal", "secret", "store", "sys", "token",
            "tpm", "wire",
        ],
    ),
    ("serve", &["config", "core", "refusal", "secret", "service", "wire"]),
    ("client", &["core", "refusal", "sys", "wire"]),
    ("connect", &["core", "refusal", "sys", "wire"]),
    ("cli", &["client", "config", "core", "refusal", "secret", "service", "wire"]),
];

/// Rooms, and parts of rooms, that take values and give values.
const PURE: &[&str] = &["src/core/", "src/wire/", "src/client/protocol/"];

/// What they must not name.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::time",
    "std::thread",
    "std::env",
    "std::process",
    "std::os::unix::net",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "tokio",
    "tracing",
    "getrandom",
    "rusqlite",
    "cryptoki",
    "libc",
];

/// Where each proof may be made: in one file under this place.
const PROOFS: &[(&str, &str)] = &[
    ("Vouched", "src/caller"),
    ("Present", "src/service/user"),
    ("Authorized", "src/core/policy"),
    ("Decided", "src/store"),
    ("Reserved", "src/store"),
    ("Recorded", "src/store"),
];

const MAX_LINES: usize = 500;

fn check(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    let code: Vec<(&str, String)> =
        sources.iter().map(|(path, text)| (path.as_str(), without_tests(&split(text).0))).collect();
    for ((path, text), (_, code)) in sources.iter().zip(&code) {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            faults.push(format!("{path}: {lines} lines; a room of more than {MAX_LINES} becomes a folder"));
        }
        for word in ["TODO", "FIXME", "XXX:"] {
            if text.contains(word) {
                faults.push(format!("{path}: {word} in the tree"));
            }
        }
        if code.contains("dbg!") {
            faults.push(format!("{path}: dbg! in the tree"));
        }
        let room = room_of(path);
        if is_test(path) {
            continue;
        }
        if !matches!(room, "sys" | "lib" | "bin") && !text.contains("#![forbid(unsafe_code)]") {
            faults.push(format!("{path}: lacks #![forbid(unsafe_code)]"));
        }
        if room != "sys" && has_word(code, "unsafe") {
            faults.push(format!("{path}: unsafe code outside sys"));
        }
        check_edges(path, room, code, &mut faults);
    }
    check_proofs(&code, &mut faults);
    faults
}

fn check_edges(path: &str, room: &str, code: &str, faults: &mut Vec<String>) {
    if matches!(room, "lib" | "bin") {
        return;
    }
    let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == room) else {
        faults.push(format!("{path}: room {room} is not in the plan of the house"));
        return;
    };
    let paths = named_paths(code, depth_of(path));
    let rooms: BTreeSet<&str> = paths
        .iter()
        .filter_map(|named| named.strip_prefix("crate::"))
        .map(|rest| rest.split("::").next().unwrap_or(rest))
        .filter(|target| EDGES.iter().any(|(name, _)| name == target))
        .collect();
    for target in rooms {
        if target != room && !allowed.contains(&target) {
            faults.push(format!("{path}: {room} must not name {target}"));
        }
    }
    if let Some(pure) = PURE.iter().find(|pure| path.starts_with(**pure)) {
        let pure = pure.trim_start_matches("src/").trim_end_matches('/');
        for banned in IMPURE {
            let within = format!("{banned}::");
            if paths.iter().any(|named| named == banned || named.starts_with(&within)) {
                faults.push(format!("{path}: {pure} is pure and must not name {banned}"));
            }
        }
    }
}

fn check_proofs(code: &[(&str, String)], faults: &mut Vec<String>) {
    let built = code.iter().any(|(path, _)| path.starts_with("src/service"));
    for (proof, place) in PROOFS {
        let call = format!("{proof}::assertion(");
        let makers: Vec<&str> = code
            .iter()
            .filter(|(path, text)| !is_test(path) && text.replace(char::is_whitespace, "").contains(&call))
            .map(|c| c.0)
            .collect();
        for maker in &makers {
            if !maker.starts_with(place) {
                faults.push(format!("{maker}: {proof} is made in {place} alone"));
            }
        }
        if makers.len() > 1 || (built && makers.is_empty()) {
            faults.push(format!("{proof} is made in {} files, not one: {makers:?}", makers.len()));
        }
    }
    for (path, text) in code {
        let full = |at: usize| {
            PROOFS.iter().any(|(proof, _)| {
                text[..at].replace(char::is_whitespace, "").ends_with(&format!("{proof}::"))
            })
        };
        if *path != "src/core/proof.rs" && !words(text, "assertion").all(full) {
            faults.push(format!("{path}: assertion is called by its proof's full name"));
        }
    }
}

/// `src/core/key/mod.rs` -> `core`.
fn room_of(path: &str) -> &str {
    let rest = path.strip_prefix("src/").unwrap_or(path);
    rest.split('/').next().unwrap_or(rest).trim_end_matches(".rs")
}

/// How many modules deep a file is: `src/core/mod.rs` is 1, `src/core/key/x.rs` is 3.
fn depth_of(path: &str) -> usize {
    path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod").split('/').count()
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands as a whole word.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word))
}

fn has_word(code: &str, word: &str) -> bool {
    words(code, word).next().is_some()
}

/// Blanks every item under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut rest = code;
    let mut kept = String::new();
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        let mut depth = 0_usize;
        let end = rest.char_indices().find_map(|(i, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            (depth == 0 && matches!(c, '}' | ';')).then_some(i + 1)
        });
        let end = end.unwrap_or(rest.len());
        kept.extend(rest[..end].chars().filter(|c| *c == '\n'));
        rest = &rest[end..];
    }
    kept + rest
}

/// Every path that code names below the crate, std and the banned crates, groups spread out.
fn named_paths(code: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let roots =
        IMPURE.iter().map(|banned| banned.split("::").next().unwrap_or(banned)).chain(["crate", "super"]);
    for root in roots.collect::<BTreeSet<_>>() {
        for at in words(code, root) {
            if code[..at].trim_end().ends_with("::") && !code[..at].trim_end().ends_with("{::") {
                continue;
            }
            let end = at + code[at..].find([';', '(', ')', '=', '<']).unwrap_or(code.len() - at);
            let tree: String = code[at..end].split_whitespace().collect::<Vec<_>>().join(" ");
            spread("", &tree.replace(" ::", "::").replace(":: ", "::"), &mut found);
        }
    }
    found.into_iter().map(|path| from_root(&path, depth)).collect()
}

/// `super::super::store` two modules deep -> `crate::store`.
fn from_root(path: &str, depth: usize) -> String {
    let mut rest = path;
    let mut up = 0;
    while let Some(shorter) = rest.strip_prefix("super::") {
        (rest, up) = (shorter, up + 1);
    }
    if up >= depth { format!("crate::{rest}") } else { path.to_owned() }
}

fn spread(prefix: &str, tree: &str, found: &mut BTreeSet<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{').filter(|&open| tree[..open].ends_with("::") || open == 0) else {
        let name: String = tree.chars().take_while(|c| is_word(*c) || *c == ':').collect();
        found.insert(format!("{prefix}{}", name.trim_end_matches(':')));
        return;
    };
    let prefix = format!("{prefix}{}", &tree[..open]);
    let (mut depth, mut start) = (0_usize, open + 1);
    for (i, c) in tree.char_indices().skip(open) {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if (depth == 1 && c == ',') || depth == 0 {
            spread(&prefix, &tree[start..i], found);
            start = i + 1;
        }
        if depth == 0 {
            break;
        }
    }
}

#[test]
fn the_house_is_tidy() {
    let faults = check(&house::sources(&["src"]));
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

const HEAD: &str = "#![forbid(unsafe_code)]\n";

/// The one fault that a file of the given code has.
fn fault(path: &str, code: &str) -> String {
    let mut faults = check(&[(path.into(), format!("{HEAD}{code}"))]);
    faults.retain(|fault| !fault.contains("made in 0 files"));
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].clone()
}

fn clean(path: &str, code: &str) {
    assert_eq!(check(&[(path.into(), format!("{HEAD}{code}"))]), Vec::<String>::new());
}

#[test]
fn edges_that_point_back_are_found_in_every_spelling() {
    for code in [
        "use crate::store::Ledger;",
        "use crate::{refusal::Code, store};",
        "use crate::{\n    refusal::Code,\n    store::{self, Ledger},\n};",
        "fn f() { crate::store::open() }",
        "use super::super::store;",
        "use crate::{core::{key, log}, store};",
    ] {
        assert!(fault("src/core/key.rs", code).ends_with("core must not name store"), "{code}");
    }
    assert!(fault("src/token/mod.rs", "use crate::store::X;").contains("token must not name store"));
    assert!(fault("src/service/sign.rs", "use crate::serve::X;").contains("service must not name serve"));
    assert!(fault("src/cli/mod.rs", "use crate::token::X;").contains("cli must not name token"));
    assert!(fault("src/attic/mod.rs", "").contains("not in the plan"));
}

#[test]
fn pure_rooms_name_nothing_impure() {
    assert!(fault("src/core/a.rs", "use std::{fmt, fs};").contains("std::fs"));
    assert!(fault("src/core/a.rs", "fn f() { std::time::Instant::now(); }").contains("std::time"));
    assert!(fault("src/wire/a.rs", "use std::{env as e, fmt};").contains("std::env"));
    assert!(fault("src/wire/a.rs", "use tokio::io::AsyncRead;").contains("tokio"));
    assert!(fault("src/core/a.rs", "fn f() { tracing::info!(); }").contains("tracing"));
    assert!(fault("src/core/a.rs", "fn f() { getrandom::fill(b) }").contains("getrandom"));
    assert!(fault("src/client/protocol/a.rs", "use std::time::Instant;").contains("client/protocol is pure"));
    clean("src/store/a.rs", "use std::fs;");
}

#[test]
fn comments_literals_and_test_modules_do_not_count() {
    clean(
        "src/core/a.rs",
        "// use crate::store;\n/// [`crate::store`]\nconst A: &str = \"crate::store \\\" std::fs\";",
    );
    clean("src/core/a.rs", "const A: &str = r#\"use crate::store; \"quoted\" \"#; const C: char = '\"';");
    clean("src/core/a.rs", "#[cfg(test)]\nmod tests { use crate::store; fn f() { std::fs::read(\"x\"); } }");
    clean("src/core/a/tests.rs", "use std::fs;");
    clean("src/core/a.rs", "use super::b; use std::fmt; fn f(fs: u8) -> u8 { fs }");
    assert!(fault("src/core/a.rs", "#[cfg(test)]\nmod tests { }\nuse crate::store;").contains("store"));
}

#[test]
fn proofs_are_made_in_one_place() {
    clean("src/store/a.rs", "fn f() { Reserved::assertion(d, r) }");
    assert!(fault("src/caller/a.rs", "fn f() { Reserved::assertion(d, r) }").contains("src/store alone"));
    assert!(
        fault("src/core/log.rs", "fn f() { Authorized ::\n assertion (d, r) }")
            .contains("src/core/policy alone")
    );
    assert!(fault("src/caller/a.rs", "fn f() { V::assertion(d) }").contains("full name"));
    let twice = ["src/store/a.rs", "src/store/b.rs"]
        .map(|path| (path.to_owned(), format!("{HEAD}fn f() {{ Recorded::assertion(r, 1) }}")));
    assert!(check(&twice)[0].contains("2 files"));
    let none = check(&[("src/service/mod.rs".into(), HEAD.into())]);
    assert_eq!(none.len(), PROOFS.len(), "{none:?}");
}

#[test]
fn heads_lengths_and_left_overs() {
    let bare = |path: &str, text: &str| check(&[(path.into(), text.into())]);
    assert!(bare("src/core/a.rs", "")[0].contains("lacks"));
    assert!(bare("src/sys.rs", "unsafe fn f() {}").is_empty());
    assert!(bare("src/lib.rs", "pub mod core;").is_empty());
    assert!(fault("src/core/a.rs", "fn f() { unsafe { g() } }").contains("unsafe"));
    assert!(fault("src/core/a.rs", "// TODO later").contains("TODO"));
    assert!(fault("src/core/a.rs", "fn f() { dbg!(1); }").contains("dbg!"));
    assert!(fault("src/core/a.rs", &"\n".repeat(MAX_LINES)).contains("501 lines"));
}
