//! Where the daemon is, and whether it is the daemon: opens the connection and looks who listens.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::protocol::error::Error;
use crate::sys;

/// Where a daemon that was installed listens.
pub const DEFAULT_SOCKET: &str = "/run/claviger/wallet.sock";
/// Names another socket; not read by programs that are setuid or setgid.
pub const SOCKET_VARIABLE: &str = "CLAVIGER_SOCKET";

/// How long a client waits for a reply, beyond what it asked the daemon to wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// The socket to connect to: what `CLAVIGER_SOCKET` says, else [`DEFAULT_SOCKET`].
#[must_use]
pub fn default_socket() -> PathBuf {
    // Who starts a program with more rights than their own does not choose whom it talks with.
    let named = if sys::start::with_privileges() { None } else { std::env::var_os(SOCKET_VARIABLE) };
    named.filter(|path| !path.is_empty()).map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
}

#[derive(Clone, Debug)]
enum Way {
    Socket(PathBuf),
    Helper(PathBuf),
}

/// How to connect.
///
/// ```no_run
/// use std::time::Duration;
/// use claviger::client::Options;
///
/// // A daemon that runs as user 990, without socket activation.
/// let mut client = Options::new().daemon_uid(990).timeout(Duration::from_secs(10)).connect()?;
/// println!("{}", client.status()?.version);
/// # Ok::<(), claviger::client::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    way: Way,
    daemons: Vec<u32>,
    pub(super) timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { way: Way::Socket(default_socket()), daemons: vec![0], timeout: PATIENCE }
    }
}

impl Options {
    /// The default socket, opened by root: that is who opens it where the service manager does.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Another socket.
    #[must_use]
    pub fn socket(mut self, path: impl AsRef<Path>) -> Self {
        self.way = Way::Socket(path.as_ref().to_path_buf());
        self
    }

    /// Through `claviger-connect`, as it was installed for this app (docs/apps.md).
    #[must_use]
    pub fn through(mut self, helper: impl AsRef<Path>) -> Self {
        self.way = Way::Helper(helper.as_ref().to_path_buf());
        self
    }

    /// The daemon runs as this user and opens its socket itself. Root is taken as well.
    #[must_use]
    pub fn daemon_uid(mut self, uid: u32) -> Self {
        self.daemons.push(uid);
        self
    }

    /// How long to wait for a reply, beyond what the daemon was asked to wait.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connects, and says hello.
    pub fn connect(self) -> Result<super::blocking::Client, Error> {
        super::blocking::Client::with(self)
    }

    /// Connects, and says hello; inside a tokio runtime.
    pub async fn connect_tokio(self) -> Result<super::tokio::Client, Error> {
        super::tokio::Client::with(self).await
    }

    /// Opens the connection and looks who is there. Nothing is said yet.
    pub(super) fn open(&self) -> Result<Line, Error> {
        match &self.way {
            Way::Socket(path) => {
                let place = path.display().to_string();
                let stream = UnixStream::connect(path)
                    .map_err(|why| Error::Unreachable { place: place.clone(), why })?;
                let told = sys::peer_credentials(stream.as_fd());
                let found = told.map_err(|why| Error::Unreachable { place: place.clone(), why })?.uid;
                // [clause 8.2.4-p] an app that is lied to pays into the liar's account: it looks who listens
                if self.daemons.contains(&found) {
                    Ok(Line { stream, helper: None })
                } else {
                    let names: Vec<String> = self.daemons.iter().map(u32::to_string).collect();
                    Err(Error::Stranger { place, found, expected: names.join(" or ") })
                }
            }
            Way::Helper(path) => {
                spawn(path).map_err(|why| Error::Unreachable { place: path.display().to_string(), why })
            }
        }
    }
}

/// An open connection.
pub(super) struct Line {
    pub(super) stream: UnixStream,
    pub(super) helper: Option<Helper>,
}

/// The helper that was started; ended and waited for when it is dropped.
pub(super) struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        // Its connection is gone: nothing of it is needed any more. Where it has ended already, there is nobody to kill.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts the helper with a socket for its input and output. It looks at this process, and connects.
fn spawn(path: &Path) -> std::io::Result<Line> {
    let (stream, theirs) = UnixStream::pair()?;
    let input: OwnedFd = theirs.try_clone()?.into();
    let child = Command::new(path)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .env_clear()
        .spawn()?;
    Ok(Line { stream, helper: Some(Helper(child)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_socket_is_the_one_that_is_installed() {
        let config = include_str!("../../config/clavigerd.toml");
        assert!(config.contains(&format!("socket = \"{DEFAULT_SOCKET}\"")));
        let unit = include_str!("../../config/systemd/clavigerd.socket");
        assert!(unit.contains(&format!("ListenStream={DEFAULT_SOCKET}\n")));
    }

    // [clause 8.2.4-p] test
    #[test]
    fn nothing_is_said_to_a_socket_of_somebody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let own = sys::effective_uid();
        let mut options = Options::new().socket(&path);
        options.daemons = vec![own + 1];
        let Err(error) = options.clone().connect() else { panic!("it was taken") };
        assert!(matches!(error, Error::Stranger { found, .. } if found == own), "{error}");
        let (mut accepted, _) = listener.accept().unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut accepted, &mut said).unwrap();
        assert_eq!(said, "");
        assert!(options.daemon_uid(own).open().is_ok());
        let gone = Options::new().socket(dir.path().join("gone")).connect();
        assert!(matches!(gone, Err(Error::Unreachable { .. })));
    }
}
