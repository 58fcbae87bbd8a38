//! Each question that people ask, answered right by one call.

use serde_json::{Value, json};

use crate::client::Client;
use crate::cluster::Cluster;

async fn cluster() -> Cluster {
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 3, &[]).await;
    cluster.topic("payments", 2, &[("retention.ms", "604800000"), ("retention.bytes", "1073741824")]).await;
    cluster.group("orders", "orders", 25, 2).await;
    cluster.group("payments-worker", "payments", 0, 1).await;
    cluster.group("paused", "payments", 500, 0).await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn show_me_consumer_lag_for_the_orders_consumer_group() {
    let server = cluster().await.serve().await;
    let answer = Client::new(server.addr()).answer("describe_group", json!({"group_id": "orders"})).await;
    assert_eq!((&answer["total_lag"], &answer["max_lag"]), (&json!(75), &json!(25)));
    assert_eq!((&answer["state"], &answer["member_count"]), (&json!("Stable"), &json!(2)));
    assert_eq!(answer["rows"][1], json!(["orders", 1, 1975, 2000, 25, 1, 0]));
    assert_eq!(answer["unknown_partitions"], 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_current_produce_throughput() {
    let cluster = cluster().await;
    let series = "kafscale_topic_received_records_total{topic=\"orders\"}";
    cluster.set_metric(series, 1000.0);
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    // The first question: the server scrapes twice rather than say that it does not know.
    let answer = client.answer("cluster_metrics", json!({"sections": ["throughput"]})).await;
    assert_eq!(answer["throughput"]["messages_in_per_s"]["value"], 0.0, "{answer}");
    assert!(answer["throughput"]["window_s"].as_f64().unwrap() >= 0.9);
    cluster.set_metric(series, 3000.0);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let answer = client.answer("cluster_metrics", json!({"sections": ["throughput"]})).await;
        let rate = answer["throughput"]["messages_in_per_s"]["value"].as_f64().unwrap();
        let window = answer["throughput"]["window_s"].as_f64().unwrap();
        if rate > 0.0 {
            assert!((rate * window - 2000.0).abs() < 10.0, "{answer}");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{answer}");
    }
    let throughput = &client.answer("cluster_metrics", json!({})).await["throughput"];
    // Nothing was fetched yet, and this broker counts no latencies.
    assert_eq!(throughput["messages_out_per_s"]["value"], 0.0, "{throughput}");
    let latency = &throughput["produce_latency_ms"];
    assert!(latency["value"].is_null() && latency["reason"].as_str().unwrap().contains("does not report"));
}

#[tokio::test(flavor = "multi_thread")]
async fn which_groups_lag_by_more_than_the_boundary() {
    let cluster = cluster().await;
    cluster.group("at", "orders", 200, 0).await;
    cluster.group("above", "orders", 201, 0).await;
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let answer = client.answer("list_groups", json!({"min_partition_lag": 201})).await;
    let groups: Vec<&Value> = answer["rows"].as_array().unwrap().iter().map(|row| &row[0]).collect();
    assert_eq!(groups, ["paused", "above"]);
    assert_eq!(
        (&answer["scanned"], &answer["matched"], &answer["complete"]),
        (&json!(5), &json!(2), &json!(true))
    );
    let row = answer["rows"][0].as_array().unwrap();
    assert_eq!(
        row[..7],
        [json!("paused"), json!("Empty"), json!(0), json!(1000), json!(500), json!("payments-0"), json!(0)]
    );
    // Its last commit was in 2023; there is no trend yet.
    assert!(row[7].as_i64() > Some(60_000_000) && row[8].is_null() && row[9].is_null(), "{answer}");
    let on_orders = client.answer("list_groups", json!({"topic": "orders", "sort": "name"})).await;
    assert_eq!(on_orders["matched"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn describe_the_retention_config_for_the_payments_topic() {
    let server = cluster().await.serve().await;
    let client = Client::new(server.addr());
    let answer =
        client.answer("describe_configs", json!({"topics": ["payments"], "keys": ["retention"]})).await;
    let rows = json!([
        ["retention.bytes", "1073741824", "override", "1 GiB"],
        ["retention.ms", "604800000", "override", "7 days"],
    ]);
    assert_eq!(answer["topics"], json!([{"topic": "payments", "rows": rows}]));
    let answer = client.answer("describe_configs", json!({"topics": ["orders"]})).await;
    assert!(answer["topics"][0]["rows"].as_array().unwrap().contains(&json!([
        "retention.bytes",
        "-1",
        "default",
        "no limit"
    ])));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_s3_latency_and_error_rate() {
    let cluster = cluster().await;
    cluster.add_metrics(
        "kafscale_s3_health_state{state=\"healthy\"} 0\nkafscale_s3_health_state{state=\"degraded\"} 1\n",
    );
    cluster.add_metrics("kafscale_s3_latency_ms_avg 12.5\nkafscale_s3_error_rate 0.02\n");
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let s3 = &client.answer("cluster_metrics", json!({"sections": ["s3"]})).await["s3"];
    assert_eq!((&s3["state"], &s3["latency_ms"]["value"]), (&json!("degraded"), &json!(12.5)));
    assert_eq!(s3["error_rate"]["value"], 0.02);
    let status = client.answer("cluster_status", json!({})).await;
    assert_eq!(status["object_store"]["state"], "degraded");
    assert!(status["health"].as_str().unwrap().starts_with("needs attention"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_data_needs_attention() {
    let cluster = cluster().await;
    cluster.add_metrics("kafscale_storage_damaged_places 2\n");
    cluster.add_metrics("kafscale_partition_damaged_offsets{topic=\"orders\",partition=\"1\"} 17\n");
    let server = cluster.serve().await;
    let status = Client::new(server.addr()).answer("cluster_status", json!({})).await;
    let expected =
        "stored data is damaged in 2 places, 17 offsets cannot be read, in \"orders\" partition 1 for one";
    let warnings = status["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|w| w["problem"] == expected), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_the_store_does_not_give_need_attention() {
    let cluster = cluster().await;
    cluster.add_metrics("kafscale_storage_unreadable_objects 1\n");
    let server = cluster.serve().await;
    let status = Client::new(server.addr()).answer("cluster_status", json!({})).await;
    let expected = "cannot be read at the moment: 1 stored objects, whose records consumers wait for";
    let warnings = status["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|w| w["problem"] == expected), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn list_all_topics_and_their_partition_counts() {
    let server = cluster().await.serve().await;
    let client = Client::new(server.addr());
    let answer = client.answer("list_topics", json!({})).await;
    assert_eq!(answer["rows"], json!([["orders", 3, 0.0, 0.0], ["payments", 2, 0.0, 0.0]]));
    let first = client.answer("list_topics", json!({"limit": 1})).await;
    assert_eq!(first["rows"], json!([["orders", 3, 0.0, 0.0]]));
    let rest = client.answer("list_topics", json!({"limit": 1, "cursor": first["next_cursor"]})).await;
    assert_eq!((&rest["rows"], rest.get("next_cursor")), (&json!([["payments", 2, 0.0, 0.0]]), None));
    let wrong = client.error("list_topics", json!({"prefix": "p", "cursor": first["next_cursor"]})).await;
    assert!(wrong.contains("does not belong"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_and_offsets_are_described() {
    let server = cluster().await.serve().await;
    let client = Client::new(server.addr());
    let answer = client.answer("describe_topics", json!({"names": ["payments"]})).await;
    let rows = json!([[0, 1, 4, 0, 1000, 100_000], [1, 1, 4, 0, 2000, 200_000]]);
    assert_eq!(answer["topics"], json!([{"topic": "payments", "partitions": 2, "rows": rows}]));
    let healthy =
        client.answer("describe_topics", json!({"names": ["payments"], "only_unhealthy": true})).await;
    assert_eq!(healthy["topics"][0]["rows"], json!([]));
    let offsets =
        client.answer("fetch_offsets", json!({"group_id": "paused", "topics": ["orders", "payments"]})).await;
    assert_eq!(offsets["rows"][0], json!(["orders", 0, null, null, null]));
    assert_eq!(offsets["rows"][3], json!(["payments", 0, 500, null, "2023-11-14T22:13:20Z"]));
    let status = client.answer("cluster_status", json!({})).await;
    let counts = json!({"brokers": 1, "topics": 2, "partitions": 5, "groups": 3});
    assert_eq!(status["counts"], counts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_call_is_told_how_to_be_right() {
    let server = cluster().await.serve().await;
    let client = Client::new(server.addr());
    for (tool, arguments, says) in [
        ("describe_group", json!({"group_id": "order"}), "did you mean \"orders\"?"),
        ("describe_group", json!({"group": "orders"}), "did you mean \"group_id\"?"),
        ("describe_topics", json!({"names": ["payment"]}), "did you mean \"payments\"?"),
        ("describe_topics", json!({}), "names is missing"),
        ("list_topics", json!({"limit": "ten"}), "a whole number of 1 to 500"),
        ("list_groups", json!({"state": "stable"}), "did you mean \"Stable\"?"),
        (
            "describe_configs",
            json!({"topics": ["orders"], "keys": ["retention.m"]}),
            "did you mean \"retention.ms\"?",
        ),
        ("cluster_status", json!({"verbose": true}), "this tool takes no arguments"),
    ] {
        let error = client.error(tool, arguments).await;
        assert!(error.contains(says), "{tool}: {error}");
    }
    let unknown = client.request("tools/call", json!({"name": "list_topic", "arguments": {}})).await.json();
    assert!(
        unknown["error"]["message"].as_str().unwrap().contains("did you mean \"list_topics\"?"),
        "{unknown}"
    );
}
