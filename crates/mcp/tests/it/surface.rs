//! What the server says about itself, in both revisions.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::{Client, in_session};
use crate::cluster::Cluster;

const TOOLS: [&str; 8] = [
    "cluster_status",
    "cluster_metrics",
    "list_topics",
    "describe_topics",
    "list_groups",
    "describe_group",
    "fetch_offsets",
    "describe_configs",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_tools_are_listed_with_schemas_and_read_only() {
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    let result = &client.request("tools/list", json!({})).await.json()["result"];
    assert_eq!(result["cacheScope"], "private");
    let tools = result["tools"].as_array().unwrap();
    let names: Vec<&Value> = tools.iter().map(|tool| &tool["name"]).collect();
    assert_eq!(names, TOOLS);
    for tool in tools {
        assert_eq!(tool["annotations"]["readOnlyHint"], true, "{tool}");
        assert_eq!(tool["inputSchema"]["type"], "object", "{tool}");
        assert_eq!(tool["inputSchema"]["additionalProperties"], false, "{tool}");
        assert_eq!(tool["outputSchema"]["type"], "object", "{tool}");
        let input = tool["inputSchema"].to_string();
        assert!(!input.contains("null") && !input.contains("$ref"), "{input}");
    }
    if let Ok(path) = std::env::var("KAFSCALE_TEST_TOOLS_JSON") {
        std::fs::write(path, serde_json::to_string(tools).unwrap()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stateless_revision_is_discovered() {
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    let result = &client.request("server/discover", json!({})).await.json()["result"];
    assert!(result["supportedVersions"].as_array().unwrap().contains(&json!("2026-07-28")), "{result}");
    assert_eq!(result["cacheScope"], "private");
    assert!(result["capabilities"].get("tools").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_is_there_and_nothing_else() {
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    let capabilities =
        client.request("server/discover", json!({})).await.json()["result"]["capabilities"].take();
    // The lists change with a release only; what can change is what a resource shows.
    let declared = json!({"completions": {}, "prompts": {}, "resources": {"subscribe": true}, "tools": {}});
    assert_eq!(capabilities, declared);
    for method in ["tools/list", "prompts/list", "resources/list", "resources/templates/list"] {
        let result = &client.request(method, json!({})).await.json()["result"];
        assert_eq!(result["cacheScope"], "private", "{method}");
        assert!(result.get("nextCursor").is_none(), "{method}");
        let wrong = client.request(method, json!({"cursor": "x"})).await.json();
        assert_eq!(wrong["error"]["code"], -32602, "{method}");
    }
    for method in ["logging/setLevel", "resources/subscribe", "skills/list", "topics/delete"] {
        let answer = client.request(method, json!({"level": "info", "uri": "kafscale://topics"})).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (StatusCode::NOT_FOUND, &json!(-32601)),
            "{method}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_sessions_are_served_until_they_end_them() {
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 3, &[]).await;
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let session = client.session().await;
    let send = |body: Value| client.send_in(&session, body);
    let reply = send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "list_topics", "arguments": {}}});
    let reply = send(call.clone()).await;
    assert_eq!(reply.json()["result"]["structuredContent"]["rows"][0][0], "orders");
    let reply = client.send(Method::DELETE, "/mcp", &in_session(&session), String::new()).await;
    assert!(reply.status.is_success(), "{}", reply.status);
    assert_eq!(send(call).await.status, StatusCode::NOT_FOUND);
}
