//! One statement while it runs: its limits, what it has read so far, and as of when it sees each topic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kafscale_meter::Meter;
use kafscale_storage::scan::Range;
use parking_lot::Mutex;

use crate::metered;

/// What a statement is allowed.
#[derive(Debug, Clone, Copy)]
pub struct QueryLimits {
    /// The most bytes of one topic that are read without a bound on time or offsets.
    pub scan_bytes: Option<u64>,
    /// The most bytes of its answer.
    pub result_bytes: Option<u64>,
}

/// Shared by everything that works on one statement.
#[derive(Debug)]
pub struct Query {
    pub limits: QueryLimits,
    topics: Mutex<BTreeMap<String, TopicUse>>,
    /// Nobody waits for its answer any more.
    stopped: AtomicBool,
    /// What it holds in memory.
    pub meter: Meter,
    /// What else the user is told.
    remarks: Mutex<Vec<String>>,
}

/// What a statement does with a topic.
#[derive(Debug, Clone, Default)]
pub struct TopicUse {
    /// The snapshot, as [`ranges_text`] writes it.
    pub ranges: Vec<Range>,
    pub counters: Arc<Counters>,
    /// Where the columns are inferred: from how many records.
    pub sampled: Option<usize>,
}

/// Counts up while the statement runs.
#[derive(Debug, Default)]
pub struct Counters {
    pub rows: AtomicU64,
    /// Of batches, as they are stored.
    pub bytes: AtomicU64,
    pub misfits: AtomicU64,
    /// Why many values do not fit, and how many.
    reasons: Mutex<BTreeMap<String, u64>>,
    /// Segments, and objects of the write-ahead log, that were begun.
    pub objects: AtomicU64,
}

/// Reasons that are told.
const REASONS: usize = 8;

impl Counters {
    pub fn add(&self, rows: u64, bytes: u64, misfits: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.misfits.fetch_add(misfits, Ordering::Relaxed);
    }

    /// Why values do not fit, as far as that is told.
    pub fn reasons(&self) -> BTreeMap<String, u64> {
        self.reasons.lock().clone()
    }

    pub fn add_reasons(&self, reasons: &BTreeMap<String, u64>) {
        if reasons.is_empty() {
            return;
        }
        let mut known = self.reasons.lock();
        for (reason, count) in reasons {
            if known.len() < REASONS || known.contains_key(reason) {
                *known.entry(reason.clone()).or_default() += count;
            }
        }
    }
}

impl Query {
    pub fn new(limits: QueryLimits) -> Arc<Query> {
        Arc::new(Query {
            limits,
            topics: Mutex::default(),
            stopped: AtomicBool::new(false),
            meter: Meter::default(),
            remarks: Mutex::default(),
        })
    }

    /// What is done for the statement is counted for it.
    pub async fn doing<T>(self: Arc<Self>, work: impl Future<Output = T>) -> T {
        metered::working(self.meter.current(), work).await
    }

    /// Ends what still computes for the statement.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Notes that the statement sees a topic as of these ranges. Gives what to count with.
    pub fn uses(&self, topic: &str, ranges: Vec<Range>, sampled: Option<usize>) -> Arc<Counters> {
        let mut topics = self.topics.lock();
        let used = topics.entry(topic.to_owned()).or_default();
        (used.ranges, used.sampled) = (ranges, sampled);
        Arc::clone(&used.counters)
    }

    /// Tells the user of something behind the answer.
    pub fn remark(&self, remark: String) {
        self.remarks.lock().push(remark);
    }

    /// By topic.
    pub fn used(&self) -> BTreeMap<String, TopicUse> {
        self.topics.lock().clone()
    }

    /// What the user is told behind the answer.
    pub fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        for (topic, used) in self.topics.lock().iter() {
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let (rows, bytes) = (count(&used.counters.rows), count(&used.counters.bytes));
            let as_of = ranges_text(&used.ranges);
            notices.push(format!("{topic} AS OF '{as_of}': read {rows} records, {bytes} bytes"));
            if count(&used.counters.misfits) > 0 {
                let misfits = count(&used.counters.misfits);
                notices.push(format!(
                    "{topic}: {misfits} values or fields do not fit the columns, and are NULL there"
                ));
            }
            for (reason, count) in used.counters.reasons.lock().iter() {
                notices.push(format!("{topic}: {count} of them: {reason}"));
            }
        }
        notices.extend(self.remarks.lock().iter().cloned());
        notices
    }
}

/// Ranges as `AS OF` takes them: `0:5-10,1:0-7` is partition 0 from offset 5 up to and without 10.
pub fn ranges_text(ranges: &[Range]) -> String {
    let text = |r: &Range| format!("{}:{}-{}", r.partition, r.start, r.end);
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

/// What [`ranges_text`] wrote: one range of each partition, at least of one.
pub fn parse_ranges(text: &str) -> Option<Vec<Range>> {
    let parse = |item: &str| {
        let (partition, offsets) = item.trim().split_once(':')?;
        let (start, end) = offsets.split_once('-')?;
        let range =
            Range { partition: partition.parse().ok()?, start: start.parse().ok()?, end: end.parse().ok()? };
        (0 <= range.start && range.start <= range.end).then_some(range)
    };
    let ranges: Vec<Range> = text.split(',').map(parse).collect::<Option<_>>()?;
    let partitions: BTreeSet<_> = ranges.iter().map(|range| range.partition).collect();
    (partitions.len() == ranges.len()).then_some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_they_are_written() {
        let ranges =
            vec![Range { partition: 0, start: 5, end: 10 }, Range { partition: 12, start: 0, end: 0 }];
        assert_eq!(ranges_text(&ranges), "0:5-10,12:0-0");
        assert_eq!(parse_ranges("0:5-10, 12:0-0"), Some(ranges));
        for text in ["", ",", "0:0-2,0:4-6", "0:0-1,", "0", "0:1", "0:2-1", "a:1-2", "0:-1-2", "2026-01-01"] {
            assert_eq!(parse_ranges(text), None, "{text}");
        }
    }
}
