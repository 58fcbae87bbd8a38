//! A member of a consumer group, in the classic protocol: joins, is given partitions, reads them, and commits how far it came.
//!
//! Like Apache Kafka's consumer it commits under its generation, and forgets its positions when the group rebalances.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as AssignedTopic;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, FindCoordinatorRequest, GroupId,
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    OffsetFetchRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use tokio::time::{Instant, sleep};

use super::reader::{CORRUPT, fetch};
use super::{CallError, Client, text, topic_name};
use crate::history::{Event, TopicPartition};

const SESSION_TIMEOUT_MS: i32 = 6000;
const REBALANCE_TIMEOUT_MS: i32 = 4000;
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(700);

/// Why a member has to begin again, and where.
enum Interrupted {
    /// The group rebalances, or the generation is over.
    Rejoin,
    /// Its coordinator does not know it.
    Forgotten,
    /// The coordinator is elsewhere, or does not answer.
    Lost,
}

impl From<CallError> for Interrupted {
    fn from(_: CallError) -> Interrupted {
        Interrupted::Lost
    }
}

fn check(code: i16) -> Result<(), Interrupted> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(ResponseError::RebalanceInProgress | ResponseError::IllegalGeneration) => {
            Err(Interrupted::Rejoin)
        }
        Some(ResponseError::UnknownMemberId | ResponseError::FencedInstanceId) => Err(Interrupted::Forgotten),
        Some(_) => Err(Interrupted::Lost),
    }
}

pub struct Member {
    client: Client,
    group: Arc<str>,
    topic: Arc<str>,
    coordinator: i32,
    member_id: StrBytes,
    generation: i32,
    positions: BTreeMap<TopicPartition, i64>,
}

/// A member until the end; it leaves and comes back now and then.
pub async fn take_part(client: Client, group: Arc<str>, topic: Arc<str>) {
    let mut member = Member {
        client,
        group,
        topic,
        coordinator: 0,
        member_id: StrBytes::new(),
        generation: -1,
        positions: BTreeMap::new(),
    };
    let closing = member.client.setting.closing.clone();
    let mut known = false;
    while !closing.is_cancelled() {
        if !known {
            known = member.find_coordinator().await;
            if !known {
                member.client.back_off().await;
                continue;
            }
        }
        match member.generation().await {
            Ok(()) => {
                // The generation ended as this member wished: it has left.
                sleep(member.client.rng.ms(100, 4000)).await;
            }
            Err(Interrupted::Rejoin) => {}
            Err(Interrupted::Forgotten) => member.forget(),
            Err(Interrupted::Lost) => {
                known = false;
                member.client.back_off().await;
            }
        }
    }
}

impl Member {
    fn group_id(&self) -> GroupId {
        GroupId(text(&self.group))
    }

    fn forget(&mut self) {
        self.member_id = StrBytes::new();
        self.generation = -1;
    }

    async fn find_coordinator(&mut self) -> bool {
        let request = FindCoordinatorRequest::default().with_key(text(&self.group)).with_key_type(0);
        let node = self.client.any();
        let Ok(answer) = self.client.call(node, &request, 3).await else { return false };
        self.coordinator = answer.node_id.0;
        let found = answer.error_code == 0 && self.coordinator > 0;
        if found {
            self.client.locate(self.coordinator, &answer.host);
        }
        found
    }

    /// Joins, works for a while, and leaves sometimes.
    async fn generation(&mut self) -> Result<(), Interrupted> {
        let joined = self.join().await?;
        let assigned = self.sync(joined).await?;
        let (client, generation) = (self.client.id, self.generation);
        self.client.history().note(Event::Assigned {
            client,
            group: Arc::clone(&self.group),
            generation,
            partitions: assigned.clone(),
        });
        self.positions = self.committed(assigned).await?;
        let mut heartbeat_at = Instant::now() + HEARTBEAT_INTERVAL;
        let closing = self.client.setting.closing.clone();
        loop {
            if self.client.rng.per_mille(8) || closing.is_cancelled() {
                self.commit().await?;
                return self.leave().await;
            }
            self.poll().await;
            if self.client.rng.per_mille(300) {
                self.commit().await?;
            }
            if Instant::now() >= heartbeat_at {
                self.heartbeat().await?;
                heartbeat_at = Instant::now() + HEARTBEAT_INTERVAL;
            }
            if self.client.rng.per_mille(4) {
                // A member that is away for too long.
                sleep(self.client.rng.ms(1000, 9000)).await;
            }
        }
    }

    async fn join(&mut self) -> Result<JoinGroupResponse, Interrupted> {
        loop {
            let subscription = ConsumerProtocolSubscription::default().with_topics(vec![text(&self.topic)]);
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(text("range"))
                .with_metadata(with_version(&subscription));
            let request = JoinGroupRequest::default()
                .with_group_id(self.group_id())
                .with_session_timeout_ms(SESSION_TIMEOUT_MS)
                .with_rebalance_timeout_ms(REBALANCE_TIMEOUT_MS)
                .with_member_id(self.member_id.clone())
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol]);
            let answer = self.client.call(self.coordinator, &request, 6).await?;
            if answer.error_code == ResponseError::MemberIdRequired.code() {
                self.member_id = answer.member_id;
                continue;
            }
            check(answer.error_code)?;
            self.member_id = answer.member_id.clone();
            self.generation = answer.generation_id;
            self.client.history().note(Event::Joined {
                client: self.client.id,
                group: Arc::clone(&self.group),
                member: self.member_id.to_string(),
                generation: self.generation,
            });
            return Ok(answer);
        }
    }

    async fn sync(&mut self, joined: JoinGroupResponse) -> Result<Vec<TopicPartition>, Interrupted> {
        let mut assignments = Vec::new();
        if joined.leader == joined.member_id {
            let topic = Arc::clone(&self.topic);
            let count = self.client.learn(&topic).await.ok_or(Interrupted::Rejoin)?;
            let mut members: Vec<StrBytes> = joined.members.iter().map(|m| m.member_id.clone()).collect();
            members.sort();
            for (i, member) in members.iter().enumerate() {
                let share = (0..count).filter(|p| *p as usize % members.len() == i).collect();
                let topic =
                    AssignedTopic::default().with_topic(topic_name(&self.topic)).with_partitions(share);
                let assignment = ConsumerProtocolAssignment::default().with_assigned_partitions(vec![topic]);
                assignments.push(
                    SyncGroupRequestAssignment::default()
                        .with_member_id(member.clone())
                        .with_assignment(with_version(&assignment)),
                );
            }
        }
        let request = SyncGroupRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(self.generation)
            .with_member_id(self.member_id.clone())
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments);
        let answer = self.client.call(self.coordinator, &request, 5).await?;
        check(answer.error_code)?;
        Ok(assigned(answer.assignment))
    }

    /// Where to go on.
    async fn committed(
        &mut self,
        assigned: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, i64>, Interrupted> {
        let indexes = assigned.iter().map(|at| at.partition).collect();
        let topic = OffsetFetchRequestTopic::default()
            .with_name(topic_name(&self.topic))
            .with_partition_indexes(indexes);
        let request = OffsetFetchRequest::default()
            .with_group_id(self.group_id())
            .with_topics(Some(vec![topic]))
            .with_require_stable(false);
        let group = Arc::clone(&self.group);
        let call = self.client.history().begin(|call| Event::ReadCommitted { call, group });
        let answer = self.client.call(self.coordinator, &request, 7).await?;
        check(answer.error_code)?;
        let mut positions = BTreeMap::new();
        for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            check(partition.error_code)?;
            let at = TopicPartition { topic: Arc::clone(&self.topic), partition: partition.partition_index };
            let offset = partition.committed_offset;
            self.client.history().note(Event::Committed { call, at: at.clone(), offset });
            positions.insert(at, offset.max(0));
        }
        Ok(positions)
    }

    /// Reads a little of one partition.
    async fn poll(&mut self) {
        let owned: Vec<TopicPartition> = self.positions.keys().cloned().collect();
        if owned.is_empty() {
            sleep(Duration::from_millis(200)).await;
            return;
        }
        let at = self.client.rng.pick(&owned).clone();
        match fetch(&mut self.client, &at, self.positions[&at], 150).await {
            Ok(fetched) => {
                if let Some((last, _)) = fetched.records.last() {
                    self.positions.insert(at, last + 1);
                }
                sleep(self.client.rng.ms(0, 60)).await;
            }
            Err(Some(CORRUPT)) => *self.positions.entry(at).or_default() += 1,
            Err(_) => self.client.back_off().await,
        }
    }

    async fn commit(&mut self) -> Result<(), Interrupted> {
        let positions: Vec<(TopicPartition, i64)> =
            self.positions.iter().map(|(at, offset)| (at.clone(), *offset)).collect();
        if positions.is_empty() {
            return Ok(());
        }
        let mut calls = Vec::new();
        let mut partitions = Vec::new();
        for (at, offset) in positions {
            let (client, generation) = (self.client.id, self.generation);
            let (group, index) = (Arc::clone(&self.group), at.partition);
            calls.push(self.client.history().begin(|call| Event::Commit {
                call,
                client,
                group,
                generation,
                at,
                offset,
            }));
            partitions.push(
                OffsetCommitRequestPartition::default()
                    .with_partition_index(index)
                    .with_committed_offset(offset),
            );
        }
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name(&self.topic))
            .with_partitions(partitions);
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(self.member_id.clone())
            .with_topics(vec![topic]);
        let answer = self.client.call(self.coordinator, &request, 7).await;
        let codes: Vec<Option<i16>> = match &answer {
            Ok(answer) => answer.topics[0].partitions.iter().map(|p| Some(p.error_code)).collect(),
            Err(_) => vec![None; calls.len()],
        };
        for (call, code) in calls.into_iter().zip(&codes) {
            self.client.history().note(Event::CommitEnded { call, code: *code });
        }
        answer?;
        codes.into_iter().flatten().try_for_each(check)
    }

    async fn heartbeat(&mut self) -> Result<(), Interrupted> {
        let request = HeartbeatRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(self.generation)
            .with_member_id(self.member_id.clone());
        let (group, generation) = (Arc::clone(&self.group), self.generation);
        let call = self.client.history().begin(|call| Event::Heartbeat { call, group, generation });
        let answer = self.client.call(self.coordinator, &request, 4).await?;
        self.client.history().note(Event::HeartbeatEnded { call, code: answer.error_code });
        check(answer.error_code)
    }

    async fn leave(&mut self) -> Result<(), Interrupted> {
        let member = MemberIdentity::default().with_member_id(self.member_id.clone());
        let request = LeaveGroupRequest::default().with_group_id(self.group_id()).with_members(vec![member]);
        self.forget();
        let answer = self.client.call(self.coordinator, &request, 4).await?;
        check(answer.error_code)
    }
}

/// The consumer protocol puts its version before the message.
fn with_version<M: Encodable>(message: &M) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    message.encode(&mut bytes, 0).expect("a subscription can be encoded");
    bytes.freeze()
}

fn assigned(mut bytes: Bytes) -> Vec<TopicPartition> {
    if bytes.len() < 2 {
        return Vec::new();
    }
    let version = bytes.get_i16();
    let assignment = ConsumerProtocolAssignment::decode(&mut bytes, version)
        .expect("an assignment comes back as it was sent");
    let topics = assignment.assigned_partitions.into_iter();
    topics
        .flat_map(|of| {
            let topic: Arc<str> = Arc::from(of.topic.as_str());
            of.partitions
                .into_iter()
                .map(move |partition| TopicPartition { topic: Arc::clone(&topic), partition })
        })
        .collect()
}
