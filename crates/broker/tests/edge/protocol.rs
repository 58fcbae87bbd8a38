//! ApiVersions, the order of answers, shutdown.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, ApiKey, ApiVersionsRequest, ApiVersionsResponse,
    ConsumerGroupHeartbeatRequest, DescribeAclsRequest, EndTxnRequest, FindCoordinatorRequest, GroupId,
    InitProducerIdRequest, MetadataRequest, SaslHandshakeRequest, TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::Decodable;
use tokio::io::AsyncWriteExt;

use crate::client::{fetch_request, frame, name, text};
use crate::harness::{Harness, batch};

fn request_of_versions() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(text("test"))
        .with_client_software_version(text("1.0"))
}

#[tokio::test]
async fn every_version_of_api_versions_is_answered() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    for version in 0..=4 {
        let request = if version >= 3 { request_of_versions() } else { ApiVersionsRequest::default() };
        let response = client.call(version, &request).await;
        assert_eq!(response.error_code, 0);
        let produce = response.api_keys.iter().find(|k| k.api_key == ApiKey::Produce as i16).unwrap();
        assert_eq!((produce.min_version, produce.max_version), (0, 13));
        let transactional = [ApiKey::AddPartitionsToTxn, ApiKey::EndTxn, ApiKey::TxnOffsetCommit];
        assert!(response.api_keys.iter().all(|k| transactional.iter().all(|t| k.api_key != *t as i16)));
    }
    let odd = client.call(3, &request_of_versions().with_client_software_name(text("-odd-"))).await;
    assert_eq!(odd.error_code, ResponseError::InvalidRequest.code());
    harness.stop().await;
}

#[tokio::test]
async fn a_newer_api_versions_is_answered_in_version_0() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let mut bytes = frame(4, 9, &request_of_versions());
    bytes[6..8].copy_from_slice(&99i16.to_be_bytes());
    client.stream.write_all(&bytes).await.unwrap();
    let mut answer = client.receive_frame().await.unwrap();
    assert_eq!(bytes::Buf::get_i32(&mut answer), 9);
    let response = ApiVersionsResponse::decode(&mut answer, 0).unwrap();
    assert_eq!(response.error_code, ResponseError::UnsupportedVersion.code());
    assert!(response.api_keys.iter().any(|k| k.api_key == ApiKey::ApiVersions as i16 && k.max_version == 4));
    // The client steps down on the same connection.
    assert_eq!(client.call(3, &request_of_versions()).await.error_code, 0);
    harness.stop().await;
}

/// As Apache Kafka answers them: clients of transactions learn that there are none, in words of their own.
#[tokio::test]
async fn apis_that_are_not_offered_are_answered_in_their_own_form() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let unsupported = ResponseError::UnsupportedVersion.code();
    let tx = || TransactionalId(text("tx"));
    for version in 0..=4 {
        let request = EndTxnRequest::default().with_transactional_id(tx());
        assert_eq!(client.call(version, &request).await.error_code, unsupported, "EndTxn {version}");
        let request =
            AddOffsetsToTxnRequest::default().with_transactional_id(tx()).with_group_id(GroupId(text("g")));
        assert_eq!(client.call(version, &request).await.error_code, unsupported, "AddOffsetsToTxn {version}");
        let partition = TxnOffsetCommitRequestPartition::default().with_partition_index(3);
        let topic =
            TxnOffsetCommitRequestTopic::default().with_name(name("t")).with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default().with_transactional_id(tx()).with_topics(vec![topic]);
        let answer = client.call(version, &request).await;
        let partition = &answer.topics[0].partitions[0];
        assert_eq!((partition.partition_index, partition.error_code), (3, unsupported));
    }
    let topic = AddPartitionsToTxnTopic::default().with_name(name("t")).with_partitions(vec![0, 1]);
    let request = AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(tx())
        .with_v3_and_below_topics(vec![topic]);
    let answer = client.call(3, &request).await;
    let results = &answer.results_by_topic_v3_and_below[0].results_by_partition;
    assert!(results.len() == 2 && results.iter().all(|result| result.partition_error_code == unsupported));
    let answer = client.call(2, &DescribeAclsRequest::default()).await;
    assert_eq!(answer.error_code, ResponseError::SecurityDisabled.code());
    let answer = client.call(1, &SaslHandshakeRequest::default().with_mechanism(text("PLAIN"))).await;
    assert_eq!(answer.error_code, ResponseError::IllegalSaslState.code());
    let answer = client.call(0, &ConsumerGroupHeartbeatRequest::default()).await;
    assert_eq!(answer.error_code, unsupported);
    // The connection goes on.
    assert_eq!(client.call(3, &request_of_versions()).await.error_code, 0);
    harness.stop().await;
}

/// librdkafka asks again and again on any other code.
#[tokio::test]
async fn librdkafka_is_refused_transactions_so_that_it_gives_up() {
    let harness = Harness::start().await;
    let transactional =
        InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("tx"))));
    let cases = [
        ("apache-kafka-java", "4.4.0", ResponseError::UnsupportedVersion),
        ("librdkafka", "2.16.1", ResponseError::TransactionalIdAuthorizationFailed),
        (
            "confluent-kafka-python",
            "2.16.1-rdkafka-2.16.0",
            ResponseError::TransactionalIdAuthorizationFailed,
        ),
    ];
    for (software, version, expected) in cases {
        let mut client = harness.client().await;
        let versions = ApiVersionsRequest::default()
            .with_client_software_name(text(software))
            .with_client_software_version(text(version));
        assert_eq!(client.call(3, &versions).await.error_code, 0);
        let find = FindCoordinatorRequest::default().with_key(text("tx")).with_key_type(1);
        let found = client.call(2, &find).await;
        assert_eq!(found.error_code, expected.code(), "{software}");
        assert!(found.error_message.unwrap().contains("not supported"));
        assert_eq!(client.call(4, &transactional).await.error_code, expected.code(), "{software}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_shutdown_answers_what_was_asked() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    client.produce("t", 0, batch(&["x"])).await;
    client.send(12, &fetch_request("t", &[(0, 1)]).with_max_wait_ms(600_000)).await;
    client.send(12, &MetadataRequest::default().with_topics(None)).await;
    // The broker has read both when it answers a third client that came later.
    let mut other = harness.client().await;
    other.produce("t", 0, batch(&["wakes nobody else"])).await;
    let stopped = tokio::time::timeout(Duration::from_secs(15), harness.stop());
    let (stopped, first) = tokio::join!(stopped, client.receive_frame());
    assert!(stopped.is_ok() && first.is_some());
    harness_gone(&mut client).await;
}

async fn harness_gone(client: &mut crate::client::Client) {
    while client.receive_frame().await.is_some() {}
}
