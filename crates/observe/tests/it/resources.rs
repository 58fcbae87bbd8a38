//! Resources, prompts, the completion of names, and who is told of changes.

use serde_json::{Value, json};

use crate::client::Client;
use crate::cluster::Cluster;

async fn cluster() -> Cluster {
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 3, &[]).await;
    cluster.topic("orders.dlq", 1, &[]).await;
    cluster.topic("payments", 2, &[]).await;
    cluster.group("a/b c", "orders", 25, 2).await;
    cluster.group("line\nbreak", "payments", 0, 0).await;
    cluster
}

async fn read(client: &Client, uri: &str) -> Value {
    let mut answer = client.request("resources/read", json!({"uri": uri})).await.json();
    assert!(answer.get("error").is_none(), "{uri}: {answer}");
    let content = answer["result"]["contents"][0].take();
    assert_eq!((&content["uri"], &content["mimeType"]), (&json!(uri), &json!("application/json")));
    assert_eq!(answer["result"]["cacheScope"], "private");
    serde_json::from_str(content["text"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_says_what_its_tool_says() {
    let server = cluster().await.serve().await;
    let client = Client::new(server.addr());
    for (uri, tool, arguments) in [
        ("kafscale://topics", "list_topics", json!({})),
        ("kafscale://groups", "list_groups", json!({})),
        ("kafscale://topics/orders", "describe_topics", json!({"names": ["orders"]})),
        ("kafscale://groups/a%2Fb%20c", "describe_group", json!({"group_id": "a/b c"})),
        ("kafscale://groups/line%0Abreak", "describe_group", json!({"group_id": "line\nbreak"})),
        ("kafscale://cluster", "cluster_status", json!({})),
    ] {
        let (mut read, mut answer) = (read(&client, uri).await, client.answer(tool, arguments).await);
        for text in [&mut read, &mut answer] {
            // Times go on between two questions.
            text["observed_at"].take();
            text["metadata_store"].take();
            text["rate_window_s"].take();
        }
        assert_eq!(read, answer, "{uri}");
    }
    let listed = client.request("resources/list", json!({})).await.json();
    let uris: Vec<&Value> =
        listed["result"]["resources"].as_array().unwrap().iter().map(|r| &r["uri"]).collect();
    assert_eq!(uris, ["kafscale://cluster", "kafscale://topics", "kafscale://groups"]);
    let listed = client.request("resources/templates/list", json!({})).await.json();
    let templates = listed["result"]["resourceTemplates"].as_array().unwrap();
    let uris: Vec<&Value> = templates.iter().map(|r| &r["uriTemplate"]).collect();
    assert_eq!(uris, ["kafscale://topics/{topic}", "kafscale://groups/{group}"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_is_not_there_is_told_with_its_uri() {
    let server = cluster().await.serve().await;
    let client = Client::new(server.addr());
    for (uri, says) in [
        ("kafscale://topics/order", "did you mean \"orders\"?"),
        ("kafscale://groups/x%ff", "see resources/list"),
        ("kafscale://nothing", "see resources/list"),
        ("file:///etc/passwd", "see resources/list"),
    ] {
        let answer = client.request("resources/read", json!({"uri": uri})).await.json();
        assert_eq!(
            (&answer["error"]["code"], &answer["error"]["data"]["uri"]),
            (&json!(-32602), &json!(uri))
        );
        assert!(answer["error"]["message"].as_str().unwrap().contains(says), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_completed() {
    let server = cluster().await.serve().await;
    let client = Client::new(server.addr());
    let complete = async |of: Value, argument: &str, value: &str| {
        let params = json!({"ref": of, "argument": {"name": argument, "value": value}});
        client.request("completion/complete", params).await.json()
    };
    let topic = json!({"type": "ref/resource", "uri": "kafscale://topics/{topic}"});
    let completion = &complete(topic.clone(), "topic", "ord").await["result"]["completion"];
    assert_eq!(completion, &json!({"values": ["orders", "orders.dlq"], "total": 2, "hasMore": false}));
    let lag = json!({"type": "ref/prompt", "name": "debug_lag"});
    let completion = &complete(lag, "group", "").await["result"]["completion"];
    assert_eq!(completion["values"], json!(["a/b c", "line\\u{a}break"]));
    assert_eq!(complete(topic, "group", "").await["error"]["code"], -32602);
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_tasks_about_what_was_named() {
    let server = cluster().await.serve().await;
    let client = Client::new(server.addr());
    let listed = client.request("prompts/list", json!({})).await.json();
    let names: Vec<&Value> =
        listed["result"]["prompts"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
    assert_eq!(names, ["debug_lag", "capacity_report"]);
    let params = json!({"name": "debug_lag", "arguments": {"group": "a/b c"}});
    let task = client.request("prompts/get", params).await.json();
    let text = task["result"]["messages"][0]["content"]["text"].as_str().unwrap();
    assert!(text.contains("the consumer group \"a/b c\" lags"), "{text}");
    let wrong = client.request("prompts/get", json!({"name": "debug_lag", "arguments": {}})).await.json();
    assert_eq!(wrong["error"]["code"], -32602);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_of_changes_that_were_asked_for() {
    let mut cluster = cluster().await;
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let uris = json!(["kafscale://topics/fresh", "kafscale://topics/orders", "file:///x"]);
    let mut stream = client.listen(json!({"resourceSubscriptions": uris, "toolsListChanged": true})).await;
    let acknowledged = stream.next().await.unwrap();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    let accepted = json!({"resourceSubscriptions": ["kafscale://topics/fresh", "kafscale://topics/orders"]});
    assert_eq!(acknowledged["params"]["notifications"], accepted);
    cluster.topic("fresh", 1, &[]).await;
    let mut told = [stream.next().await.unwrap(), stream.next().await.unwrap()];
    told.sort_by_key(|update| update["params"]["uri"].to_string());
    for (update, uri) in told.iter().zip(["kafscale://topics/fresh", "kafscale://topics/orders"]) {
        assert_eq!(update["method"], "notifications/resources/updated");
        assert_eq!(update["params"]["uri"], uri, "its partitions have leaders");
        assert_eq!(update["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1);
    }
    server.shutdown().await;
    assert_eq!(stream.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_told_of_changes_that_it_subscribed_to() {
    let mut cluster = cluster().await;
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let session = client.session().await;
    client.send_in(&session, json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    let mut events = client.events_of(&session).await;
    let request = |id: u32, method: &str, uri: &str| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {"uri": uri}});
    for (id, uri) in [(1, "kafscale://groups/late"), (2, "kafscale://topics"), (3, "kafscale://groups")] {
        let reply = client.send_in(&session, request(id, "resources/subscribe", uri)).await;
        assert_eq!(reply.json()["result"], json!({}));
    }
    let reply = client.send_in(&session, request(4, "resources/unsubscribe", "kafscale://groups")).await;
    assert_eq!(reply.json()["result"], json!({}));
    let reply = client.send_in(&session, request(5, "resources/subscribe", "file:///x")).await;
    assert_eq!(reply.json()["error"]["code"], -32002);
    cluster.group("late", "orders", 1, 1).await;
    let update = events.next().await.unwrap();
    assert_eq!(update["params"], json!({"uri": "kafscale://groups/late"}));
    cluster.topic("fresh", 1, &[]).await;
    let update = events.next().await.unwrap();
    assert_eq!(update["params"], json!({"uri": "kafscale://topics"}));
}
