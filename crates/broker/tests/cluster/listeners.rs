//! Two listeners: each client is told the addresses of the one that it came in by.

use kafscale_broker::{Advertised, ListenerConfig};

use crate::client::Client;
use crate::harness::{World, metadata_of, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_told_the_addresses_of_the_listener_that_it_came_in_by() {
    let world = World::new();
    let mut members = Vec::new();
    for node_id in [1, 2] {
        let joined = world.try_join(node_id, |config| {
            config.advertised = Some(Advertised { host: format!("outside-{node_id}"), port: 19092 });
            config.more_listeners.push(ListenerConfig {
                name: "INTERNAL".to_owned(),
                listen: "127.0.0.1:0".parse().unwrap(),
                advertised: Some(Advertised { host: format!("inside-{node_id}"), port: 29092 }),
            });
        });
        members.push(joined.await.unwrap());
    }
    let lonely = world.join(3).await;
    for (at, expected) in
        [(0, vec!["outside-1", "outside-2", "127.0.0.1"]), (1, vec!["inside-1", "inside-2"])]
    {
        let mut client = Client::connect(members[0].broker.addresses()[at]).await;
        let told = until(
            async || metadata_of(&mut client, &[]).await.brokers,
            |brokers| brokers.len() == expected.len(),
        )
        .await;
        let hosts: Vec<_> = told.iter().map(|broker| broker.host.to_string()).collect();
        assert_eq!(hosts, expected, "a broker without such a listener is not told");
    }
    for member in members.into_iter().chain([lonely]) {
        member.stop().await;
    }
}
