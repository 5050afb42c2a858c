use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{ProtocolVersion, RootCertStore, ServerConfig};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/tls");

fn path(name: &str) -> std::path::PathBuf {
    format!("{VECTORS}/{name}").into()
}

/// What a server saw of one client.
#[derive(Debug, PartialEq)]
struct Seen {
    group: NamedGroup,
    version: ProtocolVersion,
    has_certificate: bool,
}

/// Answers each request of each connection over TLS, with a certificate for localhost that `ca.pem` signed.
fn server(groups: &'static [NamedGroup], asks_for_certificates: bool) -> (u16, Receiver<Seen>) {
    let certificate = CertificateDer::from_pem_file(path("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(path("server.key")).unwrap();
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| groups.is_empty() || groups.contains(&group.name()));
    let provider = Arc::new(provider);
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap();
    let config = if asks_for_certificates {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(path("clients.pem")).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        config.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        config.with_no_client_auth()
    };
    let config = Arc::new(config.with_single_cert(vec![certificate], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, seen) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = rustls::StreamOwned::new(session, stream.unwrap());
            let (mut told, mut request, mut chunk) = (false, Vec::new(), [0; 1024]);
            while let Ok(count @ 1..) = tls.read(&mut chunk) {
                request.extend_from_slice(&chunk[..count]);
                // Head and body may come one after the other.
                if !request.ends_with(b"{}") {
                    continue;
                }
                request.clear();
                if !told {
                    let seen = Seen {
                        group: tls.conn.negotiated_key_exchange_group().unwrap().name(),
                        version: tls.conn.protocol_version().unwrap(),
                        has_certificate: tls.conn.peer_certificates().is_some(),
                    };
                    tell.send(seen).ok();
                }
                told = true;
                let answer = "{\"orders\":[]}";
                let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
                tls.write_all(text.as_bytes()).ok();
                tls.flush().ok();
            }
        }
    });
    (port, seen)
}

fn way(port: u16) -> Way {
    Way { url: format!("https://localhost:{port}"), ca: Some(path("ca.pem")), ..Way::default() }
}

fn asked(way: &Way) -> Result<String, String> {
    Asker::new(way)?.ask("{}", Duration::from_secs(5))
}

// [clause 8.2.3-b] test
#[test]
fn a_beacon_is_believed_under_the_named_certificates_and_no_others() {
    let port = server(&[], false).0;
    let with = |host: &str, ca: Option<&str>| {
        asked(&Way { url: format!("https://{host}:{port}"), ca: ca.map(path), ..Way::default() })
    };
    assert_eq!(with("localhost", Some("ca.pem")).unwrap(), "{\"orders\":[]}");
    assert!(with("localhost", Some("other.pem")).is_err(), "another authority");
    assert!(with("localhost", None).is_err(), "none at all");
    assert!(with("localhost", Some("server.key")).unwrap_err().contains("no certificate"));
    assert!(with("[::1]", Some("ca.pem")).is_err(), "another name");
}

// [clause 8.2.3-b] test
#[test]
fn session_keys_come_of_ml_kem_and_x25519_together_where_both_sides_know_it() {
    let agreed = |groups, post_quantum_only| {
        let (port, seen) = server(groups, false);
        asked(&Way { post_quantum_only, ..way(port) })?;
        Ok::<Seen, String>(seen.recv_timeout(Duration::from_secs(5)).unwrap())
    };
    let tls13 = |group| Seen { group, version: ProtocolVersion::TLSv1_3, has_certificate: false };
    assert_eq!(agreed(&[], false), Ok(tls13(NamedGroup::X25519MLKEM768)));
    assert_eq!(agreed(&[], true), Ok(tls13(NamedGroup::X25519MLKEM768)));
    assert_eq!(agreed(&[NamedGroup::X25519], false), Ok(tls13(NamedGroup::X25519)), "an older beacon");
    assert!(agreed(&[NamedGroup::X25519], true).is_err(), "refused where it is required");
}

#[test]
fn a_device_shows_its_certificate_where_it_is_asked_and_has_one() {
    let (port, seen) = server(&[], true);
    assert!(asked(&way(port)).is_err(), "it has none");
    let own = Some((path("client.pem"), path("client.key")));
    asked(&Way { own, ..way(port) }).unwrap();
    assert!(seen.recv_timeout(Duration::from_secs(5)).unwrap().has_certificate);
    let own = Some((path("client.pem"), path("ca.pem")));
    assert!(asked(&Way { own, ..way(port) }).unwrap_err().contains("no private key"));
}

#[test]
fn the_connection_is_kept_between_two_questions() {
    let (port, seen) = server(&[], false);
    let asker = Asker::new(&way(port)).unwrap();
    for _ in 0..3 {
        asker.ask("{}", Duration::from_secs(5)).unwrap();
    }
    assert!(seen.recv_timeout(Duration::from_secs(5)).is_ok());
    assert!(seen.try_recv().is_err(), "one handshake");
}

/// A proxy that knows CONNECT and nothing else; tells what it was asked for, and the first bytes that passed.
fn proxy() -> (u16, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut near, mut head, mut byte) = (stream.unwrap(), Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && near.read(&mut byte).is_ok_and(|n| n > 0) {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().to_owned();
            let mut far = TcpStream::connect(&target).unwrap();
            near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
            let (mut back, mut there) = (far.try_clone().unwrap(), near.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut there));
            let mut first = vec![0; 3];
            near.read_exact(&mut first).unwrap();
            far.write_all(&first).unwrap();
            tell.send((target, first)).ok();
            std::io::copy(&mut near, &mut far).ok();
        }
    });
    (port, told)
}

#[test]
fn a_proxy_on_the_way_sees_tls_and_is_believed_nothing() {
    let ((port, seen), (proxy, told)) = (server(&[], false), proxy());
    let proxy = Some(format!("http://127.0.0.1:{proxy}"));
    let answer = asked(&Way { proxy: proxy.clone(), ..way(port) }).unwrap();
    assert_eq!(answer, "{\"orders\":[]}");
    let (target, first) = told.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(target, format!("localhost:{port}"));
    assert_eq!(first, [22, 3, 1], "a TLS handshake, and nothing readable");
    assert_eq!(seen.recv_timeout(Duration::from_secs(5)).unwrap().group, NamedGroup::X25519MLKEM768);
    assert!(
        asked(&Way { proxy, ca: Some(path("other.pem")), ..way(port) }).is_err(),
        "another beacon behind it"
    );
    let away = Some("http://127.0.0.1:1".to_owned());
    assert!(asked(&Way { proxy: away, ..way(port) }).is_err(), "it is not gone around");
}
