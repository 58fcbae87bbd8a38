//! The sequence windows of idempotent producers, per partition (KIP-98).
//!
//! A producer may have five batches in flight, so the last five are remembered: a batch that comes again is
//! answered with the offsets it got the first time. Batches that are not durable yet stay in the window beyond
//! the five, so that an append that failed can be taken back with [`ProducerWindows::truncate`].
//!
//! Where records of the partition are lost, a producer whose last known batch stands before them may have
//! written some of them, and goes on behind those: its next batch may leave sequence numbers out. What is
//! known of it is a duplicate still, and nothing is taken that comes before what is known.

use std::collections::{HashMap, VecDeque};

use crate::ids::{Offset, ProducerId};

/// How many of a producer's batches Apache Kafka remembers (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
pub const BATCHES_RETAINED: usize = 5;

/// More producers than this on one partition expire those that were silent longest.
pub const PRODUCERS_MAX: usize = 10_000;
/// How many expire then, so that not each new producer has all of them looked at.
const EXPIRED_AT_ONCE: usize = PRODUCERS_MAX / 64;

/// How many sequence numbers there are.
const SEQUENCES: i64 = i32::MAX as i64 + 1;

/// What identifies a batch of an idempotent producer; sequence numbers wrap from `i32::MAX` to 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    pub producer_id: ProducerId,
    pub epoch: i16,
    pub first: i32,
    pub last: i32,
}

/// A batch that a window remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenBatch {
    pub epoch: i16,
    pub first_sequence: i32,
    pub last_sequence: i32,
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// Time of the append, in ms since the epoch: expiry and DescribeProducers use it.
    pub timestamp_ms: i64,
}

/// Why a batch may not be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    #[error("the producer epoch {got} is older than {current}")]
    Fenced { got: i16, current: i16 },
    #[error("sequence {got} follows {last}: a batch between them is missing")]
    OutOfOrder { got: i32, last: i32 },
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Append,
    /// It was appended before, at these offsets.
    Duplicate(SeenBatch),
}

#[derive(Debug, Clone, Default)]
struct Window {
    batches: VecDeque<SeenBatch>,
}

/// The windows of all producers of one partition.
#[derive(Debug, Clone, Default)]
pub struct ProducerWindows {
    windows: HashMap<ProducerId, Window>,
    /// Where ranges of lost records end, ascending.
    lost: Vec<Offset>,
}

/// What is kept of the windows of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducerSnapshot {
    /// Every producer with its remembered batches, oldest first.
    pub producers: Vec<(ProducerId, Vec<SeenBatch>)>,
    /// Where the last range of lost records ends.
    pub lost_below: Option<Offset>,
}

/// The sequence number `count` records after `first`.
pub fn sequence_after(first: i32, count: i32) -> i32 {
    let sum = i64::from(first) + i64::from(count);
    (sum % SEQUENCES) as i32
}

/// Whether a sequence number is at or beyond `next`, rather than one of those before it.
fn is_ahead(sequence: i32, next: i32) -> bool {
    (i64::from(sequence) - i64::from(next)).rem_euclid(SEQUENCES) < SEQUENCES / 2
}

impl ProducerWindows {
    /// Decides on a batch without changing anything. `log_end` is where the batch would be appended.
    pub fn check(&self, batch: &Sequence, log_end: Offset) -> Result<Admission, SequenceError> {
        let Some(window) = self.windows.get(&batch.producer_id) else {
            // A log that never held a record has forgotten nobody: this is a later batch of a producer whose first one
            // was refused, and it must not overtake that one (KAFKA-15591, Apache Kafka 4.5).
            if log_end == Offset(0) && batch.first != 0 && self.lost.is_empty() {
                return Err(SequenceError::OutOfOrder { got: batch.first, last: -1 });
            }
            // Elsewhere any first sequence is accepted from a producer that was forgotten (KIP-360), so that
            // expiry and deleted records never stop a live producer.
            return Ok(Admission::Append);
        };
        let last = window.batches.back().expect("a window holds at least one batch");
        if batch.epoch < last.epoch {
            return Err(SequenceError::Fenced { got: batch.epoch, current: last.epoch });
        }
        let may_have_written_more = self.lost.last().is_some_and(|end| last.last_offset < *end);
        if batch.epoch > last.epoch {
            return match batch.first {
                0 => Ok(Admission::Append),
                _ if may_have_written_more => Ok(Admission::Append),
                got => Err(SequenceError::OutOfOrder { got, last: -1 }),
            };
        }
        let same = |seen: &&SeenBatch| {
            seen.epoch == batch.epoch
                && seen.first_sequence == batch.first
                && seen.last_sequence == batch.last
        };
        if let Some(seen) = window.batches.iter().find(same) {
            return Ok(Admission::Duplicate(*seen));
        }
        let next = sequence_after(last.last_sequence, 1);
        if batch.first == next || (may_have_written_more && is_ahead(batch.first, next)) {
            return Ok(Admission::Append);
        }
        Err(SequenceError::OutOfOrder { got: batch.first, last: last.last_sequence })
    }

    /// Remembers an appended batch. `durable_end` is the offset below which nothing can be taken back.
    pub fn record(&mut self, producer_id: ProducerId, batch: SeenBatch, durable_end: Offset) {
        if !self.windows.contains_key(&producer_id) && self.windows.len() >= PRODUCERS_MAX {
            self.keep_newest(self.windows.len() - EXPIRED_AT_ONCE);
        }
        // Most of those that a flood makes up never get a second batch.
        let window =
            self.windows.entry(producer_id).or_insert_with(|| Window { batches: VecDeque::with_capacity(1) });
        window.batches.push_back(batch);
        let durable = |b: &SeenBatch| b.last_offset < durable_end;
        // The front may go once five durable batches stand behind it.
        while window.batches.len() > BATCHES_RETAINED && durable(&window.batches[BATCHES_RETAINED]) {
            window.batches.pop_front();
        }
    }

    /// Takes note that records below `end` are lost, and that nobody knows who wrote them.
    pub fn lose_below(&mut self, end: Offset) {
        if self.lost.last().is_none_or(|last| *last < end) {
            self.lost.push(end);
        }
    }

    /// Takes back every batch at or above `end`, after its append failed.
    pub fn truncate(&mut self, end: Offset) {
        self.windows.retain(|_, window| {
            window.batches.retain(|b| b.base_offset < end);
            !window.batches.is_empty()
        });
    }

    /// Forgets producers that have not written since `before_ms` (`producer.id.expiration.ms`).
    pub fn expire(&mut self, before_ms: i64) {
        self.windows.retain(|_, w| w.batches.back().is_some_and(|b| b.timestamp_ms >= before_ms));
    }

    /// Forgets those that were silent longest, until so many are left.
    pub fn keep_newest(&mut self, kept: usize) {
        let count = self.windows.len().saturating_sub(kept);
        if count == 0 {
            return;
        }
        // Those of one moment in the order of their last batches.
        let last_write = |w: &Window| w.batches.back().map(|b| (b.timestamp_ms, b.base_offset));
        let mut all: Vec<_> = self.windows.iter().map(|(id, w)| (last_write(w), *id)).collect();
        if count < all.len() {
            all.select_nth_unstable(count);
        }
        for (_, id) in &all[..count] {
            self.windows.remove(id);
        }
        self.windows.shrink_to(2 * kept);
    }

    /// What is known below `end`.
    pub fn snapshot(&self, end: Offset) -> ProducerSnapshot {
        let below =
            |w: &Window| w.batches.iter().filter(|b| b.base_offset < end).copied().collect::<Vec<_>>();
        let mut all: Vec<_> =
            self.windows.iter().map(|(id, w)| (*id, below(w))).filter(|(_, b)| !b.is_empty()).collect();
        for (_, batches) in &mut all {
            let excess = batches.len().saturating_sub(BATCHES_RETAINED);
            batches.drain(..excess);
        }
        all.sort_by_key(|(id, _)| *id);
        let lost_below = self.lost.iter().rfind(|lost| **lost <= end).copied();
        ProducerSnapshot { producers: all, lost_below }
    }

    /// Restores what [`ProducerWindows::snapshot`] gave.
    pub fn restore(snapshot: ProducerSnapshot) -> ProducerWindows {
        let windows = snapshot
            .producers
            .into_iter()
            .filter(|(_, batches)| !batches.is_empty())
            .map(|(id, batches)| (id, Window { batches: batches.into() }))
            .collect();
        ProducerWindows { windows, lost: snapshot.lost_below.into_iter().collect() }
    }

    pub fn len(&self) -> usize {
        self.windows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: ProducerId = ProducerId(7);
    /// Of a log that holds, or once held, records.
    const END: Offset = Offset(1000);

    fn seq(epoch: i16, first: i32, last: i32) -> Sequence {
        Sequence { producer_id: P, epoch, first, last }
    }

    fn append(windows: &mut ProducerWindows, s: Sequence, base: i64, durable: i64) {
        assert_eq!(windows.check(&s, END), Ok(Admission::Append));
        let count = i64::from(s.last) - i64::from(s.first);
        let seen = SeenBatch {
            epoch: s.epoch,
            first_sequence: s.first,
            last_sequence: s.last,
            base_offset: Offset(base),
            last_offset: Offset(base + count),
            timestamp_ms: base,
        };
        windows.record(s.producer_id, seen, Offset(durable));
    }

    #[test]
    fn a_duplicate_gets_its_first_offsets() {
        let mut w = ProducerWindows::default();
        append(&mut w, seq(0, 0, 9), 100, 0);
        append(&mut w, seq(0, 10, 19), 110, 0);
        let Ok(Admission::Duplicate(seen)) = w.check(&seq(0, 0, 9), END) else { panic!("not a duplicate") };
        assert_eq!(seen.base_offset, Offset(100));
    }

    #[test]
    fn gaps_and_old_epochs_are_refused() {
        let mut w = ProducerWindows::default();
        append(&mut w, seq(1, 0, 9), 0, 0);
        assert_eq!(w.check(&seq(1, 11, 12), END), Err(SequenceError::OutOfOrder { got: 11, last: 9 }));
        assert_eq!(w.check(&seq(0, 10, 12), END), Err(SequenceError::Fenced { got: 0, current: 1 }));
        assert_eq!(w.check(&seq(2, 5, 6), END), Err(SequenceError::OutOfOrder { got: 5, last: -1 }));
        assert_eq!(w.check(&seq(2, 0, 6), END), Ok(Admission::Append));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut w = ProducerWindows::default();
        append(&mut w, seq(0, i32::MAX - 1, i32::MAX), 0, 0);
        assert_eq!(w.check(&seq(0, 0, 3), END), Ok(Admission::Append));
        assert_eq!(sequence_after(i32::MAX, 1), 0);
    }

    #[test]
    fn an_append_that_failed_leaves_the_window_as_it_was() {
        let mut w = ProducerWindows::default();
        for i in 0..5 {
            append(&mut w, seq(0, i, i), i64::from(i), i64::from(i));
        }
        for i in 5..10 {
            append(&mut w, seq(0, i, i), i64::from(i), 5); // none of these is durable
        }
        w.truncate(Offset(5));
        for i in 0..5 {
            assert!(
                matches!(w.check(&seq(0, i, i), END), Ok(Admission::Duplicate(_))),
                "batch {i} forgotten"
            );
        }
        assert_eq!(w.check(&seq(0, 5, 5), END), Ok(Admission::Append));
    }

    #[test]
    fn only_five_durable_batches_are_kept() {
        let mut w = ProducerWindows::default();
        for i in 0..20 {
            append(&mut w, seq(0, i, i), i64::from(i), i64::from(i + 1));
        }
        let snapshot = w.snapshot(Offset(i64::MAX));
        assert_eq!(snapshot.producers[0].1.len(), BATCHES_RETAINED);
        assert_eq!(w.check(&seq(0, 3, 3), END), Err(SequenceError::OutOfOrder { got: 3, last: 19 }));
        let again = ProducerWindows::restore(snapshot);
        assert!(matches!(again.check(&seq(0, 17, 17), END), Ok(Admission::Duplicate(_))));
    }

    #[test]
    fn silent_producers_expire() {
        let mut w = ProducerWindows::default();
        append(&mut w, seq(0, 0, 0), 10, 0);
        w.expire(11);
        assert!(w.is_empty());
        assert_eq!(w.check(&seq(0, 44, 44), END), Ok(Admission::Append));
    }

    #[test]
    fn a_producer_that_writes_outlives_a_flood_of_others() {
        let mut w = ProducerWindows::default();
        for i in 0..2 * PRODUCERS_MAX as i64 {
            if i % 1000 == 0 {
                append(&mut w, seq(0, (i / 1000) as i32, (i / 1000) as i32), i, i);
            }
            let seen = SeenBatch {
                epoch: 0,
                first_sequence: 0,
                last_sequence: 0,
                base_offset: Offset(i),
                last_offset: Offset(i),
                timestamp_ms: i,
            };
            w.record(ProducerId(1_000_000 + i), seen, Offset(i));
            assert!(w.len() <= PRODUCERS_MAX);
        }
        append(&mut w, seq(0, 20, 20), 100_000, 0);
        w.keep_newest(1);
        assert!(matches!(w.check(&seq(0, 20, 20), END), Ok(Admission::Duplicate(_))));
        assert_eq!(w.len(), 1);
        w.keep_newest(0);
        assert!(w.is_empty());
    }

    #[test]
    fn the_first_batch_of_a_new_log_begins_at_zero() {
        let mut w = ProducerWindows::default();
        assert_eq!(w.check(&seq(0, 1, 1), Offset(0)), Err(SequenceError::OutOfOrder { got: 1, last: -1 }));
        assert_eq!(w.check(&seq(0, 0, 0), Offset(0)), Ok(Admission::Append));
        // A producer that is unknown although records were there may have been forgotten.
        assert_eq!(w.check(&seq(0, 1, 1), Offset(1)), Ok(Admission::Append));
        // An append that failed leaves a log that never held a record.
        append(&mut w, seq(0, 0, 0), 0, 0);
        w.truncate(Offset(0));
        assert_eq!(w.check(&seq(0, 1, 1), Offset(0)), Err(SequenceError::OutOfOrder { got: 1, last: -1 }));
    }

    /// Batches of a producer that was at sequence 9 of epoch 1 when records were lost, and what becomes of them.
    fn check_behind_a_loss(w: &ProducerWindows) {
        let out_of_order = |got, last| Err(SequenceError::OutOfOrder { got, last });
        let cases = [
            (seq(1, 10, 12), Ok(Admission::Append)),
            (seq(1, 64, 64), Ok(Admission::Append)),
            (seq(2, 7, 8), Ok(Admission::Append)),
            (seq(1, 9, 9), out_of_order(9, 9)),
            (seq(1, 8, 12), out_of_order(8, 9)),
            (seq(1, i32::MAX, i32::MAX), out_of_order(i32::MAX, 9)),
            (seq(0, 20, 20), Err(SequenceError::Fenced { got: 0, current: 1 })),
        ];
        for (batch, expected) in cases {
            assert_eq!(w.check(&batch, END), expected, "{batch:?}");
        }
        assert!(matches!(w.check(&seq(1, 0, 9), END), Ok(Admission::Duplicate(_))));
    }

    #[test]
    fn a_producer_goes_on_behind_lost_records_and_repeats_nothing() {
        let mut w = ProducerWindows::default();
        append(&mut w, seq(1, 0, 9), 0, 0);
        let nothing_lost = w.clone();
        w.lose_below(Offset(13));
        check_behind_a_loss(&w);
        let snapshot = w.snapshot(Offset(13));
        check_behind_a_loss(&ProducerWindows::restore(snapshot));
        // Whoever takes over below the loss sees for itself whether it is there still.
        assert_eq!(w.snapshot(Offset(12)), nothing_lost.snapshot(Offset(12)));
        append(&mut w, seq(1, 64, 65), 13, 0);
        let next = |w: &ProducerWindows| (w.check(&seq(1, 66, 66), END), w.check(&seq(1, 67, 67), END));
        let strict = (Ok(Admission::Append), Err(SequenceError::OutOfOrder { got: 67, last: 65 }));
        assert_eq!(next(&w), strict, "what it has written is known from here on");
        w.truncate(Offset(13));
        check_behind_a_loss(&w);
    }

    #[test]
    fn a_log_whose_only_records_are_lost_has_forgotten_its_producers() {
        let mut w = ProducerWindows::default();
        w.lose_below(Offset(0));
        assert_eq!(w.check(&seq(0, 3, 3), Offset(0)), Ok(Admission::Append));
    }

    #[test]
    fn what_is_ahead_wraps_as_sequences_do() {
        for (sequence, next, ahead) in
            [(0, i32::MAX, true), (i32::MAX, 0, false), (5, 5, true), (4, 5, false), (3, i32::MAX - 2, true)]
        {
            assert_eq!(is_ahead(sequence, next), ahead, "{sequence} after {next}");
        }
    }
}
