//! Where a chain begins and ends when its record is lost.
//!
//! An owner frees objects from the lowest on, and never one of the last [`UPLOADS_MAX`]; and it sends an object only when all that are
//! [`UPLOADS_MAX`] below it are there. So what is missing further down was freed, and what is missing near the end was never
//! acknowledged.

use kafscale_meta::records::ChainRecord;
use object_store::ObjectStore;

use super::error::RestoreError;
use super::survey::ChainObjects;
use crate::log::objects::UPLOADS_MAX;
use crate::log::objects::seal::{find_end, place_seal};
use crate::wal::chain_id::ChainId;

/// Where reading begins. `known` is the record of an earlier moment, where there is one.
fn first_seq(objects: &ChainObjects, known: Option<ChainRecord>) -> u64 {
    let freed = known.map_or(0, |record| record.first_seq);
    let (Some((lowest, _)), Some((last, _))) = (objects.first_key_value(), objects.last_key_value()) else {
        return freed;
    };
    let (mut first, mut before) = (*lowest, *lowest);
    for seq in objects.keys().copied() {
        if seq > before + 1 && before + 1 + UPLOADS_MAX <= *last {
            first = seq;
        }
        before = seq;
    }
    first.max(freed)
}

/// Makes sure that nothing is acknowledged in a chain any more, and says what is to be read of it.
pub async fn seal(
    store: &dyn ObjectStore,
    id: ChainId,
    objects: &ChainObjects,
    known: Option<ChainRecord>,
) -> Result<ChainRecord, RestoreError> {
    let first_seq = first_seq(objects, known);
    let sealed_at = place_seal(store, id, first_seq, objects).await.map_err(RestoreError::Seal)?;
    Ok(ChainRecord { first_seq, sealed_at: Some(sealed_at), ..known.unwrap_or_default() })
}

/// What [`seal`] would find. Nothing is written.
pub async fn look(
    store: &dyn ObjectStore,
    id: ChainId,
    objects: &ChainObjects,
    known: Option<ChainRecord>,
) -> Result<ChainRecord, RestoreError> {
    let first_seq = first_seq(objects, known);
    let end = find_end(store, id, first_seq, objects).await.map_err(RestoreError::Seal)?;
    Ok(ChainRecord { first_seq, sealed_at: Some(end.seq), ..known.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_near_the_end_is_the_end_and_one_below_is_a_deletion() {
        let objects = |seqs: &[u64]| seqs.iter().map(|seq| (*seq, 100)).collect::<ChainObjects>();
        let known = |first_seq| Some(ChainRecord { first_seq, ..ChainRecord::default() });
        let last = UPLOADS_MAX + 50;
        let freed: Vec<u64> = [2, 5].into_iter().chain(8..=last).collect();
        let uncertain: Vec<u64> = [2].into_iter().chain(8..last - UPLOADS_MAX + 1).chain([last]).collect();
        for (what, objects, known, expect) in [
            ("nothing was written", objects(&[]), None, 0),
            ("all was freed by an early release", objects(&[]), known(7), 7),
            ("the end", objects(&[0, 1, 3]), None, 0),
            ("freed from the lowest on", objects(&[5, 6, 8]), None, 5),
            ("known to be freed", objects(&[3, 8, 9]), known(8), 8),
            ("cut off while it was freed", objects(&freed), None, 8),
            ("both", objects(&uncertain), None, 8),
        ] {
            assert_eq!(first_seq(&objects, known), expect, "{what}");
        }
    }
}
