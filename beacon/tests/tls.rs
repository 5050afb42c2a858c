//! The beacon beyond its machine: what is agreed on, who may connect, what is told there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests stop where they cannot go on"
)]

mod rig;

use std::net::TcpStream;
use std::sync::Arc;

use rig::{PLAIN, Rig, over, question, ssh_keygen_is_here, vectors};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, NamedGroup, RootCertStore, StreamOwned};
use serde_json::json;

const DEVICE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(vectors(name)).unwrap()
}

fn key(name: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(vectors(name)).unwrap()
}

/// A client of these groups (all, when none are named); gives the group and the status, or why there is none.
fn client(address: &str, groups: &[NamedGroup], own: bool, path: &str) -> Result<(NamedGroup, u16), String> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| groups.is_empty() || groups.contains(&group.name()));
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.pem")).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = if own {
        builder.with_client_auth_cert(vec![certificate("client.pem")], key("client.key")).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    let mut session =
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    session.complete_io(&mut stream).map_err(|e| e.to_string())?;
    let group = session.negotiated_key_exchange_group().unwrap().name();
    let method = if path == "/v1/ask" { "POST" } else { "GET" };
    let body = question(DEVICE, &json!({})).to_string();
    let tls = StreamOwned::new(session, stream);
    // A server that wants a certificate says so after the client thinks that all is well.
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| over(tls, method, path, &body).0));
    asked.map(|status| (group, status)).map_err(|_| "the connection ended".to_owned())
}

fn config(more: &str) -> String {
    let path = |name: &str| vectors(name).canonicalize().unwrap().display().to_string();
    format!(
        "[listen]\ntls = \"127.0.0.1:0\"\ncertificate = \"{}\"\nkey = \"{}\"\n{more}",
        path("server.pem"),
        path("server.key")
    )
}

// [clause 8.2.3-b] test
#[test]
fn session_keys_come_of_ml_kem_too_and_an_older_client_is_served_unless_it_says_otherwise() {
    if !ssh_keygen_is_here() {
        return;
    }
    let (hybrid, plain) = (NamedGroup::X25519MLKEM768, NamedGroup::X25519);
    let rig = Rig::start(&config(""));
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
    let rig = Rig::start(&config("post_quantum = \"require\"\n"));
    let at = rig.addresses[0].clone();
    assert_eq!(client(&at, &[], false, "/v1/ask"), Ok((hybrid, 200)));
    assert!(client(&at, &[plain], false, "/v1/ask").is_err(), "refused");
    // What is no TLS at all gets nothing.
    assert!(
        std::panic::catch_unwind(|| over(TcpStream::connect(&at).unwrap(), "GET", "/healthz", "")).is_err()
    );
}

#[test]
fn with_an_authority_for_clients_nobody_connects_without_a_certificate_of_theirs() {
    if !ssh_keygen_is_here() {
        return;
    }
    let authority = |name: &str| {
        let file = vectors(name).canonicalize().unwrap();
        config(&format!("client_ca = \"{}\"\n", file.display()))
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
