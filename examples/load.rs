//! Drives a running daemon as an app would: `cargo run --release --example load -- SOCKET ACCOUNT CHAIN TO CLIENTS SECONDS [NONCE]`.
//!
//! Register this executable first (`claviger app enrol load --path target/release/examples/load`) and permit it.

#![expect(clippy::unwrap_used, reason = "a load generator that cannot go on stops")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [socket, account, chain, to, clients, seconds, rest @ ..] = words.as_slice() else {
        eprintln!("usage: load SOCKET ACCOUNT CHAIN-ID TO CLIENTS SECONDS [FIRST-NONCE]");
        std::process::exit(2);
    };
    let chain: u64 = chain.parse().unwrap();
    let patience = Duration::from_secs_f64(seconds.parse().unwrap());
    let nonces = Arc::new(AtomicU64::new(rest.first().map_or(0, |n| n.parse().unwrap())));
    let began = Instant::now();
    let threads: Vec<_> = (0..clients.parse::<usize>().unwrap())
        .map(|_| {
            let (socket, account, to, nonces) = (socket.clone(), account.clone(), to.clone(), Arc::clone(&nonces));
            std::thread::spawn(move || {
                let mut stream = UnixStream::connect(socket).unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut times, mut refused) = (Vec::new(), 0u64);
                while began.elapsed() < patience {
                    let nonce = nonces.fetch_add(1, Ordering::Relaxed);
                    let tx = serde_json::json!({"from": account, "to": to, "value": "0x1", "gas": "0x5208",
                        "maxFeePerGas": "0x3b9aca00", "maxPriorityFeePerGas": "0x1",
                        "nonce": format!("{nonce:#x}"), "chainId": format!("{chain:#x}")});
                    let request = serde_json::json!({"jsonrpc": "2.0", "id": nonce, "method": "eth_signTransaction", "params": [tx]});
                    let call = Instant::now();
                    stream.write_all(format!("{request}\n").as_bytes()).unwrap();
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    times.push(call.elapsed());
                    refused += u64::from(line.contains("\"error\""));
                }
                (times, refused)
            })
        })
        .collect();
    let (mut times, mut refused) = (Vec::new(), 0);
    for thread in threads {
        let (t, r) = thread.join().unwrap();
        times.extend(t);
        refused += r;
    }
    times.sort();
    let at = |q: usize| times.get(times.len() * q / 100).copied().unwrap_or_default();
    println!(
        "{} answers ({refused} refused) in {:?}: p50 {:?}, p99 {:?}",
        times.len(),
        began.elapsed(),
        at(50),
        at(99)
    );
}
