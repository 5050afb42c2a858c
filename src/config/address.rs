//! Places on the network, as far as there are any: each is read strictly.
#![forbid(unsafe_code)]

use std::path::Path;

use super::MetricsListen;

/// Frames are encrypted and authenticated from end to end; what this way shows is who signs when. TLS is not spoken.
pub(super) fn connector(text: String) -> Result<String, String> {
    let usb = text == "usb" || text.strip_prefix("usb:").is_some_and(|serial| serial.parse::<u32>().is_ok());
    let http = text
        .strip_prefix("http://")
        .and_then(|rest| rest.trim_end_matches('/').rsplit_once(':'))
        .is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok_and(|p| p > 0)
        });
    if usb || http {
        Ok(text)
    } else {
        Err(format!("token.connector = {text:?} is neither http://HOST:PORT, usb nor usb:SERIAL"))
    }
}

/// A socket's path, or an address that only this machine reaches.
pub(super) fn metrics_listen(text: &str, base: &Path) -> Result<MetricsListen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(MetricsListen::Unix(base.join(path)));
    }
    let address: std::net::SocketAddr = text
        .parse()
        .map_err(|_| format!("metrics.listen = {text:?} is neither unix:PATH nor ADDRESS:PORT"))?;
    if address.ip().is_loopback() {
        Ok(MetricsListen::Loopback(address))
    } else {
        Err(format!("metrics.listen = {text:?} is not a loopback address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connector_is_named_with_host_and_port() {
        for good in
            ["http://127.0.0.1:12345", "http://[::1]:12345", "http://hsm.example:1/", "usb", "usb:7654321"]
        {
            assert_eq!(connector(good.into()).unwrap(), good);
        }
        for wrong in
            ["http://", "http://:1", "http://h:0", "http://u@h:1", "http://h/x:1", "usb:", "tcp://h:1"]
        {
            assert!(connector(wrong.into()).is_err(), "{wrong}");
        }
    }
}
