//! What a client is told whose request is refused before it reaches a tool: what is wrong with it, and what to send instead.
//!
//! A refusal is a JSON-RPC error under an HTTP status, as the protocol has it
//! (<https://modelcontextprotocol.io/specification/2025-06-18/basic/transports#sending-messages-to-the-server>), so that SDKs hand its
//! text to their users. rmcp refuses in a few words of plain text; [`explain`] brings those in the same form and says what to do.

use std::fmt::Display;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use rmcp::model::ProtocolVersion;
use serde_json::{Value, json};

use crate::media;

/// Of an answer of rmcp that is no JSON.
const MAX_TEXT_BYTES: usize = 16 << 10;
/// The request is wrong (JSON-RPC 2.0, section 5.1).
const INVALID_REQUEST: i32 = -32600;
/// It is not, and is refused all the same: of those that servers may give a meaning.
const REFUSED: i32 = -32000;

/// For a request whose session is missing.
const BEGIN: &str = "POST initialize first, and send the header Mcp-Session-Id of its answer with each request. Or send each request \
                     by itself, in the revision 2026-07-28: with the headers MCP-Protocol-Version and Mcp-Method, and the version in _meta";
/// A session that is not there is told in these words, whoever asks: it may be somebody else's. The SDK for Python has the first two for it.
pub const NO_SESSION: &str = "Session terminated, expired or unknown: POST initialize without the header Mcp-Session-Id to begin a new one";

/// A refusal of the request `id`; null where that is not known.
pub fn refuse(status: StatusCode, id: &Value, why: impl Display) -> Response {
    let is_wrong = status.is_client_error()
        && !matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        );
    let code = if is_wrong { INVALID_REQUEST } else { REFUSED };
    let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": why.to_string()}});
    (status, [(header::CONTENT_TYPE, "application/json")], error.to_string()).into_response()
}

/// Brings a refusal that is not JSON in the form of all others, with what to do. `variables` is what the names of the server's settings
/// begin with.
pub async fn explain(response: Response, id: &Value, variables: &str) -> Response {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) || media::is_json(&response) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let text = axum::body::to_bytes(body, MAX_TEXT_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let told = refuse(status, id, with_hint(text.trim(), variables));
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(head, told.into_body())
}

/// What rmcp says, with what it leaves out.
fn with_hint(text: &str, variables: &str) -> String {
    let known =
        || ProtocolVersion::KNOWN_VERSIONS.iter().map(ProtocolVersion::as_str).collect::<Vec<_>>().join(", ");
    let hint = match text {
        "Not Found: Session not found" => return NO_SESSION.to_owned(),
        "Bad Request: Session ID is required" => BEGIN.to_owned(),
        "Forbidden: Host header is not allowed" => {
            format!("ask under a name that the server is known by; its operator can add one with {variables}_ALLOWED_HOSTS")
        }
        "Forbidden: Origin header is not allowed" => {
            format!("the server's operator can allow pages of this origin with {variables}_ALLOWED_ORIGINS")
        }
        "Method Not Allowed" => "POST a JSON-RPC message; GET opens the stream of a session and DELETE ends it, both with the headers \
                                 Mcp-Session-Id and the MCP-Protocol-Version of that session"
            .to_owned(),
        _ if text.starts_with("Bad Request: Unsupported MCP-Protocol-Version") => format!("send one of {}", known()),
        _ if text.starts_with("Bad Request") && text.contains("Host header") => {
            "send the header Host with the name and port of the server".to_owned()
        }
        "" => return "the request is refused".to_owned(),
        _ => return text.to_owned(),
    };
    format!("{text}: {hint}")
}

/// Of a path that there is not.
pub async fn no_such_path() -> Response {
    (StatusCode::NOT_FOUND, "there is nothing under this path: the MCP endpoint is /mcp, and /healthz says whether the server is well\n")
        .into_response()
}

/// Of a path that is only read.
pub async fn only_read() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, "this path is only read: send GET\n").into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    async fn message_of(response: Response) -> String {
        let body = axum::body::to_bytes(response.into_body(), MAX_TEXT_BYTES).await.unwrap();
        let error: Value = serde_json::from_slice(&body).unwrap();
        error["error"]["message"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn what_is_refused_in_plain_text_becomes_an_error_that_says_what_to_do() {
        for (status, text, says) in [
            (
                StatusCode::BAD_REQUEST,
                "Bad Request: Session ID is required",
                "required: POST initialize first",
            ),
            (StatusCode::FORBIDDEN, "Forbidden: Host header is not allowed", "with KAFSCALE_X_ALLOWED_HOSTS"),
            (StatusCode::INTERNAL_SERVER_ERROR, "anything\n", "anything"),
            (StatusCode::BAD_REQUEST, "", "the request is refused"),
        ] {
            let plain =
                Response::builder().status(status).header("allow", "GET").body(Body::from(text)).unwrap();
            let told = explain(plain, &json!(7), "KAFSCALE_X").await;
            assert_eq!((told.status(), &told.headers()["allow"]), (status, &HeaderValue::from_static("GET")));
            let message = message_of(told).await;
            assert!(message.contains(says), "{message}");
        }
        let fine = Response::new(Body::from("plain"));
        assert_eq!(explain(fine, &Value::Null, "").await.headers().len(), 0);
    }
}
