//! Ties each derived requirement of ITU-T X.1405 to the code that keeps it and to the test that would fail.
//!
//! In code, where the decision is taken: `// [clause 8.2.4-a] why`. Directly above a test: `// [clause 8.2.4-a] test`.
//! The requirements are in `docs/x1405/requirements.toml`; `docs/x1405/report.md` is rendered from all of it
//! (`UPDATE=1 cargo test --test trace` rewrites it).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a checker that breaks must fail loudly")]

mod house;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use house::{Source, split};
use toml::{Table, Value};

const REQUIREMENTS: &str = "docs/x1405/requirements.toml";
const REPORT: &str = "docs/x1405/report.md";

struct Requirement {
    id: String,
    text: String,
    level: String,
}

/// What `requirements.toml` says.
#[derive(Default)]
struct Plan {
    requirements: Vec<Requirement>,
    planned: Vec<(String, String)>,
    out_of_scope: Vec<(String, String)>,
}

/// Where the tags of each id stand: `file: function`.
#[derive(Default)]
struct Ties {
    code: BTreeMap<String, BTreeSet<String>>,
    tests: BTreeMap<String, BTreeSet<String>>,
}

fn text_of(table: &Table, key: &str, faults: &mut Vec<String>) -> String {
    let text = table.get(key).and_then(Value::as_str).unwrap_or_default();
    if text.is_empty() {
        faults.push(format!("{REQUIREMENTS}: an entry lacks {key}: {table}"));
    }
    text.to_owned()
}

fn read_plan(text: &str, faults: &mut Vec<String>) -> Plan {
    let mut plan = Plan::default();
    let table: Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            faults.push(format!("{REQUIREMENTS}: {error}"));
            return plan;
        }
    };
    let entries = |name: &str| {
        let list = table.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        list.into_iter().filter_map(|entry| entry.as_table().cloned()).collect::<Vec<_>>()
    };
    let mut seen = BTreeSet::new();
    for entry in entries("requirement") {
        let id = text_of(&entry, "id", faults);
        let level = text_of(&entry, "level", faults);
        if !matches!(level.as_str(), "shall" | "should") {
            faults.push(format!("{id}: level is shall or should, not {level:?}"));
        }
        if text_of(&entry, "verify", faults) != "test" {
            faults.push(format!("{id}: verify is test"));
        }
        if !seen.insert(id.clone()) {
            faults.push(format!("{id}: defined twice"));
        }
        plan.requirements.push(Requirement { id, text: text_of(&entry, "text", faults), level });
    }
    for (name, list) in [("planned", &mut plan.planned), ("out_of_scope", &mut plan.out_of_scope)] {
        for entry in entries(name) {
            list.push((text_of(&entry, "clause", faults), text_of(&entry, "reason", faults)));
        }
    }
    plan
}

/// Reads the tags of one file.
fn read_tags(path: &str, text: &str, ties: &mut Ties, faults: &mut Vec<String>) {
    let (code, comments) = split(text);
    let code: Vec<&str> = code.lines().collect();
    for (number, comment) in comments.lines().enumerate() {
        let Some(mut rest) = comment.trim().strip_prefix("// [clause ") else { continue };
        let mut ids = Vec::new();
        loop {
            let Some((id, after)) = rest.split_once(']') else {
                faults.push(format!("{path}: a clause tag is not closed: {}", comment.trim()));
                return;
            };
            ids.push(id.to_owned());
            if let Some(next) = after.trim().strip_prefix("[clause ") {
                rest = next;
            } else {
                rest = after.trim();
                break;
            }
        }
        let is_test = rest == "test";
        if rest.is_empty() {
            faults.push(format!("{path}: the tag {} says neither test nor why", ids.join(", ")));
        }
        let place = if is_test {
            let Some(name) = test_below(&code, number) else {
                faults.push(format!("{path}: the test tag {} is not directly above a test", ids.join(", ")));
                continue;
            };
            format!("{path}: {name}")
        } else {
            if !path.starts_with("src/") || in_tests(&code, number) {
                faults.push(format!(
                    "{path}: the tag {} stands in a test but does not say test",
                    ids.join(", ")
                ));
                continue;
            }
            if tags_a_type(&code, number) {
                faults.push(format!(
                    "{path}: the tag {} is on a type or module; put it where it is decided",
                    ids.join(", ")
                ));
                continue;
            }
            format!("{path}: {}", function_around(&code, number))
        };
        for id in ids {
            let list = if is_test { &mut ties.tests } else { &mut ties.code };
            list.entry(id).or_default().insert(place.clone());
        }
    }
}

fn function_name(line: &str) -> Option<&str> {
    let at = line.find("fn ").filter(|&at| at == 0 || line[..at].ends_with([' ', '('] as [char; 2]))?;
    line[at + 3..]
        .trim_start()
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .filter(|name| !name.is_empty())
}

/// The first lines of code after a line: attributes and what they are on.
fn below<'a>(code: &'a [&'a str], number: usize) -> impl Iterator<Item = &'a str> {
    code.iter().skip(number + 1).map(|line| line.trim()).filter(|line| !line.is_empty())
}

fn test_below(code: &[&str], number: usize) -> Option<String> {
    let mut is_test = false;
    for line in below(code, number) {
        if line.starts_with("#[ignore") {
            return None;
        }
        if line.starts_with("proptest!") || line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if !line.starts_with("#[") && !line.starts_with("#!") {
            return is_test.then(|| function_name(line).map(str::to_owned))?;
        }
    }
    None
}

fn tags_a_type(code: &[&str], number: usize) -> bool {
    let alone = code.get(number).is_none_or(|line| line.trim().is_empty());
    let next = below(code, number).find(|line| !line.starts_with("#[")).unwrap_or_default();
    let next = next.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
    alone && ["struct ", "enum ", "mod ", "trait ", "type "].iter().any(|item| next.starts_with(item))
}

fn in_tests(code: &[&str], number: usize) -> bool {
    code.iter().take(number).any(|line| line.starts_with("#[cfg(test)]"))
}

/// The function that a code tag is in or directly above.
fn function_around<'a>(code: &'a [&'a str], number: usize) -> &'a str {
    let next = below(code, number).find(|line| !line.starts_with("#[")).and_then(function_name);
    let inside = code.iter().take(number + 1).rev().find_map(|line| function_name(line));
    let alone = code.get(number).is_none_or(|line| line.trim().is_empty());
    next.filter(|_| alone).or(inside).unwrap_or("(top)")
}

fn check(plan: &Plan, ties: &Ties, refusals: &[&str], faults: &mut Vec<String>) {
    let known: BTreeSet<&str> = plan.requirements.iter().map(|requirement| requirement.id.as_str()).collect();
    for (id, places) in ties.code.iter().chain(&ties.tests) {
        if !known.contains(id.as_str()) {
            faults.push(format!("{id}: tagged but not a requirement, at {places:?}"));
        }
    }
    for id in refusals {
        if !known.contains(id) {
            faults.push(format!("{id}: a refusal names it but it is not a requirement"));
        }
    }
    for requirement in plan.requirements.iter().filter(|requirement| requirement.level == "shall") {
        for (what, tags) in [("code", &ties.code), ("test", &ties.tests)] {
            if !tags.contains_key(&requirement.id) {
                faults.push(format!("{}: no {what} is tied to it", requirement.id));
            }
        }
    }
    for (clause, _) in plan.planned.iter().chain(&plan.out_of_scope) {
        if known.iter().any(|id| id.rsplit_once('-').is_some_and(|(of, _)| of == clause)) {
            faults.push(format!("{clause}: both derived and left out"));
        }
    }
}

fn render(plan: &Plan, ties: &Ties) -> String {
    let mut out = String::from(
        "# ITU-T X.1405: requirements, code and tests\n\n\
         Rendered by `tests/trace.rs` from `requirements.toml` and the tags in the tree; `UPDATE=1 cargo test --test trace`\n\
         rewrites it. The sentences are our own reading of the clauses, not their text.\n",
    );
    let mut clause = "";
    for requirement in &plan.requirements {
        let of = requirement.id.rsplit_once('-').map_or(requirement.id.as_str(), |(of, _)| of);
        if of != clause {
            let _ = write!(out, "\n## {of}\n");
            clause = of;
        }
        let _ = write!(out, "\n**{}** ({}) {}\n\n", requirement.id, requirement.level, requirement.text);
        for (what, tags) in [("code", &ties.code), ("test", &ties.tests)] {
            for place in tags.get(&requirement.id).into_iter().flatten() {
                let _ = writeln!(out, "- {what}: `{place}`");
            }
        }
    }
    for (title, list) in
        [("Planned, not in this release", &plan.planned), ("Out of scope", &plan.out_of_scope)]
    {
        let _ = write!(out, "\n## {title}\n\n");
        for (clause, reason) in list {
            let _ = writeln!(out, "- {clause}: {reason}");
        }
    }
    let tied = |tags: &BTreeMap<String, BTreeSet<String>>| {
        plan.requirements.iter().filter(|requirement| tags.contains_key(&requirement.id)).count()
    };
    let _ = write!(
        out,
        "\n## Totals\n\n{} requirements; {} with code, {} with tests.\n",
        plan.requirements.len(),
        tied(&ties.code),
        tied(&ties.tests)
    );
    out
}

/// Reads and checks everything; gives the faults and the report.
fn trace(requirements: &str, sources: &[Source], refusals: &[&str]) -> (Vec<String>, String) {
    let mut faults = Vec::new();
    let plan = read_plan(requirements, &mut faults);
    let mut ties = Ties::default();
    for (path, text) in sources {
        read_tags(path, text, &mut ties, &mut faults);
    }
    check(&plan, &ties, refusals, &mut faults);
    let report = render(&plan, &ties);
    (faults, report)
}

#[test]
fn every_requirement_is_tied_to_code_and_to_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let requirements = fs::read_to_string(root.join(REQUIREMENTS)).unwrap();
    let sources: Vec<Source> =
        house::sources(&["src", "tests"]).into_iter().filter(|(path, _)| path != "tests/trace.rs").collect();
    let refusals: Vec<&str> = claviger::refusal::Code::ALL.iter().map(|code| code.clause()).collect();
    let (faults, report) = trace(&requirements, &sources, &refusals);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(root.join(REPORT), &report).unwrap();
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    let committed = fs::read_to_string(root.join(REPORT)).unwrap_or_default();
    assert!(committed == report, "{REPORT} is stale: run UPDATE=1 cargo test --test trace");
}

const PLAN: &str = "[[requirement]]\nid = \"8.2.4-a\"\nlevel = \"shall\"\nverify = \"test\"\ntext = \"Callers are known.\"\n\
                    [[planned]]\nclause = \"8.2.1\"\nreason = \"later\"\n";
const CODE: &str = "fn vouch() {\n    // [clause 8.2.4-a] unknown callers end here\n    refuse();\n}\n";
const TEST: &str = "// [clause 8.2.4-a] test\n#[test]\nfn strangers_are_refused() {}\n";

fn faults(plan: &str, code: &str, test: &str) -> Vec<String> {
    trace(
        plan,
        &[("src/caller.rs".into(), code.into()), ("tests/caller.rs".into(), test.into())],
        &["8.2.4-a"],
    )
    .0
}

fn assert_fault(found: &[String], part: &str) {
    assert!(found.iter().any(|fault| fault.contains(part)), "no {part:?} in {found:?}");
}

#[test]
fn a_tied_requirement_passes_and_is_reported() {
    assert_eq!(faults(PLAN, CODE, TEST), Vec::<String>::new());
    let report = trace(PLAN, &[("src/a.rs".into(), CODE.into()), ("tests/b.rs".into(), TEST.into())], &[]).1;
    for line in [
        "- code: `src/a.rs: vouch`",
        "- test: `tests/b.rs: strangers_are_refused`",
        "- 8.2.1: later",
        "1 with tests",
    ] {
        assert!(report.contains(line), "{line} in {report}");
    }
}

#[test]
fn a_missing_or_misspelt_tag_is_a_fault() {
    assert_fault(&faults(PLAN, "fn vouch() {}", TEST), "no code is tied");
    assert_fault(&faults(PLAN, CODE, "#[test]\nfn f() {}"), "no test is tied");
    assert_fault(&faults(PLAN, &CODE.replace("8.2.4-a", "8.2.4-z"), TEST), "8.2.4-z: tagged but not");
    assert_fault(&faults(PLAN, &CODE.replace("unknown callers end here", ""), TEST), "neither test nor why");
    assert_fault(&faults(PLAN, "// [clause 8.2.4-a", TEST), "not closed");
}

#[test]
fn tags_in_literals_do_not_count() {
    let code = "fn f() -> &'static str {\n    \"\n// [clause 8.2.4-a] why\n\"\n}";
    assert_fault(&faults(PLAN, code, TEST), "no code is tied");
    let test = "const T: &str = r#\"\n// [clause 8.2.4-a] test\n\"#;\n#[test]\nfn f() {}";
    assert_fault(&faults(PLAN, CODE, test), "no test is tied");
}

#[test]
fn test_tags_stand_directly_above_tests_that_run() {
    for test in [
        "// [clause 8.2.4-a] test\nfn helper() {}",
        "// [clause 8.2.4-a] test\nfn helper() {}\n#[test]\nfn f() {}",
        "// [clause 8.2.4-a] test\n#[test]\n#[ignore]\nfn f() {}",
    ] {
        assert_fault(&faults(PLAN, CODE, test), "not directly above a test");
    }
    for test in [
        "// [clause 8.2.4-a] test\n#[tokio::test(flavor = \"multi_thread\")]\nasync fn f() {}",
        "// [clause 8.2.4-a] test\nproptest! {\n    #[test]\n    fn f(a in any::<u8>()) {}\n}",
        "// [clause 8.2.4-a] test\n/// What it shows.\n#[test]\nfn f() {}",
    ] {
        assert_eq!(faults(PLAN, CODE, test), Vec::<String>::new());
    }
}

#[test]
fn code_tags_stand_where_something_is_decided() {
    assert_fault(&faults(PLAN, "// [clause 8.2.4-a] why\npub struct Caller;", TEST), "on a type or module");
    assert_fault(&faults(PLAN, CODE, &TEST.replace("] test", "] why")), "does not say test");
    let inside = format!("#[cfg(test)]\nmod tests {{\n{CODE}}}");
    assert_fault(&faults(PLAN, &inside, TEST), "does not say test");
}

#[test]
fn the_plan_itself_is_checked() {
    assert_fault(&faults(&format!("{PLAN}{PLAN}"), CODE, TEST), "defined twice");
    assert_fault(&faults(&PLAN.replace("shall", "may"), CODE, TEST), "shall or should");
    assert_fault(&faults(&PLAN.replace("\"test\"", "\"belief\""), CODE, TEST), "verify is test");
    assert_fault(&faults(&PLAN.replace("8.2.1\"", "8.2.4\""), CODE, TEST), "both derived and left out");
    assert_fault(&faults("[[", CODE, TEST), "requirements.toml");
    let (found, _) = trace(PLAN, &[], &["8.9.9-a"]);
    assert_fault(&found, "8.9.9-a: a refusal names it");
}
