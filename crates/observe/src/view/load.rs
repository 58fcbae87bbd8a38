//! Reads the listings of the metadata store.
//!
//! Invariant: a store that answers nothing for [`METADATA_TIMEOUT`] is reported; one that answers page after page may take as
//! long as its listing is.
//! Invariant: records are decoded off the runtime's threads, which have connections to serve.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kafscale_core::group::subscription::assigned_partitions;
use kafscale_meta::records::{
    AssignmentRecord, BrokerRecord, ConfigScope, GroupRecord, HistoryRecord, OffsetKey, OffsetRecord, Record,
    TopicRecord,
};
use kafscale_meta::{Error, ErrorKind, MAX_PAGE_LIMIT, Metadata, RangeRequest, Versioned};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Brokers, Group, Groups, Topic, Topics, Unavailable};

/// The metadata store answers a request within this, or is said not to.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);

/// All topics with the owners of their partitions.
pub async fn topics(metadata: &Metadata) -> Result<Topics, Unavailable> {
    let keys = metadata.keys();
    let (topics, assignments) = tokio::try_join!(
        listing::<TopicRecord, _>(metadata, keys.topics_prefix(), |keys, key| keys.parse_topic(key)),
        listing::<AssignmentRecord, _>(metadata, keys.assignments_prefix(), |keys, key| keys
            .parse_assignment(key)),
    )?;
    let mut assignments: HashMap<Uuid, AssignmentRecord> = assignments.into_iter().collect();
    let mut listed = Topics::default();
    for (name, record) in topics {
        listed.partitions += i64::from(record.partitions);
        let assignment = assignments.remove(&record.topic_id).unwrap_or_default();
        listed.by_name.insert(name, Topic { record, assignment });
    }
    Ok(listed)
}

/// All groups with their offsets.
pub async fn groups(metadata: &Metadata) -> Result<Groups, Unavailable> {
    let keys = metadata.keys();
    let (groups, offsets) = tokio::try_join!(
        listing::<GroupRecord, _>(metadata, keys.groups_prefix(), |keys, key| keys.parse_group(key)),
        listing::<OffsetRecord, _>(metadata, keys.offsets_prefix(), |keys, key| keys.parse_offset(key)),
    )?;
    off_the_runtime(move || joined(groups, offsets)).await
}

fn joined(groups: Vec<(String, GroupRecord)>, offsets: Vec<(OffsetKey, OffsetRecord)>) -> Groups {
    let mut by_id: BTreeMap<String, Group> = BTreeMap::new();
    for (id, record) in groups {
        let readers = readers(&record);
        by_id.insert(id, Group { record: Some(record), readers, offsets: BTreeMap::new() });
    }
    // The listing is in the order of its keys: what belongs together comes together.
    let mut offsets = offsets.into_iter().peekable();
    while let Some((OffsetKey { group, topic, partition }, offset)) = offsets.next() {
        let mut of_topic = BTreeMap::from([(partition, offset)]);
        while let Some((key, offset)) = offsets.next_if(|(key, _)| key.group == group && key.topic == topic) {
            of_topic.insert(key.partition, offset);
        }
        by_id.entry(group).or_default().offsets.entry(topic).or_default().extend(of_topic);
    }
    Groups { by_id }
}

/// Which member reads each partition, as the group's leader assigned them.
fn readers(record: &GroupRecord) -> BTreeMap<String, BTreeMap<i32, usize>> {
    let mut readers: BTreeMap<String, BTreeMap<i32, usize>> = BTreeMap::new();
    let consumers = record.protocol_type == "consumer";
    for (index, member) in record.members.iter().enumerate().filter(|_| consumers) {
        for (topic, partitions) in assigned_partitions(&member.assignment).unwrap_or_default() {
            readers.entry(topic).or_default().extend(partitions.into_iter().map(|p| (p, index)));
        }
    }
    readers
}

/// The registered brokers.
pub async fn brokers(metadata: &Metadata) -> Result<Brokers, Unavailable> {
    let started = Instant::now();
    // Members first: one that registers between the two reads is not missed.
    let (members, (brokers, controller, cluster)) = in_time(async {
        let members = metadata.list_members().await?;
        let rest = async {
            tokio::try_join!(metadata.list_brokers(), metadata.load_controller(), metadata.load_cluster())
        };
        Ok((members, rest.await?))
    })
    .await?;
    let by_id: BTreeMap<i32, BrokerRecord> =
        brokers.items.into_iter().map(|(id, broker)| (id, broker.record)).collect();
    let members: Vec<_> = members.items.into_iter().map(|(id, member)| (id, member.record)).collect();
    let registered = members
        .iter()
        .filter(|(id, member)| by_id.get(id).is_some_and(|broker| broker.epoch == member.epoch));
    let alive_ms = registered.filter_map(|(id, member)| Some((*id, member.alive_ms?))).collect();
    let members = members.into_iter();
    let missing = members.filter(|(id, member)| member.left_ms.is_none() && !by_id.contains_key(id));
    Ok(Brokers {
        missing: missing.collect(),
        alive_ms,
        by_id,
        controller: controller.map(|c| c.record.node_id),
        cluster: cluster.map(|c| c.record),
        took: Some(started.elapsed()),
    })
}

/// What changed lately, the newest last.
pub async fn history(metadata: &Metadata) -> Result<HistoryRecord, Unavailable> {
    let history = in_time(metadata.load_history()).await?;
    Ok(history.map(|history| history.record).unwrap_or_default())
}

/// The defaults of topic configs: those that were altered while brokers run, over those that they were `started_with`.
pub async fn topic_defaults(
    metadata: &Metadata,
    started_with: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Unavailable> {
    let dynamic = in_time(metadata.load_broker_config(ConfigScope::Default)).await?;
    let mut defaults = started_with;
    for (name, value) in dynamic.map(|record| record.record.configs).unwrap_or_default() {
        if let Some(definition) = kafscale_core::broker_config::by_synonym(&name) {
            defaults.insert(definition.name.to_owned(), value);
        }
    }
    Ok(defaults)
}

/// All records under a prefix, in the order of their keys.
async fn listing<R, K>(
    metadata: &Metadata,
    prefix: String,
    parse: fn(&kafscale_meta::records::Keyspace, &str) -> Option<K>,
) -> Result<Vec<(K, R)>, Unavailable>
where
    R: Record + Send + 'static,
    K: Send + 'static,
{
    let mut listed = Vec::new();
    let mut start_after = None;
    loop {
        let request = RangeRequest { prefix: prefix.clone(), start_after, limit: MAX_PAGE_LIMIT };
        let page = in_time(metadata.store().range(request)).await?;
        start_after = page.kvs.last().map(|kv| kv.key.clone());
        let keys = metadata.keys().clone();
        let decoded = off_the_runtime(move || {
            page.kvs
                .iter()
                .map(|kv| {
                    let name = parse(&keys, &kv.key).ok_or_else(|| {
                        let what = format!("{} is not the key of a {} record", kv.key, R::KIND);
                        failed(&Error::new(ErrorKind::Corrupt, what))
                    })?;
                    let record = Versioned::<R>::decode(kv).map_err(|e| failed(&e))?.record;
                    Ok((name, record))
                })
                .collect::<Result<Vec<_>, Unavailable>>()
        });
        listed.extend(decoded.await??);
        if !page.more {
            return Ok(listed);
        }
    }
}

/// Runs what takes a while on a thread that may.
pub async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unavailable> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Unavailable::new("the server is stopping"))
}

async fn in_time<T>(load: impl Future<Output = kafscale_meta::Result<T>>) -> Result<T, Unavailable> {
    match tokio::time::timeout(METADATA_TIMEOUT, load).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(failed(&e)),
        Err(_) => Err(Unavailable::new(format!(
            "the metadata store did not answer within {} ms",
            METADATA_TIMEOUT.as_millis()
        ))),
    }
}

fn failed(error: &Error) -> Unavailable {
    Unavailable::new(format!("the metadata store failed: {error}"))
}
