//! Questions to an MCP server over streamable HTTP, one at a time: `initialize`, `tools/list` and
//! `tools/call`, and nothing else. What the server wants of its client is not answered: it was told that
//! the client can do nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::tools::{Page, ToolError, Tools};
use crate::caller::Caller;
use crate::collection::json_rows::{Pointer, at, checked};
use crate::collection::reach::Known;
use crate::collection::remote::Memory;
use crate::collection::web::{Failed, Question, Reply, Site};

/// The newest first, which is asked for.
const VERSIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];
const TOOLS_MAX: usize = 1_000;
const TOOL_PAGES_MAX: usize = 50;

#[derive(Debug)]
pub struct Server {
    pub site: Site,
    session: Mutex<Option<Arc<Session>>>,
    ids: AtomicU64,
    tools: Known<Arc<Tools>>,
}

/// What the server said when it was first spoken to.
#[derive(Debug)]
pub struct Session {
    id: Option<String>,
    version: String,
}

/// What came of one request.
enum Outcome {
    Message(Vec<u8>),
    /// The server does not know the session any more.
    Forgotten,
}

impl Server {
    pub fn new(site: Site, refresh: std::time::Duration) -> Server {
        Server { site, session: Mutex::default(), ids: AtomicU64::new(1), tools: Known::new(refresh) }
    }

    /// The version of the protocol that is spoken.
    pub async fn version(&self, caller: &Caller) -> Result<String, Failed> {
        Ok(self.session(caller).await?.version.clone())
    }

    /// The tools as they are now, or were a moment ago.
    pub async fn tools(&self, caller: &Caller) -> Result<Arc<Tools>, Failed> {
        self.tools.get(self.list(caller)).await
    }

    /// The tools as they are now.
    pub async fn list(&self, caller: &Caller) -> Result<Arc<Tools>, Failed> {
        let (mut tools, mut cursor) = (Tools::default(), None::<String>);
        let memory = Memory::unbounded();
        for _ in 0..TOOL_PAGES_MAX {
            let params = cursor.map_or_else(|| json!({}), |cursor| json!({ "cursor": cursor }));
            let answer = self.request("tools/list", params, caller, &memory).await?;
            let page: Page = serde_json::from_str(result(&answer)?)
                .map_err(|_| Failed::Form("its tools are no list of tools"))?;
            cursor = page.next.clone();
            tools.add(page, TOOLS_MAX)?;
            if cursor.is_none() {
                return Ok(Arc::new(tools));
            }
        }
        Err(Failed::TooManyPages(TOOL_PAGES_MAX))
    }

    /// What a tool answers, as JSON: its structured content, or else its one text, where that is JSON.
    pub async fn call(
        &self,
        tool: &str,
        arguments: Value,
        caller: &Caller,
        memory: &Memory,
    ) -> Result<Vec<u8>, Failed> {
        let params = json!({ "name": tool, "arguments": arguments });
        let answer = self.request("tools/call", params, caller, memory).await?;
        let result = result(&answer)?;
        let of = |name: &str| at(result, &Pointer::field(name));
        if of("isError") == Some("true") {
            return Err(ToolError::Failed { tool: tool.to_owned() }.into());
        }
        if let Some(content) = of("structuredContent").filter(|content| *content != "null") {
            return Ok(content.as_bytes().to_vec());
        }
        let content: Vec<Value> =
            of("content").and_then(|content| serde_json::from_str(content).ok()).unwrap_or_default();
        match content.as_slice() {
            [one] if one["type"] == "text" => {
                Ok(one["text"].as_str().unwrap_or_default().as_bytes().to_vec())
            }
            _ => Err(Failed::Form("there is neither structured content nor a single text")),
        }
    }

    /// Within a session, which is begun where there is none, and once more where it is gone.
    async fn request(
        &self,
        method: &str,
        params: Value,
        caller: &Caller,
        memory: &Memory,
    ) -> Result<Vec<u8>, Failed> {
        for _ in 0..2 {
            let session = self.session(caller).await?;
            match self.send(method, &params, Some(&session), caller, memory).await? {
                (Outcome::Message(message), _) => return Ok(message),
                (Outcome::Forgotten, _) => {
                    let mut known = self.session.lock().await;
                    if known.as_ref().is_some_and(|known| Arc::ptr_eq(known, &session)) {
                        *known = None;
                    }
                }
            }
        }
        Err(Failed::Status(StatusCode::NOT_FOUND))
    }

    async fn session(&self, caller: &Caller) -> Result<Arc<Session>, Failed> {
        let mut known = self.session.lock().await;
        if let Some(session) = &*known {
            return Ok(Arc::clone(session));
        }
        let params = json!({
            "protocolVersion": VERSIONS[0],
            "capabilities": {},
            "clientInfo": { "name": "kafscale-perimeter", "version": env!("CARGO_PKG_VERSION") },
        });
        let sent = self.send("initialize", &params, None, caller, &Memory::unbounded()).await?;
        let (Outcome::Message(answer), id) = sent else { return Err(Failed::Status(StatusCode::NOT_FOUND)) };
        let version = at(result(&answer)?, &Pointer::field("protocolVersion")).unwrap_or_default();
        let version = VERSIONS.into_iter().find(|known| version == format!("\"{known}\""));
        let version =
            version.ok_or(Failed::Form("the server speaks no version of MCP that is known here"))?;
        let session = Arc::new(Session { id, version: version.to_owned() });
        self.notify(&session, caller).await?;
        *known = Some(Arc::clone(&session));
        Ok(session)
    }

    /// The message, and the id of a session that begins with it.
    async fn send(
        &self,
        method: &str,
        params: &Value,
        session: Option<&Session>,
        caller: &Caller,
        memory: &Memory,
    ) -> Result<(Outcome, Option<String>), Failed> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string();
        let reply = self.post(&body, session, caller).await?;
        let begun = reply.headers("mcp-session-id").next().map(str::to_owned);
        match reply.status() {
            StatusCode::OK => Ok((Outcome::Message(message(reply, id, memory).await?), begun)),
            StatusCode::NOT_FOUND if session.is_some_and(|session| session.id.is_some()) => {
                Ok((Outcome::Forgotten, None))
            }
            status => Err(Failed::Status(status)),
        }
    }

    async fn notify(&self, session: &Session, caller: &Caller) -> Result<(), Failed> {
        let body = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string();
        let reply = self.post(&body, Some(session), caller).await?;
        if reply.status().is_success() { Ok(()) } else { Err(Failed::Status(reply.status())) }
    }

    async fn post(&self, body: &str, session: Option<&Session>, caller: &Caller) -> Result<Reply, Failed> {
        let mut headers = Vec::new();
        if let Some(session) = session {
            headers.push(("mcp-protocol-version", session.version.clone()));
            headers.extend(session.id.clone().map(|id| ("mcp-session-id", id)));
        }
        let accept = "application/json, text/event-stream";
        let question = Question { url: self.site.url(), accept, headers: &headers, body: Some(body) };
        self.site.ask(question, caller).await
    }
}

/// The answer to a request, whichever way the server sends it.
async fn message(mut reply: Reply, id: u64, memory: &Memory) -> Result<Vec<u8>, Failed> {
    let kind = reply.headers("content-type").next().unwrap_or_default().to_ascii_lowercase();
    if !kind.starts_with("text/event-stream") {
        let body = reply.body(memory).await?;
        return if is_answer(checked(&body)?, id) {
            Ok(body)
        } else {
            Err(Failed::Form("it answers something else"))
        };
    }
    let (mut body, mut events) = (Vec::new(), Events::default());
    loop {
        let goes_on = reply.more(&mut body, memory).await?;
        while let Some(event) = events.next(&body) {
            // Others are notifications, and requests to the client.
            if checked(&event).is_ok_and(|event| is_answer(event, id)) {
                return Ok(event);
            }
        }
        if !goes_on {
            return Err(Failed::Form("the stream ended before the answer"));
        }
    }
}

fn is_answer(message: &str, id: u64) -> bool {
    let is_of_us = at(message, &Pointer::field("id")).is_some_and(|found| found == id.to_string());
    is_of_us && at(message, &Pointer::field("method")).is_none()
}

/// The result of an answer, or its error as a number: its text is the server's.
fn result(answer: &[u8]) -> Result<&str, Failed> {
    let answer = checked(answer)?;
    if let Some(error) = at(answer, &Pointer::field("error")) {
        let code = at(error, &Pointer::field("code")).and_then(|code| code.parse().ok());
        return Err(ToolError::Server(code.unwrap_or_default()).into());
    }
    at(answer, &Pointer::field("result")).ok_or(Failed::Form("there is no result"))
}

/// Events of a stream (HTML, server-sent events), of which only the data counts.
#[derive(Debug, Default)]
struct Events {
    /// So many bytes were looked at.
    at: usize,
    data: Vec<u8>,
    has_data: bool,
}

impl Events {
    /// The next whole event that has data.
    fn next(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        while let Some(end) = bytes[self.at..].iter().position(|byte| *byte == b'\n') {
            let line = &bytes[self.at..self.at + end];
            self.at += end + 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() && self.has_data {
                self.has_data = false;
                return Some(std::mem::take(&mut self.data));
            }
            if let Some(data) = line.strip_prefix(b"data:") {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_they_are_cut() {
        let bytes =
            b": ping\r\n\r\nevent: message\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nid: 4\ndata:x\n\ndata: half";
        for size in [1, 2, 7, bytes.len()] {
            let (mut events, mut found) = (Events::default(), Vec::new());
            for end in (size..=bytes.len()).step_by(size).chain([bytes.len()]) {
                while let Some(event) = events.next(&bytes[..end]) {
                    found.push(String::from_utf8(event).unwrap());
                }
            }
            assert_eq!(found, ["{\"a\":\n1}", "x"], "{size} bytes at a time");
        }
    }

    #[test]
    fn an_answer_is_that_of_the_request() {
        assert!(is_answer(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, 7));
        for other in [
            r#"{"id":8,"result":{}}"#,
            r#"{"id":"7","result":{}}"#,
            r#"{"id":7,"method":"ping"}"#,
            "{}",
            "[]",
        ] {
            assert!(!is_answer(other, 7), "{other}");
        }
        let told =
            |answer: &str| result(answer.as_bytes()).map(str::to_owned).map_err(|error| error.to_string());
        assert_eq!(told(r#"{"id":7,"result":{"a":1}}"#).unwrap(), "{\"a\":1}");
        let error =
            told(r#"{"id":7,"error":{"code":-32602,"message":"Ann Miller is no number"}}"#).unwrap_err();
        assert!(error.contains("-32602") && !error.contains("Ann"), "{error}");
    }
}
