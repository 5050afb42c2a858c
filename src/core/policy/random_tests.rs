//! Policies, requests and pasts at random, small enough that they meet each other often.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::decide::{ActFacts, Facts};
use super::history::Mention;
use super::rule::{Act, Policy};
use super::window::{Debit, Windows};
use crate::core::payment::{Asset, Chain, Effect, Payment};
use crate::core::proof::Tier;
use crate::core::units::{Address, Name, Timestamp, U256};

pub(super) const HEAD: &str = r#"schema = 1
[books.friends]
bob = "0x2222222222222222222222222222222222222222"
dan = "0x4444444444444444444444444444444444444444"
[books.others]
bob = "0x2222222222222222222222222222222222222222"
eve = "0x3333333333333333333333333333333333333333"
"#;

const ETH: &str = "[assets.ETH]\nchain = \"eip155:1\"\nnative = true\ndecimals = 18\n";
const USDC: &str = "[assets.USDC]\nchain = \"eip155:1\"\nerc20 = \"0x1111111111111111111111111111111111111111\"\ndecimals = 6\n";
/// The moment of every decision: a Thursday, 12:00 UTC.
pub(super) const NOW: i64 = 1_763_640_000_000;

pub(super) fn usdc() -> Asset {
    Asset::Erc20(Address([0x11; 20]))
}

fn list(values: &[&str]) -> String {
    format!("{values:?}")
}

fn names(values: &'static [&'static str]) -> impl Strategy<Value = String> {
    let some = proptest::sample::subsequence(values.to_vec(), 1..=values.len()).prop_map(|v| list(&v));
    prop_oneof![1 => Just("[\"*\"]".to_owned()), 3 => some]
}

fn amount() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1), Just(5), Just(6), 1u64..12]
}

fn window() -> impl Strategy<Value = String> {
    let scope = select(vec!["all", "key", "app", "key+app", "destination", "key+destination", "app+asset"]);
    (select(vec!["1h", "2h", "24h"]), scope, proptest::option::of(amount()), proptest::option::of(1u64..4))
        .prop_map(|(len, scope, max, count)| {
            let mut text = format!("{{ len = \"{len}\", scope = \"{scope}\"");
            let count = if max.is_none() && count.is_none() { Some(2) } else { count };
            max.inspect(|m| text += &format!(", max = \"{m}\""));
            count.inspect(|c| text += &format!(", count = {c}"));
            text + " }"
        })
}

/// The body of a rule, without its id. Bodies that are refused are dropped where they are put together.
pub(super) fn body() -> impl Strategy<Value = String> {
    let acts = select(vec![
        "[\"transfer\"]",
        "[\"transfer\"]",
        "[\"transfer\", \"approve\"]",
        "[\"transfer\", \"call\"]",
        "[\"call\"]",
        "[\"login\"]",
    ]);
    let who =
        (proptest::bool::weighted(0.3), acts, names(&["hot", "cold"]), names(&["app", "web"]), any::<bool>());
    let what = (
        select(vec!["[\"ETH\"]", "[\"USDC\"]", "[\"USDC\"]", "[\"*\"]", "[\"ETH\", \"USDC\"]"]),
        select(vec![
            "[\"@friends\"]",
            "[\"@others\"]",
            "[\"*\"]",
            "[\"0x3333333333333333333333333333333333333333\"]",
        ]),
        proptest::option::weighted(
            0.2,
            select(vec!["@others", "0x4444444444444444444444444444444444444444"]),
        ),
        proptest::option::of(amount()),
        select(vec![1000u64, 1000, 900]),
        proptest::collection::vec(window(), 0..3),
    );
    let more = (
        proptest::option::weighted(
            0.2,
            select(vec![("Mon-Fri", "08:00-20:00"), ("Thu", "10:00-14:00"), ("Mon-Sun", "13:00-24:00")]),
        ),
        proptest::option::weighted(0.4, select(vec!["T0", "T1", "T1"])),
        proptest::option::weighted(0.25, (select(vec!["1h", "24h"]), proptest::option::of(amount()))),
        proptest::option::weighted(0.25, (0u64..8, 1u32..4, select(vec!["ops", "ops", "risk"]))),
        any::<bool>(),
        proptest::option::weighted(0.5, select(vec!["0x01010101", "0x02020202"])),
    );
    (who, what, more).prop_map(|(who, what, more)| {
        let (forbid, acts, keys, apps, bare) = who;
        let (assets, to, deny, per_tx, fee, windows) = what;
        let (hours, tier, new, approve, replacement, selector) = more;
        let effect = if forbid { "forbid" } else { "permit" };
        let mut text = format!("effect = \"{effect}\"\nkeys = {keys}\napps = {apps}\n");
        // A forbid may say little, and then covers much.
        if !(forbid && bare) {
            text += &format!("acts = {acts}\n");
        }
        let pays = !acts.contains("login");
        let moves = acts.contains("transfer");
        if pays && !(forbid && bare) {
            text += "chains = [\"eip155:1\"]\n";
            text += &format!("assets = {assets}\n");
            text += &format!("to.allow = {to}\n");
            deny.inspect(|d| text += &format!("to.deny = [\"{d}\"]\n"));
            per_tx.inspect(|m| text += &format!("per_tx.max = \"{m}\"\n"));
        }
        if pays && !(forbid && fee == 1000) {
            text += &format!("fee.max = \"{fee}\"\n");
        }
        if acts.contains("call") && !(forbid && (bare || selector.is_none())) {
            let selector = selector.unwrap_or("0x01010101");
            text += &format!(
                "calls = [{{ contract = \"0x3333333333333333333333333333333333333333\", selector = \"{selector}\" }}]\n"
            );
        }
        if !windows.is_empty() {
            text += &format!("window = [{}]\n", windows.join(", "));
        }
        hours.inspect(|(d, h)| text += &format!("time = {{ tz = \"UTC\", days = \"{d}\", hours = \"{h}\" }}\n"));
        if !forbid {
            tier.inspect(|t| text += &format!("tier = \"{t}\"\n"));
            text += &format!("replacement = {replacement}\n");
            if pays {
                new.inspect(|(delay, max)| {
                    let max = max.map_or(String::new(), |m| format!(", max = \"{m}\""));
                    text += &format!("new_destination = {{ delay = \"{delay}\"{max} }}\n");
                });
                approve.filter(|_| moves).inspect(|(above, quorum, of)| {
                    text += &format!("approve = [{{ above = \"{above}\", quorum = {quorum}, of = \"{of}\" }}]\n");
                });
            }
        }
        text
    })
}

/// The rules of bodies, by ids `r0`, `r1`…; what the reader refuses is left out.
pub(super) fn rules(bodies: &[String], head: &str) -> Vec<(String, String)> {
    let named = bodies.iter().enumerate().map(|(i, b)| (format!("r{i}"), b.clone()));
    named.filter(|(id, body)| Policy::parse(&text(&[(id.clone(), body.clone())], head)).is_ok()).collect()
}

pub(super) fn text(rules: &[(String, String)], head: &str) -> String {
    let rules: String = rules.iter().map(|(id, body)| format!("[[rule]]\nid = \"{id}\"\n{body}")).collect();
    format!("{head}{rules}")
}

pub(super) fn head() -> impl Strategy<Value = String> {
    // One asset may lack a name: "*" then does not cover it.
    prop_oneof![3 => Just(format!("{HEAD}{ETH}{USDC}")), 1 => Just(format!("{HEAD}{USDC}"))]
}

/// A request with its own facts.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) app: Name,
    pub(super) key: Name,
    pub(super) payment: Option<Payment>,
    pub(super) tier: Tier,
    pub(super) replacing: bool,
}

impl Request {
    pub(super) fn facts(&self) -> Facts<'_> {
        let act = match &self.payment {
            Some(payment) => ActFacts::Payment(payment),
            None => ActFacts::Other { act: Act::Login, len: 1 },
        };
        Facts {
            app: &self.app,
            key: &self.key,
            act,
            digest: [0; 32],
            tier: self.tier,
            sweeping: false,
            settled: false,
            replacing: self.replacing,
        }
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn address() -> impl Strategy<Value = Address> {
    select(vec![0x22u8, 0x22, 0x33, 0x44, 0x55]).prop_map(|b| Address([b; 20]))
}

fn asset() -> impl Strategy<Value = Asset> {
    prop_oneof![Just(Asset::Native), Just(usdc()), Just(usdc())]
}

fn effect() -> impl Strategy<Value = Effect> {
    let big = prop_oneof![9 => (0u64..12).prop_map(U256::from), 1 => Just(U256::MAX)];
    (0u8..8, asset(), address(), big, any::<Index>()).prop_map(|(kind, asset, to, amount, selector)| {
        match kind {
            0 => Effect::Approve { asset, spender: to, amount },
            1 => Effect::TransferFrom { asset, owner: Address([9; 20]), to, amount },
            2 | 3 => {
                let selector = [Some([1; 4]), Some([2; 4]), None][selector.index(3)];
                let value = if amount > U256::from(5) { U256::ZERO } else { amount };
                Effect::ContractCall { contract: to, selector, value }
            }
            _ => Effect::Transfer { asset, to, amount },
        }
    })
}

pub(super) fn request() -> impl Strategy<Value = Request> {
    let who = (
        select(vec!["app", "app", "app", "web", "other"]),
        select(vec!["hot", "hot", "hot", "cold", "else"]),
    );
    let payment = (effect(), select(vec![1u64, 1, 1, 1, 1, 2]), select(vec![900u64, 900, 900, 1000, 1001]))
        .prop_map(|(effect, chain, fee)| Payment {
            chain: Chain(chain),
            from: Address([9; 20]),
            effect,
            max_fee: U256::from(fee),
            fee_per_gas: U256::from(1),
            nonce: 0,
        });
    let tier = select(vec![Tier::T0, Tier::T1]);
    (who, proptest::option::weighted(0.9, payment), tier, proptest::bool::weighted(0.1)).prop_map(
        |((app, key), payment, tier, replacing)| Request {
            app: name(app),
            key: name(key),
            payment,
            tier,
            replacing,
        },
    )
}

/// What was spent before, oldest first, and whom the keys were asked to pay.
#[derive(Clone, Debug)]
pub(super) struct Past {
    pub(super) debits: Vec<Debit>,
    pub(super) seen: Vec<Mention>,
}

impl Past {
    pub(super) fn windows(&self, policy: &Policy) -> Windows {
        let mut windows = Windows::for_policy(policy);
        windows.rebuild(&self.debits, &self.seen);
        windows
    }
}

pub(super) fn past() -> impl Strategy<Value = Past> {
    let debit =
        (0i64..26 * 60, select(vec!["app", "web"]), select(vec!["hot", "cold"]), asset(), address(), 0u64..7)
            .prop_map(|(ago, app, key, asset, to, amount)| Debit {
                at: Timestamp(NOW - ago * 60_000),
                key: name(key),
                app: name(app),
                chain: Some(Chain(1)),
                asset: Some(asset),
                to: Some(to),
                amount: U256::from(amount),
            });
    let mention = (0i64..50 * 60, select(vec!["hot", "cold"]), address())
        .prop_map(|(ago, key, to)| Mention { key: name(key), to, at: Timestamp(NOW - ago * 60_000) });
    (proptest::collection::vec(debit, 0..6), proptest::collection::vec(mention, 0..6)).prop_map(
        |(mut debits, mut seen)| {
            debits.sort_by_key(|d| d.at);
            seen.sort_by_key(|m| m.at);
            Past { debits, seen }
        },
    )
}
