//! The HTTP edge: connections, authentication, limits, and the path to the protocol.
//!
//! A request to `/mcp` passes, in this order: the number of connections, time limits for its head and its answer, the bearer
//! token, the rate of its principal, then rmcp's checks of Host, Origin, size and protocol. `/healthz` is open.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::auth::{Authenticator, Denied, Scope};
use crate::config::McpConfig;
use crate::handler::{self, Shared};
use crate::rate_limit::RateLimit;
use crate::sessions::Sessions;

const MAX_CONNECTIONS: usize = 512;
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// For a request's head, also after the one before it on the same connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Until the answer begins. Tools have a shorter limit of their own.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// For connections that are busy when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What the middleware needs.
#[derive(Clone, Debug)]
struct Gate {
    authenticator: Arc<Authenticator>,
    rate_limit: Arc<RateLimit>,
}

/// The routes of the server.
pub fn router(
    config: &McpConfig,
    authenticator: Arc<Authenticator>,
    shared: Arc<Shared>,
    stop: &CancellationToken,
) -> Router {
    let mut transport = StreamableHttpServerConfig::default()
        .with_allowed_hosts(config.allowed_hosts.iter().cloned())
        .with_allowed_origins(config.allowed_origins.iter().cloned())
        .with_max_request_body_bytes(MAX_REQUEST_BYTES)
        .with_cancellation_token(stop.child_token());
    transport.json_response = true;
    let sessions = Arc::new(Sessions::new(config.session_timeout));
    let service =
        StreamableHttpService::new(move || Ok(handler::serving(Arc::clone(&shared))), sessions, transport);
    let gate = Gate { authenticator, rate_limit: Arc::new(RateLimit::new(config.rate)) };
    Router::new()
        .route_service("/mcp", service)
        .layer(middleware::from_fn_with_state(gate, pass))
        .route("/healthz", get(|| async { "ok\n" }))
}

/// Lets a request in, or says why not.
async fn pass(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION).map(HeaderValue::to_str);
    let principal = match authorization {
        Some(Err(_)) => Err(Denied::Invalid),
        Some(Ok(text)) => gate.authenticator.principal(Some(text)),
        None => gate.authenticator.principal(None),
    };
    let principal = match principal {
        Ok(principal) => principal,
        Err(denied) => return unauthorized(denied),
    };
    if !principal.may(Scope::Observe) {
        let challenge = "Bearer realm=\"kafscale\", error=\"insufficient_scope\", scope=\"observe\"";
        return refuse(
            StatusCode::FORBIDDEN,
            header::WWW_AUTHENTICATE,
            challenge,
            "the token lacks the scope observe\n",
        );
    }
    if let Err(wait) = gate.rate_limit.take(&principal.name, Instant::now()) {
        let seconds = wait.as_secs_f64().ceil().to_string();
        return refuse(StatusCode::TOO_MANY_REQUESTS, header::RETRY_AFTER, &seconds, "too many requests\n");
    }
    request.extensions_mut().insert(principal);
    match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "no answer in time\n").into_response(),
    }
}

/// RFC 6750, section 3: without a token only the scheme is told, with a wrong one also the error.
fn unauthorized(denied: Denied) -> Response {
    let challenge = match denied {
        Denied::Missing => "Bearer realm=\"kafscale\"",
        Denied::Invalid => "Bearer realm=\"kafscale\", error=\"invalid_token\"",
    };
    let text = "a bearer token is needed: send the header Authorization: Bearer TOKEN\n";
    refuse(StatusCode::UNAUTHORIZED, header::WWW_AUTHENTICATE, challenge, text)
}

fn refuse(status: StatusCode, name: header::HeaderName, value: &str, text: &'static str) -> Response {
    let mut response = (status, text).into_response();
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

/// Serves connections until `stop`, then lets those that are busy finish for a moment.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Some(Ok(permit)) = stop.run_until_cancelled(Arc::clone(&permits).acquire_owned()).await {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { break };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    connection(stream, router, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: others must close first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    // Answers are small: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router.into_service::<Body>());
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        hyper::service::Service::call(&service, request.map(Body::new))
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 << 10);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an MCP connection ended early");
    }
}
