//! Groups and offsets as records of the metadata store, and reading those of the slots that a broker is given.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use kafscale_core::group::offsets::{CommittedOffset, CommittedOffsets};
use kafscale_core::group::{
    Generation, Group, GroupConfig, GroupSnapshot, MemberSnapshot, Protocol, slot_of,
};
use kafscale_core::ids::{LeaderEpoch, Offset, TopicId};
use kafscale_meta::records::{
    COORDINATOR_SLOTS, GroupMember, GroupProtocol, GroupRecord, Keyspace, OffsetKey, OffsetRecord, Record,
};
use kafscale_meta::{Error, ErrorKind, KeyValue, MAX_TXN_BYTES, Metadata, Result};
use tracing::error;

/// The groups of some slots, by slot.
#[derive(Default)]
pub(super) struct Loaded {
    pub slots: HashMap<i32, HashMap<String, LoadedGroup>>,
    /// Slots with a group whose records cannot be made out.
    pub broken: HashSet<i32>,
}

pub(super) struct LoadedGroup {
    pub record: Option<GroupRecord>,
    pub offsets: CommittedOffsets,
}

/// Reads the groups of these slots, and their offsets, all in one go.
pub(super) async fn load(metadata: &Metadata, slots: HashSet<i32>) -> Result<Loaded> {
    let (store, keys) = (metadata.store(), metadata.keys().clone());
    let (groups_prefix, offsets_prefix) = (keys.groups_prefix(), keys.offsets_prefix());
    let listed = tokio::try_join!(store.range_all(&groups_prefix), store.range_all(&offsets_prefix));
    let (groups, offsets) = listed?;
    // That takes a while, and the runtime's threads have connections to serve.
    let decoding = kafscale_storage::compute(move || decode(&keys, &slots, &groups.kvs, &offsets.kvs));
    decoding.await.map_err(|_| Error::new(ErrorKind::Internal, "decoding the groups ended early"))
}

fn decode(keys: &Keyspace, slots: &HashSet<i32>, groups: &[KeyValue], offsets: &[KeyValue]) -> Loaded {
    let mut loaded =
        Loaded { slots: slots.iter().map(|slot| (*slot, HashMap::new())).collect(), ..Loaded::default() };
    for kv in groups {
        let Some(group) = keys.parse_group(&kv.key) else { continue };
        let slot = slot_of(&group, COORDINATOR_SLOTS);
        let Some(of_slot) = loaded.slots.get_mut(&slot) else { continue };
        match GroupRecord::decode(&kv.key, &kv.value) {
            Ok(record) => {
                of_slot.entry(group).or_insert_with_key(|id| LoadedGroup::new(id)).record = Some(record);
            }
            Err(error) => loaded.refuse(slot, &error),
        }
    }
    for kv in offsets {
        let Some(OffsetKey { group, topic, partition }) = keys.parse_offset(&kv.key) else { continue };
        let slot = slot_of(&group, COORDINATOR_SLOTS);
        let Some(of_slot) = loaded.slots.get_mut(&slot) else { continue };
        match OffsetRecord::decode(&kv.key, &kv.value) {
            Ok(record) => {
                let offsets = &mut of_slot.entry(group).or_insert_with_key(|id| LoadedGroup::new(id)).offsets;
                offsets.insert(&topic, partition, committed_offset(record));
            }
            Err(error) => loaded.refuse(slot, &error),
        }
    }
    loaded
}

impl Loaded {
    fn refuse(&mut self, slot: i32, error: &Error) {
        error!(slot, %error, "the groups of a slot cannot be served");
        self.broken.insert(slot);
    }
}

impl LoadedGroup {
    fn new(id: &str) -> LoadedGroup {
        LoadedGroup { record: None, offsets: CommittedOffsets::of_group(id) }
    }

    /// The group as it goes on here.
    pub fn restore(&mut self, config: GroupConfig, now_ms: i64) -> Group {
        match self.record.take() {
            Some(record) => Group::restore(snapshot(record), config, now_ms),
            None => Group::new(config, now_ms),
        }
    }
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

pub(super) fn committed_offset(record: OffsetRecord) -> CommittedOffset {
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
