//! Who passes: the bearer token, the rate of its principal, and that a session is used by nobody but the one who began it.
//! Who does not pass is told why, and is in the audit log.
//!
//! Invariant: a refusal costs a bounded number of lines in the audit log, however many there are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use kafscale_audit::{Decision, Event};
use kafscale_identity::challenge::{self, Resource};
use kafscale_identity::{Authenticator, Denied, Principal, Scope};

use crate::answer::names;
use crate::exchange::Exchange;
use crate::handler::Shared;
use crate::origins::{self, Origins};
use crate::rate_limit::RateLimit;
use crate::refusal::{self, NO_SESSION, refuse};
use crate::sessions::Sessions;

/// For a request's body, and until the answer begins: so much longer than the limit that tools have.
const BEYOND_CALL: Duration = Duration::from_secs(4);
/// When to try again while the issuer of tokens cannot be asked.
const ISSUER_RETRY_S: &str = "5";
/// Names under which tokens are put into addresses, where proxies and histories keep them.
const TOKEN_PARAMETERS: [&str; 6] =
    ["access_token", "token", "auth_token", "authorization", "api_key", "apikey"];
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// Refusals that get a line of their own in the audit log: so many at once, and then one in every so often.
const REFUSALS_AT_ONCE: u32 = 50;
const REFUSAL_EVERY: Duration = Duration::from_millis(200);

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What is needed to decide.
#[derive(Clone, Debug)]
pub struct Gate {
    pub authenticator: Arc<Authenticator>,
    pub rate_limit: Arc<RateLimit>,
    pub sessions: Arc<Sessions>,
    pub resource: Option<Resource>,
    pub origins: Origins,
    pub refusals: Arc<Refusals>,
    pub exchange: Exchange,
    /// What a token must allow.
    pub scope: Scope,
    /// Of a call.
    pub timeout: Duration,
}

/// A request that is not let in: what its sender is told, and what is written down.
struct Refused {
    status: StatusCode,
    header: Option<(HeaderName, String)>,
    text: String,
    principal: Option<Principal>,
    /// For the audit log.
    outcome: &'static str,
}

/// Lets a request in, or says why not.
pub async fn pass(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    if let Some(answer) = gate.origins.preflight(request.method(), request.headers()) {
        return answer;
    }
    let origin = gate.origins.of(request.headers());
    let refused_or_not = gate.pass(request, next).await;
    let mut response = refusal::explain(refused_or_not, &Value::Null, gate.exchange.variables).await;
    if let Some(origin) = origin {
        origins::permit(response.headers_mut(), origin);
    }
    response
}

impl Gate {
    async fn pass(&self, request: Request, next: Next) -> Response {
        let (mut head, body) = request.into_parts();
        let principal = match self.principal(&head).await {
            Ok(principal) => principal,
            Err(refused) => {
                let peer = head.extensions.get::<Peer>().copied();
                self.refusals.note(&refused, peer).await;
                return refused.into_response();
            }
        };
        head.extensions.insert(principal.clone());
        // Nothing behind this needs the token, nor could log it by mistake.
        head.headers.remove(header::AUTHORIZATION);
        let request = Request::from_parts(head, body);
        match tokio::time::timeout(
            self.timeout + BEYOND_CALL,
            self.exchange.answer(request, &principal, next),
        )
        .await
        {
            Ok(response) => response,
            Err(_) => {
                let why = "the request's body did not come in time, or its answer was not ready: try again, or ask for less";
                refuse(StatusCode::GATEWAY_TIMEOUT, &Value::Null, why)
            }
        }
    }

    async fn principal(&self, request: &Parts) -> Result<Principal, Refused> {
        let resource = self.resource.as_ref();
        if has_token_in_address(request.uri.query().unwrap_or_default()) {
            return Err(Refused {
                status: StatusCode::BAD_REQUEST,
                header: Some((header::WWW_AUTHENTICATE, challenge::invalid_request(resource))),
                text: "a token in the address ends up in logs and histories: take it for spoilt, and send a new one in the \
                       header Authorization: Bearer TOKEN"
                    .to_owned(),
                principal: None,
                outcome: "token in the address",
            });
        }
        let given = authorization(&request.headers);
        let principal = match given {
            Ok(given) => self.authenticator.principal(given).await,
            Err(denied) => Err(denied),
        };
        let principal = principal.map_err(|denied| denied_response(&denied, self.scope, resource))?;
        if !principal.may(self.scope) {
            return Err(Refused {
                status: StatusCode::FORBIDDEN,
                header: Some((header::WWW_AUTHENTICATE, challenge::insufficient_scope(self.scope, resource))),
                text: format!("the token lacks the scope {}: send one that has it", self.scope.name()),
                principal: Some(principal),
                outcome: "insufficient scope",
            });
        }
        if let Err(wait) = self.rate_limit.take(&principal.name, Instant::now()) {
            let seconds = wait.as_secs_f64().ceil();
            return Err(Refused {
                status: StatusCode::TOO_MANY_REQUESTS,
                header: Some((header::RETRY_AFTER, seconds.to_string())),
                text: format!("too many requests: try again in {seconds} s"),
                principal: Some(principal),
                outcome: "too many requests",
            });
        }
        // The same answer as for a session that is not there: whose it is concerns nobody else.
        let session = session_of(&request.headers);
        if session.is_some_and(|session| self.sessions.are_of_another(session, &principal.name)) {
            return Err(Refused {
                status: StatusCode::NOT_FOUND,
                header: None,
                text: NO_SESSION.to_owned(),
                principal: Some(principal),
                outcome: "session of another principal",
            });
        }
        Ok(principal)
    }
}

/// The one Authorization header.
fn authorization(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(first), None) = (given.next(), given.next()) else {
        return match headers.contains_key(header::AUTHORIZATION) {
            true => Err(Denied::Invalid("there are several Authorization headers")),
            false => Ok(None),
        };
    };
    first.to_str().map(Some).map_err(|_| Denied::Invalid("the token is not ASCII"))
}

fn denied_response(denied: &Denied, scope: Scope, resource: Option<&Resource>) -> Refused {
    if let Denied::Unavailable(why) = denied {
        return Refused {
            status: StatusCode::SERVICE_UNAVAILABLE,
            header: Some((header::RETRY_AFTER, ISSUER_RETRY_S.to_owned())),
            text: format!(
                "the token cannot be checked now, its issuer does not answer as it should: {why}. Try again in {ISSUER_RETRY_S} s"
            ),
            principal: None,
            outcome: "issuer unavailable",
        };
    }
    let (outcome, text) = match denied {
        Denied::Invalid(why) => ("invalid token", format!("{why}: send another one")),
        Denied::Missing | Denied::Unavailable(_) => {
            ("no token", "a bearer token is needed: send the header Authorization: Bearer TOKEN".to_owned())
        }
    };
    let challenge = challenge::unauthorized(denied, scope, resource);
    let header = Some((header::WWW_AUTHENTICATE, challenge));
    Refused { status: StatusCode::UNAUTHORIZED, header, text, principal: None, outcome }
}

fn has_token_in_address(query: &str) -> bool {
    query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        TOKEN_PARAMETERS.iter().any(|known| name.eq_ignore_ascii_case(known))
    })
}

pub fn session_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(SESSION).and_then(|id| id.to_str().ok())
}

impl Refused {
    fn into_response(self) -> Response {
        let mut response = refuse(self.status, &Value::Null, self.text);
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// Writes down who was not let in.
#[derive(Debug)]
pub struct Refusals {
    shared: Arc<Shared>,
    room: Mutex<Room>,
}

/// How many lines there may be at the moment.
#[derive(Debug)]
struct Room {
    lines: u32,
    at: Instant,
    /// Refusals without a line since the last one that got one.
    left_out: u64,
}

impl Room {
    /// Whether a refusal gets a line; if so, how many before it did not.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let earned = (now - self.at).as_millis() / REFUSAL_EVERY.as_millis();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(REFUSALS_AT_ONCE);
            self.lines = self.lines.saturating_add(earned).min(REFUSALS_AT_ONCE);
            self.at = now;
        }
        match self.lines.checked_sub(1) {
            Some(left) => {
                self.lines = left;
                Some(std::mem::take(&mut self.left_out))
            }
            None => {
                self.left_out += 1;
                None
            }
        }
    }
}

impl Refusals {
    pub fn new(shared: Arc<Shared>) -> Self {
        let room = Room { lines: REFUSALS_AT_ONCE, at: Instant::now(), left_out: 0 };
        Self { shared, room: Mutex::new(room) }
    }

    async fn note(&self, refused: &Refused, peer: Option<Peer>) {
        let Some(left_out) = self.room.lock().take(Instant::now()) else { return };
        let principal = refused.principal.as_ref().map_or("unknown", |principal| &principal.name);
        let mut event = Event::new(self.shared.auditor.clock.now_ms(), principal, "http");
        event.decision = Decision::Deny;
        event.outcome = format!("{} {}", refused.status.as_u16(), refused.outcome);
        event.peer = peer.map(|peer| names::text(&peer.0.ip().to_string(), 100));
        event.refusals_left_out = left_out;
        // It is refused in any case; the log says for itself that it cannot be written.
        let _ = self.shared.auditor.write(event).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_addresses_are_seen() {
        for query in ["access_token=x", "a=b&Token=x", "api_key", "a&AUTHORIZATION=Bearer%20x"] {
            assert!(has_token_in_address(query), "{query}");
        }
        for query in ["", "a=b", "tokens=x", "a=access_token"] {
            assert!(!has_token_in_address(query), "{query}");
        }
    }

    #[test]
    fn a_flood_of_refusals_leaves_few_lines_and_their_number() {
        let start = Instant::now();
        let mut room = Room { lines: REFUSALS_AT_ONCE, at: start, left_out: 0 };
        let lines = (0..10_000).filter(|_| room.take(start).is_some()).count();
        assert_eq!(lines, 50);
        assert_eq!(room.take(start + REFUSAL_EVERY), Some(9_950));
        assert_eq!(room.take(start + REFUSAL_EVERY), None);
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| room.take(later).is_some()).count(), 50);
    }
}
