use super::*;
use crate::sys;
use std::os::unix::net::{UnixListener, UnixStream};

const NOW: Timestamp = Timestamp(0);

fn registry(path: &Path, uid: u32) -> Apps {
    let sha = hex::encode(executable_digest(path).unwrap());
    Apps::parse(&format!("[[app]]\nid = \"me\"\npath = {path:?}\nsha256 = \"{sha}\"\nuid = {uid}\n")).unwrap()
}

// [clause 8.2.4-a] test
#[tokio::test]
async fn this_process_is_known_only_when_registered() {
    let (a, _b) = UnixStream::pair().unwrap();
    let eyes = Eyes::open();
    let me = std::env::current_exe().unwrap().canonicalize().unwrap();
    let apps = registry(&me, sys::effective_uid());
    let peer = Peer::pin(a.as_fd(), &eyes, &apps).unwrap();
    assert_eq!(peer.vouch(&Apps::default(), [0; 32], NOW).err().unwrap().code, Code::AppUnknown);
    let vouched = peer.vouch(&apps, [7; 32], NOW).unwrap();
    assert_eq!(vouched.digest(), &[7; 32]);
    let seen = peer.looked_at(&apps).await.unwrap();
    peer.again(&apps, &seen, &vouched, NOW).unwrap();
    let other_user = registry(&me, sys::effective_uid() + 1);
    assert_eq!(peer.vouch(&other_user, [0; 32], NOW).err().unwrap().code, Code::AppUnknown);
    assert_eq!(peer.looked_at(&other_user).await.unwrap_err().code, Code::AppUnknown);
    assert_eq!(peer.again(&other_user, &seen, &vouched, NOW).unwrap_err().code, Code::AppUnknown);
}

// [clause 8.2.4-b] test
#[test]
fn a_process_that_execs_or_ends_after_connecting_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let python = "import socket,sys,os,time\ns=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);s.set_inheritable(True)\nsys.stdin.readline();os.execv('/bin/sleep',['sleep','30'])";
    let mut child = std::process::Command::new("python3")
        .args(["-c", python])
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().unwrap();
    let peer = Peer::pin(stream.as_fd(), &Eyes::open(), &Apps::default()).unwrap();
    peer.still().expect("still the same");
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    let mut refused = false;
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        if let Err(refusal) = peer.still() {
            assert_eq!(refusal.code, Code::AppChanged);
            refused = true;
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(refused, "exec after connect went unnoticed");
    assert_eq!(peer.still().unwrap_err().code, Code::AppChanged);
}

// [clause 8.2.4-b] test
#[test]
fn bytes_of_others_are_not_the_peers() {
    let (a, _b) = UnixStream::pair().unwrap();
    let peer = Peer::pin(a.as_fd(), &Eyes::open(), &Apps::default()).unwrap();
    let from = |pid| sys::PeerCredentials { pid, uid: 0, gid: 0 };
    let code = |chunk: &Chunk| peer.wrote(chunk).err().map(|r| r.code);
    let own = || Chunk { length: 1, sender: Some(from(peer.pid)), ..Chunk::default() };
    assert_eq!(code(&own()), None);
    assert_eq!(code(&Chunk { sender: Some(from(peer.pid + 1)), ..own() }), Some(Code::AppSender));
    assert_eq!(code(&Chunk { sender: Some(from(0)), ..own() }), Some(Code::AppSender));
    assert_eq!(code(&Chunk { sender: None, ..own() }), Some(Code::AppSender));
    assert_eq!(code(&Chunk { truncated: true, ..own() }), Some(Code::AppDescriptor));
    let stray = a.as_fd().try_clone_to_owned().unwrap();
    assert_eq!(code(&Chunk { descriptors: vec![stray], ..own() }), Some(Code::AppDescriptor));
    // The right number, and a pidfd of somebody else: on kernels whose pidfds are told apart.
    let child = std::process::Command::new("sleep").arg("30").spawn();
    let mut child = child.unwrap();
    let pidfd = sys::pidfd_open(i32::try_from(child.id()).unwrap()).unwrap();
    if peer.pin.process.is_some() {
        assert_eq!(code(&Chunk { pidfd: Some(pidfd), ..own() }), Some(Code::AppSender));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
