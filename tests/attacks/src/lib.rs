//! A library that is brought into an app, and one that makes a program look like the app.

use std::ffi::{CStr, OsStr, c_char};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

/// `struct prctl_mm_map` of linux/prctl.h.
#[repr(C)]
struct MemoryMap {
    words: [u64; 11],
    auxv: *const u64,
    auxv_size: u32,
    exe_fd: u32,
}

const PR_SET_MM: i32 = 35;
const PR_SET_MM_MAP: u64 = 14;

/// Drops the executable from memory, has the kernel show another one, and asks the daemon.
///
/// # Safety
/// Three texts that end with zero bytes. Never returns: the caller's code is gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spoof(socket: *const c_char, request: *const c_char, program: *const c_char) -> ! {
    // SAFETY: the caller's word.
    let text = |t| unsafe { CStr::from_ptr(t) }.to_bytes().to_vec();
    let (socket, request, program) = (text(socket), text(request), text(program));
    let app = std::fs::File::open(OsStr::from_bytes(&program)).expect("the app");
    let ours = std::fs::read_link("/proc/self/exe").expect("a link").to_string_lossy().into_owned();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let stat = std::fs::read_to_string("/proc/self/stat").expect("stat");
    let after = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect::<Vec<_>>();
    // Fields of proc(5), counted from the third.
    let field = |n: usize| after[n - 3].parse::<u64>().expect("a number");
    let (heap, stack) = (field(47), field(28));
    let area = |name: &str| {
        let line = maps.lines().find(|l| l.ends_with(name)).unwrap_or_default();
        let (start, end) = line.split(' ').next().unwrap_or_default().split_once('-').unwrap_or_default();
        (u64::from_str_radix(start, 16).unwrap_or(0), u64::from_str_radix(end, 16).unwrap_or(0))
    };
    let (data, _) = area("[stack]");
    for line in maps.lines().filter(|l| l.ends_with(&ours)) {
        let (start, rest) = line.split_once('-').expect("addresses");
        let start = usize::from_str_radix(start, 16).expect("hex");
        let end = usize::from_str_radix(rest.split(' ').next().expect("an end"), 16).expect("hex");
        // SAFETY: nothing of the executable is used any more.
        assert_eq!(unsafe { libc::munmap(start as *mut _, end - start) }, 0);
    }
    let map = MemoryMap {
        words: [data, data + 4096, data, data, heap, heap, stack, stack, stack, stack, stack],
        auxv: std::ptr::null(),
        auxv_size: 0,
        exe_fd: app.as_raw_fd() as u32,
    };
    let size = size_of::<MemoryMap>();
    // SAFETY: a map of the size that is given.
    let failed = unsafe { libc::prctl(PR_SET_MM, PR_SET_MM_MAP, &raw const map, size, 0) } != 0;
    if failed {
        println!("{}", std::io::Error::last_os_error());
    } else {
        let mut stream = UnixStream::connect(OsStr::from_bytes(&socket)).expect("connect");
        stream.write_all(&request).and_then(|()| stream.write_all(b"\n")).expect("write");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("read");
        print!("{line}");
    }
    std::io::stdout().flush().expect("stdout");
    // SAFETY: ends at once.
    unsafe { libc::_exit(0) }
}
