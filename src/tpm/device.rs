//! Where the TPM is, and one command to it and its answer back.
//!
//! Addresses are written as the TPM tools write them. There is no broker here: the kernel's `/dev/tpmrm0` swaps objects
//! by itself, and removes what a process that died left behind.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::TpmError;
use super::wire::{MAX_MESSAGE, Reader};

/// A software TPM that says nothing for so long is gone. The kernel keeps its own deadlines for a real one.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tag, size and code: every answer has these.
const HEADER: usize = 10;

trait Channel: Read + Write {}
impl<T: Read + Write> Channel for T {}

/// An open way to a TPM.
pub struct Device {
    channel: Box<dyn Channel>,
    place: String,
}

enum Place {
    File(PathBuf),
    Tcp(IpAddr, u16),
    Unix(PathBuf),
}

fn place(address: &str) -> Option<Place> {
    let (kind, rest) = address.split_once(':').unwrap_or((address, ""));
    match kind {
        "device" => Some(Place::File(if rest.is_empty() { "/dev/tpmrm0".into() } else { rest.into() })),
        "swtpm" => {
            let (mut host, mut port) = (IpAddr::from([127, 0, 0, 1]), None);
            for part in rest.split(',') {
                match part.split_once('=')? {
                    ("path", path) => return Some(Place::Unix(path.into())),
                    ("host", text) => host = text.parse().ok()?,
                    ("port", text) => port = Some(text.parse().ok()?),
                    _ => return None,
                }
            }
            // The daemon opens no connection to other machines, and a TPM on another machine proves nothing about this.
            host.is_loopback().then_some(Place::Tcp(host, port?))
        }
        _ => None,
    }
}

impl Device {
    /// Opens what the address names.
    pub fn open(address: &str) -> Result<Self, TpmError> {
        let absent = |e: std::io::Error| TpmError::Absent { place: address.into(), why: e.to_string() };
        let channel: Box<dyn Channel> = match place(address).ok_or(TpmError::Address(address.into()))? {
            Place::File(path) => {
                Box::new(std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(absent)?)
            }
            Place::Tcp(host, port) => {
                let stream = TcpStream::connect_timeout(&(host, port).into(), PATIENCE).map_err(absent)?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(absent)?;
                Box::new(stream)
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(absent)?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(absent)?;
                Box::new(stream)
            }
        };
        Ok(Self { channel, place: address.into() })
    }

    /// Sends a command and gives the whole answer. The kernel wants a command in one write, and an answer is read in
    /// one go there; a socket may bring it in pieces.
    pub fn exchange(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        let silent = |why: String| TpmError::Absent { place: self.place.clone(), why };
        self.channel.write_all(command).map_err(|e| silent(e.to_string()))?;
        let mut answer = Vec::with_capacity(MAX_MESSAGE);
        let mut piece = [0; MAX_MESSAGE];
        loop {
            let count = match self.channel.read(&mut piece) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other.map_err(|e| silent(e.to_string()))?,
            };
            answer.extend_from_slice(piece.get(..count).unwrap_or_default());
            let said = size_of_answer(&answer);
            match said {
                Some(size) if !(HEADER..=MAX_MESSAGE).contains(&size) || answer.len() > size => {
                    return Err(silent("it answers what no TPM answers".into()));
                }
                Some(size) if answer.len() == size => return Ok(answer),
                _ if count == 0 => return Err(silent("it closed the connection".into())),
                _ => {}
            }
        }
    }
}

fn size_of_answer(answer: &[u8]) -> Option<usize> {
    let mut reader = Reader::new(answer);
    reader.u16()?;
    usize::try_from(reader.u32()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_tools_write_them() {
        assert!(matches!(place("device"), Some(Place::File(p)) if p.as_os_str() == "/dev/tpmrm0"));
        assert!(matches!(place("device:/dev/tpm0"), Some(Place::File(p)) if p.as_os_str() == "/dev/tpm0"));
        assert!(matches!(place("swtpm:host=127.0.0.1,port=2321"), Some(Place::Tcp(_, 2321))));
        assert!(matches!(place("swtpm:path=/run/x"), Some(Place::Unix(_))));
        for wrong in ["", "tabrmd:", "swtpm", "swtpm:port=x", "swtpm:host=10.0.0.1,port=1", "swtpm:host=::1"]
        {
            assert!(place(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn answers_that_lie_about_their_size_end_the_talk() {
        for wrong in
            [&[0x80, 1, 0, 0, 0, 3, 0, 0, 0, 0][..], &[0x80, 1, 0xff, 0, 0, 0, 0, 0, 0, 0], &[0x80, 1]]
        {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(wrong).unwrap();
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            let mut device = Device { channel: Box::new(ours), place: "test".into() };
            assert!(matches!(device.exchange(b"x"), Err(TpmError::Absent { .. })));
        }
    }
}
