//! What was known of an account before its key was destroyed: each statement is judged again.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::super::super::approval::Authority;
use super::super::super::approval::balance::{About, judge};
use super::super::super::payment::{Asset, Chain};
use super::super::super::units::{Name, Timestamp};
use super::{Findings, Place, Rule};

/// What an entry says of an account.
pub(super) struct Known<'a> {
    pub(super) key: &'a str,
    pub(super) account: &'a str,
    pub(super) statement: Option<(String, String)>,
    pub(super) waived: bool,
}

/// Keys of whose accounts something is known.
#[derive(Default)]
pub(super) struct Balances(BTreeSet<String>);

impl Balances {
    // [clause 8.7.1-t] no statement is believed because the daemon believed it
    pub(super) fn hear(
        &mut self,
        place: Place,
        known: Known<'_>,
        authority: Option<&Authority>,
        assets: BTreeSet<(Chain, Asset)>,
        found: &mut Findings,
    ) {
        let key = known.key.to_owned();
        match (known.statement, known.waived) {
            (None, true) => {}
            (Some((text, signature)), false) => {
                let Some(name) = Name::parse(&key) else {
                    return found.breach(Rule::Balance, place.index, format!("{key:?} is no name of a key"));
                };
                let about = About { key: &name, account: known.account, assets, now: Timestamp(place.ms) };
                match authority.map(|authority| judge(authority, &text, &signature, &about)) {
                    Some(Ok(_)) => {}
                    Some(Err(refusal)) => {
                        let what = format!("the statement about key {key} does not count: {refusal}");
                        return found.breach(Rule::Balance, place.index, what);
                    }
                    None => {
                        let what = format!("who may state what is left of key {key} is not known");
                        found.unproven(Rule::Balance, place.index, what);
                    }
                }
            }
            _ => {
                let what = format!("what is left of key {key} is neither stated nor waived, or both");
                return found.breach(Rule::Balance, place.index, what);
            }
        }
        self.0.insert(key);
    }

    /// A payment key is being destroyed because somebody said so.
    pub(super) fn destroying(&mut self, place: Place, key: &str, found: &mut Findings) {
        if !self.0.remove(key) {
            let what = format!("the destruction of key {key} began, and nothing was known of its account");
            found.breach(Rule::Balance, place.index, what);
        }
    }
}
