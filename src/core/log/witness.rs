//! What a log asks of a witness, and what a witness answers: C2SP tlog-witness, `add-checkpoint`.
//!
//! A witness remembers of each log the largest tree that it cosigned, and cosigns only what that tree is the beginning of.
#![forbid(unsafe_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::checkpoint::{Head, Note, NoteKey};
use super::merkle::Hash;
use super::proof::{MOST_HASHES, consistent};

/// Longest request, bytes: 63 hashes and a note.
pub const LONGEST_REQUEST: usize = 16 * 1024;

/// A checkpoint, and what shows that it grew out of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Size of the tree that the witness is known to have cosigned.
    pub old: u64,
    /// The proof.
    pub path: Vec<Hash>,
    /// The checkpoint.
    pub note: String,
}

impl Submission {
    /// The body of the request.
    #[must_use]
    pub fn encode(&self) -> String {
        let path: String = self.path.iter().map(|h| BASE64.encode(h) + "\n").collect();
        format!("old {}\n{path}\n{}", self.old, self.note)
    }

    /// Reads one; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (head, note) = text.split_once("\n\n")?;
        let mut lines = head.lines();
        let number = lines.next()?.strip_prefix("old ")?;
        let old: u64 = number.parse().ok().filter(|n: &u64| n.to_string() == number)?;
        let path = lines.map(|l| BASE64.decode(l).ok()?.try_into().ok()).collect::<Option<Vec<Hash>>>()?;
        (path.len() <= MOST_HASHES).then(|| Self { old, path, note: note.to_owned() })
    }
}

/// The largest tree of a log that was cosigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Leaves.
    pub size: u64,
    /// Root.
    pub root: Hash,
}

impl Seen {
    /// Of a log that was never seen.
    pub const NOTHING: Self = Self { size: 0, root: [0; 32] };
}

/// Why a witness does not cosign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// Not of the format, or the old size is above the new one.
    #[error("the request cannot be read")]
    Malformed,
    /// No such log.
    #[error("no key is known for this log")]
    UnknownLog,
    /// Not by a key of the log.
    #[error("no key of this log signed it")]
    Unsigned,
    /// Another size was cosigned last: this one. A smaller tree than that is an older one.
    #[error("a tree of {0} entries was cosigned last")]
    Elsewhere(u64),
    /// The same size with another root.
    #[error("another tree of this size was cosigned")]
    Fork(u64),
    /// The tree does not begin with the one that was cosigned.
    #[error("it does not begin with the tree that was cosigned")]
    Inconsistent,
}

impl Declined {
    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::UnknownLog => 404,
            Self::Unsigned => 403,
            Self::Elsewhere(_) | Self::Fork(_) => 409,
            Self::Inconsistent => 422,
        }
    }
}

/// Whether a witness cosigns: the head, when it does. `seen` tells of a log's origin what was cosigned last.
// [clause 8.7.1-w] nobody who rolls a log back gets a witness to say that it only grew
pub fn judge(
    submission: &Submission,
    logs: &[NoteKey],
    seen: impl FnOnce(&str) -> Seen,
) -> Result<Head, Declined> {
    let note = Note::parse(&submission.note).map_err(|_| Declined::Malformed)?;
    let head = note.head().map_err(|_| Declined::Malformed)?;
    let mut keys = logs.iter().filter(|k| k.name() == head.origin).peekable();
    if keys.peek().is_none() {
        return Err(Declined::UnknownLog);
    }
    if !keys.any(|key| key.signed(&note)) {
        return Err(Declined::Unsigned);
    }
    if submission.old > head.size {
        return Err(Declined::Malformed);
    }
    let seen = seen(&head.origin);
    if submission.old != seen.size {
        return Err(Declined::Elsewhere(seen.size));
    }
    if head.size == seen.size && seen.size > 0 && head.root != seen.root {
        return Err(Declined::Fork(seen.size));
    }
    if seen.size == 0 && !submission.path.is_empty() {
        return Err(Declined::Inconsistent);
    }
    consistent((seen.size, seen.root), (head.size, head.root), &submission.path)
        .map_err(|_| Declined::Inconsistent)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint;
    use super::super::merkle::{Frontier, Tail, leaf_hash};
    use super::super::proof::consistency;
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;

    fn tree(seed: u8, n: u64) -> (Tail, Frontier) {
        let (mut tail, mut tree) = (Tail::default(), Frontier::default());
        for i in 0..n {
            let leaf = leaf_hash(&[&[seed], i.to_be_bytes().as_slice()].concat());
            tail.push(leaf);
            tree.push(leaf);
        }
        (tail, tree)
    }

    fn submission(seed: u8, old: u64, new: u64) -> Submission {
        let (tail, tree) = tree(seed, new);
        let key = SigningKey::from_bytes(&[5; 32]);
        let body = checkpoint::body("log", new, &tree.root());
        let public = key.verifying_key().to_bytes();
        let note = checkpoint::note(&body, "log", &public, &key.sign(body.as_bytes()).to_bytes());
        Submission { old, path: consistency(&tail, old, new).unwrap_or_default(), note }
    }

    fn logs() -> Vec<NoteKey> {
        let public = SigningKey::from_bytes(&[5; 32]).verifying_key().to_bytes();
        vec![NoteKey::parse(&checkpoint::verifier_key("log", &public)).unwrap()]
    }

    // [clause 8.7.1-w] test
    #[test]
    fn a_witness_cosigns_what_grew_and_nothing_else() {
        let asked =
            |submission: &Submission, seen: Seen| judge(submission, &logs(), |_| seen).map(|head| head.size);
        let seven = Seen { size: 7, root: tree(1, 7).1.root() };
        assert_eq!(asked(&submission(1, 0, 7), Seen::NOTHING), Ok(7));
        assert_eq!(asked(&submission(1, 7, 7), seven), Ok(7));
        assert_eq!(asked(&submission(1, 7, 20), seven), Ok(20));
        for (submission, declined) in [
            // Rolled back: older than what was seen, as its log is now, or said to begin where the witness is.
            (submission(1, 0, 5), Declined::Elsewhere(7)),
            (submission(1, 5, 6), Declined::Elsewhere(7)),
            (submission(1, 7, 5), Declined::Malformed),
            // Another past.
            (submission(2, 7, 7), Declined::Fork(7)),
            (submission(2, 7, 20), Declined::Inconsistent),
            (Submission { path: Vec::new(), ..submission(1, 7, 20) }, Declined::Inconsistent),
            // Not of the log.
            (
                Submission {
                    note: submission(1, 7, 20).note.replace("\n20\n", "\n21\n"),
                    ..submission(1, 7, 20)
                },
                Declined::Unsigned,
            ),
            (
                Submission {
                    note: submission(1, 7, 20).note.replacen("log", "lag", 1),
                    ..submission(1, 7, 20)
                },
                Declined::UnknownLog,
            ),
            (Submission { note: "x".into(), ..submission(1, 7, 20) }, Declined::Malformed),
        ] {
            assert_eq!(asked(&submission, seven), Err(declined));
        }
        let with_path = Submission { path: vec![[0; 32]], ..submission(1, 0, 7) };
        assert_eq!(asked(&with_path, Seen::NOTHING), Err(Declined::Inconsistent));
    }

    proptest! {
        #[test]
        fn requests_are_read_back_as_they_were_and_any_text_is_read_or_refused(old in any::<u64>(), n in 0usize..64, text in "(old [0-9]{0,3}\n)?\\PC{0,60}\n{0,2}\\PC{0,60}") {
            let submission = Submission { old, path: vec![[3; 32]; n], note: "o\n1\nAA==\n\n\u{2014} o AA==\n".into() };
            prop_assert_eq!(Submission::parse(&submission.encode()), (n <= MOST_HASHES).then_some(submission));
            let _ = Submission::parse(&text);
        }
    }
}
