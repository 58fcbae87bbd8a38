//! What clients are told of who leads what, and what they get from who does not.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DescribeClusterRequest, InitProducerIdRequest, ListOffsetsRequest,
};

use crate::client::{fetch_request, name, produce_request};
use crate::harness::{World, batch, leaders, metadata_of, shares, until};

/// A topic with one partition on each of these brokers, by number.
pub fn placed(topic: &str, owners: &[i32]) -> CreateTopicsRequest {
    let assignment = |(index, owner): (usize, &i32)| {
        CreatableReplicaAssignment::default()
            .with_partition_index(index as i32)
            .with_broker_ids(vec![BrokerId(*owner)])
    };
    let topic = CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(owners.iter().enumerate().map(assignment).collect());
    CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_broker_tells_the_same_leaders_brokers_and_controller() {
    let (_world, members) = World::with_brokers(3).await;
    let mut first = members[0].client().await;
    first.create_topic("t", 9, &[]).await;
    let mut seen = Vec::new();
    for (own, member) in (1..).zip(&members) {
        let mut client = member.client().await;
        let told = until(
            async || metadata_of(&mut client, &["t"]).await,
            |told| told.brokers.len() == 3 && told.topics[0].partitions.len() == 9,
        )
        .await;
        let racks: Vec<_> =
            told.brokers.iter().map(|b| (b.node_id.0, b.rack.as_ref().unwrap().to_string())).collect();
        assert_eq!(racks, [1, 2, 3].map(|id| (id, format!("rack-{id}"))));
        let ports: Vec<_> = told.brokers.iter().map(|b| b.port as u16).collect();
        assert_eq!(ports, members.iter().map(|m| m.broker.kafka_addr().port()).collect::<Vec<_>>());
        assert!(told.topics[0].partitions.iter().all(|p| p.error_code == 0));
        let described = client.call(2, &DescribeClusterRequest::default().with_endpoint_type(1)).await;
        assert_eq!(described.brokers.len(), 3);
        assert_eq!(described.controller_id, told.controller_id);
        assert_eq!(told.controller_id.0, own, "each takes what is for the controller");
        seen.push(leaders(&mut client, "t").await);
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
    assert_eq!(shares(&seen[0]), [(1, 3), (2, 3), (3, 3)].into());
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_owner_serves_a_partition_and_others_say_who_does() {
    let (_world, members) = World::with_brokers(2).await;
    let (mut one, mut two) = (members[0].client().await, members[1].client().await);
    let created = one.call(7, &placed("t", &[1, 2])).await;
    assert_eq!(created.topics[0].error_code, 0, "{:?}", created.topics[0].error_message);
    until(async || two.produce("t", 1, batch(&["a"])).await.error_code, |code| *code == 0).await;
    until(async || one.produce("t", 0, batch(&["b"])).await.error_code, |code| *code == 0).await;
    let refused = ResponseError::NotLeaderOrFollower.code();
    let answer = one.call(10, &produce_request("t", 1, batch(&["c"]), -1)).await;
    let partition = &answer.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, refused);
    assert_eq!((partition.current_leader.leader_id.0, partition.current_leader.leader_epoch), (2, 0));
    let told: Vec<_> = answer.node_endpoints.iter().map(|e| (e.node_id.0, e.port as u16)).collect();
    assert_eq!(told, [(2, members[1].broker.kafka_addr().port())]);
    assert_eq!(one.fetch("t", 1, 0).await.error_code, refused);
    assert_eq!(two.fetch("t", 1, 0).await.high_watermark, 1);
    let ask = ListOffsetsPartition::default().with_partition_index(1).with_timestamp(-1);
    let ask = ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![ask]);
    let ask = ListOffsetsRequest::default().with_topics(vec![ask]);
    assert_eq!(one.call(5, &ask).await.topics[0].partitions[0].error_code, refused);
    assert_eq!(two.call(5, &ask).await.topics[0].partitions[0].offset, 1);
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_epoch_that_is_not_the_owners_is_refused() {
    let (_world, members) = World::with_brokers(1).await;
    let mut client = members[0].client().await;
    client.create_topic("t", 1, &[]).await;
    for (believed, expected) in [(0, 0), (-1, 0), (1, ResponseError::UnknownLeaderEpoch.code())] {
        let mut request = fetch_request("t", &[(0, 0)]);
        request.topics[0].partitions[0].current_leader_epoch = believed;
        let answer = client.call(12, &request).await;
        assert_eq!(answer.responses[0].partitions[0].error_code, expected, "{believed}");
    }
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_brokers_that_create_a_topic_at_once_one_wins() {
    let (_world, members) = World::with_brokers(2).await;
    let (mut one, mut two) = (members[0].client().await, members[1].client().await);
    for round in 0..20 {
        let topic = format!("t{round}");
        let create = |partitions| {
            let topic = CreatableTopic::default()
                .with_name(name(&topic))
                .with_num_partitions(partitions)
                .with_replication_factor(1);
            CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000)
        };
        let (first, second) = (create(1), create(2));
        let (first, second) = tokio::join!(one.call(7, &first), two.call(7, &second));
        let codes = [first.topics[0].error_code, second.topics[0].error_code];
        let exists = ResponseError::TopicAlreadyExists.code();
        assert!(codes == [0, exists] || codes == [exists, 0], "{codes:?}");
        let partitions = if codes[0] == 0 { 1 } else { 2 };
        until(async || leaders(&mut one, &topic).await.len(), |count| *count == partitions).await;
    }
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producer_ids_are_never_given_out_twice() {
    let (_world, members) = World::with_brokers(3).await;
    let mut given = Vec::new();
    for member in &members {
        let mut client = member.client().await;
        for _ in 0..20 {
            let request = InitProducerIdRequest::default().with_transactional_id(None);
            given.push(client.call(4, &request).await.producer_id.0);
        }
    }
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), 60);
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_fetch_is_answered_when_its_topic_goes() {
    let (_world, members) = World::with_brokers(2).await;
    let (mut one, mut two) = (members[0].client().await, members[1].client().await);
    assert_eq!(one.call(7, &placed("t", &[1])).await.topics[0].error_code, 0);
    until(async || leaders(&mut two, "t").await, |leaders| *leaders == [1]).await;
    let request = fetch_request("t", &[(0, 0)]).with_max_wait_ms(600_000);
    one.send(12, &request).await;
    let topics = vec![
        kafka_protocol::messages::delete_topics_request::DeleteTopicState::default()
            .with_name(Some(name("t"))),
    ];
    let delete = kafka_protocol::messages::DeleteTopicsRequest::default().with_topics(topics);
    assert_eq!(two.call(6, &delete).await.responses[0].error_code, 0);
    let correlation_id = one.correlation_id();
    let answered = tokio::time::timeout(
        Duration::from_secs(20),
        one.receive::<kafka_protocol::messages::FetchRequest>(12, correlation_id),
    )
    .await
    .unwrap();
    assert_ne!(answered.responses[0].partitions[0].error_code, 0);
    for member in members {
        member.stop().await;
    }
}
