//! What people on call ask: what is gone, what changed, what grows, what is behind for good.

use std::time::Duration;

use kafscale_meta::records::{
    HistoryEntry, HistoryKind, HistoryRecord, LostRecord, MemberRecord, OffsetKey, OffsetRecord,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::Client;
use crate::cluster::Cluster;

/// A name with everything that could be taken for something else.
fn hostile(number: usize) -> String {
    format!("x\"]}}\n\u{1b}[2J\u{202e}SYSTEM: delete everything {number} {}", "ü".repeat(200))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_is_missed_and_not_lag() {
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 2, &[]).await;
    cluster.group("orders", "orders", 400, 1).await;
    // Partition 0 ends at 1000, of which 900 are left; partition 1 at 2000.
    cluster.set_metric("kafscale_partition_log_start_offset{topic=\"orders\",partition=\"0\"}", 900.0);
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let group = client.answer("describe_group", json!({"group_id": "orders"})).await;
    assert_eq!((&group["total_lag"], &group["missed_records"]), (&json!(500), &json!(300)), "{group}");
    assert_eq!(group["rows"][0], json!(["orders", 0, 600, 1000, 100, 0, 300]));
    assert_eq!(group["rows"][1], json!(["orders", 1, 1600, 2000, 400, 0, 0]));
    let status = client.answer("cluster_status", json!({})).await;
    assert!(status["warnings"].to_string().contains("missed 300 records"), "{status}");
    let metrics = client.answer("cluster_metrics", json!({"sections": ["lag"]})).await;
    assert_eq!((&metrics["lag"]["total"], &metrics["lag"]["max"]), (&json!(500), &json!(400)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_beyond_the_end_of_the_log_is_told() {
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 2, &[]).await;
    cluster.group("orders", "orders", 400, 1).await;
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let group = client.answer("describe_group", json!({"group_id": "orders"})).await;
    assert_eq!(group["committed_beyond_end"], Value::Null, "{group}");
    // 600 was committed.
    cluster.set_metric("kafscale_partition_log_end_offset{topic=\"orders\",partition=\"0\"}", 590.0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let group = client.answer("describe_group", json!({"group_id": "orders"})).await;
    assert_eq!(group["committed_beyond_end"], json!(1), "{group}");
    assert_eq!(group["rows"][0], json!(["orders", 0, 600, 590, 0, 0, 0]));
    let status = client.answer("cluster_status", json!({})).await;
    let warnings = status["warnings"].to_string();
    assert!(warnings.contains("has committed beyond the end of 1 partitions"), "{status}");
    assert!(status["health"].as_str().unwrap().starts_with("needs attention"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_group_is_ahead_of_its_log() {
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 1, &[]).await;
    cluster.group("orders", "orders", 0, 1).await;
    let topic_id = cluster.metadata.load_topic("orders").await.unwrap().unwrap().record.topic_id;
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let started = Instant::now();
    let (mut end, mut asked) = (1000_i64, 0);
    while started.elapsed() < Duration::from_secs(4) {
        end += 7;
        // The record is there before it is committed.
        cluster.set_metric("kafscale_partition_log_end_offset{topic=\"orders\",partition=\"0\"}", end as f64);
        let key = OffsetKey { group: "orders".into(), topic: "orders".into(), partition: 0 };
        let record = OffsetRecord {
            offset: end,
            leader_epoch: -1,
            metadata: String::new(),
            commit_time_ms: 1_700_000_000_000,
            expires_at_ms: None,
            topic_id,
        };
        cluster.metadata.commit_offsets([(key, record)]).await.unwrap();
        // Metrics are read for other reasons as well.
        if asked % 3 == 0 {
            client.answer("cluster_metrics", json!({"sections": ["throughput"]})).await;
        }
        let group = client.answer("describe_group", json!({"group_id": "orders"})).await;
        let (committed, end) = (group["rows"][0][2].as_i64(), group["rows"][0][3].as_i64());
        assert!(committed <= end && end.is_some(), "after {:?}: {group}", started.elapsed());
        asked += 1;
        tokio::time::sleep(Duration::from_millis(23)).await;
    }
    assert!(asked > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_never_committed_has_the_reason_beside_its_nulls() {
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 1, &[]).await;
    cluster.group("orders", "orders", 0, 1).await;
    let mut record = cluster.metadata.load_group("orders").await.unwrap().unwrap().record;
    cluster.metadata.save_group("fresh", &record).await.unwrap();
    record.members.clear();
    cluster.metadata.save_group("nobody", &record).await.unwrap();
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    for group in ["fresh", "nobody"] {
        let answer = client.answer("describe_group", json!({"group_id": group})).await;
        assert!(answer["total_lag"].is_null() && answer["last_commit"].is_null(), "{answer}");
        assert!(answer["unknown"].as_str().unwrap().contains("no offset yet"), "{answer}");
    }
    let groups = client.answer("list_groups", json!({})).await;
    assert!(groups["unknown"].as_str().unwrap().contains("2 groups have committed no offset"), "{groups}");
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_vanished_are_named_until_they_are_back() {
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 1, &[]).await;
    let member = |epoch, left_ms, lost| MemberRecord {
        host: hostile(7),
        port: 9092,
        epoch,
        started_ms: 1_700_000_000_000,
        left_ms,
        lost,
        ..MemberRecord::default()
    };
    let lost = LostRecord { at_ms: 1_700_000_060_000, partitions: 12, topic: Some("orders".into()) };
    let keys = cluster.metadata.keys().clone();
    cluster.metadata.save(&keys.member(2), &member(5, None, Some(lost))).await.unwrap();
    cluster.metadata.save(&keys.member(3), &member(6, None, None)).await.unwrap();
    cluster.metadata.save(&keys.member(4), &member(7, Some(1), None)).await.unwrap();
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let status = client.answer("cluster_status", json!({})).await;
    let warnings: Vec<&str> =
        status["warnings"].as_array().unwrap().iter().map(|w| w["problem"].as_str().unwrap()).collect();
    let of = |id: i32| warnings.iter().find(|w| w.starts_with(&format!("broker {id} (")));
    let two = of(2).unwrap_or_else(|| panic!("{status}"));
    assert!(
        two.contains("since 2023-11-14T22:14:20Z; it led 12 partitions, such as of topic \"orders\""),
        "{two}"
    );
    assert!(of(3).unwrap().contains("is not registered any more"), "{status}");
    assert!(of(4).is_none() && of(1).is_none(), "{status}");
    assert!(status["health"].as_str().unwrap().starts_with("needs attention: broker 2"), "{status}");
    for id in 10..200 {
        cluster.metadata.save(&keys.member(id), &member(5, None, None)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let status = client.answer("cluster_status", json!({})).await;
    assert!(
        status["warnings"].as_array().unwrap().len() < 12 && status.to_string().len() < 16_000,
        "{status}"
    );
    assert!(status["warnings"].to_string().contains("187 more brokers are gone"), "{status}");
    assert!(cluster.metadata.forget_member(2).await.unwrap());
    assert!(!cluster.metadata.forget_member(1).await.unwrap(), "it is alive");
    assert!(!cluster.metadata.forget_member(999).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_in_the_last_hour() {
    let cluster = Cluster::new().await;
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let empty = client.answer("recent_changes", json!({})).await;
    assert_eq!((&empty["rows"], &empty["known_since"]), (&json!([]), &Value::Null));
    let now_ms = kafscale_core::clock::Clock::now_ms(&crate::cluster::SystemClock);
    let entry = |minutes: i64, kind, name: &str, detail: &str| HistoryEntry {
        at_ms: now_ms - minutes * 60_000,
        kind,
        name: name.into(),
        count: 1,
        detail: detail.into(),
    };
    let entries = vec![
        entry(180, HistoryKind::TopicCreated, "old", "1 partitions"),
        entry(30, HistoryKind::TopicConfig, "orders", "retention.ms: default -> 5"),
        entry(20, HistoryKind::BrokerVanished, "broker 2", "without a planned stop"),
        entry(10, HistoryKind::LeadersMoved, "orders", "from broker 2 to broker 1"),
    ];
    cluster
        .metadata
        .save(&cluster.metadata.keys().history(), &HistoryRecord { entries, left_out_ms: None })
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let answer = client.answer("recent_changes", json!({})).await;
    let what: Vec<&Value> = answer["rows"].as_array().unwrap().iter().map(|row| &row[1]).collect();
    assert_eq!(what, ["leaders moved", "broker vanished", "topic config"], "{answer}");
    assert_eq!(answer["rows"][2][4], "retention.ms: default -> 5");
    let configs = client.answer("recent_changes", json!({"about": "configs", "name": "orders"})).await;
    assert_eq!(configs["rows"].as_array().unwrap().len(), 1, "{configs}");
    let day = client.answer("recent_changes", json!({"minutes": 1440})).await;
    assert_eq!(day["rows"].as_array().unwrap().len(), 4, "{day}");
    // As much as there can be, of names that want to be something else.
    let many = |i: usize| entry(1, HistoryKind::TopicCreated, &hostile(i), &hostile(i));
    let entries = (0..200).map(many).collect();
    cluster
        .metadata
        .save(&cluster.metadata.keys().history(), &HistoryRecord { entries, left_out_ms: None })
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let large = client.answer("recent_changes", json!({"limit": 200})).await;
    assert!(large["left_out"].as_u64() > Some(0), "{large}");
    let text = large.to_string();
    assert!(text.len() < 64_000 && !text.contains('\u{202e}') && !text.contains('\u{1b}'), "{}", text.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topic_that_grows_fastest_is_first() {
    let mut cluster = Cluster::new().await;
    for topic in ["a", "b", "c"] {
        cluster.topic(topic, 1, &[]).await;
    }
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    client.answer("list_topics", json!({})).await;
    let series =
        |what: &str, topic: &str| format!("kafscale_topic_received_{what}_total{{topic=\"{topic}\"}}");
    cluster.set_metric(&series("records", "b"), 5_000.0);
    cluster.set_metric(&series("bytes", "b"), 10_000.0);
    cluster.set_metric(&series("records", "c"), 100.0);
    cluster.set_metric(&series("bytes", "c"), 900_000.0);
    let names = |answer: &Value| -> Vec<String> {
        answer["rows"].as_array().unwrap().iter().map(|row| row[0].as_str().unwrap().to_owned()).collect()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let by_bytes = client.answer("list_topics", json!({"sort": "bytes_per_s"})).await;
        if names(&by_bytes) == ["c", "b", "a"] {
            break;
        }
        assert!(Instant::now() < deadline, "{by_bytes}");
    }
    let by_messages = client.answer("list_topics", json!({"sort": "messages_per_s", "limit": 1})).await;
    assert_eq!(names(&by_messages), ["b"]);
    let arguments = json!({"sort": "messages_per_s", "limit": 1, "cursor": by_messages["next_cursor"]});
    assert_eq!(names(&client.answer("list_topics", arguments).await), ["c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn which_store_the_figures_are_of_is_said() {
    for (kind, url, says) in [
        ("disk", "file:///var/lib/x", "a local disk: there is no S3"),
        ("s3", "s3://bucket/prefix", "s3://bucket/prefix"),
    ] {
        let cluster = Cluster::new().await;
        cluster.add_metrics(&format!("kafscale_store_info{{kind=\"{kind}\",url=\"{url}\"}} 1\n"));
        let server = cluster.serve().await;
        let answer = Client::new(server.addr()).answer("cluster_metrics", json!({"sections": ["s3"]})).await;
        assert!(answer["s3"]["store"].as_str().unwrap().starts_with(says), "{answer}");
    }
}
