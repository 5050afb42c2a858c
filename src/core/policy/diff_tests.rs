//! What a diff says against what two policies decide: requests and pasts at random.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::core::approval::Needs;
use crate::core::policy::decide::{Decision, decide};
use crate::core::policy::testing::{HEAD, NOW, Past, Request, body, head, past, request, rules, text};
use crate::core::units::Timestamp;

type Rules = Vec<(String, String)>;

/// A change that somebody may make.
#[derive(Clone, Debug)]
enum Edit {
    Add(String),
    Remove(Index),
    Rename(Index),
    Copy(Index),
    Replace(Index, String),
    /// One word of a body for another.
    Word(Index, &'static str, &'static str),
}

fn edit() -> impl Strategy<Value = Edit> {
    let word = select(vec![
        ("\"@friends\"", "\"@others\""),
        ("\"@friends\"", "\"0x2222222222222222222222222222222222222222\""),
        ("\"@others\"", "\"*\""),
        ("\"*\"", "\"@others\""),
        ("\"1h\"", "\"24h\""),
        ("\"24h\"", "\"2h\""),
        ("scope = \"all\"", "scope = \"key\""),
        ("scope = \"key\"", "scope = \"key+destination\""),
        ("scope = \"app\"", "scope = \"all\""),
        ("max = \"5\"", "max = \"6\""),
        ("max = \"6\"", "max = \"5\""),
        ("count = 2", "count = 1"),
        ("count = 1", "count = 3"),
        ("\"1000\"", "\"900\""),
        ("\"08:00-20:00\"", "\"10:00-14:00\""),
        ("\"10:00-14:00\"", "\"08:00-20:00\""),
        ("tier = \"T1\"", "tier = \"T0\""),
        ("tier = \"T0\"", "tier = \"T1\""),
        ("quorum = 1", "quorum = 2"),
        ("of = \"ops\"", "of = \"risk\""),
        ("replacement = true", "replacement = false"),
        ("\"hot\", \"cold\"", "\"hot\""),
        ("\"hot\"", "\"hot\", \"cold\""),
        ("\"transfer\"]", "\"transfer\", \"call\"]"),
        ("permit", "forbid"),
        ("0x01010101", "0x02020202"),
    ]);
    prop_oneof![
        2 => body().prop_map(Edit::Add),
        2 => any::<Index>().prop_map(Edit::Remove),
        1 => any::<Index>().prop_map(Edit::Rename),
        1 => any::<Index>().prop_map(Edit::Copy),
        1 => (any::<Index>(), body()).prop_map(|(i, b)| Edit::Replace(i, b)),
        8 => (any::<Index>(), word).prop_map(|(i, (from, to))| Edit::Word(i, from, to)),
    ]
}

fn edited(rules: &Rules, edits: &[Edit]) -> Rules {
    let mut rules = rules.clone();
    for (n, edit) in edits.iter().enumerate() {
        let at = |i: &Index| i.index(rules.len().max(1));
        match edit {
            Edit::Add(body) => rules.push((format!("x{n}"), body.clone())),
            _ if rules.is_empty() => {}
            Edit::Remove(i) => drop(rules.remove(at(i))),
            Edit::Rename(i) => {
                let at = at(i);
                rules[at].0 = format!("a{n}");
            }
            Edit::Copy(i) => rules.push((format!("c{n}"), rules[at(i)].1.clone())),
            Edit::Replace(i, body) => {
                let at = at(i);
                rules[at].1.clone_from(body);
            }
            Edit::Word(i, from, to) => {
                let at = at(i);
                rules[at].1 = rules[at].1.replacen(from, to, 1);
            }
        }
    }
    rules
}

/// Denied, or permitted when so many people approve: nobody, where nobody is asked.
type Outcome = Result<Option<Needs>, ()>;

fn outcome(policy: &Policy, request: &Request, past: &Past) -> Outcome {
    match decide(policy, &request.facts(), &past.windows(policy), Timestamp(NOW)) {
        Decision::Permit(permit) => Ok(permit.needs),
        Decision::Deny(_) => Err(()),
    }
}

/// Whether what the second permits, the first permits, asking for no more people.
fn gives_no_more(first: &Outcome, second: &Outcome) -> bool {
    match (first, second) {
        (_, Err(())) | (Ok(None), _) => true,
        (Err(()), Ok(_)) | (Ok(Some(_)), Ok(None)) => false,
        (Ok(Some(a)), Ok(Some(b))) => a.of == b.of && a.quorum <= b.quorum,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    // [clause 8.7.1-n] test
    #[test]
    fn a_diff_never_says_the_milder_word(
        bodies in proptest::collection::vec(body(), 1..5), (one, two) in (head(), head()), same in any::<bool>(),
        edits in proptest::collection::vec(edit(), 1..4), past in past(),
        asked in proptest::collection::vec(request(), 60))
    {
        let two = if same { one.clone() } else { two };
        let old_rules = rules(&bodies, &one);
        let new_rules = edited(&old_rules, &edits);
        let old = Policy::parse(&text(&old_rules, &one)).unwrap();
        // An edit may make a text that is no policy.
        let Ok(new) = Policy::parse(&text(&new_rules, &two)) else { return Ok(()) };
        let (change, back) = (diff(&old, &new), diff(&new, &old));
        let inverse = match change.class() {
            Class::Tightens => Class::Loosens,
            Class::Loosens => Class::Tightens,
            other => other,
        };
        prop_assert_eq!(back.class(), inverse, "{} and back {}", change, back);
        for request in &asked {
            let (a, b) = (outcome(&old, request, &past), outcome(&new, request, &past));
            if matches!(change.class(), Class::Tightens | Class::Neutral) {
                prop_assert!(gives_no_more(&a, &b), "{change}: {a:?} became {b:?} for {request:?}\n{}\nto\n{}", text(&old_rules, &one), text(&new_rules, &two));
            }
            if matches!(change.class(), Class::Loosens | Class::Neutral) {
                prop_assert!(gives_no_more(&b, &a), "{change}: {a:?} became {b:?} for {request:?}\n{}\nto\n{}", text(&old_rules, &one), text(&new_rules, &two));
            }
        }
    }
}

const ETH_AND_USDC: &str = "[assets.ETH]\nchain = \"eip155:1\"\nnative = true\ndecimals = 18\n[assets.USDC]\nchain = \"eip155:1\"\nerc20 = \"0x1111111111111111111111111111111111111111\"\ndecimals = 6\n";
const PAY: &str = r#"
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
window = [{ len = "24h", max = "1200", scope = "key" }]
time = { tz = "UTC", days = "Mon-Fri", hours = "08:00-20:00" }
"#;

fn policy(rules: &str) -> Policy {
    Policy::parse(&format!("{HEAD}{ETH_AND_USDC}{rules}")).unwrap_or_else(|e| panic!("{e}\n{rules}"))
}

// [clause 8.7.1-n] test
#[test]
fn what_changes_nothing_is_said_to_change_nothing() {
    use Class::{Incomparable, Loosens, Neutral, Tightens};
    let small = PAY.replace("\"pay\"", "\"small\"").replace("\"500\"", "\"100\"");
    let other = PAY.replace("\"pay\"", "\"other\"").replace("\"hot\"", "\"cold\"");
    let ban = |what: &str| format!("[[rule]]\nid = \"ban\"\neffect = \"forbid\"\n{what}\n");
    let cap = |max: &str| ban(&format!("assets = [\"USDC\"]\nper_tx.max = \"{max}\""));
    let any = PAY
        .replace("[\"USDC\"]", "[\"*\"]")
        .replace("per_tx.max = \"500\"\n", "")
        .replace("max = \"1200\"", "count = 9");
    let cases = [
        ("a rule gets another name", PAY.to_owned(), PAY.replace("\"pay\"", "\"wages\""), Neutral),
        ("a rule within another comes", PAY.to_owned(), format!("{PAY}{small}"), Neutral),
        ("a rule within another goes", format!("{PAY}{small}"), PAY.to_owned(), Neutral),
        ("the wider one goes", format!("{PAY}{small}"), small.clone(), Tightens),
        ("a book is written out", PAY.to_owned(), PAY.replace("\"@friends\"", "\"0x2222222222222222222222222222222222222222\", \"0x4444444444444444444444444444444444444444\""), Neutral),
        ("a day is written in hours", PAY.to_owned(), PAY.replace("24h", "1d"), Neutral),
        ("fewer hours", PAY.to_owned(), PAY.replace("08:00-20:00", "09:00-17:00"), Tightens),
        ("other days", PAY.to_owned(), PAY.replace("Mon-Fri", "Tue-Sat"), Incomparable),
        ("no hours", PAY.to_owned(), PAY.replace("time =", "# time ="), Loosens),
        ("one to pay fewer", PAY.to_owned(), PAY.replace("\"@friends\"", "\"0x2222222222222222222222222222222222222222\""), Tightens),
        ("a window over everybody", PAY.to_owned(), PAY.replace("scope = \"key\"", "scope = \"all\""), Tightens),
        ("a window for each destination", PAY.to_owned(), PAY.replace("scope = \"key\"", "scope = \"key+destination\""), Loosens),
        ("a longer window", PAY.to_owned(), PAY.replace("24h", "48h"), Tightens),
        ("a window but little longer", PAY.to_owned(), PAY.replace("24h", "1441m"), Incomparable),
        ("one more window", PAY.to_owned(), PAY.replace("window = [", "window = [{ len = \"1h\", count = 3, scope = \"app\" }, "), Tightens),
        ("per_tx above what the window lets through", PAY.to_owned(), PAY.replace("\"500\"", "\"1200\""), Loosens),
        ("a limit that the window has anyway", PAY.replace("\"500\"", "\"1200\""), PAY.replace("per_tx.max = \"500\"\n", ""), Neutral),
        ("a caller better known", PAY.to_owned(), format!("{PAY}tier = \"T1\"\n"), Tightens),
        ("new destinations wait", PAY.to_owned(), format!("{PAY}new_destination = {{ delay = \"24h\" }}\n"), Tightens),
        ("they wait less", format!("{PAY}new_destination = {{ delay = \"24h\" }}\n"), format!("{PAY}new_destination = {{ delay = \"1h\" }}\n"), Loosens),
        ("they get a little meanwhile", format!("{PAY}new_destination = {{ delay = \"24h\" }}\n"), format!("{PAY}new_destination = {{ delay = \"24h\", max = \"5\" }}\n"), Loosens),
        ("a forbid that concerns nobody", PAY.to_owned(), format!("{PAY}{}", ban("keys = [\"cold\"]")), Neutral),
        ("a forbid elsewhere", PAY.to_owned(), format!("{PAY}{}", ban("chains = [\"eip155:5\"]")), Neutral),
        ("a forbid to others", PAY.to_owned(), format!("{PAY}{}", ban("to.allow = [\"0x3333333333333333333333333333333333333333\"]")), Neutral),
        ("a forbid to one of them", PAY.to_owned(), format!("{PAY}{}", ban("to.allow = [\"@others\"]")), Tightens),
        ("a permit that is forbidden anyway", format!("{PAY}{}", ban("keys = [\"cold\"]")), format!("{PAY}{other}{}", ban("keys = [\"cold\"]")), Neutral),
        ("a cap that falls", format!("{PAY}{}", cap("400")), format!("{PAY}{}", cap("300")), Tightens),
        ("a cap that rises", format!("{PAY}{}", cap("300")), format!("{PAY}{}", cap("400")), Loosens),
        ("a cap in place of a ban", format!("{PAY}{}", ban("")), format!("{PAY}{}", cap("400")), Loosens),
        ("a cap goes", format!("{PAY}{}", cap("300")), PAY.to_owned(), Loosens),
        ("nothing was permitted, and nothing is", format!("{PAY}{}", ban("")), PAY.replace("permit", "forbid"), Neutral),
        ("people are asked", PAY.to_owned(), format!("{PAY}approve = [{{ quorum = 2, of = \"ops\" }}]\n"), Tightens),
        ("other people are asked", format!("{PAY}approve = [{{ quorum = 2, of = \"ops\" }}]\n"), format!("{PAY}approve = [{{ quorum = 3, of = \"risk\" }}]\n"), Incomparable),
        ("people are asked for more only", format!("{PAY}approve = [{{ quorum = 2, of = \"ops\" }}]\n"), format!("{PAY}approve = [{{ above = \"9\", quorum = 2, of = \"ops\" }}]\n"), Loosens),
    ];
    for (what, old, new, class) in cases {
        let found = diff(&policy(&old), &policy(&new));
        assert_eq!(found.class(), class, "{what}: {found}");
    }
    // "*" covers the assets that have a name.
    let more = ETH_AND_USDC.replace("[assets.USDC]", "[assets.DAI]\nchain = \"eip155:1\"\nerc20 = \"0x7777777777777777777777777777777777777777\"\ndecimals = 18\n[assets.USDC]");
    let with = |assets: &str, rules: &str| Policy::parse(&format!("{HEAD}{assets}{rules}")).unwrap();
    for (rules, class) in [(PAY, Neutral), (any.as_str(), Loosens)] {
        assert_eq!(diff(&with(ETH_AND_USDC, rules), &with(&more, rules)).class(), class, "{rules}");
        let back = if class == Loosens { Tightens } else { class };
        assert_eq!(diff(&with(&more, rules), &with(ETH_AND_USDC, rules)).class(), back, "{rules}");
    }
}

// [clause 8.7.1-n] test
#[test]
fn what_approvers_read_is_part_of_the_comparison() {
    use Class::{Incomparable, Loosens, Tightens};
    let with = |head: &str, assets: &str| Policy::parse(&format!("{head}{assets}{PAY}")).unwrap();
    let before = with(HEAD, ETH_AND_USDC);
    let eve = "\neve = \"0x3333333333333333333333333333333333333333\"";
    for (what, head, assets, class) in [
        (
            "an address gets the name of another",
            HEAD.replace("bob", "acme"),
            ETH_AND_USDC.to_owned(),
            Incomparable,
        ),
        (
            "a book gets another name",
            HEAD.replace("[books.others]", "[books.banks]"),
            ETH_AND_USDC.to_owned(),
            Incomparable,
        ),
        (
            "decimals change",
            HEAD.to_owned(),
            ETH_AND_USDC.replace("decimals = 6", "decimals = 9"),
            Incomparable,
        ),
        (
            "a token gets the name of another",
            HEAD.to_owned(),
            ETH_AND_USDC.replace("assets.USDC", "assets.DAI"),
            Incomparable,
        ),
        (
            "an address that nobody may pay gets a name",
            format!("{HEAD}[books.more]\nzoe = \"0x9999999999999999999999999999999999999999\"\n"),
            ETH_AND_USDC.to_owned(),
            Loosens,
        ),
        ("a name goes", HEAD.replace(eve, ""), ETH_AND_USDC.to_owned(), Tightens),
    ] {
        // The token's name stands in the rule as well.
        let pay = if what.starts_with("a token") { PAY.replace("USDC", "DAI") } else { PAY.to_owned() };
        let after = Policy::parse(&format!("{head}{assets}{pay}")).unwrap();
        let found = diff(&before, &after);
        assert_eq!(found.class(), class, "{what}: {found}");
        let back = match class {
            Loosens => Tightens,
            Tightens => Loosens,
            other => other,
        };
        assert_eq!(diff(&after, &before).class(), back, "back from: {what}");
    }
}

// [clause 8.7.1-n] test
#[test]
fn fewer_signers_of_a_book_are_a_looser_policy() {
    use Class::{Incomparable, Loosens, Neutral, Tightens};
    let signed = |quorum: u32, of: &str| {
        let mut policy = policy(PAY);
        policy.signed.push(crate::core::policy::books::SignedBook {
            name: Name::parse("others").unwrap(),
            file: "others.book".into(),
            digest: [0; 32],
            version: 1,
            entries: 2,
            needs: Needs { quorum, of: of.into() },
            people: BTreeSet::new(),
        });
        policy
    };
    let two = signed(2, "ops");
    for (other, class) in [
        (signed(2, "ops"), Neutral),
        (signed(1, "ops"), Loosens),
        (signed(3, "ops"), Tightens),
        (signed(2, "risk"), Incomparable),
        (policy(PAY), Incomparable),
    ] {
        assert_eq!(diff(&two, &other).class(), class);
    }
}
