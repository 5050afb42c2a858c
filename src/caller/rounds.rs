//! Many requests of one process, one look at it: whoever asks takes what was seen in a look that began after they asked.
//!
//! A process with many connections or threads costs one look for all of its requests that wait, and none of them takes
//! what was seen before it asked. That a connection is still of this process and this memory each finds out for itself.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::core::app::facts::Facts;
use crate::refusal::Refusal;

/// What is looked for: the registered path, and whether the unit matters.
pub(super) type Asked = (PathBuf, bool);

#[derive(Default)]
struct Last {
    /// How many looks have begun.
    begun: u64,
    /// What the last of them saw, and which it was.
    seen: Option<(u64, Asked, Arc<Facts>)>,
}

/// The looks at one process.
#[derive(Default)]
pub(super) struct Rounds {
    /// One at a time, in the order in which they asked.
    turn: tokio::sync::Mutex<()>,
    last: Mutex<Last>,
}

/// Rounds by process, as long as a connection of it stands.
#[derive(Clone, Default)]
pub(super) struct AllRounds(Arc<Mutex<HashMap<u64, Weak<Rounds>>>>);

impl AllRounds {
    /// Those of a process; where it has no number that is its own for good, of this connection alone.
    pub(super) fn of(&self, process: Option<u64>) -> Arc<Rounds> {
        let Some(process) = process else { return Arc::default() };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rounds) = all.get(&process).and_then(Weak::upgrade) {
            return rounds;
        }
        all.retain(|_, rounds| rounds.strong_count() > 0);
        let rounds = Arc::default();
        all.insert(process, Arc::downgrade(&rounds));
        rounds
    }
}

impl Rounds {
    fn last<T>(&self, with: impl FnOnce(&mut Last) -> T) -> T {
        with(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is seen from now on: by `look`, or by somebody else's that begins after this was called.
    // [clause 8.2.4-b] nothing that was seen before the request counts for it
    pub(super) async fn seen<L, F>(&self, asked: Asked, look: L) -> Result<Arc<Facts>, Refusal>
    where
        L: FnOnce(Asked) -> F,
        F: Future<Output = Result<Facts, Refusal>>,
    {
        let before = self.last(|last| last.begun);
        let _turn = self.turn.lock().await;
        let fresh = self.last(|last| match &last.seen {
            Some((number, what, facts)) if *number > before && *what == asked => Some(Arc::clone(facts)),
            _ => None,
        });
        if let Some(facts) = fresh {
            return Ok(facts);
        }
        let number = self.last(|last| {
            last.begun += 1;
            last.begun
        });
        let facts = Arc::new(look(asked.clone()).await?);
        // One that found itself in another memory says nothing about the others.
        self.last(|last| last.seen = facts.same.then(|| (number, asked, Arc::clone(&facts))));
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn facts(same: bool) -> Facts {
        let unseen = || "not looked for".to_owned();
        Facts {
            same,
            exe: Err(unseen()),
            named: Err(unseen()),
            code: Err(unseen()),
            status: Err(unseen()),
            tracer: Err(unseen()),
            usual_filters: Err(unseen()),
            elsewhere: Err(unseen()),
            dumpable: Err(unseen()),
            group: Err(unseen()),
        }
    }

    /// Asks so often at once, each while the first look is under way; counts the looks.
    async fn looks(rounds: &Arc<Rounds>, paths: &[&str], same: bool) -> usize {
        let count = Arc::new(AtomicUsize::new(0));
        let (open, gate) = tokio::sync::watch::channel(false);
        let asking: Vec<_> = paths
            .iter()
            .map(|path| {
                let (rounds, count, mut gate) = (Arc::clone(rounds), Arc::clone(&count), gate.clone());
                let asked = (PathBuf::from(path), false);
                tokio::spawn(async move {
                    let look = |_| async move {
                        count.fetch_add(1, Ordering::Relaxed);
                        gate.wait_for(|open| *open).await.unwrap();
                        Ok(facts(same))
                    };
                    rounds.seen(asked, look).await.unwrap();
                })
            })
            .collect();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        open.send_replace(true);
        for one in asking {
            one.await.unwrap();
        }
        count.load(Ordering::Relaxed)
    }

    // [clause 8.2.4-b] test
    #[tokio::test]
    async fn who_waits_shares_a_look_that_began_after_they_asked_and_no_other() {
        let rounds = Arc::new(Rounds::default());
        assert_eq!(
            looks(&rounds, &["/a"; 64], true).await,
            2,
            "the one under way serves nobody who came later"
        );
        assert_eq!(looks(&rounds, &["/a"], true).await, 1, "what was seen before counts for nothing");
        assert_eq!(looks(&rounds, &["/a", "/b", "/b"], true).await, 2, "of one path for that path");
        assert_eq!(looks(&rounds, &["/a", "/a", "/b"], true).await, 3, "and for no other");
        assert_eq!(
            looks(&rounds, &["/a"; 4], false).await,
            4,
            "one in another memory speaks for itself alone"
        );
    }

    #[tokio::test]
    async fn a_process_has_one_as_long_as_it_is_connected_and_the_nameless_none_in_common() {
        let all = AllRounds::default();
        let first = all.of(Some(7));
        assert!(Arc::ptr_eq(&first, &all.of(Some(7))) && !Arc::ptr_eq(&first, &all.of(Some(8))));
        assert!(!Arc::ptr_eq(&all.of(None), &all.of(None)));
        drop(first);
        drop(all.of(Some(9)));
        assert_eq!(all.0.lock().unwrap().len(), 1, "who is gone is forgotten");
    }
}
