//! The log as static files, in the layout of C2SP tlog-tiles: entry bundles and hash tiles of 256.
#![forbid(unsafe_code)]

use super::merkle::{Hash, leaf_hash, node_hash};

/// Entries of a bundle, hashes of a tile.
pub const WIDTH: usize = 256;

/// `N` as the layout writes it: groups of three digits, all but the last with an `x`.
#[must_use]
pub fn index_path(n: u64) -> String {
    let mut text = format!("{:03}", n % 1000);
    let mut rest = n / 1000;
    while rest > 0 {
        text = format!("x{:03}/{text}", rest % 1000);
        rest /= 1000;
    }
    text
}

fn suffix(count: usize) -> String {
    if count == WIDTH { String::new() } else { format!(".p/{count}") }
}

/// The path of an entry bundle that holds `count` entries.
#[must_use]
pub fn bundle_path(n: u64, count: usize) -> String {
    format!("tile/entries/{}{}", index_path(n), suffix(count))
}

/// The path of a hash tile.
#[must_use]
pub fn tile_path(level: usize, n: u64, count: usize) -> String {
    format!("tile/{level}/{}{}", index_path(n), suffix(count))
}

/// A bundle: each entry behind its length, 16 bits big-endian.
#[must_use]
pub fn bundle(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let length = u16::try_from(entry.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(entry.get(..usize::from(length)).unwrap_or_default());
    }
    out
}

/// Takes a bundle apart; `None` when it is cut.
#[must_use]
pub fn unbundle(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry.to_vec());
        bytes = rest;
    }
    Some(entries)
}

/// Hash tiles of all levels over these leaves: level, index, hashes.
#[must_use]
pub fn tiles(leaves: &[Hash]) -> Vec<(usize, u64, Vec<Hash>)> {
    let mut out = Vec::new();
    let mut level = 0;
    let mut hashes = leaves.to_vec();
    while !hashes.is_empty() {
        for (n, tile) in (0..).zip(hashes.chunks(WIDTH)) {
            out.push((level, n, tile.to_vec()));
        }
        // A tile of the next level stands on full tiles only.
        hashes = hashes.as_chunks::<WIDTH>().0.iter().map(perfect_root).collect();
        level += 1;
    }
    out
}

fn perfect_root(tile: &[Hash; WIDTH]) -> Hash {
    let mut row = tile.to_vec();
    while row.len() > 1 {
        row = row.as_chunks::<2>().0.iter().map(|[l, r]| node_hash(l, r)).collect();
    }
    row.first().copied().unwrap_or_default()
}

/// The file of every checkpoint before the newest: notes, one after the other, an empty line behind each.
pub const CHECKPOINTS: &str = "checkpoints";

/// Takes that file apart.
pub fn notes(text: &str) -> impl Iterator<Item = &str> {
    // A note has one empty line inside, between its text and its signatures.
    let mut rest = text;
    std::iter::from_fn(move || {
        let inside = rest.find("\n\n")? + 2;
        let length = rest.get(inside..)?.find("\n\n").map_or(rest.len(), |at| inside + at + 1);
        let (note, after) = rest.split_at_checked(length)?;
        rest = after.strip_prefix('\n').unwrap_or(after);
        Some(note)
    })
}

/// All files but the checkpoints and the key.
#[must_use]
pub fn files(entries: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = (0..)
        .zip(entries.chunks(WIDTH))
        .map(|(n, part)| (bundle_path(n, part.len()), bundle(part)))
        .collect();
    let leaves: Vec<Hash> = entries.iter().map(|e| leaf_hash(e)).collect();
    files.extend(
        tiles(&leaves).into_iter().map(|(level, n, tile)| (tile_path(level, n, tile.len()), tile.concat())),
    );
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(index_path(5), "005");
        assert_eq!(index_path(1_234_067), "x001/x234/067");
        assert_eq!(bundle_path(0, 256), "tile/entries/000");
        assert_eq!(tile_path(1, 0, 3), "tile/1/000.p/3");
    }

    #[test]
    fn notes_come_apart_as_they_went_together() {
        let (a, b) = ("o\n1\nAA==\n\n\u{2014} o BB==\n", "o\n2\nAA==\n\n\u{2014} o BB==\n\u{2014} w CC==\n");
        let text = format!("{a}\n{b}\n");
        assert_eq!(notes(&text).collect::<Vec<_>>(), [a, b]);
        assert_eq!(notes("").count(), 0);
        assert_eq!(notes("no note").count(), 0);
    }

    #[test]
    fn bundles_come_apart_as_they_went_together() {
        let entries: Vec<Vec<u8>> = vec![b"a".to_vec(), Vec::new(), vec![7; 300]];
        assert_eq!(unbundle(&bundle(&entries)).unwrap(), entries);
        assert!(unbundle(&bundle(&entries)[..4]).is_none());
    }
}
