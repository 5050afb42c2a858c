//! A fleet waits for its answers over TLS: a connection and no thread each. `FLEET=10000 cargo test -p claviger-beacon --test fleet`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests stop where they cannot go on"
)]

mod rig;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use claviger::core::order::Scope;
use rig::{Rig, order, question, ssh_keygen_is_here, tls, tls_client};
use serde_json::json;

fn status(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_fleet_waits_without_a_thread_each_and_each_order_goes_to_its_device_at_once() {
    if !ssh_keygen_is_here() {
        return;
    }
    let fleet: usize = std::env::var("FLEET").map_or(500, |n| n.parse().unwrap());
    let mut rig = Rig::start(&tls("plain = \"127.0.0.1:0\"\n"));
    let client = tls_client(&[], false);
    let device = |n: usize| format!("{n:064x}");
    let wait = 30;
    let began = Instant::now();
    let mut held: Vec<_> = (0..fleet)
        .map(|n| {
            let mut stream = client(&rig.addresses[1]).unwrap();
            stream.sock.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let body = question(&device(n), &json!({"wait": wait})).to_string();
            write!(
                stream,
                "POST /v1/ask HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
            stream.flush().unwrap();
            stream
        })
        .collect();
    let metric = format!("claviger_beacon_devices{{level=\"running\"}} {fleet}\n");
    while !rig.asked("GET", "/metrics", "").2.contains(&metric) {
        assert!(began.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(100));
    }
    let (threads, memory) = (status(rig.pid(), "Threads:"), status(rig.pid(), "VmRSS:"));
    let asked = began.elapsed();
    assert!(threads < 64, "{threads} threads for {fleet} devices");
    // One of them is stopped: it hears, and nobody else does.
    let mut took = Vec::new();
    for n in (0..fleet).step_by((fleet / 10).max(1)) {
        let signed = order(&device(n), 1, Scope::All);
        let text = signed.render();
        let paper =
            json!({"text": text, "signatures": [rig.sign("gina", "clavigerd-order@v1", &text)]}).to_string();
        let since = Instant::now();
        assert_eq!(rig.asked("POST", "/v1/orders", &paper).0, 200);
        let mut chunk = [0; 2048];
        let read = held[n].read(&mut chunk).unwrap();
        took.push(since.elapsed());
        assert!(String::from_utf8_lossy(&chunk[..read]).contains("clavigerd order v1"));
    }
    let quiet = &mut held[1];
    quiet.sock.set_nonblocking(true).unwrap();
    assert!(quiet.read(&mut [0; 1]).is_err(), "no order is for it");
    quiet.sock.set_nonblocking(false).unwrap();
    took.sort();
    eprintln!(
        "{fleet} devices wait ({asked:?} until all did): {threads} threads, {memory} kB; an order was with its device after {:?}, at worst {:?}",
        took[took.len() / 2],
        took[took.len() - 1]
    );
    // Those who wait are told to come back when the beacon stops.
    let stopped = rig.stop();
    assert!(stopped < Duration::from_secs(8), "{stopped:?}");
    let mut chunk = [0; 64];
    let read = held[1].read(&mut chunk).unwrap();
    assert!(String::from_utf8_lossy(&chunk[..read]).starts_with("HTTP/1.1 503"), "{chunk:?}");
    // What they said is remembered.
    rig.run();
    assert!(rig.asked("GET", "/metrics", "").2.contains(&metric));
}
