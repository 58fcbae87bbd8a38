//! The timestamps of records that follow each other: within which bounds they are, and how far they go
//! back. It lets a reader who wants only old records stop before the end.

use crate::batch::BatchHeader;
use crate::records::{self, RecordsError};

/// See the file's comment. Records without a timestamp count as what they have, -1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    pub min_ms: i64,
    pub max_ms: i64,
    /// No record is older by more than this than one before it.
    pub disorder_ms: i64,
}

impl Times {
    /// Of one record, or of several that have the same time.
    pub fn one(ms: i64) -> Times {
        Times { min_ms: ms, max_ms: ms, disorder_ms: 0 }
    }

    /// Of these records and the next ones.
    #[must_use]
    pub fn then(self, next: Times) -> Times {
        let back_ms = self.max_ms.saturating_sub(next.min_ms);
        Times {
            min_ms: self.min_ms.min(next.min_ms),
            max_ms: self.max_ms.max(next.max_ms),
            disorder_ms: self.disorder_ms.max(next.disorder_ms).max(back_ms),
        }
    }

    /// Of several stretches together. `None` where one of them is not known, or there is none.
    pub fn of_all(stretches: impl IntoIterator<Item = Option<Times>>) -> Option<Times> {
        stretches.into_iter().reduce(|all, next| Some(all?.then(next?))).flatten()
    }

    /// Of a batch as it is stored, by all of its records, which inflate to `limit_bytes` at most.
    pub fn of_batch(header: &BatchHeader, batch: &[u8], limit_bytes: u64) -> Result<Times, RecordsError> {
        let stated = Times::one(header.max_timestamp_ms);
        if header.is_log_append_time() {
            return Ok(stated);
        }
        let mut times: Option<Times> = None;
        records::walk_within(header, batch, limit_bytes, |_, record| {
            let one = Times::one(header.base_timestamp_ms.saturating_add(record.timestamp_delta));
            times = Some(times.map_or(one, |before| before.then(one)));
            true
        })?;
        Ok(times.unwrap_or(stated).stated(header.max_timestamp_ms))
    }

    /// With what the header of a batch says of its largest timestamp, which is what indexes have.
    #[must_use]
    pub fn stated(self, max_ms: i64) -> Times {
        Times { max_ms: self.max_ms.max(max_ms), ..self }
    }

    /// Behind records of which the largest timestamp is this, none has `ms` or an earlier time.
    pub fn ends_behind(self, largest_ms: i64, ms: i64) -> bool {
        largest_ms.saturating_sub(self.disorder_ms) > ms
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn all(stamps: &[i64]) -> Option<Times> {
        Times::of_all(stamps.iter().map(|ms| Some(Times::one(*ms))))
    }

    #[test]
    fn what_goes_back_is_told() {
        for (stamps, disorder_ms) in [
            (&[5][..], 0),
            (&[1, 2, 2, 9], 0),
            (&[5, 9, 6, 10], 3),
            (&[5, 9, 6, 2], 7),
            (&[i64::MAX, i64::MIN], i64::MAX),
        ] {
            let times = all(stamps).unwrap();
            let (min_ms, max_ms) = (*stamps.iter().min().unwrap(), *stamps.iter().max().unwrap());
            assert_eq!(times, Times { min_ms, max_ms, disorder_ms }, "{stamps:?}");
        }
        assert_eq!(all(&[]), None);
        assert_eq!(Times::of_all([Some(Times::one(1)), None]), None);
    }

    proptest! {
        /// However they are put together, nothing that is wanted is behind what ends a read.
        #[test]
        fn nothing_is_behind_the_end(stamps in vec(-50i64..50, 1..40), cut in 0usize..40, wanted in -60i64..60) {
            let (first, rest) = stamps.split_at(cut.min(stamps.len()));
            let whole = all(&stamps).unwrap();
            if let (Some(first), Some(rest)) = (all(first), all(rest)) {
                prop_assert_eq!(first.then(rest), whole);
            }
            let largest = first.iter().max().copied().unwrap_or(i64::MIN);
            if whole.ends_behind(largest, wanted) {
                prop_assert!(rest.iter().all(|ms| *ms > wanted));
            }
        }
    }
}
