//! The records of one partition, from its objects.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use kafscale_core::batch::PlacedBatch;
use kafscale_core::ids::{LeaderEpoch, Offset, PartitionId};
use kafscale_core::producer::{ProducerWindows, SeenBatch};
use kafscale_meta::Revision;
use kafscale_meta::records::{PartitionRecord, ProducersRecord, SegmentRecord};
use object_store::{GetRange, ObjectStore};

use super::error::RestoreError;
use super::logs::Above;
use super::missing;
use super::select::{Candidate, Selected, select};
use super::survey::Object;
use crate::log::manifest::{Manifest, directory, producers_record};
use crate::segment::{BatchEntry, ReadLimits, SegmentError, SegmentReader, SegmentRef};

const READS_AT_ONCE: usize = 16;
const CACHE_BYTES: usize = 64 << 20;
/// What is read at a time.
const PIECE_BYTES: usize = 4 << 20;
/// Where it is not known what producers had written, so much of the end of a partition is read for it.
const PRODUCERS_BYTES: u64 = 64 << 20;

/// What the snapshot says of a partition.
#[derive(Debug)]
pub struct Before {
    pub topic_name: String,
    pub id: PartitionId,
    pub partition: Option<PartitionRecord>,
    pub producers: Option<ProducersRecord>,
}

/// What is to be written of it.
#[derive(Debug)]
pub struct Rebuilt {
    pub topic_name: String,
    pub id: PartitionId,
    pub partition: PartitionRecord,
    pub producers: ProducersRecord,
    pub ends: Selected,
    pub newer_segments: usize,
}

/// A segment that may be part of the log.
struct Described {
    at: SegmentRef,
    number: u64,
    /// What the snapshot says of it.
    known: Option<SegmentRecord>,
}

#[derive(Debug)]
pub struct Rebuilder {
    store: Arc<dyn ObjectStore>,
    reader: SegmentReader,
    now_ms: i64,
}

impl Rebuilder {
    pub fn new(store: Arc<dyn ObjectStore>, now_ms: i64) -> Rebuilder {
        let reader = SegmentReader::new(Arc::clone(&store), ReadLimits::with_cache_bytes(CACHE_BYTES));
        Rebuilder { store, reader, now_ms }
    }

    pub async fn shutdown(&self) {
        self.reader.shutdown().await;
    }

    pub async fn rebuild(
        &self,
        before: Before,
        objects: &[Object],
        above: Above,
    ) -> Result<Rebuilt, RestoreError> {
        let record = before.partition.clone().unwrap_or_default();
        let described = stream::iter(objects).map(|object| self.describe(&record, object));
        let described: Vec<Described> = described.buffered(READS_AT_ONCE).try_collect().await?;
        // Where all segments of the snapshot are gone, retention has dropped them.
        let known_end = record.segments.last().map_or(0, |s| s.last_offset + 1).max(record.log_start_offset);
        let candidates: Vec<_> = described.iter().map(Described::candidate).collect();
        let starts = record.leader_epochs.iter().map(|(epoch, start)| (LeaderEpoch(*epoch), Offset(*start)));
        let starts: Vec<_> = starts.collect();
        let mut ends = select(Offset(record.log_start_offset), &starts, &candidates, above);
        if ends.log_end.0 < known_end {
            ends.lack_end(Offset(known_end));
        }
        let mut partition = PartitionRecord {
            log_start_offset: ends.log_start.0,
            leader_epochs: record.leader_epochs.clone(),
            writer_epoch: 0,
            segments: Vec::with_capacity(ends.segments.len()),
        };
        let mut newer_segments = 0;
        for segment in ends.segments.iter().map(|at| &described[*at]) {
            if let Some(known) = &segment.known {
                partition.segments.push(known.clone());
                continue;
            }
            newer_segments += 1;
            self.add(&mut partition, segment).await?;
        }
        missing::fill(&mut partition.segments, &record.segments, &ends.gaps, &before);
        let log: Vec<_> = ends.segments.iter().map(|at| described[*at].at.clone()).collect();
        let whole = ends.hole.is_none() && before.producers.is_some();
        let known = before.producers.clone().filter(|_| whole);
        let mut manifest = Manifest::from_records(
            &directory(&before.topic_name, before.id),
            Some((PartitionRecord::default(), Revision(0))),
            known,
        );
        if ends.log_start.0 > known_end {
            // Who wrote what retention has dropped since then, nobody knows.
            manifest.producers.lose_below(ends.log_start);
        }
        if let Some((_, to)) = ends.gaps.last().filter(|(_, to)| !whole || to.0 > known_end) {
            manifest.producers.lose_below(*to);
        }
        let from = if whole { Offset(known_end) } else { Offset::ZERO };
        let producers = self.producers(manifest.producers, &log, from).await?;
        // Retention may have dropped what is gone since then, or not.
        if before.partition.is_some() && ends.hole.is_none() && ends.log_start.0 > record.log_start_offset {
            ends.hole = Some((Offset(record.log_start_offset), ends.log_start));
        }
        let Before { topic_name, id, .. } = before;
        Ok(Rebuilt { topic_name, id, partition, producers, ends, newer_segments })
    }

    async fn describe(&self, before: &PartitionRecord, object: &Object) -> Result<Described, RestoreError> {
        let name = object.path.filename().unwrap_or_default();
        let known = before.segments.iter().find(|known| known.object == name).cloned();
        let last_offset = match &known {
            Some(known) => Offset(known.last_offset),
            None => last_offset_of(&*self.store, object).await?,
        };
        let at = SegmentRef {
            path: Arc::from(object.path.as_ref()),
            size_bytes: object.size_bytes,
            base_offset: object.base_offset,
            last_offset,
        };
        Ok(Described { at, number: object.number, known })
    }

    /// Adds a segment that no manifest that we have names.
    async fn add(&self, partition: &mut PartitionRecord, segment: &Described) -> Result<(), RestoreError> {
        let at = &segment.at;
        // Version 1 has none.
        let statistics = self.reader.statistics(at).await.map_err(|source| of(at, source))?;
        for BatchEntry { leader_epoch, base_offset, .. } in statistics.iter().flat_map(|s| &s.batches) {
            if partition.leader_epochs.last().is_none_or(|(last, _)| *last < leader_epoch.0) {
                partition.leader_epochs.push((leader_epoch.0, base_offset.0));
            }
        }
        partition.segments.push(SegmentRecord {
            base_offset: at.base_offset.0,
            last_offset: at.last_offset.0,
            size_bytes: at.size_bytes,
            max_timestamp_ms: statistics.as_ref().map_or(-1, |s| s.max_timestamp_ms),
            min_timestamp_ms: None,
            disorder_ms: None,
            records: statistics.as_ref().map_or(0, |s| s.records),
            object: at.path.rsplit('/').next().unwrap_or(&at.path).to_owned(),
            compacted: false,
        });
        Ok(())
    }

    /// Producers' windows, brought up to the end of the segments from where they were known: without that, a batch that is sent again
    /// would be taken for a new one, or refused. What is in chains is added by the next owner.
    async fn producers(
        &self,
        mut windows: ProducerWindows,
        log: &[SegmentRef],
        from: Offset,
    ) -> Result<ProducersRecord, RestoreError> {
        let newer = log.iter().filter(|s| s.last_offset >= from);
        let bytes: u64 = newer.map(|s| s.size_bytes).sum();
        let (mut excess, mut at) = (bytes.saturating_sub(PRODUCERS_BYTES), from);
        if excess > 0 {
            windows = ProducerWindows::default();
        }
        for segment in log.iter().filter(|s| s.last_offset >= from) {
            if excess > 0 {
                excess = excess.saturating_sub(segment.size_bytes);
                continue;
            }
            at = at.max(segment.base_offset);
            while at <= segment.last_offset {
                let read = self.reader.read(segment, at, PIECE_BYTES, true).await;
                let read = read.map_err(|source| of(segment, source))?;
                let mut bytes: Bytes = read.chunks.concat().into();
                while !bytes.is_empty() {
                    let batch = PlacedBatch::from_log(bytes.clone()).map_err(|e| RestoreError::Object {
                        object: segment.path.to_string(),
                        why: e.to_string(),
                    })?;
                    bytes = bytes.split_off(batch.bytes.len());
                    self.see(&mut windows, &batch);
                }
                at = read.next;
            }
        }
        Ok(producers_record(windows.snapshot(Offset(i64::MAX))))
    }

    fn see(&self, windows: &mut ProducerWindows, batch: &PlacedBatch) {
        let Some(sequence) = batch.sequence else { return };
        let seen = SeenBatch {
            epoch: sequence.epoch,
            first_sequence: sequence.first,
            last_sequence: sequence.last,
            base_offset: batch.base_offset,
            last_offset: batch.last_offset,
            // When it was appended is not known: a producer is forgotten a little later.
            timestamp_ms: self.now_ms,
        };
        windows.record(sequence.producer_id, seen, Offset(i64::MAX));
    }
}

/// What the end of a segment says.
pub async fn last_offset_of(store: &dyn ObjectStore, object: &Object) -> Result<Offset, RestoreError> {
    let options =
        object_store::GetOptions { range: Some(GetRange::Suffix(64)), ..object_store::GetOptions::default() };
    let end = store.get_opts(&object.path, options).await?.bytes().await?;
    let failed = |why: String| RestoreError::Object { object: object.path.to_string(), why };
    crate::segment::last_offset(&end, object.size_bytes).map_err(failed)
}

fn of(segment: &SegmentRef, source: SegmentError) -> RestoreError {
    RestoreError::Segment { object: segment.path.to_string(), source }
}

impl Described {
    fn candidate(&self) -> Candidate {
        Candidate { base_offset: self.at.base_offset, last_offset: self.at.last_offset, number: self.number }
    }
}
