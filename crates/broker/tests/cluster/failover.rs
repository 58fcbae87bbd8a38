//! Records that were acknowledged, when their owner dies, stops, or does not know that others took over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError;
use tokio::time::timeout;

use crate::client::{Client, PATIENCE, fetch_request, produce_request};
use crate::harness::{Member, World, all_know, batch, leaders, until};
use crate::routing::placed;

/// One connection to each broker, by its number.
struct Clients(BTreeMap<i32, Client>);

impl Clients {
    async fn connect(members: &[Member]) -> Clients {
        let mut clients = BTreeMap::new();
        for member in members {
            clients.insert(member.membership.identity.node_id.0, member.client().await);
        }
        Clients(clients)
    }

    /// As a producer does it: to whoever is told to lead, until it is acknowledged.
    async fn produce(&mut self, topic: &str, partition: i32, value: &str) -> i64 {
        let producing = async {
            loop {
                let any = self.0.values_mut().next().unwrap();
                let leader = leaders(any, topic).await.get(partition as usize).copied().unwrap_or(-1);
                if let Some(client) = self.0.get_mut(&leader) {
                    let answer = client.produce(topic, partition, batch(&[value])).await;
                    if answer.error_code == 0 {
                        return answer.base_offset;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, producing).await.expect("nobody acknowledges a record")
    }

    /// The end of a partition, from whoever leads it.
    async fn end(&mut self, topic: &str, partition: i32) -> i64 {
        let asking = async {
            loop {
                let any = self.0.values_mut().next().unwrap();
                let leader = leaders(any, topic).await.get(partition as usize).copied().unwrap_or(-1);
                if let Some(client) = self.0.get_mut(&leader) {
                    let fetched = client.fetch(topic, partition, 0).await;
                    if fetched.error_code == 0 {
                        return fetched.high_watermark;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, asking).await.expect("nobody serves a partition")
    }
}

/// Nine partitions, three on each of three brokers.
async fn three_brokers() -> (World, Vec<Member>, Clients) {
    let (world, members) = World::with_brokers(3).await;
    let mut clients = Clients::connect(&members).await;
    let created = clients.0.get_mut(&1).unwrap().call(7, &placed("t", &[1, 2, 3, 1, 2, 3, 1, 2, 3])).await;
    assert_eq!(created.topics[0].error_code, 0, "{:?}", created.topics[0].error_message);
    (world, members, clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_by_a_broker_that_is_killed_is_there_once() {
    let (_world, mut members, mut clients) = three_brokers().await;
    for round in 0..5 {
        for partition in 0..9 {
            assert_eq!(clients.produce("t", partition, "x").await, round);
        }
    }
    // The controller dies, too.
    let from = Instant::now();
    members.remove(0).kill().await;
    clients.0.remove(&1);
    for partition in 0..9 {
        assert_eq!(clients.produce("t", partition, "y").await, 5, "partition {partition}");
    }
    println!(
        "a killed broker's partitions took records again {:?} after the end of its lease",
        from.elapsed()
    );
    for partition in 0..9 {
        assert_eq!(clients.end("t", partition).await, 6);
    }
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_stop_and_a_return_lose_nothing() {
    let (world, mut members, mut clients) = three_brokers().await;
    for round in 0..3 {
        for partition in 0..9 {
            assert_eq!(clients.produce("t", partition, "x").await, round * 2);
        }
        let first = members.remove(0);
        let node_id = first.membership.identity.node_id.0;
        clients.0.remove(&node_id);
        first.stop().await;
        for partition in 0..9 {
            assert_eq!(clients.produce("t", partition, "x").await, round * 2 + 1);
        }
        let back = world.join(node_id).await;
        clients.0.insert(node_id, back.client().await);
        members.push(back);
    }
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_does_not_know_that_others_took_over_neither_takes_nor_tells_anything() {
    let world = World::new();
    let one = world.join(1).await;
    let two = world.join_for(2, Duration::from_secs(3), |_| {}).await.unwrap();
    let mut on_two = two.client().await;
    let mut clients = Clients::connect(std::slice::from_ref(&one)).await;
    all_know(std::slice::from_ref(&one), 2).await;
    let created = clients.0.get_mut(&1).unwrap().call(7, &placed("t", &[2])).await;
    assert_eq!(created.topics[0].error_code, 0);
    assert_eq!(on_two.produce("t", 0, batch(&["a"])).await.base_offset, 0);
    let zombie = two.cut_off();
    // A consumer waits there, across all of it.
    let mut waiting = Client::connect(zombie.broker.kafka_addr()).await;
    waiting.send(12, &fetch_request("t", &[(0, 1)]).with_max_wait_ms(600_000)).await;
    until(async || leaders(clients.0.get_mut(&1).unwrap(), "t").await, |leaders| *leaders == [1]).await;
    assert_eq!(clients.produce("t", 0, "b").await, 1);
    let refused = ResponseError::NotLeaderOrFollower.code();
    let answer = on_two.call(9, &produce_request("t", 0, batch(&["c"]), -1)).await;
    assert_eq!(answer.responses[0].partition_responses[0].error_code, refused);
    assert_eq!(on_two.fetch("t", 0, 0).await.error_code, refused);
    timeout(PATIENCE, zombie.log.fenced()).await.expect("it has to notice");
    zombie.broker.abandon().await;
    let correlation_id = waiting.correlation_id();
    let told = waiting.receive::<kafka_protocol::messages::FetchRequest>(12, correlation_id).await;
    assert_eq!(told.responses[0].partitions[0].error_code, refused);
    assert_eq!(clients.end("t", 0).await, 2);
    one.stop().await;
}
