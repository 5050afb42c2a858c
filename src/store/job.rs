//! What the writer is asked to do, with the way back to whoever asked.
#![forbid(unsafe_code)]

use tokio::sync::oneshot;

use super::StoreError;
use super::writer::Work;

/// One of several in a transaction.
pub(super) trait Job: Send {
    fn run(&mut self, work: &mut Work) -> Result<(), StoreError>;
    fn deliver(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// A job, its outcome, and who waits for it.
pub(super) struct Task<T, F> {
    pub(super) job: Option<F>,
    pub(super) result: Option<T>,
    pub(super) tell: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnOnce(&mut Work) -> Result<T, StoreError> + Send> Job for Task<T, F> {
    fn run(&mut self, work: &mut Work) -> Result<(), StoreError> {
        if let Some(job) = self.job.take() {
            self.result = Some(job(work)?);
        }
        Ok(())
    }

    fn deliver(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { result, tell, .. } = *self;
        // Nobody waits any more when the connection has gone; the record stands all the same.
        drop(tell.send(outcome.and_then(|()| result.ok_or(StoreError::Closed))));
    }
}
