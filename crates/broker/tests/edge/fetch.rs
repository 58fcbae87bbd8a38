//! Fetch: long polls, limits, sessions; and the offsets that consumers ask for.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::ForgottenTopic;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    FetchRequest, FetchResponse, ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest, TopicName,
};
use kafka_protocol::records::Record;

use kafscale_meta::EmbeddedStore;
use kafscale_storage::StoreUrl;

use crate::client::{Client, PATIENCE, fetch_request, name};
use crate::harness::{Harness, batch, encode, first_segment, record, values};

#[tokio::test]
async fn every_version_reads_the_same() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    client.produce("t", 0, batch(&["a", "b"])).await;
    client.produce("t", 0, batch(&["c"])).await;
    let all = client.call(12, &MetadataRequest::default().with_topics(None)).await;
    let topic_id = all.topics[0].topic_id;
    for version in 4..=18 {
        let mut request = fetch_request("t", &[(0, 1)]);
        if version >= 13 {
            request.topics[0].topic = TopicName::default();
            request.topics[0].topic_id = topic_id;
        }
        let response = client.call(version, &request).await;
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.error_code, 0, "version {version}");
        // The batch that holds the offset is given whole.
        let offsets: Vec<_> = values(partition.records.as_ref().unwrap()).into_iter().map(|v| v.0).collect();
        assert_eq!(offsets, [0, 1, 2], "version {version}");
        if version >= 13 {
            assert_eq!(response.responses[0].topic_id, topic_id);
        }
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_long_poll_is_woken_by_the_append() {
    let harness = Harness::start().await;
    let (mut consumer, mut producer) = (harness.client().await, harness.client().await);
    producer.create_topic("t", 1, &[]).await;
    let started = Instant::now();
    consumer.send(12, &fetch_request("t", &[(0, 0)]).with_max_wait_ms(600_000)).await;
    producer.produce("t", 0, batch(&["x"])).await;
    let response = consumer.receive::<FetchRequest>(12, consumer.correlation_id()).await;
    assert_eq!(response.responses[0].partitions[0].high_watermark, 1);
    assert!(started.elapsed() < Duration::from_secs(60));
    harness.stop().await;
}

#[tokio::test]
async fn a_poll_waits_for_min_bytes_until_its_time_is_over() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 2, &[]).await;
    client.produce("t", 0, batch(&["x"])).await;
    let started = Instant::now();
    let request = fetch_request("t", &[(0, 0), (1, 0)]).with_max_wait_ms(300).with_min_bytes(1 << 20);
    let response = client.call(12, &request).await;
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert!(!response.responses[0].partitions[0].records.as_ref().unwrap().is_empty());
    // An error is told at once, however long the poll may wait.
    let request = fetch_request("t", &[(0, 99)]).with_max_wait_ms(600_000);
    let response = client.call(12, &request).await;
    assert_eq!(response.responses[0].partitions[0].error_code, ResponseError::OffsetOutOfRange.code());
    harness.stop().await;
}

#[tokio::test]
async fn limits_hold_but_one_batch_is_always_given() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 2, &[]).await;
    let large = "x".repeat(1000);
    for partition in 0..2 {
        for _ in 0..5 {
            client.produce("t", partition, batch(&[&large])).await;
        }
    }
    let sizes = |response: &FetchResponse| -> Vec<usize> {
        response.responses[0].partitions.iter().map(|p| p.records.as_ref().unwrap().len()).collect()
    };
    let one = sizes(&client.call(12, &fetch_request("t", &[(0, 0), (1, 0)]).with_max_bytes(1)).await);
    assert!(one[0] > 1000 && one[0] < 1200 && one[1] == 0, "{one:?}");
    let half = sizes(&client.call(12, &fetch_request("t", &[(0, 0), (1, 0)]).with_max_bytes(7000)).await);
    assert!(half[0] > 5000 && half[1] > 1000 && half[0] + half[1] <= 7000, "{half:?}");
    let mut request = fetch_request("t", &[(0, 0), (1, 0)]);
    request.topics[0].partitions[0].partition_max_bytes = 2500;
    let bounded = sizes(&client.call(12, &request).await);
    assert!(bounded[0] > 2000 && bounded[0] <= 2500 && bounded[1] > 5000, "{bounded:?}");
    harness.stop().await;
}

#[tokio::test]
async fn epochs_and_unknown_partitions_have_their_codes() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let mut code = async |change: &dyn Fn(&mut FetchRequest)| {
        let mut request = fetch_request("t", &[(0, 0)]);
        change(&mut request);
        let response = client.call(12, &request).await;
        ResponseError::try_from_code(response.responses[0].partitions[0].error_code)
    };
    assert_eq!(code(&|q| q.topics[0].partitions[0].current_leader_epoch = 0).await, None);
    let newer = code(&|q| q.topics[0].partitions[0].current_leader_epoch = 3).await;
    assert_eq!(newer, Some(ResponseError::UnknownLeaderEpoch));
    let partition = code(&|q| q.topics[0].partitions[0].partition = 4).await;
    assert_eq!(partition, Some(ResponseError::UnknownTopicOrPartition));
    let topic = code(&|q| q.topics[0].topic = name("other")).await;
    assert_eq!(topic, Some(ResponseError::UnknownTopicOrPartition));
    let negative = code(&|q| q.topics[0].partitions[0].fetch_offset = -1).await;
    assert_eq!(negative, Some(ResponseError::OffsetOutOfRange));
    harness.stop().await;
}

#[tokio::test]
async fn a_session_tells_only_what_changed() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 3, &[]).await;
    let full = fetch_request("t", &[(0, 0), (1, 0), (2, 0)]).with_session_epoch(0);
    let response = client.call(12, &full).await;
    assert_eq!(response.responses[0].partitions.len(), 3);
    let id = response.session_id;
    assert_ne!(id, 0);
    let next = |epoch| {
        FetchRequest::default()
            .with_session_id(id)
            .with_session_epoch(epoch)
            .with_max_bytes(1 << 20)
            .with_min_bytes(1)
    };
    let quiet = client.call(12, &next(1)).await;
    assert!(quiet.responses.is_empty() && quiet.session_id == id);
    client.produce("t", 1, batch(&["x"])).await;
    let told = client.call(12, &next(2)).await;
    let indexes =
        |r: &FetchResponse| r.responses[0].partitions.iter().map(|p| p.partition_index).collect::<Vec<_>>();
    assert_eq!(indexes(&told), [1]);
    // Without a new position the records are told again; with it there is nothing to tell.
    assert_eq!(indexes(&client.call(12, &next(3)).await), [1]);
    let mut moved = next(4);
    moved.topics = fetch_request("t", &[(1, 1)]).topics;
    assert!(client.call(12, &moved).await.responses.is_empty());
    let forgotten = ForgottenTopic::default().with_topic(name("t")).with_partitions(vec![0, 1]);
    client.call(12, &next(5).with_forgotten_topics_data(vec![forgotten])).await;
    client.produce("t", 1, batch(&["y"])).await;
    client.produce("t", 2, batch(&["z"])).await;
    assert_eq!(indexes(&client.call(12, &next(6)).await), [2]);
    let wrong = client.call(12, &next(42)).await;
    assert_eq!(wrong.error_code, ResponseError::InvalidFetchSessionEpoch.code());
    let other = client.call(12, &next(1).with_session_id(id ^ 1)).await;
    assert_eq!(other.error_code, ResponseError::FetchSessionIdNotFound.code());
    assert_eq!(client.call(17, &next(7)).await.error_code, ResponseError::FetchSessionTopicIdError.code());
    harness.stop().await;
}

async fn offset(client: &mut Client, version: i16, timestamp: i64) -> (i16, i64, i64) {
    let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![partition]);
    let response = client.call(version, &ListOffsetsRequest::default().with_topics(vec![topic])).await;
    let found = &response.topics[0].partitions[0];
    (found.error_code, found.offset, found.timestamp)
}

#[tokio::test]
async fn offsets_are_found_by_time() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let base = crate::harness::now_ms() - 100_000;
    for (i, at) in [0, 5000, 3000].into_iter().enumerate() {
        let stamped = Record { timestamp: base + at, ..record(0, &i.to_string()) };
        client.produce("t", 0, encode(vec![stamped])).await;
    }
    for version in 1..=10 {
        assert_eq!(offset(&mut client, version, -1).await, (0, 3, -1));
        assert_eq!(offset(&mut client, version, -2).await, (0, 0, -1));
        assert_eq!(offset(&mut client, version, base + 1).await, (0, 1, base + 5000));
        assert_eq!(offset(&mut client, version, base + 5001).await, (0, -1, -1));
        let unsupported = (ResponseError::UnsupportedVersion.code(), -1, -1);
        let special = |since: i16, answer| if version >= since { answer } else { unsupported };
        assert_eq!(offset(&mut client, version, -3).await, special(7, (0, 1, base + 5000)));
        assert_eq!(offset(&mut client, version, -4).await, special(8, (0, 0, -1)));
        assert_eq!(offset(&mut client, version, -5).await, special(9, (0, -1, -1)));
        assert_eq!(offset(&mut client, version, -9).await, unsupported);
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_partition_that_is_asked_for_twice_has_no_offset() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 2, &[]).await;
    let asked = |index, timestamp| {
        ListOffsetsPartition::default().with_partition_index(index).with_timestamp(timestamp)
    };
    let topic = |partitions| ListOffsetsTopic::default().with_name(name("t")).with_partitions(partitions);
    let topics = vec![topic(vec![asked(0, -1), asked(1, -1)]), topic(vec![asked(0, -2)])];
    let response = client.call(5, &ListOffsetsRequest::default().with_topics(topics)).await;
    let told = response.topics.iter().flat_map(|t| &t.partitions);
    let told: Vec<_> = told.map(|p| (p.partition_index, p.error_code, p.offset)).collect();
    let invalid = ResponseError::InvalidRequest.code();
    assert_eq!(told, [(0, invalid, -1), (1, 0, 0), (0, invalid, -1)]);
    harness.stop().await;
}

#[tokio::test]
async fn the_end_of_an_epoch_is_told() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    client.produce("t", 0, batch(&["a", "b"])).await;
    for version in 2..=4 {
        for (epoch, expected) in [(0, (0, 0, 2)), (5, (0, -1, -1))] {
            let partition = OffsetForLeaderPartition::default().with_leader_epoch(epoch);
            let topic =
                OffsetForLeaderTopic::default().with_topic(name("t")).with_partitions(vec![partition]);
            let request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
            let response = client.call(version, &request).await;
            let end = &response.topics[0].partitions[0];
            assert_eq!((end.error_code, end.leader_epoch, end.end_offset), expected);
        }
    }
    harness.stop().await;
}

/// As an object of a store that does not answer.
#[tokio::test]
async fn a_partition_whose_segment_is_not_given_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreUrl::File(dir.path().to_owned());
    let harness = Harness::start_on(Arc::new(EmbeddedStore::memory()), store, |_| {}).await;
    let mut client = harness.client().await;
    client.create_topic("t", 2, &[]).await;
    let segment = first_segment(&mut client, "t", dir.path()).await;
    // In memory.
    client.produce("t", 1, batch(&["near"])).await;
    let (aside, pipe) = (dir.path().join("aside"), dir.path().join("pipe"));
    // Who opens a pipe waits until somebody writes to it.
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::rename(&segment, &aside).unwrap();
    std::fs::rename(&pipe, &segment).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut held_up = 0;
    while held_up < 3 {
        let from = Instant::now();
        let answer = client.call(12, &fetch_request("t", &[(0, 0), (1, 0)])).await;
        let [far, near] = &answer.responses[0].partitions[..] else { panic!("{answer:?}") };
        assert_eq!(values(near.records.as_ref().unwrap()), [(0, "near".to_owned())]);
        assert_eq!((far.error_code, far.high_watermark), (0, 30));
        // Until it is published, its records are read from the write-ahead log.
        if far.records.as_ref().unwrap().is_empty() {
            held_up += 1;
            assert!(from.elapsed() < Duration::from_secs(3), "the other one waited {:?}", from.elapsed());
        }
        assert!(Instant::now() < deadline, "the segment is not read");
    }
    // Also where it would have all the room.
    let answer = client.call(12, &fetch_request("t", &[(0, 0), (1, 0)]).with_max_bytes(1)).await;
    let near = &answer.responses[0].partitions[1];
    assert_eq!(values(near.records.as_ref().unwrap()), [(0, "near".to_owned())]);
    std::fs::rename(&segment, &pipe).unwrap();
    std::fs::rename(&aside, &segment).unwrap();
    drop(std::fs::File::options().write(true).open(&pipe).unwrap());
    loop {
        let answer = client.call(12, &fetch_request("t", &[(0, 0), (1, 0)])).await;
        let far = &answer.responses[0].partitions[0];
        if far.error_code == 0 && !far.records.as_ref().unwrap().is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "the segment is there and is not read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    harness.stop().await;
}
