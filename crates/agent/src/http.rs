//! The HTTP edge: connections, TLS, limits, and the path to the protocol.
//!
//! A request to `/mcp` passes, in this order: the number of connections, TLS where there is any, time limits for its head
//! and its answer, the `gate` (bearer token, rate, owner of the session), the `exchange` (what one principal may have open, and what
//! real clients do differently), then rmcp's checks of Host, Origin and protocol. `/healthz` and the metadata of the protected resource
//! are open.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::routing::get;
use axum::{Router, middleware};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kafscale_core::connections::{Admission, ConnectionId, ConnectionTable};
use parking_lot::Mutex;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use kafscale_identity::Authenticator;
use kafscale_identity::challenge::{METADATA_PATHS, Resource};
use kafscale_identity::tls::ServerTls;

use crate::config::EdgeConfig;
use crate::exchange::Exchange;
use crate::gate::{self, Gate, Peer};
use crate::handler::{self, Shared};
use crate::health::Health;
use crate::rate_limit::RateLimit;
use crate::refusal;
use crate::sessions::Sessions;

/// More than two principals can keep busy: see `exchange`. One that waits makes way for a newcomer.
const MAX_CONNECTIONS: usize = 1024;
pub const MAX_REQUEST_BYTES: usize = 1 << 20;
/// For a handshake, and for a request's head, also after the one before it on the same connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// From a request's head until its answer was taken, if that is not a stream: so much longer than the limit that tools have. The gate's
/// own limit is shorter.
const TAKEN_BEYOND_CALL: Duration = Duration::from_secs(54);
/// For connections that are busy when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The routes of the server, and who is let in there.
pub fn router(
    config: EdgeConfig,
    shared: Arc<Shared>,
    health: Arc<Health>,
    stop: &CancellationToken,
) -> (Router, Arc<Authenticator>) {
    let authenticator = Arc::new(config.identity.authenticator);
    let resource = config.identity.resource;
    let mut transport = StreamableHttpServerConfig::default()
        .with_allowed_hosts(config.allowed_hosts.iter().cloned())
        .with_allowed_origins(config.origins.list().iter().cloned())
        .with_max_request_body_bytes(MAX_REQUEST_BYTES)
        .with_cancellation_token(stop.child_token());
    transport.json_response = true;
    let sessions = Arc::new(Sessions::new(config.session_timeout));
    let gate = Gate {
        authenticator: Arc::clone(&authenticator),
        rate_limit: Arc::new(RateLimit::new(config.rate)),
        sessions: Arc::clone(&sessions),
        resource: resource.clone(),
        origins: config.origins.clone(),
        refusals: Arc::new(gate::Refusals::new(Arc::clone(&shared))),
        exchange: Exchange::new(Arc::clone(&shared), Arc::clone(&sessions), config.variables),
        scope: shared.scope,
        timeout: shared.service.limits.call_timeout,
    };
    let service =
        StreamableHttpService::new(move || Ok(handler::serving(Arc::clone(&shared))), sessions, transport);
    // The gate stands before these paths only: what is not there is not there without a token either, so that clients that look for the
    // metadata of an authorization server find out that there is none.
    let router = Router::new()
        .route_service("/mcp", service.clone())
        .route_service("/mcp/", service)
        .route_layer(middleware::from_fn_with_state(gate, gate::pass))
        .route("/healthz", get(move || std::future::ready(health.answer())));
    let router = match &resource {
        Some(resource) => with_metadata(router, resource),
        None => router,
    };
    let router = router.method_not_allowed_fallback(refusal::only_read).fallback(refusal::no_such_path);
    (router, authenticator)
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

/// A connection's handle in the table: closes it.
type Connections = Arc<Mutex<ConnectionTable<CancellationToken>>>;

/// Serves connections until `stop`, then lets those that are busy finish for a moment.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    router: Router,
    call_timeout: Duration,
    stop: CancellationToken,
) {
    let taken_within = call_timeout + TAKEN_BEYOND_CALL;
    let table: Connections = Arc::new(Mutex::new(ConnectionTable::new(MAX_CONNECTIONS)));
    let mut connections = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = Place::take(&table, peer, taken_within, &stop) else { continue };
                let acceptor = tls.as_ref().map(|tls| tls.acceptor());
                connections.spawn(shake_hands(stream, peer, acceptor, router.clone(), place));
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

/// A connection's place in the table, which it leaves when this is dropped.
struct Place {
    table: Connections,
    id: ConnectionId,
    /// The connection is to be closed: for another one, because its answer is not taken, or because the server stops.
    close: CancellationToken,
    taken_within: Duration,
    stop: CancellationToken,
}

impl Place {
    /// None: every connection is busy.
    fn take(
        table: &Connections,
        peer: SocketAddr,
        taken_within: Duration,
        stop: &CancellationToken,
    ) -> Option<Self> {
        let close = stop.child_token();
        let Admission::Admitted { id, evicted } = table.lock().admit(peer.ip(), close.clone()) else {
            return None;
        };
        if let Some(evicted) = evicted {
            evicted.cancel();
        }
        Some(Self { table: Arc::clone(table), id, close, taken_within, stop: stop.clone() })
    }

    fn answering(&self) -> Answering {
        // One that was given up meanwhile is closed; what becomes of its request does not matter.
        self.table.lock().busy(self.id);
        let (close, taken_within) = (self.close.clone(), self.taken_within);
        let deadline = tokio::spawn(async move {
            tokio::time::sleep(taken_within).await;
            close.cancel();
        });
        let deadline = Some(AbortOnDropHandle::new(deadline));
        Answering { table: Arc::clone(&self.table), id: self.id, deadline }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.lock().leave(self.id);
    }
}

/// Held while a request is answered, until its answer was handed to the connection.
struct Answering {
    table: Connections,
    id: ConnectionId,
    deadline: Option<AbortOnDropHandle<()>>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.table.lock().waiting(self.id);
    }
}

/// Marks an answer that goes on for as long as its client likes.
#[derive(Clone, Copy, Debug)]
pub struct Endless;

/// A body that holds something for as long as it is being sent.
pub struct Held<T> {
    body: Body,
    _held: T,
}

impl<T> Held<T> {
    pub fn new(body: Body, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<T: Unpin> hyper::body::Body for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn shake_hands(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    place: Place,
) {
    // Answers are small: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else { return connection(stream, peer, router, place).await };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    match place.close.run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) => connection(stream, peer, router, place).await,
        Some(Ok(Err(error))) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Some(Err(_)) => tracing::debug!(%peer, "a TLS handshake took too long"),
        None => {}
    }
}

async fn connection<S>(stream: S, peer: SocketAddr, router: Router, place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let place = Arc::new(place);
    let routes = TowerToHyperService::new(router.into_service::<Body>());
    let of_requests = Arc::clone(&place);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let mut answering = of_requests.answering();
        request.extensions_mut().insert(Peer(peer));
        let answer = hyper::service::Service::call(&routes, request.map(Body::new));
        async move {
            let response = answer.await?;
            if response.extensions().get::<Endless>().is_some() {
                answering.deadline = None;
            }
            Ok::<_, Infallible>(response.map(|body| Held::new(body, answering)))
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    // The header `date` panics when the clock is before 1970 or after 9999.
    http.auto_date_header(false);
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 << 10);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = place.close.cancelled() => {
            if !place.stop.is_cancelled() {
                tracing::debug!(%peer, "an MCP connection is closed: it waits while others need its place, or takes no answer");
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "an MCP connection ended early");
    }
}
