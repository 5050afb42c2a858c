//! What a beacon knows: the orders of each device, and what the device said of itself. [clause 8.2.1]
//!
//! Held in memory, made of the database at the start; what others rely on is in the database first.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use claviger::core::approval::Authority;
use claviger::core::log::checkpoint::NoteKey;
use claviger::core::order::{Heartbeat, Lease, Level, Order, Receipt, Scope, device_id, judge};
use claviger::core::units::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::config::{Config, is_hash};
use crate::db::Db;

/// Most receipts and known orders of one question, and the longest version and reason.
const MOST_RECEIPTS: usize = 64;
const MOST_KNOWN: usize = 2000;
const LONGEST_WORD: usize = 64;
/// A device that nobody named, without orders, is forgotten after a month.
const FORGOTTEN_MS: i64 = 30 * 86_400_000;
/// A sign of life may be so much ahead of this clock.
const AHEAD_MS: i64 = 300_000;

/// What a device asks with.
#[derive(Deserialize)]
pub struct Ask {
    deployment: String,
    /// Its id.
    pub device: String,
    epoch: u32,
    level: Option<Level>,
    #[serde(default)]
    known: HashSet<String>,
    /// How long the answer may be held, seconds.
    #[serde(default)]
    pub wait: u64,
    /// What it asks for a lease with.
    pub lease: Option<Wanted>,
    lease_left: Option<u64>,
    facts: Option<Facts>,
    #[serde(default)]
    version: String,
    /// Answers to orders.
    #[serde(default)]
    pub receipts: Vec<Value>,
}

/// A lease is asked for.
#[derive(Deserialize)]
pub struct Wanted {
    epoch: u32,
    boot: String,
    nonce: String,
}

/// How a machine stands, by its own word.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// Whether all that it requires is so.
    pub fit: bool,
    #[serde(default)]
    digest: String,
}

/// What a device said last.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Said {
    epoch: u32,
    level: Option<Level>,
    /// By this clock, milliseconds.
    lease_until: Option<i64>,
    facts: Option<Facts>,
    version: String,
}

struct Kept {
    hash: String,
    order: Order,
    signatures: Vec<String>,
}

#[derive(Default)]
struct Device {
    said: Option<Said>,
    seen: i64,
    /// Questions that are open.
    open: usize,
    /// By number.
    orders: Vec<Kept>,
    answered: HashSet<String>,
    no_lease: Option<String>,
    changed: bool,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct Book {
    devices: BTreeMap<String, Device>,
    beat: Option<(i64, String)>,
}

/// One line of the page.
#[derive(Serialize)]
pub struct Row {
    /// Its id.
    pub device: String,
    /// What people call it.
    pub name: Option<String>,
    /// The level that it says it has; none when it runs, or was never heard.
    pub level: Option<Level>,
    /// What an order for all of it asks for that it has not said it has.
    pub ordered: Option<Level>,
    /// Milliseconds since it was last heard; none when it never was.
    pub silent_ms: Option<i64>,
    /// It waits for an answer now.
    pub here: bool,
    /// Silent for too long.
    pub stale: bool,
    /// Seconds of its lease, if it has one.
    pub lease_left: Option<i64>,
    /// Why it got none the last time.
    pub no_lease: Option<String>,
    /// By its own word.
    pub facts: Option<Facts>,
    /// Of its daemon.
    pub version: String,
    /// One, and one for each reactivation.
    pub epoch: u32,
    /// Orders here, receipts for them, and orders of this epoch without one.
    pub orders: usize,
    /// See `orders`.
    pub receipts: usize,
    /// See `orders`.
    pub unanswered: usize,
}

/// The shelf.
pub struct Shelf {
    config: Arc<Config>,
    authority: Authority,
    db: Mutex<Db>,
    book: Mutex<Book>,
}

/// By this machine's clock.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST_WORD).collect()
}

impl Device {
    fn keep(&mut self, order: Order, signatures: Vec<String>) {
        let hash = order.hash();
        if !self.orders.iter().any(|kept| kept.hash == hash) {
            self.orders.push(Kept { hash, order, signatures });
            self.orders.sort_by_key(|kept| kept.order.number);
        }
    }
}

impl Shelf {
    /// Reads what was there before.
    pub fn open(config: Arc<Config>, authority: Authority) -> Result<Self, String> {
        if authority.orders().is_none() {
            return Err("the authority document has no [orders]: there is nobody to take orders from".into());
        }
        let db = Db::open(&config.state)?;
        let mut book = Book::default();
        for (device, said, seen) in db.said(now() - FORGOTTEN_MS)? {
            let said = serde_json::from_str(&said).ok();
            book.devices.insert(device, Device { said, seen, ..Device::default() });
        }
        for (text, signatures) in db.orders()? {
            let order = Order::parse(&text).map_err(|why| format!("an order in the database: {why}"))?;
            book.devices.entry(order.device.clone()).or_default().keep(order, signatures);
        }
        for (hash, device) in db.answered()? {
            book.devices.entry(device).or_default().answered.insert(hash);
        }
        for id in config.names.keys() {
            book.devices.entry(id.clone()).or_default();
        }
        let shelf = Self { config, authority, db: Mutex::new(db), book: Mutex::new(book) };
        let beat = lock(&shelf.db).beat();
        // One whose signer may no longer stop anything is none any more.
        if let Some(beat) = beat.and_then(|(text, signature)| shelf.judge_beat(&text, &signature).ok()) {
            lock(&shelf.book).beat = Some(beat);
        }
        Ok(shelf)
    }

    /// Takes an order in that those signed who may. Blocking: it is on disk before it is answered or given out.
    pub fn take_in(&self, text: &str, signatures: &[String]) -> Result<Value, String> {
        let order = Order::parse(text)?;
        if order.deployment != self.authority.deployment {
            return Err(format!("it is for deployment {}", order.deployment));
        }
        let by = judge::order(&self.authority, &order, signatures).map_err(|r| r.to_string())?;
        let (hash, device) = (order.hash(), order.device.clone());
        let db = lock(&self.db);
        if lock(&self.book).devices.get(&device).is_some_and(|d| d.orders.len() >= self.config.limits.orders)
        {
            return Err(format!("{} orders for this device are here already", self.config.limits.orders));
        }
        db.keep_order(&hash, &device, (text, signatures), &by, now())?;
        let mut book = lock(&self.book);
        let kept = book.devices.entry(device.clone()).or_default();
        kept.keep(order, signatures.to_vec());
        kept.wake.notify_waiters();
        Ok(json!({"order": hash, "device": device, "by": by}))
    }

    fn judge_beat(&self, text: &str, signature: &str) -> Result<(i64, String), String> {
        let beat = Heartbeat::parse(text)?;
        let person = judge::heartbeat(&self.authority, &beat, signature).map_err(|r| r.to_string())?;
        Ok((beat.issued.0, person))
    }

    /// Takes a sign of life. Blocking.
    pub fn take_beat(&self, text: &str, signature: &str) -> Result<Value, String> {
        let (issued, person) = self.judge_beat(text, signature)?;
        if issued > now() + AHEAD_MS {
            return Err("it is of a time to come: one clock is wrong".into());
        }
        let db = lock(&self.db);
        if lock(&self.book).beat.as_ref().is_some_and(|(newest, _)| *newest >= issued) {
            return Err("a newer one is here".into());
        }
        db.keep_beat(text, signature)?;
        let mut book = lock(&self.book);
        book.beat = Some((issued, person.clone()));
        // Leases may be had again.
        book.devices.values().for_each(|device| device.wake.notify_waiters());
        Ok(json!({"by": person, "issued": Timestamp(issued).to_string()}))
    }

    /// How old the newest sign of life is, milliseconds; none when there was none.
    pub fn beat_age(&self) -> Option<(i64, String)> {
        lock(&self.book).beat.as_ref().map(|(issued, person)| (now() - issued, person.clone()))
    }

    /// Notes what a device says of itself; gives what wakes it.
    pub fn hear(&self, ask: &Ask) -> Result<Arc<Notify>, String> {
        if !is_hash(&ask.device) || ask.deployment != self.authority.deployment {
            return Err("it is no device of this deployment".into());
        }
        if ask.known.len() > MOST_KNOWN || ask.receipts.len() > MOST_RECEIPTS {
            return Err("it says too much".into());
        }
        if self.config.only_named && !self.config.names.contains_key(&ask.device) {
            return Err("it is none of the devices that are named here".into());
        }
        let mut book = lock(&self.book);
        // Anybody can make up a device: there is room for so many.
        if book.devices.len() >= self.config.limits.devices && !book.devices.contains_key(&ask.device) {
            return Err("there are too many devices".into());
        }
        let device = book.devices.entry(ask.device.clone()).or_default();
        let facts = ask.facts.clone().map(|facts| Facts { digest: short(&facts.digest), ..facts });
        let left = ask.lease_left.and_then(|left| i64::try_from(left).ok()?.checked_mul(1000));
        device.said = Some(Said {
            epoch: ask.epoch,
            level: ask.level,
            lease_until: left.map(|left| now().saturating_add(left)),
            facts,
            version: short(&ask.version),
        });
        (device.seen, device.changed) = (now(), true);
        Ok(Arc::clone(&device.wake))
    }

    /// Keeps receipts that the device's own token signed; others are nobody's. Blocking.
    // [clause 8.2.1-f] a device is named by the key that signs, so that nobody answers in its place
    pub fn keep_receipts(&self, ask: &Ask) -> Result<(), String> {
        for told in &ask.receipts {
            let part = |name: &str| told.pointer(&format!("/receipt/{name}")).and_then(Value::as_str);
            let (Some(note), Some(head), Some(vkey)) = (part("receipt"), part("checkpoint"), part("vkey"))
            else {
                continue;
            };
            let Ok(key) = NoteKey::parse(vkey) else { continue };
            if device_id(&ask.deployment, &key.public()) != ask.device {
                continue;
            }
            let Ok((receipt, _)) = Receipt::verify(note, head, vkey) else { continue };
            let ours = |book: &Book| {
                let device = book.devices.get(&ask.device)?;
                device.orders.iter().find(|kept| kept.hash == receipt.order)?;
                (!device.answered.contains(&receipt.order)).then_some(())
            };
            if receipt.device != ask.device || ours(&lock(&self.book)).is_none() {
                continue;
            }
            let kept = json!({"receipt": note, "checkpoint": head, "vkey": vkey}).to_string();
            lock(&self.db).keep_receipt(&receipt.order, &ask.device, &kept, now())?;
            if let Some(device) = lock(&self.book).devices.get_mut(&ask.device) {
                device.answered.insert(receipt.order);
            }
        }
        Ok(())
    }

    /// One receipt. Blocking.
    pub fn receipt(&self, order: &str) -> Option<String> {
        lock(&self.db).receipt(order)
    }

    /// A question is open, or no longer.
    pub fn waits(&self, device: &str, comes: bool) {
        if let Some(device) = lock(&self.book).devices.get_mut(device) {
            device.open = if comes { device.open + 1 } else { device.open.saturating_sub(1) };
            (device.seen, device.changed) = (now(), true);
        }
    }

    /// The orders that a device does not know, in their order.
    pub fn orders_for(&self, ask: &Ask) -> Vec<Value> {
        let book = lock(&self.book);
        let orders = book.devices.get(&ask.device).into_iter().flat_map(|device| &device.orders);
        orders
            .filter(|kept| kept.order.epoch >= ask.epoch && !ask.known.contains(&kept.hash))
            .map(|kept| json!({"text": kept.order.render(), "signatures": kept.signatures}))
            .collect()
    }

    /// The lease that a device may have, yet unsigned; none while an order stops all of it, or the policy says no.
    // [clause 8.2.1-d] no lease goes past an order, to a machine that is not as it must be, or when nobody is in charge
    pub fn lease(&self, ask: &Ask, wanted: &Wanted) -> Result<String, String> {
        let leases = self.config.leases.as_ref().ok_or("this beacon gives no leases")?;
        let mut book = lock(&self.book);
        let beat = book.beat.as_ref().map(|(issued, _)| *issued);
        let device = book.devices.get_mut(&ask.device).ok_or("it is not known")?;
        let said_no = |why: String| Err(why);
        let outcome = if let Some(kept) = device
            .orders
            .iter()
            .find(|kept| kept.order.epoch >= wanted.epoch && kept.order.scope == Scope::All)
        {
            said_no(format!("order {} stands against it", kept.hash))
        } else if leases.only_fit && !ask.facts.as_ref().is_some_and(|facts| facts.fit) {
            said_no("its machine is not as it must be".into())
        } else if leases.heartbeat_ms.is_some_and(|most| beat.is_none_or(|beat| now() - beat > most)) {
            said_no("nobody in charge gave a sign of life".into())
        } else {
            let orders = device.orders.iter().filter(|kept| kept.order.epoch == wanted.epoch);
            let lease = Lease {
                deployment: self.authority.deployment.clone(),
                device: ask.device.clone(),
                epoch: wanted.epoch,
                boot: wanted.boot.clone(),
                nonce: wanted.nonce.clone(),
                seconds: leases.seconds,
                latest: orders.max_by_key(|kept| kept.order.number).map(|kept| kept.hash.clone()),
                issued: Timestamp(now()),
            };
            let text = lease.render();
            // What a stranger sent is signed only when it is nothing but a lease.
            Lease::parse(&text).map(|_| text)
        };
        device.no_lease = outcome.as_ref().err().cloned();
        outcome
    }

    /// What is known of each device, by name and id.
    pub fn rows(&self) -> Vec<Row> {
        let (book, now) = (lock(&self.book), now());
        let mut rows: Vec<Row> = book.devices.iter().map(|(id, device)| self.row(id, device, now)).collect();
        rows.sort_by(|a, b| {
            (a.name.is_none(), &a.name, &a.device).cmp(&(b.name.is_none(), &b.name, &b.device))
        });
        rows
    }

    fn row(&self, id: &str, device: &Device, now: i64) -> Row {
        let said = device.said.as_ref();
        let epoch = said.map_or(1, |said| said.epoch);
        let level = said.and_then(|said| said.level);
        let standing = device.orders.iter().filter(|kept| kept.order.epoch >= epoch);
        let ordered = standing.clone().filter(|k| k.order.scope == Scope::All).map(|k| k.order.level).max();
        let silent_ms = said.map(|_| if device.open > 0 { 0 } else { (now - device.seen).max(0) });
        let left = said.and_then(|said| said.lease_until).map(|until| (until - now) / 1000);
        Row {
            device: id.to_owned(),
            name: self.config.names.get(id).cloned(),
            level,
            ordered: ordered.filter(|ordered| level < Some(*ordered)),
            silent_ms,
            here: device.open > 0,
            stale: silent_ms.is_none_or(|ms| ms > self.config.stale_ms),
            lease_left: left.filter(|left| *left > 0),
            no_lease: device.no_lease.clone(),
            facts: said.and_then(|said| said.facts.clone()),
            version: said.map(|said| said.version.clone()).unwrap_or_default(),
            epoch,
            orders: device.orders.len(),
            receipts: device.answered.len(),
            unanswered: standing.filter(|kept| !device.answered.contains(&kept.hash)).count(),
        }
    }

    /// Writes down what devices said since the last time. Blocking.
    pub fn flush(&self) -> Result<(), String> {
        let said: Vec<(String, String, i64)> = {
            let mut book = lock(&self.book);
            let changed = book.devices.iter_mut().filter_map(|(id, device)| {
                let said = device.said.as_ref().filter(|_| std::mem::take(&mut device.changed))?;
                Some((id.clone(), json!(said).to_string(), device.seen))
            });
            changed.collect()
        };
        if said.is_empty() { Ok(()) } else { lock(&self.db).keep_said(&said) }
    }
}
