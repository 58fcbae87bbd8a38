//! One request of a principal and its answer, between the gate and rmcp: what real clients do differently from the protocol's letter is
//! brought into its form, and what one principal may have open at once is bounded.
//!
//! - An answer comes in a form that the client's Accept header takes ([`media`](crate::media)).
//! - `initialize` negotiates by its body. A header can only repeat what is negotiated by it, so it is not looked at. An `initialize`
//!   whose body names no version is none of the revisions that have it: the header decides what it is told (SEP-2575).
//! - A body that is no message gets a JSON-RPC error. A call that rmcp refuses gets a line in the audit log here, and so does one without
//!   an id, which is accepted and not carried out: every call has a line.
//! - A session that is ended is answered with 204, as the SDKs expect, and one that is not there with 404.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use rmcp::model::ClientJsonRpcMessage;
use serde_json::{Value, json};

use kafscale_audit::Event;
use kafscale_identity::Principal;

use crate::answer::names;
use crate::gate::{Peer, session_of};
use crate::handler::{Shared, note_arguments};
use crate::http::{Endless, Held, MAX_REQUEST_BYTES};
use crate::media::{self, Form};
use crate::sessions::{Asking, Sessions};
use crate::shares::{Full, Shares};

/// Streams that wait for news: each holds a connection for as long as its client likes.
const STREAMS: usize = 384;
const STREAMS_OF_PRINCIPAL: usize = 128;
/// Requests that are answered, until their answers are taken.
const REQUESTS: usize = 768;
const REQUESTS_OF_PRINCIPAL: usize = 256;
/// When to try again where something is full.
const RETRY_AFTER_S: &str = "5";
const BOTH_FORMS: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
/// What a client may do as often as it likes without a line in the audit log: it shows nothing of what the tools are about.
const NOT_AUDITED: [&str; 7] = [
    "initialize",
    "ping",
    "server/discover",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
];

/// See the file's comment.
#[derive(Clone, Debug)]
pub struct Exchange {
    shared: Arc<Shared>,
    sessions: Arc<Sessions>,
    streams: Arc<Shares>,
    requests: Arc<Shares>,
}

/// A body as far as it matters here.
struct Message {
    id: Value,
    method: String,
    tool: Option<String>,
    arguments: Value,
    /// An `initialize` that names a protocol version.
    negotiates: bool,
}

impl Message {
    /// Answers of the client have no method.
    fn is_audited(&self) -> bool {
        let method = self.method.as_str();
        !method.is_empty() && !method.starts_with("notifications/") && !NOT_AUDITED.contains(&method)
    }
}

impl Exchange {
    pub fn new(shared: Arc<Shared>, sessions: Arc<Sessions>) -> Self {
        let streams = Shares::new("streams", STREAMS, STREAMS_OF_PRINCIPAL);
        let requests = Shares::new("requests", REQUESTS, REQUESTS_OF_PRINCIPAL);
        Self { shared, sessions, streams, requests }
    }

    /// Answers a request whose principal is known.
    pub async fn answer(&self, request: Request, principal: &Principal, next: Next) -> Response {
        let (head, body) = request.into_parts();
        match head.method {
            Method::GET => self.stream(head, body, principal, next).await,
            Method::DELETE => self.end_session(head, body, principal, next).await,
            Method::POST if is_json(&head) => self.post(head, body, principal, next).await,
            _ => next.run(Request::from_parts(head, body)).await,
        }
    }

    /// The stream of what a session's server has to say unasked.
    async fn stream(&self, mut head: Parts, body: Body, principal: &Principal, next: Next) -> Response {
        let share = match self.streams.take(&principal.name) {
            Ok(share) => share,
            Err(full) => return refusal(full),
        };
        if Form::accepted(&head.headers).takes_events() {
            head.headers.insert(header::ACCEPT, BOTH_FORMS);
        }
        let mut response = next.run(Request::from_parts(head, body)).await;
        response.extensions_mut().insert(Endless);
        response.map(|body| Body::new(Held::new(body, share)))
    }

    async fn end_session(&self, head: Parts, body: Body, principal: &Principal, next: Next) -> Response {
        let session = session_of(&head.headers);
        if session.is_some_and(|session| !self.sessions.are_of(session, &principal.name)) {
            return (StatusCode::NOT_FOUND, "Not Found: Session not found").into_response();
        }
        let mut response = next.run(Request::from_parts(head, body)).await;
        if response.status() == StatusCode::ACCEPTED {
            *response.status_mut() = StatusCode::NO_CONTENT;
        }
        response
    }

    async fn post(&self, mut head: Parts, body: Body, principal: &Principal, next: Next) -> Response {
        let share = match self.requests.take(&principal.name) {
            Ok(share) => share,
            Err(full) => return refusal(full),
        };
        let form = Form::accepted(&head.headers);
        if form != Form::Other {
            head.headers.insert(header::ACCEPT, BOTH_FORMS);
        }
        let Ok(body) = axum::body::to_bytes(body, MAX_REQUEST_BYTES).await else {
            let why = format!("the request's body is longer than {MAX_REQUEST_BYTES} bytes, or broke off\n");
            return (StatusCode::PAYLOAD_TOO_LARGE, why).into_response();
        };
        let message = match read(&body) {
            Ok(message) => message,
            Err(malformed) => {
                self.note(&head, principal, None, "400 malformed").await;
                let kind = (header::CONTENT_TYPE, "application/json");
                return (StatusCode::BAD_REQUEST, [kind], malformed.to_string()).into_response();
            }
        };
        let method = message.method.as_str();
        if message.negotiates {
            head.headers.remove("mcp-protocol-version");
        }
        if method == "subscriptions/listen" {
            return self.listen(head, body, principal, next, form).await;
        }
        let noted = message.is_audited().then(|| head.clone());
        let asking = Asking::new(Arc::clone(&principal.name));
        let response = asking.within(next.run(Request::from_parts(head, Body::from(body)))).await;
        if let Some(full) = asking.refused() {
            return refusal(full);
        }
        // Of a method that there is not the handler has written a line.
        let handled = response.status() == StatusCode::NOT_FOUND && media::is_json(&response);
        if let Some(head) = noted
            && (!response.status().is_success() || message.id.is_null())
            && !handled
        {
            let did = if response.status().is_success() { "ignored: no id" } else { "refused" };
            let outcome = format!("{} {did}", response.status().as_u16());
            self.note(&head, principal, Some(&message), &outcome).await;
        }
        let response = form.bring(response, &message.id).await;
        response.map(|body| Body::new(Held::new(body, share)))
    }

    /// A stream, although it begins with a POST.
    async fn listen(
        &self,
        head: Parts,
        body: Bytes,
        principal: &Principal,
        next: Next,
        form: Form,
    ) -> Response {
        if !form.takes_events() {
            let why = "subscriptions/listen answers with a stream: send Accept: text/event-stream\n";
            return (StatusCode::NOT_ACCEPTABLE, why).into_response();
        }
        let share = match self.streams.take(&principal.name) {
            Ok(share) => share,
            Err(full) => return refusal(full),
        };
        let mut response = next.run(Request::from_parts(head, Body::from(body))).await;
        response.extensions_mut().insert(Endless);
        response.map(|body| Body::new(Held::new(body, share)))
    }

    /// Writes a line about a call that rmcp never hands to a tool. It fails in any case; the log says for itself that it cannot be
    /// written.
    async fn note(&self, head: &Parts, principal: &Principal, message: Option<&Message>, outcome: &str) {
        let mut event = Event::new(self.shared.auditor.clock.now_ms(), &principal.name, "http");
        event.peer = head.extensions.get::<Peer>().map(|peer| peer.0.ip().to_string());
        event.oauth_client = principal.client.as_deref().map(str::to_owned);
        if let Some(message) = message {
            event.method = names::text(&message.method, 100);
            event.tool = message.tool.as_deref().map(|tool| names::text(tool, 100));
            event.request_id = (!message.id.is_null()).then(|| names::text(&message.id.to_string(), 100));
            note_arguments(&mut event, message.arguments.clone(), false);
        }
        event.outcome = outcome.to_owned();
        let _ = self.shared.auditor.write(event).await;
    }
}

/// The message of a body, or the JSON-RPC error that its sender is told.
fn read(body: &Bytes) -> Result<Message, Value> {
    let error = |code: i32, id: Value, why: &str| json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": why}});
    let value: Value = serde_json::from_slice(body)
        .map_err(|_| error(-32700, Value::Null, "the request's body is not JSON"))?;
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let id = value.get("id").filter(|id| id.is_string() || id.is_number()).cloned().unwrap_or_default();
    if serde_json::from_slice::<ClientJsonRpcMessage>(body).is_err() {
        let why = match value.is_array() {
            true => "batches are not served: send one message in each request",
            false => "the request's body is not a JSON-RPC 2.0 message of this protocol",
        };
        return Err(error(-32600, id, why));
    }
    let arguments = value.pointer("/params/arguments").cloned().unwrap_or_default();
    let method = text("/method").unwrap_or_default();
    let negotiates = method == "initialize" && text("/params/protocolVersion").is_some();
    Ok(Message { id, method, tool: text("/params/name"), arguments, negotiates })
}

fn is_json(head: &Parts) -> bool {
    let given = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let essence = given.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// 429 for who has all of his own, 503 where others have taken the rest.
fn refusal(full: Full) -> Response {
    let status = match full {
        Full::OfPrincipal { .. } => StatusCode::TOO_MANY_REQUESTS,
        Full::Altogether { .. } => StatusCode::SERVICE_UNAVAILABLE,
    };
    let retry = (header::RETRY_AFTER, RETRY_AFTER_S);
    (status, [retry], format!("{full}: end some, or try again later\n")).into_response()
}
