//! Dropping old records: by time, by size, on request (DeleteRecords), and with their topic.
//!
//! The log start moves in metadata first; objects are deleted afterwards, so that a crash between the two leaves
//! an orphan, never a manifest that names what is gone ([`super::orphans`]).

use std::sync::Arc;

use futures_util::TryStreamExt;
use kafscale_core::ids::{Offset, TopicId};
use kafscale_core::producer::ProducerSnapshot;
use kafscale_core::topic_config::TopicConfig;
use object_store::ObjectStore;
use object_store::path::Path;

use super::acquire::drop_state;
use super::deletion::{delete_object, retry_deletes};
use super::identity::still_bound;
use super::manifest::{PublishError, directory};
use super::partition::{PartitionInner, State, TailBatch};
use super::shared::Shared;
use super::unsettled::settle;
use crate::error::ReadError;

/// Runs until the log is shut down.
pub async fn run(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            // Not at the start: who restarts a broker to change a retention that is too short has an interval to do it.
            () = tokio::time::sleep(shared.config.retention_check_interval) => enforce(&shared).await,
        }
    }
}

/// One round over all partitions.
pub(super) async fn enforce(shared: &Shared) {
    let now_ms = shared.clock.now_ms();
    let expired_ms =
        now_ms - i64::try_from(shared.config.producer_expiration.as_millis()).unwrap_or(i64::MAX);
    for partition in shared.all_partitions() {
        if shared.stopping.is_cancelled() {
            return;
        }
        let config = partition.config.read().clone();
        let target = {
            let mut state = partition.state.lock();
            state.producers.expire(expired_ms);
            state.retention_target(&config, now_ms)
        };
        let Some(target) = target else { continue };
        let (topic, index) = (&partition.topic_name, partition.id.index);
        match move_log_start(shared, &partition, target).await {
            Ok(log_start) => tracing::info!(%topic, partition = index, %log_start, "dropped old records"),
            Err(error) => tracing::warn!(%topic, partition = index, %error, "cannot drop old records"),
        }
    }
    shared.free_unused();
    retry_deletes(shared).await;
    if let Some(chain) = &shared.chain {
        chain.footers.forget_old();
    }
}

impl State {
    /// The log start that the topic's retention asks for, when that is above the present one.
    ///
    /// Whole segments go, and above them whole batches of the write-ahead log: by time when their largest
    /// timestamp is too old, by size while the rest is still at least `retention.bytes`.
    ///
    /// A segment without any timestamp, as log cleaning leaves it when it empties one, must not end the walk: it goes
    /// with the next one that goes. It does not go before that, so that a consumer whose offset is in it reads on behind it.
    fn retention_target(&self, config: &TopicConfig, now_ms: i64) -> Option<Offset> {
        if !config.cleanup_delete {
            return None;
        }
        let mut rest = self.segment_bytes + self.tail_bytes;
        let mut drops = |size: u64, timestamp_ms: i64| {
            let aged = |keep: i64| timestamp_ms >= 0 && now_ms.saturating_sub(timestamp_ms) > keep;
            let old = config.retention_ms.is_some_and(aged);
            let large = config.retention_bytes.is_some_and(|keep| rest.saturating_sub(size) >= keep);
            rest = rest.saturating_sub(size);
            old || large
        };
        let mut target = self.log_start;
        for segment in &self.segments {
            if drops(segment.at.size_bytes, segment.max_timestamp_ms) {
                target = segment.last_offset().plus(1);
            } else if segment.max_timestamp_ms >= 0 {
                return Some(target).filter(|t| *t > self.log_start);
            }
            // One without any timestamp has no age of its own: it goes together with what stands behind it.
        }
        if self.tail.is_empty() && target > self.log_start {
            // Log cleaning left nothing of the last ones, and all that was older goes.
            let behind = self.segments.iter().skip_while(|s| s.at.base_offset < target);
            target =
                behind.take_while(|s| s.is_empty()).map(|s| s.last_offset().plus(1)).last().unwrap_or(target);
        }
        for batch in self.tail.range(..self.durable) {
            // Records without a timestamp age from their append.
            let timestamp_ms =
                if batch.max_timestamp_ms < 0 { batch.appended_ms } else { batch.max_timestamp_ms };
            if !drops(u64::from(batch.size_bytes), timestamp_ms) {
                break;
            }
            target = batch.last_offset.plus(1);
        }
        Some(target).filter(|t| *t > self.log_start)
    }

    /// What producers have written below a log start, where batches go with it that are in no segment: who recovers the partition does
    /// not look at those, and their producers go on with the sequence numbers behind them.
    fn producers_below(&self, log_start: Offset) -> Option<ProducerSnapshot> {
        let gone = self.tail.partition_point(|batch| batch.last_offset < log_start);
        let end = self.tail.get(gone).map_or(log_start, |cut| log_start.min(cut.base_offset));
        (gone > 0).then(|| self.producers.snapshot(end))
    }

    /// Moves the log start, and gives what is wholly below it.
    fn advance_log_start(&mut self, target: Offset) -> (Vec<Arc<str>>, Vec<TailBatch>) {
        self.log_start = self.log_start.max(target);
        self.epochs.truncate_from_start(self.log_start);
        let count = self.segments.partition_point(|s| s.last_offset() < self.log_start);
        let dropped: Vec<_> = self.segments.drain(..count).collect();
        self.segment_bytes -= dropped.iter().map(|s| s.at.size_bytes).sum::<u64>();
        let objects = dropped.into_iter().map(|s| s.at.path).collect();
        let batches = self.tail.range(..self.durable).take_while(|b| b.last_offset < self.log_start).count();
        (objects, self.drop_front(batches))
    }
}

/// DeleteRecords: everything below `before` goes.
pub async fn delete_records(
    shared: &Shared,
    partition: &PartitionInner,
    before: Offset,
) -> Result<Offset, ReadError> {
    {
        let state = partition.state.lock();
        if state.gone {
            return Err(ReadError::Gone);
        }
        if before > state.high_watermark || before < Offset::ZERO {
            let (log_start, high_watermark) = (state.log_start, state.high_watermark);
            return Err(ReadError::OutOfRange { offset: before, log_start, high_watermark });
        }
        if before <= state.log_start {
            return Ok(state.log_start);
        }
    }
    let log_start = move_log_start(shared, partition, before).await.map_err(|e| match e {
        PublishError::Conflict | PublishError::Fenced => ReadError::Gone,
        PublishError::Meta(e) => ReadError::Unavailable(e.to_string()),
    })?;
    shared.free_unused();
    Ok(log_start)
}

/// Publishes a log start, then frees what is below.
async fn move_log_start(
    shared: &Shared,
    partition: &PartitionInner,
    target: Offset,
) -> Result<Offset, PublishError> {
    let _guard = partition.maintenance.lock().await;
    settle(shared, partition).await?;
    let (mut manifest, producers) = {
        let state = partition.state.lock();
        if target <= state.log_start {
            return Ok(state.log_start);
        }
        (state.manifest(), state.producers_below(target))
    };
    manifest.log_start = target;
    manifest.epochs.truncate_from_start(target);
    manifest.segments.retain(|s| s.last_offset() >= target);
    let revision = shared.publish(&manifest, partition, producers).await?;
    let (objects, batches) = {
        let mut state = partition.state.lock();
        if state.gone {
            return Ok(target);
        }
        state.revision = Some(revision);
        let freed = state.advance_log_start(target);
        state.wake();
        freed
    };
    shared.damages().forget_below(&partition.topic_name, partition.id.index, target);
    shared.release(&batches);
    for object in objects {
        delete_object(shared, &object).await;
    }
    Ok(target)
}

/// Stops to serve a topic, wakes whoever waits on it, and deletes its objects.
///
/// Where the topic vanished because the metadata did, nothing is freed and nothing is deleted: `kafscale restore` will need it.
pub async fn drop_topic(shared: &Shared, topic: TopicId) {
    let bound = still_bound(shared).await;
    let dropped = shared.partitions.remove_topic(topic);
    if matches!(bound, Ok(false)) {
        dropped.iter().for_each(|partition| partition.state.lock().end());
        let topic = topic.0;
        tracing::error!(%topic, "a topic vanished together with the metadata that this broker began with; its records are kept");
        return;
    }
    dropped.iter().for_each(|partition| drop_state(shared, partition));
    shared.unclaimed.retain(&shared.files, |id| id.topic != topic);
    shared.free_unused();
    if let Err(error) = bound {
        tracing::warn!(%error, "the objects of a deleted topic are left to the collection of orphans");
        return;
    }
    for partition in &dropped {
        // Whoever rewrites it now may still put an object; the list must come after that.
        let _guard = partition.maintenance.lock().await;
        let prefix = Path::from(directory(&partition.topic_name, partition.id));
        let objects: Result<Vec<_>, _> = shared.store.list(Some(&prefix)).try_collect().await;
        match objects {
            Ok(objects) => {
                for object in objects {
                    delete_object(shared, object.location.as_ref()).await;
                }
            }
            Err(error) => tracing::warn!(%prefix, %error, "cannot list the objects of a deleted topic"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::manifest::StoredSegment;
    use crate::segment::{EMPTY_BYTES, SegmentRef};

    const NOW_MS: i64 = 1000;
    /// The size and the largest timestamp of a segment that log cleaning has emptied.
    const EMPTY: (u64, i64) = (EMPTY_BYTES, -1);

    /// A log of segments of (size, largest timestamp) with ten offsets each, and a batch of the tail with this timestamp.
    fn log(of: &[(u64, i64)], tail_ms: Option<i64>) -> State {
        let mut state = State::default();
        for (i, (size_bytes, max_timestamp_ms)) in of.iter().copied().enumerate() {
            let base = i as i64 * 10;
            let (base_offset, last_offset) = (Offset(base), Offset(base + 9));
            let at = SegmentRef { path: "x".into(), size_bytes, base_offset, last_offset };
            let records = u64::from(size_bytes != EMPTY_BYTES);
            let segment = StoredSegment { at, max_timestamp_ms, times: None, records, compacted: true };
            state.segment_bytes += size_bytes;
            state.segments.push(segment);
        }
        let base = of.len() as i64 * 10;
        if let Some(max_timestamp_ms) = tail_ms {
            state.tail.push_back(TailBatch {
                base_offset: Offset(base),
                last_offset: Offset(base + 9),
                max_timestamp_ms,
                times: None,
                appended_ms: max_timestamp_ms,
                size_bytes: 100,
                starts_at: 0,
                place: crate::wal::files::Place { file_no: 0, position: 0 },
                flush: std::sync::Weak::new(),
                slot: 0,
            });
            (state.tail_bytes, state.durable) = (100, 1);
        }
        state
    }

    #[test]
    fn a_segment_without_an_age_does_not_end_retention() {
        let config = |retention_ms, retention_bytes| TopicConfig {
            cleanup_delete: true,
            retention_ms,
            retention_bytes,
            ..TopicConfig::default()
        };
        let (by_time, by_size) = (config(Some(100), None), config(None, Some(300)));
        let (old, young, unknown) = ((200, 10), (200, 950), (200, -1));
        for (what, of, tail_ms, config, expect) in [
            ("the next one is old", &[EMPTY, old, young][..], None, &by_time, Some(20)),
            ("several", &[EMPTY, old, EMPTY, EMPTY, old, young], None, &by_time, Some(50)),
            ("the next one is young", &[old, EMPTY, young], None, &by_time, Some(10)),
            (
                "all that is older goes, and it is the last",
                &[EMPTY, old, EMPTY, EMPTY],
                None,
                &by_time,
                Some(40),
            ),
            ("nothing says how old it is", &[EMPTY, EMPTY], None, &by_time, None),
            ("records without timestamps before old ones", &[unknown, old], None, &by_time, Some(20)),
            ("records without timestamps at the end", &[old, unknown], None, &by_time, Some(10)),
            ("an old batch of the tail", &[old, EMPTY], Some(10), &by_time, Some(30)),
            ("a young batch of the tail", &[old, EMPTY], Some(950), &by_time, Some(10)),
            ("by size", &[EMPTY, old, EMPTY, old, young], None, &by_size, Some(30)),
        ] {
            let target = log(of, tail_ms).retention_target(config, NOW_MS);
            assert_eq!(target, expect.map(Offset), "{what}");
        }
    }
}
