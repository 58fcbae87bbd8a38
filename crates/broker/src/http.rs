//! /metrics, /healthz and /readyz over HTTP.
//!
//! /healthz says that the process is alive, /readyz that the log takes writes and the broker is not about to stop.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::render;
use crate::node::Node;

/// More wait in the listen queue: nobody needs many, and each takes memory.
const CONNECTIONS_MAX: usize = 64;
/// After an error of accept, such as too many open files.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Serves until the broker stops.
pub async fn run(node: Arc<Node>, listener: TcpListener) {
    let stopping = node.stopping.clone();
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(node);
    let bounded = Bounded { listener, slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    let served = axum::serve(bounded, routes).with_graceful_shutdown(stopping.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the metrics listener failed");
    }
}

async fn metrics(State(node): State<Arc<Node>>) -> impl IntoResponse {
    // Thousands of partitions take a while to write down.
    match tokio::task::spawn_blocking(move || render(&node)).await {
        Ok(text) => {
            let content_type = (header::CONTENT_TYPE, prometheus::TEXT_FORMAT);
            (StatusCode::OK, [content_type], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    if node.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the broker is stopping\n".into());
    }
    match node.log.health() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
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
