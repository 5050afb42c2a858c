//! What a process executes: each executable area of its memory, the file behind it, and whether its pages are still the
//! file's. In binary form where the kernel has it, else from the text of `/proc/PID/maps` and `pagemap`.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::files::{Files, name_only, seen};
use crate::core::app::facts::{Changed, Code, FileFacts, Seen};
use crate::sys::memory::{self, Area};

/// The most executable areas of one process, and the longest memory map in bytes.
const MOST_AREAS: usize = 16_384;
const LONGEST_MAP: usize = 16 << 20;

/// In `pagemap`, one 64-bit word a page: bit 61 says that it is the file's (or shared), 62 swapped, 63 present.
const OF_FILE: u64 = 1 << 61;
const THERE: u64 = 3 << 62;

/// Whether the memory that this map was opened on is still there.
pub(super) fn lives(maps: BorrowedFd<'_>) -> bool {
    memory::memory_lives(maps).unwrap_or_else(|| {
        // A map of nothing is empty.
        maps.try_clone_to_owned()
            .map(File::from)
            .is_ok_and(|maps| matches!(maps.read_at(&mut [0; 1], 0), Ok(1)))
    })
}

/// All executable areas.
fn executable(maps: &File) -> io::Result<Vec<Area>> {
    let (mut found, mut from) = (Vec::new(), 0);
    loop {
        match memory::next_executable(maps.as_fd(), from) {
            Ok(None) => return Ok(found),
            Ok(Some(area)) if found.len() < MOST_AREAS && area.end > from => {
                from = area.end;
                found.push(area);
            }
            Ok(Some(_)) => return Err(io::Error::other("too many executable areas")),
            Err(e) if unknown(&e) && found.is_empty() => return from_text(maps),
            Err(e) => return Err(e),
        }
    }
}

/// The kernel knows no such call.
fn unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL | libc::EOPNOTSUPP))
}

fn from_text(maps: &File) -> io::Result<Vec<Area>> {
    let (mut text, mut chunk) = (Vec::new(), vec![0; 65_536]);
    loop {
        match maps.read_at(&mut chunk, text.len() as u64)? {
            0 => break,
            n => text.extend_from_slice(chunk.get(..n).unwrap_or_default()),
        }
        if text.len() > LONGEST_MAP {
            return Err(io::Error::other("the memory map is too long"));
        }
    }
    let text = String::from_utf8_lossy(&text);
    let mut found = Vec::new();
    for line in text.lines() {
        let (area, executable) =
            parse(line).ok_or_else(|| io::Error::other("a line of the memory map is not understood"))?;
        if executable {
            found.push(area);
        }
    }
    Ok(found)
}

/// A line of `/proc/PID/maps`, and whether it is executed. The kernel's `[vsyscall]` is no memory of the process.
fn parse(line: &str) -> Option<(Area, bool)> {
    let mut parts = line.splitn(6, ' ');
    let (addresses, may, _offset, device, inode) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let name = parts.next().unwrap_or_default().trim_start();
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = addresses.split_once('-')?;
    let (major, minor) = device.split_once(':')?;
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let area = Area {
        start: hex(start)?,
        end: hex(end)?,
        writable: may.contains('w'),
        dev: libc::makedev(number(major)?, number(minor)?),
        inode: inode.parse().ok()?,
        name: name.to_owned(),
    };
    Some((area, may.contains('x') && name != "[vsyscall]"))
}

/// Whether a page of the area is no longer the file's.
fn changed(pagemap: &File, area: &Area) -> io::Result<bool> {
    match memory::holds_changed_page(pagemap.as_fd(), area.start, area.end) {
        Err(e) if unknown(&e) => changed_one_by_one(pagemap, area),
        outcome => outcome,
    }
}

fn changed_one_by_one(pagemap: &File, area: &Area) -> io::Result<bool> {
    let size = memory::page_size();
    let (mut page, last) = (area.start / size, area.end / size);
    let mut words = vec![0; 64 * 1024];
    while page < last {
        let wanted = usize::try_from((last - page).saturating_mul(8)).unwrap_or(usize::MAX).min(words.len());
        let part = words.get_mut(..wanted).unwrap_or_default();
        pagemap.read_exact_at(part, page.saturating_mul(8))?;
        let (whole, _) = part.as_chunks::<8>();
        if whole.iter().map(|w| u64::from_le_bytes(*w)).any(|w| w & THERE != 0 && w & OF_FILE == 0) {
            return Ok(true);
        }
        page = page.saturating_add(whole.len() as u64);
    }
    Ok(false)
}

/// The file behind an area: the mapped one itself, or, without the privilege, the one of that name if it is the same.
fn file(files: &Files, directory: BorrowedFd<'_>, area: &Area) -> Seen<FileFacts> {
    let key = (area.dev, area.inode);
    if let Some(kept) = files.kept(key) {
        return Ok(kept);
    }
    let path = PathBuf::from(area.name.strip_suffix(" (deleted)").unwrap_or(&area.name));
    let link = std::ffi::CString::new(format!("map_files/{:x}-{:x}", area.start, area.end));
    let link = seen("mapped file", link.map_err(io::Error::other))?;
    let mapped = memory::open_below(directory, &link, memory::NAME_ONLY).map(File::from);
    let file = match mapped {
        Ok(file) => file,
        Err(_) => by_name(&path, key)?,
    };
    let facts = seen("mapped file", files.facts(&file, path, true))?;
    files.keep(key, file, &facts);
    Ok(facts)
}

fn by_name(path: &Path, key: (u64, u64)) -> Seen<File> {
    use std::os::unix::fs::MetadataExt;
    let file = seen(&path.to_string_lossy(), name_only(path))?;
    let meta = seen(&path.to_string_lossy(), file.metadata())?;
    if (meta.dev(), meta.ino()) == key {
        Ok(file)
    } else {
        Err(format!("{} could not be told to be the mapped file", path.display()))
    }
}

/// What is executed.
pub(super) fn code(
    files: &Files,
    directory: BorrowedFd<'_>,
    maps: &File,
    pagemap: &Seen<File>,
) -> Seen<Code> {
    let areas = seen("memory map", executable(maps))?;
    let mut code = Code::default();
    let mut known: Vec<(u64, u64)> = Vec::new();
    let mut altered = Vec::new();
    let mut unseen = pagemap.as_ref().err().cloned();
    for area in &areas {
        let says = || format!("{:x}-{:x} {}", area.start, area.end, area.name);
        if area.writable {
            code.writable.push(says());
        }
        if area.inode != 0 {
            let key = (area.dev, area.inode);
            if !known.contains(&key) {
                known.push(key);
                code.files.push(file(files, directory, area).unwrap_or_else(|why| FileFacts {
                    path: PathBuf::from(&area.name),
                    dev: area.dev,
                    ino: area.inode,
                    links: u64::from(!area.name.ends_with(" (deleted)")),
                    sealed: false,
                    digest: Err(why),
                }));
            }
        } else if area.name != "[vdso]" {
            // The kernel's own page alone has this name without a file; names that a process gives begin with "[anon:".
            code.anonymous.push(says());
            continue;
        }
        match pagemap.as_ref().map(|pagemap| changed(pagemap, area)) {
            Ok(Ok(true)) => altered.push(says()),
            Ok(Ok(false)) => {}
            Ok(Err(e)) => unseen = Some(format!("page map: {e}")),
            Err(_) => {}
        }
    }
    code.changed = Changed(match unseen {
        Some(why) if altered.is_empty() => Err(why),
        _ => Ok(altered),
    });
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_binary_form_say_the_same_of_our_own_code() {
        let maps = File::open("/proc/self/maps").unwrap();
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let text = from_text(&maps).unwrap();
        assert_eq!(executable(&maps).unwrap(), text);
        for area in &text {
            assert!(!changed(&pagemap, area).unwrap() && !changed_one_by_one(&pagemap, area).unwrap());
        }
        // What was written to is found by both.
        let stack = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = stack.lines().find(|l| l.contains("[heap]") || l.contains("[stack]")).unwrap();
        let (heap, executable) = parse(line).unwrap();
        assert!(heap.writable && !executable);
        assert!(changed(&pagemap, &heap).unwrap() && changed_one_by_one(&pagemap, &heap).unwrap());
        assert!(parse("nonsense").is_none() && parse("1-2 r-xp 0 zz:0 0").is_none());
    }
}
