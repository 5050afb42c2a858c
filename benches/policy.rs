//! What a decision costs with a thousand rules. `cargo bench --bench policy` prints one table.
//!
//! Every policy has as many rules as fit one shape: rules that name different keys, rules that name different destinations of
//! one key, rules that all cover the request, and a mixture. Each is asked what it permits and what it refuses; `explain` tells
//! every rule in words.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]

use std::hint::black_box;
use std::time::Instant;

use claviger::core::payment::{Asset, Chain, Effect, Payment};
use claviger::core::policy::window::{Debit, Windows};
use claviger::core::policy::{ActFacts, Decision, Facts, Policy, decide, explain};
use claviger::core::proof::Tier;
use claviger::core::units::{Address, Name, Timestamp, U256};

const RULES: usize = 1000;
const NOW: Timestamp = Timestamp(1_763_640_000_000);

fn address(n: usize) -> Address {
    let mut bytes = [0x11; 20];
    bytes.iter_mut().zip(n.to_be_bytes()).for_each(|(to, from)| *to = from);
    Address(bytes)
}

fn rule(n: usize, key: &str, to: &str, more: &str) -> String {
    format!(
        "[[rule]]\nid = \"rule-{n:04}\"\neffect = \"permit\"\nkeys = [{key}]\napps = [\"pay-svc\"]\nchains = [\"eip155:1\"]\nassets = [\"ETH\"]\nto.allow = [{to}]\nper_tx.max = \"1000\"\nfee.max = \"1000\"\nwindow = [{{ len = \"24h\", max = \"100000\", scope = \"key\" }}, {{ len = \"1h\", count = 1000, scope = \"app\" }}]\n{more}"
    )
}

fn forbid(n: usize, what: &str) -> String {
    format!("[[rule]]\nid = \"rule-{n:04}\"\neffect = \"forbid\"\n{what}\n")
}

fn policy(rules: impl Fn(usize) -> String) -> Policy {
    let head = "schema = 1\n[assets.ETH]\nchain = \"eip155:1\"\nnative = true\ndecimals = 18\n".to_owned();
    Policy::parse(&(head + &(0..RULES).map(rules).collect::<String>())).unwrap()
}

fn quoted(n: usize) -> String {
    format!("\"{}\"", address(n))
}

fn policies() -> Vec<(&'static str, Policy)> {
    let key = |n: usize| format!("\"hot-{n}\"");
    vec![
        ("a key each", policy(|n| rule(n, &key(n), "\"*\"", ""))),
        ("one key, a destination each", policy(|n| rule(n, "\"hot-999\"", &quoted(n), ""))),
        (
            "all cover it, limits alone differ",
            policy(|n| {
                rule(n, "\"hot-999\"", "\"*\"", "").replace("\"1000\"\nfee", &format!("\"{}\"\nfee", n + 1))
            }),
        ),
        (
            "half of them forbid destinations",
            policy(|n| match n % 2 {
                0 => forbid(n, &format!("to.allow = [{}]", quoted(n))),
                _ => rule(n, "\"hot-999\"", &quoted(n), ""),
            }),
        ),
        (
            "half of them are caps that hold",
            policy(|n| match n % 2 {
                0 => forbid(
                    n,
                    &format!(
                        "assets = [\"ETH\"]\nwindow = [{{ len = \"7d\", max = \"{}\", scope = \"all\" }}]",
                        1_000_000 + n
                    ),
                ),
                _ => {
                    rule(n, "\"hot-999\"", "\"*\"", "new_destination = { delay = \"24h\", max = \"999\" }\n")
                }
            }),
        ),
    ]
}

/// Nanoseconds of the median of 501 rounds, each short enough that few of them are interrupted.
fn median(mut work: impl FnMut(), each: u32) -> f64 {
    let mut rounds: Vec<f64> = (0..501)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..each {
                work();
            }
            began.elapsed().as_secs_f64() * 1e9 / f64::from(each)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds.get(250).copied().unwrap_or(f64::NAN)
}

fn main() {
    // `cargo test --benches` only sees that it builds.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let (app, key) = (Name::parse("pay-svc").unwrap(), Name::parse("hot-999").unwrap());
    println!("{RULES} rules, microseconds each\n");
    println!("{:36} {:>9} {:>9} {:>9} {:>9}", "POLICY", "PERMITTED", "REFUSED", "STRANGER", "EXPLAIN");
    let mut slowest: f64 = 0.0;
    for (what, policy) in policies() {
        let mut spent = Windows::for_policy(&policy);
        for n in 0..5000i64 {
            spent.add(&Debit {
                at: Timestamp(NOW.0 - 5_000_000 + n * 1000),
                key: key.clone(),
                app: Name::parse(if n % 6 == 0 { "pay-svc" } else { "other" }).unwrap(),
                chain: Some(Chain(1)),
                asset: Some(Asset::Native),
                to: Some(address(999)),
                amount: U256::from(1),
            });
        }
        let payment = |to: usize, amount: u64| Payment {
            chain: Chain(1),
            from: Address([9; 20]),
            effect: Effect::Transfer { asset: Asset::Native, to: address(to), amount: U256::from(amount) },
            max_fee: U256::from(1000),
            fee_per_gas: U256::from(1),
            nonce: 0,
        };
        // The last rule permits; too much for any of them; a destination that nobody knows.
        let asked = [(payment(999, 900), true), (payment(999, 5000), false), (payment(77_777, 5000), false)];
        let facts = |payment| Facts {
            app: &app,
            key: &key,
            act: ActFacts::Payment(payment),
            digest: [0; 32],
            tier: Tier::T1,
            sweeping: false,
            settled: false,
            replacing: false,
        };
        let mut figures = Vec::new();
        for (payment, permitted) in &asked {
            let facts = facts(payment);
            let decision = decide(&policy, &facts, &spent, NOW);
            assert_eq!(matches!(decision, Decision::Permit(_)), *permitted, "{what}");
            figures.push(
                median(|| drop(black_box(decide(&policy, black_box(&facts), &spent, NOW))), 20) / 1000.0,
            );
        }
        slowest = figures.iter().copied().fold(slowest, f64::max);
        let first = facts(&asked[0].0);
        figures
            .push(median(|| drop(black_box(explain(&policy, black_box(&first), &spent, NOW))), 1) / 1000.0);
        let cells: String = figures.iter().map(|f| format!(" {f:>9.2}")).collect();
        println!("{what:36}{cells}");
    }
    println!("\nthe slowest decision: {slowest:.2} us");
}
