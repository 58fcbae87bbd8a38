//! Every refusal by HTTP's means says what is wrong and what to send instead, as a JSON-RPC error.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{Client, Reply};
use crate::cluster::{Cluster, TOKEN};

type Header = (&'static str, &'static str);

const ACCEPT: Header = ("accept", "application/json, text/event-stream");
const JSON: Header = ("content-type", "application/json");
const FORM: Header = ("content-type", "application/x-www-form-urlencoded");
const SESSION: Header = ("mcp-session-id", "nobody-knows");
const STATELESS: Header = ("mcp-protocol-version", "2026-07-28");

const PING: &str = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;
/// Stands for a body that is longer than the server takes.
const LONG: &str = "long";

fn initialize() -> String {
    json!({"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "curl", "version": "1"}}})
    .to_string()
}

/// What an answer says, if it is an error of this id under this status.
fn told(reply: &Reply, status: u16, id: &Value) -> Result<String, String> {
    let wrong = |what: &str| Err(format!("{what}: {} {:?}", reply.status, reply.body));
    if reply.status.as_u16() != status {
        return wrong("another status");
    }
    let Ok(error) = serde_json::from_str::<Value>(&reply.body) else { return wrong("no JSON") };
    let is_error = error["jsonrpc"] == "2.0" && error["error"]["code"].is_i64() && error["id"] == *id;
    if !is_error || reply.header("content-type") != "application/json" {
        return wrong("no JSON-RPC error of this request");
    }
    Ok(error["error"]["message"].as_str().unwrap_or_default().to_owned())
}

/// Method, path, headers, body, status, id of the error, what it says.
type Row =
    (&'static str, &'static str, &'static [Header], &'static str, u16, Option<i32>, &'static [&'static str]);

const ROWS: &[Row] = &[
    ("POST", "/mcp", &[ACCEPT, JSON], "{", 400, None, &["not JSON", "send one JSON-RPC message"]),
    ("POST", "/mcp", &[JSON], r#"{"id": 7}"#, 400, Some(7), &["not a JSON-RPC 2.0 message", "\"method\""]),
    (
        "POST",
        "/mcp",
        &[JSON],
        r#"[{"jsonrpc":"2.0","id":7,"method":"ping"}]"#,
        400,
        None,
        &["batches", "one message in each request"],
    ),
    (
        "POST",
        "/mcp",
        &[JSON],
        PING,
        400,
        Some(7),
        &["Session ID is required", "POST initialize", "Mcp-Session-Id", "2026-07-28", "_meta"],
    ),
    ("GET", "/mcp", &[ACCEPT], "", 400, None, &["Session ID is required", "POST initialize"]),
    ("DELETE", "/mcp", &[], "", 400, None, &["Session ID is required"]),
    (
        "POST",
        "/mcp",
        &[JSON, ("mcp-protocol-version", "2020-01-01")],
        PING,
        400,
        Some(7),
        &["2020-01-01", "send one of", "2025-06-18, 2025-11-25"],
    ),
    (
        "POST",
        "/mcp",
        &[JSON, STATELESS, ("mcp-method", "ping")],
        PING,
        400,
        Some(7),
        &["_meta", "protocolVersion"],
    ),
    ("POST", "/mcp?token=x", &[JSON], PING, 400, None, &["token in the address", "Authorization: Bearer"]),
    (
        "POST",
        "/mcp",
        &[JSON, ("authorization", "Bearer x")],
        PING,
        401,
        None,
        &["several Authorization headers", "send another"],
    ),
    (
        "POST",
        "/mcp",
        &[JSON, ("host", "evil.example")],
        PING,
        403,
        Some(7),
        &["Host", "KAFSCALE_MCP_ALLOWED_HOSTS"],
    ),
    (
        "POST",
        "/mcp",
        &[JSON, ("origin", "https://evil.example")],
        PING,
        403,
        Some(7),
        &["Origin", "KAFSCALE_MCP_ALLOWED_ORIGINS"],
    ),
    (
        "OPTIONS",
        "/mcp",
        &[("origin", "https://evil.example"), ("access-control-request-method", "POST")],
        "",
        403,
        None,
        &["origin"],
    ),
    (
        "POST",
        "/mcp",
        &[JSON, SESSION],
        PING,
        404,
        Some(7),
        &["Session terminated, expired or unknown", "POST initialize"],
    ),
    ("GET", "/mcp", &[ACCEPT, SESSION], "", 404, None, &["POST initialize"]),
    ("DELETE", "/mcp", &[SESSION], "", 404, None, &["POST initialize"]),
    ("PUT", "/mcp", &[JSON], PING, 405, None, &["POST a JSON-RPC message"]),
    ("GET", "/mcp", &[ACCEPT, STATELESS], "", 405, None, &["POST a JSON-RPC message"]),
    (
        "POST",
        "/mcp",
        &[JSON, ("accept", "text/html")],
        PING,
        406,
        Some(7),
        &["Accept", "application/json, text/event-stream"],
    ),
    ("GET", "/mcp", &[("accept", "text/html")], "", 406, None, &["Accept: text/event-stream", "POST"]),
    ("POST", "/mcp", &[JSON], LONG, 413, None, &["longer than 1048576 bytes", "ask for less"]),
    (
        "POST",
        "/mcp",
        &[FORM],
        "method=ping",
        415,
        None,
        &["Content-Type is application/x-www-form-urlencoded", "not JSON", "Content-Type: application/json"],
    ),
    ("POST", "/mcp", &[], "", 415, None, &["no header Content-Type", "Content-Type: application/json"]),
    (
        "POST",
        "/mcp",
        &[("content-type", "text/xml")],
        PING,
        415,
        None,
        &["Content-Type is text/xml", "Content-Type: application/json"],
    ),
    (
        "POST",
        "/mcp",
        &[JSON, ("content-encoding", "gzip")],
        PING,
        415,
        None,
        &["gzip", "without the header Content-Encoding"],
    ),
    // A page may send a form to any server without asking first.
    (
        "POST",
        "/mcp",
        &[FORM, ("origin", "http://localhost:1")],
        PING,
        415,
        None,
        &["Content-Type: application/json"],
    ),
    (
        "POST",
        "/mcp",
        &[FORM, ("sec-fetch-site", "cross-site")],
        PING,
        415,
        None,
        &["Content-Type: application/json"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_says_what_is_wrong_and_what_to_send_instead() {
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    let mut wrong = Vec::new();
    for (method, path, headers, body, status, id, says) in ROWS {
        let body = if *body == LONG { "x".repeat(1 + (1 << 20)) } else { (*body).to_owned() };
        let reply = client.send(method.parse().unwrap(), path, headers, body).await;
        match told(&reply, *status, &json!(id)) {
            Ok(message) if says.iter().all(|said| message.contains(said)) => {}
            Ok(message) => wrong.push(format!("{method} {path} {headers:?} says only: {message}")),
            Err(why) => wrong.push(format!("{method} {path} {headers:?}: {why}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (method, path, status, says) in [
        (Method::POST, "/", 404, "the MCP endpoint is /mcp"),
        (Method::GET, "/.well-known/oauth-authorization-server", 404, "the MCP endpoint is /mcp"),
        (Method::POST, "/healthz", 405, "send GET"),
    ] {
        let reply = client.send(method, path, &[], String::new()).await;
        assert_eq!(reply.status.as_u16(), status, "{path}");
        assert!(reply.body.contains(says), "{path}: {}", reply.body);
    }
    client.answer("cluster_status", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_version_within_a_session_is_told_the_known_ones() {
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    let session = client.session().await;
    let headers =
        [ACCEPT, JSON, ("mcp-session-id", session.as_str()), ("mcp-protocol-version", "1999-01-01")];
    let reply = client.send(Method::POST, "/mcp", &headers, PING.to_owned()).await;
    let message = told(&reply, 400, &json!(7)).unwrap();
    assert!(message.contains("1999-01-01") && message.contains("2025-06-18, 2025-11-25"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_or_asks_too_much_is_told_so() {
    let cluster = Cluster::new().await;
    let server = cluster
        .serve_with(|s| {
            s.edge.identity.auth_token = Some(TOKEN.into());
            (s.edge.calls_per_second, s.edge.calls_burst) = (1, 1);
        })
        .await;
    let mut client = Client::new(server.addr());
    let ask = async |client: &Client| client.send(Method::POST, "/mcp", &[JSON], initialize()).await;
    assert_eq!(ask(&client).await.status, StatusCode::OK);
    let reply = ask(&client).await;
    let message = told(&reply, 429, &Value::Null).unwrap();
    assert_eq!((message.as_str(), reply.header("retry-after")), ("too many requests: try again in 1 s", "1"));
    for (token, says) in
        [(None, "send the header Authorization: Bearer TOKEN"), (Some("wrong"), "send another one")]
    {
        client.token = token.map(str::to_owned);
        let reply = ask(&client).await;
        let message = told(&reply, 401, &Value::Null).unwrap();
        assert!(
            message.contains(says) && reply.header("www-authenticate").starts_with("Bearer"),
            "{message}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_a_message_is_served_as_curl_sends_it() {
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    for headers in
        [vec![FORM, ("accept", "*/*")], vec![], vec![("content-type", "text/plain; charset=utf-8")]]
    {
        let reply = client.send(Method::POST, "/mcp", &headers, initialize()).await;
        assert_eq!(reply.status, StatusCode::OK, "{headers:?}: {}", reply.body);
        assert_eq!(reply.json()["result"]["protocolVersion"], "2025-06-18");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_told_to_be_sent_again() {
    let server = Cluster::new().await.serve().await;
    let mut stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("did not come in time"), "{answer}");
}
