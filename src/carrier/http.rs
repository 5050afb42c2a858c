//! The beacon, asked over TLS with the certificates that are named, and no others.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// Longest answer, bytes.
const LONGEST: u64 = 1 << 20;

fn roots(ca: &Path) -> Result<RootCerts, String> {
    let pem = std::fs::read(ca).map_err(|e| format!("{}: {e}", ca.display()))?;
    let found: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        Err(format!("{} holds no certificate", ca.display()))
    } else {
        Ok(RootCerts::new_with_certs(&found))
    }
}

pub(super) fn ask(url: &str, ca: Option<&Path>, body: &str, patience: Duration) -> Result<String, String> {
    let roots = match ca {
        Some(ca) => roots(ca)?,
        // None but the configured ones: without any, no certificate is good.
        None => RootCerts::new_with_certs(&[]),
    };
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(roots)
        .build();
    let agent: Agent = Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(patience))
        .max_redirects(0)
        .max_redirects_will_error(true)
        .proxy(None)
        .build()
        .into();
    let mut answer =
        agent.post(url).header("content-type", "application/json").send(body).map_err(|e| e.to_string())?;
    answer.body_mut().with_config().limit(LONGEST).read_to_string().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/tls");

    /// Answers one request over TLS, with a certificate for localhost that `ca.pem` signed.
    fn server(answer: &'static str) -> u16 {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
        let certificate = CertificateDer::from_pem_file(format!("{VECTORS}/server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(format!("{VECTORS}/server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let session = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            let mut tls = rustls::StreamOwned::new(session, stream);
            let mut head = [0; 1024];
            if tls.read(&mut head).is_ok() {
                let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
                tls.write_all(text.as_bytes()).ok();
                tls.flush().ok();
            }
        });
        port
    }

    // [clause 8.2.3-b] test
    #[test]
    fn a_beacon_is_believed_under_the_named_certificates_and_no_others() {
        let asked = |host: &str, ca: Option<&str>| {
            let url = format!("https://{host}:{}/v1/ask", server("{\"orders\":[]}"));
            let ca = ca.map(|ca| format!("{VECTORS}/{ca}"));
            ask(&url, ca.as_deref().map(Path::new), "{}", Duration::from_secs(5))
        };
        assert_eq!(asked("localhost", Some("ca.pem")).unwrap(), "{\"orders\":[]}");
        assert!(asked("localhost", Some("other.pem")).is_err(), "another authority");
        assert!(asked("localhost", None).is_err(), "none at all");
        assert!(asked("localhost", Some("server.key")).unwrap_err().contains("no certificate"));
        assert!(asked("[::1]", Some("ca.pem")).is_err(), "another name");
    }
}
