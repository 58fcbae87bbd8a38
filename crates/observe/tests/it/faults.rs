//! What is answered while something is broken: what is unknown and why, in time, and the server stays up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use kafscale_meta::EmbeddedStore;
use kafscale_meta::records::{AssignmentRecord, PartitionAssignment};
use serde_json::json;
use tokio::time::Instant;

use crate::client::Client;
use crate::cluster::{Cluster, serve};
use crate::store::{Between, Mood};

const LIMIT: Duration = Duration::from_secs(8);

/// A server of a cluster whose only metrics are at `path` of `router`.
async fn with_metrics(router: Router) -> (Cluster, kafscale_observe::Server) {
    let address = serve(router).await;
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 2, &[]).await;
    cluster.group("orders", "orders", 10, 1).await;
    let server = cluster.serve_with(|s| {
        s.edge.identity.auth_token = Some(crate::cluster::TOKEN.into());
        s.broker_metrics_urls = vec![format!("http://{address}/metrics")];
    });
    let server = server.await;
    (cluster, server)
}

async fn check_unknown(router: Router, why: &str) {
    let (_cluster, server) = with_metrics(router).await;
    let client = Client::new(server.addr());
    let started = Instant::now();
    let group = client.answer("describe_group", json!({"group_id": "orders"})).await;
    assert!(group["total_lag"].is_null() && group["rows"][0][4].is_null(), "{group}");
    assert_eq!((&group["rows"][0][2], &group["unknown_partitions"]), (&json!(990), &json!(2)));
    assert!(group["unknown"].as_str().unwrap().contains(why), "{group}");
    let groups = client.answer("list_groups", json!({"min_partition_lag": 1})).await;
    assert_eq!((&groups["complete"], &groups["matched"]), (&json!(false), &json!(0)), "{groups}");
    let metrics = client.answer("cluster_metrics", json!({})).await;
    let rate = &metrics["throughput"]["messages_in_per_s"];
    assert!(rate["value"].is_null() && rate["reason"].as_str().unwrap().contains(why), "{rate}");
    assert!(metrics["s3"]["state"].as_str().unwrap().starts_with("unknown"), "{metrics}");
    let status = client.answer("cluster_status", json!({})).await;
    assert_eq!(status["metadata_store"]["state"], "healthy");
    assert!(status["warnings"].to_string().contains(why), "{status}");
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    // What needs no metrics is answered all the same.
    assert_eq!(client.answer("fetch_offsets", json!({"group_id": "orders"})).await["rows"][0][2], 990);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_gone() {
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 2, &[]).await;
    let gone = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    cluster.register(2, Some(gone)).await;
    let epoch = cluster.metadata.load_broker(2).await.unwrap().unwrap().record.epoch;
    cluster.metadata.note_alive(2, epoch, 1_700_000_060_000).await.unwrap();
    let (topic, read) = cluster.metadata.list_assignments().await.unwrap().items.remove(0);
    let partitions = vec![PartitionAssignment::new(1, 0, 4), PartitionAssignment::new(2, epoch, 4)];
    let assigned = AssignmentRecord { partitions };
    cluster.metadata.swap_assignment(topic, read.mod_revision, &assigned).await.unwrap().unwrap();
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let status = client.answer("cluster_status", json!({})).await;
    assert!(status["brokers"][1]["metrics"].as_str().unwrap().contains("cannot connect"), "{status}");
    // Its lease has not run out, and this server has never seen it alive.
    let warnings = status["warnings"].to_string();
    for says in
        ["broker 2 refuses connections", "at 2023-11-14T22:14:20Z", "it leads 1 partition, such as of topic"]
    {
        assert!(warnings.contains(says), "{says}: {status}");
    }
    // Nor has it where only other brokers know.
    cluster.set_metric("kafscale_cluster_leaderless_partitions", 3.0);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let status = client.answer("cluster_status", json!({})).await;
    assert!(
        status["warnings"].to_string().contains("3 partitions have no live leader, as brokers see it"),
        "{status}"
    );
    // The other broker's partitions are still known; a sum over both is not.
    let topics = client.answer("describe_topics", json!({"names": ["orders"]})).await;
    assert_eq!(topics["topics"][0]["rows"][0][4], 1000);
    let metrics = client.answer("cluster_metrics", json!({"sections": ["throughput"]})).await;
    assert!(metrics["throughput"]["messages_in_per_s"]["value"].is_null(), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_that_fail() {
    let failing = || async { (axum::http::StatusCode::INTERNAL_SERVER_ERROR, "no") };
    check_unknown(Router::new().route("/metrics", get(failing)), "answered 500").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_that_are_garbage() {
    let garbage = || async { vec![0xff_u8; 1000] };
    check_unknown(Router::new().route("/metrics", get(garbage)), "not UTF-8").await;
    let page = || async { "<html>kafscale</html>" };
    check_unknown(Router::new().route("/metrics", get(page)), "no kafscale metrics").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_that_hang() {
    let hanging = || async { std::future::pending::<&str>().await };
    check_unknown(Router::new().route("/metrics", get(hanging)), "no complete answer within 2000 ms").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_without_end() {
    let flood = || async {
        let line = Bytes::from("kafscale_connections 3\n".repeat(1000));
        Body::from_stream(Forever(line, Duration::ZERO))
    };
    check_unknown(Router::new().route("/metrics", get(flood)), "").await;
    let drip = || async { Body::from_stream(Forever(Bytes::from("x"), Duration::from_millis(50))) };
    check_unknown(Router::new().route("/metrics", get(drip)), "no complete answer within 2000 ms").await;
}

/// The same bytes over and over.
struct Forever(Bytes, Duration);

impl futures_core::Stream for Forever {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (bytes, pause) = (self.0.clone(), self.1);
        if !pause.is_zero() {
            let waker = context.waker().clone();
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                waker.wake();
            });
        }
        Poll::Ready(Some(Ok(bytes)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metadata_store_that_is_down_or_does_not_answer() {
    let between = Between::new(Arc::new(EmbeddedStore::memory()));
    let mut cluster = Cluster::over(Arc::clone(&between) as _).await;
    cluster.topic("orders", 2, &[]).await;
    cluster.group("orders", "orders", 10, 1).await;
    cluster.add_metrics("kafscale_s3_health_state{state=\"healthy\"} 1\n");
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let healthy = client.answer("cluster_status", json!({})).await;
    assert_eq!(healthy["counts"]["topics"], 1, "{healthy}");
    for (mood, why) in
        [(Mood::Failing, "no member of etcd"), (Mood::Hanging, "did not answer within 2000 ms")]
    {
        *between.mood.lock() = mood;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            // What was read a moment ago is still shared.
            let started = Instant::now();
            let result = client.call("list_topics", json!({})).await;
            assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
            if result["isError"] == true && result["content"][0]["text"].as_str().unwrap().contains(why) {
                break;
            }
            assert!(Instant::now() < deadline, "{result}");
        }
        let started = Instant::now();
        for (tool, arguments) in [
            ("list_groups", json!({})),
            ("describe_group", json!({"group_id": "orders"})),
            ("describe_topics", json!({"names": ["orders"]})),
            ("fetch_offsets", json!({"group_id": "orders"})),
        ] {
            let error = client.error(tool, arguments).await;
            assert!(error.contains(why) && error.contains("cluster_status"), "{tool}: {error}");
        }
        assert!(started.elapsed() < 4 * LIMIT, "{:?}", started.elapsed());
        let status = client.answer("cluster_status", json!({})).await;
        assert_eq!(status["metadata_store"]["state"], "unavailable", "{status}");
        assert!(status["counts"]["topics"].is_null() && status["counts"]["groups"].is_null(), "{status}");
        // The brokers that were registered are asked all the same.
        assert_eq!(status["brokers"][0]["metrics"], "ok", "{status}");
        // Where clients reach it was known before; who is the controller may have changed.
        assert_eq!(status["brokers"][0]["address"], "127.0.0.1:9092", "{status}");
        assert!(status["brokers"][0]["controller"].is_null(), "{status}");
        assert_eq!(status["object_store"]["state"], "healthy", "{status}");
        let metrics = client.answer("cluster_metrics", json!({})).await;
        assert_eq!(metrics["brokers"]["connections"]["value"], 3.0, "{metrics}");
        assert!(metrics["lag"]["reason"].as_str().unwrap().contains(why), "{metrics}");
    }
    *between.mood.lock() = Mood::Well;
    let deadline = Instant::now() + Duration::from_secs(20);
    while client.call("list_topics", json!({})).await["isError"] == true {
        assert!(Instant::now() < deadline, "it does not recover");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_the_object_store_is_remembered() {
    let cluster = Cluster::new().await;
    cluster.add_metrics("kafscale_s3_health_state{state=\"degraded\"} 1\n");
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    assert_eq!(client.answer("cluster_status", json!({})).await["object_store"]["state"], "degraded");
    *cluster.metrics.lock() = "<html>gone</html>".to_owned();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let store = client.answer("cluster_status", json!({})).await["object_store"].take();
        if store["state"] == "unknown" {
            assert!(store["detail"].as_str().unwrap().contains("; last known: degraded at 20"), "{store}");
            break;
        }
        assert!(Instant::now() < deadline, "{store}");
    }
    let s3 = client.answer("cluster_metrics", json!({"sections": ["s3"]})).await["s3"].take();
    assert!(s3["state"].as_str().unwrap().contains("(last known: degraded at 20"), "{s3}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_brokers_are_added_up_and_each_is_asked_for_its_own() {
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 2, &[]).await;
    cluster.add_metrics("kafscale_s3_health_state{state=\"healthy\"} 1\n");
    // The second broker led partition 0 once, and still says so.
    let second = "kafscale_connections 4\nkafscale_s3_health_state{state=\"degraded\"} 1\n\
        kafscale_partition_log_end_offset{topic=\"orders\",partition=\"0\"} 999999\n";
    let address = serve(Router::new().route("/metrics", get(async move || second))).await;
    cluster.register(2, Some(address)).await;
    cluster.register(3, None).await;
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let topics = client.answer("describe_topics", json!({"names": ["orders"]})).await;
    assert_eq!(topics["topics"][0]["rows"][0][4], 1000, "{topics}");
    let status = client.answer("cluster_status", json!({})).await;
    let store = json!({"state": "degraded", "detail": "as 2 of 3 brokers see it"});
    assert_eq!(status["object_store"], store, "{status}");
    assert_eq!(status["brokers"][2]["metrics"], "the broker serves no metrics", "{status}");
    let metrics = client.answer("cluster_metrics", json!({"sections": ["brokers"]})).await;
    let connections = &metrics["brokers"]["connections"];
    assert!(connections["value"].is_null(), "{metrics}");
    assert_eq!(connections["reason"], "metrics of 127.0.0.1:9092: the broker serves no metrics", "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_read() {
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 2, &[]).await;
    // Before the server looks: what it has seen, it remembers for a moment.
    let key = cluster.metadata.keys().topic("broken");
    let write = kafscale_meta::Txn::new().and_then(kafscale_meta::Op::put(key, "{}"));
    assert!(cluster.metadata.store().txn(write).await.unwrap().succeeded);
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let error = client.error("list_topics", json!({})).await;
    assert!(error.contains("metadata store failed") && error.contains("cluster_status"), "{error}");
    let status = client.answer("cluster_status", json!({})).await;
    assert!(status["counts"]["topics"].is_null() && status["counts"]["brokers"] == 1, "{status}");
}
