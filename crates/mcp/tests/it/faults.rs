//! What is answered while something is broken: what is unknown and why, in time, and the server stays up.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use serde_json::json;
use tokio::time::Instant;

use crate::client::Client;
use crate::cluster::{Cluster, serve};

const LIMIT: Duration = Duration::from_secs(8);

/// A server of a cluster whose only metrics are at `path` of `router`.
async fn with_metrics(router: Router) -> (Cluster, kafscale_mcp::McpServer) {
    let address = serve(router).await;
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 2, &[]).await;
    cluster.group("orders", "orders", 10, 1).await;
    let server = cluster.serve_with(|s| {
        s.auth_token = Some(crate::cluster::TOKEN.into());
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
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let status = client.answer("cluster_status", json!({})).await;
    assert!(status["brokers"][1]["metrics"].as_str().unwrap().contains("cannot connect"), "{status}");
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
async fn records_that_cannot_be_read() {
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 2, &[]).await;
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let key = cluster.metadata.keys().topic("broken");
    let write = kafscale_meta::Txn::new().and_then(kafscale_meta::Op::put(key, "{}"));
    assert!(cluster.metadata.store().txn(write).await.unwrap().succeeded);
    let error = client.error("list_topics", json!({})).await;
    assert!(error.contains("metadata store failed") && error.contains("cluster_status"), "{error}");
    let status = client.answer("cluster_status", json!({})).await;
    assert!(status["counts"]["topics"].is_null() && status["counts"]["brokers"] == 1, "{status}");
}
