//! Groups and offsets as records of the metadata store, and reading all of them at the start.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use kafscale_core::group::offsets::{CommittedOffset, CommittedOffsets};
use kafscale_core::group::{Generation, Group, GroupConfig, GroupSnapshot, MemberSnapshot, Protocol};
use kafscale_core::ids::{LeaderEpoch, Offset, TopicId};
use kafscale_meta::records::{GroupMember, GroupProtocol, GroupRecord, OffsetRecord, Record};
use kafscale_meta::{MAX_TXN_BYTES, Metadata};
use tracing::info;

use super::NamedPartition;
use super::cell::Cell;

/// Everything that was in the store.
pub(super) struct Loaded {
    pub cells: HashMap<Arc<str>, Arc<Cell>>,
    /// Offsets of topics that no longer exist.
    pub stale_offsets: Vec<(Arc<Cell>, Vec<NamedPartition>)>,
}

#[derive(Default)]
struct LoadedGroup {
    record: Option<GroupRecord>,
    offsets: CommittedOffsets,
    stale: Vec<NamedPartition>,
}

pub(super) async fn load(
    metadata: &Metadata,
    config: GroupConfig,
    now_ms: i64,
    topic_id: impl Fn(&str) -> Option<TopicId>,
) -> kafscale_meta::Result<Loaded> {
    let mut groups: HashMap<String, LoadedGroup> = HashMap::new();
    for (group, read) in metadata.list_groups().await?.items {
        groups.entry(group).or_default().record = Some(read.record);
    }
    for (key, read) in metadata.load_all_offsets().await?.items {
        let committed = committed_offset(read.record);
        let group = groups.entry(key.group).or_default();
        if topic_id(&key.topic) != Some(committed.topic_id) {
            group.stale.push((key.topic.as_str().into(), key.partition));
        }
        group.offsets.insert(&key.topic, key.partition, committed);
    }
    let mut loaded = Loaded { cells: HashMap::with_capacity(groups.len()), stale_offsets: Vec::new() };
    let mut members = 0;
    for (id, LoadedGroup { record, offsets, stale }) in groups {
        let stored = record.is_some();
        let group = match record {
            Some(record) => Group::restore(snapshot(record), config, now_ms),
            None => Group::new(config, now_ms),
        };
        members += group.member_count();
        let id: Arc<str> = id.into();
        let cell = Arc::new(Cell::new(Arc::clone(&id), group, offsets, stored));
        if !stale.is_empty() {
            loaded.stale_offsets.push((Arc::clone(&cell), stale));
        }
        loaded.cells.insert(id, cell);
    }
    info!(groups = loaded.cells.len(), members, "loaded the consumer groups");
    Ok(loaded)
}

pub(super) fn encode_offset(committed: &CommittedOffset) -> Bytes {
    let record = OffsetRecord {
        offset: committed.offset.0,
        leader_epoch: committed.leader_epoch.map_or(-1, |epoch| epoch.0),
        metadata: committed.metadata.clone(),
        commit_time_ms: committed.commit_time_ms,
        expires_at_ms: committed.expires_at_ms,
        topic_id: committed.topic_id.0,
    };
    record.encode()
}

fn committed_offset(record: OffsetRecord) -> CommittedOffset {
    CommittedOffset {
        offset: Offset(record.offset),
        topic_id: TopicId(record.topic_id),
        leader_epoch: (record.leader_epoch >= 0).then_some(LeaderEpoch(record.leader_epoch)),
        metadata: record.metadata,
        commit_time_ms: record.commit_time_ms,
        expires_at_ms: record.expires_at_ms,
    }
}

/// A group that is too large with all its members' protocols is written with the chosen one alone, as Apache Kafka does
/// always: after a restart its members can then not fall back on another.
pub(super) fn encode_group(snapshot: &GroupSnapshot) -> Bytes {
    let mut record = group_record(snapshot);
    let encoded = record.encode();
    if encoded.len() <= MAX_TXN_BYTES / 2 {
        return encoded;
    }
    let chosen = record.protocol_name.clone().unwrap_or_default();
    for member in &mut record.members {
        member.protocols.retain(|protocol| protocol.name == chosen);
    }
    record.encode()
}

fn group_record(snapshot: &GroupSnapshot) -> GroupRecord {
    let member = |m: &MemberSnapshot| GroupMember {
        member_id: m.member_id.to_string(),
        instance_id: m.instance_id.as_ref().map(ToString::to_string),
        client_id: m.client_id.clone(),
        client_host: m.client_host.clone(),
        session_timeout_ms: m.session_timeout_ms,
        rebalance_timeout_ms: m.rebalance_timeout_ms,
        protocols: m
            .protocols
            .iter()
            .map(|p| GroupProtocol { name: p.name.clone(), metadata: p.metadata.clone() })
            .collect(),
        assignment: m.assignment.clone(),
    };
    GroupRecord {
        protocol_type: snapshot.protocol_type.clone().unwrap_or_default(),
        protocol_name: snapshot.protocol_name.clone(),
        generation: snapshot.generation.0,
        leader: snapshot.leader.as_ref().map(ToString::to_string),
        state_timestamp_ms: snapshot.state_since_ms,
        members: snapshot.members.iter().map(member).collect(),
    }
}

fn snapshot(record: GroupRecord) -> GroupSnapshot {
    let protocol = |p: GroupProtocol| Protocol { name: p.name, metadata: p.metadata };
    let member = |m: GroupMember| MemberSnapshot {
        member_id: m.member_id.into(),
        instance_id: m.instance_id.map(Into::into),
        client_id: m.client_id,
        client_host: m.client_host,
        session_timeout_ms: m.session_timeout_ms,
        rebalance_timeout_ms: m.rebalance_timeout_ms,
        protocols: m.protocols.into_iter().map(protocol).collect(),
        assignment: m.assignment,
    };
    GroupSnapshot {
        generation: Generation(record.generation),
        protocol_type: Some(record.protocol_type).filter(|t| !t.is_empty()),
        protocol_name: record.protocol_name,
        leader: record.leader.map(Into::into),
        state_since_ms: record.state_timestamp_ms,
        members: record.members.into_iter().map(member).collect(),
    }
}
