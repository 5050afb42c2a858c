//! Frames to the device and back: over the connector's HTTP, or over USB.
//!
//! Whole answers, bounded, each under a deadline; an answer that is no frame never gets further than here.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::TokenError;

/// Longest frame of any firmware.
pub(super) const MAX_FRAME: usize = 3136 + 3;
/// Longest head of an HTTP answer.
const MAX_HEAD: usize = 8192;
/// First byte of an answer that is an error.
pub(super) const ERROR: u8 = 0x7f;
/// First byte of an answer is that of the command with this bit.
pub(super) const ANSWER: u8 = 0x80;

/// The way to the device.
pub(super) enum Wire {
    /// `yubihsm-connector`.
    Http {
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
        /// Deadline of one frame.
        patience: Duration,
    },
    /// The device itself.
    #[cfg(feature = "yubihsm-usb")]
    Usb(yubihsm::Connector),
}

fn gone(what: &str, why: impl std::fmt::Display) -> TokenError {
    TokenError::Gone(format!("the YubiHSM's connector {what}: {why}"))
}

impl Wire {
    /// Parses what stands in the configuration.
    pub(super) fn open(connector: &str, patience: Duration) -> Result<Self, TokenError> {
        if let Some(serial) = connector.strip_prefix("usb") {
            return Self::usb(serial.trim_start_matches(':'), patience);
        }
        let wrong =
            || TokenError::Unsupported(format!("token.connector = {connector:?} is no http://HOST:PORT"));
        let rest = connector.strip_prefix("http://").ok_or_else(wrong)?;
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        Ok(Self::Http { host: host.trim_matches(['[', ']']).to_owned(), port, patience })
    }

    #[cfg(feature = "yubihsm-usb")]
    fn usb(serial: &str, patience: Duration) -> Result<Self, TokenError> {
        let serial = match serial {
            "" => None,
            text => Some(
                format!("{text:0>10}")
                    .parse()
                    .map_err(|_| TokenError::Unsupported(format!("{text:?} is no serial number")))?,
            ),
        };
        let timeout_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        Ok(Self::Usb(yubihsm::Connector::usb(&yubihsm::UsbConfig { serial, timeout_ms })))
    }

    #[cfg(not(feature = "yubihsm-usb"))]
    fn usb(_serial: &str, _patience: Duration) -> Result<Self, TokenError> {
        Err(TokenError::Unsupported(
            "this build reaches no YubiHSM over USB (feature yubihsm-usb); run yubihsm-connector and name its address"
                .into(),
        ))
    }

    /// One frame there and one back.
    pub(super) fn exchange(&self, frame: &[u8]) -> Result<Vec<u8>, TokenError> {
        let answer = match self {
            Self::Http { host, port, patience } => post(host, *port, frame, *patience)?,
            #[cfg(feature = "yubihsm-usb")]
            Self::Usb(connector) => connector
                .send_message(yubihsm::Uuid::from_u128(0), frame.to_vec().into())
                .map(|m| AsRef::<[u8]>::as_ref(&m).to_vec())
                .map_err(|e| TokenError::Gone(format!("the YubiHSM on USB: {e}")))?,
        };
        framed(frame, &answer)?;
        Ok(answer)
    }
}

/// Whether it can be the answer to this frame. Lengths and codes alone: what it says is proved by its MAC.
fn framed(frame: &[u8], answer: &[u8]) -> Result<(), TokenError> {
    let nonsense = |why: &str| Err(TokenError::Corrupt(format!("the YubiHSM's connector: {why}")));
    let Some(([code, high, low], rest)) = answer.split_first_chunk::<3>() else {
        return nonsense("the answer is shorter than a frame");
    };
    if rest.len() != usize::from(u16::from_be_bytes([*high, *low])) {
        return nonsense("the answer is not as long as it says");
    }
    let asked = frame.first().copied().unwrap_or_default();
    if *code == (asked | ANSWER) || (*code == ERROR && rest.len() == 1) {
        Ok(())
    } else {
        nonsense("the answer is to another question")
    }
}

/// A connection for each frame: nothing of an exchange that was given up can be taken for the next one's answer.
fn post(host: &str, port: u16, frame: &[u8], patience: Duration) -> Result<Vec<u8>, TokenError> {
    let end = Instant::now() + patience;
    let mut failure = None;
    let mut connected = None;
    for address in (host, port).to_socket_addrs().map_err(|e| gone("has no address", e))? {
        match TcpStream::connect_timeout(&address, left(end)?) {
            Ok(stream) => {
                connected = Some(stream);
                break;
            }
            Err(e) => failure = Some(e),
        }
    }
    let Some(mut stream) = connected else {
        return Err(match failure {
            Some(e) => gone("cannot be reached", e),
            None => gone("cannot be reached", "no address"),
        });
    };
    let broken = |e: std::io::Error| match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => late(),
        _ => gone("broke off", e),
    };
    let mut request = format!(
        "POST /connector/api HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        frame.len()
    )
    .into_bytes();
    request.extend_from_slice(frame);
    stream.set_nodelay(true).map_err(broken)?;
    stream.set_write_timeout(Some(left(end)?)).map_err(broken)?;
    stream.write_all(&request).map_err(broken)?;
    let mut got = Vec::with_capacity(1024);
    let mut chunk = [0; 4096];
    loop {
        if let Some(answer) = whole(&got)? {
            return Ok(answer);
        }
        stream.set_read_timeout(Some(left(end)?)).map_err(broken)?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(gone("broke off", "the answer is cut")),
            Ok(n) => got.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(broken(e)),
        }
    }
}

fn late() -> TokenError {
    gone("does not answer", "it was given up")
}

fn left(end: Instant) -> Result<Duration, TokenError> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

/// The body, once all of it is there.
fn whole(got: &[u8]) -> Result<Option<Vec<u8>>, TokenError> {
    let Some(at) = got.windows(4).position(|w| w == b"\r\n\r\n") else {
        return if got.len() > MAX_HEAD { Err(gone("talks nonsense", "an endless head")) } else { Ok(None) };
    };
    let head = String::from_utf8_lossy(got.get(..at).unwrap_or_default());
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") && !status.starts_with("HTTP/1.0 200") {
        return Err(gone("has no device", status));
    }
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .filter(|length| *length <= MAX_FRAME)
        .ok_or_else(|| gone("talks nonsense", "no length of a frame"))?;
    Ok(got.get(at + 4..at + 4 + length).map(<[u8]>::to_vec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_when_it_is_whole_and_a_frame() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 5\r\n\r\n\x81\x00\x02hi";
        for cut in 0..text.len() {
            assert_eq!(whole(&text[..cut]).unwrap(), None, "{cut}");
        }
        let answer = whole(text).unwrap().unwrap();
        framed(&[1, 0, 2, b'h', b'i'], &answer).unwrap();
        framed(&[1, 0, 0], &[ERROR, 0, 1, 3]).unwrap();
        for wrong in [&b"\x81\x00"[..], b"\x81\x00\x03hi", b"\x82\x00\x02hi", b"\x7f\x00\x02hi", b""] {
            assert!(framed(&[1, 0, 0], wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["HTTP/1.1 500 No\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"] {
            assert!(whole(wrong.as_bytes()).is_err());
        }
    }

    #[test]
    fn connectors_are_named_by_http_host_and_port() {
        let place = |text| Wire::open(text, Duration::from_secs(1));
        assert!(
            matches!(place("http://[::1]:12345/"), Ok(Wire::Http { host, port: 12345, .. }) if host == "::1")
        );
        for wrong in ["https://127.0.0.1:12345", "127.0.0.1:12345", "http://127.0.0.1", "http://h:x"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
