//! ApiVersions, the order of answers, shutdown.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, MetadataRequest};
use kafka_protocol::protocol::Decodable;
use tokio::io::AsyncWriteExt;

use crate::client::{fetch_request, frame, text};
use crate::harness::{Harness, batch};

fn request() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(text("test"))
        .with_client_software_version(text("1.0"))
}

#[tokio::test]
async fn every_version_of_api_versions_is_answered() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    for version in 0..=4 {
        let request = if version >= 3 { request() } else { ApiVersionsRequest::default() };
        let response = client.call(version, &request).await;
        assert_eq!(response.error_code, 0);
        let produce = response.api_keys.iter().find(|k| k.api_key == ApiKey::Produce as i16).unwrap();
        assert_eq!((produce.min_version, produce.max_version), (0, 13));
        let transactional = [ApiKey::AddPartitionsToTxn, ApiKey::EndTxn, ApiKey::TxnOffsetCommit];
        assert!(response.api_keys.iter().all(|k| transactional.iter().all(|t| k.api_key != *t as i16)));
    }
    let odd = client.call(3, &request().with_client_software_name(text("-odd-"))).await;
    assert_eq!(odd.error_code, ResponseError::InvalidRequest.code());
    harness.stop().await;
}

#[tokio::test]
async fn a_newer_api_versions_is_answered_in_version_0() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let mut bytes = frame(4, 9, &request());
    bytes[6..8].copy_from_slice(&99i16.to_be_bytes());
    client.stream.write_all(&bytes).await.unwrap();
    let mut answer = client.receive_frame().await.unwrap();
    assert_eq!(bytes::Buf::get_i32(&mut answer), 9);
    let response = ApiVersionsResponse::decode(&mut answer, 0).unwrap();
    assert_eq!(response.error_code, ResponseError::UnsupportedVersion.code());
    assert!(response.api_keys.iter().any(|k| k.api_key == ApiKey::ApiVersions as i16 && k.max_version == 4));
    // The client steps down on the same connection.
    assert_eq!(client.call(3, &request()).await.error_code, 0);
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
