//! A small client: what is sent and what comes back, byte for byte, without a library that knows the protocol.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::cluster::TOKEN;

pub struct Client {
    pub address: SocketAddr,
    pub token: Option<String>,
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: hyper::HeaderMap,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The JSON of the body, or of the last event of a stream.
    pub fn json(&self) -> Value {
        let text = match self.header("content-type").starts_with("text/event-stream") {
            true => {
                self.body.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().unwrap_or("")
            }
            false => &self.body,
        };
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {} {:?}", self.status, self.body))
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, token: Some(TOKEN.into()) }
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Reply {
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", self.address.to_string());
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        connection.abort();
        Reply { status: head.status, headers: head.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    /// A request of the 2026-07-28 revision: everything is in the request itself.
    pub async fn request(&self, method: &str, params: Value) -> Reply {
        self.request_with(method, params, &[]).await
    }

    pub async fn request_with(&self, method: &str, mut params: Value, more: &[(&str, &str)]) -> Reply {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let name = params.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut headers = vec![
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", method),
        ];
        if !name.is_empty() {
            headers.push(("mcp-name", &name));
        }
        headers.extend(more);
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        self.send(Method::POST, "/mcp", &headers, body).await
    }

    /// A tool's result, errors included.
    pub async fn call(&self, tool: &str, arguments: Value) -> Value {
        let reply = self.request("tools/call", json!({"name": tool, "arguments": arguments})).await;
        let mut answer = reply.json();
        assert!(answer.get("error").is_none(), "{answer}");
        answer["result"].take()
    }

    /// A tool's answer, checked: both forms say the same, and the published schema holds.
    pub async fn answer(&self, tool: &str, arguments: Value) -> Value {
        let mut result = self.call(tool, arguments).await;
        assert_eq!(result["isError"], false, "{result}");
        let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text, result["structuredContent"]);
        let listed = self.request("tools/list", json!({})).await.json();
        let tools = listed["result"]["tools"].as_array().unwrap().clone();
        let schema = &tools.iter().find(|t| t["name"] == tool).unwrap()["outputSchema"];
        super::schema::check(&text, schema, "answer");
        result["structuredContent"].take()
    }

    /// What a tool says is wrong with its arguments.
    pub async fn error(&self, tool: &str, arguments: Value) -> String {
        let result = self.call(tool, arguments).await;
        assert_eq!(result["isError"], true, "{result}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }
}
