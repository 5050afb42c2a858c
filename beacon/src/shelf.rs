//! What a beacon keeps: DIR/DEVICE/orders/HASH.json, receipts/HASH.json, said.json. Every file is written as a whole.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use claviger::core::approval::Authority;
use claviger::core::order::{LEASE, Lease, Order, Scope, judge};
use claviger::core::units::Timestamp;
use serde_json::{Value, json};

/// Most devices, and most orders of one.
const MOST_DEVICES: usize = 10_000;
const MOST_ORDERS: usize = 1000;
const MOST_RECEIPTS: usize = 64;

/// The shelf.
pub struct Shelf {
    dir: PathBuf,
    authority: Authority,
    lease_key: Option<PathBuf>,
    lease_seconds: u64,
    /// One writer at a time.
    writing: Mutex<()>,
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn member<'a>(value: &'a Value, name: &str) -> Result<&'a str, String> {
    value.get(name).and_then(Value::as_str).ok_or_else(|| format!("{name} is missing"))
}

fn strings(value: &Value, name: &str) -> Vec<String> {
    let list = value.get(name).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn write(path: &Path, value: &Value) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, value.to_string()).map_err(failed)?;
    std::fs::rename(&fresh, path).map_err(failed)
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

/// The JSON files of a folder by name; none where it is not there.
fn all(dir: &Path) -> BTreeMap<String, Value> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let found = entries.filter_map(|e| {
        let name = e.file_name().into_string().ok()?.strip_suffix(".json")?.to_owned();
        Some((name, read(&e.path())?))
    });
    found.collect()
}

impl Shelf {
    /// Makes the folder.
    pub fn open(
        dir: PathBuf,
        authority: Authority,
        lease_key: Option<PathBuf>,
        lease_seconds: u64,
    ) -> Result<Self, String> {
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        if authority.orders().is_none() {
            return Err("the authority document has no [orders]: there is nobody to take orders from".into());
        }
        Ok(Self { dir, authority, lease_key, lease_seconds, writing: Mutex::new(()) })
    }

    /// Takes an order in that those signed who may.
    pub fn take_in(&self, paper: &Value) -> Result<Value, String> {
        let text = member(paper, "text")?;
        let signatures = strings(paper, "signatures");
        let order = Order::parse(text)?;
        if order.deployment != self.authority.deployment {
            return Err(format!("it is for deployment {}", order.deployment));
        }
        let by = judge::order(&self.authority, &order, &signatures).map_err(|r| r.to_string())?;
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let orders = self.dir.join(&order.device).join("orders");
        if all(&orders).len() >= MOST_ORDERS {
            return Err(format!("{MOST_ORDERS} orders for this device are here already"));
        }
        let kept = json!({"text": text, "signatures": signatures, "number": order.number, "epoch": order.epoch, "taken": now().to_string()});
        write(&orders.join(format!("{}.json", order.hash())), &kept)?;
        Ok(json!({"order": order.hash(), "device": order.device, "by": by}))
    }

    /// Notes what a device says of itself, and keeps its receipts; gives its id.
    pub fn heard_from(&self, asked: &Value) -> Result<String, String> {
        let device = member(asked, "device")?.to_owned();
        if !is_hash(&device) || member(asked, "deployment")? != self.authority.deployment {
            return Err("it is no device of this deployment".into());
        }
        let folder = self.dir.join(&device);
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Anybody can make up a device: there is room for so many.
        if !folder.exists() && std::fs::read_dir(&self.dir).map_or(0, Iterator::count) >= MOST_DEVICES {
            return Err("there are too many devices".into());
        }
        let mut said = json!({"device": device, "seen": now().to_string()});
        if let Some(map) = said.as_object_mut() {
            for name in ["deployment", "epoch", "level", "lease_left", "version"] {
                let value = asked.get(name).cloned().unwrap_or_default();
                if value.to_string().len() <= 128 {
                    map.insert(name.to_owned(), value);
                }
            }
        }
        write(&folder.join("said.json"), &said)?;
        let receipts = asked.get("receipts").and_then(Value::as_array);
        for receipt in receipts.into_iter().flatten().take(MOST_RECEIPTS) {
            let order = member(receipt, "order").unwrap_or_default();
            let is_ours = is_hash(order) && folder.join("orders").join(format!("{order}.json")).exists();
            if is_ours && receipt.to_string().len() < 64 * 1024 {
                write(&folder.join("receipts").join(format!("{order}.json")), receipt)?;
            }
        }
        Ok(device)
    }

    /// The orders that a device does not know, in their order.
    pub fn orders_for(&self, device: &str, asked: &Value) -> Result<Vec<Value>, String> {
        let known = strings(asked, "known");
        let epoch = asked.get("epoch").and_then(Value::as_u64).ok_or("epoch is missing")?;
        let of = |order: &Value, name: &str| order.get(name).and_then(Value::as_u64).unwrap_or(0);
        let mut orders: Vec<Value> = all(&self.dir.join(device).join("orders"))
            .into_iter()
            .filter(|(hash, order)| !known.contains(hash) && of(order, "epoch") >= epoch)
            .map(|(_, order)| order)
            .collect();
        orders.sort_by_key(|order| of(order, "number"));
        Ok(orders
            .into_iter()
            .map(|o| json!({"text": o.get("text"), "signatures": o.get("signatures")}))
            .collect())
    }

    /// A lease for what a device asks with, unless an order stops the whole device in its epoch.
    pub fn lease(&self, device: &str, wanted: &Value) -> Result<Value, String> {
        let key = self.lease_key.as_ref().ok_or("this beacon gives no leases")?;
        let epoch = wanted.get("epoch").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let epoch = epoch.ok_or("epoch is missing")?;
        let mut latest: Option<Order> = None;
        for order in all(&self.dir.join(device).join("orders")).values() {
            let Ok(order) = Order::parse(member(order, "text")?) else { continue };
            if order.epoch >= epoch && order.scope == Scope::All {
                return Err(format!("order {} stands against it", order.hash()));
            }
            if order.epoch == epoch && latest.as_ref().is_none_or(|l| l.number < order.number) {
                latest = Some(order);
            }
        }
        let lease = Lease {
            deployment: self.authority.deployment.clone(),
            device: device.to_owned(),
            epoch,
            boot: member(wanted, "boot")?.to_owned(),
            nonce: member(wanted, "nonce")?.to_owned(),
            seconds: self.lease_seconds,
            latest: latest.map(|order| order.hash()),
            issued: now(),
        };
        let text = lease.render();
        // What a stranger sent is signed only when it is nothing but a lease.
        Lease::parse(&text)?;
        Ok(json!({"text": text, "signatures": [sign(key, &text)?]}))
    }

    /// What is known of each device.
    pub fn devices(&self) -> Result<Vec<Value>, String> {
        let entries = std::fs::read_dir(&self.dir).map_err(|e| e.to_string())?;
        let mut found: Vec<Value> = entries
            .filter_map(|e| {
                let folder = e.ok()?.path();
                let device = folder.file_name()?.to_str().filter(|name| is_hash(name))?.to_owned();
                let mut said = read(&folder.join("said.json")).unwrap_or_else(|| json!({"device": device}));
                if let Some(map) = said.as_object_mut() {
                    map.insert("orders".into(), json!(all(&folder.join("orders")).len()));
                    map.insert("receipts".into(), json!(all(&folder.join("receipts")).len()));
                }
                Some(said)
            })
            .collect();
        found.sort_by_key(|d| member(d, "device").unwrap_or_default().to_owned());
        Ok(found)
    }
}

/// The stock ssh-keygen signs; the key never comes into this program.
fn sign(key: &Path, text: &str) -> Result<String, String> {
    use std::io::Write;
    let mut child = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-n", LEASE, "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("ssh-keygen: {e}"))?;
    child
        .stdin
        .take()
        .ok_or("ssh-keygen takes nothing")?
        .write_all(text.as_bytes())
        .map_err(|e| e.to_string())?;
    let done = child.wait_with_output().map_err(|e| e.to_string())?;
    if !done.status.success() {
        return Err("ssh-keygen did not sign".into());
    }
    String::from_utf8(done.stdout).map_err(|e| e.to_string())
}
