//! Group commit: appends gather in an open object while the one before it becomes durable.
//!
//! The writer takes whatever has gathered as soon as it is free, so that a lone append waits for nothing and many
//! appends share one fdatasync. What gathers is bounded by the broker's budget for requests in flight.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use kafscale_core::batch::PlacedBatch;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::partition::PartitionInner;
use crate::error::AppendError;

const PENDING: u8 = 0;
const DURABLE: u8 = 1;
const FAILED: u8 = 2;

/// One object on its way to the disk, shared by every append in it. Afterwards it holds the batches for readers,
/// for as long as the tail cache keeps it.
#[derive(Debug, Default)]
pub struct Flush {
    state: AtomicU8,
    changed: Notify,
    failure: OnceLock<String>,
    batches: OnceLock<Vec<Bytes>>,
}

impl Flush {
    /// Waits until the object is durable or has failed.
    pub async fn wait(&self) -> Result<(), AppendError> {
        loop {
            let changed = self.changed.notified();
            match self.state.load(Ordering::Acquire) {
                PENDING => changed.await,
                DURABLE => return Ok(()),
                _ => return Err(AppendError::Unavailable(self.failure.get().cloned().unwrap_or_default())),
            }
        }
    }

    /// A batch of the object, once that is durable.
    pub fn batch(&self, slot: u32) -> Option<Bytes> {
        self.batches.get()?.get(slot as usize).cloned()
    }

    pub fn size_bytes(&self) -> usize {
        self.batches.get().map_or(0, |b| b.iter().map(Bytes::len).sum())
    }

    pub fn keep(&self, batches: Vec<Bytes>) {
        self.batches.set(batches).expect("an object becomes durable once");
    }

    pub fn succeed(&self) {
        self.state.store(DURABLE, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub fn fail(&self, why: &str) {
        self.failure.get_or_init(|| why.to_owned());
        self.state.store(FAILED, Ordering::Release);
        self.changed.notify_waiters();
    }
}

/// A batch that has its offset and waits for the disk.
#[derive(Debug)]
pub struct PendingBatch {
    pub partition: Arc<PartitionInner>,
    pub batch: PlacedBatch,
    pub appended_ms: i64,
}

/// The object that appends go to now.
#[derive(Debug, Default)]
pub struct OpenObject {
    pub flush: Arc<Flush>,
    pub batches: Vec<PendingBatch>,
}

#[derive(Debug, Default)]
struct State {
    open: OpenObject,
    /// Why appends are refused at the moment.
    refusing: Option<String>,
    closed: bool,
}

/// Where appends meet the writer.
#[derive(Debug, Default)]
pub struct WalBuffer {
    state: Mutex<State>,
    arrived: Condvar,
}

/// What the writer should do next.
#[derive(Debug)]
pub enum Work {
    Write(OpenObject),
    /// Appends are refused after a failure: see whether the disk takes writes again.
    Probe,
    Stop,
}

impl WalBuffer {
    /// Adds a batch to the open object. The caller holds the lock of the batch's partition, so that batches of one
    /// partition enter in the order of their offsets.
    pub fn push(&self, batch: PendingBatch) -> Result<(Arc<Flush>, u32), AppendError> {
        let mut state = self.state.lock();
        if let Some(why) = &state.refusing {
            return Err(AppendError::Unavailable(why.clone()));
        }
        if state.closed {
            return Err(AppendError::Unavailable("the broker is shutting down".into()));
        }
        let slot = state.open.batches.len() as u32;
        state.open.batches.push(batch);
        if slot == 0 {
            self.arrived.notify_one();
        }
        Ok((state.open.flush.clone(), slot))
    }

    /// Waits for work. Blocking; for the writer's own thread.
    pub fn next(&self, probe_interval: std::time::Duration) -> Work {
        let mut state = self.state.lock();
        loop {
            if state.refusing.is_some() && !state.closed {
                self.arrived.wait_for(&mut state, probe_interval);
                return if state.closed { Work::Stop } else { Work::Probe };
            }
            if !state.open.batches.is_empty() {
                return Work::Write(std::mem::take(&mut state.open));
            }
            if state.closed {
                return Work::Stop;
            }
            self.arrived.wait(&mut state);
        }
    }

    /// Refuses appends from now on, and gives up what has gathered: its offsets follow those that failed.
    pub fn refuse(&self, why: String) -> OpenObject {
        let mut state = self.state.lock();
        state.refusing = Some(why);
        std::mem::take(&mut state.open)
    }

    pub fn accept(&self) {
        self.state.lock().refusing = None;
    }

    pub fn refusing(&self) -> Option<String> {
        self.state.lock().refusing.clone()
    }

    /// Refuses appends for good; the writer stops when it has written what is there.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_all();
    }
}
