//! The Merkle tree of RFC 6962, section 2: leaf `SHA-256(0x00 || data)`, node `SHA-256(0x01 || left || right)`.
#![forbid(unsafe_code)]

use sha2::{Digest, Sha256};

/// A node's hash.
pub type Hash = [u8; 32];

/// Hash of a leaf.
#[must_use]
pub fn leaf_hash(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

/// Hash of an inner node.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The right edge of a growing tree: append in O(log n), root at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Roots of the perfect subtrees, largest first; one for each set bit of `size`.
    peaks: Vec<Hash>,
}

impl Frontier {
    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut carry = leaf;
        let mut size = self.size;
        while size & 1 == 1 {
            if let Some(left) = self.peaks.pop() {
                carry = node_hash(&left, &carry);
            }
            size >>= 1;
        }
        self.peaks.push(carry);
        self.size = self.size.saturating_add(1);
    }

    /// Size and peaks, to be kept.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.size.to_be_bytes().to_vec();
        out.extend(self.peaks.iter().flatten());
        out
    }

    /// What [`Self::to_bytes`] gave.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (size, peaks) = bytes.split_first_chunk::<8>()?;
        let size = u64::from_be_bytes(*size);
        let (peaks, rest) = peaks.as_chunks::<32>();
        (rest.is_empty() && peaks.len() == usize::try_from(size.count_ones()).ok()?)
            .then(|| Self { size, peaks: peaks.to_vec() })
    }

    /// Leaves so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Root over all leaves; SHA-256 of nothing for the empty tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => Sha256::digest(b"").into(),
            Some(last) => peaks.fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

/// The right part of a tree: its edge at some size, and every leaf since. Knows what proofs from there on ask for.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    edge: Frontier,
    leaves: Vec<Hash>,
}

impl Tail {
    /// From this edge on.
    #[must_use]
    pub fn new(edge: Frontier) -> Self {
        Self { edge, leaves: Vec::new() }
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        self.leaves.push(leaf);
    }

    /// Leaves of the whole tree.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.edge.size.saturating_add(self.leaves.len() as u64)
    }

    /// Root over the leaves from one up to another: a subtree of RFC 6962, which begins where the edge has a peak or after
    /// it. `None` for others.
    #[must_use]
    pub fn hash(&self, from: u64, to: u64) -> Option<Hash> {
        if from >= to || to > self.size() {
            return None;
        }
        let size = self.edge.size;
        if from >= size {
            let (from, to) = (usize::try_from(from - size).ok()?, usize::try_from(to - size).ok()?);
            let mut part = Frontier::default();
            self.leaves.get(from..to)?.iter().for_each(|leaf| part.push(*leaf));
            return Some(part.root());
        }
        // A peak of the edge, as it stands there.
        let mut start = 0;
        for (bit, peak) in (0..64).rev().map(|b| 1u64 << b).filter(|b| size & b != 0).zip(&self.edge.peaks) {
            if start == from && start + bit == to {
                return Some(*peak);
            }
            start += bit;
        }
        let length = to - from;
        if length < 2 {
            return None;
        }
        let middle = from + (1u64 << (length - 1).ilog2());
        Some(node_hash(&self.hash(from, middle)?, &self.hash(middle, to)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 => Sha256::digest(b"").into(),
            1 => leaves[0],
            n => {
                let k = n.next_power_of_two() / 2;
                node_hash(&naive(&leaves[..k]), &naive(&leaves[k..]))
            }
        }
    }

    #[test]
    fn roots_are_those_of_the_reference_tree() {
        // The eight leaves of the Certificate Transparency reference tests.
        let leaves = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Frontier::default();
        assert_eq!(
            hex::encode(tree.root()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        for (leaf, root) in leaves.iter().zip(roots) {
            tree.push(leaf_hash(&hex::decode(leaf).unwrap()));
            assert_eq!(hex::encode(tree.root()), root);
        }
    }

    proptest! {
        #[test]
        fn the_frontier_is_the_recursion(n in 0usize..200) {
            let leaves: Vec<Hash> = (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect();
            let mut tree = Frontier::default();
            for leaf in &leaves {
                tree.push(*leaf);
            }
            prop_assert_eq!(tree.root(), naive(&leaves));
            prop_assert_eq!(Frontier::from_bytes(&tree.to_bytes()), Some(tree));
        }
    }
}
