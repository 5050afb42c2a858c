//! Who acknowledged their duties: told by the log alone, and kept at hand.
#![forbid(unsafe_code)]

use std::sync::PoisonError;

use super::{EntryKind, Store, StoreError};
use crate::core::log::user::UserEvent;
use crate::core::user::duties::Acknowledged;

impl Store {
    /// Writes down who acknowledged what; it counts when it is durable.
    pub async fn acknowledge(&self, event: UserEvent) -> Result<u64, StoreError> {
        let entry = EntryKind::User(event.clone());
        let index = self
            .writer
            .submit(move |work| {
                work.settled()?;
                work.append(&entry)
            })
            .await?;
        self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).hear(&event);
        Ok(index)
    }

    /// Asks who acknowledged what.
    pub fn acknowledged<T>(&self, ask: impl FnOnce(&Acknowledged) -> T) -> T {
        ask(&self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
