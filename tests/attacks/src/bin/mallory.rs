//! Another program of the same user, that wants a payment signed in the app's name. `mallory ATTACK ARGUMENTS…`.
//!
//! Says `ready` when it has done what it can, or the error that the kernel stopped it with; where it holds a connection,
//! the daemon's reply follows.

use std::ffi::{CStr, CString, c_void};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["ask", socket, request] => ask(socket, request),
        ["write", fd, request] => write_on(fd, request),
        ["trace", pid] => trace(pid),
        ["flicker", pid] => flicker(pid),
        ["patch", pid, program] => patch(pid, program),
        ["poke", pid] => poke(pid),
        ["steal", pid, fd, request] => steal(pid, fd, request),
        ["rights", socket, request] => rights(socket, request),
        ["memfd", program, ref rest @ ..] => memfd(program, rest),
        ["write-then-exec", socket, request, program] => write_then_exec(socket, request, program),
        ["fork-then-exec", socket, request, program] => fork_then_exec(socket, request, program, false),
        ["forge", socket, request, program] => fork_then_exec(socket, request, program, true),
        ["clone", socket, request, program] => clone_memory(socket, request, program),
        ["leave", socket, request] => leave(socket, request),
        ["supervise", program, ref rest @ ..] => supervise(program, rest),
        ["spoof", library, socket, request, program] => spoof(library, socket, request, program),
        ["dirty", file] => dirty(file),
        _ => Err(io::Error::other(format!("{words:?}"))),
    };
    if let Err(e) = outcome {
        println!("{e}");
        std::process::exit(1);
    }
}

fn done(status: i64) -> io::Result<i64> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(status) }
}

fn number(text: &str) -> i32 {
    text.parse().expect("a number")
}

fn say(word: &str) {
    println!("{word}");
    io::stdout().flush().expect("stdout");
}

fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

/// Waits until standard input says so.
fn wait() {
    io::stdin().read_line(&mut String::new()).expect("stdin");
}

fn reply(stream: &UnixStream) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    print!("{line}");
    io::stdout().flush()
}

fn ask(socket: &str, request: &str) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    reply(&stream)
}

fn write_on(fd: &str, request: &str) -> io::Result<()> {
    // SAFETY: inherited from the program before this one.
    let mut stream = unsafe { UnixStream::from_raw_fd(number(fd)) };
    stream.write_all(format!("{request}\n").as_bytes())?;
    reply(&stream)
}

fn seize(task: i32) -> io::Result<i64> {
    // SAFETY: integers.
    done(unsafe { libc::ptrace(libc::PTRACE_SEIZE, task, 0, 0) })
}

fn trace(task: &str) -> io::Result<()> {
    seize(number(task))?;
    say("ready");
    forever()
}

/// Attaches, and lets go before anybody looks.
fn flicker(task: &str) -> io::Result<()> {
    let task = number(task);
    seize(task)?;
    // SAFETY: integers.
    done(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, task, 0, 0) })?;
    // SAFETY: no status is wanted.
    done(i64::from(unsafe { libc::waitpid(task, std::ptr::null_mut(), libc::__WALL) }))?;
    // SAFETY: integers.
    done(unsafe { libc::ptrace(libc::PTRACE_DETACH, task, 0, 0) })?;
    say("ready");
    Ok(())
}

/// Writes into the app's code.
fn patch(pid: &str, program: &str) -> io::Result<()> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line = maps.lines().find(|l| l.contains("r-xp") && l.ends_with(program)).expect("its code");
    let start = u64::from_str_radix(line.split('-').next().expect("an address"), 16).expect("hex");
    let memory = std::fs::OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
    let mut byte = [0];
    memory.read_exact_at(&mut byte, start)?;
    memory.write_all_at(&byte, start)?;
    say("ready");
    Ok(())
}

/// Writes into the app's data.
fn poke(pid: &str) -> io::Result<()> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line = maps.lines().find(|l| l.ends_with("[stack]")).expect("a stack");
    let end = line.split(['-', ' ']).nth(1).expect("an address");
    let at = usize::from_str_radix(end, 16).expect("hex") - 8;
    let mut word = 0_u64;
    let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: at as *mut c_void, iov_len: 8 };
    // SAFETY: our own word, and an address of another process that the kernel checks.
    done(unsafe { libc::process_vm_writev(number(pid), &raw const local, 1, &raw const remote, 1, 0) } as i64)?;
    say("ready");
    Ok(())
}

fn steal(pid: &str, fd: &str, request: &str) -> io::Result<()> {
    // SAFETY: integers.
    let pidfd = done(unsafe { libc::syscall(libc::SYS_pidfd_open, number(pid), 0) })?;
    // SAFETY: integers.
    let stolen = done(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, number(fd), 0) })?;
    write_on(&stolen.to_string(), request)
}

fn send(stream: &UnixStream, bytes: &[u8], kind: i32, data: &[u8]) -> io::Result<()> {
    let mut control = [0_u64; 16];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: plain data; the control buffer has room for one small message.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(data.len() as u32) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(data.len() as u32) as usize;
        libc::CMSG_DATA(header).copy_from_nonoverlapping(data.as_ptr(), data.len());
        done(libc::sendmsg(stream.as_raw_fd(), &raw const message, 0) as i64).map(drop)
    }
}

/// Sends descriptors beside the request.
fn rights(socket: &str, request: &str) -> io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    send(&stream, request.as_bytes(), libc::SCM_RIGHTS, &stream.as_raw_fd().to_ne_bytes())?;
    reply(&stream)
}

/// The very bytes of the app, from memory.
fn memfd(program: &str, rest: &[&str]) -> io::Result<()> {
    // SAFETY: a name that ends with a zero byte.
    let fd = done(i64::from(unsafe { libc::memfd_create(c"app".as_ptr(), 0) }))?;
    // SAFETY: a new descriptor.
    let mut file = unsafe { File::from_raw_fd(fd as i32) };
    let mut bytes = Vec::new();
    File::open(program)?.read_to_end(&mut bytes)?;
    file.write_all(&bytes)?;
    let fd = file.into_raw_fd();
    Err(Command::new(format!("/proc/self/fd/{fd}")).args(rest).exec())
}

/// The parent becomes the app, which inherits nothing; what it is given to read never ends.
fn become_app(program: &str) -> io::Error {
    Command::new(program).arg("/nonexistent").arg("idle").exec()
}

/// Connects and asks, becomes the app; a child that kept the connection reads the reply.
fn write_then_exec(socket: &str, request: &str, program: &str) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    // SAFETY: one thread.
    if unsafe { libc::fork() } == 0 {
        say("ready");
        return reply(&stream);
    }
    Err(become_app(program))
}

/// Connects and becomes the app; a child asks on the connection. With `forge` all of it in a user and pid namespace, in
/// which the child may say that it is the app.
fn fork_then_exec(socket: &str, request: &str, program: &str, forge: bool) -> io::Result<()> {
    if forge {
        // SAFETY: cannot fail.
        let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
        // SAFETY: flags.
        done(i64::from(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) }))?;
        // Root of the namespace, which may say that it is another process there.
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
        // SAFETY: one thread. The child is the first of the new namespace.
        if unsafe { libc::fork() } > 0 {
            forever();
        }
    }
    let mut stream = UnixStream::connect(socket)?;
    // SAFETY: one thread.
    let parent = unsafe { libc::getpid() };
    // SAFETY: one thread.
    if unsafe { libc::fork() } == 0 {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let request = format!("{request}\n");
        if forge {
            // SAFETY: cannot fail.
            let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
            let mut who = parent.to_ne_bytes().to_vec();
            who.extend(uid.to_ne_bytes());
            who.extend(gid.to_ne_bytes());
            send(&stream, request.as_bytes(), libc::SCM_CREDENTIALS, &who)?;
        } else {
            stream.write_all(request.as_bytes())?;
        }
        say("ready");
        return reply(&stream);
    }
    Err(become_app(program))
}

struct Shared {
    socket: String,
    program: String,
    fd: i32,
}

extern "C" fn clone_main(shared: *mut c_void) -> i32 {
    // SAFETY: what the parent passed; it lives as long as this memory.
    let shared = unsafe { &mut *shared.cast::<Shared>() };
    let Ok(stream) = UnixStream::connect(&shared.socket) else { return 1 };
    shared.fd = stream.into_raw_fd();
    let program = CString::new(shared.program.as_str()).expect("path");
    let words = [program.as_ptr(), c"/nonexistent".as_ptr(), c"idle".as_ptr(), std::ptr::null()];
    // SAFETY: texts that end with zero bytes, a list that ends with null.
    unsafe { libc::execv(program.as_ptr(), words.as_ptr()) }
}

/// A child with our memory and descriptors connects and becomes the app; our memory lives on, and we ask.
fn clone_memory(socket: &str, request: &str, program: &str) -> io::Result<()> {
    let mut shared = Shared { socket: socket.into(), program: program.into(), fd: -1 };
    let mut stack = vec![0_u8; 1 << 20];
    // SAFETY: a stack that lives on, a function that takes this argument.
    let child = unsafe {
        let top = stack.as_mut_ptr().add(stack.len() - 64);
        let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::SIGCHLD;
        libc::clone(clone_main, top.map_addr(|a| a & !15).cast(), flags, (&raw mut shared).cast())
    };
    done(i64::from(child))?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    // SAFETY: the other one writes it before it executes.
    let fd = unsafe { (&raw const shared.fd).read_volatile() };
    say("ready");
    write_on(&fd.to_string(), request)
}

/// A child connects and asks, and is gone; its own child keeps the connection. Says the number that became free.
fn leave(socket: &str, request: &str) -> io::Result<()> {
    // SAFETY: one thread.
    let child = unsafe { libc::fork() };
    if child > 0 {
        // SAFETY: no status is wanted.
        done(i64::from(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }))?;
        say(&child.to_string());
        forever();
    }
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    // SAFETY: one thread.
    if unsafe { libc::fork() } == 0 {
        return reply(&stream);
    }
    Ok(())
}

#[repr(C)]
struct Filter {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

#[repr(C)]
struct Program {
    length: u16,
    filter: *const Filter,
}

/// Starts the app under a filter whose calls a supervisor answers.
fn supervise(program: &str, rest: &[&str]) -> io::Result<()> {
    // Load the number of the call; getpgid goes to the supervisor, everything else passes.
    let filter = [
        Filter { code: 0x20, jt: 0, jf: 0, k: 0 },
        Filter { code: 0x15, jt: 0, jf: 1, k: libc::SYS_getpgid as u32 },
        Filter { code: 0x06, jt: 0, jf: 0, k: 0x7fc0_0000 },
        Filter { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 },
    ];
    let code = Program { length: 4, filter: filter.as_ptr() };
    // SAFETY: integers, and a program that lives through the call.
    unsafe {
        done(i64::from(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)))?;
        done(libc::syscall(libc::SYS_seccomp, 1, 8, &raw const code))?;
    }
    Err(Command::new(program).args(rest).exec())
}

/// In a user namespace: a library drops this program from memory, has the kernel show the app in its place, and asks.
fn spoof(library: &str, socket: &str, request: &str, program: &str) -> io::Result<()> {
    // SAFETY: flags.
    done(i64::from(unsafe { libc::unshare(libc::CLONE_NEWUSER) }))?;
    let text = |t: &str| CString::new(t).expect("text");
    let (library, socket, request, program) = (text(library), text(socket), text(request), text(program));
    // SAFETY: the library is ours, and its function takes these three texts and never returns.
    unsafe {
        let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOW);
        assert!(!handle.is_null());
        let function = libc::dlsym(handle, c"spoof".as_ptr());
        let spoof: extern "C" fn(*const i8, *const i8, *const i8) -> ! = std::mem::transmute(function);
        let keep = |t: CString| -> &'static CStr { Box::leak(t.into_boxed_c_str()) };
        spoof(keep(socket).as_ptr().cast(), keep(request).as_ptr().cast(), keep(program).as_ptr().cast())
    }
}

/// Dirties a mapped page of a file, and changes it later without the file's times changing.
fn dirty(path: &str) -> io::Result<()> {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len() as usize;
    let may = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of a file that is ours.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, may, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(start, libc::MAP_FAILED);
    // SAFETY: the last byte of the mapping.
    let last = unsafe { start.cast::<u8>().add(length - 1) };
    // SAFETY: within the mapping, which nobody else writes.
    unsafe { last.write_volatile(last.read_volatile()) };
    say("ready");
    wait();
    // SAFETY: as above.
    unsafe { last.write_volatile(last.read_volatile() ^ 0xff) };
    say("changed");
    forever()
}
