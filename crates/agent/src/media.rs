//! In which form a client takes an answer: what its Accept header says (RFC 9110, section 12.5.1), and an answer brought into that form.
//!
//! The protocol has clients accept both forms, `application/json` and `text/event-stream`. Real ones send one of them, `*/*`, or
//! nothing, and each is served in a form that it accepts.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::refusal::refuse;

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
/// Longer than any answer: see the budget of answers.
const MAX_ANSWER_BYTES: usize = 16 << 20;
const ENDED_EARLY: &str = "the answer ended early: ask again";

/// What a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// It names both.
    Both,
    Json,
    Events,
    /// Anything, without naming events: `*/*`, or no Accept header at all.
    Any,
    /// Neither.
    Other,
}

impl Form {
    pub fn accepted(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(header::ACCEPT).iter().peekable();
        if values.peek().is_none() {
            return Self::Any;
        }
        let ranges: Vec<(String, bool)> = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(range)
            .collect();
        let json = takes(&ranges, JSON);
        let (events, named) = (takes(&ranges, EVENTS), ranges.iter().any(|(range, _)| range == EVENTS));
        match (json, events) {
            (true, true) if named => Self::Both,
            (true, true) => Self::Any,
            (true, false) => Self::Json,
            (false, true) => Self::Events,
            (false, false) => Self::Other,
        }
    }

    /// Whether a stream of events is of use to the client.
    pub fn takes_events(self) -> bool {
        matches!(self, Self::Both | Self::Events | Self::Any)
    }

    /// The answer to the request `id` in a form that the client takes.
    pub async fn bring(self, response: Response, id: &Value) -> Response {
        match (self, kind_of(&response)) {
            (Self::Json | Self::Any, EVENTS) => as_json(response, id).await,
            (Self::Events, JSON) if response.status().is_success() => as_events(response, id).await,
            _ => response,
        }
    }
}

/// What a request's header Content-Type says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Json,
    /// Nothing, or what tools send that were told nothing: `curl --data`, among others. Pages may send the same without asking first
    /// (CORS), so a browser has to say that it is JSON.
    Unsaid,
    Other,
}

impl Content {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut given = headers.get_all(header::CONTENT_TYPE).iter();
        let (Some(kind), None) = (given.next(), given.next()) else {
            return if headers.contains_key(header::CONTENT_TYPE) {
                Self::Other
            } else {
                Self::unsaid(headers)
            };
        };
        let essence = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            JSON => Self::Json,
            "" | "application/x-www-form-urlencoded" | "text/plain" => Self::unsaid(headers),
            _ => Self::Other,
        }
    }

    fn unsaid(headers: &HeaderMap) -> Self {
        let is_browser = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
        if is_browser { Self::Other } else { Self::Unsaid }
    }
}

/// A media range in lower case, and whether it is wanted at all: a weight of 0 says that it is not.
fn range(entry: &str) -> Option<(String, bool)> {
    let mut parts = entry.split(';').map(str::trim);
    let essence = parts.next().filter(|essence| !essence.is_empty())?.to_ascii_lowercase();
    let weight = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().unwrap_or(1.0))
    });
    Some((essence, weight.is_none_or(|weight| weight > 0.0)))
}

/// The most specific range decides.
fn takes(ranges: &[(String, bool)], kind: &str) -> bool {
    let group = kind.split('/').next().unwrap_or_default();
    let candidates = [kind.to_owned(), format!("{group}/*"), "*/*".to_owned()];
    let decided = candidates.iter().find_map(|candidate| {
        let mut of_kind =
            ranges.iter().filter(|(range, _)| range == candidate).map(|(_, wanted)| *wanted).peekable();
        of_kind.peek().is_some().then(|| of_kind.any(|wanted| wanted))
    });
    decided.unwrap_or(false)
}

/// Whether an answer is JSON.
pub fn is_json(response: &Response) -> bool {
    kind_of(response) == JSON
}

fn kind_of(response: &Response) -> &'static str {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default();
    [JSON, EVENTS].into_iter().find(|known| kind.starts_with(known)).unwrap_or("")
}

/// Waits for the message that answers `id`, and leaves out what comes before it.
async fn as_json(response: Response, id: &Value) -> Response {
    let (mut head, mut body) = response.into_parts();
    let mut text = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        text.extend_from_slice(&data);
        if let Some(message) = answer_in(&mut text, id) {
            head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
            head.headers.remove("x-accel-buffering");
            return Response::from_parts(head, Body::from(message));
        }
        if text.len() > MAX_ANSWER_BYTES {
            break;
        }
    }
    refuse(StatusCode::INTERNAL_SERVER_ERROR, id, ENDED_EARLY)
}

/// Takes whole events from the front of `text`, until one of them is the answer.
fn answer_in(text: &mut BytesMut, id: &Value) -> Option<Bytes> {
    while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
        let event = text.split_to(end + 2);
        let lines = event[..].split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data:"));
        let data: Vec<u8> = lines.flat_map(|line| line.strip_prefix(b" ").unwrap_or(line)).copied().collect();
        let Ok(message) = serde_json::from_slice::<Value>(&data) else { continue };
        let answers = message.get("result").is_some() || message.get("error").is_some();
        if answers && message.get("id").unwrap_or(&Value::Null) == id {
            return Some(data.into());
        }
    }
    None
}

/// One event with the whole answer, which has no line breaks of its own.
async fn as_events(response: Response, id: &Value) -> Response {
    let (mut head, body) = response.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_ANSWER_BYTES).await else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, id, ENDED_EARLY);
    };
    let mut event = BytesMut::from(&b"event: message\ndata: "[..]);
    event.extend(body.iter().filter(|byte| !matches!(byte, b'\n' | b'\r')));
    event.extend_from_slice(b"\n\n");
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    head.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(event.freeze()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_real_clients_send_is_understood() {
        for (accept, form) in [
            (None, Form::Any),
            (Some("*/*"), Form::Any),
            (Some("application/*"), Form::Json),
            (Some("application/json"), Form::Json),
            (Some("application/json, */*;q=0.1"), Form::Any),
            (Some("text/event-stream"), Form::Events),
            (Some("application/json, text/event-stream"), Form::Both),
            (Some("Text/Event-Stream,Application/JSON"), Form::Both),
            (Some("application/json;q=0.9,text/event-stream;q=0.8, */*;q=0.1"), Form::Both),
            (Some("*/*, text/event-stream;q=0"), Form::Json),
            (Some("application/json;q=0, */*"), Form::Events),
            (Some("text/html"), Form::Other),
            (Some("*/*;q=0"), Form::Other),
            (Some(""), Form::Other),
            (Some(";;,,=;q"), Form::Other),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(accept.map(|accept| (header::ACCEPT, accept.parse().unwrap())));
            assert_eq!(Form::accepted(&headers), form, "{accept:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_found_among_events_and_made_one() {
        let of = |kind: &str, text: &str| {
            Response::builder().header(header::CONTENT_TYPE, kind).body(Body::from(text.to_owned())).unwrap()
        };
        let events = "id: 0\ndata:\nretry: 3000\n\n:keep\n\ndata: {\"method\":\"x\"}\n\ndata: {\"id\":2,\"result\":1}\n\ndata: {\"id\":7,\ndata: \"result\":{}}\n\n";
        let json = Form::Json.bring(of("text/event-stream", events), &json!(7)).await;
        assert_eq!(json.headers()[header::CONTENT_TYPE], JSON);
        assert_eq!(axum::body::to_bytes(json.into_body(), 100).await.unwrap(), "{\"id\":7,\"result\":{}}");
        let none = Form::Any.bring(of("text/event-stream", events), &json!("7")).await;
        assert_eq!(none.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let made = Form::Events.bring(of("application/json", "{\"id\":7,\n\"result\":{}}"), &json!(7)).await;
        let made = axum::body::to_bytes(made.into_body(), 100).await.unwrap();
        assert_eq!(made, "event: message\ndata: {\"id\":7,\"result\":{}}\n\n");
    }
}
