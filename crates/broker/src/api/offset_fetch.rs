//! OffsetFetch (9), versions 1–9: how far groups have come; all topics when none are named, several groups since version 8
//! (KIP-709).
//!
//! A partition without a committed offset has -1, and so has every partition of an unknown group. As there are no
//! transactions, every committed offset is stable (KIP-447).
//!
//! Differs from Apache Kafka: an offset that was committed for an earlier topic of the same name is not returned.

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
        let groups = request.groups.into_iter().map(|group| fetch_group(node, ctx, group));
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let asked: Asked =
        request.topics.map(|topics| topics.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
    match fetch(node, &request.group_id, asked.clone()) {
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

fn fetch_group(
    node: &Node,
    ctx: &RequestContext,
    asked: OffsetFetchRequestGroup,
) -> OffsetFetchResponseGroup {
    let topics =
        asked.topics.map(|topics| topics.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
    let found = fetch(node, &asked.group_id, topics);
    let answer = OffsetFetchResponseGroup::default().with_group_id(asked.group_id);
    match found {
        Ok(found) => answer.with_topics(found.into_iter().map(topic).collect()),
        Err(error) => answer.with_error_code(ctx.fail(code_of(error))),
    }
}

/// What a group has committed.
fn fetch(node: &Node, group: &str, asked: Asked) -> Result<Vec<Found>, GroupError> {
    node.coordinator.offsets(group, |offsets| match asked {
        Some(topics) => {
            topics.into_iter().map(|(name, partitions)| look_up(node, offsets, name, partitions)).collect()
        }
        None => all(node, offsets),
    })
}

fn look_up(node: &Node, offsets: &CommittedOffsets, name: TopicName, partitions: Vec<i32>) -> Found {
    let current = |c: &&CommittedOffset| is_current(node, &name, c);
    let found = partitions.into_iter().map(|p| (p, offsets.get(&name, p).filter(current).cloned())).collect();
    (name, found)
}

fn all(node: &Node, offsets: &CommittedOffsets) -> Vec<Found> {
    let topic = |(name, partitions): (&Arc<str>, &std::collections::BTreeMap<i32, CommittedOffset>)| {
        let current = partitions.iter().filter(|(_, c)| is_current(node, name, c));
        let found: Vec<_> = current.map(|(p, c)| (*p, Some(c.clone()))).collect();
        (TopicName(str_bytes(name)), found)
    };
    offsets.topics().map(topic).filter(|(_, found)| !found.is_empty()).collect()
}

fn is_current(node: &Node, topic: &str, committed: &CommittedOffset) -> bool {
    node.topics.get(topic).is_none_or(|topic| topic.id == committed.topic_id)
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
