//! Messages with what the kernel stamps on them, and descriptors that travel: `recvmsg(2)`, `sendmsg(2)`.
#![expect(unsafe_code, reason = "part of the room that exists to hold it")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::PeerCredentials;

const SO_PASSPIDFD: libc::c_int = 76;
const SCM_PIDFD: libc::c_int = 4;

/// The most descriptors that one message may bring; the kernel's own bound is 253.
const MOST_DESCRIPTORS: usize = 253;
/// Room for credentials, a pidfd and that many descriptors.
const CONTROL_BYTES: usize = 1280;

/// Control messages are aligned as `cmsghdr` wants them.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Part of a stream, with its sender as the kernel knows it.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Bytes that were read; none at the end.
    pub length: usize,
    /// Who wrote them (`SCM_CREDENTIALS`).
    pub sender: Option<PeerCredentials>,
    /// A pidfd of the writer (`SCM_PIDFD`, Linux 6.5).
    pub pidfd: Option<OwnedFd>,
    /// Descriptors that came along (`SCM_RIGHTS`).
    pub descriptors: Vec<OwnedFd>,
    /// There was more beside the bytes than there was room for.
    pub truncated: bool,
}

fn switch_on(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: an open socket and a valid int of the length that is given.
    let failed = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const on).cast(), length)
    } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Asks for the sender of each message (`SO_PASSCRED`), and for a pidfd of it where the kernel has that.
///
/// Set on a listening socket, those that are accepted have it from their first byte on.
pub fn stamp_messages(socket: BorrowedFd<'_>) -> io::Result<()> {
    switch_on(socket, libc::SO_PASSCRED)?;
    match switch_on(socket, SO_PASSPIDFD) {
        Err(e) if e.raw_os_error() != Some(libc::ENOPROTOOPT) => Err(e),
        _ => Ok(()),
    }
}

/// Reads what one sender wrote, without waiting. Every descriptor that comes along is owned by what is returned.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Chunk> {
    receive_with(socket, buffer, libc::MSG_DONTWAIT)
}

/// The same, waiting for it.
pub fn receive_waiting(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Chunk> {
    receive_with(socket, buffer, 0)
}

fn receive_with(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: libc::c_int) -> io::Result<Chunk> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data, for which zeroes are valid.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES;
    // SAFETY: the message points to a buffer and a control buffer that live through the call, with their lengths.
    let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags | libc::MSG_CMSG_CLOEXEC) };
    let Ok(length) = usize::try_from(read) else { return Err(io::Error::last_os_error()) };
    let truncated = message.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0;
    let mut chunk = Chunk { length, truncated, ..Chunk::default() };
    // SAFETY: the kernel filled the control buffer and set its length; CMSG_FIRSTHDR stays within it.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: not null, so a whole cmsghdr lies there, aligned like the buffer.
        let (level, kind, bytes) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len) };
        // SAFETY: CMSG_LEN of nothing is the length of the header alone.
        let head = unsafe { libc::CMSG_LEN(0) } as usize;
        let bytes = bytes.saturating_sub(head);
        // SAFETY: the data of this header, of which the kernel wrote `bytes`.
        let data = unsafe { libc::CMSG_DATA(header) };
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if bytes >= size_of::<libc::ucred>() => {
                let mut raw = MaybeUninit::<libc::ucred>::uninit();
                // SAFETY: that many bytes of it are there, and copied; then all of the plain struct is filled.
                let raw = unsafe {
                    data.copy_to_nonoverlapping(raw.as_mut_ptr().cast(), size_of::<libc::ucred>());
                    raw.assume_init()
                };
                chunk.sender = Some(PeerCredentials { pid: raw.pid, uid: raw.uid, gid: raw.gid });
            }
            (libc::SOL_SOCKET, SCM_PIDFD | libc::SCM_RIGHTS) => {
                for n in 0..(bytes / size_of::<libc::c_int>()).min(MOST_DESCRIPTORS) {
                    // SAFETY: within the data of this header, by its length.
                    let at = unsafe { data.add(n * size_of::<libc::c_int>()) };
                    // SAFETY: a whole int lies there; alignment is not presumed.
                    let fd = libc::c_int::from_ne_bytes(unsafe { at.cast::<[u8; 4]>().read() });
                    if fd < 0 {
                        continue;
                    }
                    // SAFETY: the kernel installed it for us just now; nobody else owns it.
                    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                    if kind == SCM_PIDFD { chunk.pidfd = Some(fd) } else { chunk.descriptors.push(fd) }
                }
            }
            _ => {}
        }
        // SAFETY: the same message and a header of it.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(chunk)
}

/// Sends a message, with descriptors beside it. All of it or an error: the socket keeps messages whole.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let numbers: Vec<libc::c_int> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let payload = numbers.len().saturating_mul(size_of::<libc::c_int>());
    let payload = u32::try_from(payload).map_err(io::Error::other)?;
    // SAFETY: computes a length.
    let room = unsafe { libc::CMSG_SPACE(payload) } as usize;
    if room > CONTROL_BYTES {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is plain data, for which zeroes are valid.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if payload > 0 {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = room;
        // SAFETY: the control buffer has room for one header and this payload, as computed above.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload) as usize;
            libc::CMSG_DATA(header).copy_from_nonoverlapping(numbers.as_ptr().cast(), payload as usize);
        }
    }
    // SAFETY: the message points to buffers that live through the call; sending changes none of them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    match usize::try_from(sent) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(_) => Err(io::Error::other("a message was cut")),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// A pair of sockets that keep messages whole (`SOCK_SEQPACKET`).
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    // SAFETY: room for two descriptors.
    let failed = unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr())
    } != 0;
    if failed {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: two new descriptors that nobody else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn every_chunk_says_who_wrote_it_from_the_first_byte_on() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        stamp_messages(listener.as_fd()).unwrap();
        let mut client = UnixStream::connect(dir.path().join("s")).unwrap();
        client.write_all(b"before").unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b" after").unwrap();
        let mut buffer = [0; 64];
        let chunk = receive(server.as_fd(), &mut buffer).unwrap();
        assert_eq!(chunk.sender.unwrap().pid, i32::try_from(std::process::id()).unwrap());
        assert!(chunk.length >= 6 && !chunk.truncated && chunk.descriptors.is_empty());
    }

    #[test]
    fn descriptors_that_come_along_are_owned_and_counted() {
        let (a, b) = UnixStream::pair().unwrap();
        let (x, y) = packet_pair().unwrap();
        send(a.as_fd(), b"hi", &[x.as_fd(), y.as_fd()]).unwrap();
        let mut buffer = [0; 8];
        let chunk = receive(b.as_fd(), &mut buffer).unwrap();
        assert_eq!((chunk.length, chunk.descriptors.len()), (2, 2));
        let again = receive(b.as_fd(), &mut buffer).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
    }
}
