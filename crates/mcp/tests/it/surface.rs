//! What the server says about itself, in both revisions.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::Client;
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
async fn what_is_not_declared_is_not_there() {
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    let capabilities =
        client.request("server/discover", json!({})).await.json()["result"]["capabilities"].take();
    for (capability, method) in [
        ("prompts", "prompts/list"),
        ("resources", "resources/list"),
        ("resources", "resources/templates/list"),
    ] {
        assert!(capabilities.get(capability).is_none(), "{capabilities}");
        let answer = client.request(method, json!({})).await.json();
        assert_eq!(answer["error"]["code"], -32601, "{method}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_sessions_are_served_until_they_end_them() {
    let mut cluster = Cluster::new().await;
    cluster.topic("orders", 3, &[]).await;
    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let accept = ("accept", "application/json, text/event-stream");
    let json_type = ("content-type", "application/json");
    let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let reply = client.send(Method::POST, "/mcp", &[accept, json_type], initialize.to_string()).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.json()["result"]["protocolVersion"], "2025-11-25");
    let session = reply.header("mcp-session-id").to_owned();
    let headers =
        [accept, json_type, ("mcp-session-id", session.as_str()), ("mcp-protocol-version", "2025-11-25")];
    let send = |body: Value| client.send(Method::POST, "/mcp", &headers, body.to_string());
    let reply = send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "list_topics", "arguments": {}}});
    let reply = send(call.clone()).await;
    assert_eq!(reply.json()["result"]["structuredContent"]["rows"][0][0], "orders");
    let reply = client.send(Method::DELETE, "/mcp", &headers, String::new()).await;
    assert!(reply.status.is_success(), "{}", reply.status);
    assert_eq!(send(call).await.status, StatusCode::NOT_FOUND);
}
