//! /metrics, /healthz and /readyz over HTTP, for as long as the process lives: a broker that joins its cluster anew comes and goes behind them.
//!
//! /healthz says that the process is alive, /readyz that the broker serves what it owns, that the log takes writes, and that it is not about
//! to stop.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, StartError};
use crate::cluster::Progress;
use crate::metrics::render;
use crate::node::Node;
use crate::server;

/// More wait in the listen queue: nobody needs many, and each takes memory.
const CONNECTIONS_MAX: usize = 64;
/// After an error of accept, such as too many open files.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

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

    /// The broker that was shown is not a member of its cluster any more.
    pub fn lost(&self) {
        self.lives.fenced.fetch_add(1, Ordering::Relaxed);
        *self.lives.node.write() = None;
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
    let bounded = Bounded { listener, slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    let served = axum::serve(bounded, routes).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the metrics listener failed");
    }
}

async fn metrics(State(lives): State<Arc<Lives>>) -> impl IntoResponse {
    // Thousands of partitions take a while to write down.
    let written = tokio::task::spawn_blocking(move || {
        let node = lives.node.read().clone();
        let (begun, fenced) = (lives.begun.load(Ordering::Relaxed), lives.fenced.load(Ordering::Relaxed));
        render(node.as_deref(), begun, fenced)
    });
    match written.await {
        Ok(text) => {
            let content_type = (header::CONTENT_TYPE, prometheus::TEXT_FORMAT);
            (StatusCode::OK, [content_type], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(lives): State<Arc<Lives>>) -> (StatusCode, String) {
    let unready = |why: String| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    let Some(node) = lives.node.read().clone() else {
        return unready("the broker is joining its cluster".to_owned());
    };
    if node.stopping.is_cancelled() {
        return unready("the broker is stopping".to_owned());
    }
    if *node.cluster.progress().borrow() == Progress::Starting {
        return unready("the broker does not serve all that it owns yet".to_owned());
    }
    match node.log.health() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(why) => unready(why),
    }
}

/// A listener with a limit of connections.
struct Bounded {
    listener: TcpListener,
    slots: Arc<Semaphore>,
}

struct Connection {
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => return (Connection { stream, _slot: slot }, address),
                Err(_) => tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
