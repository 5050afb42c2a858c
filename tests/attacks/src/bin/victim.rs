//! The app that is registered: connects, and asks on its connection what it reads on standard input, line by line.
//!
//! `victim SOCKET [hello | idle]`. Words on standard input that are no request: `thread` starts a thread, `rwx` maps memory
//! that may be written and executed, `load PATH` loads a library, `exec PATH ARGUMENTS…` gives way to another program
//! that inherits the connection, `fd` tells its number.

use std::ffi::CString;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if words.get(2).map(String::as_str) == Some("idle") {
        loop {
            std::thread::park();
        }
    }
    let stream = UnixStream::connect(&words[1]).expect("connect");
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    let mut line = String::new();
    let mut ask = |request: &str| {
        (&stream).write_all(request.as_bytes()).and_then(|()| (&stream).write_all(b"\n")).expect("write");
        line.clear();
        reader.read_line(&mut line).expect("read");
        line.clone()
    };
    let mut nonce = None;
    if words.get(2).map(String::as_str) == Some("hello") {
        let reply = ask(r#"{"jsonrpc":"2.0","id":0,"method":"claviger_hello"}"#);
        let at = reply.find("\"nonce\":\"").expect("a nonce") + 9;
        nonce = Some(reply[at..at + 32].to_owned());
    }
    println!("connected");
    let mut seq = 0;
    for command in std::io::stdin().lock().lines().map_while(Result::ok) {
        match command.split(' ').collect::<Vec<_>>()[..] {
            ["thread"] => {
                std::thread::spawn(|| loop {
                    std::thread::park();
                });
                println!("done");
            }
            ["rwx"] => {
                let everything = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
                // SAFETY: a new mapping, nothing of ours is touched.
                let at = unsafe {
                    libc::mmap(std::ptr::null_mut(), 4096, everything, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
                };
                assert_ne!(at, libc::MAP_FAILED);
                println!("done");
            }
            ["load", path] => {
                let path = CString::new(path).expect("path");
                // SAFETY: a path that ends with a zero byte.
                let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
                assert!(!handle.is_null(), "dlopen");
                println!("done");
            }
            ["fd"] => println!("{}", stream.as_raw_fd()),
            ["exec", path, ref rest @ ..] => {
                // SAFETY: a descriptor of ours.
                assert_eq!(unsafe { libc::fcntl(stream.as_raw_fd(), libc::F_SETFD, 0) }, 0);
                panic!("{}", std::process::Command::new(path).args(rest).exec());
            }
            _ => {
                seq += 1;
                let request = match &nonce {
                    Some(nonce) => format!("{},\"claviger\":{{\"nonce\":\"{nonce}\",\"seq\":{seq}}}}}", command.trim_end_matches('}').to_owned() + &"}".repeat(command.len() - command.trim_end_matches('}').len() - 1)),
                    None => command,
                };
                print!("{}", ask(&request));
            }
        }
        std::io::stdout().flush().expect("stdout");
    }
}
