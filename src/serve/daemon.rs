//! The daemon's life: open, listen, tell the service manager, reload, stop without dropping what is in flight.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use super::connection::{self, Bounds};
use super::operator::Operator;
use super::user::{Doors, User};
use super::wallet::Wallet;
use super::{listener, metrics};
use crate::config::{Config, SocketConfig};
use crate::service::{Eyes, House, Peer};
use crate::wire::frame::Limits;

/// How long requests in flight may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(25);

/// Runs until SIGTERM or SIGINT. `Err` holds the sentence for the operator.
pub async fn run(config: Config, eyes: Eyes) -> Result<(), String> {
    let house = House::open(config, eyes).await.map_err(|r| r.to_string())?;
    // A token that is there answers within this; one that is not must not keep the daemon from saying so.
    for _ in 0..200 {
        if house.token_settled() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if let Err(refusal) = house.confirm().await {
        tracing::info!("the state directory is not confirmed yet: {refusal}");
    }
    let mut passed = passed_sockets();
    // A socket that the service manager passed is its own: only those that are bound here are removed at the end.
    let all = [("wallet", &house.config.wallet), ("operator", &house.config.operator)];
    let bound: Vec<_> = all
        .into_iter()
        .chain(house.config.user.as_ref().map(|u| ("user", u)))
        .map(|(name, socket)| (name, &socket.path))
        .filter(|(name, _)| !passed.contains_key(*name))
        .map(|(_, path)| path.clone())
        .collect();
    let wallet = open_socket(&house.config.wallet, passed.remove("wallet")).map_err(|e| e.to_string())?;
    let operator =
        open_socket(&house.config.operator, passed.remove("operator")).map_err(|e| e.to_string())?;
    let user = house.config.user.as_ref();
    let user = user.map(|config| open_socket(config, passed.remove("user"))).transpose();
    let user = user.map_err(|e| e.to_string())?;
    let (stop, stopping) = watch::channel(false);

    let limits = house.config.limits.clone();
    let bounds = Bounds {
        frame: limits.frame,
        batch: limits.batch,
        in_flight: limits.in_flight,
        total: Arc::new(Semaphore::new(limits.in_flight_total)),
        stall: limits.stall,
    };
    let mut serving = vec![
        {
            let (owner, bounds, stop) = (Arc::clone(&house), bounds.clone(), stopping.clone());
            tokio::spawn(listener::accept(
                "wallet",
                wallet,
                limits.connections,
                Arc::clone(&house),
                stopping.clone(),
                move |stream, peer| {
                    let handler = Arc::new(Wallet { house: Arc::clone(&owner), peer });
                    let session = connection::run(stream, handler, bounds.clone(), stop.clone());
                    let house = Arc::clone(&owner);
                    // [clause 8.2.1-a] sessions end with an order that closes the token
                    async move {
                        tokio::select! {
                            () = session => {}
                            () = house.sessions_end() => {}
                        }
                    }
                },
            ))
        },
        {
            // Operators get their own bound: apps that fill theirs cannot lock them out.
            let bounds = Bounds { total: Arc::new(Semaphore::new(64)), ..bounds.clone() };
            let (owner, stop) = (Arc::clone(&house), stopping.clone());
            tokio::spawn(listener::accept(
                "operator",
                operator,
                32,
                Arc::clone(&house),
                stopping.clone(),
                move |stream, peer| {
                    let handler = Arc::new(Operator { house: Arc::clone(&owner), peer });
                    connection::run(stream, handler, bounds.clone(), stop.clone())
                },
            ))
        },
    ];
    if let Some(user) = user {
        let frame = Limits { max_bytes: bounds.frame.max_bytes.min(65_536), ..bounds.frame };
        let bounds = Bounds { total: Arc::new(Semaphore::new(64)), in_flight: 4, batch: 1, frame, ..bounds };
        let (owner, stop) = (Arc::clone(&house), stopping.clone());
        let doors = Arc::new(Doors::default());
        let serve = move |stream, peer: Arc<Peer>| {
            let (door, uid) = (doors.enter(peer.uid), peer.uid);
            let (house, bounds, stop) = (Arc::clone(&owner), bounds.clone(), stop.clone());
            async move {
                let Some(door) = door else {
                    return tracing::warn!(
                        socket = "user",
                        uid,
                        "refused a connection: too many of this user"
                    );
                };
                connection::run(stream, Arc::new(User { house, peer, door }), bounds, stop).await;
            }
        };
        serving.push(tokio::spawn(listener::accept(
            "user",
            user,
            256,
            Arc::clone(&house),
            stopping.clone(),
            serve,
        )));
    }
    if let Some(listen) = house.config.metrics.clone() {
        let (house, stopping) = (Arc::clone(&house), stopping.clone());
        tokio::spawn(async move {
            if let Err(e) = metrics::run(listen, house, stopping).await {
                tracing::error!("metrics are not served: {e}");
            }
        });
    }
    let looking = tokio::spawn(Arc::clone(&house).keep_looking(stopping.clone()));
    let lives = tokio::spawn(Arc::clone(&house).keep_lives(stopping.clone()));
    let presence = tokio::spawn(Arc::clone(&house).keep_presence(stopping.clone()));
    let changes = tokio::spawn(Arc::clone(&house).keep_changes(stopping.clone()));
    let orders = tokio::spawn(Arc::clone(&house).keep_orders(stopping.clone()));
    let asking = tokio::spawn(Arc::clone(&house).keep_asking(stopping.clone()));
    let outside = tokio::spawn(Arc::clone(&house).keep_outside(stopping.clone()));
    let checkpoints = tokio::spawn(Arc::clone(&house).keep_checkpoints(stopping));
    tell(&[sd_notify::NotifyState::Ready]);
    tracing::info!(
        wallet = %house.config.wallet.path.display(),
        operator = %house.config.operator.path.display(),
        policy = hex::encode(house.rules().policy.hash()),
        "ready"
    );

    let ends_well = wait_for_the_end(&house).await.map_err(|e| e.to_string())?;
    tell(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping: finishing what is in flight");
    stop.send_replace(true);
    let finished = tokio::time::timeout(GRACE, async {
        for task in serving {
            if let Err(e) = task.await {
                tracing::error!("a listener failed: {e}");
            }
        }
    });
    if finished.await.is_err() {
        tracing::warn!("some requests were still in flight after {GRACE:?}");
    }
    house.close();
    for (task, does) in [
        (lives, "looks after keys"),
        (presence, "looks after sessions"),
        (looking, "looks at the machine"),
        (changes, "carries changes out"),
        (orders, "hears orders"),
        (asking, "asks for orders"),
        (outside, "tells of the log"),
        (checkpoints, "signs checkpoints"),
    ] {
        if let Err(e) = task.await {
            tracing::error!("the task that {does} failed: {e}");
        }
    }
    house.finish().await;
    bound.iter().for_each(|path| listener::unlink(path));
    tracing::info!("stopped");
    if ends_well {
        Ok(())
    } else {
        Err("whoever looks at those who ask has ended; start the daemon again".into())
    }
}

/// `false` when it ends because it must.
async fn wait_for_the_end(house: &Arc<House>) -> io::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let watchdog = sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |d| d / 3);
    let mut tick = tokio::time::interval(watchdog);
    let mut look = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(true),
            _ = interrupt.recv() => return Ok(true),
            // Without it everybody is refused, and its privileges come back with a new start alone.
            _ = look.tick() => if !house.eyes.alive() {
                return Ok(false);
            },
            _ = hangup.recv() => match house.reload(crate::service::effective_uid()).await {
                Ok(summary) => tracing::info!("reloaded: {}", summary.get("class").unwrap_or(&serde_json::Value::Null)),
                Err(refusal) => tracing::error!("not reloaded, the old rules stay: {refusal}"),
            },
            // The watchdog is fed only while the writer of the log answers.
            _ = tick.tick() => if house.store.alive() {
                tell(&[sd_notify::NotifyState::Watchdog]);
            },
        }
    }
}

fn tell(state: &[sd_notify::NotifyState]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::debug!("the service manager was not told: {e}");
    }
}

fn open_socket(config: &SocketConfig, passed: Option<OwnedFd>) -> io::Result<UnixListener> {
    match passed {
        Some(fd) => listener::adopt(fd),
        None => listener::bind(config).map_err(|e| {
            io::Error::new(e.kind(), format!("{} cannot be listened on: {e}", config.path.display()))
        }),
    }
}

/// Sockets of sd_listen_fds(3), by their `FileDescriptorName=`.
fn passed_sockets() -> HashMap<String, OwnedFd> {
    let variable = |name| std::env::var(name).ok();
    if variable("LISTEN_PID").and_then(|p| p.parse().ok()) != Some(std::process::id()) {
        return HashMap::new();
    }
    let count: i32 = variable("LISTEN_FDS").and_then(|n| n.parse().ok()).unwrap_or(0);
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    (0..count.clamp(0, 16))
        .filter_map(|i| {
            let name = names.get(usize::try_from(i).ok()?)?;
            Some(((*name).to_owned(), crate::service::adopt_descriptor(3 + i)?))
        })
        .collect()
}
