//! The beacon beyond its machine: what is agreed on, who may connect, what is told there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests stop where they cannot go on"
)]

mod rig;

use std::net::TcpStream;

use rig::{PLAIN, Rig, question, ssh_keygen_is_here, tls, tls_client, try_over, vectors};
use rustls::NamedGroup;
use serde_json::json;

const DEVICE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Asks; gives the group that was agreed on and the status, or why there is none.
fn client(address: &str, groups: &[NamedGroup], own: bool, path: &str) -> Result<(NamedGroup, u16), String> {
    let stream = tls_client(groups, own)(address)?;
    let group = stream.conn.negotiated_key_exchange_group().unwrap().name();
    let method = if path == "/v1/ask" { "POST" } else { "GET" };
    let body = question(DEVICE, &json!({})).to_string();
    // A server that wants a certificate says so after the client thinks that all is well.
    Ok((group, try_over(stream, method, path, &body)?.0))
}

// [clause 8.2.3-b] test
#[test]
fn session_keys_come_of_ml_kem_too_and_an_older_client_is_served_unless_it_says_otherwise() {
    if !ssh_keygen_is_here() {
        return;
    }
    let (hybrid, plain) = (NamedGroup::X25519MLKEM768, NamedGroup::X25519);
    let rig = Rig::start(&tls(""));
    let at = rig.addresses[0].clone();
    assert_eq!(client(&at, &[], false, "/v1/ask"), Ok((hybrid, 200)));
    assert_eq!(client(&at, &[plain, hybrid], false, "/v1/ask"), Ok((hybrid, 200)), "it prefers what lasts");
    assert_eq!(client(&at, &[plain], false, "/v1/ask"), Ok((plain, 200)));
    // From afar nobody reads which devices there are.
    for path in ["/", "/metrics", "/v1/devices", &format!("/v1/receipts/{DEVICE}")] {
        assert_eq!(client(&at, &[], false, path).unwrap().1, 404, "{path}");
    }
    assert_eq!(client(&at, &[], false, "/healthz").unwrap().1, 200);
    drop(rig);
    let rig = Rig::start(&tls("post_quantum = \"require\"\n"));
    let at = rig.addresses[0].clone();
    assert_eq!(client(&at, &[], false, "/v1/ask"), Ok((hybrid, 200)));
    assert!(client(&at, &[plain], false, "/v1/ask").is_err(), "refused");
    // What is no TLS at all gets nothing.
    assert!(try_over(TcpStream::connect(&at).unwrap(), "GET", "/healthz", "").is_err());
}

#[test]
fn with_an_authority_for_clients_nobody_connects_without_a_certificate_of_theirs() {
    if !ssh_keygen_is_here() {
        return;
    }
    let authority = |name: &str| {
        let file = vectors(name).canonicalize().unwrap();
        tls(&format!("client_ca = \"{}\"\n", file.display()))
    };
    let rig = Rig::start(&authority("clients.pem"));
    assert_eq!(client(&rig.addresses[0], &[], true, "/v1/ask").unwrap().1, 200);
    assert!(client(&rig.addresses[0], &[], false, "/v1/ask").is_err(), "it has none");
    drop(rig);
    let rig = Rig::start(&authority("other.pem"));
    assert!(client(&rig.addresses[0], &[], true, "/v1/ask").is_err(), "another authority's");
}

#[test]
fn without_tls_it_does_not_leave_this_machine() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut rig = Rig::start(PLAIN);
    let file = rig.dir.path().join("beacon.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("127.0.0.1:0", "0.0.0.0:0");
    std::fs::write(&file, text).unwrap();
    assert!(rig.refuses().contains("listen.tls"));
}
