//! What bad input gets: a closed connection or the right code, and the broker goes on serving others.

use bytes::{BufMut, BytesMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, CreateTopicsRequest, DescribeConfigsRequest, DescribeGroupsRequest, GroupId,
    MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::AsyncWriteExt;

use crate::client::{Client, fetch_request, frame, name, text};
use crate::harness::{Harness, batch};

/// Sends bytes, and checks that the broker closes without an answer.
async fn closes(harness: &Harness, bytes: &[u8], what: &str) {
    let mut client = harness.client().await;
    client.stream.write_all(bytes).await.unwrap();
    assert!(client.receive_frame().await.is_none(), "{what} was answered");
}

fn header(size: i32, key: i16, version: i16) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_i32(size);
    out.put_i16(key);
    out.put_i16(version);
    out.put_i32(1);
    out.put_i16(-1);
    out
}

/// A message quotes what the client sent, and old versions have room for 32,767 bytes.
#[tokio::test]
async fn a_long_value_that_is_refused_is_answered_in_every_version() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let config = CreatableTopicConfig::default()
        .with_name(text("retention.ms"))
        .with_value(Some(text(&"9".repeat(32_760))));
    let topic = CreatableTopic::default().with_name(name("t")).with_num_partitions(1);
    let topic = topic.with_replication_factor(1).with_configs(vec![config]);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    for version in 2..=7 {
        let topics = client.call(version, &request).await.topics;
        assert_eq!(topics[0].error_code, ResponseError::InvalidConfig.code(), "version {version}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn garbage_closes_its_own_connection_only() {
    let harness = Harness::start().await;
    let mut neighbour = harness.client().await;
    neighbour.create_topic("t", 1, &[]).await;
    closes(&harness, &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01], "a TLS hello").await;
    closes(&harness, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP").await;
    closes(&harness, &[0xff; 64], "a negative length").await;
    closes(&harness, &0i32.to_be_bytes(), "an empty frame").await;
    closes(&harness, &(i32::MAX).to_be_bytes(), "a huge frame").await;
    closes(&harness, &header(10, 9999, 0), "an unknown key").await;
    closes(&harness, &header(10, -1, 0), "a negative key").await;
    closes(&harness, &header(10, ApiKey::Metadata as i16, 99), "a newer version").await;
    closes(&harness, &header(10, ApiKey::Metadata as i16, -1), "a negative version").await;
    closes(&harness, &header(10, ApiKey::EndTxn as i16, 0), "an API that is not served").await;
    closes(&harness, &header(10, ApiKey::Fetch as i16, 12), "a body that is cut off").await;
    closes(&harness, &header(17 << 20, ApiKey::Metadata as i16, 9), "a Metadata request of 17 MiB").await;
    // An array that states two thousand million topics, in a frame of a few bytes.
    let mut lie = header(14, ApiKey::Metadata as i16, 1);
    lie.put_i32(i32::MAX);
    closes(&harness, &lie, "an impossible count").await;
    let mut compact = header(16, ApiKey::Metadata as i16, 9);
    compact.put_slice(&[0, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    closes(&harness, &compact, "an impossible compact count").await;
    assert_eq!(neighbour.produce("t", 0, batch(&["x"])).await.error_code, 0);
    harness.stop().await;
}

/// What takes longer than this waits for something that never comes.
const LONG_POLL: Duration = Duration::from_millis(100);

/// Bytes as they are likely to stand in a request: small counts and lengths more often than large ones.
fn random_body(random: &mut StdRng) -> Vec<u8> {
    let length = random.random_range(0..100);
    let byte = |random: &mut StdRng| match random.random_range(0..6) {
        0..4 => random.random_range(0..4),
        4 => 0xff,
        _ => random.random(),
    };
    (0..length).map(|_| byte(random)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_requests_of_every_version_leave_the_broker_well() {
    let panics = Arc::new(AtomicUsize::new(0));
    let (counted, before) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        counted.fetch_add(1, Ordering::SeqCst);
        before(panic);
    }));
    let harness = Harness::start_with(|config| config.max_partitions = 500).await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let all = client.call(0, &ApiVersionsRequest::default()).await.api_keys;
    let mut random = StdRng::seed_from_u64(42);
    for api in &all {
        for version in api.min_version..=api.max_version {
            for _ in 0..8 {
                let body = random_body(&mut random);
                let flexible = ApiKey::try_from(api.api_key).unwrap().request_header_version(version) >= 2;
                let mut bytes = header(10 + i32::from(flexible) + body.len() as i32, api.api_key, version);
                if flexible {
                    bytes.put_u8(0);
                }
                bytes.put_slice(&body);
                let mut hostile = harness.client().await;
                hostile.stream.write_all(&bytes).await.unwrap();
                // Answered, closed, or a long poll that ends when this end closes.
                let _ = tokio::time::timeout(LONG_POLL, hostile.receive_frame()).await;
            }
        }
    }
    assert_eq!(client.produce("t", 0, batch(&["x"])).await.error_code, 0);
    harness.stop().await;
    let _ = std::panic::take_hook();
    assert_eq!(panics.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn large_requests_that_never_come_do_not_stop_small_ones() {
    let harness = Harness::start_with(|config| {
        config.socket_request_max_bytes = 32 << 20;
        config.request_memory_bytes = 80 << 20;
    })
    .await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut client = harness.client().await;
        client.stream.write_all(&header(30 << 20, ApiKey::Produce as i16, 9)).await.unwrap();
        stalled.push(client);
    }
    let mut neighbour = harness.client().await;
    neighbour.create_topic("t", 1, &[]).await;
    assert_eq!(neighbour.produce("t", 0, batch(&["x"])).await.error_code, 0);
    harness.stop().await;
}

/// Waits until the memory for requests is as it should be, which it is soon or never.
async fn request_memory_becomes(harness: &Harness, bytes: std::ops::RangeInclusive<u64>, connections: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let (_, metrics) = crate::metrics::get(harness, "/metrics").await;
        let value = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("it is there");
            line.trim().parse::<f64>().unwrap() as u64
        };
        let used = value("kafscale_request_memory_bytes ");
        if value("kafscale_connections ") == connections as u64 && bytes.contains(&used) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{used} bytes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_first_bytes_of_a_large_request_take_no_memory() {
    let harness = Harness::start().await;
    let mut waiting = Vec::new();
    for n in 0..40 {
        let mut client = harness.client().await;
        let (key, size) = [(ApiKey::Produce, 99 << 20), (ApiKey::Metadata, 8 << 20)][n % 2];
        client.stream.write_all(&header(size, key as i16, 9)).await.unwrap();
        waiting.push(client);
    }
    // The two bytes that follow what is read first.
    request_memory_becomes(&harness, 2 * 40..=2 * 40, 40).await;
    harness.stop().await;
}

#[tokio::test]
async fn a_long_poll_keeps_no_memory_of_its_request() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 2, &[]).await;
    let request = fetch_request("t", &vec![(0, 0); 7000]).with_max_wait_ms(600_000).with_min_bytes(1 << 20);
    client.send(12, &request).await;
    request_memory_becomes(&harness, 1..=1000, 1).await;
    harness.stop().await;
}

#[tokio::test]
async fn a_consumer_that_takes_nothing_is_disconnected() {
    let harness = Harness::start_with(|config| {
        config.write_stall_timeout = Duration::from_millis(300);
    })
    .await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let large = "x".repeat(1_000_000);
    for _ in 0..40 {
        assert_eq!(client.produce("t", 0, batch(&[&large])).await.error_code, 0);
    }
    let mut stalled = harness.client().await;
    let mut request = fetch_request("t", &[(0, 0)]).with_max_bytes(i32::MAX);
    request.topics[0].partitions[0].partition_max_bytes = i32::MAX;
    stalled.send(12, &request).await;
    // What the kernel holds may still be read, but not the whole response.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(stalled.receive_frame().await.is_none());
    let (_, metrics) = crate::metrics::get(&harness, "/metrics").await;
    assert!(metrics.contains("\nkafscale_response_memory_bytes 0\n"), "memory was not given back");
    assert!(metrics.contains("\nkafscale_connections 1\n"));
    harness.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let harness = Harness::start_with(|config| config.connections_max_idle = Duration::from_millis(50)).await;
    assert!(harness.client().await.receive_frame().await.is_none());
    harness.stop().await;
}

#[tokio::test]
async fn naming_a_thing_often_does_not_multiply_the_answer() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1000, &[]).await;
    let topic = MetadataRequestTopic::default().with_name(Some(name("t")));
    let request = MetadataRequest::default().with_topics(Some(vec![topic; 10_000]));
    assert_eq!(client.call(12, &request).await.topics.len(), 1);
    let resource = DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("t"))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource; 10_000]);
    assert_eq!(client.call(4, &request).await.results.len(), 1);
    harness.stop().await;
}

/// A request of 40 KB must not ask for gigabytes.
#[tokio::test]
async fn groups_and_partitions_are_answered_once() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 2, &[]).await;
    let note = "n".repeat(4000);
    let partition = |index| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_offset(5)
            .with_committed_metadata(Some(text(&note)))
    };
    let topic = OffsetCommitRequestTopic::default()
        .with_name(name("t"))
        .with_partitions(vec![partition(0), partition(1)]);
    let commit = OffsetCommitRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_member_id(text(""))
        .with_topics(vec![topic]);
    assert_eq!(client.call(8, &commit).await.topics[0].partitions[1].error_code, 0);

    let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text("g")); 1000]);
    assert_eq!(client.call(5, &request).await.groups.len(), 1);

    let topic = OffsetFetchRequestTopics::default().with_name(name("t")).with_partition_indexes(vec![1; 100]);
    let named = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(text("g")))
        .with_topics(Some(vec![topic.clone(), topic]));
    let all = named.clone().with_topics(None);
    let request = OffsetFetchRequest::default().with_groups(vec![named; 1000]);
    let answer = client.call(8, &request).await;
    assert_eq!((answer.groups.len(), answer.groups[0].topics.len()), (1, 1));
    assert_eq!(answer.groups[0].topics[0].partitions.len(), 1);
    let request = OffsetFetchRequest::default().with_groups(vec![all; 1000]);
    let answer = client.call(8, &request).await;
    assert_eq!((answer.groups.len(), answer.groups[0].topics[0].partitions.len()), (1, 2));
    let topic = OffsetFetchRequestTopic::default().with_name(name("t")).with_partition_indexes(vec![0; 1000]);
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_topics(Some(vec![topic.clone(), topic]));
    let answer = client.call(5, &request).await;
    assert_eq!((answer.topics.len(), answer.topics[0].partitions.len()), (1, 1));
    harness.stop().await;
}

/// What cannot fit into the memory for answers is refused with a code, not built.
#[tokio::test]
async fn an_answer_that_does_not_fit_is_refused() {
    let harness = Harness::start_with(|config| {
        (config.answer_memory_bytes, config.max_partitions) = (0, 1);
        (config.coordinator.offset_metadata_max_bytes, config.max_partitions_per_topic) = (32_000, 1);
    })
    .await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let note = "n".repeat(30_000);
    let groups: Vec<String> = (0..200).map(|i| format!("g{i}")).collect();
    for group in &groups {
        let partition = OffsetCommitRequestPartition::default()
            .with_committed_offset(5)
            .with_committed_metadata(Some(text(&note)));
        let topic = OffsetCommitRequestTopic::default().with_name(name("t")).with_partitions(vec![partition]);
        let commit = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_member_id(text(""))
            .with_topics(vec![topic]);
        assert_eq!(client.call(8, &commit).await.topics[0].partitions[0].error_code, 0);
    }
    let of = |group: &String| {
        OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group))).with_topics(None)
    };
    let request = OffsetFetchRequest::default().with_groups(groups.iter().map(of).collect());
    let answer = client.call(8, &request).await;
    let policy = ResponseError::PolicyViolation.code();
    let refused = answer.groups.iter().filter(|group| group.error_code == policy).count();
    let told = answer.groups.iter().filter(|group| group.error_code == 0 && group.topics.len() == 1).count();
    // Half of the least that there is for answers holds eight megabytes, two for each byte of a note.
    assert_eq!(refused + told, groups.len());
    assert!((100..140).contains(&told), "{told} of {} groups were told of", groups.len());
    let (_, metrics) = crate::metrics::get(&harness, "/metrics").await;
    assert!(metrics.contains("\nkafscale_answer_memory_bytes 0\n"), "memory was not given back");
    assert!(metrics.contains(&format!("\nkafscale_answers_refused_total {refused}\n")));
    harness.stop().await;
}

#[tokio::test]
async fn one_address_has_its_share_of_the_connections() {
    let harness = Harness::start_with(|config| config.max_connections = 6).await;
    let mut own: Vec<Client> = Vec::new();
    for _ in 0..3 {
        own.push(harness.client().await);
        own.last_mut().unwrap().call(12, &MetadataRequest::default()).await;
    }
    assert!(harness.client().await.receive_frame().await.is_none(), "the fourth is closed");
    let mut newcomer = Client::connect_from("127.0.0.2", harness.broker.kafka_addr()).await;
    newcomer.call(12, &MetadataRequest::default()).await;
    drop(own.pop());
    // The place is free once the broker has seen that the connection is closed.
    let served = async {
        loop {
            let mut client = harness.client().await;
            client.send(12, &MetadataRequest::default()).await;
            if client.receive_frame().await.is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), served).await.unwrap();
    let (_, metrics) = crate::metrics::get(&harness, "/metrics").await;
    assert!(!metrics.contains("\nkafscale_connections_over_limit_total 0\n"));
    harness.stop().await;
}

/// Takes connections of an address until one is closed.
async fn take_all(harness: &Harness, address: &str, taken: &mut Vec<Client>) {
    loop {
        let mut client = Client::connect_from(address, harness.broker.kafka_addr()).await;
        client.send(12, &MetadataRequest::default()).await;
        let answered = tokio::time::timeout(Duration::from_secs(10), client.receive_frame()).await;
        match answered.expect("served or closed") {
            Some(_) => taken.push(client),
            None => return,
        }
    }
}

#[tokio::test]
async fn two_addresses_cannot_take_all_connections() {
    let harness = Harness::start_with(|config| config.max_connections = 32).await;
    let mut taken = Vec::new();
    for address in ["127.0.0.2", "127.0.0.3"] {
        take_all(&harness, address, &mut taken).await;
    }
    // A listener holds a place for the next one.
    assert!((29..=30).contains(&taken.len()), "{}", taken.len());
    let (_, ready) = crate::metrics::get(&harness, "/readyz").await;
    assert!(ready.contains("of 32 connections are taken (--max-connections)"), "{ready}");
    let mut newcomer = Client::connect_from("127.0.0.4", harness.broker.kafka_addr()).await;
    newcomer.call(12, &MetadataRequest::default()).await;
    let (_, metrics) = crate::metrics::get(&harness, "/metrics").await;
    assert!(metrics.contains("\nkafscale_connections_limit 32\n"));
    assert!(metrics.contains("\nkafscale_connections_reserved 2\n"));
    drop(taken);
    harness.stop().await;
}

/// Nobody waits for the answer: what was not begun is not begun any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_of_a_client_that_is_gone_are_not_created() {
    let harness = Harness::start().await;
    let mut gone = harness.client().await;
    let topic = |i| CreatableTopic::default().with_name(name(&format!("c{i}"))).with_num_partitions(1);
    let topics = (0..10_000).map(|i| topic(i).with_replication_factor(1)).collect();
    let request = CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(60_000);
    gone.send(7, &request).await;
    let mut other = harness.client().await;
    other.create_topic("of-somebody-else", 1, &[]).await;
    drop(gone);
    let mut before = usize::MAX;
    let settled = async {
        loop {
            let now = other.call(12, &MetadataRequest::default().with_topics(None)).await.topics.len();
            if now == before {
                return now;
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let created = tokio::time::timeout(Duration::from_secs(60), settled).await.unwrap();
    assert!(created < 9_000, "{created} topics were created");
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_metadata_request_creates_a_thousand_topics_at_most() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let asked = |i| MetadataRequestTopic::default().with_name(Some(name(&format!("m{i}"))));
    let request = MetadataRequest::default()
        .with_topics(Some((0..3_000).map(asked).collect()))
        .with_allow_auto_topic_creation(true);
    let answer = client.call(12, &request).await;
    assert_eq!(answer.topics.len(), 3_000);
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    assert_eq!(answer.topics.iter().filter(|topic| topic.error_code == unknown).count(), 2_000);
    harness.stop().await;
}

#[tokio::test]
async fn what_came_before_garbage_is_answered() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let mut bytes = frame(12, 5, &MetadataRequest::default().with_topics(None));
    bytes.put_slice(&[0xff; 8]);
    client.stream.write_all(&bytes).await.unwrap();
    assert!(client.receive_frame().await.is_some());
    assert!(client.receive_frame().await.is_none());
    harness.stop().await;
}

#[tokio::test]
async fn every_truncation_of_a_request_is_harmless() {
    let harness = Harness::start().await;
    let whole = frame(12, 5, &crate::client::fetch_request("t", &[(0, 0)]));
    for length in 12..whole.len() {
        let mut bytes = BytesMut::from(&whole[..length]);
        let size = length as i32 - 4;
        bytes[..4].copy_from_slice(&size.to_be_bytes());
        let mut client = Client::connect(harness.broker.kafka_addr()).await;
        client.stream.write_all(&bytes).await.unwrap();
        client.stream.shutdown().await.unwrap();
        assert!(client.receive_frame().await.is_none(), "{length} bytes were answered");
    }
    harness.stop().await;
}
