//! Brokers that come, go, and fail; topics that change while they do.

use std::time::Instant;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    CreatePartitionsRequest, DeleteTopicsRequest, FetchRequest, IncrementalAlterConfigsRequest,
};
use kafscale_broker::JoinError;

use crate::client::{fetch_request, name, text};
use crate::harness::{World, batch, leaders, metadata_of, shares, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_partitions_of_a_broker_that_stops_go_to_the_others() {
    let (_world, mut members) = World::with_brokers(3).await;
    let mut client = members[1].client().await;
    client.create_topic("t", 30, &[]).await;
    // The first one is the controller.
    members.remove(0).stop().await;
    let moved = until(
        async || leaders(&mut client, "t").await,
        |leaders| shares(leaders) == [(2, 15), (3, 15)].into(),
    )
    .await;
    let own: Vec<usize> = (0..30).filter(|index| moved[*index] == 2).collect();
    for index in own {
        let index = index as i32;
        until(async || client.produce("t", index, batch(&["x"])).await.error_code, |code| *code == 0).await;
    }
    let told = metadata_of(&mut client, &["t"]).await;
    assert_eq!(told.controller_id.0, 2, "never the one that is gone");
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_joins_gets_its_share_and_its_predecessors_record_is_waited_for() {
    let (world, mut members) = World::with_brokers(2).await;
    let mut client = members[0].client().await;
    client.create_topic("t", 30, &[]).await;
    assert_eq!(shares(&leaders(&mut client, "t").await), [(1, 15), (2, 15)].into());
    members.push(world.join(3).await);
    let even = |leaders: &Vec<i32>| shares(leaders) == [(1, 10), (2, 10), (3, 10)].into();
    until(async || leaders(&mut client, "t").await, even).await;
    members.pop().unwrap().stop().await;
    until(async || leaders(&mut client, "t").await, |l| shares(l) == [(1, 15), (2, 15)].into()).await;
    members.push(world.join(3).await);
    until(async || leaders(&mut client, "t").await, even).await;
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_broker_of_one_number_is_refused_while_the_first_is_alive() {
    let (world, members) = World::with_brokers(1).await;
    let refused = world.try_join(1, |_| {}).await;
    assert!(matches!(refused, Err(JoinError::NodeIdTaken(_))));
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_fetch_is_answered_when_a_partition_moves() {
    let (world, mut members) = World::with_brokers(2).await;
    let mut client = members[0].client().await;
    client.create_topic("t", 12, &[]).await;
    let owners = leaders(&mut client, "t").await;
    let own: Vec<(i32, i64)> = (0..12).filter(|index| owners[*index as usize] == 1).map(|i| (i, 0)).collect();
    let mut waiting = members[0].client().await;
    waiting.send(12, &fetch_request("t", &own).with_max_wait_ms(600_000)).await;
    members.push(world.join(3).await);
    let correlation_id = waiting.correlation_id();
    let told = waiting.receive::<FetchRequest>(12, correlation_id).await;
    let refused = ResponseError::NotLeaderOrFollower.code();
    assert!(told.responses[0].partitions.iter().any(|partition| partition.error_code == refused));
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_topics_on_one_broker_reach_the_others() {
    let (world, mut members) = World::with_brokers(2).await;
    let (mut one, mut two) = (members[0].client().await, members[1].client().await);
    one.create_topic("t", 2, &[]).await;
    one.create_topic("away", 2, &[]).await;
    until(async || leaders(&mut two, "t").await.len(), |count| *count == 2).await;
    let more = CreatePartitionsTopic::default().with_name(name("t")).with_count(6).with_assignments(None);
    let more = CreatePartitionsRequest::default().with_topics(vec![more]).with_timeout_ms(5000);
    assert_eq!(two.call(3, &more).await.results[0].error_code, 0);
    let spread = |leaders: &Vec<i32>| shares(leaders) == [(1, 3), (2, 3)].into();
    until(async || leaders(&mut one, "t").await, spread).await;
    let small = AlterableConfig::default().with_name(text("max.message.bytes")).with_value(Some(text("100")));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("t"))
        .with_configs(vec![small]);
    let alter = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    assert_eq!(two.call(1, &alter).await.responses[0].error_code, 0);
    let leaders_now = leaders(&mut one, "t").await;
    let on_one = leaders_now.iter().position(|leader| *leader == 1).unwrap() as i32;
    let large = "x".repeat(200);
    let refused = ResponseError::MessageTooLarge.code();
    until(async || one.produce("t", on_one, batch(&[&large])).await.error_code, |code| *code == refused)
        .await;
    // Deleted while the other broker is away.
    members.pop().unwrap().stop().await;
    let delete = DeleteTopicsRequest::default()
        .with_topics(vec![DeleteTopicState::default().with_name(Some(name("away")))]);
    assert_eq!(one.call(6, &delete).await.responses[0].error_code, 0);
    members.push(world.join(2).await);
    let mut two = members[1].client().await;
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    assert_eq!(metadata_of(&mut two, &["away"]).await.topics[0].error_code, unknown);
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_partitions_are_made_and_taken_over() {
    let (_world, mut members) = World::with_brokers(3).await;
    let mut client = members[0].client().await;
    let from = Instant::now();
    for topic in 0..30 {
        client.create_topic(&format!("t{topic}"), 100, &[]).await;
    }
    let created = from.elapsed();
    let from = Instant::now();
    members.pop().unwrap().stop().await;
    let stopped = from.elapsed();
    for topic in 0..30 {
        let topic = format!("t{topic}");
        until(
            async || leaders(&mut client, &topic).await,
            |leaders| leaders.iter().all(|leader| (1..=2).contains(leader)),
        )
        .await;
    }
    println!(
        "3000 partitions over 3 brokers: created in {created:?}; a planned stop took {stopped:?}, and all had leaders after {:?}",
        from.elapsed()
    );
    for member in members {
        member.stop().await;
    }
}
