//! Metadata that was restored from a copy that is older than the store. Incarnations would come again, and what was written since would
//! count as left over.
//!
//! Numbers of incarnations and of snapshots are revisions of the metadata: what the store has of one shows how far the metadata had counted
//! at least.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use futures_util::future::BoxFuture;
use kafscale_core::ids::{Offset, PartitionId, TopicId};
use kafscale_meta::records::{OutdatedRecord, Record};
use kafscale_meta::{Op, Txn};

use super::{Binding, IdentityError, PATIENCE, last_epoch};
use crate::disaster::snapshot;
use crate::disaster::survey::Segments;
use crate::log::objects::birth;
use crate::store::backoff::persist;
use crate::wal::chain_id::ChainId;

/// What a store has of some revision of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trace {
    Writer(ChainId),
    Snapshot(u64),
}

impl Trace {
    fn number(self) -> u64 {
        match self {
            Trace::Writer(id) => id.incarnation,
            Trace::Snapshot(number) => number,
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trace::Writer(id) => write!(f, "the incarnation {} has written to the store", id.incarnation),
            Trace::Snapshot(number) => write!(f, "the store has the snapshot {number} of it"),
        }
    }
}

impl Binding<'_> {
    /// Refuses metadata that cannot have counted as far as the store shows.
    pub(super) async fn check_age(&self) -> Result<(), IdentityError> {
        // Before it is asked how far the metadata has counted, as others go on.
        let traces = self.traces().await?;
        let refused = |found, known| Err(IdentityError::OldMetadata { place: self.place(), found, known });
        // What an earlier start has found stays true, although each start takes a number, and comes to higher ones than the store knows.
        if let Some((found, known)) = self.outdated().await?
            && traces.contains(&found)
        {
            return refused(found, known);
        }
        let (own, shared) = (self.config.incarnation, self.config.store.is_shared());
        // In a bucket, a broker that joined after this one has a higher number too, but none that metadata has not given out.
        let known = if shared { own.max(last_epoch(self.meta, self.keys).await?) } else { own };
        let is_newer = |trace: &Trace| match trace {
            // On a local disk every snapshot is of an earlier process.
            Trace::Snapshot(number) if !shared => *number >= own,
            trace => trace.number() > known,
        };
        let newer = traces.into_iter().filter(is_newer).max_by_key(|trace| trace.number());
        let Some(found) = newer else { return Ok(()) };
        self.remember_outdated(found, known).await?;
        refused(found, known)
    }

    /// Refuses metadata that does not know of records which nothing else knows of either: they are in a segment, and their write-ahead
    /// files are freed, which comes after the metadata has the segment. Where several brokers have a disk each, a partition that has been
    /// elsewhere ends where it ended there.
    pub(super) async fn check_log_ends(&self) -> Result<(), IdentityError> {
        if self.config.store.is_shared() || self.config.place.is_some() {
            return Ok(());
        }
        let segments = Segments::of(self.store).await.map_err(|e| self.store_error(e))?;
        let topics: HashSet<TopicId> = self.topics().await?.into_iter().map(|(_, id)| id).collect();
        let mut ends: HashMap<PartitionId, Offset> = HashMap::new();
        for (id, record) in self.partitions().await? {
            let last = record.segments.last().map_or(0, |segment| segment.last_offset + 1);
            ends.insert(id, Offset(last.max(record.log_start_offset)));
        }
        for (_, entry) in self.recovered.iter().flat_map(|file| &file.batches) {
            let end = ends.entry(entry.partition).or_insert(Offset::ZERO);
            *end = (*end).max(entry.last_offset.plus(1));
        }
        for (id, objects) in segments.by_partition.iter().filter(|(id, _)| topics.contains(&id.topic)) {
            let end = ends.get(id).copied().unwrap_or(Offset::ZERO);
            if let Some(beyond) = objects.iter().find(|object| object.base_offset >= end) {
                let (place, segment) = (self.place(), beyond.path.to_string());
                let (first, partition) = (beyond.base_offset, id.index);
                return Err(IdentityError::OldEnds { place, segment, first, partition, end });
            }
        }
        Ok(())
    }

    async fn traces(&self) -> Result<BTreeSet<Trace>, IdentityError> {
        let list = || Box::pin(snapshot::numbers(self.store)) as BoxFuture<'_, object_store::Result<_>>;
        let snapshots: Vec<u64> =
            persist(PATIENCE, self.config.incarnation, list).await.map_err(|e| self.store_error(e))?;
        let writers = self.writers().await?;
        let snapshots = snapshots.into_iter().map(Trace::Snapshot);
        Ok(writers.into_iter().map(Trace::Writer).chain(snapshots).collect())
    }

    /// The incarnations that have written to the store.
    async fn writers(&self) -> Result<BTreeSet<ChainId>, IdentityError> {
        if self.config.store.is_shared() {
            let list = || Box::pin(birth::list(self.store)) as BoxFuture<'_, object_store::Result<_>>;
            return persist(PATIENCE, self.config.incarnation, list).await.map_err(|e| self.store_error(e));
        }
        let headers = self.recovered.iter().map(|file| &file.header);
        Ok(headers.map(|h| ChainId { node_id: h.node_id, incarnation: h.incarnation }).collect())
    }

    async fn outdated(&self) -> Result<Option<(Trace, u64)>, IdentityError> {
        let key = self.keys.outdated();
        let Some(kv) = self.meta.get(&key).await? else { return Ok(None) };
        let OutdatedRecord { node_id, incarnation, known, snapshot } =
            OutdatedRecord::decode(&key, &kv.value)?;
        let writer = Trace::Writer(ChainId { node_id, incarnation });
        Ok(Some((snapshot.map_or(writer, Trace::Snapshot), known)))
    }

    async fn remember_outdated(&self, by: Trace, known: u64) -> Result<(), IdentityError> {
        let (ChainId { node_id, incarnation }, snapshot) = match by {
            Trace::Writer(id) => (id, None),
            // The incarnation that found it has written nothing.
            Trace::Snapshot(number) => {
                let own = ChainId { node_id: self.config.node_id, incarnation: self.config.incarnation };
                (own, Some(number))
            }
        };
        let record = OutdatedRecord { node_id, incarnation, known, snapshot };
        // Where there is one, it is of another store.
        let _ = self.meta.txn(Txn::new().and_then(Op::put(self.keys.outdated(), record.encode()))).await?;
        Ok(())
    }
}
