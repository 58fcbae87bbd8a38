//! A publication whose answer was lost: it may have been done, and this process does not know.
//!
//! The record then covers batches that the tail still names, and nobody keeps for it what they came from: a dead chain of which manifests
//! cover everything is collected. So whoever maintains a partition takes over first what the record says.

use kafscale_meta::records::{PartitionRecord, Record};

use super::deletion::delete_object;
use super::manifest::{Manifest, PublishError, StoredSegment, directory};
use super::partition::{PartitionInner, State, TailBatch};
use super::shared::Shared;

/// Takes over what an earlier publication has done, if it is not known what became of it. The caller holds the partition's maintenance
/// lock. It may still be done later: only one that is known to be done settles it.
pub async fn settle(shared: &Shared, partition: &PartitionInner) -> Result<(), PublishError> {
    if !partition.state.lock().unsettled {
        return Ok(());
    }
    let key = shared.keys.partition(partition.id.topic.0, partition.id.index);
    let Some(kv) = shared.meta.get(&key).await? else { return Ok(()) };
    let record = PartitionRecord::decode(&key, &kv.value)?;
    if record.writer_epoch != shared.config.incarnation {
        return Ok(());
    }
    let directory = directory(&partition.topic_name, partition.id);
    let manifest = Manifest::from_records(&directory, Some((record, kv.mod_revision)), None);
    let (dropped, left) = {
        let mut state = partition.state.lock();
        if state.gone || state.revision >= manifest.revision {
            return Ok(());
        }
        let taken = state.take_over(manifest);
        state.wake();
        taken
    };
    tracing::info!(topic = %partition.topic_name, partition = partition.id.index, "a publication whose answer was lost was done");
    shared.release(&dropped);
    for segment in left {
        shared.segments.forget(&segment.at);
        delete_object(shared, &segment.at.path).await;
    }
    Ok(())
}

impl State {
    /// Goes on from this process's own, newer manifest. Gives the batches that it covers, and the segments that it does not name any more.
    fn take_over(&mut self, manifest: Manifest) -> (Vec<TailBatch>, Vec<StoredSegment>) {
        self.log_start = self.log_start.max(manifest.log_start);
        self.epochs.truncate_from_start(self.log_start);
        self.revision = manifest.revision;
        self.segment_bytes = manifest.segments.iter().map(|s| s.at.size_bytes).sum();
        let before = std::mem::replace(&mut self.segments, manifest.segments);
        let is_named = |old: &StoredSegment| self.segments.iter().any(|s| s.at.path == old.at.path);
        let left = before.into_iter().filter(|old| !is_named(old)).collect();
        let end =
            self.segments.last().map_or(self.log_start, |s| self.log_start.max(s.last_offset().plus(1)));
        let covered = self.tail.range(..self.durable).take_while(|batch| batch.last_offset < end).count();
        (self.drop_front(covered), left)
    }
}
