//! Segments that the newest snapshot of the metadata names and that are not there. Between others a hole tells of them; at the ends of a
//! partition, and where all of it is gone, only this does.
//!
//! A snapshot is as old as it says. What merging replaced since then is in segments that reach as far. What retention, DeleteRecords or
//! the deletion of a topic took since then is not lost: where brokers run, their next snapshot is waited for, which does not name it any
//! more; where none runs, a person who knows what was deleted can tell.

use std::collections::HashMap;
use std::time::Duration;

use kafscale_core::ids::{Offset, PartitionId, TopicId};
use kafscale_core::utc;
use kafscale_meta::records::{Keyspace, PartitionRecord, Record, TopicRecord};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::time::sleep;

use super::{Finding, Harm, Scrub, ScrubError};
use crate::disaster::snapshot::{self, Snapshot};
use crate::log::identity;
use crate::log::manifest::directory;

/// The first offset that segments of a partition have, and the one after the last.
pub type Extents = HashMap<PartitionId, (Offset, Offset)>;

/// Brokers write a snapshot every 30 s while something changes: behind one that is no older than this, others may follow.
const ALIVE_MS: i64 = 120_000;
const LOOKS: usize = 20;
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Comes after everything was read, so that the snapshot is as new as can be.
pub async fn check(scrub: &mut Scrub<'_>, extents: &Extents, now_ms: i64) -> Result<(), ScrubError> {
    // One that cannot be read says nothing of segments; `kafscale restore` tells of it.
    let Some(mut snapshot) = newest(&*scrub.store).await else { return Ok(()) };
    let mut missing = missing(scrub, extents, &snapshot).await?;
    let mut looks = if now_ms - snapshot.taken_ms < ALIVE_MS { LOOKS } else { 0 };
    while !missing.is_empty() && looks > 0 {
        sleep(LOOK_INTERVAL).await;
        looks -= 1;
        if let Some(newer) = newest(&*scrub.store).await
            && newer.number > snapshot.number
        {
            snapshot = newer;
            missing = self::missing(scrub, extents, &snapshot).await?;
        }
    }
    missing.into_iter().for_each(|finding| scrub.found(finding));
    Ok(())
}

/// The topics that the newest snapshot knows. One that cannot be read knows none.
pub async fn topics(store: &dyn ObjectStore) -> HashMap<TopicId, String> {
    newest(store).await.map_or_else(HashMap::new, |snapshot| names(&snapshot))
}

async fn newest(store: &dyn ObjectStore) -> Option<Snapshot> {
    let id = identity::known_id(store).await.ok()?;
    snapshot::newest(store, id.as_deref()).await.ok()?.snapshot
}

/// Segments that a snapshot names and the store does not have.
async fn missing(
    scrub: &Scrub<'_>,
    extents: &Extents,
    snapshot: &Snapshot,
) -> Result<Vec<Finding>, ScrubError> {
    let mut missing = Vec::new();
    for (topic_name, id, record) in partitions(snapshot) {
        let has = |first: i64, last: i64| {
            extents.get(&id).is_some_and(|(from, end)| from.0 <= first && last < end.0)
        };
        for segment in record.segments.into_iter().filter(|s| !has(s.base_offset, s.last_offset)) {
            let path = format!("{}/{}", directory(&topic_name, id), segment.object);
            match scrub.store.head(&Path::from(path.as_str())).await {
                Ok(_) => continue,
                Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(scrub.failed(e)),
            }
            missing.push(Finding {
                object: path,
                position: 0,
                topic: Some(topic_name.clone()),
                partition: Some(id.index),
                offsets: Some((Offset(segment.base_offset), Offset(segment.last_offset))),
                why: format!(
                    "it is missing, and the metadata had it at {}: unless it was deleted since by retention, DeleteRecords or with its topic",
                    utc::seconds(snapshot.taken_ms)
                ),
                harm: Harm::Records,
            });
        }
    }
    Ok(missing)
}

/// A snapshot's records with keys of this keyspace.
fn records<'a>(snapshot: &'a Snapshot, keys: &Keyspace) -> impl Iterator<Item = (String, &'a [u8])> {
    let root = keys.root().to_owned();
    snapshot.records.iter().map(move |(key, value)| (format!("{root}{key}"), value.as_bytes()))
}

fn keyspace() -> Keyspace {
    Keyspace::new("snapshot").expect("a plain word")
}

fn names(snapshot: &Snapshot) -> HashMap<TopicId, String> {
    let keys = keyspace();
    let topic = |(key, value): (String, &[u8])| {
        let name = keys.parse_topic(&key)?;
        Some((TopicId(TopicRecord::decode(&key, value).ok()?.topic_id), name))
    };
    records(snapshot, &keys).filter_map(topic).collect()
}

/// The partitions of a snapshot whose topics it knows.
fn partitions(snapshot: &Snapshot) -> Vec<(String, PartitionId, PartitionRecord)> {
    let (keys, topics) = (keyspace(), names(snapshot));
    let partition = |(key, value): (String, &[u8])| {
        let (topic, index) = keys.parse_partition(&key)?;
        let name = topics.get(&TopicId(topic))?.clone();
        let id = PartitionId { topic: TopicId(topic), index };
        Some((name, id, PartitionRecord::decode(&key, value).ok()?))
    };
    records(snapshot, &keys).filter_map(partition).collect()
}
