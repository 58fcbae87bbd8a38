//! What is to be written when metadata is rebuilt: the records of the snapshot, brought up to what segments and write-ahead logs hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use kafscale_core::ids::{Offset, PartitionId, TopicId};
use kafscale_meta::records::{
    AssignmentRecord, ClusterRecord, DeletedTopicRecord, IncarnationBaseRecord, Keyspace,
    PartitionAssignment, ProducerIdsRecord, Record, TopicRecord, uuid_to_text,
};
use object_store::ObjectStore;
use uuid::Uuid;

use super::error::RestoreError;
use super::local::Local;
use super::logs::Logs;
use super::manifests::{Before, Rebuilder, Rebuilt};
use super::restore::{Restored, RestoredTopic};
use super::survey::Segments;
use crate::wal::recovery;

/// What was given out after the snapshot must not be given out again.
const PRODUCER_IDS_SKIPPED: i64 = 1_000_000;
/// Clients take no word of a leader whose epoch is below one that they have seen, and the snapshot does not know the last ones.
const LEADER_EPOCHS_SKIPPED: i32 = 1000;
/// Clocks of brokers and of the store may differ so much.
const CLOCKS_DIFFER_MS: i64 = 5 * 60_000;
const PARTITIONS_AT_ONCE: usize = 16;

pub struct Plan<'a> {
    pub store: Arc<dyn ObjectStore>,
    pub keys: &'a Keyspace,
    pub restored: Restored,
    /// What will be written, by keys below the root.
    pub records: BTreeMap<String, String>,
    /// What write-ahead logs hold.
    pub logs: Logs,
}

impl Plan<'_> {
    pub fn new(
        store: Arc<dyn ObjectStore>,
        keys: &Keyspace,
        restored: Restored,
        records: BTreeMap<String, String>,
    ) -> Plan<'_> {
        Plan { store, keys, restored, records, logs: Logs::default() }
    }

    fn key(&self, full: &str) -> String {
        full.strip_prefix(self.keys.root()).unwrap_or(full).to_owned()
    }

    pub fn put(&mut self, full: &str, record: &impl Record) {
        let value = String::from_utf8(record.encode().to_vec()).expect("records are JSON");
        self.records.insert(self.key(full), value);
    }

    pub fn get<R: Record>(&self, full: &str) -> Result<Option<R>, RestoreError> {
        let Some(value) = self.records.get(&self.key(full)) else { return Ok(None) };
        Ok(R::decode(full, value.as_bytes()).map(Some)?)
    }

    /// Takes a record away.
    pub fn remove(&mut self, full: &str) {
        self.records.remove(&self.key(full));
    }

    /// The keys of all records of a kind, in full.
    pub fn keys_of<T>(&self, parse: impl Fn(&str) -> Option<T>) -> Vec<(String, T)> {
        let full = |key: &String| format!("{}{key}", self.keys.root());
        self.records.keys().map(full).filter_map(|key| parse(&key).map(|id| (key, id))).collect()
    }

    /// The topics that will be there, with their names.
    fn all_topics(&self) -> Result<Vec<(String, TopicRecord)>, RestoreError> {
        let mut topics = Vec::new();
        for (key, name) in self.keys_of(|key| self.keys.parse_topic(key)) {
            if let Some(record) = self.get(&key)? {
                topics.push((name, record));
            }
        }
        Ok(topics)
    }

    /// What a start of the directory would tell of.
    pub fn tell_of(&mut self, local: &Local) -> Result<(), RestoreError> {
        let files = &local.files;
        let topics = self.all_topics()?;
        let name = |id: TopicId| {
            let named = topics.iter().find(|(_, record)| record.topic_id == id.0);
            named.map_or_else(|| id.to_string(), |(name, _)| name.clone())
        };
        for cut in files.iter().filter_map(|file| file.cut_off.as_ref()) {
            let found = cut.found(&recovery::ends(files), name);
            self.restored.cut_off.push(format!("{found}: {}", cut.meaning()));
        }
        self.restored.wal_files = Some(files.iter().filter(|file| !file.batches.is_empty()).count());
        self.restored.losses = local.losses().map(|loss| loss.what()).collect();
        Ok(())
    }

    /// Topics and partitions that the snapshot does not know: with the settings of the cluster, and as many partitions as were seen.
    pub fn topics(
        &mut self,
        segments: &Segments,
        now_ms: i64,
        with_deleted: bool,
    ) -> Result<(), RestoreError> {
        for (id, objects) in &segments.by_partition {
            objects.iter().for_each(|object| self.logs.note_seen(id.topic, object.modified_ms));
        }
        let mut seen: BTreeMap<Uuid, i32> = BTreeMap::new();
        for id in segments.by_partition.keys().chain(self.logs.in_chains.keys()) {
            let count = seen.entry(id.topic.0).or_insert(0);
            *count = (*count).max(id.index + 1);
        }
        let mut names = BTreeSet::new();
        for (name, mut topic) in self.all_topics()? {
            if let Some(count) = seen.remove(&topic.topic_id).filter(|count| *count > topic.partitions) {
                topic.partitions = count;
                self.put(&self.keys.topic(&name), &topic);
            }
            names.insert(name);
        }
        for (topic_id, partitions) in seen {
            let known = self.keys.deleted_topic(topic_id);
            let deleted: Option<DeletedTopicRecord> = self.get(&known)?;
            let name = segments.topics.get(&TopicId(topic_id)).or(deleted.as_ref().map(|known| &known.name));
            if !with_deleted && (deleted.is_some() || self.was_deleted(TopicId(topic_id))) {
                let name = name.map_or("its name is lost", String::as_str);
                self.restored.deleted_topics.push(format!("{topic_id} ({name})"));
                continue;
            }
            self.remove(&known);
            let name = match name {
                // There is another topic of this name.
                Some(name) if names.insert(name.clone()) => name.clone(),
                Some(_) | None => {
                    let name = format!("restored-{topic_id}");
                    self.restored.nameless.push(name.clone());
                    name
                }
            };
            let configs = BTreeMap::new();
            let record = TopicRecord { topic_id, partitions, configs, created_ms: now_ms, internal: false };
            self.put(&self.keys.topic(&name), &record);
        }
        Ok(())
    }

    /// Whether a topic that the snapshot does not know was there before it: then it was deleted, and was not created after it. The metadata
    /// remembers those of the last minutes, of which clocks do not tell.
    fn was_deleted(&self, topic: TopicId) -> bool {
        let seen_ms = self.logs.last_seen_ms.get(&topic).copied().unwrap_or(0);
        self.restored.snapshot_ms.is_some_and(|taken_ms| seen_ms < taken_ms.saturating_sub(CLOCKS_DIFFER_MS))
    }

    pub async fn partitions(&mut self, segments: &Segments, now_ms: i64) -> Result<(), RestoreError> {
        let rebuilder = Rebuilder::new(Arc::clone(&self.store), now_ms);
        let mut wanted = Vec::new();
        for (name, topic) in self.all_topics()? {
            for index in 0..topic.partitions {
                let id = PartitionId { topic: TopicId(topic.topic_id), index };
                let partition = self.get(&self.keys.partition(topic.topic_id, index))?;
                let producers = self.get(&self.keys.producers(topic.topic_id, index))?;
                let before = Before { topic_name: name.clone(), id, partition, producers };
                let objects = segments.by_partition.get(&id).map_or(&[][..], Vec::as_slice);
                wanted.push((before, objects, self.logs.take(id)));
            }
            self.restored.topics.push(RestoredTopic { name, ..RestoredTopic::default() });
        }
        let rebuilt = stream::iter(wanted)
            .map(|(before, objects, above)| rebuilder.rebuild(before, objects, above))
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

    fn add(&mut self, topic: &mut RestoredTopic, rebuilt: Rebuilt) -> Result<(), RestoreError> {
        let Rebuilt { id, partition, producers, ends, newer_segments, topic_name } = rebuilt;
        topic.partitions += 1;
        topic.offsets += ends.log_end.0 - ends.log_start.0;
        topic.in_chains += ends.log_end.0 - ends.segments_end.max(ends.log_start).0;
        self.restored.newer_segments += newer_segments;
        if let Some((from, to)) = ends.hole {
            let hole = format!("{topic_name}, partition {}: offsets {from} to {}", id.index, to.plus(-1));
            self.restored.holes.push(hole);
        }
        for (from, to) in &ends.gaps {
            let gap = format!("{topic_name}, partition {}: offsets {from} to {}", id.index, to.plus(-1));
            self.restored.gaps.push(gap);
        }
        for (from, to) in &ends.superseded {
            let old = format!("{topic_name}, partition {}: offsets {from} to {}", id.index, to.plus(-1));
            self.restored.superseded.push(old);
        }
        for (from, to) in &ends.lost {
            let lost = format!("{topic_name}, partition {}: offsets {from} to {}", id.index, to.plus(-1));
            self.restored.lost.push(lost);
        }
        if ends.may_lack {
            let end = format!("{topic_name}, partition {}: from offset {} on", id.index, ends.log_end);
            self.restored.may_lack.push(end);
        }
        if let Some((epoch, _)) = partition.leader_epochs.last() {
            self.logs.note_epoch(id, *epoch);
        }
        if ends.log_end > Offset::ZERO {
            self.put(&self.keys.partition(id.topic.0, id.index), &partition);
            self.put(&self.keys.producers(id.topic.0, id.index), &producers);
        }
        Ok(())
    }

    /// Nobody owns anything yet, and whoever does next is in a higher leader epoch than anybody before.
    pub fn assignments(&mut self) -> Result<(), RestoreError> {
        for (_, topic) in self.all_topics()? {
            let key = self.keys.assignment(topic.topic_id);
            let before: AssignmentRecord = self.get(&key)?.unwrap_or_default();
            let released = |index: i32| {
                let id = PartitionId { topic: TopicId(topic.topic_id), index };
                let known = before.partitions.get(usize::try_from(index).unwrap_or(usize::MAX));
                let seen = self.logs.epochs.get(&id).copied().unwrap_or(0);
                let highest = known.map_or(0, |slot| slot.leader_epoch).max(seen);
                PartitionAssignment::released(highest.saturating_add(LEADER_EPOCHS_SKIPPED))
            };
            let partitions = (0..topic.partitions).map(released).collect();
            self.put(&key, &AssignmentRecord { partitions });
        }
        Ok(())
    }

    /// `last` is the highest number that an incarnation or a snapshot had.
    pub fn cluster(&mut self, now_ms: i64, last: u64) -> Result<(), RestoreError> {
        let key = self.keys.incarnation_base();
        let before: IncarnationBaseRecord = self.get(&key)?.unwrap_or_default();
        self.put(&key, &IncarnationBaseRecord { base: last.max(before.base) + 1 });
        let key = self.keys.producer_ids();
        let next = self.get::<ProducerIdsRecord>(&key)?.map_or(0, |ids| ids.next);
        self.put(&key, &ProducerIdsRecord { next: next.saturating_add(PRODUCER_IDS_SKIPPED) });
        let key = self.keys.cluster();
        let cluster_id = || uuid_to_text(Uuid::new_v4());
        let cluster = self.get(&key)?;
        let cluster = cluster.unwrap_or_else(|| ClusterRecord {
            cluster_id: cluster_id(),
            created_ms: now_ms,
            store: None,
        });
        // The store may be a copy in another place: the first broker says where it is.
        self.put(&key, &ClusterRecord { store: None, ..cluster });
        self.restored.committed_offsets = self.keys_of(|key| self.keys.parse_offset(key)).len();
        Ok(())
    }
}
