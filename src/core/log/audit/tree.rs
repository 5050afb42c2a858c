//! Files, hashes and checkpoints: whether these are the entries that were signed, then and now.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::super::checkpoint::{Head, Note, cosigners};
use super::super::export::{CHECKPOINTS, WIDTH, bundle_path, notes, tile_path, tiles, unbundle};
use super::super::merkle::{Frontier, Hash, leaf_hash};
use super::{Findings, Holdings, Reader, Rule, Unreadable};

/// After so many missing files the rest is not looked for.
const MOST_MISSING: u32 = 100;
/// The newest checkpoint of an export.
const CHECKPOINT: &str = "checkpoint";

fn optional(read: Reader<'_>, name: &str) -> Result<Option<Vec<u8>>, Unreadable> {
    read(name).map_err(|e| Unreadable::Read(name.to_owned(), e))
}

fn text(read: Reader<'_>, name: &str) -> Result<String, Unreadable> {
    let bytes = optional(read, name)?.ok_or_else(|| Unreadable::Missing(name.to_owned()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn parsed<'a>(name: &str, note: &'a str) -> Result<(Note<'a>, Head), Unreadable> {
    let wrong = |e| Unreadable::Note(name.to_owned(), e);
    let note = Note::parse(note).map_err(wrong)?;
    let head = note.head().map_err(wrong)?;
    Ok((note, head))
}

/// Whether a key that the auditor holds signed it, as the log that it names.
fn is_signed(holdings: &Holdings, note: &Note<'_>, head: &Head) -> bool {
    holdings.keys.iter().any(|key| key.name() == head.origin && key.signed(note))
}

/// Other checkpoints, and the witnesses of the newest one.
pub(super) fn counts(read: Reader<'_>, holdings: &Holdings) -> Result<(u64, Vec<String>), Unreadable> {
    let history = String::from_utf8_lossy(&optional(read, CHECKPOINTS)?.unwrap_or_default()).into_owned();
    let newest = text(read, CHECKPOINT)?;
    let (note, _) = parsed(CHECKPOINT, &newest)?;
    Ok(((notes(&history).count() + holdings.since.len()) as u64, cosigners(&holdings.witnesses, &note)))
}

/// Roots that the tree must have had on its way, by size: whose word it is, and the root.
type Stations = BTreeMap<u64, Vec<(String, Hash)>>;

/// Every checkpoint beside the newest: those of the export, and those that the auditor kept.
fn stations(
    read: Reader<'_>,
    holdings: &Holdings,
    newest: &Head,
    found: &mut Findings,
) -> Result<Stations, Unreadable> {
    let mut stations = Stations::new();
    let history = String::from_utf8_lossy(&optional(read, CHECKPOINTS)?.unwrap_or_default()).into_owned();
    let kept = holdings.since.iter().map(|(name, note)| (name.as_str(), note.as_str(), true));
    for (name, note, his) in notes(&history).map(|n| (CHECKPOINTS, n, false)).chain(kept) {
        let parts = parsed(name, note);
        let (note, head) = match parts {
            Ok(parts) => parts,
            // What the auditor brings must be readable; what came with the log is its fault.
            Err(e) if his => return Err(e),
            Err(e) => {
                found.breach(Rule::Signature, None, e.to_string());
                continue;
            }
        };
        if !is_signed(holdings, &note, &head) || head.origin != newest.origin {
            let what = format!(
                "{name}: the checkpoint over {} entries of {} is not signed by a key of this log",
                head.size, head.origin
            );
            found.breach(Rule::Signature, None, what);
            continue;
        }
        // [clause 8.7.1-v] an older copy of the log is found by any checkpoint that somebody kept
        if head.size > newest.size {
            let what = format!(
                "{name}: {} entries were signed, and the log has {}: it was rolled back",
                head.size, newest.size
            );
            found.breach(Rule::Consistency, None, what);
            continue;
        }
        stations.entry(head.size).or_default().push((name.to_owned(), head.root));
    }
    Ok(stations)
}

fn witnesses(holdings: &Holdings, note: &Note<'_>, found: &mut Findings) {
    let there = cosigners(&holdings.witnesses, note).len();
    if there < holdings.quorum {
        let what = format!("{there} witnesses cosigned it, and {} must", holdings.quorum);
        found.breach(Rule::Witnesses, None, what);
    }
}

/// What hears the entries, in their order.
pub(super) type Listener<'a> = &'a mut dyn FnMut(u64, &[u8], &mut Findings);

/// Reads the export, hands on its entries, and holds the tree against every checkpoint.
pub(super) fn check(
    read: Reader<'_>,
    holdings: &Holdings,
    found: &mut Findings,
    listener: Listener<'_>,
) -> Result<Head, Unreadable> {
    let newest = text(read, CHECKPOINT)?;
    let (note, head) = parsed(CHECKPOINT, &newest)?;
    if !is_signed(holdings, &note, &head) {
        let what = format!("no key that was given signed the checkpoint of {}", head.origin);
        found.breach(Rule::Signature, None, what);
    }
    witnesses(holdings, &note, found);
    let mut stations = stations(read, holdings, &head, found)?;
    stations.entry(head.size).or_default().push((CHECKPOINT.to_owned(), head.root));
    let (mut tree, mut leaves, mut whole) = (Frontier::default(), Vec::<Hash>::new(), true);
    let mut passed = |tree: &Frontier, found: &mut Findings| {
        for (name, root) in stations.remove(&tree.size()).into_iter().flatten() {
            if tree.root() != root {
                let what = format!(
                    "{name}: the first {} entries are not those that were signed: one was changed, removed, added or moved",
                    tree.size()
                );
                let rule = if name == CHECKPOINT { Rule::Tree } else { Rule::Consistency };
                found.breach(rule, None, what);
            }
        }
    };
    passed(&tree, found);
    let (width, mut missing) = (WIDTH as u64, 0);
    for n in 0..head.size.div_ceil(width) {
        let first = n.saturating_mul(width);
        let count = usize::try_from(head.size - first).unwrap_or(WIDTH).min(WIDTH);
        let name = bundle_path(n, count);
        let entries = match optional(read, &name)? {
            None => Err("is missing".to_owned()),
            Some(bytes) => unbundle(&bytes).ok_or_else(|| "is cut".to_owned()),
        };
        let entries = entries.and_then(|entries| match entries.len() {
            length if length == count => Ok(entries),
            length => Err(format!("holds {length} entries, not {count}")),
        });
        match entries {
            Err(why) => {
                found.breach(Rule::Tree, first, format!("{name} {why}"));
                (whole, missing) = (false, missing + 1);
                // A size that nobody signed makes no work, and one that somebody made up little.
                if !is_signed(holdings, &note, &head) || missing > MOST_MISSING {
                    break;
                }
            }
            Ok(entries) => {
                for (index, bytes) in (first..).zip(entries) {
                    listener(index, &bytes, found);
                    if whole {
                        let leaf = leaf_hash(&bytes);
                        leaves.push(leaf);
                        tree.push(leaf);
                        passed(&tree, found);
                    }
                }
            }
        }
    }
    if whole {
        tiles_hold(read, &leaves, found)?;
    }
    Ok(head)
}

fn tiles_hold(read: Reader<'_>, leaves: &[Hash], found: &mut Findings) -> Result<(), Unreadable> {
    for (level, n, tile) in tiles(leaves) {
        let name = tile_path(level, n, tile.len());
        if optional(read, &name)?.is_none_or(|bytes| bytes != tile.concat()) {
            let what = format!("{name} is missing, or does not hold the hashes of the entries");
            found.breach(Rule::Tree, None, what);
        }
    }
    Ok(())
}
