//! Reading the manifests of partitions: one by one when few are wanted, by ranges when many are.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use kafscale_core::ids::{PartitionId, TopicId};
use kafscale_meta::records::{Keyspace, PartitionRecord, ProducersRecord, Record};
use kafscale_meta::{KeyValue, MetaStore, Result, Revision};

/// The two records of a partition.
#[derive(Debug, Default)]
pub struct PartitionRecords {
    pub partition: Option<(PartitionRecord, Revision)>,
    pub producers: Option<ProducersRecord>,
}

/// More partitions of one topic than this are read as a range.
const GETS_MAX: usize = 8;

/// More topics than this are read as one range over all topics.
const RANGES_MAX: usize = 32;

/// Requests on their way at a time.
const REQUESTS_AT_ONCE: usize = 16;

/// The records of these partitions; partitions without any are left out.
pub async fn load_records(
    meta: &dyn MetaStore,
    keys: &Keyspace,
    wanted: &HashSet<PartitionId>,
) -> Result<HashMap<PartitionId, PartitionRecords>> {
    let mut by_topic: HashMap<TopicId, Vec<PartitionId>> = HashMap::new();
    for id in wanted {
        by_topic.entry(id.topic).or_default().push(*id);
    }
    let (single, many): (Vec<_>, Vec<_>) = by_topic.into_iter().partition(|(_, ids)| ids.len() <= GETS_MAX);
    let gets: Vec<_> = single.into_iter().flat_map(|(_, ids)| ids).collect();
    let mut found = Found { keys, wanted, records: HashMap::new() };
    if gets.len() + many.len() > RANGES_MAX * 2 {
        for prefix in [keys.partitions_prefix(), keys.producers_prefix()] {
            found.add_all(meta.range_all(&prefix).await?.kvs)?;
        }
        return Ok(found.records);
    }
    let of_one =
        |id: PartitionId| [keys.partition(id.topic.0, id.index), keys.producers(id.topic.0, id.index)];
    let gets = gets.into_iter().flat_map(of_one).map(async |key: String| {
        let read = meta.get(&key).await?;
        Ok::<_, kafscale_meta::Error>(read.into_iter().collect::<Vec<_>>())
    });
    let read: Vec<_> = stream::iter(gets).buffer_unordered(REQUESTS_AT_ONCE).try_collect().await?;
    for kvs in read {
        found.add_all(kvs)?;
    }
    for (topic, _) in many {
        for prefix in [keys.partitions_of_topic_prefix(topic.0), keys.producers_of_topic_prefix(topic.0)] {
            found.add_all(meta.range_all(&prefix).await?.kvs)?;
        }
    }
    Ok(found.records)
}

struct Found<'a> {
    keys: &'a Keyspace,
    wanted: &'a HashSet<PartitionId>,
    records: HashMap<PartitionId, PartitionRecords>,
}

impl Found<'_> {
    fn add_all(&mut self, kvs: Vec<KeyValue>) -> Result<()> {
        kvs.into_iter().try_for_each(|kv| self.add(&kv))
    }

    fn add(&mut self, kv: &KeyValue) -> Result<()> {
        let id = |(topic, index)| PartitionId { topic: TopicId(topic), index };
        if let Some(id) = self.keys.parse_partition(&kv.key).map(id).filter(|id| self.wanted.contains(id)) {
            let record = PartitionRecord::decode(&kv.key, &kv.value)?;
            self.records.entry(id).or_default().partition = Some((record, kv.mod_revision));
        }
        if let Some(id) = self.keys.parse_producers(&kv.key).map(id).filter(|id| self.wanted.contains(id)) {
            let record = ProducersRecord::decode(&kv.key, &kv.value)?;
            self.records.entry(id).or_default().producers = Some(record);
        }
        Ok(())
    }
}
