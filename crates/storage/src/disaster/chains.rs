//! Where a chain begins and ends when its record is lost.
//!
//! An owner frees objects from the lowest on, and never one of the last [`UPLOADS_MAX`] below the first that it needs; and it sends an
//! object only when all that are [`UPLOADS_MAX`] below it are there. So what is missing at the end was never acknowledged, and what is
//! missing further down was freed or is lost. It is lost where
//! - an object not far behind it, or one below it, has records that no segment has: its owner needed those, or
//! - all of the objects just below it are there: those would have been deleted first.
//!
//! In doubt it is lost: then a person is asked, and nothing below it is left out.

use std::ops::Range;

use futures_util::{StreamExt, stream};
use kafscale_meta::records::ChainRecord;
use object_store::ObjectStore;

use super::coverage::Coverage;
use super::error::RestoreError;
use super::survey::ChainObjects;
use crate::log::objects::UPLOADS_MAX;
use crate::log::objects::footers::read_object;
use crate::log::objects::seal::{SEAL_BYTES, find_end, place_seal, said_behind};
use crate::wal::chain_id::ChainId;

const OBJECTS_AT_ONCE: usize = 64;

/// What tells of objects that are missing whether they were freed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evidence {
    /// The record of the chain at an earlier moment, where there is one.
    pub known: Option<ChainRecord>,
    /// The first object with records that no segment has.
    needed: Option<u64>,
    /// Below which number all objects were acknowledged. Those of the first releases say 0.
    acknowledged: u64,
}

impl Evidence {
    pub fn of_record(known: Option<ChainRecord>) -> Evidence {
        Evidence { known, ..Evidence::default() }
    }

    /// Whether objects are missing of which the record does not say what became of them. Seals alone need nothing.
    pub fn is_wanted(&self, objects: &ChainObjects) -> bool {
        let from = self.first_known();
        let is_whole = objects.range(from..).zip(from..).all(|((seq, _), at)| *seq == at);
        !is_whole && objects.values().any(|size| *size > SEAL_BYTES)
    }

    /// Looks for it in the objects themselves.
    pub async fn look(
        self,
        store: &dyn ObjectStore,
        id: ChainId,
        objects: &ChainObjects,
        coverage: &Coverage,
    ) -> Result<Evidence, RestoreError> {
        let from = self.first_known();
        let acknowledged = said_behind(store, id, from, objects).await.map_err(RestoreError::Seal)?;
        let seqs: Vec<u64> = objects.range(from..).map(|(seq, _)| *seq).collect();
        let needs = seqs.into_iter().map(|seq| async move {
            match read_object(store, id, seq).await {
                // One that cannot be read says nothing.
                Ok(object) => Ok((seq, !object.entries.iter().all(|entry| coverage.has(entry)))),
                Err(e) if e.is_missing() => Ok((seq, false)),
                Err(e) => Err(RestoreError::from(e)),
            }
        });
        let mut needs = stream::iter(needs).buffered(OBJECTS_AT_ONCE);
        let mut needed = None;
        while let Some(read) = needs.next().await {
            if let (seq, true) = read? {
                needed = Some(seq);
                break;
            }
        }
        Ok(Evidence { needed, acknowledged: acknowledged.unwrap_or(0), ..self })
    }

    fn first_known(&self) -> u64 {
        self.known.map_or(0, |record| record.first_seq)
    }

    /// Where reading begins.
    fn first_seq(&self, objects: &ChainObjects) -> u64 {
        let known = self.first_known();
        let (Some((lowest, _)), Some((last, _))) = (objects.first_key_value(), objects.last_key_value())
        else {
            return known;
        };
        let kept_from = |needed: u64| needed.saturating_sub(UPLOADS_MAX);
        let acknowledged_from = kept_from(last + 1);
        let needed_from = self.needed.map_or(acknowledged_from, kept_from).max(known);
        let freed_to = |hole: Range<u64>, kept_from: u64| {
            if self.acknowledged > hole.start.max(kept_from) {
                return (hole.start < kept_from).then(|| hole.end.min(kept_from));
            }
            // Objects of the first releases do not say that those below were acknowledged.
            (hole.start < acknowledged_from).then_some(hole.end)
        };
        let (mut first, mut before) = (*lowest, *lowest);
        if self.acknowledged > needed_from {
            first = first.min(needed_from);
        }
        for seq in objects.keys().copied() {
            let hole = before + 1..seq;
            before = seq;
            if hole.is_empty() {
                continue;
            }
            let below = hole.start.saturating_sub(UPLOADS_MAX)..hole.start;
            let is_whole_below = objects.range(below.clone()).count() == below.count();
            let kept_from = if is_whole_below { known } else { needed_from };
            first = freed_to(hole, kept_from).unwrap_or(first);
        }
        first.max(known)
    }
}

/// Makes sure that nothing is acknowledged in a chain any more, and says what is to be read of it.
pub async fn seal(
    store: &dyn ObjectStore,
    id: ChainId,
    objects: &ChainObjects,
    evidence: Evidence,
) -> Result<ChainRecord, RestoreError> {
    let first_seq = evidence.first_seq(objects);
    let sealed_at = place_seal(store, id, first_seq, objects).await.map_err(RestoreError::Seal)?;
    Ok(ChainRecord { first_seq, sealed_at: Some(sealed_at), ..evidence.known.unwrap_or_default() })
}

/// What [`seal`] would find. Nothing is written.
pub async fn look(
    store: &dyn ObjectStore,
    id: ChainId,
    objects: &ChainObjects,
    evidence: Evidence,
) -> Result<ChainRecord, RestoreError> {
    let first_seq = evidence.first_seq(objects);
    let end = find_end(store, id, first_seq, objects).await.map_err(RestoreError::Seal)?;
    Ok(ChainRecord { first_seq, sealed_at: Some(end.seq), ..evidence.known.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(seqs: impl IntoIterator<Item = u64>) -> ChainObjects {
        seqs.into_iter().map(|seq| (seq, 100)).collect()
    }

    fn known(first_seq: u64) -> Option<ChainRecord> {
        Some(ChainRecord { first_seq, ..ChainRecord::default() })
    }

    #[test]
    fn a_hole_near_the_end_is_the_end_and_one_below_is_a_deletion() {
        let last = UPLOADS_MAX + 50;
        let freed: Vec<u64> = [2, 5].into_iter().chain(8..=last).collect();
        let uncertain: Vec<u64> = [2].into_iter().chain(8..last - UPLOADS_MAX + 1).chain([last]).collect();
        for (what, seqs, known, expect) in [
            ("nothing was written", vec![], None, 0),
            ("all was freed by an early release", vec![], known(7), 7),
            ("the end", vec![0, 1, 3], None, 0),
            ("freed from the lowest on", vec![5, 6, 8], None, 5),
            ("known to be freed", vec![3, 8, 9], known(8), 8),
            ("cut off while it was freed", freed, None, 8),
            ("both", uncertain, None, 8),
        ] {
            let evidence = Evidence::of_record(known);
            assert_eq!(evidence.first_seq(&objects(seqs)), expect, "{what}");
        }
    }

    #[test]
    fn what_is_missing_near_a_needed_object_is_lost() {
        let hole_at_4 = || (0..45).filter(|seq| *seq != 4);
        for (what, seqs, known, needed, expect) in [
            ("records below it are in no segment", hole_at_4().collect(), None, Some(0), 0),
            ("and the record says the same", hole_at_4().collect(), known(0), Some(0), 0),
            ("all below is in segments", hole_at_4().collect(), None, None, 0),
            (
                "all below is in segments, and the record says no more",
                hole_at_4().collect(),
                known(0),
                None,
                0,
            ),
            ("the record says that it was freed", hole_at_4().collect(), known(20), None, 20),
            ("the first one", (1..45).collect(), None, Some(1), 0),
            ("all but the last ones were freed", (28..45).collect(), None, Some(44), 28),
            ("one was taken away of the last ones", (29..45).collect(), None, Some(44), 28),
            ("freed behind the record", (28..45).collect::<Vec<u64>>(), known(7), None, 28),
            ("left over", [3, 9].into_iter().chain(20..45).collect(), None, Some(40), 20),
            (
                "left over and lost",
                [3, 9].into_iter().chain(18..35).chain(36..45).collect(),
                None,
                Some(34),
                18,
            ),
        ] {
            let evidence = Evidence { known, needed, acknowledged: 43 };
            assert_eq!(evidence.first_seq(&objects(seqs)), expect, "{what}");
        }
    }
}
