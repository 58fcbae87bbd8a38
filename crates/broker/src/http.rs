//! /metrics, /healthz and /readyz over HTTP, for as long as the process lives: a broker that joins its cluster anew comes and goes behind them.
//!
//! /healthz says that the process is alive, /readyz that the broker serves what it owns, that the log takes writes, and that it is not about
//! to stop. While some of it cannot be served, the body of /readyz says so; while nothing can, the broker is not ready.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use kafscale_core::connections::peer_of;
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, StartError};
use crate::cluster::{Progress, Unserved};
use crate::http_listener::{self, Held, Peer};
use crate::metrics::render;
use crate::node::Node;
use crate::server;

/// Scrapes whose answers are being made or sent. The text of a broker with many partitions is large, and it is health that must always
/// be answered; see [`http_listener`].
const SCRAPES_MAX: usize = 16;
/// Of those, for one peer.
const SCRAPES_OF_PEER_MAX: usize = 8;
/// Those that are made at the same time; the others wait for a moment.
const RENDERED_AT_ONCE: usize = 4;
const RENDER_WITHIN: Duration = Duration::from_secs(5);
/// An answer is handed to its connection piece by piece, so that one that is not taken stays counted.
const PIECE_BYTES: usize = 64 << 10;

/// Serves metrics and health of whatever broker lives in this process at the moment.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    lives: Arc<Lives>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// The broker that lives now, and what outlives it.
#[derive(Debug, Default)]
struct Lives {
    node: RwLock<Option<Arc<Node>>>,
    /// Incarnations that began.
    begun: AtomicU64,
    /// Incarnations that ended because others had ended them, or might have.
    fenced: AtomicU64,
    /// What else of this process has to serve before it is ready.
    awaited: Mutex<Option<&'static str>>,
    scrapes: Arc<Scrapes>,
    /// What the process waits for before there is a broker; empty when it does not.
    waits_for: RwLock<String>,
}

impl MetricsServer {
    /// Begins to serve. Must be called within a tokio runtime.
    pub fn bind(address: SocketAddr) -> Result<MetricsServer, StartError> {
        let failed = |error| StartError::Listen { address, error };
        let listener = server::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (lives, stop) = (Arc::new(Lives::default()), CancellationToken::new());
        let serving = tokio::spawn(serve(Arc::clone(&lives), listener, stop.clone()));
        Ok(MetricsServer { address, lives, stop, serving })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows a broker that has started.
    pub fn show(&self, broker: &Broker) {
        *self.lives.node.write() = Some(Arc::clone(broker.node()));
        self.lives.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// What /readyz says while there is no broker yet; empty when nothing is waited for.
    pub fn waits_for(&self, what: String) {
        *self.lives.waits_for.write() = what;
    }

    /// The broker that was shown is not a member of its cluster any more.
    pub fn lost(&self) {
        self.lives.fenced.fetch_add(1, Ordering::Relaxed);
        *self.lives.node.write() = None;
    }

    /// The process is not ready before `what` serves, too: until [`MetricsServer::arrived`].
    pub fn awaits(&self, what: &'static str) {
        *self.lives.awaited.lock() = Some(what);
    }

    /// What was awaited serves.
    pub fn arrived(&self) {
        *self.lives.awaited.lock() = None;
    }

    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "the metrics listener failed");
        }
    }
}

async fn serve(lives: Arc<Lives>, listener: TcpListener, stop: CancellationToken) {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(lives);
    http_listener::serve(listener, routes, stop).await;
}

async fn metrics(State(lives): State<Arc<Lives>>, Extension(Peer(peer)): Extension<Peer>) -> Response {
    let busy = || {
        let retry = (header::RETRY_AFTER, "1");
        (StatusCode::SERVICE_UNAVAILABLE, [retry], "too many scrapes at once: try again in 1 s\n")
            .into_response()
    };
    let Some(scrape) = lives.scrapes.begin(peer) else { return busy() };
    let scrapes = Arc::clone(&lives.scrapes);
    let turn = tokio::time::timeout(RENDER_WITHIN, scrapes.rendering.acquire());
    let Ok(Ok(_turn)) = turn.await else { return busy() };
    // Thousands of partitions take a while to write down.
    let written = tokio::task::spawn_blocking(move || {
        let node = lives.node.read().clone();
        let (begun, fenced) = (lives.begun.load(Ordering::Relaxed), lives.fenced.load(Ordering::Relaxed));
        render(node.as_deref(), begun, fenced)
    });
    match written.await {
        Ok(text) => {
            let content_type = (header::CONTENT_TYPE, prometheus::TEXT_FORMAT);
            let body = Body::new(Held::new(Body::new(Pieces { rest: text.into() }), scrape));
            (StatusCode::OK, [content_type], body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The scrapes under way.
#[derive(Debug)]
struct Scrapes {
    of_peer: Mutex<HashMap<IpAddr, usize>>,
    rendering: Semaphore,
}

impl Default for Scrapes {
    fn default() -> Self {
        Self { of_peer: Mutex::default(), rendering: Semaphore::new(RENDERED_AT_ONCE) }
    }
}

impl Scrapes {
    /// None: there are too many, of this peer or altogether.
    fn begin(self: &Arc<Self>, address: IpAddr) -> Option<Scrape> {
        let peer = peer_of(address);
        let mut of_peer = self.of_peer.lock();
        let (all, own) = (of_peer.values().sum::<usize>(), of_peer.get(&peer).copied().unwrap_or(0));
        if all >= SCRAPES_MAX || own >= SCRAPES_OF_PEER_MAX {
            return None;
        }
        of_peer.insert(peer, own + 1);
        Some(Scrape { all: Arc::clone(self), peer })
    }
}

/// One of them; ends when it is dropped.
struct Scrape {
    all: Arc<Scrapes>,
    peer: IpAddr,
}

impl Drop for Scrape {
    fn drop(&mut self) {
        let mut of_peer = self.all.of_peer.lock();
        match of_peer.get_mut(&self.peer) {
            Some(own) if *own > 1 => *own -= 1,
            Some(_) | None => drop(of_peer.remove(&self.peer)),
        }
    }
}

/// A text, piece by piece.
struct Pieces {
    rest: Bytes,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let bytes = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(bytes);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

async fn ready(State(lives): State<Arc<Lives>>) -> (StatusCode, String) {
    let unready = |why: String| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    let Some(node) = lives.node.read().clone() else {
        let waits_for = lives.waits_for.read().clone();
        let joins = "the broker is joining its cluster".to_owned();
        return unready(if waits_for.is_empty() { joins } else { waits_for });
    };
    if node.stopping.is_cancelled() {
        return unready("the broker is stopping".to_owned());
    }
    if *node.cluster.progress().borrow() == Progress::Starting {
        let Unserved { partitions, why } = node.cluster.unserved();
        let waits = "the broker does not serve all that it owns yet";
        return unready(match partitions {
            0 => waits.to_owned(),
            _ => format!("{waits}; {partitions} partitions cannot be served: {why}"),
        });
    }
    if let Some(what) = *lives.awaited.lock() {
        return unready(format!("{what} does not listen yet"));
    }
    if let Err(why) = node.log.health() {
        return unready(why);
    }
    let Unserved { partitions, why } = node.cluster.unserved();
    let cannot = format!("{partitions} partitions of this broker cannot be served at the moment: {why}");
    // Damage, and one that cannot be served, take nothing else away from clients: then the broker is ready. One that takes no records of any
    // partition is not.
    if partitions > 0 && node.log.partitions().iter().all(|partition| partition.held().is_some()) {
        return unready(cannot);
    }
    let unserved = (partitions > 0).then_some(cannot);
    let (damages, unreadable) = (node.log.damages().summary(), node.log.unreadable().summary());
    let failing = node.log.failing_summary();
    let warnings =
        [damages, unreadable, failing, unserved, node.beyond_end.summary(), server::few_left(&node)];
    let warnings: String =
        warnings.into_iter().flatten().map(|warning| format!("warning: {warning}\n")).collect();
    (StatusCode::OK, format!("ready\n{warnings}"))
}
