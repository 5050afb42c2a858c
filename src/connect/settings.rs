//! The file of root's beside the program, which says for whom it speaks.
#![forbid(unsafe_code)]

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::refuse;
use crate::refusal::Refusal;

/// Longest file, bytes.
const LONGEST: u64 = 64 * 1024;
/// Others than the owner may write.
const OTHERS_WRITE: u32 = 0o022;
/// Only owners take out of a directory what is theirs.
const STICKY: u32 = 0o1000;

/// For whom it speaks, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// The user that is the app's alone.
    pub(super) uid: u32,
    /// The daemon's socket.
    pub(super) socket: PathBuf,
    /// The user that opened it.
    pub(super) daemon: u32,
    /// What its starter must be, where that is said.
    pub(super) programs: Vec<PathBuf>,
}

impl Settings {
    /// Of `claviger-connect.conf` beside `claviger-connect`.
    pub(super) fn beside_this_program() -> Result<Self, Refusal> {
        let cannot = |e: std::io::Error| refuse(format!("its own place cannot be found: {e}"));
        let program = std::fs::read_link("/proc/self/exe").map_err(cannot)?;
        let own = std::fs::metadata("/proc/self/exe").map_err(cannot)?;
        // A second name could stand beside another file.
        if own.uid() != 0 || own.mode() & OTHERS_WRITE != 0 || own.nlink() != 1 {
            let why = format!("{} is not root's alone, or has more names than one", program.display());
            return Err(refuse(why));
        }
        let mut file = program.clone().into_os_string();
        file.push(".conf");
        Self::read(Path::new(&file))
    }

    fn read(path: &Path) -> Result<Self, Refusal> {
        let place = path.display();
        for directory in path.ancestors().skip(1) {
            let meta = std::fs::symlink_metadata(directory)
                .map_err(|e| refuse(format!("{} cannot be seen: {e}", directory.display())))?;
            if meta.uid() != 0 || (meta.mode() & OTHERS_WRITE != 0 && meta.mode() & STICKY == 0) {
                let why = format!("others than root can change {}, where {place} is", directory.display());
                return Err(refuse(why));
            }
        }
        let cannot = |e: std::io::Error| refuse(format!("{place} cannot be read: {e}"));
        let mut options = OpenOptions::new();
        let file: File = options
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(cannot)?;
        let meta = file.metadata().map_err(cannot)?;
        if !is_roots_file(&meta) || meta.len() > LONGEST {
            return Err(refuse(format!("{place} is not a file of root's that only root can change")));
        }
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).map_err(cannot)?;
        Self::parse(&text).map_err(|why| refuse(format!("{place}, {why}")))
    }

    /// Lines of `key = value`; `#` begins a comment.
    fn parse(text: &str) -> Result<Self, String> {
        let (mut uid, mut socket, mut daemon, mut programs) = (None, None, None, Vec::new());
        for (n, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let wrong = |why: &str| format!("line {}: {why}", n + 1);
            let (key, value) = line.split_once('=').ok_or_else(|| wrong("it is no key = value"))?;
            let (key, value) = (key.trim(), value.trim());
            let number = || value.parse::<u32>().map_err(|_| wrong("it must be the number of a user"));
            let path = || {
                Some(PathBuf::from(value))
                    .filter(|p| p.is_absolute())
                    .ok_or_else(|| wrong("it must be a whole path"))
            };
            let twice = match key {
                "uid" => uid.replace(number()?).is_some(),
                "daemon" => daemon.replace(number()?).is_some(),
                "socket" => socket.replace(path()?).is_some(),
                "program" => {
                    programs.push(path()?);
                    false
                }
                _ => return Err(wrong("its key is none of uid, socket, daemon and program")),
            };
            if twice {
                return Err(wrong("its key stands there twice"));
            }
        }
        // The superuser is no app: it needs nobody to speak for it.
        let uid = uid.filter(|uid| *uid != 0).ok_or("it names no uid other than 0")?;
        let socket = socket.ok_or("it names no socket")?;
        Ok(Self { uid, socket, daemon: daemon.unwrap_or(0), programs })
    }
}

/// A plain file that only root can change.
pub(super) fn is_roots_file(meta: &Metadata) -> bool {
    meta.is_file() && meta.uid() == 0 && meta.mode() & OTHERS_WRITE == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_or_refused_by_its_line() {
        let good =
            "# whose\nuid = 990\nsocket=/run/claviger/wallet.sock # where\n\nprogram = /usr/bin/node\n";
        let read = Settings::parse(good).unwrap();
        assert_eq!((read.uid, read.daemon, read.programs.len()), (990, 0, 1));
        let example = Settings::parse(include_str!("../../config/examples/claviger-connect.conf")).unwrap();
        assert_eq!((example.uid, example.socket), (990, read.socket));
        for (bad, why) in [
            ("socket = /s", "no uid"),
            ("uid = 0\nsocket = /s", "other than 0"),
            ("uid = 5", "no socket"),
            ("uid = 5\nuid = 6\nsocket = /s", "line 2: its key stands there twice"),
            ("uid = -1", "line 1: it must be the number"),
            ("uid = 5\nsocket = s", "line 2: it must be a whole path"),
            ("uid = 5\nany = 1", "line 2: its key is none of"),
            ("uid", "line 1: it is no key"),
        ] {
            let told = Settings::parse(bad).unwrap_err();
            assert!(told.contains(why), "{bad:?}: {told}");
        }
    }

    #[test]
    fn a_file_that_others_can_change_or_replace_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("claviger-connect.conf");
        std::fs::write(&path, "uid = 5\nsocket = /s\n").unwrap();
        let set = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        set(&path, 0o664);
        assert!(Settings::read(&path).is_err(), "its group may write");
        set(&path, 0o644);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Settings::read(&link).is_err(), "a link leads to it");
        set(dir.path(), 0o777);
        assert!(Settings::read(&path).is_err(), "others may replace it");
        set(dir.path(), 0o755);
        assert_eq!(Settings::read(&path).is_ok(), crate::sys::effective_uid() == 0, "it is root's or not");
    }
}
