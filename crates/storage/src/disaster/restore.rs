//! Rebuilding the metadata of a cluster from its store alone: a bucket, or the directory of a local disk.
//!
//! It begins with the newest snapshot. Chains are sealed where they are not, so that a broker that is still alive somewhere can
//! acknowledge nothing any more, and get their records back, so that owners find in them what no segment has. Segments that are
//! newer than the snapshot are found by their names and read for what manifests say of them.
//!
//! Invariant: brokers stay out from the first write to the last: they do not join while `restoring` is there.
//! Invariant: what is written depends on what the bucket holds only: an attempt that was cut off is repeated, with the same outcome.
//! Every write is guarded by `restoring`, so that of two attempts at a time the earlier one fails.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use kafscale_core::ids::{Offset, PartitionId, TopicId};
use kafscale_meta::Metadata;
use kafscale_meta::records::{
    AssignmentRecord, ChainRecord, ClusterRecord, IncarnationBaseRecord, Keyspace, PartitionAssignment,
    ProducerIdsRecord, Record, StoreRecord, TopicRecord, uuid_to_text,
};
use object_store::ObjectStore;
use uuid::Uuid;

use super::hold::{self, Hold};
use super::local::Local;
use super::manifests::{Before, Rebuilder, Rebuilt};
use super::select::InChain;
use super::survey::Segments;
use super::{chains, snapshot, survey};
use crate::StoreUrl;
use crate::log::identity;
use crate::log::objects::footers::{Absent, ChainIndex, read_chain};
use crate::log::objects::seal::{SEAL_BYTES, list};
use crate::store::patient::Patient;
use crate::store::{open_store, open_to_look};
use crate::wal::chain_id::ChainId;
use crate::wal::object::IndexEntry;
use crate::wal::recovery::{self, RecoveredFile};

/// What was given out after the snapshot must not be given out again.
const PRODUCER_IDS_SKIPPED: i64 = 1_000_000;
/// Clients take no word of a leader whose epoch is below one that they have seen, and the snapshot does not know the last ones.
const LEADER_EPOCHS_SKIPPED: i32 = 1000;
/// Clocks of brokers and of the store may differ so much.
const CLOCKS_DIFFER_MS: i64 = 5 * 60_000;
const CHAINS_AT_ONCE: usize = 16;
const PARTITIONS_AT_ONCE: usize = 16;
const ATTEMPTS: usize = 5;

/// How to restore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Also where there is metadata of this cluster, which is lost then.
    pub replace: bool,
}

/// What was rebuilt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    pub topics: Vec<RestoredTopic>,
    /// Files of a local write-ahead log with something in them; `None` where the log is in a bucket.
    pub wal_files: Option<usize>,
    /// Chains with something in them, and those that were sealed or would be.
    pub chains: usize,
    pub chains_sealed: usize,
    /// Segments that the snapshot did not know.
    pub newer_segments: usize,
    pub committed_offsets: usize,
    /// The time of the snapshot, from which committed offsets are; `None` where there was none.
    pub snapshot_ms: Option<i64>,
    /// Newer snapshots that are damaged or another store's, with the reason.
    pub left_out_snapshots: Vec<String>,
    /// Topics whose names and settings are lost: they were created after the snapshot, and all their records were in chains.
    pub nameless: Vec<String>,
    /// Topics of which there are objects, although they were deleted before the snapshot.
    pub deleted_topics: usize,
    /// For a person: offsets below the end of a partition that no object covers.
    pub holes: Vec<String>,
    /// For a person: writes at the end of a local write-ahead log that are not whole, and are left out.
    pub cut_off: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoredTopic {
    pub name: String,
    pub partitions: i32,
    /// Offsets from the log starts to the log ends, of all partitions together.
    pub offsets: i64,
    /// How many of them are in chains only.
    pub in_chains: i64,
}

/// Whether [`restore`] would be refused, found out without changing anything: `metadata` may be a copy.
pub async fn may_restore(
    url: &StoreUrl,
    metadata: &Metadata,
    now_ms: i64,
    options: RestoreOptions,
) -> Result<(), String> {
    hold::check(&**metadata.store(), metadata.keys(), options.replace).await?;
    restore(url, metadata, now_ms, RestoreOptions { dry_run: true, ..options }).await.map(drop)
}

/// Writes the records of a cluster whose metadata is lost. Errors are for a person.
pub async fn restore(
    url: &StoreUrl,
    metadata: &Metadata,
    now_ms: i64,
    options: RestoreOptions,
) -> Result<Restored, String> {
    let (meta, keys) = (&**metadata.store(), metadata.keys());
    // Held to the end: no broker starts in the directory meanwhile.
    let local = match url {
        StoreUrl::File(directory) => Some(Local::open(directory, options.dry_run).await?),
        StoreUrl::Memory | StoreUrl::S3(_) | StoreUrl::Shared(_) => None,
    };
    let store = match url {
        StoreUrl::File(directory) if options.dry_run => open_to_look(directory),
        url => open_store(url, &Arc::default()),
    };
    let store = Patient::where_shared(url, store.map_err(|e| e.to_string())?, 0);
    let hold = match options.dry_run {
        true => None,
        false => Some(Hold::take(meta, keys, options.replace).await?),
    };
    let planned = plan(store, local.as_ref(), keys, now_ms, hold.is_some()).await;
    let Some(hold) = hold else { return planned.map(|plan| plan.restored) };
    match planned {
        Ok(plan) => {
            hold.write(meta, keys, plan.records).await?;
            Ok(plan.restored)
        }
        Err(why) => {
            hold.give_up(meta).await;
            Err(why)
        }
    }
}

/// What is to be written. Chains are sealed on the way, if they are to be.
async fn plan<'a>(
    store: Arc<dyn ObjectStore>,
    local: Option<&Local>,
    keys: &'a Keyspace,
    now_ms: i64,
    seal: bool,
) -> Result<Plan<'a>, String> {
    let files = local.map_or(&[][..], |local| &local.files);
    let said = identity::known_id(&*store).await?;
    let store_id = said.clone().or_else(|| identity::id_in(files).map(|id| id.to_string()));
    if let Some(id) = &store_id {
        identity::check_files(files, id).map_err(|e| e.to_string())?;
    }
    let newest = snapshot::newest(&*store, store_id.as_deref()).await?;
    refuse_others(&newest, said.as_deref())?;
    let left_out_snapshots = newest.left_out;
    let snapshot_ms = newest.snapshot.as_ref().map(|s| s.taken_ms);
    let found = newest.snapshot.unwrap_or_default();
    let store_id = store_id.or_else(|| snapshot::store_of(&found));
    let mut plan = Plan {
        store,
        keys,
        restored: Restored { snapshot_ms, left_out_snapshots, ..Restored::default() },
        records: found.records,
        in_chains: HashMap::new(),
        epochs: HashMap::new(),
        last_seen_ms: HashMap::new(),
    };
    let last_incarnation = match local {
        Some(local) => plan.files(local),
        None => plan.chains(seal).await?,
    };
    // After the seals: nobody deletes segments any more.
    let segments = Segments::of(&*plan.store).await.map_err(|e| e.to_string())?;
    let nothing = segments.by_partition.is_empty() && plan.in_chains.is_empty();
    if snapshot_ms.is_none() && nothing && last_incarnation == 0 {
        return Err("there is nothing in the store: neither a snapshot nor records".into());
    }
    plan.topics(&segments, now_ms)?;
    plan.cut_off(files)?;
    plan.partitions(&segments, now_ms).await?;
    // What a broker was deleting at its end may vanish a moment after it was listed.
    let later = Segments::of(&*plan.store).await.map_err(|e| e.to_string())?;
    if let Some(gone) = segments.gone_in(&later) {
        return Err(format!("{gone} was deleted while it was looked at; restore again"));
    }
    plan.assignments()?;
    plan.cluster(now_ms, found.number.max(last_incarnation).max(segments.last_incarnation()))?;
    if seal {
        let store_id = identity::id_of(&*plan.store, store_id, now_ms).await?;
        plan.put(&keys.store(), &StoreRecord { store_id })?;
    }
    Ok(plan)
}

struct Plan<'a> {
    store: Arc<dyn ObjectStore>,
    keys: &'a Keyspace,
    restored: Restored,
    /// What will be written, by keys below the root.
    records: BTreeMap<String, String>,
    in_chains: HashMap<PartitionId, Vec<InChain>>,
    /// The highest leader epoch that was seen anywhere, of each partition.
    epochs: HashMap<PartitionId, i32>,
    /// When something was last written to a topic.
    last_seen_ms: HashMap<TopicId, i64>,
}

impl Plan<'_> {
    fn key(&self, full: &str) -> String {
        full.strip_prefix(self.keys.root()).unwrap_or(full).to_owned()
    }

    fn put(&mut self, full: &str, record: &impl Record) -> Result<(), String> {
        let value = String::from_utf8(record.encode().to_vec()).map_err(|e| e.to_string())?;
        self.records.insert(self.key(full), value);
        Ok(())
    }

    fn get<R: Record>(&self, full: &str) -> Result<Option<R>, String> {
        let Some(value) = self.records.get(&self.key(full)) else { return Ok(None) };
        R::decode(full, value.as_bytes()).map(Some).map_err(|e| e.to_string())
    }

    /// The keys of all records of a kind, in full.
    fn keys_of<T>(&self, parse: impl Fn(&str) -> Option<T>) -> Vec<(String, T)> {
        let full = |key: &String| format!("{}{key}", self.keys.root());
        self.records.keys().map(full).filter_map(|key| parse(&key).map(|id| (key, id))).collect()
    }

    /// The topics that will be there, with their names.
    fn all_topics(&self) -> Result<Vec<(String, TopicRecord)>, String> {
        let mut topics = Vec::new();
        for (key, name) in self.keys_of(|key| self.keys.parse_topic(key)) {
            if let Some(record) = self.get(&key)? {
                topics.push((name, record));
            }
        }
        Ok(topics)
    }

    /// Says in a record of each chain what is to be read of it. Gives the highest incarnation.
    async fn chains(&mut self, seal: bool) -> Result<u64, String> {
        let mut known: HashMap<ChainId, ChainRecord> = HashMap::new();
        for (key, (node_id, incarnation)) in self.keys_of(|key| self.keys.parse_chain(key)) {
            if let Some(record) = self.get(&key)? {
                known.insert(ChainId { node_id, incarnation }, record);
            }
            self.records.remove(&self.key(&key));
        }
        let mut found = survey::chains(&*self.store).await.map_err(|e| e.to_string())?;
        for id in known.keys() {
            found.entry(*id).or_default();
        }
        let last_incarnation = found.keys().map(|id| id.incarnation).max().unwrap_or(0);
        let store = Arc::clone(&self.store);
        let read = stream::iter(found).map(async |(id, mut objects)| {
            let known = known.get(&id).copied();
            let mut attempt = 1;
            loop {
                let record = match seal {
                    true => chains::seal(&*store, id, &objects, known).await?,
                    false => chains::look(&*store, id, &objects, known).await?,
                };
                let sealed_now = record.sealed_at.is_some_and(|seq| !objects.contains_key(&seq));
                let absent = if attempt < ATTEMPTS { Absent::Fails } else { Absent::IsLost };
                match read_chain(&*store, id, &record, absent).await {
                    Ok(index) => {
                        refuse_lost(&index)?;
                        let has_more = objects.values().any(|size| *size > SEAL_BYTES);
                        return Ok::<_, String>((record, sealed_now, has_more, index));
                    }
                    // What a broker freed just before its end may vanish a moment later.
                    Err(e) if e.is_missing() && attempt < ATTEMPTS => attempt += 1,
                    Err(e) => return Err(e.to_string()),
                }
                objects = list(&*store, id).await?;
            }
        });
        let read: Vec<_> = read.buffered(CHAINS_AT_ONCE).try_collect().await?;
        for (record, sealed_now, has_more, index) in read {
            self.restored.chains_sealed += usize::from(sealed_now);
            self.note_all(&index);
            let is_needed = record.sealed_at.is_some_and(|end| record.first_seq < end);
            self.restored.chains += usize::from(is_needed);
            // Without a record nobody would collect what is left of it.
            if is_needed || has_more {
                let id = index.id;
                self.put(&self.keys.chain(id.node_id, id.incarnation), &record)?;
            }
        }
        Ok(last_incarnation)
    }

    /// What the write-ahead files of a local disk hold. Gives the highest incarnation.
    fn files(&mut self, local: &Local) -> u64 {
        self.restored.wal_files = Some(local.files.iter().filter(|file| !file.batches.is_empty()).count());
        for file in &local.files {
            file.batches.iter().for_each(|(_, entry)| self.note(entry));
        }
        local.files.iter().map(|file| file.header.incarnation).max().unwrap_or(0)
    }

    fn cut_off(&mut self, files: &[RecoveredFile]) -> Result<(), String> {
        let topics = self.all_topics()?;
        let name = |id: TopicId| {
            let named = topics.iter().find(|(_, record)| record.topic_id == id.0);
            named.map_or_else(|| id.to_string(), |(name, _)| name.clone())
        };
        for cut in files.iter().filter_map(|file| file.cut_off.as_ref()) {
            self.restored.cut_off.push(format!(
                "{}: {}",
                cut.found(&recovery::ends(files), name),
                cut.meaning()
            ));
        }
        Ok(())
    }

    fn note_all(&mut self, index: &ChainIndex) {
        index.by_partition.values().flatten().for_each(|found| self.note(&found.entry));
    }

    fn note(&mut self, entry: &IndexEntry) {
        let id = entry.partition;
        self.note_epoch(id, entry.leader_epoch.0);
        self.note_seen(id.topic, entry.appended_ms);
        self.in_chains.entry(id).or_default().push(InChain {
            leader_epoch: entry.leader_epoch,
            base_offset: entry.base_offset,
            last_offset: entry.last_offset,
        });
    }

    fn note_epoch(&mut self, id: PartitionId, epoch: i32) {
        let known = self.epochs.entry(id).or_insert(epoch);
        *known = epoch.max(*known);
    }

    fn note_seen(&mut self, topic: TopicId, at_ms: i64) {
        let known = self.last_seen_ms.entry(topic).or_insert(at_ms);
        *known = at_ms.max(*known);
    }

    /// Topics and partitions that the snapshot does not know: with the settings of the cluster, and as many partitions as were seen.
    fn topics(&mut self, segments: &Segments, now_ms: i64) -> Result<(), String> {
        for (id, objects) in &segments.by_partition {
            objects.iter().for_each(|object| self.note_seen(id.topic, object.modified_ms));
        }
        let mut seen: BTreeMap<Uuid, i32> = BTreeMap::new();
        for id in segments.by_partition.keys().chain(self.in_chains.keys()) {
            let count = seen.entry(id.topic.0).or_insert(0);
            *count = (*count).max(id.index + 1);
        }
        let mut names = BTreeSet::new();
        for (name, mut topic) in self.all_topics()? {
            if let Some(count) = seen.remove(&topic.topic_id).filter(|count| *count > topic.partitions) {
                topic.partitions = count;
                self.put(&self.keys.topic(&name), &topic)?;
            }
            names.insert(name);
        }
        for (topic_id, partitions) in seen {
            if self.was_deleted(TopicId(topic_id)) {
                self.restored.deleted_topics += 1;
                continue;
            }
            let name = match segments.topics.get(&TopicId(topic_id)) {
                // Another topic of this name was deleted before.
                Some(name) if names.insert(name.clone()) => name.clone(),
                Some(_) | None => {
                    let name = format!("restored-{topic_id}");
                    self.restored.nameless.push(name.clone());
                    name
                }
            };
            let configs = BTreeMap::new();
            let record = TopicRecord { topic_id, partitions, configs, created_ms: now_ms, internal: false };
            self.put(&self.keys.topic(&name), &record)?;
        }
        Ok(())
    }

    /// Whether a topic that the snapshot does not know was there before it: then it was deleted, and was not created after it.
    fn was_deleted(&self, topic: TopicId) -> bool {
        let seen_ms = self.last_seen_ms.get(&topic).copied().unwrap_or(0);
        self.restored.snapshot_ms.is_some_and(|taken_ms| seen_ms < taken_ms.saturating_sub(CLOCKS_DIFFER_MS))
    }

    async fn partitions(&mut self, segments: &Segments, now_ms: i64) -> Result<(), String> {
        let rebuilder = Rebuilder::new(Arc::clone(&self.store), now_ms);
        let mut wanted = Vec::new();
        for (name, topic) in self.all_topics()? {
            for index in 0..topic.partitions {
                let id = PartitionId { topic: TopicId(topic.topic_id), index };
                let partition = self.get(&self.keys.partition(topic.topic_id, index))?;
                let producers = self.get(&self.keys.producers(topic.topic_id, index))?;
                let before = Before { topic_name: name.clone(), id, partition, producers };
                let objects = segments.by_partition.get(&id).map_or(&[][..], Vec::as_slice);
                wanted.push((before, objects, self.in_chains.remove(&id).unwrap_or_default()));
            }
            self.restored.topics.push(RestoredTopic { name, ..RestoredTopic::default() });
        }
        let rebuilt = stream::iter(wanted)
            .map(|(before, objects, in_chains)| rebuilder.rebuild(before, objects, in_chains))
            .buffered(PARTITIONS_AT_ONCE);
        let rebuilt: Vec<Rebuilt> = rebuilt.try_collect().await?;
        rebuilder.shutdown().await;
        let mut topics = std::mem::take(&mut self.restored.topics);
        let places: HashMap<String, usize> =
            (0..).zip(&topics).map(|(at, topic)| (topic.name.clone(), at)).collect();
        for partition in rebuilt {
            let at = places[&partition.topic_name];
            self.add(&mut topics[at], partition)?;
        }
        self.restored.topics = topics;
        Ok(())
    }

    fn add(&mut self, topic: &mut RestoredTopic, rebuilt: Rebuilt) -> Result<(), String> {
        let Rebuilt { id, partition, producers, ends, newer_segments, topic_name } = rebuilt;
        topic.partitions += 1;
        topic.offsets += ends.log_end.0 - ends.log_start.0;
        topic.in_chains += ends.log_end.0 - ends.segments_end.max(ends.log_start).0;
        self.restored.newer_segments += newer_segments;
        if let Some((from, to)) = ends.hole {
            let hole = format!("{topic_name}, partition {}: offsets {from} to {}", id.index, to.plus(-1));
            self.restored.holes.push(hole);
        }
        if let Some((epoch, _)) = partition.leader_epochs.last() {
            self.note_epoch(id, *epoch);
        }
        if ends.log_end > Offset::ZERO {
            self.put(&self.keys.partition(id.topic.0, id.index), &partition)?;
            self.put(&self.keys.producers(id.topic.0, id.index), &producers)?;
        }
        Ok(())
    }

    /// Nobody owns anything yet, and whoever does next is in a higher leader epoch than anybody before.
    fn assignments(&mut self) -> Result<(), String> {
        for (_, topic) in self.all_topics()? {
            let key = self.keys.assignment(topic.topic_id);
            let before: AssignmentRecord = self.get(&key)?.unwrap_or_default();
            let released = |index: i32| {
                let id = PartitionId { topic: TopicId(topic.topic_id), index };
                let known = before.partitions.get(usize::try_from(index).unwrap_or(usize::MAX));
                let seen = self.epochs.get(&id).copied().unwrap_or(0);
                let highest = known.map_or(0, |slot| slot.leader_epoch).max(seen);
                PartitionAssignment::released(highest.saturating_add(LEADER_EPOCHS_SKIPPED))
            };
            let partitions = (0..topic.partitions).map(released).collect();
            self.put(&key, &AssignmentRecord { partitions })?;
        }
        Ok(())
    }

    /// `last` is the highest number that an incarnation or a snapshot had.
    fn cluster(&mut self, now_ms: i64, last: u64) -> Result<(), String> {
        let key = self.keys.incarnation_base();
        let before: IncarnationBaseRecord = self.get(&key)?.unwrap_or_default();
        self.put(&key, &IncarnationBaseRecord { base: last.max(before.base) + 1 })?;
        let key = self.keys.producer_ids();
        let next = self.get::<ProducerIdsRecord>(&key)?.map_or(0, |ids| ids.next);
        self.put(&key, &ProducerIdsRecord { next: next.saturating_add(PRODUCER_IDS_SKIPPED) })?;
        let key = self.keys.cluster();
        let cluster_id = || uuid_to_text(Uuid::new_v4());
        let cluster = self.get(&key)?;
        let cluster = cluster.unwrap_or_else(|| ClusterRecord {
            cluster_id: cluster_id(),
            created_ms: now_ms,
            store: None,
        });
        // The store may be a copy in another place: the first broker says where it is.
        self.put(&key, &ClusterRecord { store: None, ..cluster })?;
        self.restored.committed_offsets = self.keys_of(|key| self.keys.parse_offset(key)).len();
        Ok(())
    }
}

/// Where `identity.json` was put there from another store, none of the store's own snapshots is one that it names, and without them
/// settings, groups and committed offsets would be lost.
fn refuse_others(newest: &snapshot::Newest, said: Option<&str>) -> Result<(), String> {
    let (None, true, Some(said)) = (&newest.snapshot, newest.others > 0, said) else { return Ok(()) };
    Err(format!(
        "identity.json says that the store has the id {said}, and no snapshot of the metadata is of it: {}. Either was put here from \
         another store: take it away, and restore again. Without identity.json, its id is taken from the write-ahead files or the \
         snapshots; without snapshots, settings, groups and committed offsets are lost. Nothing was changed",
        newest.left_out.join("; ")
    ))
}

/// Which partitions of a lost object go back, and how far, only that object knows: a person decides.
fn refuse_lost(chain: &ChainIndex) -> Result<(), String> {
    let Some(lost) = chain.missed().next() else { return Ok(()) };
    Err(format!(
        "{} is lost ({}). It holds acknowledged records of broker {}: put it back from a copy or an earlier version, or give its records up with an \
         empty object in its place",
        chain.id.object(lost.seq),
        lost.why,
        chain.id.node_id
    ))
}
