//! Who is let in, and what is written about it.

use hyper::{Method, StatusCode};
use kafscale_observe::{ObserveConfig, ObserveSettings, audit};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::client::Client;
use crate::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_needed_except_for_health() {
    let server = Cluster::new().await.serve().await;
    let mut client = Client::new(server.addr());
    for (token, challenge) in [
        (None, "Bearer realm=\"kafscale\", scope=\"observe\""),
        (
            Some("wrong-token"),
            "Bearer realm=\"kafscale\", error=\"invalid_token\", error_description=\"the token is not known\"",
        ),
    ] {
        client.token = token.map(str::to_owned);
        let reply = client.request("tools/list", json!({})).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
        assert_eq!(reply.header("www-authenticate"), challenge);
        let health = client.send(Method::GET, "/healthz", &[], String::new()).await;
        assert_eq!((health.status, health.body.as_str()), (StatusCode::OK, "ok\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_the_scope_is_forbidden() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    let hash = |token: &str| Sha256::digest(token).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let lines =
        format!("ana observe sha256:{}\nbot mutate sha256:{}\n", hash("token-of-ana"), hash("token-of-bot"));
    std::fs::write(&file, lines).unwrap();
    let server = Cluster::new().await.serve_with(|s| s.edge.identity.auth_token_file = Some(file)).await;
    let mut client = Client::new(server.addr());
    client.token = Some("token-of-ana".into());
    assert_eq!(client.request("tools/list", json!({})).await.status, StatusCode::OK);
    client.token = Some("token-of-bot".into());
    let reply = client.request("tools/list", json!({})).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert!(reply.header("www-authenticate").contains("error=\"insufficient_scope\", scope=\"observe\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_hosts_and_origins_are_refused() {
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    // Browsers ask first, without a token, and let pages read what they are allowed to.
    for (origin, status, allowed) in [
        ("http://localhost:6274", StatusCode::NO_CONTENT, "http://localhost:6274"),
        ("https://evil.example", StatusCode::FORBIDDEN, ""),
    ] {
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        let reply = client.send(Method::OPTIONS, "/mcp", &headers, String::new()).await;
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (status, allowed));
        let reply = client.request_with("tools/list", json!({}), &[("origin", origin)]).await;
        assert_eq!(reply.header("access-control-allow-origin"), allowed);
    }
    for (headers, status) in [
        (("host", "evil.example"), StatusCode::FORBIDDEN),
        (("origin", "https://evil.example"), StatusCode::FORBIDDEN),
        (("origin", "null"), StatusCode::FORBIDDEN),
        (("origin", "http://localhost:6274"), StatusCode::OK),
    ] {
        let reply = client.request_with("tools/list", json!({}), &[headers]).await;
        assert_eq!(reply.status, status, "{headers:?}: {}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused() {
    let cluster = Cluster::new().await;
    let server = cluster
        .serve_with(|s| {
            s.edge.identity.auth_token = Some(crate::cluster::TOKEN.into());
            (s.edge.calls_per_second, s.edge.calls_burst) = (1, 2);
        })
        .await;
    let client = Client::new(server.addr());
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(client.request("tools/list", json!({})).await.status);
    }
    assert_eq!(statuses, [StatusCode::OK, StatusCode::OK, StatusCode::TOO_MANY_REQUESTS]);

    let server = cluster.serve().await;
    let client = Client::new(server.addr());
    let big = json!({"name": "list_topics", "arguments": {"prefix": "x".repeat(2 << 20)}});
    assert_eq!(client.request("tools/call", big).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_leaves_a_line_and_the_chain_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let server = Cluster::new().await.serve_with(|s| s.edge.audit_log = Some(path.clone())).await;
    let mut client = Client::new(server.addr());
    client.token = None;
    client.answer("list_topics", json!({"prefix": "a\nb"})).await;
    client.error("list_topics", json!({"password": "hunter2"})).await;
    client.request("tools/call", json!({"name": "drop_topics", "arguments": {}})).await;
    // Calls that are none, each in its way.
    for arguments in [json!([1]), json!("x"), json!(7)] {
        let reply =
            client.request("tools/call", json!({"name": "list_topics", "arguments": arguments})).await;
        assert_eq!(reply.json()["error"]["code"], -32602, "{}", reply.body);
    }
    client.request("topics/delete", json!({})).await;
    let batch = json!([{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {}}]).to_string();
    let json_kind = [("content-type", "application/json")];
    client.send(Method::POST, "/mcp", &json_kind, batch).await;
    // No such session.
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "list_topics", "arguments": {"password": "hunter2"}}});
    client.send_in("nobody's", call).await;
    // A call without an id, and what is no call.
    let session = client.session().await;
    for (method, params) in [
        ("tools/call", json!({"name": "list_topics", "arguments": {}})),
        ("notifications/cancelled", json!({"requestId": 7})),
    ] {
        let told = json!({"jsonrpc": "2.0", "method": method, "params": params});
        assert_eq!(client.send_in(&session, told).await.status, StatusCode::ACCEPTED);
    }
    server.shutdown().await;

    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    let all = [
        "ok",
        "invalid",
        "unknown tool",
        "invalid",
        "invalid",
        "invalid",
        "unknown method",
        "400 malformed",
        "404 refused",
        "202 ignored: no id",
    ];
    assert_eq!(outcomes, all);
    assert!(
        lines[3..6].iter().all(|line| line["tool"] == "list_topics" && line["arguments_sha256"].is_string())
    );
    assert_eq!((&lines[0]["principal"], &lines[0]["tool"]), (&json!("anonymous"), &json!("list_topics")));
    assert_eq!((&lines[0]["arguments"], &lines[0]["outcome"]), (&json!({"prefix": "a\nb"}), &json!("ok")));
    assert_eq!(lines[0]["client"], "test/1");
    assert!(lines[0]["result_bytes"].as_u64() > Some(0));
    assert_eq!((lines[1].get("arguments"), &lines[1]["outcome"]), (None, &json!("invalid")));
    assert!(!text.contains("hunter2"), "an argument that no tool knows was written");
    assert_eq!(lines[2]["outcome"], "unknown tool");
    assert_eq!((&lines[9]["tool"], lines[9].get("request_id")), (&json!("list_topics"), None));
    assert_eq!(audit::verify(&path).unwrap().lines, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_audit_log_that_can_be_written_nothing_is_answered() {
    // Opening is refused right away where the file cannot be written at all.
    let mut settings = ObserveSettings::default();
    settings.edge.audit_log = Some("/proc/kafscale-audit".into());
    let config = ObserveConfig::new(settings).unwrap();
    let cluster = Cluster::new().await;
    let clock = std::sync::Arc::new(crate::cluster::SystemClock);
    assert!(kafscale_observe::start(config, cluster.metadata.clone(), clock).await.is_err());
}
