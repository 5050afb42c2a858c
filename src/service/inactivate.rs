//! Orders are obeyed here: heard from whoever carries them, in force at once, written down, latched, and answered. [clause 8.2.1]
//!
//! The order of things: nothing new is let through; what is under way ends, without its signature; the level is durable;
//! the latch outside the disk is moved; a receipt is signed; then the token is closed. Each step leaves the device stopped
//! whatever becomes of the next one.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::latch::{self, Latch};
use super::{House, keys::LOG_KEY};
use crate::config::Config;
use crate::core::log::checkpoint;
use crate::core::log::orders::OrderEvent;
use crate::core::order::lease::LeaseBook;
use crate::core::order::standing::Heard;
use crate::core::order::{self, Level, NotHeard, Order, Receipt, Scope, Standing, against, judge, stopped};
use crate::core::units::{Name, sha256};
use crate::refusal::{Code, Refusal};
use crate::store::{EntryKind, HeardOrder, Store};

/// A receipt is not waited for longer than this: the token is closed, whether it answers or not.
const RECEIPT: Duration = Duration::from_secs(5);
/// Those who wait are told why before their connections end.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a login may take to end until the answer says that it has not.
const LOGOUT: Duration = Duration::from_secs(3);

/// What stands, as signing asks for it.
pub(super) struct Gate {
    pub(super) standing: Standing,
    /// Why it is not known what stands: then everything does.
    pub(super) in_doubt: Option<String>,
}

/// All that orders need of the house.
pub struct Orders {
    gate: RwLock<Arc<Gate>>,
    /// Counts the times that sessions were ended.
    ended: watch::Sender<u64>,
    /// One order at a time.
    pub(super) one: tokio::sync::Mutex<()>,
    latch: Arc<dyn Latch>,
    pub(super) place: String,
    pub(super) lease: Mutex<LeaseBook>,
    pub(super) boot: String,
    /// Wakes who asks the beacon: a reactivation needs another lease.
    pub(super) woken: tokio::sync::Notify,
    /// What a wipe did not reach the last time.
    unreached: Mutex<Vec<String>>,
    /// A PIN was fetched for a wipe.
    tried: AtomicBool,
}

/// The refusal for an order that was not taken.
pub(super) fn not_heard(why: &NotHeard) -> Refusal {
    let code = match why {
        NotHeard::Epoch(..) => Code::OrderEpoch,
        NotHeard::Number(..) | NotHeard::Full => Code::OrderNumber,
        NotHeard::Nothing(_) | NotHeard::Lifts(..) => Code::OrderLifts,
        NotHeard::Wiped => Code::Wiped,
        NotHeard::Challenge => Code::ChallengeStale,
    };
    Refusal::new(code, why.to_string())
}

/// Whether a wipe is not done yet.
pub(super) fn wiping(orders: &Orders) -> bool {
    !orders.gate().standing.to_wipe().is_empty()
}

impl Orders {
    /// Reads what stands, and holds it against the latch. Nothing was opened before.
    // [clause 8.2.1-c] a state that is older than its latch, or that the latch says was there and is not, is inactivated
    pub(super) async fn open(config: &Config, store: &Store) -> Result<Self, Refusal> {
        let failed = |e: crate::store::StoreError| Refusal::new(Code::StoreFailed, e.to_string());
        let mut standing = store.standing().await.map_err(failed)?;
        let place = config.orders.latch.to_string();
        let latch: Arc<dyn Latch> = latch::of(&config.orders.latch).into();
        let (mut note, mut in_doubt) = (None, None);
        let known = standing.latch().map(|(place, value)| (place.to_owned(), value));
        match (latch.read(), known) {
            (Err(why), _) => {
                tracing::error!(
                    "the latch {place} cannot be read, so this device counts as inactivated: {why}"
                );
                in_doubt = Some(format!("the latch cannot be read: {why}"));
            }
            (Ok(shows), Some((there, marked))) if there == place => {
                if shows > marked {
                    note = Some((shows, true, marked));
                } else if shows < marked {
                    tracing::warn!("the latch {place} shows {shows} and not {marked}: it is moved there now");
                    in_doubt = latch.raise_to(marked).err();
                }
            }
            (Ok(shows), None) if shows > 0 && !latch.may_be_shared() => note = Some((shows, true, 0)),
            (Ok(0), None) => {}
            (Ok(shows), before) => {
                if let Some((there, _)) = before {
                    tracing::warn!("the latch is {place} from now on, and was {there}");
                }
                note = Some((shows, false, 0));
            }
        }
        if let Some((shows, is_older, known)) = note {
            let finding =
                format!("clavigerd finding v1\nplace: {place}\nshows: {shows}\nthis state knows: {known}\n");
            let older = is_older.then(|| hex::encode(sha256(finding.as_bytes())));
            if is_older {
                tracing::error!(
                    "this state is older than its latch ({place} shows {shows}, and {known} is known here): inactivated"
                );
            }
            let entry = EntryKind::Order(OrderEvent::Latch { place: place.clone(), shows, older });
            standing = store.note_order(entry).await.map_err(failed)?;
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Self {
            gate: RwLock::new(Arc::new(Gate { standing, in_doubt })),
            ended: watch::channel(0).0,
            one: tokio::sync::Mutex::new(()),
            latch,
            place,
            lease: Mutex::default(),
            boot: boot.trim().to_owned(),
            woken: tokio::sync::Notify::new(),
            unreached: Mutex::default(),
            tried: AtomicBool::new(false),
        })
    }

    /// Whether a wipe failed to reach something else than the last time.
    pub(super) fn news(&self, unreached: &[String]) -> bool {
        let mut last = self.unreached.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *last != unreached;
        *last = unreached.to_vec();
        news
    }

    /// Whether this is asked for the first time.
    pub(super) fn first_try(&self) -> bool {
        !self.tried.swap(true, Ordering::AcqRel)
    }

    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set(&self, standing: Standing) {
        let mut gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let in_doubt = gate.in_doubt.clone();
        *gate = Arc::new(Gate { standing, in_doubt });
    }

    /// An order that cannot be written down stands all the same, and everything with it, until the daemon ends; from then
    /// on the latch tells. What is durable is kept beside it, so that the order can come again.
    pub(super) fn doubt(&self, durable: Standing, why: String) {
        tracing::error!("{why}: this device counts as inactivated");
        *self.gate.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Gate { standing: durable, in_doubt: Some(why) });
    }

    /// Why the token is to stay closed.
    pub(super) fn closed(&self) -> Option<Refusal> {
        let gate = self.gate();
        if let Some(why) = &gate.in_doubt {
            let why = format!("this device counts as inactivated until it is started again: {why}");
            return Some(Refusal::new(Code::Inactivated, why));
        }
        let held = gate.standing.held().get(&Scope::All)?;
        // A wipe that is not done needs the token once more.
        let done = held.level == Level::Wipe && gate.standing.to_wipe().is_empty();
        (held.level == Level::Inactivate || done).then(|| stopped(&Scope::All, held.level, &held.order))
    }

    /// What the latch is to show after a change, when it is to be moved for it.
    pub(super) async fn next_mark(&self, level: Option<Level>) -> Option<u64> {
        if !self.latch.moves_for(level) {
            return None;
        }
        let latch = Arc::clone(&self.latch);
        let shows =
            tokio::task::spawn_blocking(move || latch.read()).await.unwrap_or_else(|e| Err(e.to_string()));
        match shows {
            Ok(shows) => {
                let marked = self.gate().standing.latch().map_or(0, |(_, value)| value);
                Some(shows.max(marked).saturating_add(1))
            }
            Err(why) => {
                tracing::error!("the latch {} cannot be read: {why}", self.place);
                None
            }
        }
    }

    /// Moves the latch; tells what it shows, in words.
    pub(super) async fn move_latch(&self, mark: Option<u64>) -> String {
        let Some(mark) = mark else { return "the latch was not moved".to_owned() };
        let latch = Arc::clone(&self.latch);
        match tokio::task::spawn_blocking(move || latch.raise_to(mark))
            .await
            .unwrap_or_else(|e| Err(e.to_string()))
        {
            Ok(()) => format!("the latch shows {mark}"),
            Err(why) => {
                tracing::error!("the latch {} could not be moved: {why}", self.place);
                "the latch could not be moved".to_owned()
            }
        }
    }

    /// Where the latch is, for its entry.
    pub(super) async fn name_latch(&self, store: &Store) -> Result<(), crate::store::StoreError> {
        if store.standing().await?.latch().is_none() {
            let entry =
                EntryKind::Order(OrderEvent::Latch { place: self.place.clone(), shows: 0, older: None });
            store.note_order(entry).await?;
        }
        Ok(())
    }
}

impl House {
    /// Whether no order stands against the whole device.
    // [clause 8.2.1-a] asked at the request, before the signature is opened, and before it is given out
    pub fn not_stopped(&self) -> Result<(), Refusal> {
        let gate = self.orders.gate();
        if let Some(refusal) = self.orders.closed() {
            return Err(refusal);
        }
        match gate.standing.held().get(&Scope::All) {
            Some(held) => Err(stopped(&Scope::All, held.level, &held.order)),
            None => Ok(()),
        }
    }

    /// Whether this app may use this key now: no order stands against either, and the lease runs.
    pub fn may_use(&self, app: &Name, key: &Name) -> Result<(), Refusal> {
        self.not_stopped()?;
        if let Some(refusal) = against(&self.orders.gate().standing, app, key) {
            return Err(refusal);
        }
        self.lease_runs()
    }

    /// This device, as orders name it.
    pub(super) fn device_id(&self) -> Result<(String, String), Refusal> {
        let rules = self.rules();
        let none = |why: &str| Refusal::new(Code::OrderStranger, why.to_owned());
        let authority = rules.authority.as_ref().ok_or_else(|| {
            none("no authority document is in force: nobody is named who may stop this device")
        })?;
        let key = Name::parse(LOG_KEY)
            .and_then(|name| self.keys().exact(&name))
            .ok_or_else(|| none("the key of the log was not made yet, and the device is named by it"))?;
        let id = order::device_id(&authority.deployment, key.record.public.as_bytes());
        Ok((authority.deployment.clone(), id))
    }

    /// Takes a document that somebody carried here: an order, or a lease. What counts is who signed it.
    pub async fn carry(
        &self,
        text: &str,
        signatures: &[String],
        carrier: &'static str,
    ) -> Result<Value, Refusal> {
        match text.lines().next() {
            Some(order::document::TITLE) => self.order(text, signatures, carrier).await,
            Some(order::lease::TITLE) => self.take_lease(text, signatures).await,
            _ => Err(Refusal::new(Code::OrderMalformed, "it is neither an order nor a lease")),
        }
    }

    async fn order(
        &self,
        text: &str,
        signatures: &[String],
        carrier: &'static str,
    ) -> Result<Value, Refusal> {
        let malformed = |why: String| Refusal::new(Code::OrderMalformed, format!("it is no order: {why}"));
        let order = Order::parse(text).map_err(malformed)?;
        let (deployment, device) = self.device_id()?;
        judge::addressed(&order.deployment, &order.device, (&deployment, &device))?;
        let rules = self.rules();
        let authority = rules
            .authority
            .as_ref()
            .ok_or_else(|| Refusal::new(Code::OrderStranger, "no authority document is in force"))?;
        let by = judge::order(authority, &order, signatures)?;
        let _one = self.orders.one.lock().await;
        let before = self.orders.gate().standing.clone();
        let mut rising = before.clone();
        let effect = rising.hear(&order).map_err(|why| not_heard(&why))?;
        if effect.heard == Heard::Again {
            return self.answer_again(&order).await;
        }
        let (was, is) = (before.level(&Scope::All), rising.level(&Scope::All));
        let rises = rising.held().iter().any(|(scope, held)| before.level(scope) < Some(held.level));
        tracing::warn!(
            order = order.hash(), level = order.level.as_str(), scope = %order.scope, by = by.join(" "), carrier,
            heard = effect.heard.as_str(), "an order was heard: {}", order.reason
        );
        if effect.heard == Heard::Equivocal {
            tracing::error!(number = order.number, "two orders bear one number: everything is suspended");
        }
        if effect.gap {
            tracing::warn!(number = order.number, "an order before this one never arrived");
        }
        // From here on nothing new is let through, whether the rest succeeds or not.
        self.orders.set(rising);
        if rises {
            // What is under way ends: nothing of it is opened any more, and what was opened is written down by now.
            drop(self.switch.write().await);
        }
        let mark = if rises { self.orders.next_mark(is.filter(|_| is > was)).await } else { None };
        let heard = self.write_order(&order, signatures, &by, effect.heard, carrier, mark).await;
        let latch = self.orders.move_latch(mark).await;
        let answer = match heard {
            Ok(heard) => {
                self.orders.set(heard.standing.clone());
                Ok(self.obeyed(&order, &device, heard, latch).await)
            }
            Err(refusal) => {
                let why = format!("order {} could not be written down", order.hash());
                self.orders.doubt(before, why);
                Err(refusal)
            }
        };
        self.close_if_ordered(is > was).await;
        answer
    }

    async fn write_order(
        &self,
        order: &Order,
        signatures: &[String],
        by: &[String],
        heard: Heard,
        carrier: &str,
        latch: Option<u64>,
    ) -> Result<HeardOrder, Refusal> {
        let failed = |e: crate::store::StoreError| self.store_refusal(&e);
        if latch.is_some() {
            self.orders.name_latch(&self.store).await.map_err(failed)?;
        }
        let entry = EntryKind::Order(OrderEvent::Heard {
            order: order.hash(),
            text: order.render(),
            signatures: signatures.iter().map(|s| s.trim().to_owned()).collect(),
            by: by.to_vec(),
            heard: heard.as_str().to_owned(),
            carrier: carrier.to_owned(),
            latch,
        });
        self.store.hear_order(order.clone(), entry).await.map_err(failed)?.map_err(|why| not_heard(&why))
    }

    /// What was done, and a receipt for it, as far as the token gives one.
    async fn obeyed(&self, order: &Order, device: &str, heard: HeardOrder, latch: String) -> Value {
        let mut done = vec!["what it names signs nothing".to_owned(), latch];
        if order.level == Level::Wipe {
            done.push(self.wipe().await);
        } else if self.orders.closed().is_some() {
            done.push("the token is closed next".to_owned());
        }
        let receipt = Receipt {
            device: device.to_owned(),
            order: order.hash(),
            heard: heard.effect.heard.as_str().to_owned(),
            scope: order.scope.to_string(),
            level: heard.effect.level.as_str().to_owned(),
            epoch: heard.standing.epoch(),
            index: heard.index,
            at: heard.at,
            done: done.join("; "),
        };
        let signed = tokio::time::timeout(RECEIPT, self.sign_receipt(&receipt)).await;
        let signed = signed
            .unwrap_or_else(|_| Err(Refusal::new(Code::TokenTimeout, "the token signs no receipt in time")));
        let mut told = json!({
            "order": order.hash(),
            "heard": heard.effect.heard.as_str(),
            "scope": order.scope,
            "level": heard.effect.level,
            "epoch": heard.standing.epoch(),
            "index": heard.index,
            "gap": heard.effect.gap,
            "done": done,
        });
        let (name, value) = match signed {
            Ok(receipt) => ("receipt", receipt),
            // [clause 8.2.1-f] an order is obeyed with or without a receipt, and nothing is made up
            Err(refusal) => ("no_receipt", json!(refusal.to_string())),
        };
        if let Some(map) = told.as_object_mut() {
            map.insert(name.to_owned(), value);
        }
        if let Err(e) = self.store.keep_receipt(order.hash(), told.to_string()).await {
            tracing::error!("the receipt could not be kept: {e}");
        }
        told
    }

    async fn sign_receipt(&self, receipt: &Receipt) -> Result<Value, Refusal> {
        let key = self.log_key(0).await?;
        let note = self.signed_note(&key, &receipt.render()).await?;
        self.checkpoint().await?;
        let head = self.store.latest_checkpoint().await.map_err(|e| self.store_refusal(&e))?;
        let vkey = checkpoint::verifier_key(&self.config.log.origin, key.record.public.as_bytes());
        Receipt::verify(&note, &head, &vkey)
            .map_err(|e| Refusal::new(Code::SignatureInvalid, e.to_string()))?;
        Ok(json!({"receipt": note, "checkpoint": head, "vkey": vkey}))
    }

    /// The same order again: the same answer, and nothing else happens.
    async fn answer_again(&self, order: &Order) -> Result<Value, Refusal> {
        let kept = self.store.receipt(order.hash()).await.map_err(|e| self.store_refusal(&e))?;
        let kept: Value = kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(
            || json!({"order": order.hash(), "no_receipt": "the daemon ended before it was answered"}),
        );
        let mut told = kept;
        if let Some(map) = told.as_object_mut() {
            map.insert("heard".into(), json!(Heard::Again.as_str()));
        }
        Ok(told)
    }

    /// Closes the token and ends sessions, where what stands wants it.
    pub(super) async fn close_if_ordered(&self, rose: bool) {
        let Some(refusal) = self.orders.closed() else { return };
        self.keeper.bar(&refusal.sentence);
        self.end_sessions(crate::core::user::Ended::Inactivated);
        if rose {
            self.orders.ended.send_modify(|n| *n += 1);
        }
        let until = tokio::time::Instant::now() + LOGOUT;
        while self.keeper.connected() && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if self.keeper.connected() {
            tracing::error!("the token has not given its login back yet");
        }
    }

    /// Returns when sessions that run now are to end.
    pub async fn sessions_end(&self) {
        let mut ended = self.orders.ended.subscribe();
        ended.mark_unchanged();
        if ended.changed().await.is_ok() {
            tokio::time::sleep(FAREWELL).await;
        } else {
            std::future::pending::<()>().await;
        }
    }
}
