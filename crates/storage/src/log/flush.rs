//! Group commit: appends gather in an open object while the one before it becomes durable.
//!
//! The writer takes whatever has gathered as soon as it is free, so that a lone append waits for nothing and many
//! appends share one fdatasync. What gathers is bounded by the broker's budget for requests in flight and, where the chain is in an
//! object store, by [`Limits`]: a request may time out there long before its object is durable.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use kafscale_core::batch::PlacedBatch;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::partition::PartitionInner;
use crate::error::AppendError;

const PENDING: u8 = 0;
const DURABLE: u8 = 1;
const FAILED: u8 = 2;
const FENCED: u8 = 3;

/// What a batch that is kept takes beside its bytes.
const KEPT_BATCH_BYTES: usize = 128;

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
                FENCED => return Err(AppendError::Fenced),
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

    /// What it takes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.size_bytes() + self.batches.get().map_or(0, |b| b.len() * KEPT_BATCH_BYTES)
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

    /// The chain ended below this object: whether it counts is for the partitions' new owners to say.
    pub fn fence(&self) {
        self.state.store(FENCED, Ordering::Release);
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
    pub bytes: usize,
}

/// How much may gather.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// An object is closed before it would become larger than this.
    pub object_bytes: usize,
    /// What was appended and is not durable, at most.
    pub pending_bytes: usize,
}

impl Limits {
    /// On a local disk a request holds its memory until it is answered, which bounds all.
    pub const NONE: Limits = Limits { object_bytes: usize::MAX, pending_bytes: usize::MAX };
}

#[derive(Debug, Default)]
struct State {
    open: OpenObject,
    /// Objects that are full and wait for the writer, oldest first.
    full: VecDeque<OpenObject>,
    /// Bytes in `open`, in `full`, and taken from here but not settled.
    pending_bytes: usize,
    /// Why appends are refused at the moment.
    refusing: Option<String>,
    /// Since when, and why, an object store takes nothing. Appends go on until the limit is met.
    stalled: Option<String>,
    /// An object is wanted, even an empty one.
    prove: bool,
    closed: bool,
    fenced: bool,
}

/// Where appends meet the writer.
#[derive(Debug)]
pub struct WalBuffer {
    limits: Limits,
    state: Mutex<State>,
    /// Wakes a writer that is a thread.
    arrived: Condvar,
    /// Wakes a writer that is a task.
    work: Notify,
}

/// What the writer should do next.
#[derive(Debug)]
pub enum Work {
    Write(OpenObject),
    /// Appends are refused after a failure: see whether the disk takes writes again.
    Probe,
    Stop,
}

/// What there is for a writer that is a task.
enum Ready {
    /// Worth an object at once.
    Full,
    Some,
    Nothing,
    Closed,
}

impl WalBuffer {
    pub fn new(limits: Limits) -> WalBuffer {
        WalBuffer { limits, state: Mutex::default(), arrived: Condvar::new(), work: Notify::new() }
    }

    /// Adds a batch to the open object. The caller holds the lock of the batch's partition, so that batches of one
    /// partition enter in the order of their offsets.
    pub fn push(&self, batch: PendingBatch) -> Result<(Arc<Flush>, u32), AppendError> {
        let mut state = self.state.lock();
        if state.fenced {
            return Err(AppendError::Fenced);
        }
        if let Some(why) = &state.refusing {
            return Err(AppendError::Unavailable(why.clone()));
        }
        if state.closed {
            return Err(AppendError::Unavailable("the broker is shutting down".into()));
        }
        let bytes = batch.batch.bytes.len();
        if state.pending_bytes > 0 && state.pending_bytes.saturating_add(bytes) > self.limits.pending_bytes {
            let why = state.stalled.clone().unwrap_or_else(|| "more is sent than it takes".into());
            return Err(AppendError::Unavailable(format!("the object store is behind: {why}")));
        }
        if !state.open.batches.is_empty() && state.open.bytes.saturating_add(bytes) > self.limits.object_bytes
        {
            let full = std::mem::take(&mut state.open);
            state.full.push_back(full);
            self.work.notify_one();
        }
        let slot = state.open.batches.len() as u32;
        state.open.batches.push(batch);
        state.open.bytes += bytes;
        state.pending_bytes += bytes;
        if slot == 0 {
            self.arrived.notify_one();
            self.work.notify_one();
        }
        Ok((state.open.flush.clone(), slot))
    }

    /// Asks for an object even if nothing is appended: that it can be created proves that the chain is not sealed.
    pub fn prove(&self) -> Result<Arc<Flush>, AppendError> {
        let mut state = self.state.lock();
        if state.fenced {
            return Err(AppendError::Fenced);
        }
        if state.closed {
            return Err(AppendError::Unavailable("the broker is shutting down".into()));
        }
        state.prove = true;
        self.work.notify_one();
        Ok(state.open.flush.clone())
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
                state.pending_bytes -= state.open.bytes;
                return Work::Write(std::mem::take(&mut state.open));
            }
            if state.closed {
                return Work::Stop;
            }
            self.arrived.wait(&mut state);
        }
    }

    /// Waits for the next object; not before a time, unless there is a full one. `None` when the buffer is closed and empty.
    /// What is given counts as pending until it is [settled](Self::settle). Cancel-safe.
    pub async fn next_object(&self, not_before: Instant) -> Option<OpenObject> {
        loop {
            let work = self.work.notified();
            match self.ready() {
                Ready::Full => return Some(self.take()),
                Ready::Some if Instant::now() >= not_before => return Some(self.take()),
                Ready::Some => tokio::select! {
                    () = work => {}
                    () = tokio::time::sleep_until(not_before) => {}
                },
                Ready::Nothing => work.await,
                Ready::Closed => return None,
            }
        }
    }

    fn ready(&self) -> Ready {
        let state = self.state.lock();
        if !state.full.is_empty() {
            return Ready::Full;
        }
        match (state.prove || !state.open.batches.is_empty(), state.closed) {
            // Nothing more can gather.
            (true, true) => Ready::Full,
            (true, false) => Ready::Some,
            (false, true) => Ready::Closed,
            (false, false) => Ready::Nothing,
        }
    }

    fn take(&self) -> OpenObject {
        let mut state = self.state.lock();
        if let Some(full) = state.full.pop_front() {
            return full;
        }
        state.prove = false;
        std::mem::take(&mut state.open)
    }

    /// An object that was taken is durable, or given up.
    pub fn settle(&self, bytes: usize) {
        self.state.lock().pending_bytes -= bytes;
    }

    /// Refuses appends from now on, and gives up what has gathered: its offsets follow those that failed.
    pub fn refuse(&self, why: String) -> OpenObject {
        let mut state = self.state.lock();
        state.refusing = Some(why);
        state.pending_bytes -= state.open.bytes;
        std::mem::take(&mut state.open)
    }

    pub fn accept(&self) {
        self.state.lock().refusing = None;
    }

    /// Says why an object store takes nothing at the moment, or that it does again.
    pub fn stall(&self, why: Option<String>) {
        self.state.lock().stalled = why;
    }

    /// Refuses appends for good, as the chain belongs to the past. Gives what has gathered.
    pub fn fence(&self) -> Vec<OpenObject> {
        let mut state = self.state.lock();
        state.fenced = true;
        state.closed = true;
        let mut gathered: Vec<_> = state.full.drain(..).collect();
        gathered.push(std::mem::take(&mut state.open));
        state.pending_bytes -= gathered.iter().map(|object| object.bytes).sum::<usize>();
        self.work.notify_one();
        gathered
    }

    /// Why appends fail, or would wait for long.
    pub fn trouble(&self) -> Option<String> {
        let state = self.state.lock();
        if state.fenced {
            return Some(AppendError::Fenced.to_string());
        }
        state.refusing.clone().or_else(|| state.stalled.clone())
    }

    pub fn pending_bytes(&self) -> usize {
        self.state.lock().pending_bytes
    }

    /// Refuses appends for good; the writer stops when it has written what is there.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_all();
        self.work.notify_one();
    }
}
