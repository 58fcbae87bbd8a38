//! /metrics, /healthz and /readyz.

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{name, text};
use crate::harness::{Harness, batch};

pub async fn get(harness: &Harness, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(harness.metrics.address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
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

#[tokio::test]
async fn one_scrape_tells_the_lag_of_every_group() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("orders", 1, &[]).await;
    client.produce("orders", 0, batch(&["a", "b", "c"])).await;
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(1);
    let topic =
        OffsetCommitRequestTopic::default().with_name(name("orders")).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text("a \"group\"")))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    assert_eq!(client.call(8, &request).await.topics[0].partitions[0].error_code, 0);
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
