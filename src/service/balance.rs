//! What is left in an account before its key is destroyed: stated by somebody who looked, or waived by name. [clause 8.7.1]
#![forbid(unsafe_code)]

use super::House;
use super::keys::now;
use super::lifecycle::checked_reason;
use crate::core::approval::balance::{About, judge};
use crate::core::key::{KeyRecord, Purpose, State};
use crate::refusal::{Code, Refusal};
use crate::store::EntryKind;

/// What an operator brings along who wants a payment key destroyed.
#[derive(Default)]
pub struct Left {
    /// A statement, and the signature over it.
    pub evidence: Option<(String, String)>,
    /// Or why there is none.
    pub waiver: Option<String>,
}

impl House {
    /// Looks at what is known of the account, and writes it down; gives the lines that those who decide are shown.
    // [clause 8.7.1-t] money in the account of a destroyed key is gone: somebody says that there is none, or takes it on
    pub(super) async fn balance_known(
        &self,
        key: &KeyRecord,
        left: Left,
        uid: u32,
    ) -> Result<Vec<String>, Refusal> {
        // What was begun had its statement; what cannot be destroyed needs none.
        let concerned = key.purpose == Purpose::Payment && !key.destroying;
        if !concerned || !key.state.leads_to(State::Destroyed, key.purpose) {
            return Ok(Vec::new());
        }
        let account = key.account();
        let entry = |by, text, signature, waiver| EntryKind::Balance {
            key: key.name.to_string(),
            account: account.clone(),
            uid,
            by,
            text,
            signature,
            waiver,
        };
        let (entry, lines) = match (left.evidence, left.waiver) {
            (Some((text, signature)), None) => {
                let rules = self.rules();
                let authority = rules.authority.as_ref().ok_or_else(|| {
                    let why =
                        "no authority document is in force, so that nobody is named who may state a balance";
                    Refusal::new(Code::BalanceEvidence, why)
                })?;
                let assets = rules.policy.assets().collect();
                let about = About { key: &key.name, account: &account, assets, now: now() };
                let stated = judge(authority, &text, &signature, &about)?;
                (entry(Some(stated.by), Some(text), Some(signature), None), stated.lines)
            }
            (None, Some(why)) => {
                let why = checked_reason(&why)?.to_owned();
                let line = format!("balance: NOT LOOKED AT, waived by uid {uid}: {why}");
                (entry(None, None, None, Some(why)), vec![line])
            }
            (None, None) => {
                let why =
                    format!("nothing is known of what is left in {account}, the account of key {}", key.name);
                return Err(Refusal::new(Code::BalanceUnproven, why));
            }
            (Some(_), Some(_)) => {
                let why = "hand in a statement or waive it, not both";
                return Err(Refusal::new(Code::InvalidParams, why));
            }
        };
        self.trusted()?;
        self.store.append(entry).await.map_err(|e| self.store_refusal(&e))?;
        Ok(lines)
    }
}
