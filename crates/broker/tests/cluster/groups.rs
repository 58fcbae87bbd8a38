//! Groups of a cluster: who coordinates them, what becomes of them when their coordinator goes, and what others know of them.

use std::collections::BTreeSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    BrokerId, DeleteTopicsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest,
    SyncGroupRequest,
};
use kafscale_broker::{BrokerConfig, MetricsServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Client, name, text};
use crate::harness::{Member, World, batch, until};

fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

impl Client {
    /// Node id and port of a group's coordinator, as this broker sees it.
    async fn find(&mut self, group: &str) -> (i16, BrokerId, i32) {
        let found = self.call(3, &FindCoordinatorRequest::default().with_key(text(group))).await;
        (found.error_code, found.node_id, found.port)
    }

    async fn commit(&mut self, group: &str, topic: &str, offsets: &[i64]) -> Vec<i16> {
        let partition = |(index, offset): (usize, &i64)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(index as i32)
                .with_committed_offset(*offset)
        };
        let topic = OffsetCommitRequestTopic::default()
            .with_name(name(topic))
            .with_partitions(offsets.iter().enumerate().map(partition).collect());
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let answered = self.call(8, &request).await;
        answered.topics[0].partitions.iter().map(|partition| partition.error_code).collect()
    }

    /// The offset that a group has committed for partition 0, or the error.
    async fn committed(&mut self, group: &str, topic: &str) -> Result<i64, i16> {
        let asked =
            OffsetFetchRequestTopics::default().with_name(name(topic)).with_partition_indexes(vec![0]);
        let group =
            OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(Some(vec![asked]));
        let request = OffsetFetchRequest::default().with_groups(vec![group]);
        let group = self.call(8, &request).await.groups.remove(0);
        if group.error_code == 0 {
            Ok(group.topics[0].partitions[0].committed_offset)
        } else {
            Err(group.error_code)
        }
    }

    async fn groups(&mut self) -> BTreeSet<String> {
        // While groups are being read, clients ask again.
        let list = async || self.call(4, &ListGroupsRequest::default()).await;
        let listed = until(list, |listed| listed.error_code == 0).await;
        listed.groups.iter().map(|group| group.group_id.to_string()).collect()
    }

    /// Joins and syncs as the only member.
    async fn become_only_member(&mut self, group: &str) -> JoinGroupResponse {
        let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
        let request = JoinGroupRequest::default()
            .with_group_id(group_id(group))
            .with_session_timeout_ms(60_000)
            .with_rebalance_timeout_ms(60_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let joined = self.call(3, &request).await;
        assert_eq!(joined.error_code, 0);
        let everything = SyncGroupRequestAssignment::default()
            .with_member_id(joined.member_id.clone())
            .with_assignment("everything".into());
        let request = SyncGroupRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id.clone())
            .with_assignments(vec![everything]);
        assert_eq!(self.call(3, &request).await.error_code, 0);
        joined
    }

    async fn heartbeat(&mut self, group: &str, joined: &JoinGroupResponse) -> i16 {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id.clone());
        self.call(3, &request).await.error_code
    }
}

/// Three brokers that have about as many slots each, and all know it.
async fn spread_out() -> (World, Vec<Member>) {
    let (world, members) = World::with_brokers(3).await;
    for member in &members {
        let mut client = member.client().await;
        let coordinators = async || {
            let mut coordinators = Vec::new();
            for i in 0..100 {
                coordinators.push(client.find(&format!("g{i}")).await.1.0);
            }
            coordinators
        };
        let settled = |found: &Vec<i32>| (1..=3).all(|id| found.iter().filter(|c| **c == id).count() > 15);
        until(coordinators, settled).await;
    }
    (world, members)
}

/// The place of a group's coordinator among the members. One that has stopped may be named for a moment.
async fn coordinator(members: &[Member], group: &str) -> usize {
    let mut client = members[0].client().await;
    let place = async || {
        let (code, id, _) = client.find(group).await;
        let named = members.iter().position(|member| member.membership.identity.node_id.0 == id.0);
        named.filter(|_| code == 0)
    };
    until(place, Option::is_some).await.expect("it was waited for")
}

/// Commits at the coordinator of the group, whoever that is.
async fn commit_anywhere(members: &[Member], group: &str, topic: &str, offsets: &[i64]) {
    let commit = async || {
        let at = coordinator(members, group).await;
        members[at].client().await.commit(group, topic, offsets).await
    };
    until(commit, |codes| codes.iter().all(|code| *code == 0)).await;
}

async fn stop(members: Vec<Member>) {
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_name_the_same_coordinator_and_only_that_one_answers() {
    let (_world, members) = spread_out().await;
    members[0].client().await.create_topic("t", 1, &[]).await;
    let groups: Vec<String> = (0..12).map(|i| format!("g{i}")).collect();
    for group in &groups {
        commit_anywhere(&members, group, "t", &[7]).await;
    }
    let mut listed = BTreeSet::new();
    for (at, member) in members.iter().enumerate() {
        let mut client = member.client().await;
        let mut own = BTreeSet::new();
        for group in &groups {
            let coordinator = coordinator(&members, group).await;
            let port = i32::from(members[coordinator].broker.kafka_addr().port());
            assert_eq!(client.find(group).await, (0, BrokerId(coordinator as i32 + 1), port));
            let not_here = ResponseError::NotCoordinator.code();
            let expected = if at == coordinator { Ok(7) } else { Err(not_here) };
            assert_eq!(client.committed(group, "t").await, expected);
            if at == coordinator {
                own.insert(group.clone());
            } else {
                assert_eq!(client.commit(group, "t", &[8]).await, [not_here]);
                let request = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
                assert_eq!(client.call(5, &request).await.groups[0].error_code, not_here);
            }
        }
        // Many in one request.
        let keys = groups.iter().map(|group| text(group)).collect();
        let found = client.call(6, &FindCoordinatorRequest::default().with_coordinator_keys(keys)).await;
        let here = found.coordinators.iter().filter(|c| c.node_id.0 == at as i32 + 1).count();
        assert_eq!(here, own.len());
        assert_eq!(client.groups().await, own);
        listed.extend(own);
    }
    assert_eq!(listed.len(), groups.len());
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_go_on_elsewhere_when_their_coordinator_stops() {
    let (_world, mut members) = spread_out().await;
    members[0].client().await.create_topic("t", 1, &[]).await;
    let at = coordinator(&members, "g").await;
    commit_anywhere(&members, "g", "t", &[7]).await;
    let joined = members[at].client().await.become_only_member("g").await;
    members.remove(at).stop().await;
    let beat = async || {
        let at = coordinator(&members, "g").await;
        members[at].client().await.heartbeat("g", &joined).await
    };
    // The same member, in the same generation.
    until(beat, |code| *code == 0).await;
    let at = coordinator(&members, "g").await;
    assert_eq!(members[at].client().await.committed("g", "t").await, Ok(7));
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_stay_reachable_while_slots_move_to_a_broker_that_joins() {
    let world = World::new();
    let at_once = |config: &mut BrokerConfig| config.coordinator.group.initial_rebalance_delay_ms = 0;
    let mut members = vec![world.try_join(1, at_once).await.unwrap()];
    members[0].client().await.create_topic("t", 1, &[]).await;
    let groups: Vec<String> = (0..30).map(|i| format!("g{i}")).collect();
    let mut joined = Vec::new();
    for group in &groups {
        joined.push(members[0].client().await.become_only_member(group).await);
    }
    members.push(world.join(2).await);
    let mut client = members[1].client().await;
    until(async || client.groups().await.len(), |groups| *groups > 8).await;
    for (group, joined) in groups.iter().zip(&joined) {
        let beat = async || {
            let at = coordinator(&members, group).await;
            members[at].client().await.heartbeat(group, joined).await
        };
        until(beat, |code| *code == 0).await;
    }
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_takes_the_offsets_of_all_coordinators_along() {
    let (world, members) = spread_out().await;
    let mut client = members[0].client().await;
    client.create_topic("t", 1, &[]).await;
    client.create_topic("stays", 1, &[]).await;
    let groups: Vec<String> = (0..12).map(|i| format!("g{i}")).collect();
    for group in &groups {
        commit_anywhere(&members, group, "t", &[7]).await;
        commit_anywhere(&members, group, "stays", &[8]).await;
    }
    let topic = DeleteTopicState::default().with_name(Some(name("t")));
    let deleted = client.call(6, &DeleteTopicsRequest::default().with_topics(vec![topic])).await;
    assert_eq!(deleted.responses[0].error_code, 0);
    let stored = async || {
        let offsets = world.metadata.load_all_offsets().await.unwrap().items;
        offsets.into_iter().map(|(key, _)| key.topic).collect::<Vec<_>>()
    };
    until(stored, |topics| topics.len() == 12 && topics.iter().all(|topic| topic == "stays")).await;
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_the_lags_does_not_pass_for_all_of_them() {
    let (_world, members) = spread_out().await;
    let mut client = members[0].client().await;
    client.create_topic("t", 6, &[]).await;
    for index in 0..6 {
        for member in &members {
            member.client().await.produce("t", index, batch(&["a", "b", "c"])).await;
        }
    }
    commit_anywhere(&members, "g", "t", &[1; 6]).await;
    let at = coordinator(&members, "g").await;
    let text = scrape(&members[at]).await;
    let series = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(series("kafscale_consumer_group_committed_offset{group=\"g\""), 6);
    assert_eq!(series("kafscale_consumer_group_lag{group=\"g\""), 2, "of the partitions that it owns");
    assert_eq!(series("kafscale_consumer_lag"), 0);
    assert_eq!(series("kafscale_consumer_lag_max"), 0);
    assert!(series("kafscale_coordinator_slots{state=\"serving\"} 1") == 1, "sixteen or seventeen of fifty");
    stop(members).await;
}

async fn scrape(member: &Member) -> String {
    let metrics = MetricsServer::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    metrics.show(&member.broker);
    let mut stream = TcpStream::connect(metrics.address()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}
