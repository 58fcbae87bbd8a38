//! Pages in browsers: which of them may talk to the server, and what their browsers have to be told for it (CORS).
//!
//! Invariant: a page of an origin that is not allowed learns nothing, also not from a refusal. Who is no page sends no Origin.
//! Source: <https://fetch.spec.whatwg.org/#http-cors-protocol>

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::Uri;
use serde_json::Value;

use crate::refusal::refuse;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, last-event-id, mcp-method, mcp-name, mcp-protocol-version, mcp-session-id",
);
const RESPONSE_HEADERS: HeaderValue =
    HeaderValue::from_static("mcp-session-id, mcp-protocol-version, retry-after, www-authenticate");
const MAX_AGE_S: HeaderValue = HeaderValue::from_static("600");

/// The origins that are allowed, each as `scheme://host:port` or `scheme://host:*`.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Pages on this machine, and those that were given. An error holds what is not an origin.
    pub fn new(given: &[String]) -> Result<Self, String> {
        let mut origins: Vec<String> =
            ["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"].map(str::to_owned).to_vec();
        for origin in given {
            origins.push(normal(origin).ok_or_else(|| origin.clone())?);
        }
        Ok(Self(origins))
    }

    /// As rmcp takes them.
    pub fn list(&self) -> &[String] {
        &self.0
    }

    fn allows(&self, origin: &str) -> bool {
        let Some(exact) = normal(origin) else { return false };
        let any_port = exact.rsplit_once(':').map(|(base, _)| format!("{base}:*"));
        self.0.iter().any(|allowed| *allowed == exact || Some(allowed) == any_port.as_ref())
    }

    /// The answer to a browser that asks whether a page may ask. None: it is no such question.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        if *method != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let Some(origin) = self.of(headers) else {
            return Some(refuse(StatusCode::FORBIDDEN, &Value::Null, "pages of this origin are not allowed"));
        };
        let mut response = StatusCode::NO_CONTENT.into_response();
        let answer = response.headers_mut();
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
        permit(answer, origin);
        Some(response)
    }

    /// The origin of a request, if it is one that is allowed.
    pub fn of(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        origin.to_str().is_ok_and(|origin| self.allows(origin)).then(|| origin.clone())
    }
}

/// Lets a page of this origin read an answer.
pub fn permit(answer: &mut HeaderMap, origin: HeaderValue) {
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
    answer.append(header::VARY, HeaderValue::from_static("origin"));
}

/// With its port, which is implied where it is the one of the scheme.
fn normal(origin: &str) -> Option<String> {
    let (base, any) = origin.strip_suffix(":*").map_or((origin, false), |base| (base, true));
    let uri: Uri = base.parse().ok()?;
    let (scheme, host) = (uri.scheme_str()?, uri.host()?);
    if host.is_empty()
        || uri.path_and_query().is_some_and(|path| path != "/")
        || (any && uri.port().is_some())
    {
        return None;
    }
    let port = match uri.port_u16() {
        _ if any => "*".to_owned(),
        Some(port) => port.to_string(),
        None if scheme == "https" => "443".to_owned(),
        None => "80".to_owned(),
    };
    Some(format!("{scheme}://{}:{port}", host.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_allowed_with_its_port() {
        let origins = Origins::new(&["https://app.example".into(), "http://a:*".into()]).unwrap();
        assert_eq!(origins.list()[3..], ["https://app.example:443", "http://a:*"]);
        for (origin, allowed) in [
            ("https://app.example", true),
            ("https://APP.example:443", true),
            ("https://app.example:8443", false),
            ("http://app.example", false),
            ("https://app.example.evil", false),
            ("http://a:81", true),
            ("http://localhost:6274", true),
            ("http://[::1]:1", true),
            ("https://localhost:6274", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(origins.allows(origin), allowed, "{origin}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for given in ["example.com", "https://", "https://a/b", "https://a:1:*", "null"] {
            assert_eq!(Origins::new(&[given.into()]).unwrap_err(), given);
        }
    }
}
