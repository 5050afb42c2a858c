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
