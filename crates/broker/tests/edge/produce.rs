//! Produce: what is stored, what is refused and with which code, in which order it is answered.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::{
    ApiKey, DeleteRecordsRequest, InitProducerIdRequest, MetadataRequest, ProduceRequest, TransactionalId,
};
use kafka_protocol::records::Record;
use uuid::Uuid;

use crate::client::{frame, name, produce_request, text};
use crate::harness::{Harness, batch, encode, now_ms, record, sequenced, values};

#[tokio::test]
async fn what_is_produced_is_fetched_in_every_version() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("orders", 2, &[]).await;
    let topic_id = topic_id(&mut client, "orders").await;
    for version in 3..=13 {
        let mut request = produce_request("orders", 1, batch(&["a", "b"]), -1);
        if version >= 13 {
            request.topic_data[0].name = Default::default();
            request.topic_data[0].topic_id = topic_id;
        }
        let response = client.call(version, &request).await;
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!(partition.error_code, 0, "version {version}");
        assert_eq!(partition.base_offset, i64::from(version - 3) * 2);
    }
    let fetched = client.fetch("orders", 1, 0).await;
    let got = values(&fetched.records.unwrap());
    assert_eq!(got.len(), 22);
    assert!(got.iter().enumerate().all(|(i, (offset, _))| *offset == i as i64));
    assert_eq!(fetched.high_watermark, 22);
    harness.stop().await;
}

async fn topic_id(client: &mut crate::client::Client, topic: &str) -> Uuid {
    let asked = kafka_protocol::messages::metadata_request::MetadataRequestTopic::default()
        .with_name(Some(crate::client::name(topic)));
    let response = client.call(12, &MetadataRequest::default().with_topics(Some(vec![asked]))).await;
    response.topics[0].topic_id
}

#[tokio::test]
async fn many_requests_of_one_connection_are_answered_in_order() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let first = client.correlation_id() + 1;
    for i in 0..200 {
        client.send(9, &produce_request("t", 0, batch(&[&i.to_string()]), -1)).await;
    }
    for i in 0..200 {
        let response = client.receive::<ProduceRequest>(9, first + i).await;
        assert_eq!(response.responses[0].partition_responses[0].base_offset, i64::from(i));
    }
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_takes_long_to_check_keeps_its_place() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let first = client.correlation_id() + 1;
    // So many records are not walked through on the event loop.
    let many = encode((0..40_000).map(|n| record(n, "x")).collect());
    for _ in 0..10 {
        client.send(9, &produce_request("t", 0, many.clone(), -1)).await;
        client.send(9, &produce_request("t", 0, batch(&["y"]), -1)).await;
    }
    for i in 0..20 {
        let response = client.receive::<ProduceRequest>(9, first + i).await;
        let partition = &response.responses[0].partition_responses[0];
        let before = i64::from(i / 2) * 40_001 + i64::from(i % 2) * 40_000;
        assert_eq!((partition.error_code, partition.base_offset), (0, before));
    }
    let broken = corrupt(BytesMut::from(&many[..])).freeze();
    assert_eq!(client.produce("t", 0, broken).await.error_code, ResponseError::CorruptMessage.code());
    harness.stop().await;
}

#[tokio::test]
async fn a_request_that_names_a_partition_twice_is_refused() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 2, &[]).await;
    let mut request = produce_request("t", 0, batch(&["x"]), -1);
    let again = produce_request("t", 0, batch(&["y"]), -1).topic_data.remove(0);
    request.topic_data.push(again);
    let response = client.call(9, &request).await;
    let codes: Vec<_> = response.responses.iter().map(|t| t.partition_responses[0].error_code).collect();
    assert_eq!(codes, [ResponseError::InvalidRequest.code(); 2]);
    assert_eq!(client.fetch("t", 0, 0).await.high_watermark, 0, "a part of it was stored");
    harness.stop().await;
}

fn corrupt(mut batch: BytesMut) -> BytesMut {
    let last = batch.len() - 1;
    batch[last] ^= 1;
    batch
}

#[tokio::test]
async fn each_kind_of_bad_batch_has_its_code() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[("max.message.bytes", "300")]).await;
    client.create_topic("compacted", 1, &[("cleanup.policy", "compact")]).await;
    let good = BytesMut::from(&batch(&["x"])[..]);
    let old_magic = {
        let mut bytes = good.clone();
        bytes[16] = 1;
        bytes
    };
    let two: BytesMut = [&good[..], &good[..]].concat().as_slice().into();
    let late = encode(vec![Record { timestamp: now_ms() + 7_200_000, ..record(0, "x") }]);
    let keyless = encode(vec![record(0, "x"), Record { key: None, ..record(1, "y") }]);
    let transactional = encode(vec![Record {
        transactional: true,
        producer_id: 5,
        producer_epoch: 0,
        sequence: 0,
        ..record(0, "x")
    }]);
    let cases: Vec<(&str, &str, i32, Bytes, ResponseError)> = vec![
        ("crc", "t", 0, corrupt(good.clone()).freeze(), ResponseError::CorruptMessage),
        ("cut off", "t", 0, good.clone().split_to(good.len() - 3).freeze(), ResponseError::CorruptMessage),
        ("magic", "t", 0, old_magic.freeze(), ResponseError::InvalidRecord),
        ("two batches", "t", 0, two.freeze(), ResponseError::InvalidRecord),
        ("nothing", "t", 0, Bytes::new(), ResponseError::InvalidRecord),
        ("too large", "t", 0, batch(&["y".repeat(400).as_str()]), ResponseError::MessageTooLarge),
        ("future", "t", 0, late, ResponseError::InvalidTimestamp),
        ("no key", "compacted", 0, keyless, ResponseError::InvalidRecord),
        ("transactional", "t", 0, transactional, ResponseError::UnsupportedVersion),
        ("partition", "t", 1, batch(&["x"]), ResponseError::UnknownTopicOrPartition),
        ("negative partition", "t", -1, batch(&["x"]), ResponseError::UnknownTopicOrPartition),
        ("topic", "nope", 0, batch(&["x"]), ResponseError::UnknownTopicOrPartition),
    ];
    for (what, topic, partition, records, expected) in cases {
        let response = client.produce(topic, partition, records).await;
        assert_eq!(ResponseError::try_from_code(response.error_code), Some(expected), "{what}: {response:?}");
        assert_eq!(response.base_offset, -1, "{what}");
        if !["partition", "negative partition", "topic"].contains(&what) {
            assert!(response.error_message.is_some(), "{what} has no message");
        }
    }
    assert_eq!(client.fetch("t", 0, 0).await.high_watermark, 0, "a refused batch was stored");
    harness.stop().await;
}

/// KIP-467: a client sends those again that are not named.
#[tokio::test]
async fn every_bad_record_of_a_batch_is_named() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("compacted", 1, &[("cleanup.policy", "compact")]).await;
    let keyless = |i: i64| Record { key: None, ..record(i, "x") };
    let mixed = |late: bool| {
        let all = (0..300).map(|i| if i % 2 == 1 { keyless(i) } else { record(i, "x") });
        let mut all: Vec<Record> = all.collect();
        all[8].timestamp += if late { 7_200_000 } else { 0 };
        encode(all)
    };
    let refused = client.produce("compacted", 0, mixed(false)).await;
    assert_eq!(refused.error_code, ResponseError::InvalidRecord.code());
    let indexes: Vec<i32> = refused.record_errors.iter().map(|error| error.batch_index).collect();
    assert_eq!(indexes, (0..300).filter(|i| i % 2 == 1).collect::<Vec<i32>>());
    let messages = refused.record_errors.iter().filter(|e| e.batch_index_error_message.is_some()).count();
    assert_eq!(messages, 100, "the others have that of the batch");
    assert!(refused.error_message.unwrap().contains("150 records are refused"));
    // As in Apache Kafka, one bad timestamp decides for the batch.
    let refused = client.produce("compacted", 0, mixed(true)).await;
    assert_eq!(refused.error_code, ResponseError::InvalidTimestamp.code());
    assert_eq!(refused.record_errors.len(), 151);
    harness.stop().await;
}

/// KAFKA-15591, as Apache Kafka from 4.5 on.
#[tokio::test]
async fn the_first_batch_of_a_new_partition_is_not_overtaken() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let out_of_order = ResponseError::OutOfOrderSequenceNumber.code();
    assert_eq!(client.produce("t", 0, sequenced(&["b"], 7, 0, 1)).await.error_code, out_of_order);
    assert_eq!(client.produce("t", 0, sequenced(&["a"], 7, 0, 0)).await.error_code, 0);
    assert_eq!(client.produce("t", 0, sequenced(&["b"], 7, 0, 1)).await.error_code, 0);
    // Where records were, a producer may have been forgotten (KIP-360), also when they are deleted.
    let all = DeleteRecordsPartition::default().with_partition_index(0).with_offset(-1);
    let topic = DeleteRecordsTopic::default().with_name(name("t")).with_partitions(vec![all]);
    let deleted = client.call(2, &DeleteRecordsRequest::default().with_topics(vec![topic])).await;
    assert_eq!(deleted.topics[0].partitions[0].low_watermark, 2);
    assert_eq!(client.produce("t", 0, sequenced(&["c"], 8, 0, 5)).await.error_code, 0);
    harness.stop().await;
}

#[tokio::test]
async fn requests_that_cannot_be_served_say_why() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let code = |response: &kafka_protocol::messages::ProduceResponse| {
        ResponseError::try_from_code(response.responses[0].partition_responses[0].error_code)
    };
    let response = client.call(9, &produce_request("t", 0, batch(&["x"]), 2)).await;
    assert_eq!(code(&response), Some(ResponseError::InvalidRequiredAcks));
    let transactional =
        produce_request("t", 0, batch(&["x"]), -1).with_transactional_id(Some(TransactionalId(text("tx"))));
    let response = client.call(9, &transactional).await;
    assert_eq!(code(&response), Some(ResponseError::UnsupportedVersion));
    let mut unknown = produce_request("", 0, batch(&["x"]), -1);
    unknown.topic_data[0].topic_id = Uuid::from_u128(1);
    assert_eq!(code(&client.call(13, &unknown).await), Some(ResponseError::UnknownTopicId));
    let init = InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("tx"))));
    let response = client.call(4, &init).await;
    assert_eq!(response.error_code, ResponseError::UnsupportedVersion.code());
    harness.stop().await;
}

#[tokio::test]
async fn idempotent_producers_are_held_to_their_sequence() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let init = client.call(4, &InitProducerIdRequest::default().with_transactional_id(None)).await;
    assert_eq!((init.error_code, init.producer_epoch), (0, 0));
    let id = init.producer_id.0;
    let again = client.call(4, &InitProducerIdRequest::default().with_transactional_id(None)).await;
    assert_ne!(again.producer_id.0, id);
    let cases = [
        (0, 0, 0, 0),
        (0, 2, 0, 2),
        (0, 0, 0, 0), // a duplicate gets its first offset
        (0, 9, ResponseError::OutOfOrderSequenceNumber.code(), -1),
        (1, 0, 0, 4),
        (0, 4, ResponseError::InvalidProducerEpoch.code(), -1),
    ];
    for (epoch, first, error_code, base_offset) in cases {
        let response = client.produce("t", 0, sequenced(&["a", "b"], id, epoch, first)).await;
        assert_eq!((response.error_code, response.base_offset), (error_code, base_offset), "{epoch} {first}");
    }
    assert_eq!(client.fetch("t", 0, 0).await.high_watermark, 6);
    harness.stop().await;
}

#[tokio::test]
async fn acks_0_is_silent_and_closes_the_connection_on_failure() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    client.send(9, &produce_request("t", 0, batch(&["x"]), 0)).await;
    // The next answer is that of the next request: nothing was sent for the first.
    assert_eq!(client.produce("t", 0, batch(&["y"])).await.base_offset, 1);
    client.send(9, &produce_request("t", 7, batch(&["x"]), 0)).await;
    assert!(client.receive_frame().await.is_none());
    harness.stop().await;
}

#[tokio::test]
async fn log_append_time_is_the_brokers() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let before = now_ms();
    let response = client.produce("t", 0, encode(vec![Record { timestamp: 5, ..record(0, "x") }])).await;
    assert!((before..=now_ms()).contains(&response.log_append_time_ms));
    harness.stop().await;
}

#[tokio::test]
async fn versions_that_are_advertised_for_librdkafka_only_are_answered() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    for version in 0..=2i16 {
        let mut bytes = BytesMut::new();
        bytes.put_i32(0);
        bytes.put_i16(ApiKey::Produce as i16);
        bytes.put_i16(version);
        bytes.put_i32(77);
        bytes.put_i16(-1); // client id
        bytes.put_i16(1); // acks
        bytes.put_i32(1000);
        bytes.put_i32(1);
        bytes.put_i16(1);
        bytes.put_slice(b"t");
        bytes.put_i32(1);
        bytes.put_i32(3); // partition
        bytes.put_i32(4);
        bytes.put_slice(b"oldy");
        let size = bytes.len() as i32 - 4;
        bytes[..4].copy_from_slice(&size.to_be_bytes());
        tokio::io::AsyncWriteExt::write_all(&mut client.stream, &bytes).await.unwrap();
        let answer = client.receive_frame().await.unwrap();
        let mut expected = BytesMut::new();
        expected.put_i32(77);
        expected.put_i32(1);
        expected.put_i16(1);
        expected.put_slice(b"t");
        expected.put_i32(1);
        expected.put_i32(3);
        expected.put_i16(ResponseError::UnsupportedVersion.code());
        expected.put_i64(-1);
        if version >= 2 {
            expected.put_i64(-1);
        }
        if version >= 1 {
            expected.put_i32(0);
        }
        assert_eq!(answer, expected.freeze(), "version {version}");
    }
    // The helper that all other tests use agrees with the frame above.
    assert!(frame(9, 1, &produce_request("t", 0, batch(&["x"]), 1)).len() > 60);
    harness.stop().await;
}
