//! Files that are there as a whole or not at all.
#![forbid(unsafe_code)]

use std::path::Path;

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
