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

fn ping() -> String {
    json!({"jsonrpc": "2.0", "id": 7, "method": "ping"}).to_string()
}

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

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_says_what_is_wrong_and_what_to_send_instead() {
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    let none = || Value::Null;
    let long = format!("{{\"x\": \"{}\"}}", "x".repeat(1 << 20));
    let rows: Vec<(&str, &str, Vec<Header>, String, u16, Value, &[&str])> = vec![
        (
            "POST",
            "/mcp",
            vec![ACCEPT, JSON],
            "{".into(),
            400,
            none(),
            &["not JSON", "send one JSON-RPC message"],
        ),
        (
            "POST",
            "/mcp",
            vec![JSON],
            json!({"id": 7}).to_string(),
            400,
            json!(7),
            &["not a JSON-RPC 2.0 message", "\"method\""],
        ),
        (
            "POST",
            "/mcp",
            vec![JSON],
            format!("[{}]", ping()),
            400,
            none(),
            &["batches", "one message in each request"],
        ),
        (
            "POST",
            "/mcp",
            vec![JSON],
            ping(),
            400,
            json!(7),
            &["Session ID is required", "POST initialize", "Mcp-Session-Id", "2026-07-28", "_meta"],
        ),
        (
            "GET",
            "/mcp",
            vec![ACCEPT],
            String::new(),
            400,
            none(),
            &["Session ID is required", "POST initialize"],
        ),
        ("DELETE", "/mcp", vec![], String::new(), 400, none(), &["Session ID is required"]),
        (
            "POST",
            "/mcp",
            vec![JSON, ("mcp-protocol-version", "2020-01-01")],
            ping(),
            400,
            json!(7),
            &["2020-01-01", "send one of", "2025-06-18, 2025-11-25"],
        ),
        (
            "POST",
            "/mcp",
            vec![JSON, STATELESS, ("mcp-method", "ping")],
            ping(),
            400,
            json!(7),
            &["_meta", "protocolVersion"],
        ),
        (
            "POST",
            "/mcp?token=x",
            vec![JSON],
            ping(),
            400,
            none(),
            &["token in the address", "Authorization: Bearer"],
        ),
        (
            "POST",
            "/mcp",
            vec![JSON, ("authorization", "Bearer x")],
            ping(),
            401,
            none(),
            &["several Authorization headers", "send another"],
        ),
        (
            "POST",
            "/mcp",
            vec![JSON, ("host", "evil.example")],
            ping(),
            403,
            json!(7),
            &["Host", "KAFSCALE_MCP_ALLOWED_HOSTS"],
        ),
        (
            "POST",
            "/mcp",
            vec![JSON, ("origin", "https://evil.example")],
            ping(),
            403,
            json!(7),
            &["Origin", "KAFSCALE_MCP_ALLOWED_ORIGINS"],
        ),
        (
            "OPTIONS",
            "/mcp",
            vec![("origin", "https://evil.example"), ("access-control-request-method", "POST")],
            String::new(),
            403,
            none(),
            &["origin"],
        ),
        (
            "POST",
            "/mcp",
            vec![JSON, SESSION],
            ping(),
            404,
            json!(7),
            &["Session terminated, expired or unknown", "POST initialize"],
        ),
        ("GET", "/mcp", vec![ACCEPT, SESSION], String::new(), 404, none(), &["POST initialize"]),
        ("DELETE", "/mcp", vec![SESSION], String::new(), 404, none(), &["POST initialize"]),
        ("PUT", "/mcp", vec![JSON], ping(), 405, none(), &["POST a JSON-RPC message"]),
        ("GET", "/mcp", vec![ACCEPT, STATELESS], String::new(), 405, none(), &["POST a JSON-RPC message"]),
        (
            "POST",
            "/mcp",
            vec![JSON, ("accept", "text/html")],
            ping(),
            406,
            json!(7),
            &["Accept", "application/json, text/event-stream"],
        ),
        (
            "GET",
            "/mcp",
            vec![("accept", "text/html")],
            String::new(),
            406,
            none(),
            &["Accept: text/event-stream", "POST"],
        ),
        ("POST", "/mcp", vec![JSON], long, 413, none(), &["longer than 1048576 bytes", "ask for less"]),
        (
            "POST",
            "/mcp",
            vec![FORM],
            "method=ping".into(),
            415,
            none(),
            &[
                "Content-Type is application/x-www-form-urlencoded",
                "not JSON",
                "Content-Type: application/json",
            ],
        ),
        (
            "POST",
            "/mcp",
            vec![],
            String::new(),
            415,
            none(),
            &["no header Content-Type", "Content-Type: application/json"],
        ),
        (
            "POST",
            "/mcp",
            vec![("content-type", "text/xml")],
            ping(),
            415,
            none(),
            &["Content-Type is text/xml", "Content-Type: application/json"],
        ),
        (
            "POST",
            "/mcp",
            vec![JSON, ("content-encoding", "gzip")],
            ping(),
            415,
            none(),
            &["gzip", "without the header Content-Encoding"],
        ),
        // A page may send a form to any server without asking first.
        (
            "POST",
            "/mcp",
            vec![FORM, ("origin", "http://localhost:1")],
            ping(),
            415,
            none(),
            &["Content-Type: application/json"],
        ),
        (
            "POST",
            "/mcp",
            vec![FORM, ("sec-fetch-site", "cross-site")],
            ping(),
            415,
            none(),
            &["Content-Type: application/json"],
        ),
    ];
    let mut wrong = Vec::new();
    for (method, path, headers, body, status, id, says) in rows {
        let reply = client.send(method.parse().unwrap(), path, &headers, body).await;
        match told(&reply, status, &id) {
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
    let reply = client.send(Method::POST, "/mcp", &headers, ping()).await;
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
