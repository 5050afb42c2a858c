use proptest::prelude::*;

use super::*;
use crate::core::payment::{Asset, Chain};
use crate::core::policy::diff::{Class, diff};
use crate::core::policy::window::Debit;
use crate::core::units::{Address, U256};

pub(super) const HEAD: &str = r#"
schema = 1
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
[books.banned]
eve = "0x3333333333333333333333333333333333333333"
"#;

pub(super) const PAY: &str = r#"
[[rule]]
id = "pay"
effect = "permit"
keys = ["hot"]
apps = ["app"]
chains = ["eip155:1"]
assets = ["USDC"]
to.allow = ["@friends"]
per_tx.max = "5000000"
fee.max = "1000"
window = [{ len = "24h", max = "12000000", scope = "key" }, { len = "1h", count = 5, scope = "app" }]
time = { tz = "UTC", hours = "08:00-20:00" }
"#;

pub(super) const NOON: i64 = 43_200_000;

pub(super) fn policy(rules: &str) -> Policy {
    Policy::parse(&format!("{HEAD}{rules}")).unwrap()
}

pub(super) fn usdc() -> Asset {
    Asset::Erc20(Address([0x11; 20]))
}

pub(super) fn bob() -> Address {
    Address([0x22; 20])
}

fn payment(effect: Effect) -> Payment {
    Payment {
        chain: Chain(1),
        from: Address([9; 20]),
        effect,
        max_fee: U256::from(1000),
        fee_per_gas: U256::from(1),
        nonce: 0,
    }
}

pub(super) fn pay(to: Address, amount: u64) -> Payment {
    payment(Effect::Transfer { asset: usdc(), to, amount: U256::from(amount) })
}

pub(super) fn facts<'a>(app: &'a Name, key: &'a Name, act: ActFacts<'a>) -> Facts<'a> {
    Facts {
        app,
        key,
        act,
        digest: [0; 32],
        tier: Tier::T1,
        sweeping: false,
        settled: false,
        replacing: false,
    }
}

pub(super) fn decision(
    policy: &Policy,
    app: &str,
    key: &str,
    payment: &Payment,
    windows: &Windows,
    now: i64,
) -> Result<String, Refusal> {
    let (app, key) = (Name::parse(app).unwrap(), Name::parse(key).unwrap());
    let facts = facts(&app, &key, ActFacts::Payment(payment));
    match decide(policy, &facts, windows, Timestamp(now)) {
        Decision::Permit(p) => Ok(p.authorized.rule().to_string()),
        Decision::Deny(d) => Err(d.refusal),
    }
}

fn code(policy: &Policy, payment: &Payment) -> &'static str {
    decision(policy, "app", "hot", payment, &Windows::for_policy(policy), NOON)
        .map_or_else(|r| r.code.as_str(), |_| "permit")
}

pub(super) fn debit(at: i64, amount: u64) -> Debit {
    Debit {
        at: Timestamp(at),
        key: Name::parse("hot").unwrap(),
        app: Name::parse("app").unwrap(),
        chain: Some(Chain(1)),
        asset: Some(usdc()),
        to: Some(bob()),
        amount: U256::from(amount),
    }
}

// [clause 8.7.1-c] test
#[test]
fn each_reason_has_its_own_code() {
    let p = policy(PAY);
    assert_eq!(code(&p, &pay(bob(), 5_000_000)), "permit");
    assert_eq!(code(&p, &pay(bob(), 5_000_001)), "over_limit");
    assert_eq!(code(&p, &pay(Address([7; 20]), 1)), "destination_not_listed");
    assert_eq!(code(&p, &Payment { chain: Chain(2), ..pay(bob(), 1) }), "chain_unknown");
    assert_eq!(code(&p, &Payment { max_fee: U256::from(1001), ..pay(bob(), 1) }), "fee_too_high");
    let native = payment(Effect::Transfer { asset: Asset::Native, to: bob(), amount: U256::from(1) });
    assert_eq!(code(&p, &native), "asset_not_allowed");
    let grant = payment(Effect::Approve { asset: usdc(), spender: bob(), amount: U256::from(1) });
    assert_eq!(code(&p, &grant), "grant_not_allowed");
    let call = payment(Effect::ContractCall { contract: bob(), selector: Some([1; 4]), value: U256::ZERO });
    assert_eq!(code(&p, &call), "contract_call_unknown");
    assert_eq!(code(&p, &payment(Effect::ContractCreation { value: U256::ZERO })), "contract_creation");
    let w = Windows::for_policy(&p);
    assert_eq!(
        decision(&p, "other", "hot", &pay(bob(), 1), &w, NOON).unwrap_err().code.as_str(),
        "key_not_allowed"
    );
    assert_eq!(decision(&p, "app", "hot", &pay(bob(), 1), &w, 0).unwrap_err().code.as_str(), "outside_hours");
    assert_eq!(code(&policy(""), &pay(bob(), 1)), "no_rule");
    let banned = format!("{PAY}[[rule]]\nid = \"ban\"\neffect = \"forbid\"\nto.allow = [\"@friends\"]\n");
    assert_eq!(code(&policy(&banned), &pay(bob(), 1)), "forbidden_by_rule");
}

// [clause 8.7.1-c] test
#[test]
fn windows_deny_with_the_rule_and_the_figure() {
    let p = policy(PAY);
    let mut w = Windows::for_policy(&p);
    w.add(&debit(NOON - 3_600_000 * 3, 5_000_000));
    w.add(&debit(NOON - 3_600_000 * 2, 5_000_000));
    assert!(decision(&p, "app", "hot", &pay(bob(), 2_000_000), &w, NOON).is_ok());
    let refusal = decision(&p, "app", "hot", &pay(bob(), 2_000_001), &w, NOON).unwrap_err();
    assert_eq!(refusal.code.as_str(), "window_exceeded");
    assert_eq!(refusal.rule.as_deref(), Some("pay"));
    assert!(
        refusal.sentence.contains("10 USDC (10000000)") && refusal.sentence.contains("24h"),
        "{}",
        refusal.sentence
    );
    for _ in 0..5 {
        w.add(&debit(NOON, 0));
    }
    assert_eq!(decision(&p, "app", "hot", &pay(bob(), 1), &w, NOON).unwrap_err().facts["max_count"], 5);
}

#[test]
fn calls_messages_grants_and_caps_follow_their_rules() {
    let rules = r#"
[[rule]]
id = "call"
effect = "permit"
acts = ["call"]
keys = ["hot"]
apps = ["app"]
chains = ["eip155:1"]
fee.max = "1000"
calls = [{ contract = "0x2222222222222222222222222222222222222222", selector = "0x01010101" }]
[[rule]]
id = "note"
effect = "permit"
acts = ["message"]
keys = ["hot"]
apps = ["app"]
[[rule]]
id = "grant"
effect = "permit"
acts = ["approve", "transfer"]
keys = ["*"]
apps = ["app"]
chains = ["eip155:1"]
assets = ["USDC"]
to.allow = ["*"]
to.deny = ["@banned"]
per_tx.max = "1000"
fee.max = "1000"
[[rule]]
id = "cap"
effect = "forbid"
assets = ["USDC"]
per_tx.max = "500"
"#;
    let p = policy(rules);
    let call = |selector| payment(Effect::ContractCall { contract: bob(), selector, value: U256::ZERO });
    assert_eq!(code(&p, &call(Some([1; 4]))), "permit");
    assert_eq!(code(&p, &call(Some([2; 4]))), "contract_call_unknown");
    assert_eq!(code(&p, &call(None)), "contract_call_unknown");
    let paid =
        payment(Effect::ContractCall { contract: bob(), selector: Some([1; 4]), value: U256::from(1) });
    assert_eq!(code(&p, &paid), "over_limit");
    assert!(Policy::parse(&format!("{HEAD}{}", rules.replace("0x01010101", "0xa9059cbb"))).is_err());
    let approve = |amount| payment(Effect::Approve { asset: usdc(), spender: bob(), amount });
    assert_eq!(code(&p, &approve(U256::from(500))), "permit");
    assert_eq!(code(&p, &approve(U256::MAX)), "forbidden_by_rule");
    assert_eq!(code(&p, &pay(Address([0x33; 20]), 1)), "destination_not_listed");
    assert_eq!(code(&p, &pay(bob(), 501)), "forbidden_by_rule");
    let (app, key) = (Name::parse("app").unwrap(), Name::parse("hot").unwrap());
    let facts = facts(&app, &key, ActFacts::Other { act: Act::Message, len: 3 });
    assert!(matches!(decide(&p, &facts, &Windows::default(), Timestamp(0)), Decision::Permit(_)));
    assert!(
        matches!(decide(&policy(PAY), &facts, &Windows::default(), Timestamp(0)), Decision::Deny(d) if d.refusal.code == Code::MessageNotAllowed)
    );
}

#[test]
fn texts_that_cannot_mean_what_they_seem_to_are_refused() {
    let bad = [
        PAY.replace("fee.max = \"1000\"", ""),
        PAY.replace("to.allow = [\"@friends\"]", ""),
        PAY.replace("@friends", "@nobody"),
        PAY.replace("\"5000000\"", "\"5e6\""),
        PAY.replace("\"5000000\"", "5000000"),
        PAY.replace("[\"USDC\"]", "[\"USDC\", \"ETH\"]"),
        PAY.replace("\"24h\"", "\"99d\""),
        PAY.replace("UTC", "Europe/Rome"),
        PAY.replace("id = \"pay\"", "id = \"p a y\""),
        PAY.replace("keys = [\"hot\"]", ""),
        format!("{PAY}{PAY}"),
        format!("{PAY}surprise = 1\n"),
        PAY.replace("effect = \"permit\"", "effect = \"permit\"\nacts = [\"create\"]"),
        PAY.replace("effect = \"permit\"", "effect = \"permit\"\nacts = [\"call\"]"),
    ];
    for text in bad {
        assert!(Policy::parse(&format!("{HEAD}{text}")).is_err(), "{text}");
    }
    assert!(Policy::parse("schema = 2").is_err());
}

#[test]
fn a_diff_names_the_direction() {
    let old = policy(PAY);
    let class = |text: &str| diff(&old, &policy(text)).class();
    assert_eq!(class(PAY), Class::Neutral);
    assert_eq!(class(&PAY.replace("5000000", "4000000")), Class::Tightens);
    assert_eq!(class(&PAY.replace("5000000", "6000000")), Class::Loosens);
    assert_eq!(class(&PAY.replace("@friends", "*")), Class::Loosens);
    assert_eq!(class(&PAY.replace("5000000", "4000000").replace("@friends", "*")), Class::Incomparable);
    assert_eq!(class(""), Class::Tightens);
    assert_eq!(class(&format!("{PAY}[[rule]]\nid = \"ban\"\neffect = \"forbid\"\n")), Class::Tightens);
}

#[test]
fn the_shipped_example_is_a_policy() {
    for text in
        [include_str!("../../../config/policy.toml"), include_str!("../../../config/examples/policy.toml")]
    {
        assert!(Policy::parse(text).unwrap().rule_count() > 0);
    }
    crate::core::app::Apps::parse(include_str!("../../../config/examples/apps.toml")).unwrap();
}

fn any_rule() -> impl Strategy<Value = String> {
    let list = |a: &'static str| prop_oneof![Just(format!("[\"{a}\"]")), Just("[\"*\"]".to_owned())];
    (list("hot"), list("app"), prop_oneof![Just("[\"@friends\"]"), Just("[\"*\"]")], 1u64..100, any::<bool>()).prop_map(
        |(keys, apps, to, max, forbid)| {
            let effect = if forbid { "forbid" } else { "permit" };
            format!("effect = \"{effect}\"\nkeys = {keys}\napps = {apps}\nchains = [\"eip155:1\"]\nassets = [\"USDC\"]\nto.allow = {to}\nper_tx.max = \"{max}\"\nfee.max = \"1000\"\n")
        },
    )
}

fn numbered(rules: &[String]) -> String {
    rules.iter().enumerate().map(|(i, r)| format!("[[rule]]\nid = \"r{i}\"\n{r}")).collect()
}

proptest! {
    #[test]
    fn forbids_only_take_away_and_permits_only_give(rules in proptest::collection::vec(any_rule(), 0..6), extra in any_rule(), amount in 0u64..100) {
        let before = code(&policy(&numbered(&rules)), &pay(bob(), amount)) == "permit";
        let mut more = rules.clone();
        more.push(extra.clone());
        let after = code(&policy(&numbered(&more)), &pay(bob(), amount)) == "permit";
        if extra.contains("forbid") {
            prop_assert!(before || !after);
        } else {
            prop_assert!(!before || after);
        }
    }

    #[test]
    fn order_does_not_matter_and_less_is_never_worse(rules in proptest::collection::vec(any_rule(), 1..6), amount in 1u64..100) {
        let forward: String = numbered(&rules);
        let blocks: Vec<&str> = forward.split_inclusive("fee.max = \"1000\"\n").collect();
        let backward: String = blocks.into_iter().rev().collect();
        let (a, b) = (policy(&forward), policy(&backward));
        prop_assert_eq!(code(&a, &pay(bob(), amount)), code(&b, &pay(bob(), amount)));
        if code(&a, &pay(bob(), amount)) == "permit" {
            prop_assert_eq!(code(&a, &pay(bob(), amount - 1)), "permit");
        }
    }
}

#[test]
fn a_forbid_of_destinations_does_not_forbid_logins_and_one_of_keys_does() {
    let (app, key) = (Name::parse("app").unwrap(), Name::parse("hot").unwrap());
    let login = "\n[[rule]]\nid = \"login\"\neffect = \"permit\"\nacts = [\"login\"]\nkeys = [\"hot\"]\napps = [\"app\"]\n";
    let forbid = |what: &str| format!("{login}[[rule]]\nid = \"no\"\neffect = \"forbid\"\n{what}\n");
    for (what, permitted) in [
        ("to.allow = [\"@banned\"]", true),
        ("chains = [\"eip155:1\"]", true),
        ("keys = [\"hot\"]", false),
        ("acts = [\"login\"]", false),
        ("acts = [\"mac\"]", true),
        ("window = [{ len = \"1h\", count = 5, scope = \"key\" }]", true),
    ] {
        let facts = facts(&app, &key, ActFacts::Other { act: Act::Login, len: 3 });
        let decision = decide(&policy(&forbid(what)), &facts, &Windows::default(), Timestamp(0));
        assert_eq!(matches!(decision, Decision::Permit(_)), permitted, "{what}");
        // A key at its end makes transfers only, whatever is permitted.
        let facts = Facts { sweeping: true, ..facts };
        let decision = decide(&policy(login), &facts, &Windows::default(), Timestamp(0));
        assert!(matches!(decision, Decision::Deny(d) if d.refusal.code == Code::SweepOnly));
    }
}

#[test]
fn more_places_to_sweep_to_loosen_and_fewer_tighten() {
    let with = |books: &str| policy(&format!("[sweep]\nto = [{books}]\n{PAY}"));
    for (old, new, class) in [
        ("\"@friends\"", "\"@friends\", \"@banned\"", Class::Loosens),
        ("\"@friends\", \"@banned\"", "\"@friends\"", Class::Tightens),
        ("\"@friends\"", "\"@banned\"", Class::Incomparable),
        ("\"@friends\"", "\"@friends\"", Class::Neutral),
    ] {
        assert_eq!(diff(&with(old), &with(new)).class(), class, "{old} to {new}");
    }
    assert!(Policy::parse(&format!("{HEAD}[sweep]\nto = [\"@nobody\"]")).is_err());
}

#[test]
fn a_tripwire_that_trips_earlier_tightens() {
    let with = |wire: &str| policy(&format!("{wire}\n{PAY}"));
    let wire =
        |refusals: u32, within: &str| format!("[tripwire]\nrefusals = {refusals}\nwithin = \"{within}\"");
    for (old, new, class) in [
        (String::new(), wire(5, "10m"), Class::Tightens),
        (wire(5, "10m"), String::new(), Class::Loosens),
        (wire(5, "10m"), wire(4, "10m"), Class::Tightens),
        (wire(5, "10m"), wire(5, "5m"), Class::Loosens),
        (wire(5, "10m"), wire(4, "5m"), Class::Incomparable),
        (wire(5, "10m"), wire(5, "10m"), Class::Neutral),
    ] {
        assert_eq!(diff(&with(&old), &with(&new)).class(), class, "{old:?} to {new:?}");
    }
    for bad in [wire(1, "10m"), wire(5, "10s"), wire(5, "32d")] {
        assert!(Policy::parse(&format!("{HEAD}{bad}")).is_err(), "{bad}");
    }
}
