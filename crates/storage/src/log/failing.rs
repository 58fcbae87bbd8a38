//! Partitions whose records cannot be written to segments at the moment: what /readyz says of them, and the bound on what gathers
//! in the write-ahead log meanwhile.
//!
//! A partition is here from a failed attempt until one succeeds. Other partitions are written on, so one of them alone takes nothing
//! away from clients before the log is as large as it may become.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kafscale_core::ids::PartitionId;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::shared::Shared;

/// See the file's comment.
#[derive(Debug, Default)]
pub struct Failing {
    /// Whether there is any: appends ask for it.
    any: AtomicBool,
    attempts: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    since: HashMap<PartitionId, Instant>,
    /// The last one's reason.
    why: String,
}

impl Failing {
    pub fn failed(&self, partition: PartitionId, why: String) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.since.entry(partition).or_insert_with(Instant::now);
        state.why = why;
        self.any.store(true, Ordering::Relaxed);
    }

    pub fn succeeded(&self, partition: PartitionId) {
        if self.any.load(Ordering::Relaxed) {
            let mut state = self.state.lock();
            state.since.remove(&partition);
            self.any.store(!state.since.is_empty(), Ordering::Relaxed);
        }
    }

    /// Attempts that failed since the start.
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// How many partitions' records cannot be written to segments.
    pub fn failing_partitions(&self) -> usize {
        if !self.failing.any.load(Ordering::Relaxed) {
            return 0;
        }
        let mut state = self.failing.state.lock();
        // Those that were deleted or moved away meanwhile.
        state.since.retain(|id, _| self.partition(*id).is_some());
        self.failing.any.store(!state.since.is_empty(), Ordering::Relaxed);
        state.since.len()
    }

    /// A line for operators while there are some.
    pub fn failing_summary(&self) -> Option<String> {
        let partitions = self.failing_partitions();
        let state = self.failing.state.lock();
        let seconds = state.since.values().map(|since| since.elapsed().as_secs()).max()?;
        let (mib, why) = (self.files.usage().0 >> 20, &state.why);
        let bound = match self.chain {
            Some(_) => String::new(),
            None => format!(", and beyond {} MiB no records are taken", self.gathered_max_bytes() >> 20),
        };
        Some(format!(
            "segments of {partitions} partitions cannot be written, for {seconds} s: {why}; the write-ahead log has {mib} MiB{bound}"
        ))
    }

    /// Why no records are taken: what cannot be written to segments has filled the write-ahead log.
    pub fn refuses_appends(&self) -> Option<String> {
        let is_full = self.failing.any.load(Ordering::Relaxed)
            && self.chain.is_none()
            && self.files.usage().0 > self.gathered_max_bytes();
        if is_full { self.failing_summary() } else { None }
    }

    /// Rewriting keeps up with appends from `wal_burst_bytes` on; what one round takes comes on top.
    fn gathered_max_bytes(&self) -> u64 {
        self.config.wal_burst_bytes.saturating_add(self.config.wal_max_bytes)
    }
}
