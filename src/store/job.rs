//! What the writer's thread is given to do.
#![forbid(unsafe_code)]

use tokio::sync::oneshot;

use super::StoreError;
use super::writer::Work;

/// Something to do in the transaction of a batch.
pub(super) trait Job: Send {
    fn run(&mut self, work: &mut Work) -> Result<(), StoreError>;
    fn deliver(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// A job with somebody who waits for what comes of it.
pub(super) struct Task<T, F> {
    job: Option<F>,
    result: Option<T>,
    tell: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Task<T, F> {
    pub(super) fn new(job: F, tell: oneshot::Sender<Result<T, StoreError>>) -> Self {
        Self { job: Some(job), result: None, tell }
    }
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
