//! What runs in another process's memory: its executable areas and its changed code pages. Reads, never writes.
#![expect(unsafe_code, reason = "part of the room that exists to hold it")]

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const fn read_write(number: libc::c_ulong, bytes: usize) -> libc::c_ulong {
    (3 << 30) | ((bytes as libc::c_ulong) << 16) | (0x66 << 8) | number
}

/// `struct procmap_query` of linux/fs.h (Linux 6.11).
#[repr(C)]
#[derive(Default)]
struct ProcmapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

const PROCMAP_QUERY: libc::c_ulong = read_write(17, size_of::<ProcmapQuery>());
const WRITABLE: u64 = 2;
const EXECUTABLE: u64 = 4;
const COVERING_OR_NEXT: u64 = 0x10;

/// `struct pm_scan_arg` of linux/fs.h (Linux 6.7).
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const PAGEMAP_SCAN: libc::c_ulong = read_write(16, size_of::<ScanArgument>());
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;

/// An area of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// The address after the last.
    pub end: u64,
    /// It may be written to.
    pub writable: bool,
    /// Device of its file, as the kernel numbers file systems; 0 with `inode` 0 for no file.
    pub dev: u64,
    /// Inode of its file.
    pub inode: u64,
    /// What `/proc/PID/maps` calls it: a path, `[vdso]`, or nothing.
    pub name: String,
}

/// The next executable area at or after an address, of the memory that this `maps` was opened on (Linux 6.11).
///
/// `ESRCH` when that memory is gone: the process has ended, or runs another program.
pub fn next_executable(maps: BorrowedFd<'_>, from: u64) -> io::Result<Option<Area>> {
    let mut name = [0_u8; 4096];
    let mut query = ProcmapQuery {
        size: size_of::<ProcmapQuery>() as u64,
        query_flags: EXECUTABLE | COVERING_OR_NEXT,
        query_addr: from,
        vma_name_size: 4096,
        vma_name_addr: name.as_mut_ptr() as u64,
        ..ProcmapQuery::default()
    };
    // SAFETY: the kernel reads and writes `query`, whose size it is told, and at most 4096 bytes of `name`.
    if unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, &raw mut query) } != 0 {
        return match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            e => Err(e),
        };
    }
    let name =
        CStr::from_bytes_until_nul(&name).map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Some(Area {
        start: query.vma_start,
        end: query.vma_end,
        writable: query.vma_flags & WRITABLE != 0,
        dev: libc::makedev(query.dev_major, query.dev_minor),
        inode: query.inode,
        name,
    }))
}

/// Whether the memory that this `maps` was opened on is still there (Linux 6.11): `None` when the kernel cannot say.
#[must_use]
pub fn memory_lives(maps: BorrowedFd<'_>) -> Option<bool> {
    let mut query = ProcmapQuery {
        size: size_of::<ProcmapQuery>() as u64,
        query_flags: COVERING_OR_NEXT,
        ..ProcmapQuery::default()
    };
    // SAFETY: the kernel reads and writes `query`, whose size it is told; no name is asked for.
    if unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, &raw mut query) } == 0 {
        return Some(true);
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => Some(false),
        _ => None,
    }
}

/// Whether a page of these addresses is no longer the file's: somebody wrote to it (Linux 6.7).
pub fn holds_changed_page(pagemap: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<bool> {
    let mut region = [0_u64; 3];
    let mut scan = ScanArgument {
        size: size_of::<ScanArgument>() as u64,
        start,
        end,
        vec: region.as_mut_ptr() as u64,
        vec_len: 1,
        max_pages: 1,
        category_inverted: PAGE_IS_FILE,
        category_mask: PAGE_IS_FILE,
        category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        return_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        ..ScanArgument::default()
    };
    // SAFETY: the kernel reads and writes `scan`, whose size it is told, and at most one region of three words.
    let found = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) };
    if found < 0 { Err(io::Error::last_os_error()) } else { Ok(found > 0) }
}

/// Bytes of a page of memory.
#[must_use]
pub fn page_size() -> u64 {
    // SAFETY: takes an integer, cannot fail for this one.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1)
}

/// Opens a file below a directory that is open already (`openat(2)`, close-on-exec).
pub fn open_below(directory: BorrowedFd<'_>, name: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: an open descriptor and a text that ends with a zero byte.
    let fd = unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Device, inode and owner of what a name below an open directory leads to (`fstatat(2)`).
pub fn identity_below(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<(u64, u64, u32)> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: an open descriptor, a text that ends with a zero byte, and room for one stat.
    if unsafe { libc::fstatat(directory.as_raw_fd(), name.as_ptr(), stat.as_mut_ptr(), 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.st_dev, stat.st_ino, stat.st_uid))
}

/// The magic number of the file system of an open file (`fstatfs(2)`).
pub fn file_system_of(file: BorrowedFd<'_>) -> io::Result<i64> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: an open descriptor and room for one statfs.
    if unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded.
    Ok(unsafe { stat.assume_init() }.f_type)
}

/// `O_PATH`: names a file without opening what is behind it, which never blocks and runs no driver.
pub const NAME_ONLY: libc::c_int = libc::O_PATH;
/// For reading, without waiting for anybody.
pub const READ: libc::c_int = libc::O_RDONLY | libc::O_NONBLOCK;
/// A directory.
pub const DIRECTORY: libc::c_int = libc::O_RDONLY | libc::O_DIRECTORY;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn our_own_code_is_found_and_unchanged() {
        let maps = File::open("/proc/self/maps").unwrap();
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let (mut from, mut seen) = (0, 0);
        while let Some(area) = next_executable(maps.as_fd(), from).unwrap() {
            assert!(!area.writable && area.end > area.start, "{area:?}");
            assert!(!holds_changed_page(pagemap.as_fd(), area.start, area.end).unwrap(), "{area:?}");
            (from, seen) = (area.end, seen + 1);
        }
        assert!(seen >= 2);
        assert_eq!(memory_lives(maps.as_fd()), Some(true));
        assert_eq!(file_system_of(maps.as_fd()).unwrap(), 0x9fa0);
    }

    #[test]
    fn memory_that_is_gone_is_told() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let maps = File::open(format!("/proc/{}/maps", child.id())).unwrap();
        assert_eq!(memory_lives(maps.as_fd()), Some(true));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(memory_lives(maps.as_fd()), Some(false));
    }
}
