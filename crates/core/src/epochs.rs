//! The leader epoch cache of a partition: where each epoch began (KIP-101, KIP-279).

use crate::ids::{LeaderEpoch, Offset};

/// Epochs in rising order with the offset at which each began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpochCache {
    starts: Vec<(LeaderEpoch, Offset)>,
}

impl EpochCache {
    pub fn from_starts(mut starts: Vec<(LeaderEpoch, Offset)>) -> EpochCache {
        starts.sort();
        starts.dedup_by_key(|s| s.0);
        EpochCache { starts }
    }

    pub fn starts(&self) -> &[(LeaderEpoch, Offset)] {
        &self.starts
    }

    /// Notes that a batch of `epoch` was written at `start`; does nothing when the epoch is known or older.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) {
        if self.starts.last().is_none_or(|last| last.0 < epoch) {
            self.starts.push((epoch, start));
        }
    }

    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.starts.last().map(|s| s.0)
    }

    /// The epoch of the record at `offset`.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.starts.iter().rev().find(|s| s.1 <= offset).map(|s| s.0)
    }

    /// The largest epoch ≤ `requested` that the log knows, and the offset where it ends: the start of the next
    /// epoch, or `log_end` for the current one. `None` is answered by (-1, -1) in OffsetForLeaderEpoch.
    pub fn end_of(
        &self,
        requested: LeaderEpoch,
        current: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        if requested == current {
            return Some((current, log_end));
        }
        if requested > current {
            return None;
        }
        let next = self.starts.iter().position(|s| s.0 > requested);
        let end = next.map_or(log_end, |i| self.starts[i].1);
        match next.unwrap_or(self.starts.len()).checked_sub(1) {
            Some(i) => Some((self.starts[i].0, end)),
            None => next.map(|_| (requested, end)),
        }
    }

    /// Drops epochs that ended at or below the log start; the one that covers it stays, moved up to it.
    pub fn truncate_from_start(&mut self, log_start: Offset) {
        let covering = self.starts.iter().rposition(|s| s.1 <= log_start).unwrap_or(0);
        self.starts.drain(..covering);
        if let Some(first) = self.starts.first_mut() {
            first.1 = first.1.max(log_start);
        }
    }

    /// Forgets epochs that began at or above `log_end`, after appends that never became durable.
    pub fn truncate_from_end(&mut self, log_end: Offset) {
        self.starts.retain(|s| s.1 < log_end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> EpochCache {
        EpochCache::from_starts(vec![(LeaderEpoch(1), Offset(0)), (LeaderEpoch(3), Offset(10))])
    }

    #[test]
    fn the_end_of_an_epoch_is_the_start_of_the_next() {
        let end = |requested| cache().end_of(LeaderEpoch(requested), LeaderEpoch(3), Offset(25));
        assert_eq!(end(3), Some((LeaderEpoch(3), Offset(25))));
        assert_eq!(end(2), Some((LeaderEpoch(1), Offset(10))));
        assert_eq!(end(1), Some((LeaderEpoch(1), Offset(10))));
        assert_eq!(end(0), Some((LeaderEpoch(0), Offset(0))));
        assert_eq!(end(4), None);
    }

    #[test]
    fn deleting_old_records_keeps_the_covering_epoch() {
        let mut cache = cache();
        cache.truncate_from_start(Offset(4));
        assert_eq!(cache.starts(), [(LeaderEpoch(1), Offset(4)), (LeaderEpoch(3), Offset(10))]);
        cache.truncate_from_start(Offset(12));
        assert_eq!(cache.starts(), [(LeaderEpoch(3), Offset(12))]);
        assert_eq!(cache.epoch_at(Offset(20)), Some(LeaderEpoch(3)));
    }
}
