//! What stands behind a new connection: the token that was there before, with the keys that are known.
#![forbid(unsafe_code)]

use super::supervisor::Link;
use super::{Fitness, Shared};
use crate::core::key::{KeyRef, PublicKey};
use crate::token::TokenError;

/// Keys that are compared at each connection; the rest when they are used.
const MOST_COMPARED: usize = 64;

/// The first time, the token is tried before anything else is asked of it.
pub(super) fn try_once(shared: &Shared, link: &Link<'_>) -> Result<(), TokenError> {
    if shared.inner().fitness == Fitness::Untried {
        shared.try_out(link.session()?.as_mut())?;
    }
    Ok(())
}

/// A token that answers is not yet ours: its serial must be the same, and a key that we know must be there.
pub(super) fn look_around(shared: &Shared, link: &Link<'_>) -> Result<(), TokenError> {
    let found = link.describe()?;
    let mut inner = shared.inner();
    if let Some(known) = &inner.description
        && known.serial != found.serial
    {
        return Err(TokenError::Gone(format!(
            "another token (serial {}) stands in place of {}",
            found.serial, known.serial
        )));
    }
    let expected: Vec<_> = inner.expected.iter().copied().take(MOST_COMPARED).collect();
    inner.description = Some(found);
    drop(inner);
    compare_keys(link, &expected)
}

/// Every key that we know is looked for, and compared: handles mean nothing after a new login. A token with none of them
/// is not ours; one that lacks some is, and says so. What a key signs is verified under its registered half anyway.
fn compare_keys(link: &Link<'_>, expected: &[(KeyRef, PublicKey)]) -> Result<(), TokenError> {
    if expected.is_empty() {
        return Ok(());
    }
    let mut session = link.session()?;
    let (mut right, mut wrong) = (0usize, None);
    for (reference, public) in expected {
        match session.find(*reference)? {
            Some(there) if there == *public => right += 1,
            Some(_) => {
                tracing::error!("the key {reference} in the token is another one than was registered");
                wrong = Some(TokenError::Corrupt(format!("the key {reference} in the token is another one")));
            }
            None => {
                tracing::error!("the key {reference} is not in the token");
                wrong.get_or_insert(TokenError::Gone(format!("the key {reference} is not in the token")));
            }
        }
    }
    match wrong {
        Some(error) if right == 0 => Err(error),
        _ => Ok(()),
    }
}
