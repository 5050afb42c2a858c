//! Files that are there as a whole or not at all, and policies with the books beside them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{ConfigError, read_text};
use crate::core::approval::Authority;
use crate::core::policy::books::{self, BookFile, Sources};
use crate::core::policy::{Policy, PolicyError};
use crate::core::units::sha256;

/// Replaces a file as a whole: written beside it, fsynced, renamed, directory fsynced.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let fresh = path
        .with_extension(format!("new-{}", hex::encode(sha256(bytes).first_chunk::<4>().unwrap_or(&[0; 4]))));
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    std::fs::File::open(parent)?.sync_all()
}

/// The signed books that a policy names, by file.
pub(super) type Books = BTreeMap<String, Result<BookFile, String>>;

/// Reads a policy text, and the signed books that it names from a directory.
pub fn parse_policy(text: &str, beside: &Path, authority: Option<&Authority>) -> Result<Policy, PolicyError> {
    Policy::read(text, &Sources { files: Some(&books_beside(text, beside)), authority })
}

pub(super) fn books_beside(text: &str, beside: &Path) -> Books {
    let read = |file: &str| {
        let at = beside.join(file);
        let text = read_text(&at).map_err(|e| e.to_string())?;
        // A book that nobody has signed yet is refused for that, with what to do.
        let signatures = match read_text(&beside.join(format!("{file}.sig"))) {
            Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                String::new()
            }
            other => other.map_err(|e| e.to_string())?,
        };
        Ok(BookFile { file: file.to_owned(), text, signatures })
    };
    books::files_of(text).into_iter().map(|file| (file.clone(), read(&file))).collect()
}
