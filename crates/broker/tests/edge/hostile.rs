//! What bad input gets: a closed connection or the right code, and the broker goes on serving others.

use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::{ApiKey, MetadataRequest};
use tokio::io::AsyncWriteExt;

use crate::client::{Client, frame};
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
