//! Counters of the log, for metrics. Plain atomics: the hot path adds to them, a scrape reads them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::store::counted::RequestCounters;

/// Upper bounds of the latency buckets, in microseconds.
pub const LATENCY_BUCKETS_US: [u64; 14] =
    [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000];

/// A latency histogram with cumulative reading.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; LATENCY_BUCKETS_US.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

/// A reading of a [`Latency`].
#[derive(Debug, Clone, Copy, Default)]
pub struct LatencySnapshot {
    /// How many observations were at most each of [`LATENCY_BUCKETS_US`].
    pub cumulative: [u64; LATENCY_BUCKETS_US.len()],
    pub count: u64,
    pub sum_us: u64,
}

impl Latency {
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = LATENCY_BUCKETS_US.iter().position(|bound| us <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> LatencySnapshot {
        let mut cumulative = [0; LATENCY_BUCKETS_US.len()];
        let mut total = 0;
        for (bucket, out) in self.buckets.iter().zip(&mut cumulative) {
            total += bucket.load(Ordering::Relaxed);
            *out = total;
        }
        let (count, sum_us) = (self.count.load(Ordering::Relaxed), self.sum_us.load(Ordering::Relaxed));
        LatencySnapshot { cumulative, count, sum_us }
    }
}

/// Objects written to the write-ahead chain.
#[derive(Debug, Default)]
pub struct FlushCounters {
    pub latency: Latency,
    pub failures: AtomicU64,
    pub bytes: AtomicU64,
    pub batches: AtomicU64,
}

impl FlushCounters {
    pub fn observe(&self, took: Duration, bytes: u64, batches: u64, ok: bool) {
        self.latency.observe(took);
        if ok {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.batches.fetch_add(batches, Ordering::Relaxed);
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Operations on the object store, of one kind.
#[derive(Debug, Default)]
pub struct StoreCounters {
    pub latency: Latency,
    pub failures: AtomicU64,
}

impl StoreCounters {
    pub fn observe(&self, took: Duration, ok: bool) {
        self.latency.observe(took);
        if !ok {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Debug, Default)]
pub struct Counters {
    pub flushes: FlushCounters,
    pub requests: Arc<RequestCounters>,
    /// Objects of chains that batches of the tail were read back from.
    pub objects_read: AtomicU64,
    pub tail_hits: AtomicU64,
    pub tail_misses: AtomicU64,
    pub segments_written: AtomicU64,
    /// Those that are gone; attempts that failed are counted beside.
    pub segments_deleted: AtomicU64,
    pub segment_delete_failures: AtomicU64,
    /// Segments that no metadata names, and their bytes, as of the last look.
    pub orphans: AtomicU64,
    pub orphan_bytes: AtomicU64,
    pub orphans_deleted: AtomicU64,
}

/// Requests of one kind to the store.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreRequests {
    pub latency: LatencySnapshot,
    pub failures: u64,
}

impl StoreCounters {
    fn read(&self) -> StoreRequests {
        StoreRequests { latency: self.latency.snapshot(), failures: self.failures.load(Ordering::Relaxed) }
    }
}

/// One reading of everything.
#[derive(Debug, Clone, Default)]
pub struct LogStats {
    /// Time from the start of a write to the end of its fdatasync; in an object store, from sending an object of the chain until it and
    /// all before it were there. Failures are attempts.
    pub flush_latency: LatencySnapshot,
    pub flush_failures: u64,
    pub flushed_bytes: u64,
    pub flushed_batches: u64,
    /// Requests to the store, those of the chain included.
    pub puts: StoreRequests,
    pub gets: StoreRequests,
    pub lists: StoreRequests,
    pub deletes: StoreRequests,
    /// Batches of recent reads found in memory, and read back from the write-ahead log.
    pub tail_hits: u64,
    pub tail_misses: u64,
    pub segments_written: u64,
    pub segments_deleted: u64,
    /// Attempts to write what is in the write-ahead log to segments that failed, and the partitions whose last one did.
    pub segment_write_failures: u64,
    pub failing_partitions: u64,
    pub segment_delete_failures: u64,
    pub orphans: u64,
    pub orphan_bytes: u64,
    pub orphans_deleted: u64,
    /// Whether the write-ahead log is in the object store, and its writes among the requests to it.
    pub wal_in_store: bool,
    /// Appended and not durable yet; only counted where the chain is in an object store.
    pub wal_pending_bytes: u64,
    pub wal_bytes: u64,
    pub wal_files: u64,
    pub tail_cache_bytes: u64,
}

impl Counters {
    pub fn read(&self) -> LogStats {
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        LogStats {
            flush_latency: self.flushes.latency.snapshot(),
            flush_failures: get(&self.flushes.failures),
            flushed_bytes: get(&self.flushes.bytes),
            flushed_batches: get(&self.flushes.batches),
            puts: self.requests.puts.read(),
            gets: self.requests.gets.read(),
            lists: self.requests.lists.read(),
            deletes: self.requests.deletes.read(),
            tail_hits: get(&self.tail_hits),
            tail_misses: get(&self.tail_misses),
            segments_written: get(&self.segments_written),
            segments_deleted: get(&self.segments_deleted),
            segment_delete_failures: get(&self.segment_delete_failures),
            orphans: get(&self.orphans),
            orphan_bytes: get(&self.orphan_bytes),
            orphans_deleted: get(&self.orphans_deleted),
            ..LogStats::default()
        }
    }
}
