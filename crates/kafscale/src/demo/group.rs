//! Membership in a consumer group, in the classic protocol: join, share out partitions, stay alive, leave.
//!
//! The range assignor is the one of Kafka: partitions in order, in runs as equal as can be, members sorted by id.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, GroupId, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Decodable as _, Encodable, StrBytes};

use super::cluster::Cluster;
use super::connection::{ClientError, Connection, check};
use super::topics::topic_name;

const SESSION_TIMEOUT_MS: i32 = 10_000;
const REBALANCE_TIMEOUT_MS: i32 = 10_000;
const PROTOCOL_TYPE: StrBytes = StrBytes::from_static_str("consumer");
const RANGE: StrBytes = StrBytes::from_static_str("range");
/// Version of the subscription and assignment blobs; 0 is what every assignor reads.
const CONSUMER_PROTOCOL_VERSION: i16 = 0;

/// One member of one group, subscribed to one topic.
pub struct Membership {
    pub group: &'static str,
    pub topic: &'static str,
    pub client_id: &'static str,
    member_id: StrBytes,
    generation: i32,
    /// The broker that coordinates the group, once it was found.
    coordinator: i32,
}

impl Membership {
    pub fn new(group: &'static str, topic: &'static str, client_id: &'static str) -> Self {
        Self { group, topic, client_id, member_id: StrBytes::new(), generation: -1, coordinator: -1 }
    }

    pub fn group_id(&self) -> GroupId {
        GroupId(StrBytes::from_static_str(self.group))
    }

    pub fn member_id(&self) -> StrBytes {
        self.member_id.clone()
    }

    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// Forgets who it was: the coordinator no longer knows this member.
    pub fn forget(&mut self) {
        self.member_id = StrBytes::new();
        self.generation = -1;
    }

    /// Asks for the coordinator. In a cluster of one it is the broker itself, and the answer only says that it is ready.
    pub async fn find_coordinator(&mut self, cluster: &mut Cluster) -> Result<(), ClientError> {
        // The brokers, too, so that a cluster of one is known for one.
        cluster.learn(self.topic).await?;
        self.coordinator = cluster.coordinator(self.group).await?;
        Ok(())
    }

    /// The connection to the coordinator, which was found.
    pub async fn coordinator<'c>(&self, cluster: &'c mut Cluster) -> Result<&'c mut Connection, ClientError> {
        cluster.broker(self.coordinator).await
    }

    /// Joins (again) and gives the partitions that this member is to read.
    pub async fn join(&mut self, cluster: &mut Cluster) -> Result<Vec<i32>, ClientError> {
        let joined = self.request_to_join(self.coordinator, cluster).await?;
        self.member_id = joined.member_id.clone();
        self.generation = joined.generation_id;
        let assignments = if joined.leader == joined.member_id {
            let count = cluster.learn(self.topic).await?;
            let members = joined.members.iter().map(|member| member.member_id.clone()).collect();
            self.encode_assignments(range(members, count))?
        } else {
            Vec::new()
        };
        let request = SyncGroupRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(self.generation)
            .with_member_id(self.member_id())
            .with_protocol_type(Some(PROTOCOL_TYPE))
            .with_protocol_name(Some(RANGE))
            .with_assignments(assignments);
        let synced = self.coordinator(cluster).await?.call("SyncGroup", request, 3..=5).await?;
        check("SyncGroup", synced.error_code)?;
        decode_assignment(synced.assignment)
    }

    /// A new member is first given its id and asked to come again with it (KIP-394).
    async fn request_to_join(
        &mut self,
        coordinator: i32,
        cluster: &mut Cluster,
    ) -> Result<JoinGroupResponse, ClientError> {
        let connection = cluster.broker(coordinator).await?;
        loop {
            let subscription = ConsumerProtocolSubscription::default()
                .with_topics(vec![StrBytes::from_static_str(self.topic)]);
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(RANGE)
                .with_metadata(with_version(&subscription)?);
            let request = JoinGroupRequest::default()
                .with_group_id(self.group_id())
                .with_session_timeout_ms(SESSION_TIMEOUT_MS)
                .with_rebalance_timeout_ms(REBALANCE_TIMEOUT_MS)
                .with_member_id(self.member_id())
                .with_protocol_type(PROTOCOL_TYPE)
                .with_protocols(vec![protocol]);
            let answer = connection.call("JoinGroup", request, 5..=9).await?;
            match check("JoinGroup", answer.error_code) {
                Ok(()) => return Ok(answer),
                Err(e) if e.code() == Some(ResponseError::MemberIdRequired) => {
                    self.member_id = answer.member_id
                }
                Err(e) => return Err(e),
            }
        }
    }

    pub async fn heartbeat(&self, cluster: &mut Cluster) -> Result<(), ClientError> {
        let request = HeartbeatRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(self.generation)
            .with_member_id(self.member_id());
        let answer = self.coordinator(cluster).await?.call("Heartbeat", request, 3..=4).await?;
        check("Heartbeat", answer.error_code)
    }

    /// Leaves at once instead of by timeout. Uses a connection of its own: a call on the other may be under way.
    pub async fn leave(&mut self, broker: SocketAddr) -> Result<(), ClientError> {
        if self.member_id.is_empty() {
            return Ok(());
        }
        let mut cluster = Cluster::open(broker, self.client_id).await?;
        self.find_coordinator(&mut cluster).await?;
        let member = MemberIdentity::default().with_member_id(self.member_id());
        let request = LeaveGroupRequest::default().with_group_id(self.group_id()).with_members(vec![member]);
        let answer = self.coordinator(&mut cluster).await?.call("LeaveGroup", request, 3..=5).await?;
        self.forget();
        check("LeaveGroup", answer.error_code)
    }

    fn encode_assignments(
        &self,
        shares: BTreeMap<StrBytes, Vec<i32>>,
    ) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
        shares
            .into_iter()
            .map(|(member_id, partitions)| {
                let topic =
                    TopicPartition::default().with_topic(topic_name(self.topic)).with_partitions(partitions);
                let assignment = ConsumerProtocolAssignment::default().with_assigned_partitions(vec![topic]);
                Ok(SyncGroupRequestAssignment::default()
                    .with_member_id(member_id)
                    .with_assignment(with_version(&assignment)?))
            })
            .collect()
    }
}

fn range(mut members: Vec<StrBytes>, partitions: i32) -> BTreeMap<StrBytes, Vec<i32>> {
    members.sort();
    let count = i32::try_from(members.len()).unwrap_or(i32::MAX);
    let mut next = 0;
    let mut shares = BTreeMap::new();
    for (index, member) in (0..count).zip(members) {
        let share = partitions / count + i32::from(index < partitions % count);
        shares.insert(member, (next..next + share).collect());
        next += share;
    }
    shares
}

/// The consumer protocol puts its version before the message.
fn with_version<M: Encodable>(message: &M) -> Result<Bytes, ClientError> {
    let mut bytes = BytesMut::new();
    bytes.put_i16(CONSUMER_PROTOCOL_VERSION);
    message
        .encode(&mut bytes, CONSUMER_PROTOCOL_VERSION)
        .map_err(|e| ClientError::Protocol(e.to_string()))?;
    Ok(bytes.freeze())
}

fn decode_assignment(mut bytes: Bytes) -> Result<Vec<i32>, ClientError> {
    if bytes.len() < 2 {
        return Ok(Vec::new());
    }
    let version = bytes.get_i16().clamp(0, 3);
    let assignment = ConsumerProtocolAssignment::decode(&mut bytes, version)
        .map_err(|e| ClientError::Protocol(e.to_string()))?;
    Ok(assignment.assigned_partitions.into_iter().flat_map(|topic| topic.partitions).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_gives_runs_as_equal_as_can_be() {
        type Case = (&'static [&'static str], i32, &'static [&'static [i32]]);
        let cases: [Case; 4] = [
            (&["a"], 3, &[&[0, 1, 2]]),
            (&["b", "a"], 4, &[&[0, 1], &[2, 3]]),
            (&["a", "b", "c"], 4, &[&[0, 1], &[2], &[3]]),
            (&["a", "b"], 1, &[&[0], &[]]),
        ];
        for (members, partitions, expected) in cases {
            let ids = members.iter().map(|id| StrBytes::from_static_str(id)).collect();
            let shares: Vec<Vec<i32>> = range(ids, partitions).into_values().collect();
            assert_eq!(shares, expected, "{members:?} {partitions}");
        }
    }

    #[test]
    fn an_assignment_comes_back_as_it_was_sent() {
        let membership = Membership::new("group", "topic", "client");
        let shares = BTreeMap::from([(StrBytes::from_static_str("member"), vec![1, 2, 3])]);
        let encoded = membership.encode_assignments(shares).unwrap();
        assert_eq!(decode_assignment(encoded[0].assignment.clone()).unwrap(), [1, 2, 3]);
        assert_eq!(decode_assignment(Bytes::new()).unwrap(), Vec::<i32>::new());
    }
}
