//! The beacon, asked over TLS 1.3 with the certificates that are named, and no others.
//!
//! The keys of a session come of X25519 and ML-KEM-768 together (X25519MLKEM768), so that what passes today is not read by
//! a quantum computer later; a beacon that does not know it gets X25519, unless the configuration says otherwise.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::NamedGroup;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use ureq::tls::{ClientCert, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Proxy};

use super::Way;

/// Longest answer, bytes.
const LONGEST: u64 = 1 << 20;
/// How long a connection may take to be made: on a way that is cut, the next try is soon.
const CONNECT: Duration = Duration::from_secs(5);

fn pem(file: &Path) -> Result<Vec<PemItem<'static>>, String> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let bytes = std::fs::read(file).map_err(|e| failed(&e))?;
    parse_pem(&bytes).collect::<Result<_, _>>().map_err(|e| failed(&e))
}

fn certificates(file: &Path) -> Result<Vec<ureq::tls::Certificate<'static>>, String> {
    let found: Vec<_> = pem(file)?
        .into_iter()
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() { Err(format!("{} holds no certificate", file.display())) } else { Ok(found) }
}

fn own(certificate: &Path, key: &Path) -> Result<ClientCert, String> {
    let found = pem(key)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    let found = found.ok_or_else(|| format!("{} holds no private key", key.display()))?;
    Ok(ClientCert::new_with_certs(&certificates(certificate)?, found))
}

/// TLS 1.3 alone: without suites of 1.2 the library does not offer it.
fn provider(post_quantum_only: bool) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    if post_quantum_only {
        provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519MLKEM768);
    }
    provider
}

/// Asks one beacon; keeps the connection between two questions.
#[derive(Clone, Debug)]
pub struct Asker {
    agent: Agent,
    url: String,
}

impl Asker {
    /// Reads the certificates.
    pub fn new(way: &Way) -> Result<Self, String> {
        // None but the configured ones: without any, no certificate is good.
        let roots = way.ca.as_deref().map(certificates).transpose()?.unwrap_or_default();
        let own = way.own.as_ref().map(|(certificate, key)| own(certificate, key)).transpose()?;
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(provider(way.post_quantum_only)))
            .root_certs(RootCerts::new_with_certs(&roots))
            .client_cert(own)
            .build();
        let proxy = way.proxy.as_deref().map(Proxy::new).transpose().map_err(|e| e.to_string())?;
        let agent: Agent = Agent::config_builder()
            .tls_config(tls)
            .timeout_connect(Some(CONNECT))
            .max_redirects(0)
            .max_redirects_will_error(true)
            .proxy(proxy)
            .build()
            .into();
        Ok(Self { agent, url: format!("{}/v1/ask", way.url) })
    }

    /// Gives the answer, at most a megabyte. Blocking.
    pub fn ask(&self, body: &str, patience: Duration) -> Result<String, String> {
        let mut answer = self
            .agent
            .post(&self.url)
            .config()
            .timeout_global(Some(patience))
            .build()
            .header("content-type", "application/json")
            .send(body)
            .map_err(|e| e.to_string())?;
        answer.body_mut().with_config().limit(LONGEST).read_to_string().map_err(|e| e.to_string())
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
