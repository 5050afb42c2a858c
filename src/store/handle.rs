//! The way to the writer's thread, which does jobs in batches.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::job::{Job, Task};
use super::writer::{Shared, Work, wall};

/// Most jobs of one transaction.
const MOST_JOBS: usize = 512;
/// Longest queue.
const QUEUE: usize = 4096;
/// A batch that takes longer than this is a stuck disk.
const STUCK_MS: i64 = 30_000;

/// The way to the writer's thread.
pub(super) struct WriterHandle {
    jobs: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    shared: Arc<Shared>,
}

impl WriterHandle {
    pub(super) fn start(mut work: Work) -> Result<Self, StoreError> {
        let (jobs, mut inbox) = mpsc::channel::<Box<dyn Job>>(QUEUE);
        let shared = work.shared();
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                let mut batch = Vec::with_capacity(MOST_JOBS);
                while inbox.blocking_recv_many(&mut batch, MOST_JOBS) > 0 {
                    work.shared.busy_since.store(wall(), Ordering::Release);
                    let outcome = work.batch(&mut batch);
                    if outcome.is_ok() {
                        work.publish();
                        work.shared.batches.fetch_add(1, Ordering::Relaxed);
                        work.shared.jobs.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    }
                    for job in batch.drain(..) {
                        job.deliver(outcome.clone());
                    }
                    work.shared.busy_since.store(0, Ordering::Release);
                }
            })
            .map_err(|e| StoreError::Open(format!("the writer's thread cannot start: {e}")))?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)), shared })
    }

    pub(super) async fn submit<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Work) -> Result<T, StoreError> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let sender =
            self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Closed)?;
        let task = Box::new(Task::new(job, tell));
        sender.try_send(task).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        drop(sender);
        told.await.map_err(|_| StoreError::Closed)?
    }

    pub(super) fn queued(&self) -> u64 {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.as_ref().map_or(0, |s| (s.max_capacity() - s.capacity()) as u64)
    }

    pub(super) fn alive(&self) -> bool {
        let since = self.shared.busy_since.load(Ordering::Acquire);
        let ended = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_none_or(std::thread::JoinHandle::is_finished);
        !ended && (since == 0 || wall().saturating_sub(since) < STUCK_MS)
    }

    pub(super) async fn close(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && tokio::task::spawn_blocking(move || thread.join()).await.is_err()
        {
            tracing::error!("the writer did not end in order");
        }
    }
}
