//! Digests of executables and of what they load, each read once where that is enough.
//!
//! A digest is kept only for files that nobody but root can change, on file systems whose word counts; others are
//! read each time. A program that maps a file, dirties it and writes later changes it without changing its times.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::core::app::facts::{FileFacts, Seen};
use crate::sys::memory;

/// Executables above this size are refused, in bytes.
const MAX_FILE: u64 = 512 * 1024 * 1024;

/// The most digests, and descriptors of files, that are kept.
const MAX_KEPT: usize = 512;

/// File systems of this machine's kernel, by the magic numbers of statfs(2). Others, FUSE first among them, say of a
/// file what they please.
const TRUSTED: [i64; 12] = [
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683E, // btrfs
    0xF2F5_2010, // f2fs
    0x794C_7630, // overlay
    0x0102_1994, // tmpfs
    0x8584_58F6, // ramfs
    0xE0F5_E1E2, // erofs
    0x7371_7368, // squashfs
    0x2FC1_2FC1, // zfs
    0xCA45_1A4E, // bcachefs
    0x0000_9660, // iso9660
];

/// Of these, those whose device number in a memory map is the one that stat(2) tells: no two files share a number.
const PLAIN: [i64; 6] = [0xEF53, 0x5846_5342, 0xF2F5_2010, 0x0102_1994, 0xE0F5_E1E2, 0x7371_7368];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FileId {
    dev: u64,
    ino: u64,
    size: u64,
    mtime_ns: i128,
    ctime_ns: i128,
}

impl FileId {
    fn of(meta: &Metadata) -> Self {
        let ns = |s: i64, n: i64| i128::from(s) * 1_000_000_000 + i128::from(n);
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// A file that is kept open: as long as it is, its inode number is nobody else's.
struct Held {
    file: File,
    id: FileId,
    digest: [u8; 32],
    path: PathBuf,
}

/// What was read so far.
#[derive(Default)]
pub(super) struct Files {
    digests: Mutex<HashMap<FileId, [u8; 32]>>,
    held: Mutex<HashMap<(u64, u64), Arc<Held>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    /// What a file is that was opened by name alone (`O_PATH`). Without `read`, its digest only where that is known.
    pub(super) fn facts(&self, file: &File, path: PathBuf, read: bool) -> io::Result<FileFacts> {
        // Before anything is asked of the file: whoever serves the file system could keep us waiting.
        let magic = memory::file_system_of(file.as_fd())?;
        if !TRUSTED.contains(&magic) {
            return Err(io::Error::other(format!(
                "it is on a file system whose word does not count ({magic:#x})"
            )));
        }
        let meta = file.metadata()?;
        let sealed = meta.uid() == 0 && meta.mode() & 0o022 == 0;
        let digest = if read {
            self.digest(file, &meta, sealed).map_err(|e| e.to_string())
        } else {
            let known = lock(&self.digests).get(&FileId::of(&meta)).copied().filter(|_| sealed);
            known.ok_or_else(|| "it was not read".into())
        };
        Ok(FileFacts { path, dev: meta.dev(), ino: meta.ino(), links: meta.nlink(), sealed, digest })
    }

    fn digest(&self, file: &File, meta: &Metadata, sealed: bool) -> io::Result<[u8; 32]> {
        let id = FileId::of(meta);
        if sealed && let Some(digest) = lock(&self.digests).get(&id) {
            return Ok(*digest);
        }
        if !meta.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        if meta.size() > MAX_FILE {
            return Err(io::Error::other("it is too large to be checked"));
        }
        let mut open = reopen(file)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n = open.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hash.update(buffer.get(..n).unwrap_or_default());
        }
        if FileId::of(&open.metadata()?) != id {
            return Err(io::Error::other("it changed while it was read"));
        }
        let digest: [u8; 32] = hash.finalize().into();
        if sealed {
            let mut digests = lock(&self.digests);
            if digests.len() >= MAX_KEPT {
                digests.clear();
            }
            digests.insert(id, digest);
        }
        Ok(digest)
    }

    /// The file of these numbers, as a memory map tells them, when it is kept and has not changed.
    pub(super) fn kept(&self, key: (u64, u64)) -> Option<FileFacts> {
        let held = Arc::clone(lock(&self.held).get(&key)?);
        let meta = held.file.metadata().ok()?;
        (FileId::of(&meta) == held.id).then(|| FileFacts {
            path: held.path.clone(),
            dev: meta.dev(),
            ino: meta.ino(),
            links: meta.nlink(),
            sealed: true,
            digest: Ok(held.digest),
        })
    }

    /// Keeps a mapped file open, where its numbers are its own.
    pub(super) fn keep(&self, key: (u64, u64), file: File, facts: &FileFacts) {
        let plain = memory::file_system_of(file.as_fd()).is_ok_and(|magic| PLAIN.contains(&magic));
        let (Ok(digest), Ok(meta)) = (facts.digest.as_ref(), file.metadata()) else { return };
        if !plain || !facts.sealed || facts.links == 0 || !facts.is(key) {
            return;
        }
        let held = Held { id: FileId::of(&meta), file, digest: *digest, path: facts.path.clone() };
        let mut all = lock(&self.held);
        if all.len() >= MAX_KEPT {
            all.clear();
        }
        all.insert(key, Arc::new(held));
    }
}

/// Opens for reading what was opened by name alone: never a device, and without waiting.
fn reopen(file: &File) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = std::ffi::CString::new(path).map_err(io::Error::other)?;
    let root = File::open("/")?;
    memory::open_below(root.as_fd(), &path, memory::READ).map(File::from)
}

/// Opens by name alone.
pub(super) fn name_only(path: &Path) -> io::Result<File> {
    let text = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::other)?;
    let root = OwnedFd::from(File::open("/")?);
    memory::open_below(root.as_fd(), &text, memory::NAME_ONLY).map(File::from)
}

/// What a file is, for registering it.
pub fn file_facts(path: &Path) -> io::Result<FileFacts> {
    Files::default().facts(&name_only(path)?, path.into(), true)
}

/// SHA-256 of an executable, for registering it.
pub fn executable_digest(path: &Path) -> io::Result<[u8; 32]> {
    file_facts(path)?.digest.map_err(io::Error::other)
}

/// Turns an error into words that say what could not be seen.
pub(super) fn seen<T>(what: &str, outcome: io::Result<T>) -> Seen<T> {
    outcome.map_err(|e| format!("{what}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn digests_are_kept_only_of_what_root_alone_can_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"one").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let files = Files::default();
        let facts = files.facts(&name_only(&path).unwrap(), path.clone(), true).unwrap();
        assert!(!facts.sealed && lock(&files.digests).is_empty());
        assert_eq!(facts.digest, Ok(crate::core::units::sha256(b"one")));
        files.keep((facts.dev, facts.ino), name_only(&path).unwrap(), &facts);
        assert!(files.kept((facts.dev, facts.ino)).is_none());
        let shell = Path::new("/bin/sh");
        let facts = files.facts(&name_only(shell).unwrap(), shell.into(), true).unwrap();
        assert!(facts.sealed && lock(&files.digests).len() == 1);
        files.keep((facts.dev, facts.ino), name_only(shell).unwrap(), &facts);
        assert_eq!(files.kept((facts.dev, facts.ino)).map(|f| f.digest), Some(facts.digest));
        let odd = files.facts(&name_only(Path::new("/proc/self/status")).unwrap(), "x".into(), true);
        assert!(odd.unwrap_err().to_string().contains("does not count"));
    }
}
