//! The HTTP edge: connections, TLS, limits, and the path to the protocol.
//!
//! A request to `/mcp` passes, in this order: the number of connections, TLS where there is any, time limits for its head
//! and its answer, the `gate` (bearer token, rate, owner of the session), then rmcp's checks of Host, Origin, size and
//! protocol. `/healthz` and the metadata of the protected resource are open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::routing::get;
use axum::{Router, middleware};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::auth::Authenticator;
use crate::auth::challenge::{METADATA_PATHS, Resource};
use crate::config::McpConfig;
use crate::gate::{self, Gate, Peer};
use crate::handler::{self, Shared};
use crate::rate_limit::RateLimit;
use crate::sessions::Sessions;
use crate::tls::ServerTls;

const MAX_CONNECTIONS: usize = 512;
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// For a handshake, and for a request's head, also after the one before it on the same connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// For connections that are busy when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The routes of the server.
pub fn router(
    config: &McpConfig,
    authenticator: Arc<Authenticator>,
    shared: Arc<Shared>,
    stop: &CancellationToken,
) -> Router {
    let mut transport = StreamableHttpServerConfig::default()
        .with_allowed_hosts(config.allowed_hosts.iter().cloned())
        .with_allowed_origins(config.origins.list().iter().cloned())
        .with_max_request_body_bytes(MAX_REQUEST_BYTES)
        .with_cancellation_token(stop.child_token());
    transport.json_response = true;
    let sessions = Arc::new(Sessions::new(config.session_timeout));
    let gate = Gate {
        authenticator,
        rate_limit: Arc::new(RateLimit::new(config.rate)),
        sessions: Arc::clone(&sessions),
        resource: config.resource.clone(),
        origins: config.origins.clone(),
        refusals: Arc::new(gate::Refusals::new(Arc::clone(&shared))),
    };
    let service =
        StreamableHttpService::new(move || Ok(handler::serving(Arc::clone(&shared))), sessions, transport);
    let router = Router::new()
        .route_service("/mcp", service)
        .layer(middleware::from_fn_with_state(gate, gate::pass))
        .route("/healthz", get(|| async { "ok\n" }));
    match &config.resource {
        Some(resource) => with_metadata(router, resource),
        None => router,
    }
}

/// Serves what a client without a token has to know to get one (RFC 9728).
fn with_metadata(router: Router, resource: &Resource) -> Router {
    let metadata = resource.metadata().to_string();
    let serve = get(move || {
        let json = (header::CONTENT_TYPE, "application/json");
        // Pages may read it: it is public.
        let all = (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        let answer = ([json, all, (header::CACHE_CONTROL, "max-age=3600")], metadata.clone());
        async move { answer }
    });
    METADATA_PATHS.into_iter().fold(router, |router, path| router.route(path, serve.clone()))
}

/// Serves connections until `stop`, then lets those that are busy finish for a moment.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    router: Router,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Some(Ok(permit)) = stop.run_until_cancelled(Arc::clone(&permits).acquire_owned()).await {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { break };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let acceptor = tls.as_ref().map(|tls| tls.acceptor());
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    shake_hands(stream, peer, acceptor, router, stop).await;
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

async fn shake_hands(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    stop: CancellationToken,
) {
    // Answers are small: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else { return connection(stream, peer, router, stop).await };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    match stop.run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) => connection(stream, peer, router, stop).await,
        Some(Ok(Err(error))) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Some(Err(_)) => tracing::debug!(%peer, "a TLS handshake took too long"),
        None => {}
    }
}

async fn connection<S>(stream: S, peer: SocketAddr, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router.into_service::<Body>());
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Peer(peer));
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
        tracing::debug!(%peer, %error, "an MCP connection ended early");
    }
}
