//! `groups/{group}`: the outcome of a group's last rebalance. Written by the group's coordinator when a rebalance ends
//! and when the group becomes empty, not per heartbeat; removed by DeleteGroups and when an empty group's offsets expire.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Keyspace, Record,
    codec::{base64_bytes, decode_name, encode_name},
};

/// A consumer group at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// `consumer`, `connect`, ...; empty for a group that only ever committed offsets.
    pub protocol_type: String,
    /// What the members agreed on; none while the group is empty.
    pub protocol_name: Option<String>,
    pub generation: i32,
    /// The member id of the leader; none while the group is empty.
    pub leader: Option<String>,
    /// When the group entered the state that this record shows.
    pub state_timestamp_ms: i64,
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMember {
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    /// In the member's order of preference.
    pub protocols: Vec<GroupProtocol>,
    /// What the leader assigned to it, opaque to the broker.
    #[serde(with = "base64_bytes")]
    pub assignment: Bytes,
}

/// A protocol that a member can speak.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupProtocol {
    pub name: String,
    /// Opaque to the broker.
    #[serde(with = "base64_bytes")]
    pub metadata: Bytes,
}

impl Record for GroupRecord {
    const KIND: &'static str = "group";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn groups_prefix(&self) -> String {
        self.key(format_args!("groups/"))
    }

    pub fn group(&self, group: &str) -> String {
        self.key(format_args!("groups/{}", encode_name(group)))
    }

    pub fn parse_group(&self, key: &str) -> Option<String> {
        let [group] = self.components(key, "groups")?;
        decode_name(group)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::records::codec::tests::{any_bytes, any_name, check_bytes, check_encoding, keyspace};

    fn any_member() -> impl Strategy<Value = GroupMember> {
        let protocol =
            (any_name(), any_bytes()).prop_map(|(name, metadata)| GroupProtocol { name, metadata });
        let names = (any_name(), option::of(any_name()), any_name(), any_name());
        (names, any::<(i32, i32)>(), vec(protocol, 0..3), any_bytes()).prop_map(
            |((member_id, instance_id, client_id, client_host), timeouts, protocols, assignment)| {
                GroupMember {
                    member_id,
                    instance_id,
                    client_id,
                    client_host,
                    session_timeout_ms: timeouts.0,
                    rebalance_timeout_ms: timeouts.1,
                    protocols,
                    assignment,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn round_trip(
            (protocol_type, protocol_name) in (any_name(), option::of(any_name())),
            generation: i32, leader in option::of(any_name()), state_timestamp_ms: i64,
            members in vec(any_member(), 0..3), group in any_name(),
        ) {
            check_encoding(&GroupRecord {
                protocol_type, protocol_name, generation, leader, state_timestamp_ms, members,
            });
            prop_assert_eq!(keyspace().parse_group(&keyspace().group(&group)), Some(group));
        }
    }

    #[test]
    fn bytes() {
        let record = GroupRecord {
            protocol_type: "consumer".into(),
            protocol_name: Some("range".into()),
            generation: 3,
            leader: Some("m-1".into()),
            state_timestamp_ms: 1,
            members: vec![GroupMember {
                member_id: "m-1".into(),
                instance_id: None,
                client_id: "m".into(),
                client_host: "/127.0.0.1".into(),
                session_timeout_ms: 45000,
                rebalance_timeout_ms: 300_000,
                protocols: vec![GroupProtocol {
                    name: "range".into(),
                    metadata: Bytes::from_static(&[0, 255]),
                }],
                assignment: Bytes::from_static(&[0, 1]),
            }],
        };
        check_bytes(
            &record,
            concat!(
                r#"{"v":1,"protocol_type":"consumer","protocol_name":"range","generation":3,"#,
                r#""leader":"m-1","state_timestamp_ms":1,"members":[{"member_id":"m-1","#,
                r#""instance_id":null,"client_id":"m","client_host":"/127.0.0.1","#,
                r#""session_timeout_ms":45000,"rebalance_timeout_ms":300000,"#,
                r#""protocols":[{"name":"range","metadata":"AP8="}],"assignment":"AAE="}]}"#
            ),
        );
    }
}
