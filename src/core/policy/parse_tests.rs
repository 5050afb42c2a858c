//! Texts that are refused, or doubted: in which line, why, and with what advice.

use super::super::finding::Weight;
use super::*;

const HEAD: &str = r#"schema = 1
[assets.ETH]
chain = "eip155:1"
native = true
decimals = 18
[assets.USDC]
chain = "eip155:1"
erc20 = "0x1111111111111111111111111111111111111111"
decimals = 6
[books.friends]
bob = "0x2222222222222222222222222222222222222222"
[books.others]
bob = "0x2222222222222222222222222222222222222222"
[[rule]]
id = "pay"
effect = "permit"
keys = ["hot"]
apps = ["app"]
chains = ["eip155:1"]
assets = ["USDC"]
to.allow = ["@friends"]
per_tx.max = "500"
fee.max = "1000"
window = [
  { len = "24h", max = "1200", scope = "key" },
]
time = { tz = "UTC", days = "Mon-Fri", hours = "08:00-20:00" }
"#;

fn refused(text: &str) -> Vec<Finding> {
    match Policy::parse(text) {
        Err(PolicyError(found)) => found,
        Ok(_) => panic!("it was taken:\n{text}"),
    }
}

/// One word of the text for another; the line that is named, a word of why, and a word of the advice.
const BAD: &[(&str, &str, usize, &str, &str)] = &[
    // The text as a whole.
    ("schema = 1", "schema = 2", 1, "schema 2", "schema = 1"),
    ("schema = 1\n", "", 1, "missing field `schema`", "add it"),
    ("schema = 1", "schema = 1\nsurprise = 1", 2, "unknown field `surprise`", "mistyped"),
    ("[books.others]", "[books.friends]", 12, "duplicate key", "stands once"),
    ("id = \"pay\"", "id = \"pay", 15, "", "mend it"),
    // Assets and books.
    ("decimals = 18", "decimals = 37", 5, "above 36", "6 or 18"),
    ("decimals = 18", "decimals = -1", 5, "invalid value", "mend it"),
    (
        "native = true",
        "native = true\nerc20 = \"0x1111111111111111111111111111111111111111\"",
        2,
        "at once",
        "one of them",
    ),
    ("native = true\n", "", 2, "neither", "one of them"),
    ("native = true", "erc20 = \"0x1111111111111111111111111111111111111111\"", 6, "is the same", "keep one"),
    ("chain = \"eip155:1\"\nnative", "chain = \"eip155:0\"\nnative", 3, "no chain", "eip155:N"),
    ("bob = \"0x2222222222222222222222222222222222222222\"", "bob = \"0x22\"", 11, "no address", "40 hex"),
    (
        "bob = \"0x2222222222222222222222222222222222222222\"",
        "bob = \"0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed\"",
        11,
        "no address",
        "checksum",
    ),
    (
        "bob = \"0x2222222222222222222222222222222222222222\"",
        "file = \"friends.book\"",
        11,
        "signed",
        "signed_by",
    ),
    (
        "bob = \"0x2222222222222222222222222222222222222222\"",
        "file = \"friends.book\"\nsigned_by = { quorum = 1, of = \"ops\" }",
        12,
        "authority",
        "--authority",
    ),
    (
        "bob = \"0x2222222222222222222222222222222222222222\"",
        "file = \"friends.book\"\nsigned_by = { quorum = 0, of = \"ops\" }",
        12,
        "must be 1",
        "how many",
    ),
    (
        "bob = \"0x2222222222222222222222222222222222222222\"",
        "file = \"../../etc/passwd\"\nsigned_by = { quorum = 1, of = \"ops\" }",
        12,
        "not taken",
        "below the policy's directory",
    ),
    (
        "bob = \"0x2222222222222222222222222222222222222222\"",
        "file = \"/etc/passwd\"\nsigned_by = { quorum = 1, of = \"ops\" }",
        12,
        "not taken",
        "below the policy's directory",
    ),
    (
        "bob = \"0x2222222222222222222222222222222222222222\"",
        "file = \"f.book\"\nsigned_by = { quorum = 1, of = \"ops\", who = 1 }",
        12,
        "unknown field",
        "signed_by",
    ),
    // Rules.
    ("id = \"pay\"", "id = \"p a y\"", 15, "a name is", "mend it"),
    ("id = \"pay\"\n", "", 14, "missing field `id`", "add it"),
    ("effect = \"permit\"", "effect = \"allow\"", 16, "unknown variant `allow`", "mistyped"),
    ("effect = \"permit\"", "effect = \"permit\"\nacts = [\"create\"]", 17, "unknown variant", "mistyped"),
    ("effect = \"permit\"", "effect = \"permit\"\nacts = []", 17, "empty", "each act once"),
    (
        "effect = \"permit\"",
        "effect = \"permit\"\nacts = [\"transfer\", \"transfer\"]",
        17,
        "twice",
        "each act once",
    ),
    ("effect = \"permit\"", "effect = \"permit\"\nacts = [\"call\"]", 14, "contract and selector", "calls ="),
    ("keys = [\"hot\"]\n", "", 14, "must name its keys", "keys = "),
    ("keys = [\"hot\"]", "keys = []", 14, "would cover nothing", "name keys"),
    ("keys = [\"hot\"]", "keys = [\"hot@2\"]", 17, "one generation", "name the line"),
    ("keys = [\"hot\"]", "keys = [\"hot\", \"*\"]", 17, "beside names", "alone"),
    ("keys = [\"hot\"]", "keys = [\"hot\", \"hot\"]", 17, "twice", "once"),
    ("keys = [\"hot\"]", "keyz = [\"hot\"]", 17, "unknown field `keyz`", "mistyped"),
    ("apps = [\"app\"]", "apps = [\"a/b\"]", 18, "no name", "A-Z"),
    ("chains = [\"eip155:1\"]", "chains = [\"eip155:01\"]", 19, "no chain", "eip155:N"),
    ("chains = [\"eip155:1\"]", "chains = [\"eip155:5\"]", 14, "lives on eip155:1", "its chain"),
    ("assets = [\"USDC\"]", "assets = [\"DAI\"]", 20, "no asset \"DAI\"", "[assets.…]"),
    ("assets = [\"USDC\"]", "assets = [\"USDC\", \"ETH\"]", 14, "one asset", "exactly one"),
    ("assets = [\"USDC\"]", "assets = [\"*\"]", 14, "one asset", "exactly one"),
    ("\"@friends\"", "\"@nobody\"", 21, "no address book", "others"),
    ("\"@friends\"", "\"friends\"", 21, "no @book and no address", "@BOOK"),
    ("[\"@friends\"]", "[]", 21, "empty", "@book"),
    (
        "to.allow = [\"@friends\"]",
        "to.allow = [\"@friends\"]\nto.deny = [\"@others\"]",
        21,
        "takes back all",
        "drop the rule",
    ),
    ("to.allow = [\"@friends\"]\n", "", 14, "destinations", "to.allow"),
    ("\"500\"", "500", 22, "expected a string", "in quotes"),
    ("\"500\"", "\"-5\"", 22, "no amount", "without sign"),
    ("\"500\"", "\"5e6\"", 22, "no amount", "decimal string"),
    (
        "\"500\"",
        "\"115792089237316195423570985008687907853269984665640564039457584007913129639936\"",
        22,
        "no amount",
        "2^256",
    ),
    ("\"500\"", "\"0\"", 14, "lets no money through", "drop the rule"),
    ("fee.max = \"1000\"\n", "", 14, "bound the fee", "fee.max"),
    ("\"24h\"", "\"0h\"", 25, "no time", "1m"),
    ("\"24h\"", "\"99d\"", 25, "no time", "31d"),
    ("\"24h\"", "\"-1h\"", 25, "no time", "1m"),
    ("\"24h\"", "\"9223372036854775807d\"", 25, "no time", "31d"),
    ("max = \"1200\", ", "", 25, "limits nothing", "max, count"),
    ("max = \"1200\"", "max = \"0\"", 25, "lets nothing through", "raise it"),
    ("max = \"1200\"", "count = 0", 25, "lets nothing through", "raise it"),
    ("max = \"1200\"", "count = -1", 25, "invalid value", "whole number"),
    ("scope = \"key\"", "scope = \"key+key\"", 25, "not known", "destination"),
    ("scope = \"key\"", "scope = \"payee\"", 25, "not known", "key+destination"),
    ("\n]\ntime", "\n  { len = \"1d\", count = 3, scope = \"key\" },\n]\ntime", 26, "two windows", "merge"),
    ("\"UTC\"", "\"Europe/Rome\"", 27, "not known", "convert"),
    ("\"Mon-Fri\"", "\"Monday\"", 27, "no day", "Mon Tue"),
    ("\"Mon-Fri\"", "\"\"", 27, "no day", "Mon Tue"),
    ("\"08:00-20:00\"", "\"08:00-08:00\"", 27, "same time", "24:00"),
    ("\"08:00-20:00\"", "\"8-20\"", 27, "are none", "HH:MM"),
    ("\"08:00-20:00\"", "\"08:00-25:00\"", 27, "are none", "HH:MM"),
];

/// The same for what is written behind the rule.
const BAD_TAIL: &[(&str, usize, &str, &str)] = &[
    ("approve = [{ quorum = 0, of = \"ops\" }]", 28, "asks nobody", "1 to 100"),
    ("approve = [{ quorum = 1 }]", 28, "missing field `of`", "add it"),
    (
        "approve = [{ above = \"1\", quorum = 1, of = \"a\" }, { above = \"1\", quorum = 2, of = \"a\" }]",
        28,
        "two lines",
        "keep one",
    ),
    (
        "approve = [{ above = \"1\", quorum = 3, of = \"a\" }, { above = \"2\", quorum = 2, of = \"a\" }]",
        28,
        "fewer people",
        "rise",
    ),
    ("tier = \"T9\"", 28, "unknown variant `T9`", "mistyped"),
    ("new_destination = { delay = \"32d\" }", 28, "no time", "31d"),
    ("new_destination = { delay = \"0h\" }", 28, "no time", "1m"),
    ("new_destination = { delay = \"1h\", max = \"0\" }", 28, "no money", "without max"),
    ("new_destination = { delay = \"1h\", max = \"x\" }", 28, "no amount", "decimal"),
    ("new_destination = { max = \"1\" }", 28, "missing field `delay`", "add it"),
    (
        "calls = [{ contract = \"0x2222222222222222222222222222222222222222\", selector = \"0x01010101\" }]",
        14,
        "no calls are covered",
        "\"call\"",
    ),
    ("[[rule]]\nid = \"pay\"\neffect = \"forbid\"", 29, "line 15", "of its own"),
    ("[[rule]]\nid = \"f\"\neffect = \"forbid\"\ntier = \"T1\"", 31, "belongs to permits", "permits"),
    (
        "[[rule]]\nid = \"f\"\neffect = \"forbid\"\nreplacement = true",
        31,
        "belongs to permits",
        "leave it out",
    ),
    (
        "[[rule]]\nid = \"f\"\neffect = \"forbid\"\nnew_destination = { delay = \"1h\" }",
        31,
        "belongs to permits",
        "leave it out",
    ),
    ("[[rule]]\nid = \"f\"\neffect = \"forbid\"\nto.allow = []", 31, "empty", "@book"),
    ("[tripwire]\nrefusals = 1\nwithin = \"1h\"", 28, "first one", "2 or more"),
    ("[tripwire]\nrefusals = 5", 28, "in what time", "within"),
    ("[tripwire]\nwithin = \"1h\"", 29, "says nothing", "refusals"),
    ("[tripwire]\namount_factor = 1", 28, "ordinary", "10"),
    ("[tripwire]", 28, "nothing trips", "refusals"),
    ("[sweep]\nto = [\"@nobody\"]", 29, "no address book", "friends"),
    ("[sweep]\nto = []", 28, "empty", "@book"),
];

// [clause 8.7.1-n] test
#[test]
fn a_bad_text_is_refused_in_its_line_and_with_advice() {
    let tail =
        BAD_TAIL.iter().map(|(more, line, why, advice)| (format!("{HEAD}{more}\n"), *line, *why, *advice));
    let edits = BAD.iter().map(|(from, to, line, why, advice)| {
        assert!(HEAD.contains(from), "{from:?} is not there");
        (HEAD.replacen(from, to, 1), *line, *why, *advice)
    });
    Policy::parse(HEAD).unwrap();
    for (text, line, why, advice) in edits.chain(tail) {
        let found = refused(&text);
        let first = &found[0];
        assert!(
            first.line == line && first.why.contains(why) && first.advice.contains(advice),
            "expected line {line}, {why:?} and {advice:?}; found {first:?} in\n{text}"
        );
        assert_eq!(first.weight, Weight::Error);
    }
}

// [clause 8.7.1-n] test
#[test]
fn all_bad_rules_are_told_at_once() {
    let two = HEAD.replace("\"24h\"", "\"0h\"")
        + "[[rule]]\nid = \"f\"\neffect = \"forbid\"\nto.allow = [\"@nobody\"]\n";
    let lines: Vec<usize> = refused(&two).iter().map(|f| f.line).collect();
    assert_eq!(lines, [25, 31]);
    let shown = PolicyError(refused(&two)).to_string();
    assert!(shown.contains("line 25: rule pay: ") && shown.contains("\nline 31: rule f: "), "{shown}");
}

fn doubts(more: &str) -> Vec<(Weight, usize, String)> {
    let policy = Policy::parse(&format!("{HEAD}{more}\n")).unwrap();
    policy.lint().into_iter().map(|f| (f.weight, f.line, f.why)).collect()
}

// [clause 8.7.1-n] test
#[test]
fn what_a_policy_hardly_means_is_doubted() {
    assert_eq!(doubts(""), []);
    let copy = HEAD.split_once("[[rule]]").unwrap().1.replace("\"pay\"", "\"again\"");
    let smaller = copy.replace("\"500\"", "\"50\"");
    for (more, weight, line, why) in [
        (format!("[[rule]]{copy}"), Weight::Doubt, 15, "same as rule again in line 29"),
        (format!("[[rule]]{smaller}"), Weight::Note, 29, "permits all of it already"),
        ("[[rule]]\nid = \"ban\"\neffect = \"forbid\"\nkeys = [\"hot\"]".into(), Weight::Doubt, 15, "the forbid ban in line 29"),
        ("[[rule]]\nid = \"ban\"\neffect = \"forbid\"\nto.allow = [\"@others\"]".into(), Weight::Doubt, 15, "never permits anything"),
        ("[[rule]]\nid = \"freeze\"\neffect = \"forbid\"".into(), Weight::Note, 15, "the forbid freeze"),
        ("approve = [{ above = \"500\", quorum = 1, of = \"ops\" }]".into(), Weight::Doubt, 14, "nobody is ever asked"),
        ("new_destination = { delay = \"1h\", max = \"500\" }".into(), Weight::Doubt, 28, "limits nothing"),
        ("[[rule]]\nid = \"in\"\neffect = \"permit\"\nacts = [\"login\"]\nkeys = [\"site\"]\napps = [\"app\"]\nfee.max = \"5\"".into(), Weight::Doubt, 28, "never looked at"),
    ] {
        let found = doubts(&more);
        assert!(
            found.iter().any(|(w, l, y)| *w == weight && *l == line && y.contains(why)),
            "{more}: expected {weight} in {line}: {why}; found {found:?}"
        );
    }
    let never = HEAD.replace("max = \"1200\"", "max = \"400\"");
    let found = Policy::parse(&never).unwrap().lint();
    assert!(matches!(found.as_slice(), [f] if f.line == 25 && f.why.contains("never reached")), "{found:?}");
    let burnt = HEAD.replace("\"@friends\"", "\"0x0000000000000000000000000000000000000000\"");
    let found = Policy::parse(&burnt).unwrap().lint();
    assert!(matches!(found.as_slice(), [f] if f.why.contains("zero address")), "{found:?}");
    assert!(Policy::parse("schema = 1").unwrap().lint()[0].why.contains("everything is refused"));
}

#[test]
fn the_shipped_examples_are_policies_without_doubts() {
    for text in
        [include_str!("../../../config/policy.toml"), include_str!("../../../config/examples/policy.toml")]
    {
        let doubts: Vec<Finding> =
            Policy::parse(text).unwrap().lint().into_iter().filter(|f| f.weight != Weight::Note).collect();
        assert_eq!(doubts, []);
    }
}
