//! A small client: what is sent and what comes back, byte for byte, without a library that knows the protocol.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::cluster::TOKEN;

pub struct Client {
    pub address: SocketAddr,
    pub token: Option<String>,
    /// With the name to ask for.
    pub tls: Option<(TlsConnector, &'static str)>,
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

    /// What a refusal says.
    pub fn told(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, token: Some(TOKEN.into()), tls: None }
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Reply {
        let (head, body) = self.open(method, path, headers, body).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: head.status, headers: head.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Response<Incoming> {
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let mut sender = match &self.tls {
            None => sender(stream).await,
            Some((connector, name)) => {
                let name = ServerName::try_from(*name).unwrap();
                sender(connector.connect(name, stream).await.unwrap()).await
            }
        };
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
        sender.send_request(request).await.unwrap()
    }

    /// Begins a session of the revision before, as far as its answer to `initialize`.
    pub async fn session(&self) -> String {
        let headers =
            [("accept", "application/json, text/event-stream"), ("content-type", "application/json")];
        let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
        let reply = self.send(Method::POST, "/mcp", &headers, initialize.to_string()).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.json()["result"]["protocolVersion"], "2025-11-25");
        reply.header("mcp-session-id").to_owned()
    }

    pub async fn send_in(&self, session: &str, body: Value) -> Reply {
        self.send(Method::POST, "/mcp", &in_session(session), body.to_string()).await
    }

    /// The stream of what a session's server has to say unasked.
    pub async fn events_of(&self, session: &str) -> Events {
        let response = self.open(Method::GET, "/mcp", &in_session(session), String::new()).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events { body: response.into_body(), text: String::new() }
    }

    /// The stream of a request of the 2026-07-28 revision.
    pub async fn listen(&self, notifications: Value) -> Events {
        let (headers, body) = stateless("subscriptions/listen", json!({"notifications": notifications}));
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let response = self.open(Method::POST, "/mcp", &headers, body).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events { body: response.into_body(), text: String::new() }
    }

    /// A request of the 2026-07-28 revision: everything is in the request itself.
    pub async fn request(&self, method: &str, params: Value) -> Reply {
        self.request_with(method, params, &[]).await
    }

    pub async fn request_with(&self, method: &str, params: Value, more: &[(&str, &str)]) -> Reply {
        let (headers, body) = stateless(method, params);
        let mut headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.extend(more);
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

async fn sender<S>(stream: S) -> SendRequest<Full<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    // Ends when the answer is dropped.
    tokio::spawn(connection);
    sender
}

/// The headers of a request within a session.
pub fn in_session(session: &str) -> [(&'static str, &str); 4] {
    [
        ("accept", "application/json, text/event-stream"),
        ("content-type", "application/json"),
        ("mcp-session-id", session),
        ("mcp-protocol-version", "2025-11-25"),
    ]
}

/// The headers and the body of a request that needs no session.
pub fn stateless(method: &str, mut params: Value) -> (Vec<(&'static str, String)>, String) {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let name = params.get("name").or_else(|| params.get("uri")).and_then(Value::as_str);
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        ("accept", "application/json, text/event-stream".to_owned()),
        ("mcp-protocol-version", "2026-07-28".to_owned()),
        ("mcp-method", method.to_owned()),
    ];
    headers.extend(name.map(|name| ("mcp-name", name.to_owned())));
    (headers, json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string())
}

/// An answer that goes on.
pub struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    /// The next message; None when the stream ends.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let event = self.text.drain(..end + 2).collect::<String>();
                let data: String = event.lines().filter_map(|line| line.strip_prefix("data:")).collect();
                if !data.trim().is_empty() {
                    return Some(serde_json::from_str(&data).unwrap());
                }
            }
            let frame = self.body.frame().await?.unwrap();
            self.text.push_str(std::str::from_utf8(frame.data_ref()?).unwrap());
        }
    }
}
