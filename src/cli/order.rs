//! `claviger order`: written and shown offline, carried to the daemon, verified offline.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Failure, Output, show};
use crate::config::read_text;
use crate::core::order::{HEARTBEAT, Heartbeat, Lease, Level, ORDER, Order, Reactivation, Receipt, Scope};
use crate::core::units::sha256;
use crate::service::keys::now;

/// Orders. They are written and signed on any machine, without the daemon.
#[derive(Subcommand)]
pub enum OrderCommand {
    /// Writes an order, to be signed with `ssh-keygen -Y sign -n clavigerd-order@v1`.
    New(NewOrder),
    /// Writes a sign of life for a beacon, to be signed with `ssh-keygen -Y sign -n clavigerd-heartbeat@v1`.
    Heartbeat {
        /// As the authority document names it.
        #[arg(long)]
        deployment: String,
        /// File to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Says what an order, a reactivation or a lease says, and what its hash is.
    Show {
        /// File.
        file: PathBuf,
    },
    /// Carries orders and leases to the daemon, with the signatures beside them (FILE.sig, FILE.*.sig).
    Send {
        /// Files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Signatures that stand elsewhere; with one FILE only.
        #[arg(long)]
        signature: Vec<PathBuf>,
        /// File to write the receipt to.
        #[arg(long)]
        receipt: Option<PathBuf>,
    },
    /// Has the device write the text that people sign to start it again.
    Challenge {
        /// all, app:NAME or key:NAME.
        #[arg(long, default_value = "all")]
        scope: String,
        /// File to write; standard output when absent.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Starts the device again.
    Reactivate {
        /// The challenge, as the device wrote it.
        file: PathBuf,
        /// The signatures; those beside FILE when absent.
        signatures: Vec<PathBuf>,
    },
    /// Names this device for orders. Keep it where you keep the orders.
    Device,
    /// What stands against this device.
    Status,
    /// Asks for a lease that is carried by hand.
    Lease {
        /// File to write the text of the lease to; it is to be signed with -n clavigerd-lease@v1.
        #[arg(long)]
        out: PathBuf,
        /// How long it shall run, seconds.
        #[arg(long, default_value_t = 14_400)]
        seconds: u64,
    },
    /// Verifies a receipt, without the daemon.
    VerifyReceipt {
        /// What send wrote.
        file: PathBuf,
        /// File with the verifier key of the log, from a place that you trust.
        #[arg(long)]
        key: PathBuf,
        /// The order that it is to be for.
        #[arg(long)]
        order: Option<PathBuf>,
    },
}

/// What an order says.
#[derive(Args)]
pub struct NewOrder {
    /// As the authority document names it.
    #[arg(long)]
    pub deployment: String,
    /// As claviger order device names it.
    #[arg(long)]
    pub device: String,
    /// suspend, inactivate or wipe.
    #[arg(long)]
    pub level: String,
    /// all, app:NAME or key:NAME.
    #[arg(long, default_value = "all")]
    pub scope: String,
    /// How often the device was reactivated, and one.
    #[arg(long, default_value_t = 1)]
    pub epoch: u32,
    /// One more than the last order's of the epoch.
    #[arg(long, default_value_t = 1)]
    pub number: u64,
    /// The order before, if there is one: its file.
    #[arg(long)]
    pub previous: Option<PathBuf>,
    /// One line, for those who find the device stopped.
    #[arg(long)]
    pub reason: String,
    /// File to write.
    #[arg(long)]
    pub out: PathBuf,
}

/// Runs one command; `ask` calls the operator's socket.
pub fn run(
    command: OrderCommand,
    ask: &impl Fn(&str, Value) -> Result<Value, Failure>,
) -> Result<Output, Failure> {
    match command {
        OrderCommand::New(words) => new(&words),
        OrderCommand::Heartbeat { deployment, out } => {
            let beat = Heartbeat { deployment, issued: now() };
            let value = json!({"file": out, "namespace": HEARTBEAT, "text": beat.render()});
            Heartbeat::parse(&beat.render())
                .map_err(|why| Failure::Usage(format!("it would be no heartbeat: {why}")))?;
            write(&out, &beat.render())?;
            let text =
                format!("{}\nsign it, and give both to the beacon: {}", out.display(), how(&value, &out));
            Ok(Output { text, value })
        }
        OrderCommand::Show { file } => shown(&file),
        OrderCommand::Send { files, signature, receipt } => {
            if files.len() > 1 && !(signature.is_empty() && receipt.is_none()) {
                return Err(Failure::Usage("--signature and --receipt go with one FILE".into()));
            }
            let mut told = Vec::new();
            for file in &files {
                told.push(send(file, &signature, receipt.as_deref(), ask)?);
            }
            let text = told.iter().map(show::fields).collect::<Vec<_>>().join("\n");
            let value = if told.len() == 1 { told.pop().unwrap_or_default() } else { json!(told) };
            Ok(Output { text, value })
        }
        OrderCommand::Challenge { scope, out } => {
            let value = ask("operator_orderChallenge", json!({"scope": scope}))?;
            let text = show::text(&value, "text");
            let Some(out) = out else {
                // Exactly the bytes that are signed: the newline that printing adds is the text's own last one.
                return Ok(Output { text: text.strip_suffix('\n').unwrap_or(&text).to_owned(), value });
            };
            write(&out, &text)?;
            let (n, of) = (show::text(&value, "quorum"), show::text(&value, "of"));
            let text = format!("{}\n{n} of {of} sign it: {}", out.display(), how(&value, &out));
            Ok(Output { text, value })
        }
        OrderCommand::Reactivate { file, signatures } => {
            let text = read(&file)?;
            let found = if signatures.is_empty() { beside(&file)? } else { signatures };
            let params = json!({"text": text, "signatures": all(&found)?});
            let value = ask("operator_orderReactivate", params)?;
            Ok(Output { text: show::fields(&value), value })
        }
        OrderCommand::Device => {
            let value = ask("operator_orderStatus", Value::Null)?;
            let pick = |m| value.get(m).cloned().unwrap_or_default();
            if pick("device").is_null() {
                return Err(Failure::plain(show::text(&value, "unavailable")));
            }
            let mut short = json!({});
            if let Some(map) = short.as_object_mut() {
                for member in ["deployment", "device", "epoch", "highest", "last"] {
                    map.insert(member.to_owned(), pick(member));
                }
            }
            Ok(Output { text: show::fields(&short), value: short })
        }
        OrderCommand::Status => {
            let value = ask("operator_orderStatus", Value::Null)?;
            Ok(Output { text: show::fields(&value), value })
        }
        OrderCommand::Lease { out, seconds } => {
            let asked = ask("operator_leaseRequest", Value::Null)?;
            let pick = |m| show::text(&asked, m);
            let lease = Lease {
                deployment: pick("deployment"),
                device: pick("device"),
                epoch: pick("epoch").parse().map_err(Failure::plain)?,
                boot: pick("boot"),
                nonce: pick("nonce"),
                seconds,
                latest: Some(pick("latest")).filter(|h| !h.is_empty()),
                issued: now(),
            };
            write(&out, &lease.render())?;
            Ok(Output { text: format!("{}\nsign it: {}", out.display(), how(&asked, &out)), value: asked })
        }
        OrderCommand::VerifyReceipt { file, key, order } => verify(&file, &key, order.as_deref()),
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    read_text(file).map_err(|e| Failure::Usage(e.to_string()))
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|e| Failure::plain(format!("{}: {e}", file.display())))
}

fn how(value: &Value, file: &Path) -> String {
    format!("ssh-keygen -Y sign -n {} -f KEY {}", show::text(value, "namespace"), file.display())
}

/// The signatures beside a file: FILE.sig, and FILE.WHO.sig.
fn beside(file: &Path) -> Result<Vec<PathBuf>, Failure> {
    let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries =
        std::fs::read_dir(parent).map_err(|e| Failure::Usage(format!("{}: {e}", parent.display())))?;
    let is_one = |found: &str| {
        found.strip_prefix(&name).and_then(|rest| rest.strip_suffix(".sig")).is_some_and(|middle| {
            middle.is_empty() || (middle.starts_with('.') && !middle[1..].contains('.'))
        })
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|e| is_one(&e.file_name().to_string_lossy()))
        .map(|e| e.path())
        .collect();
    found.sort();
    Ok(found)
}

fn all(files: &[PathBuf]) -> Result<Vec<String>, Failure> {
    files.iter().map(|f| read(f)).collect()
}

fn new(words: &NewOrder) -> Result<Output, Failure> {
    let usage = |why: &str| Failure::Usage(why.to_owned());
    let previous = words.previous.as_deref().map(|file| {
        let order =
            Order::parse(&read(file)?).map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))?;
        if order.epoch == words.epoch && order.number >= words.number {
            return Err(Failure::Usage(format!(
                "the order before has number {}: take a higher one",
                order.number
            )));
        }
        Ok(order.hash())
    });
    let order = Order {
        deployment: words.deployment.clone(),
        device: words.device.clone(),
        epoch: words.epoch,
        number: words.number,
        level: Level::parse(&words.level).ok_or_else(|| usage("--level is suspend, inactivate or wipe"))?,
        scope: Scope::parse(&words.scope).ok_or_else(|| usage("--scope is all, app:NAME or key:NAME"))?,
        issued: now(),
        previous: previous.transpose()?,
        reason: words.reason.clone(),
    };
    // What could not be read there is not written here.
    Order::parse(&order.render()).map_err(|why| Failure::Usage(format!("it would be no order: {why}")))?;
    write(&words.out, &order.render())?;
    let value = json!({"file": words.out, "order": order.hash(), "namespace": ORDER, "text": order.render()});
    let people = if order.level == Level::Wipe {
        "people sign it, as many as orders.wipe says"
    } else {
        "one revoker signs it"
    };
    Ok(Output { text: format!("{}\n{people}: {}", order.render(), how(&value, &words.out)), value })
}

fn shown(file: &Path) -> Result<Output, Failure> {
    let text = read(file)?;
    let kind = match text.lines().next() {
        Some(crate::core::order::document::TITLE) => Order::parse(&text).map(|_| "order"),
        Some(crate::core::order::reactivation::TITLE) => Reactivation::parse(&text).map(|_| "reactivation"),
        Some(crate::core::order::lease::TITLE) => Lease::parse(&text).map(|_| "lease"),
        _ => Err("its first line is that of no such document".to_owned()),
    };
    let kind = kind.map_err(|why| Failure::plain(format!("{}: {why}", file.display())))?;
    let hash = hex::encode(sha256(text.as_bytes()));
    Ok(Output {
        text: format!("{text}# {kind} sha256:{hash}"),
        value: json!({"kind": kind, "hash": hash, "text": text}),
    })
}

fn send(
    file: &Path,
    signatures: &[PathBuf],
    receipt: Option<&Path>,
    ask: &impl Fn(&str, Value) -> Result<Value, Failure>,
) -> Result<Value, Failure> {
    let text = read(file)?;
    let found = if signatures.is_empty() { beside(file)? } else { signatures.to_vec() };
    if found.is_empty() {
        return Err(Failure::Usage(format!("there is no signature beside {}", file.display())));
    }
    let told = ask("operator_orderSend", json!({"text": text, "signatures": all(&found)?}))?;
    if let (Some(out), Some(signed)) = (receipt, told.get("receipt")) {
        write(out, &format!("{signed:#}\n"))?;
    }
    Ok(told)
}

fn verify(file: &Path, key: &Path, order: Option<&Path>) -> Result<Output, Failure> {
    let value: Value = serde_json::from_str(&read(file)?).map_err(|e| Failure::Usage(e.to_string()))?;
    let failed = |why: String| {
        Failure::Refused(
            format!("the receipt does NOT verify: {why}"),
            json!({"verified": false, "why": why}),
        )
    };
    let vkey = read(key)?;
    let (receipt, head) =
        Receipt::verify(&show::text(&value, "receipt"), &show::text(&value, "checkpoint"), vkey.trim())
            .map_err(|e| failed(e.to_string()))?;
    if let Some(order) = order {
        let meant = hex::encode(sha256(read(order)?.as_bytes()));
        if meant != receipt.order {
            return Err(failed(format!("it is for order {}, and not for {meant}", receipt.order)));
        }
    }
    let value = json!({
        "verified": true,
        "device": receipt.device,
        "order": receipt.order,
        "heard": receipt.heard,
        "scope": receipt.scope,
        "level": receipt.level,
        "epoch": receipt.epoch,
        "index": receipt.index,
        "at": receipt.at.to_string(),
        "done": receipt.done,
        "log": head.origin,
        "log_size": head.size,
    });
    Ok(Output { text: format!("the receipt verifies\n{}", show::fields(&value)), value })
}
