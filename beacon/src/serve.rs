//! Connections: taken, counted, bounded, served with HTTP/1.1, and let go when the beacon stops.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::metrics::count;
use crate::routes::{self, Beacon, Door};

/// How long a handshake and the head of a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// A rest when the kernel gives no more connections.
const BREATH: Duration = Duration::from_millis(50);

/// How many connections each address has.
#[derive(Default)]
pub struct Peers(Mutex<(usize, HashMap<IpAddr, usize>)>);

/// One connection's place; given back however it ends.
struct Place(Arc<Beacon>, IpAddr);

impl Peers {
    fn enter(&self, peer: IpAddr, (most, most_of_one): (usize, usize)) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = all.1.get(&peer).copied().unwrap_or(0);
        // Behind an address of this machine stands a proxy, and the whole fleet behind that.
        if all.0 >= most || (!peer.is_loopback() && of_one >= most_of_one) {
            return false;
        }
        all.0 += 1;
        all.1.insert(peer, of_one + 1);
        true
    }

    fn leave(&self, peer: IpAddr) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.0 = all.0.saturating_sub(1);
        match all.1.get_mut(&peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(all.1.remove(&peer)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.peers.leave(self.1);
        self.0.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

fn place(beacon: &Arc<Beacon>, peer: SocketAddr) -> Option<Place> {
    let limits = &beacon.config.limits;
    let peer = peer.ip().to_canonical();
    if !beacon.peers.enter(peer, (limits.connections, limits.per_peer)) {
        count(&beacon.metrics.turned_away);
        return None;
    }
    count(&beacon.metrics.connections);
    Some(Place(Arc::clone(beacon), peer))
}

/// Accepts until the beacon stops.
pub async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    beacon: Arc<Beacon>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|s| *s) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                crate::note(&format!("no connection: {e}"));
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let Some(place) = place(&beacon, peer) else { continue };
        tokio::spawn(connection(stream, tls.clone(), Arc::clone(&beacon), place, stop.clone()));
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    beacon: Arc<Beacon>,
    place: Place,
    stop: watch::Receiver<bool>,
) {
    // An answer that was held is small, and wanted at once.
    drop(stream.set_nodelay(true));
    match tls {
        None => served(stream, Door::Plain, beacon, stop).await,
        Some(tls) => match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
            Ok(Ok(stream)) => served(stream, Door::Tls, beacon, stop).await,
            Ok(Err(_)) | Err(_) => count(&beacon.metrics.turned_away),
        },
    }
    drop(place);
}

async fn served<S>(stream: S, door: Door, beacon: Arc<Beacon>, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stopping = stop.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (beacon, stopping) = (Arc::clone(&beacon), stopping.clone());
        async move { Ok::<_, std::convert::Infallible>(routes::answer(&beacon, door, request, stopping).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE * 3)
        .max_buf_size(32 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    // How it ends is the peer's business.
    tokio::select! {
        _ = serving.as_mut() => return,
        _ = stop.wait_for(|s| *s) => {}
    }
    serving.as_mut().graceful_shutdown();
    drop(serving.await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many_and_for_so_many_of_one_address() {
        let (peers, one) = (Peers::default(), IpAddr::from([192, 0, 2, 1]));
        let (two, here) = (IpAddr::from([192, 0, 2, 2]), IpAddr::from([127, 0, 0, 1]));
        let enter = |peer| peers.enter(peer, (4, 2));
        assert!(enter(one) && enter(one) && !enter(one) && enter(two));
        peers.leave(one);
        assert!(enter(one) && enter(two) && !enter(here), "full");
        for peer in [one, one, two, two] {
            peers.leave(peer);
        }
        assert!((0..4).all(|_| enter(here)), "a proxy of this machine has the fleet behind it");
        assert!(!enter(here));
    }
}
