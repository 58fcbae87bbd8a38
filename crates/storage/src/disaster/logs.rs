//! What write-ahead logs hold when metadata is rebuilt, and what of them is lost.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use kafscale_core::ids::{PartitionId, TopicId};
use kafscale_meta::records::ChainRecord;
use object_store::ObjectStore;

use super::chains::Evidence;
use super::coverage::Coverage;
use super::error::RestoreError;
use super::local::Local;
use super::plan::Plan;
use super::select::InChain;
use super::survey::ChainObjects;
use super::{chains, survey};
use crate::log::objects::footers::{Absent, ChainIndex, LostObject, read_chain};
use crate::log::objects::seal::{SEAL_BYTES, list};
use crate::wal::chain_id::ChainId;
use crate::wal::files::Place;
use crate::wal::object::IndexEntry;

const CHAINS_AT_ONCE: usize = 16;
const ATTEMPTS: usize = 5;

/// What was found.
#[derive(Debug, Default)]
pub struct Logs {
    pub in_chains: HashMap<PartitionId, Vec<InChain>>,
    /// The highest leader epoch that was seen anywhere, of each partition.
    pub epochs: HashMap<PartitionId, i32>,
    /// When something was last written to a topic.
    pub last_seen_ms: HashMap<TopicId, i64>,
    pub last_incarnation: u64,
    /// Whether a part of any log is lost.
    lacks_any: bool,
}

/// What logs hold of one partition.
#[derive(Debug, Default)]
pub struct Above {
    pub batches: Vec<InChain>,
    /// Where there is none: whether there may have been some.
    pub may_lack: bool,
}

/// A chain that was read.
struct ReadChain {
    record: ChainRecord,
    sealed_now: bool,
    has_more: bool,
    index: ChainIndex,
}

impl Logs {
    /// What the write-ahead files of a local disk hold.
    pub fn of_files(local: &Local) -> Logs {
        let mut logs = Logs { lacks_any: local.lacks_any(), ..Logs::default() };
        for file in &local.files {
            let lost = local.lost_in(file);
            for (position, entry) in &file.batches {
                let at = Place { file_no: file.header.file_no, position: *position };
                let after_loss = lost.iter().any(|lost| *lost < at);
                let before_loss = lost.iter().any(|lost| *lost >= at);
                logs.note(entry, after_loss, before_loss);
            }
            logs.last_incarnation = logs.last_incarnation.max(file.header.incarnation);
        }
        logs
    }

    /// Takes what belongs to a partition.
    pub fn take(&mut self, id: PartitionId) -> Above {
        Above { batches: self.in_chains.remove(&id).unwrap_or_default(), may_lack: self.lacks_any }
    }

    fn note_chain(&mut self, index: &ChainIndex) {
        for found in index.by_partition.values().flatten() {
            let before_loss = index.lost.iter().any(|lost| lost.seq >= found.seq);
            // It may have been in another chain.
            self.note(&found.entry, self.lacks_any, before_loss);
        }
    }

    fn note(&mut self, entry: &IndexEntry, after_loss: bool, before_loss: bool) {
        let id = entry.partition;
        self.note_epoch(id, entry.leader_epoch.0);
        self.note_seen(id.topic, entry.appended_ms);
        self.in_chains.entry(id).or_default().push(InChain {
            leader_epoch: entry.leader_epoch,
            base_offset: entry.base_offset,
            last_offset: entry.last_offset,
            after_loss,
            before_loss,
        });
    }

    pub fn note_epoch(&mut self, id: PartitionId, epoch: i32) {
        let known = self.epochs.entry(id).or_insert(epoch);
        *known = epoch.max(*known);
    }

    pub fn note_seen(&mut self, topic: TopicId, at_ms: i64) {
        let known = self.last_seen_ms.entry(topic).or_insert(at_ms);
        *known = at_ms.max(*known);
    }
}

impl Plan<'_> {
    /// Says in a record of each chain what is to be read of it.
    pub async fn chains(&mut self, seal: bool, accept_loss: bool) -> Result<Logs, RestoreError> {
        let mut known: HashMap<ChainId, ChainRecord> = HashMap::new();
        for (key, (node_id, incarnation)) in self.keys_of(|key| self.keys.parse_chain(key)) {
            if let Some(record) = self.get(&key)? {
                known.insert(ChainId { node_id, incarnation }, record);
            }
            self.remove(&key);
        }
        let mut found = survey::chains(&*self.store).await?;
        for id in known.keys() {
            found.entry(*id).or_default();
        }
        let last_incarnation = found.keys().map(|id| id.incarnation).max().unwrap_or(0);
        let mut logs = Logs { last_incarnation, ..Logs::default() };
        let store = Arc::clone(&self.store);
        let evidence = |id: &ChainId| Evidence::of_record(known.get(id).copied());
        let coverage = match found.iter().any(|(id, objects)| evidence(id).is_wanted(objects)) {
            true => Coverage::of(self).await?,
            false => Coverage::default(),
        };
        let read = stream::iter(found)
            .map(|(id, objects)| read(&*store, id, objects, (evidence(&id), &coverage), seal));
        let read: Vec<ReadChain> = read.buffered(CHAINS_AT_ONCE).try_collect().await?;
        for chain in &read {
            self.losses(&chain.index, accept_loss)?;
            logs.lacks_any |= !chain.index.lost.is_empty();
        }
        for ReadChain { mut record, sealed_now, has_more, index } in read {
            record.given_up |= !index.lost.is_empty();
            self.restored.chains_sealed += usize::from(sealed_now);
            logs.note_chain(&index);
            let is_needed = record.sealed_at.is_some_and(|end| record.first_seq < end);
            self.restored.chains += usize::from(is_needed);
            // Without a record nobody would collect what is left of it.
            if is_needed || has_more {
                self.put(&self.keys.chain(index.id.node_id, index.id.incarnation), &record);
            }
        }
        Ok(logs)
    }

    /// Refuses what is lost of a chain, or tells of it.
    fn losses(&mut self, chain: &ChainIndex, accept: bool) -> Result<(), RestoreError> {
        let told = |lost: &LostObject| format!("{} is lost ({})", chain.id.object(lost.seq), lost.why);
        match chain.missed().next() {
            Some(LostObject { seq, why, .. }) if !accept => Err(RestoreError::LostObject {
                object: chain.id.object(*seq),
                why: why.clone(),
                node_id: chain.id.node_id,
            }),
            Some(_) | None => {
                self.restored.losses.extend(chain.missed().map(told));
                Ok(())
            }
        }
    }
}

async fn read(
    store: &dyn ObjectStore,
    id: ChainId,
    mut objects: ChainObjects,
    (evidence, coverage): (Evidence, &Coverage),
    seal: bool,
) -> Result<ReadChain, RestoreError> {
    let mut attempt = 1;
    loop {
        let evidence = match evidence.is_wanted(&objects) {
            true => evidence.look(store, id, &objects, coverage).await?,
            false => evidence,
        };
        let record = match seal {
            true => chains::seal(store, id, &objects, evidence).await?,
            false => chains::look(store, id, &objects, evidence).await?,
        };
        let sealed_now = record.sealed_at.is_some_and(|seq| !objects.contains_key(&seq));
        let absent = if attempt < ATTEMPTS { Absent::Fails } else { Absent::IsLost };
        match read_chain(store, id, &record, absent).await {
            Ok(index) => {
                let has_more = objects.values().any(|size| *size > SEAL_BYTES);
                return Ok(ReadChain { record, sealed_now, has_more, index });
            }
            // What a broker freed just before its end may vanish a moment later.
            Err(e) if e.is_missing() && attempt < ATTEMPTS => attempt += 1,
            Err(e) => return Err(e.into()),
        }
        objects = list(store, id).await.map_err(RestoreError::Seal)?;
    }
}
