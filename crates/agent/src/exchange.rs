//! One request of a principal and its answer, between the gate and rmcp: what real clients do differently from the protocol's letter is
//! brought into its form, and what one principal may have open at once is bounded.
//!
//! - An answer comes in a form that the client's Accept header takes ([`media`](crate::media)).
//! - `initialize` negotiates by its body. A header can only repeat what is negotiated by it, so it is not looked at. An `initialize`
//!   whose body names no version is none of the revisions that have it: the header decides what it is told (SEP-2575).
//! - A body that is a message is served, also where its Content-Type says nothing (`curl --data`).
//! - A body that is no message gets a JSON-RPC error, and so does every other refusal ([`refusal`](crate::refusal)). A call that rmcp refuses gets a line in the audit log here, and so does one without
//!   an id, which is accepted and not carried out: every call has a line.
//! - A session that is ended is answered with 204, as the SDKs expect, and one that is not there with 404.

use std::error::Error as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body_util::LengthLimitError;
use rmcp::model::ClientJsonRpcMessage;
use serde_json::{Value, json};

use kafscale_audit::Event;
use kafscale_identity::Principal;

use crate::answer::names;
use crate::gate::{Peer, session_of};
use crate::handler::{Shared, note_arguments};
use crate::http::{Endless, Held, MAX_REQUEST_BYTES};
use crate::media::{self, Content, Form};
use crate::refusal::{self, NO_SESSION, refuse};
use crate::sessions::{Asking, Sessions};
use crate::shares::{Full, Shares};

/// Streams that wait for news: each holds a connection for as long as its client likes.
const STREAMS: usize = 384;
const STREAMS_OF_PRINCIPAL: usize = 128;
/// Requests that are answered, until their answers are taken.
const REQUESTS: usize = 768;
const REQUESTS_OF_PRINCIPAL: usize = 256;
/// When to try again where something is full.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("5");
const BOTH_FORMS: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const TAKES_NEITHER: &str = "the header Accept takes neither application/json nor text/event-stream: send Accept: application/json, text/event-stream";
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
    /// What the names of the server's settings begin with.
    pub variables: &'static str,
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
    pub fn new(shared: Arc<Shared>, sessions: Arc<Sessions>, variables: &'static str) -> Self {
        let streams = Shares::new("streams", STREAMS, STREAMS_OF_PRINCIPAL);
        let requests = Shares::new("requests", REQUESTS, REQUESTS_OF_PRINCIPAL);
        Self { variables, shared, sessions, streams, requests }
    }

    /// Answers a request whose principal is known.
    pub async fn answer(&self, request: Request, principal: &Principal, next: Next) -> Response {
        let (head, body) = request.into_parts();
        match head.method {
            Method::GET => self.stream(head, body, principal, next).await,
            Method::DELETE => self.end_session(head, body, principal, next).await,
            Method::POST => self.post(head, body, principal, next).await,
            _ => next.run(Request::from_parts(head, body)).await,
        }
    }

    /// The stream of what a session's server has to say unasked.
    async fn stream(&self, mut head: Parts, body: Body, principal: &Principal, next: Next) -> Response {
        let share = match self.streams.take(&principal.name) {
            Ok(share) => share,
            Err(full) => return refusal(full),
        };
        if !Form::accepted(&head.headers).takes_events() {
            let why = "GET opens the stream of a session: send Accept: text/event-stream. To ask something, POST a JSON-RPC message";
            return refuse(StatusCode::NOT_ACCEPTABLE, &Value::Null, why);
        }
        head.headers.insert(header::ACCEPT, BOTH_FORMS);
        let mut response = next.run(Request::from_parts(head, body)).await;
        if response.status().is_success() {
            response.extensions_mut().insert(Endless);
        }
        response.map(|body| Body::new(Held::new(body, share)))
    }

    async fn end_session(&self, head: Parts, body: Body, principal: &Principal, next: Next) -> Response {
        let session = session_of(&head.headers);
        if session.is_some_and(|session| !self.sessions.are_of(session, &principal.name)) {
            return refuse(StatusCode::NOT_FOUND, &Value::Null, NO_SESSION);
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
        let (message, body) = match read(&mut head, body).await {
            Ok(read) => read,
            Err(refused) => {
                self.note(&head, principal, None, malformed(refused.status())).await;
                return refused;
            }
        };
        if form == Form::Other {
            if message.is_audited() {
                self.note(&head, principal, Some(&message), "406 refused").await;
            }
            return refuse(StatusCode::NOT_ACCEPTABLE, &message.id, TAKES_NEITHER);
        }
        head.headers.insert(header::ACCEPT, BOTH_FORMS);
        let method = message.method.as_str();
        if message.negotiates {
            head.headers.remove("mcp-protocol-version");
        }
        if method == "subscriptions/listen" {
            return self.listen(head, body, principal, next, (form, &message)).await;
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
        let response = refusal::explain(response, &message.id, self.variables).await;
        response.map(|body| Body::new(Held::new(body, share)))
    }

    /// A stream, although it begins with a POST.
    async fn listen(
        &self,
        head: Parts,
        body: Bytes,
        principal: &Principal,
        next: Next,
        (form, message): (Form, &Message),
    ) -> Response {
        if !form.takes_events() {
            let why = "subscriptions/listen answers with a stream: send Accept: text/event-stream";
            return refuse(StatusCode::NOT_ACCEPTABLE, &message.id, why);
        }
        let share = match self.streams.take(&principal.name) {
            Ok(share) => share,
            Err(full) => return refusal(full),
        };
        let mut response = next.run(Request::from_parts(head, Body::from(body))).await;
        if response.status().is_success() {
            response.extensions_mut().insert(Endless);
        }
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

/// The message of a request with its bytes, or what its sender is told.
async fn read(head: &mut Parts, body: Body) -> Result<(Message, Bytes), Response> {
    let refused = |status, why: String| refuse(status, &Value::Null, why);
    let content = Content::of(&head.headers);
    let given = |name: HeaderName| {
        let value =
            head.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        value.map(|value| names::text(&value, 100))
    };
    let said = match given(header::CONTENT_TYPE) {
        Some(kind) => format!("the header Content-Type is {kind}"),
        None => "there is no header Content-Type".to_owned(),
    };
    if content == Content::Other {
        return Err(refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("{said}: send one JSON-RPC message with Content-Type: application/json"),
        ));
    }
    if let Some(coding) =
        given(header::CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity"))
    {
        let why = format!(
            "bodies are not read in the coding {coding}: send the message without the header Content-Encoding"
        );
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let body = match axum::body::to_bytes(body, MAX_REQUEST_BYTES).await {
        Ok(body) => body,
        Err(error) if error.source().is_some_and(|source| source.is::<LengthLimitError>()) => {
            let why =
                format!("the request's body is longer than {MAX_REQUEST_BYTES} bytes: ask for less at once");
            return Err(refused(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        Err(_) => {
            return Err(refused(
                StatusCode::BAD_REQUEST,
                "the request's body broke off: send it again".to_owned(),
            ));
        }
    };
    match (message(&body), content) {
        (Ok(message), _) => {
            head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Ok((message, body))
        }
        (Err(Malformed::NoJson), Content::Unsaid) => Err(refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!(
                "{said}, and the body is not JSON: send one JSON-RPC message with Content-Type: application/json"
            ),
        )),
        (Err(malformed), _) => Err(malformed.answer()),
    }
}

/// Why a body is no message.
#[derive(Debug)]
enum Malformed {
    NoJson,
    NoMessage { id: Value, why: &'static str },
}

impl Malformed {
    fn answer(self) -> Response {
        let (code, id, why) = match self {
            Self::NoJson => {
                (-32700, Value::Null, "the request's body is not JSON: send one JSON-RPC message")
            }
            Self::NoMessage { id, why } => (-32600, id, why),
        };
        let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": why}});
        let kind = (header::CONTENT_TYPE, "application/json");
        (StatusCode::BAD_REQUEST, [kind], error.to_string()).into_response()
    }
}

fn message(body: &Bytes) -> Result<Message, Malformed> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Malformed::NoJson)?;
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let id = value.get("id").filter(|id| id.is_string() || id.is_number()).cloned().unwrap_or_default();
    if serde_json::from_slice::<ClientJsonRpcMessage>(body).is_err() {
        let why = match value.is_array() {
            true => "batches are not served: send one message in each request",
            false => {
                "the request's body is not a JSON-RPC 2.0 message of this protocol: send {\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": …, \"params\": {…}}"
            }
        };
        return Err(Malformed::NoMessage { id, why });
    }
    let arguments = value.pointer("/params/arguments").cloned().unwrap_or_default();
    let method = text("/method").unwrap_or_default();
    let negotiates = method == "initialize" && text("/params/protocolVersion").is_some();
    Ok(Message { id, method, tool: text("/params/name"), arguments, negotiates })
}

/// For the audit log.
fn malformed(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "413 refused",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "415 refused",
        _ => "400 malformed",
    }
}

/// 429 for who has all of his own, 503 where others have taken the rest.
fn refusal(full: Full) -> Response {
    let status = match full {
        Full::OfPrincipal { .. } => StatusCode::TOO_MANY_REQUESTS,
        Full::Altogether { .. } => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = refuse(status, &Value::Null, format_args!("{full}: end some, or try again later"));
    response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_S);
    response
}
