//! Metadata that was restored from a copy that is older than the store. Incarnations would come
//! again, and what was written since would count as left over. What the store has of later metadata
//! shows it ([`trace`](super::trace)).

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::future::BoxFuture;
use kafscale_core::ids::{Offset, PartitionId, TopicId};
use kafscale_meta::records::{OutdatedRecord, PartitionRecord, Record};
use kafscale_meta::{Op, Txn};
use memchr::memmem;

use super::trace::{Known, Trace};
use super::{Binding, IdentityError, PATIENCE, last_epoch};
use crate::disaster::snapshot;
use crate::disaster::survey;
use crate::log::StoreUrl;
use crate::log::objects::birth;
use crate::store::backoff::persist;
use crate::wal::chain_id::ChainId;

impl Binding<'_> {
    /// Refuses metadata that does not know what the store has of it.
    pub(super) async fn check_age(&self, store_id: &str) -> Result<(), IdentityError> {
        // Before the metadata is read, which has a note of each before it is in the store.
        let traces = self.traces().await?;
        let refused = |found, known| Err(IdentityError::OldMetadata { place: self.place(), found, known });
        // What an earlier start has found stays true, although the metadata counts on.
        if let Some((found, known)) = self.outdated().await?
            && traces.contains_key(&found)
            && self.counts(found, store_id).await?.is_some()
        {
            return refused(found, known);
        }
        let known = Known::load(self.meta, self.keys).await?;
        let counted = self.counted().await?;
        let mut newest: Option<(Trace, u64)> = None;
        for (trace, noted) in traces {
            let known = known.newest_like(trace);
            let (number, counted) = (trace.number(), counted.like(trace));
            if number <= known || newest.is_some_and(|(newest, _)| number <= newest.number()) {
                continue;
            }
            let Some(noted_inside) = self.counts(trace, store_id).await? else { continue };
            if number > counted || noted || noted_inside {
                newest = Some((trace, known));
            }
        }
        let Some((found, known)) = newest else { return Ok(()) };
        self.remember_outdated(found, known).await?;
        refused(found, known)
    }

    /// How far the metadata has counted: all that shows of what earlier releases have written,
    /// which made no notes.
    async fn counted(&self) -> Result<Counted, IdentityError> {
        let own = self.config.incarnation;
        if !self.config.store.is_shared() {
            // Every file and every snapshot is of an earlier process.
            return Ok(Counted { writers: own, snapshots: own.saturating_sub(1) });
        }
        // A broker that joined after this one has a higher number too, but none that metadata has
        // not given out.
        let known = own.max(last_epoch(self.meta, self.keys).await?);
        Ok(Counted { writers: known, snapshots: known })
    }

    /// Whether a trace is one of this store's metadata, and if so, whether it says inside that the metadata had a note of it. Only
    /// snapshots can be another store's: write-ahead files were looked at before.
    async fn counts(&self, trace: Trace, store_id: &str) -> Result<Option<bool>, IdentityError> {
        let Trace::Snapshot(number) = trace else { return Ok(Some(false)) };
        let read = || {
            Box::pin(snapshot::is_noted(self.store, number, store_id))
                as BoxFuture<'_, object_store::Result<_>>
        };
        persist(PATIENCE, self.config.incarnation, read).await.map_err(|e| self.store_error(e))
    }

    /// Refuses metadata that does not know of records which nothing else knows of either: they are in a segment, and their write-ahead
    /// files are freed, which comes after the metadata has the segment. Where several brokers have a disk each, a partition that has been
    /// elsewhere ends where it ended there.
    pub(super) async fn check_log_ends(&self) -> Result<(), IdentityError> {
        if self.config.place.is_some() {
            return Ok(());
        }
        let StoreUrl::File(directory) = &self.config.store else { return Ok(()) };
        let directory = directory.clone();
        let listed = tokio::task::spawn_blocking(move || survey::newest_in(&directory));
        let newest = listed.await.expect("listing does not panic");
        let newest = newest.map_err(|e| {
            self.store_error(object_store::Error::Generic { store: "local", source: e.into() })
        })?;
        let topics: HashSet<TopicId> = self.topics().await?.into_iter().map(|(_, id)| id).collect();
        let mut newest: BTreeMap<_, _> =
            newest.into_iter().filter(|(id, _)| topics.contains(&id.topic)).collect();
        let mut ends = self.ends_without(&mut newest).await?;
        let batches = self.recovered.iter().flat_map(|file| &file.batches);
        for (_, entry) in batches.filter(|(_, entry)| newest.contains_key(&entry.partition)) {
            let end = ends.entry(entry.partition).or_insert(Offset::ZERO);
            *end = (*end).max(entry.last_offset.plus(1));
        }
        for (id, (base_offset, segment)) in newest {
            let end = ends.get(&id).copied().unwrap_or(Offset::ZERO);
            if base_offset >= end {
                let (place, first, partition) = (self.place(), base_offset, id.index);
                return Err(IdentityError::OldEnds { place, segment, first, partition, end });
            }
        }
        Ok(())
    }

    /// Where partitions end, as the metadata says. Takes those away from `newest` whose newest segment the metadata names: it ends behind
    /// that one, and to decode all its records takes longer than everything else.
    async fn ends_without(
        &self,
        newest: &mut BTreeMap<PartitionId, (Offset, String)>,
    ) -> Result<HashMap<PartitionId, Offset>, IdentityError> {
        let mut ends = HashMap::new();
        for kv in self.meta.range_all(&self.keys.partitions_prefix()).await?.kvs {
            let Some((topic, index)) = self.keys.parse_partition(&kv.key) else { continue };
            let id = PartitionId { topic: TopicId(topic), index };
            let Some((_, path)) = newest.get(&id) else { continue };
            let name = path.rsplit('/').next().unwrap_or(path);
            if memmem::rfind(&kv.value, name.as_bytes()).is_some() {
                newest.remove(&id);
                continue;
            }
            let record = PartitionRecord::decode(&kv.key, &kv.value)?;
            let last = record.segments.last().map_or(0, |segment| segment.last_offset + 1);
            ends.insert(id, Offset(last.max(record.log_start_offset)));
        }
        Ok(ends)
    }

    /// What the store has of its metadata, and whether it says itself that the metadata had a note
    /// of it. A snapshot says so inside.
    async fn traces(&self) -> Result<BTreeMap<Trace, bool>, IdentityError> {
        let list = || Box::pin(snapshot::numbers(self.store)) as BoxFuture<'_, object_store::Result<_>>;
        let snapshots: Vec<u64> =
            persist(PATIENCE, self.config.incarnation, list).await.map_err(|e| self.store_error(e))?;
        let writers = self.writers().await?;
        let snapshots = snapshots.into_iter().map(|number| (Trace::Snapshot(number), false));
        Ok(writers.into_iter().map(|(id, noted)| (Trace::Writer(id), noted)).chain(snapshots).collect())
    }

    /// The incarnations that have written to the store.
    async fn writers(&self) -> Result<BTreeMap<ChainId, bool>, IdentityError> {
        if self.config.store.is_shared() {
            let list = || Box::pin(birth::list(self.store)) as BoxFuture<'_, object_store::Result<_>>;
            return persist(PATIENCE, self.config.incarnation, list).await.map_err(|e| self.store_error(e));
        }
        let headers = self.recovered.iter().map(|file| &file.header);
        Ok(headers.map(|h| (ChainId { node_id: h.node_id, incarnation: h.incarnation }, h.noted)).collect())
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

/// The highest numbers that there can be by now.
struct Counted {
    writers: u64,
    snapshots: u64,
}

impl Counted {
    fn like(&self, trace: Trace) -> u64 {
        match trace {
            Trace::Writer(_) => self.writers,
            Trace::Snapshot(_) => self.snapshots,
        }
    }
}
