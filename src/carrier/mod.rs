//! EDGE. The ways on which orders and leases come by themselves: a directory, and a beacon on the network. [clause 8.2.1]
//!
//! Carries bytes and believes none of them: what a document is worth, its signatures say.
#![forbid(unsafe_code)]

#[cfg(feature = "pull")]
mod http;

use std::path::{Path, PathBuf};

/// Most documents of one directory.
pub const MOST: usize = 64;
/// Most signatures beside one, and the longest file in bytes.
const MOST_SIGNATURES: usize = 8;
const LONGEST: u64 = 4096;

/// A document, and the signatures beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub path: PathBuf,
    /// The document.
    pub text: String,
    /// FILE.sig, FILE.WHO.sig.
    pub signatures: Vec<String>,
}

/// Reads a small regular file; a pipe or a device is not opened.
fn small(path: &Path) -> Option<String> {
    use std::io::Read;
    let meta = std::fs::symlink_metadata(path).ok()?;
    if !meta.is_file() || meta.len() > LONGEST {
        return None;
    }
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The documents in a directory that have a signature, by name. A directory that is not there holds none.
pub fn look_into(directory: &Path) -> std::io::Result<Vec<Found>> {
    let entries = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names: Vec<String> = entries
        .take(MOST * (MOST_SIGNATURES + 2))
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    let ends = |name: &str, with: &str| name.rsplit_once('.').is_some_and(|(_, end)| end == with);
    let is_document = |name: &&String| ends(name, "order") || ends(name, "lease");
    let found = names.iter().filter(is_document).take(MOST).filter_map(|name| {
        let is_beside = |other: &&String| {
            other.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.') && ends(rest, "sig"))
        };
        let signatures: Vec<String> = names
            .iter()
            .filter(is_beside)
            .take(MOST_SIGNATURES)
            .filter_map(|other| small(&directory.join(other)))
            .collect();
        let path = directory.join(name);
        let text = small(&path)?;
        (!signatures.is_empty()).then_some(Found { path, text, signatures })
    });
    Ok(found.collect())
}

/// How a beacon is reached.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// Its address, without what is asked there.
    pub url: String,
    /// The certificates that count for it, PEM.
    pub ca: Option<PathBuf>,
    /// Certificate and key of this device, PEM.
    pub own: Option<(PathBuf, PathBuf)>,
    /// `http://HOST:PORT` of a proxy.
    pub proxy: Option<String>,
    /// Nothing but a hybrid key exchange.
    pub post_quantum_only: bool,
}

#[cfg(feature = "pull")]
pub use http::Asker;

/// This build asks nobody.
#[cfg(not(feature = "pull"))]
#[derive(Clone, Debug)]
pub struct Asker;

#[cfg(not(feature = "pull"))]
impl Asker {
    /// Refuses.
    pub fn new(_: &Way) -> Result<Self, String> {
        Err("this build asks nobody: build it with --features pull".into())
    }

    /// Refuses.
    pub fn ask(&self, _: &str, _: std::time::Duration) -> Result<String, String> {
        Err("this build asks nobody: build it with --features pull".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_documents_with_their_signatures_and_nothing_that_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert!(look_into(&dir.path().join("missing")).unwrap().is_empty());
        put("a.order", "A");
        put("a.order.sig", "1");
        put("a.order.gus.sig", "2");
        put("b.order", "without a signature");
        put("c.lease", "C");
        put("c.lease.sig", "3");
        put("d.order.sig", "without a document");
        put("e.order", &"x".repeat(5000));
        put("e.order.sig", "4");
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("f.order")).unwrap();
        put("f.order.sig", "5");
        let found = look_into(dir.path()).unwrap();
        let told: Vec<(&str, usize)> = found.iter().map(|f| (f.text.as_str(), f.signatures.len())).collect();
        assert_eq!(told, [("A", 2), ("C", 1)]);
    }
}
