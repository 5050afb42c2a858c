//! The anchor: how long the log was, and its root, kept in the token. A copy of the state directory that is put back is
//! shorter than that, or another one. [clause 8.7.1]
//!
//! It only ever holds what was durable before it was written, so that no crash makes it wrong.
#![forbid(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{House, token_refusal};
use crate::config::AnchorMode;
use crate::core::units::sha256;
use crate::refusal::{Code, Refusal};
use crate::store::{EntryKind, LogHead};
use crate::token::TokenError;

/// How soon a token that did not take an anchor is given the next.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// What stands in the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    epoch: u64,
    head: LogHead,
}

impl Anchor {
    fn to_bytes(&self) -> Vec<u8> {
        let (size, root) = (self.head.size, hex::encode(self.head.root));
        format!("claviger anchor 1 {} {size} {root}", self.epoch).into_bytes()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(bytes).ok()?.strip_prefix("claviger anchor 1 ")?.split(' ');
        let (epoch, size) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let root = hex::decode(words.next()?).ok()?.try_into().ok()?;
        let anchor = Self { epoch, head: LogHead { size, root } };
        (anchor.to_bytes() == bytes).then_some(anchor)
    }
}

/// The name of a log's anchor in the token.
pub(super) fn label(origin: &str) -> String {
    let hash = sha256(origin.as_bytes());
    format!("claviger anchor {}", hex::encode(hash.first_chunk::<8>().unwrap_or(&[0; 8])))
}

/// The last that was written, and why the next was not.
#[derive(Default)]
pub(super) struct Anchored {
    last: Option<(Anchor, Instant)>,
    problem: Option<String>,
    /// When that was tried last.
    failed: Option<Instant>,
    /// The log says that it was written.
    noted: bool,
    /// The token has no place for it.
    never: bool,
}

/// What the token says of the log.
pub(super) enum Compared {
    /// It agrees, or has not been told anything yet.
    Good(Option<Anchor>),
    /// There is no anchor, and there will be none.
    Without(String),
}

fn rolled_back(why: String) -> Refusal {
    Refusal::new(Code::StateRolledBack, why)
}

impl House {
    fn anchored(&self) -> MutexGuard<'_, Anchored> {
        self.anchored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares the log as it was found with the token's anchor.
    // [clause 8.7.1-j] yesterday's copy of the state directory is found before anything is signed
    pub(super) async fn compare_anchor(&self) -> Result<Compared, Refusal> {
        let found = self.store.found();
        let mode = self.config.anchor.mode;
        let newest = match self.newest_anchor().await? {
            Ok(newest) => newest,
            Err(why) if found.anchored && mode != AnchorMode::None => {
                return Err(rolled_back(format!("the log says that the token holds its anchor, and {why}")));
            }
            Err(why) if mode == AnchorMode::Required => {
                return Err(Refusal::new(Code::AnchorMissing, format!("anchor.mode is required, and {why}")));
            }
            Err(why) => return Ok(Compared::Without(why)),
        };
        let Some(anchor) = newest else {
            if found.anchored {
                // A token that has lost everything else too is another trouble.
                self.same_token().await?;
                let why = "the log says that the token holds its anchor, and it is gone";
                return Err(rolled_back(why.into()));
            }
            return Ok(Compared::Good(None));
        };
        let LogHead { size, root } = anchor.head;
        if found.epoch < anchor.epoch {
            let why = "the log is a copy from before an operator accepted another one";
            return Err(rolled_back(why.into()));
        }
        if found.size < size {
            return Err(rolled_back(format!(
                "the log has {} entries, and had {size} when the token was told last: an older copy of the state directory was put back, or its newest entries were lost",
                found.size
            )));
        }
        if self.store.root_at(size).await.map_err(|e| self.store_refusal(&e))? != Some(root) {
            return Err(rolled_back(format!(
                "the first {size} entries of the log are not those that the token was told of: another copy of the state directory was put in place"
            )));
        }
        Ok(Compared::Good(Some(anchor)))
    }

    /// What the token holds; the inner error says why it holds nothing and never will.
    async fn newest_anchor(&self) -> Result<Result<Option<Anchor>, String>, Refusal> {
        if self.config.anchor.mode == AnchorMode::None {
            return Ok(Err("anchor.mode is none".into()));
        }
        match self.keeper.data(label(&self.config.log.origin)).await {
            Ok(kept) => {
                let all = kept.iter().filter_map(|bytes| Anchor::parse(bytes));
                Ok(Ok(all.max_by_key(|anchor| (anchor.epoch, anchor.head.size))))
            }
            Err(e @ (TokenError::Unsupported(_) | TokenError::Refused(_))) => Ok(Err(e.to_string())),
            Err(e) => Err(token_refusal(&e)),
        }
    }

    /// For a log that an operator accepted: the epoch after all that the token and the log know. What the token holds is
    /// replaced, not kept beside the new one.
    pub(super) async fn next_epoch(&self) -> Result<(u64, Compared), Refusal> {
        let ours = self.store.found().epoch;
        Ok(match self.newest_anchor().await? {
            Ok(anchor) => (ours.max(anchor.map_or(0, |a| a.epoch)).saturating_add(1), Compared::Good(None)),
            Err(why) => (ours.saturating_add(1), Compared::Without(why)),
        })
    }

    /// The log's key is there: it is our token, and it can be searched.
    pub(super) async fn same_token(&self) -> Result<(), Refusal> {
        let Some(key) =
            self.keys().all().into_iter().find(|k| k.record.name.as_str() == super::keys::LOG_KEY)
        else {
            return Ok(());
        };
        match self.keeper.find(key.record.reference).await.map_err(|e| token_refusal(&e))? {
            Some(there) if there == key.record.public => Ok(()),
            _ => Err(Refusal::new(Code::TokenGone, "the token does not hold the key that signs the log")),
        }
    }

    /// Takes over what was compared.
    pub(super) fn begin_anchor(&self, compared: Compared) {
        let mut anchored = self.anchored();
        match compared {
            Compared::Good(anchor) => anchored.last = anchor.map(|a| (a, Instant::now())),
            Compared::Without(why) => (anchored.problem, anchored.never) = (Some(why), true),
        }
    }

    /// Tells the token how long the log is, when that is due. A token is not written to for every entry.
    pub(super) async fn advance_anchor(&self, now: bool) -> Result<(), Refusal> {
        let (config, head) = (self.config.anchor, self.store.log_head());
        let (before, first) = {
            let anchored = self.anchored();
            let due = match &anchored.last {
                None => true,
                Some((last, at)) => {
                    let behind = head.size.saturating_sub(last.head.size);
                    behind >= config.entries || (behind > 0 && (now || at.elapsed() >= config.after))
                }
            };
            let again = anchored.failed.is_none_or(|at| at.elapsed() >= TRY_AGAIN);
            if anchored.never || !due || !(now || again) {
                return Ok(());
            }
            (anchored.last.as_ref().map(|(a, _)| a.to_bytes()), anchored.last.is_none())
        };
        let epoch = self.epoch.load(std::sync::atomic::Ordering::Acquire);
        let anchor = Anchor { epoch, head };
        let name = label(&self.config.log.origin);
        match self.keeper.keep_data(name, anchor.to_bytes(), before.unwrap_or_default()).await {
            Ok(()) => {}
            Err(e) => {
                let hopeless = first && matches!(e, TokenError::Unsupported(_) | TokenError::Refused(_));
                let mut anchored = self.anchored();
                if anchored.problem.is_none() {
                    tracing::warn!("the token was not told how long the log is: {e}");
                }
                (anchored.problem, anchored.never) = (Some(e.to_string()), hopeless);
                anchored.failed = Some(Instant::now());
                return Err(token_refusal(&e));
            }
        }
        let size = anchor.head.size;
        let noted = {
            let mut anchored = self.anchored();
            let noted = anchored.noted || self.store.found().anchored;
            *anchored = Anchored { last: Some((anchor, Instant::now())), noted, ..Anchored::default() };
            noted
        };
        let entry = (!noted).then(|| EntryKind::State {
            what: "anchored".into(),
            why: format!("the token was told of {size} entries"),
            uid: None,
            epoch,
        });
        self.store.note_anchor(size, entry).await.map_err(|e| self.store_refusal(&e))?;
        self.anchored().noted = true;
        Ok(())
    }

    /// Where an anchor is required, nothing is signed long after the last one.
    pub(super) fn anchor_holds(&self) -> Result<(), Refusal> {
        let config = self.config.anchor;
        if config.mode != AnchorMode::Required {
            return Ok(());
        }
        let anchored = self.anchored();
        let size = self.store.log_head().size;
        let good = anchored
            .last
            .as_ref()
            .is_some_and(|(last, _)| size.saturating_sub(last.head.size) < config.entries.saturating_mul(2));
        if good {
            return Ok(());
        }
        let why = anchored.problem.clone().unwrap_or_else(|| "it was not written yet".into());
        Err(Refusal::new(Code::AnchorMissing, format!("the log has run ahead of the token's anchor: {why}")))
    }

    /// For status and metrics.
    pub(super) fn anchor_told(&self) -> Value {
        let anchored = self.anchored();
        let size = self.store.log_head().size;
        json!({
            "mode": self.config.anchor.mode,
            "kept": anchored.last.is_some(),
            "entries": anchored.last.as_ref().map(|(a, _)| a.head.size),
            "behind": anchored.last.as_ref().map(|(a, _)| size.saturating_sub(a.head.size)),
            "reason": anchored.problem,
        })
    }
}

/// The lock's type, for the house.
pub(super) type Lock = Mutex<Anchored>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_read_back_and_nothing_else_is_one() {
        let anchor = Anchor { epoch: 2, head: LogHead { size: 77, root: [9; 32] } };
        let bytes = anchor.to_bytes();
        assert_eq!(Anchor::parse(&bytes), Some(anchor));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] = b'!';
            assert_eq!(Anchor::parse(&changed), None, "{at}");
            assert_eq!(Anchor::parse(&bytes[..at]), None, "{at}");
        }
        assert_eq!(Anchor::parse(&[bytes.as_slice(), b" "].concat()), None);
        assert!(label("claviger.local/a").len() <= 40 && label("a") != label("b"));
    }
}
