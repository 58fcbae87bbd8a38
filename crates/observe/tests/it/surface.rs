//! What the server says about itself, in both revisions.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::{Client, in_session, stateless};
use crate::cluster::Cluster;

const TOOLS: [&str; 9] = [
    "cluster_status",
    "cluster_metrics",
    "list_topics",
    "describe_topics",
    "list_groups",
    "describe_group",
    "fetch_offsets",
    "describe_configs",
    "recent_changes",
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
    // The SDK for Python takes 202 for a failure.
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    assert_eq!(send(call).await.status, StatusCode::NOT_FOUND);
}

fn initialize(version: &str) -> String {
    json!({"jsonrpc": "2.0", "id": "a b", "method": "initialize", "params": {
        "protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_is_answered_in_a_form_that_it_accepts() {
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    let [json_kind, events] = ["application/json", "text/event-stream"];
    for (accept, kind) in [
        (None, json_kind),
        (Some("*/*"), json_kind),
        (Some("application/json"), json_kind),
        (Some("application/*"), json_kind),
        (Some("text/event-stream"), events),
        (Some("Application/JSON, Text/Event-Stream"), events),
    ] {
        let mut headers = vec![("content-type", "application/json; charset=utf-8")];
        headers.extend(accept.map(|accept| ("accept", accept)));
        let reply = client.send(Method::POST, "/mcp", &headers, initialize("2025-06-18")).await;
        assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, kind), "{accept:?}");
        assert_eq!(reply.json()["result"]["protocolVersion"], "2025-06-18", "{accept:?}");
        let session = reply.header("mcp-session-id").to_owned();
        headers.push(("mcp-session-id", &session));
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
        assert_eq!(client.send(Method::POST, "/mcp/", &headers, ready).await.status, StatusCode::ACCEPTED);
        let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
            "params": {"name": "list_topics", "arguments": {}}});
        let reply = client.send(Method::POST, "/mcp/", &headers, call.to_string()).await;
        assert_eq!((reply.header("content-type"), &reply.json()["id"]), (kind, &json!(7)), "{accept:?}");
        // The revision without sessions, too.
        let (more, body) = crate::client::stateless("tools/list", json!({}));
        let more: Vec<(&str, &str)> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut headers: Vec<(&str, &str)> = more.into_iter().filter(|(name, _)| *name != "accept").collect();
        headers.extend(accept.map(|accept| ("accept", accept)));
        let reply = client.send(Method::POST, "/mcp", &headers, body).await;
        let json_or_both = if accept == Some(events) { events } else { json_kind };
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (StatusCode::OK, json_or_both),
            "{accept:?}"
        );
        assert!(reply.json()["result"]["tools"].is_array());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn initialize_negotiates_by_its_body_whatever_the_header_says() {
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    for (body, header, known) in [
        ("2025-11-25", "2025-06-18", true),
        ("2025-06-18", "2099-01-01", true),
        ("2099-01-01", "2099-01-01", false),
        ("2024-10-07", "x", false),
    ] {
        let headers = [("content-type", "application/json"), ("mcp-protocol-version", header)];
        let reply = client.send(Method::POST, "/mcp", &headers, initialize(body)).await;
        let negotiated = reply.json()["result"]["protocolVersion"].as_str().unwrap().to_owned();
        assert_eq!(negotiated == body, known, "{body} {header}: {negotiated}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initialize_of_a_revision_without_sessions_is_a_method_that_is_not_there() {
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    let (headers, body) = stateless("initialize", json!({}));
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let reply = client.send(Method::POST, "/mcp", &headers, body).await;
    assert_eq!((reply.status, reply.json()["error"]["code"].as_i64()), (StatusCode::NOT_FOUND, Some(-32601)));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_static_tokens_there_is_no_authorization_server_to_find() {
    let server = Cluster::new().await.serve().await;
    let mut client = Client::new(server.addr());
    client.token = None;
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/mcp/.well-known/openid-configuration",
    ] {
        let reply = client.send(Method::GET, path, &[], String::new()).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
    }
}
