//! Which parts of a segment a reader with bounds on offsets and time needs, by its index and its statistics.

use kafscale_core::ids::Offset;
use kafscale_core::times::Times;

use super::format::IndexEntry;
use super::loader::SegmentIndex;
use super::reader::SegmentReader;
use super::{SegmentError, SegmentRef, after};

/// Groups that follow each other and may hold what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The first offset that is wanted and may be in it.
    pub from: Offset,
    /// The first offset behind it.
    pub until: Offset,
    pub bytes: u64,
}

/// Which records are wanted, by their timestamps.
#[derive(Debug, Clone, Copy, Default)]
pub struct WantedTimes {
    pub min_ms: Option<i64>,
    /// With what is known of the segment's timestamps; without that, nothing tells where the last wanted record is.
    pub max_ms: Option<(i64, Times)>,
}

impl WantedTimes {
    /// The number of groups behind which nothing is wanted. An index that was made from a damaged object does not know what is
    /// missing in it, which only lets the end be found later.
    fn end(&self, index: &SegmentIndex) -> usize {
        let Some((max_ms, times)) = self.max_ms else { return index.entries.len() };
        let mut largest_ms = i64::MIN;
        let may_follow = |entry: &&IndexEntry| {
            let follows = !times.ends_behind(largest_ms, max_ms);
            if !entry.is_lost() {
                largest_ms = largest_ms.max(entry.max_timestamp_ms);
            }
            follows
        };
        index.entries.iter().take_while(may_follow).count()
    }
}

impl SegmentReader {
    /// The first stretch at or above `from` and below `before` whose groups may hold records with wanted times.
    pub async fn next_stretch(
        &self,
        segment: &SegmentRef,
        from: Offset,
        before: Offset,
        times: WantedTimes,
    ) -> Result<Option<Stretch>, SegmentError> {
        let index = self.index(segment).await?;
        let is_wanted = |group: &usize| {
            let entry = &index.entries[*group];
            entry.base_offset < before && times.min_ms.is_none_or(|min| entry.max_timestamp_ms >= min)
        };
        let groups = times.end(&index);
        let Some(first) = (index.group_of(from)..groups).find(is_wanted) else { return Ok(None) };
        let end = (first..groups).find(|group| !is_wanted(group)).unwrap_or(groups);
        let behind = index.entries.get(end).map_or(after(segment.last_offset), |entry| entry.base_offset);
        let bytes = index.group_end(end - 1) - index.entries[first].position;
        let from = from.max(index.entries[first].base_offset);
        Ok(Some(Stretch { from, until: behind.min(before), bytes }))
    }

    /// How many records the segment has from `from` up to and without `before`; `None` where that is not known without reading batches.
    pub async fn count_between(
        &self,
        segment: &SegmentRef,
        from: Offset,
        before: Offset,
    ) -> Result<Option<u64>, SegmentError> {
        let Some(statistics) = self.statistics(segment).await? else { return Ok(None) };
        let mut sum = 0;
        let reaching = statistics.batches.iter().filter(|b| b.last_offset >= from && b.base_offset < before);
        for batch in reaching {
            let records = i64::from(batch.records_count);
            let (first, last) = (batch.base_offset.0.max(from.0), batch.last_offset.0.min(before.0 - 1));
            let is_whole = (first, last) == (batch.base_offset.0, batch.last_offset.0);
            // Without holes each offset is a record.
            let is_dense = records == batch.last_offset.0 - batch.base_offset.0 + 1;
            sum += match (is_whole, is_dense) {
                (true, _) => records,
                (false, true) => last - first + 1,
                (false, false) => return Ok(None),
            };
        }
        Ok(u64::try_from(sum).ok())
    }
}
