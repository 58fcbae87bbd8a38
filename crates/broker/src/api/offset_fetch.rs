//! OffsetFetch (9), versions 1–9: how far groups have come; all topics when none are named, several groups since version 8
//! (KIP-709).
//!
//! A partition without a committed offset has -1, and so has every partition of an unknown group. As there are no
//! transactions, every committed offset is stable (KIP-447).
//!
//! Differs from Apache Kafka: an offset that was committed for an earlier topic of the same name is not returned.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use kafscale_core::group::GroupError;
use kafscale_core::group::offsets::{CommittedOffset, CommittedOffsets};
use kafscale_core::ids::TopicId;

use super::group_error::code_of;
use super::{RequestContext, str_bytes};
use crate::node::Node;

/// The partitions of a topic, with their committed offsets.
type Found = (TopicName, Vec<(i32, Option<CommittedOffset>)>);

/// What is asked for: partitions by topic, or all that there are.
type Asked = Option<Vec<(TopicName, Vec<i32>)>>;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if ctx.version >= 8 {
        let mut groups = Vec::with_capacity(request.groups.len());
        for group in request.groups {
            groups.push(fetch_group(node, ctx, group).await);
        }
        return OffsetFetchResponse::default().with_groups(groups);
    }
    let asked: Asked =
        request.topics.map(|topics| topics.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
    match fetch(node, &request.group_id, asked.clone()).await {
        Ok(found) => {
            OffsetFetchResponse::default().with_topics(found.into_iter().map(|t| old_topic(t, 0)).collect())
        }
        Err(error) => {
            let code = ctx.fail(code_of(error));
            if ctx.version >= 2 {
                return OffsetFetchResponse::default().with_error_code(code);
            }
            // Version 1 has no place for an error but the partitions.
            let unknown = |(name, partitions): (TopicName, Vec<i32>)| {
                old_topic((name, partitions.into_iter().map(|p| (p, None)).collect()), code)
            };
            let topics = asked.unwrap_or_default().into_iter().map(unknown).collect();
            OffsetFetchResponse::default().with_topics(topics)
        }
    }
}

async fn fetch_group(
    node: &Node,
    ctx: &RequestContext,
    asked: OffsetFetchRequestGroup,
) -> OffsetFetchResponseGroup {
    let topics =
        asked.topics.map(|topics| topics.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
    let found = fetch(node, &asked.group_id, topics).await;
    let answer = OffsetFetchResponseGroup::default().with_group_id(asked.group_id);
    match found {
        Ok(found) => answer.with_topics(found.into_iter().map(topic).collect()),
        Err(error) => answer.with_error_code(ctx.fail(code_of(error))),
    }
}

/// What a group has committed.
async fn fetch(node: &Node, group: &str, asked: Asked) -> Result<Vec<Found>, GroupError> {
    let doubtful = node.coordinator.offsets(group, |offsets| doubtful(node, offsets, asked.as_ref()))?;
    let mut ids = HashMap::new();
    for name in doubtful {
        let stored =
            node.metadata.load_topic(&name).await.map_err(|_| GroupError::CoordinatorNotAvailable)?;
        ids.insert(name, stored.map(|read| TopicId(read.record.topic_id)));
    }
    let current = |name: &str, committed: &CommittedOffset| match ids.get(name) {
        Some(id) => *id == Some(committed.topic_id),
        None => true,
    };
    node.coordinator.offsets(group, |offsets| match asked {
        Some(topics) => {
            topics.into_iter().map(|(name, partitions)| look_up(offsets, current, name, partitions)).collect()
        }
        None => all(offsets, current),
    })
}

/// Topics with offsets that were not committed for the topic that this broker knows by that name: it is another one of the same
/// name, or the committer's has not come in here yet. To take the one for the other would send consumers back to where they
/// once began.
fn doubtful(
    node: &Node,
    offsets: &CommittedOffsets,
    asked: Option<&Vec<(TopicName, Vec<i32>)>>,
) -> Vec<Arc<str>> {
    let is_asked = |name: &str| asked.is_none_or(|asked| asked.iter().any(|(topic, _)| ***topic == *name));
    let differs = |name: &str, partitions: &BTreeMap<i32, CommittedOffset>| {
        let known = node.topics.get(name);
        known.is_some_and(|topic| partitions.values().any(|committed| committed.topic_id != topic.id))
    };
    let topics = offsets.topics().filter(|(name, partitions)| is_asked(name) && differs(name, partitions));
    topics.map(|(name, _)| Arc::clone(name)).collect()
}

fn look_up(
    offsets: &CommittedOffsets,
    current: impl Fn(&str, &CommittedOffset) -> bool,
    name: TopicName,
    partitions: Vec<i32>,
) -> Found {
    let committed = |p: i32| offsets.get(&name, p).filter(|committed| current(&name, committed)).cloned();
    let found = partitions.into_iter().map(|p| (p, committed(p))).collect();
    (name, found)
}

fn all(offsets: &CommittedOffsets, current: impl Fn(&str, &CommittedOffset) -> bool) -> Vec<Found> {
    let topic = |(name, partitions): (&Arc<str>, &BTreeMap<i32, CommittedOffset>)| {
        let current = partitions.iter().filter(|(_, committed)| current(name, committed));
        let found: Vec<_> = current.map(|(p, c)| (*p, Some(c.clone()))).collect();
        (TopicName(str_bytes(name)), found)
    };
    offsets.topics().map(topic).filter(|(_, found)| !found.is_empty()).collect()
}

fn topic((name, partitions): Found) -> OffsetFetchResponseTopics {
    let partition = |(index, committed): (i32, Option<CommittedOffset>)| {
        let (offset, epoch, metadata) = values(committed);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(metadata))
    };
    OffsetFetchResponseTopics::default()
        .with_name(name)
        .with_partitions(partitions.into_iter().map(partition).collect())
}

fn old_topic((name, partitions): Found, error_code: i16) -> OffsetFetchResponseTopic {
    let partition = |(index, committed): (i32, Option<CommittedOffset>)| {
        let (offset, epoch, metadata) = values(committed);
        OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(metadata))
            .with_error_code(error_code)
    };
    OffsetFetchResponseTopic::default()
        .with_name(name)
        .with_partitions(partitions.into_iter().map(partition).collect())
}

/// Offset, leader epoch and note, as they are on the wire.
fn values(committed: Option<CommittedOffset>) -> (i64, i32, StrBytes) {
    match committed {
        Some(c) => {
            (c.offset.0, c.leader_epoch.map_or(-1, |epoch| epoch.0), StrBytes::from_string(c.metadata))
        }
        None => (-1, -1, StrBytes::default()),
    }
}
