//! Asking witnesses: each gets every new checkpoint with the proof that the log only grew; its cosignature is kept with it.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::House;
use super::http;
use super::outbox::{Told, place};
use super::rules::write_atomically;
use crate::config::{Url, WitnessConfig};
use crate::core::log::checkpoint::Note;
use crate::core::log::merkle::{Frontier, Tail, leaf_hash};
use crate::core::log::proof::consistency;
use crate::core::log::witness::Submission;
use crate::core::units::sha256;

/// How often a witness is asked, while the log grows.
const EVERY: Duration = Duration::from_secs(1);
/// Longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Entries that are read at once.
const PAGE: u64 = 4096;

/// What came of asking.
enum Outcome {
    /// Nothing is new.
    Quiet,
    /// It cosigned the tree of this size.
    Cosigned(u64),
    /// It could not be asked, or gave no answer of use.
    Trouble(String),
    /// It does not say what it should of this log: somebody must look.
    Refused(String),
}

/// Where a witness stands: the edge of the tree that it cosigned last.
struct Standing {
    file: std::path::PathBuf,
    edge: Frontier,
}

impl Standing {
    fn load(file: std::path::PathBuf) -> Self {
        // What cannot be read is asked of the witness itself.
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let edge = hex::decode(text.trim()).ok().and_then(|bytes| Frontier::from_bytes(&bytes));
        Self { file, edge: edge.unwrap_or_default() }
    }

    fn keep(&mut self, edge: Frontier) -> std::io::Result<()> {
        if let Some(parent) = self.file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        write_atomically(&self.file, format!("{}\n", hex::encode(edge.to_bytes())).as_bytes())?;
        self.edge = edge;
        Ok(())
    }
}

impl House {
    pub(super) async fn keep_witness(
        self: Arc<Self>,
        witness: WitnessConfig,
        mut stop: watch::Receiver<bool>,
    ) {
        let name = format!("witness {}", witness.key.name());
        let id = hex::encode(sha256(witness.key.name().as_bytes()).first_chunk::<8>().unwrap_or(&[0; 8]));
        let mut standing = Standing::load(place(&self.config.state_dir, &format!("witness-{id}.edge")));
        let (mut told, mut pause) = (Told { next: standing.edge.size(), ..Told::default() }, EVERY);
        loop {
            match self.ask_witness(&witness, &mut standing).await {
                Outcome::Quiet => {}
                Outcome::Cosigned(size) => {
                    told = Told { next: size, ..Told::default() };
                    pause = EVERY;
                }
                Outcome::Trouble(why) => {
                    if told.trouble.is_none() {
                        tracing::warn!("{name} does not cosign: {why}");
                    }
                    self.metrics.export_failed("witness");
                    told.trouble = Some(why);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                // [clause 8.7.1-w] what a witness remembers and the log does not is an alarm, once
                Outcome::Refused(why) => {
                    if !told.alarmed {
                        self.alarm("witness", witness.key.name(), &why).await;
                    }
                    told = Told { trouble: Some(why), alarmed: true, ..told };
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            self.outside.tell(&name, told.clone());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|s| *s) => return,
            }
        }
    }

    async fn ask_witness(&self, witness: &WitnessConfig, standing: &mut Standing) -> Outcome {
        let note = match self.store.latest_checkpoint().await {
            Ok(note) => note,
            // Before the first one there is nothing to ask.
            Err(_) if self.store.checkpointed_size() == 0 => return Outcome::Quiet,
            Err(e) => return Outcome::Trouble(e.to_string()),
        };
        let head = match Note::parse(&note).and_then(|n| n.head()) {
            Ok(head) => head,
            Err(e) => return Outcome::Trouble(format!("the checkpoint cannot be read: {e}")),
        };
        if head.size == standing.edge.size() && head.root == standing.edge.root() {
            return Outcome::Quiet;
        }
        // Asked once with what is remembered here, and once more with what the witness says that it remembers.
        for again in [false, true] {
            let old = standing.edge.size();
            let (path, edge) = match self.grown(&standing.edge, head.size).await {
                Ok(Some(grown)) => grown,
                Ok(None) => {
                    let what = format!(
                        "it cosigned {old} entries, and the log has {}: it was rolled back",
                        head.size
                    );
                    return Outcome::Refused(what);
                }
                Err(why) => return Outcome::Trouble(why),
            };
            let body = Submission { old, path, note: note.clone() }.encode();
            let path = format!("{}/add-checkpoint", witness.url.path.trim_end_matches('/'));
            let url = Url { path, ..witness.url.clone() };
            let asked = tokio::task::spawn_blocking(move || {
                http::post(&url, "text/plain; charset=utf-8", body.as_bytes(), PATIENCE)
            });
            let (status, answer) = match asked.await {
                Ok(Ok(answer)) => answer,
                Ok(Err(e)) => return Outcome::Trouble(format!("{}: {e}", witness.url)),
                Err(e) => return Outcome::Trouble(e.to_string()),
            };
            let answer = String::from_utf8_lossy(&answer).into_owned();
            match (status, answer.trim().parse::<u64>()) {
                (200, _) => return self.cosigned(witness, standing, &note, &answer, edge).await,
                (409, Ok(theirs)) if theirs > self.store.log_head().size => {
                    let what = format!(
                        "it cosigned {theirs} entries, and the log has {}: it was rolled back",
                        self.store.log_head().size
                    );
                    return Outcome::Refused(what);
                }
                // Somebody else showed it a checkpoint of this log meanwhile.
                (409, Ok(theirs)) if theirs != old && (again || theirs > head.size) => {
                    return Outcome::Trouble(format!("{} says another size each time", witness.url));
                }
                (409, Ok(theirs)) if theirs != old => match self.grown(&Frontier::default(), theirs).await {
                    Ok(Some((_, edge))) => standing.edge = edge,
                    Ok(None) => return Outcome::Trouble("the log is shorter than it was".into()),
                    Err(why) => return Outcome::Trouble(why),
                },
                (409 | 422, _) => {
                    let what = format!(
                        "it does not find what it cosigned at the beginning of the log ({status}): the past was changed"
                    );
                    return Outcome::Refused(what);
                }
                _ => return Outcome::Trouble(format!("{} answered {status}", witness.url)),
            }
        }
        Outcome::Trouble(format!("{} says another size each time", witness.url))
    }

    /// The proof that the tree of this size grew out of an edge, and its own edge; `None` when it is smaller.
    async fn grown(&self, from: &Frontier, size: u64) -> Result<Option<(Vec<[u8; 32]>, Frontier)>, String> {
        if from.size() > size {
            return Ok(None);
        }
        let (mut tail, mut edge) = (Tail::new(from.clone()), from.clone());
        while edge.size() < size {
            let count = PAGE.min(size - edge.size());
            let rows = self.store.entries(edge.size(), count).await.map_err(|e| e.to_string())?;
            if rows.is_empty() {
                return Err("the log is shorter than its checkpoint".into());
            }
            for leaf in rows.iter().map(|row| leaf_hash(row)) {
                tail.push(leaf);
                edge.push(leaf);
            }
        }
        let path = consistency(&tail, from.size(), size).ok_or("the proof cannot be made")?;
        Ok(Some((path, edge)))
    }

    /// A cosignature is verified before it is kept, like any other signature.
    async fn cosigned(
        &self,
        witness: &WitnessConfig,
        standing: &mut Standing,
        note: &str,
        answer: &str,
        edge: Frontier,
    ) -> Outcome {
        for line in answer.lines() {
            let with = format!("{note}{line}\n");
            let good = Note::parse(&with).is_ok_and(|n| witness.key.cosigned(&n).is_some())
                && Note::parse(note).is_ok_and(|n| witness.key.cosigned(&n).is_none());
            if good {
                let size = edge.size();
                if let Err(e) = self.store.cosign_checkpoint(size, format!("{line}\n")).await {
                    return Outcome::Trouble(e.to_string());
                }
                return match standing.keep(edge) {
                    Ok(()) => Outcome::Cosigned(size),
                    Err(e) => Outcome::Trouble(format!("where it stands cannot be kept: {e}")),
                };
            }
        }
        // It cosigned this very note before, and its line stands there already.
        if Note::parse(note).is_ok_and(|n| witness.key.cosigned(&n).is_some()) {
            let size = edge.size();
            return match standing.keep(edge) {
                Ok(()) => Outcome::Cosigned(size),
                Err(e) => Outcome::Trouble(format!("where it stands cannot be kept: {e}")),
            };
        }
        Outcome::Trouble("its answer holds no cosignature by its key".into())
    }
}
