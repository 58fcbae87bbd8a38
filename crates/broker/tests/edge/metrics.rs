//! /metrics, /healthz and /readyz.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest};
use kafscale_meta::{EmbeddedStore, MetaStore};
use kafscale_storage::StoreUrl;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Client, PATIENCE, name, text};
use crate::harness::{Harness, batch, first_segment};

pub async fn get(harness: &Harness, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(harness.metrics.address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(
        !head.to_ascii_lowercase().contains("\r\ndate:"),
        "it cannot be written at each time that a clock may show"
    );
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The value of a series, named exactly as it is written.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn one_scrape_tells_where_every_partition_ends() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("orders", 2, &[]).await;
    client.produce("orders", 1, batch(&["a", "b", "c"])).await;
    client.produce("orders", 9, batch(&["a"])).await;
    client.fetch("orders", 1, 0).await;
    let (status, text) = get(&harness, "/metrics").await;
    assert_eq!(status, 200);
    for (series, expected) in [
        ("kafscale_partition_log_end_offset{topic=\"orders\",partition=\"0\"}", 0.0),
        ("kafscale_partition_log_end_offset{topic=\"orders\",partition=\"1\"}", 3.0),
        ("kafscale_partition_log_start_offset{topic=\"orders\",partition=\"1\"}", 0.0),
        ("kafscale_requests_total{api=\"Produce\"}", 2.0),
        ("kafscale_request_errors_total{api=\"Produce\",error=\"UnknownTopicOrPartition\"}", 1.0),
        ("kafscale_topic_received_records_total{topic=\"orders\"}", 3.0),
        ("kafscale_topic_sent_records_total{topic=\"orders\"}", 3.0),
        ("kafscale_s3_health_state{state=\"healthy\"}", 1.0),
        ("kafscale_produce_latency_ms_count", 2.0),
        ("kafscale_connections", 1.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}");
    }
    for series in ["kafscale_broker_uptime_seconds", "kafscale_produce_rps", "kafscale_fetch_rps"] {
        assert!(value(&text, series).is_some_and(|v| v > 0.0), "{series}");
    }
    assert!(value(&text, "kafscale_s3_latency_ms_avg").is_some());
    assert_eq!(get(&harness, "/healthz").await, (200, "ok\n".into()));
    assert_eq!(get(&harness, "/readyz").await, (200, "ready\n".into()));
    assert_eq!(get(&harness, "/nope").await.0, 404);
    harness.stop().await;
}

/// Commits an offset of partition 0, as a client without a group does.
async fn commit(client: &mut Client, group: &str, topic: &str, offset: i64) {
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
    let topic = OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    assert_eq!(client.call(8, &request).await.topics[0].partitions[0].error_code, 0);
}

/// As after a restore to an older state.
#[tokio::test]
async fn commits_beyond_the_end_of_the_log_are_told_after_a_start() {
    let store: Arc<dyn MetaStore> = Arc::new(EmbeddedStore::memory());
    let harness = Harness::start_on(Arc::clone(&store), StoreUrl::Memory, |_| {}).await;
    let mut client = harness.client().await;
    client.create_topic("orders", 1, &[]).await;
    client.produce("orders", 0, batch(&["a", "b", "c"])).await;
    commit(&mut client, "exact", "orders", 0).await;
    commit(&mut client, "late", "orders", 3).await;
    harness.stop().await;
    // A log in memory begins anew.
    let harness = Harness::start_on(store, StoreUrl::Memory, |_| {}).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let told = "group \"late\" committed 3 in orders-0, which ends at 0; records were lost";
    loop {
        let (status, body) = get(&harness, "/readyz").await;
        if status == 200 && body.contains(told) {
            assert!(!body.contains("exact"), "{body}");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{body}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    harness.stop().await;
}

#[tokio::test]
async fn one_scrape_tells_the_lag_of_every_group() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("orders", 1, &[]).await;
    client.produce("orders", 0, batch(&["a", "b", "c"])).await;
    commit(&mut client, "a \"group\"", "orders", 1).await;
    let (_, scraped) = get(&harness, "/metrics").await;
    let labels = "{group=\"a \\\"group\\\"\",topic=\"orders\",partition=\"0\"}";
    for (series, expected) in [
        (format!("kafscale_consumer_group_committed_offset{labels}"), 1.0),
        (format!("kafscale_consumer_group_lag{labels}"), 2.0),
        ("kafscale_consumer_lag_max".to_owned(), 2.0),
        ("kafscale_consumer_lag_bucket{le=\"1\"}".to_owned(), 0.0),
        ("kafscale_consumer_lag_bucket{le=\"10\"}".to_owned(), 1.0),
    ] {
        assert_eq!(value(&scraped, &series), Some(expected), "{series}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn every_family_has_help_and_a_type_and_stands_once() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("orders", 1, &[]).await;
    client.produce("orders", 0, batch(&["a"])).await;
    let (_, text) = get(&harness, "/metrics").await;
    let mut families = std::collections::HashSet::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            current = help.split(' ').next().unwrap().to_owned();
            assert!(families.insert(current.clone()), "{current} stands twice");
            assert!(help.len() > current.len() + 1, "{current} has no help");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, current);
            assert!(kind != "counter" || name.ends_with("_total"), "{name}");
        } else {
            assert!(line.starts_with(&current), "{line} stands under {current}");
        }
    }
    harness.stop().await;
}

#[tokio::test]
async fn health_is_answered_whoever_holds_connections_and_takes_no_answers() {
    let harness = Harness::start().await;
    let address = harness.metrics.address();
    let mut held = Vec::new();
    for i in 0..600 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Nothing, half a line, half a head, and a scrape whose answer nobody reads.
        let sent = [
            "",
            "GET /hea",
            "GET /healthz HTTP/1.1\r\nHost: t\r\n",
            "GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n",
        ];
        let _ = stream.write_all(sent[i % 4].as_bytes()).await;
        held.push(stream);
        if i % 50 == 49 {
            let asked = std::time::Instant::now();
            assert_eq!(get(&harness, "/healthz").await, (200, "ok\n".into()), "beside {i} others");
            assert_eq!(get(&harness, "/readyz").await.0, 200);
            assert!(asked.elapsed() < std::time::Duration::from_secs(2), "{:?}", asked.elapsed());
        }
    }
    assert_eq!(get(&harness, "/healthz").await, (200, "ok\n".into()));
    harness.stop().await;
}

#[tokio::test]
async fn a_broker_is_not_ready_before_all_of_its_process_serves() {
    let harness = Harness::start().await;
    harness.metrics.awaits("the MCP server");
    assert_eq!(get(&harness, "/readyz").await, (503, "the MCP server does not listen yet\n".into()));
    assert_eq!(get(&harness, "/healthz").await.0, 200);
    harness.metrics.arrived();
    assert_eq!(get(&harness, "/readyz").await, (200, "ready\n".into()));
    harness.stop().await;
}

#[tokio::test]
async fn a_segment_that_cannot_be_opened_is_told_of_beside_the_offsets_of_its_partition() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreUrl::File(dir.path().to_owned());
    let harness = Harness::start_on(Arc::new(EmbeddedStore::memory()), store, |_| {}).await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let segment = first_segment(&mut client, "t", dir.path()).await;
    let aside = dir.path().join("aside");
    std::fs::rename(&segment, &aside).unwrap();
    // Nobody opens a link to itself, whoever runs this test.
    std::os::unix::fs::symlink(&segment, &segment).unwrap();
    // Until it is published, its records are read from the write-ahead log.
    let answer = loop {
        let answer = client.fetch("t", 0, 0).await;
        if answer.error_code != 0 {
            break answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "the segment is not read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(answer.error_code, ResponseError::KafkaStorageError.code());
    assert_eq!((answer.log_start_offset, answer.high_watermark), (0, 30));
    let (status, body) = get(&harness, "/readyz").await;
    assert!(status == 200 && body.contains("warning: cannot be read at the moment: topics/t/"), "{body}");
    let unreadable = "kafscale_storage_unreadable_objects";
    assert_eq!(value_of(&harness, unreadable).await, Some(1.0));
    std::fs::rename(&aside, &segment).unwrap();
    assert_eq!(client.fetch("t", 0, 0).await.error_code, 0);
    assert_eq!(get(&harness, "/readyz").await, (200, "ready\n".into()));
    assert_eq!(value_of(&harness, unreadable).await, Some(0.0));
    harness.stop().await;
}

async fn value_of(harness: &Harness, series: &str) -> Option<f64> {
    value(&get(harness, "/metrics").await.1, series)
}
