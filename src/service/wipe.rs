//! A wipe: keys are destroyed in the token, the PIN is taken off the disk; names, public halves and the log stay. [clause 8.2.1]
//!
//! Begun once it is gone on with, after a crash too, until the token finds none of the keys any more. What cannot be reached
//! is named. The keys of the log and of its seal stay, so that all of this can be shown.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use super::House;
use super::seal::is_own;
use crate::config::PinSource;
use crate::core::key::State;
use crate::core::log::orders::OrderEvent;
use crate::core::order::Scope;
use crate::refusal::Refusal;
use crate::store::{Because, EntryKind};
use crate::token::keeper::KeeperState;

/// How long a token that is opened for its wipe may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes a file away, and makes that durable.
fn remove(path: &Path) -> Result<(), String> {
    let told = |e: std::io::Error| format!("{}: {e}", path.display());
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(told)?,
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(told)
}

impl House {
    /// Wipes what is to be wiped, as far as it can be reached now; tells in words how far that is.
    // [clause 8.2.1-e] nothing counts as destroyed but what the token does not find any more
    pub(super) async fn wipe(&self) -> String {
        let mut told = Vec::new();
        self.open_to_wipe().await;
        for scope in self.orders.gate().standing.to_wipe() {
            let (destroyed, mut unreached) = self.wipe_keys(&scope).await;
            if scope == Scope::All {
                unreached.extend(self.wipe_pin());
            }
            told.push(format!("{} keys destroyed, {} things not reached", destroyed.len(), unreached.len()));
            for what in &unreached {
                tracing::error!("not wiped: {what}");
            }
            let done = !unreached.iter().any(|what| what.starts_with("key "));
            // A try that comes no further than the one before is no news.
            if !done && destroyed.is_empty() && !self.orders.news(&unreached) {
                continue;
            }
            let entry =
                EntryKind::Order(OrderEvent::Wiped { scope: scope.to_string(), destroyed, unreached, done });
            match self.store.note_order(entry).await {
                Ok(standing) => self.orders.set(standing),
                Err(e) => tracing::error!("the wipe could not be written down: {e}"),
            }
        }
        if told.is_empty() { "nothing was left to wipe".to_owned() } else { told.join("; ") }
    }

    /// Destroys the keys of a scope; gives what was destroyed, and what was not and why.
    async fn wipe_keys(&self, scope: &Scope) -> (Vec<String>, Vec<String>) {
        let _one_at_a_time = self.changes.lock().await;
        let (mut destroyed, mut unreached) = (Vec::new(), Vec::new());
        for key in self.keys().all() {
            let key = &key.record;
            let meant = match scope {
                Scope::All => !is_own(&key.line),
                Scope::Key(line) => key.line == *line && !is_own(line),
                Scope::App(_) => false,
            };
            if !meant || key.state == State::Destroyed {
                continue;
            }
            let because = Because {
                actor: "order".into(),
                reason: format!("an order wipes {scope}"),
                policy: self.key_policy().hash(),
            };
            match self.destroy(key, because).await {
                Ok(_) => destroyed.push(key.name.to_string()),
                Err(Refusal { sentence, .. }) => unreached.push(format!("key {}: {sentence}", key.name)),
            }
        }
        (destroyed, unreached)
    }

    /// A token that was closed by an order before is opened once more, with the PIN if that is still to be had.
    async fn open_to_wipe(&self) {
        if self.orders.gate().standing.to_wipe().is_empty() || self.keeper.connected() {
            return;
        }
        self.keeper.unbar();
        // Once: a PIN that is rejected is not sent again.
        if let (true, Ok(Some(pin))) = (self.orders.first_try(), super::pin::fetch(&self.config.token.pin)) {
            self.keeper.unlock(pin);
            let until = tokio::time::Instant::now() + PATIENCE;
            while self.keeper.state() != KeeperState::Usable && tokio::time::Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Takes the PIN off the disk; the daemon itself keeps it as long as it needs it to go on with the wipe.
    fn wipe_pin(&self) -> Option<String> {
        match &self.config.token.pin {
            PinSource::File(path) | PinSource::Tpm { file: path, .. } => {
                remove(path).err().map(|why| format!("the file of the PIN: {why}"))
            }
            PinSource::Credential(name) => {
                Some(format!("the PIN in the credential {name}, which is the service manager's"))
            }
            PinSource::Unlock => None,
        }
    }

    /// Goes on with a wipe that was begun; then the token is closed.
    pub(super) async fn go_on_wiping(&self) {
        if self.orders.gate().standing.to_wipe().is_empty() {
            return;
        }
        let _one = self.orders.one.lock().await;
        self.wipe().await;
        self.close_if_ordered(false).await;
    }
}
