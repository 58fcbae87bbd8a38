//! Segments that are gone, in the manifest of a partition whose metadata is rebuilt.
//!
//! A manifest names its segments without a hole. So what nothing has is named too, and whoever reads there is told that it is damaged,
//! as where a segment is lost and the metadata is not. What the snapshot named is named as it was: when it is put back, it is served.

use kafscale_core::ids::Offset;
use kafscale_meta::records::SegmentRecord;

use super::manifests::Before;
use crate::segment::segment_path;

/// What is not known of an object that is gone; no segment is smaller.
const SIZE_BYTES: u64 = 4096;

/// Names what was in the `gaps` among the `segments` that are there. `known` are those of the snapshot.
pub fn fill(
    segments: &mut Vec<SegmentRecord>,
    known: &[SegmentRecord],
    gaps: &[(Offset, Offset)],
    before: &Before,
) {
    let mut missing = Vec::new();
    for (from, to) in gaps {
        let mut at = from.0;
        for record in known.iter().filter(|record| record.last_offset >= from.0 && record.last_offset < to.0)
        {
            let base_offset = record.base_offset.max(at);
            if at < base_offset {
                missing.push(unknown((at, base_offset), segments, before));
            }
            at = record.last_offset + 1;
            missing.push(SegmentRecord { base_offset, ..record.clone() });
        }
        if at < to.0 {
            missing.push(unknown((at, to.0), segments, before));
        }
    }
    segments.extend(missing);
    segments.sort_by_key(|record| record.base_offset);
}

/// It is as old as what is below it.
fn unknown((from, to): (i64, i64), segments: &[SegmentRecord], before: &Before) -> SegmentRecord {
    let below = segments.iter().rfind(|record| record.last_offset < from);
    let path = segment_path(&before.topic_name, before.id, Offset(from), 0);
    SegmentRecord {
        base_offset: from,
        last_offset: to - 1,
        size_bytes: SIZE_BYTES,
        max_timestamp_ms: below.map_or(-1, |record| record.max_timestamp_ms),
        min_timestamp_ms: None,
        disorder_ms: None,
        records: 0,
        object: path.rsplit('/').next().unwrap_or(&path).to_owned(),
        compacted: false,
    }
}

#[cfg(test)]
mod tests {
    use kafscale_core::ids::{PartitionId, TopicId};

    use super::*;

    fn segment(base_offset: i64, last_offset: i64, object: &str) -> SegmentRecord {
        SegmentRecord {
            base_offset,
            last_offset,
            size_bytes: 9000,
            max_timestamp_ms: last_offset * 10,
            min_timestamp_ms: None,
            disorder_ms: None,
            records: 1,
            object: object.to_owned(),
            compacted: false,
        }
    }

    #[test]
    fn gaps_are_named_and_what_was_known_keeps_its_name() {
        let id = PartitionId { topic: TopicId(uuid::Uuid::nil()), index: 0 };
        let before = Before { topic_name: "t".into(), id, partition: None, producers: None };
        let known = [segment(0, 9, "a"), segment(10, 19, "b"), segment(15, 29, "c"), segment(30, 39, "d")];
        let mut segments = vec![segment(0, 9, "a"), segment(50, 59, "e")];
        fill(&mut segments, &known, &[(Offset(10), Offset(50)), (Offset(60), Offset(70))], &before);
        let told: Vec<_> =
            segments.iter().map(|s| (s.base_offset, s.last_offset, s.object.as_str())).collect();
        let (first, second) = ("segment-00000000000000000040.kfs", "segment-00000000000000000060.kfs");
        let expect = [
            (0, 9, "a"),
            (10, 19, "b"),
            (20, 29, "c"),
            (30, 39, "d"),
            (40, 49, first),
            (50, 59, "e"),
            (60, 69, second),
        ];
        assert_eq!(told, expect);
        assert_eq!(segments[6].max_timestamp_ms, 590, "retention takes it with its neighbour");
    }
}
