//! Proofs in the tree of RFC 6962 (sections 2.1.1 and 2.1.2): that an entry is in it, and that it grew out of a smaller one.
//!
//! A proof about one entry travels as C2SP tlog-proof: its index, the path, and the checkpoint; the entry itself stands in
//! the line for extra data, and counts for nothing before its hash has led to the root.
#![forbid(unsafe_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::checkpoint::{CheckpointError, Head, Note};
use super::entry::MAX_ENTRY;
use super::merkle::{Hash, Tail, leaf_hash, node_hash};

/// First line of a proof.
const MAGIC: &str = "c2sp.org/tlog-proof@v1";
/// Most hashes of a proof: a tree has at most 2^63 leaves.
pub const MOST_HASHES: usize = 63;

/// Why a proof shows nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Not of the format.
    #[error("it is no proof: {0}")]
    Format(&'static str),
    /// Its checkpoint is none.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The hashes do not lead to the root.
    #[error("the hashes do not lead to the root that was signed")]
    Wrong,
}

/// The largest power of two below `n`, for `n` above 1.
fn split(n: u64) -> u64 {
    n.saturating_sub(1).checked_ilog2().map_or(0, |bits| 1 << bits)
}

/// The path from a leaf to the root over `size` leaves; `hash` gives the root over the leaves from one up to another.
/// Begins with the leaf's sibling.
pub fn inclusion<E>(
    index: u64,
    size: u64,
    hash: &mut impl FnMut(u64, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let (mut from, mut to, mut path) = (0, size, Vec::new());
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(hash(middle, to)?);
            to = middle;
        } else {
            path.push(hash(from, middle)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The root that a leaf and its path lead to.
pub fn included(leaf: Hash, index: u64, size: u64, path: &[Hash]) -> Result<Hash, ProofError> {
    if index >= size || path.len() > MOST_HASHES {
        return Err(ProofError::Wrong);
    }
    // RFC 9162, section 2.1.3.2.
    let (mut at, mut last, mut root) = (index, size - 1, leaf);
    for hash in path {
        if last == 0 {
            return Err(ProofError::Wrong);
        }
        if at & 1 == 1 || at == last {
            root = node_hash(hash, &root);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            root = node_hash(&root, hash);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    if last == 0 { Ok(root) } else { Err(ProofError::Wrong) }
}

/// What shows that the tree over `new` leaves begins with the one over `old`; `tail` knows the leaves between.
#[must_use]
pub fn consistency(tail: &Tail, old: u64, new: u64) -> Option<Vec<Hash>> {
    if old == 0 || old >= new {
        return (old <= new).then(Vec::new);
    }
    let (mut from, mut to, mut path) = (0, new, Vec::new());
    // The part of the old tree that stands whole on the way is its root at first, which the other side knows.
    while old < to {
        let middle = from + split(to - from);
        if old <= middle {
            path.push(tail.hash(middle, to)?);
            to = middle;
        } else {
            path.push(tail.hash(from, middle)?);
            from = middle;
        }
    }
    if from > 0 {
        path.push(tail.hash(from, to)?);
    }
    path.reverse();
    Some(path)
}

/// Whether the larger tree begins with the smaller one.
pub fn consistent(
    (old, old_root): (u64, Hash),
    (new, new_root): (u64, Hash),
    path: &[Hash],
) -> Result<(), ProofError> {
    let right = |good: bool| if good { Ok(()) } else { Err(ProofError::Wrong) };
    if old == 0 || old == new {
        return right(path.is_empty() && (old == 0 || old_root == new_root));
    }
    if old > new || path.len() > MOST_HASHES {
        return Err(ProofError::Wrong);
    }
    // RFC 9162, section 2.1.4.2: a whole old tree is the first hash.
    let mut hashes = path.iter();
    let first = if old.is_power_of_two() { Some(&old_root) } else { hashes.next() };
    let Some(first) = first else { return Err(ProofError::Wrong) };
    let (mut at, mut last) = (old - 1, new - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut before, mut after) = (*first, *first);
    for hash in hashes {
        if last == 0 {
            return Err(ProofError::Wrong);
        }
        if at & 1 == 1 || at == last {
            (before, after) = (node_hash(hash, &before), node_hash(hash, &after));
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            after = node_hash(&after, hash);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    right(last == 0 && before == old_root && after == new_root)
}

/// An entry with all that shows that it is in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Its index.
    pub index: u64,
    /// Its bytes.
    pub entry: Vec<u8>,
    /// The path to the root.
    pub path: Vec<Hash>,
    /// The checkpoint, with whatever cosignatures it has.
    pub checkpoint: String,
}

impl Bundle {
    /// As C2SP tlog-proof writes it.
    #[must_use]
    pub fn encode(&self) -> String {
        let path: String = self.path.iter().map(|h| BASE64.encode(h) + "\n").collect();
        let entry = BASE64.encode(&self.entry);
        format!("{MAGIC}\nextra {entry}\nindex {}\n{path}\n{}", self.index, self.checkpoint)
    }

    /// Reads one; nothing in it is believed yet.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        let wrong = ProofError::Format;
        let (head, checkpoint) = text.split_once("\n\n").ok_or(wrong("no empty line"))?;
        let mut lines = head.lines();
        if lines.next() != Some(MAGIC) {
            return Err(wrong("another first line"));
        }
        let extra = lines.next().and_then(|l| l.strip_prefix("extra ")).ok_or(wrong("no entry in it"))?;
        let entry = BASE64.decode(extra).map_err(|_| wrong("the entry is no base64"))?;
        if entry.len() > MAX_ENTRY {
            return Err(wrong("the entry is too long"));
        }
        let number = lines.next().and_then(|l| l.strip_prefix("index ")).ok_or(wrong("no index"))?;
        let index: u64 = number.parse().map_err(|_| wrong("the index is no number"))?;
        if index.to_string() != number {
            return Err(wrong("the index has leading zeros"));
        }
        let path = lines
            .map(|l| BASE64.decode(l).ok().and_then(|h| h.try_into().ok()))
            .collect::<Option<Vec<Hash>>>()
            .ok_or(wrong("a hash is not 32 bytes of base64"))?;
        Ok(Self { index, entry, path, checkpoint: checkpoint.to_owned() })
    }

    /// The head whose root the entry leads to. Whose signatures the note bears is the caller's to ask.
    // [clause 8.7.1-e] one entry is shown to somebody without showing him the others
    pub fn verify(&self) -> Result<(Note<'_>, Head), ProofError> {
        let note = Note::parse(&self.checkpoint)?;
        let head = note.head()?;
        let root = included(leaf_hash(&self.entry), self.index, head.size, &self.path)?;
        if root == head.root { Ok((note, head)) } else { Err(ProofError::Wrong) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::merkle::Frontier;
    use super::*;
    use proptest::prelude::*;

    fn leaves(n: u64) -> Vec<Hash> {
        (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    fn frontier(leaves: &[Hash]) -> Frontier {
        let mut tree = Frontier::default();
        leaves.iter().for_each(|l| tree.push(*l));
        tree
    }

    fn tail(leaves: &[Hash], from: u64) -> Tail {
        let at = usize::try_from(from).unwrap();
        let mut tail = Tail::new(frontier(&leaves[..at]));
        leaves[at..].iter().for_each(|l| tail.push(*l));
        tail
    }

    fn path(leaves: &[Hash], index: u64) -> Vec<Hash> {
        let tail = tail(leaves, 0);
        inclusion(index, leaves.len() as u64, &mut |a, b| tail.hash(a, b).ok_or(())).unwrap()
    }

    // [clause 8.7.1-e] test
    #[test]
    fn every_entry_of_every_small_tree_is_shown_and_no_other() {
        for n in 1..40u64 {
            let all = leaves(n);
            let root = frontier(&all).root();
            for index in 0..n {
                let path = path(&all, index);
                let leaf = all[usize::try_from(index).unwrap()];
                assert_eq!(included(leaf, index, n, &path), Ok(root), "{index} of {n}");
                for other in (0..n).filter(|o| *o != index) {
                    assert_ne!(included(leaf, other, n, &path), Ok(root), "{index} as {other} of {n}");
                }
                let mut longer = path.clone();
                longer.push([0; 32]);
                assert_ne!(included(leaf, index, n, &longer), Ok(root));
                assert_ne!(
                    included(leaf, index, n, path.split_last().map_or(&[[0; 32]], |(_, p)| p)),
                    Ok(root)
                );
            }
        }
    }

    // [clause 8.7.1-e] test
    #[test]
    fn every_tree_is_shown_to_begin_with_every_smaller_one_and_with_no_other() {
        for new in 1..40u64 {
            let all = leaves(new);
            let whole = (new, frontier(&all).root());
            for old in 0..=new {
                let at = usize::try_from(old).unwrap();
                let begin = (old, frontier(&all[..at]).root());
                let path = consistency(&tail(&all, old), old, new).unwrap();
                assert_eq!(consistent(begin, whole, &path), Ok(()), "{old} of {new}");
                // What is told from an older place is the same.
                assert_eq!(consistency(&tail(&all, old / 2), old, new).unwrap(), path);
                if old > 0 && old < new {
                    assert!(consistent((old, [7; 32]), whole, &path).is_err());
                    assert!(consistent(begin, (new, [7; 32]), &path).is_err());
                    assert!(
                        consistent((old, begin.1), whole, &[path.clone(), vec![[0; 32]]].concat()).is_err()
                    );
                    assert!(consistent(whole, begin, &path).is_err());
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(c2sp.org/tlog-proof@v1\n)?(extra [A-Za-z0-9+/=]{0,8}\n)?(index [0-9]{0,3}\n)?\\PC{0,80}(\n\n)?\\PC{0,80}") {
            if let Ok(bundle) = Bundle::parse(&text) {
                prop_assert!(bundle.verify().is_err());
            }
        }

        #[test]
        fn a_bundle_is_read_back_as_it_was(index in any::<u64>(), entry in proptest::collection::vec(any::<u8>(), 0..50), n in 0usize..5) {
            let bundle = Bundle { index, entry, path: vec![[9; 32]; n], checkpoint: "o\n1\nAA==\n\n\u{2014} o AA==\n".into() };
            prop_assert_eq!(Bundle::parse(&bundle.encode()).unwrap(), bundle);
        }
    }
}
