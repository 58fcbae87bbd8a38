//! The serving end of the socket.
//!
//! Only the user that this process runs as, and root, are let in. Connections, streams of each, and answers have limits; more connections
//! wait.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tonic::Status;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use super::ranges::Ranges;
use super::socket::{Socket, admits};
use super::watches::Watches;
use crate::MetaStore;
use crate::etcd::proto;

const CONNECTIONS_MAX: usize = 16;
const STREAMS_MAX: u32 = 16;
/// Keys and the ends of ranges are all that a request has.
const REQUEST_BYTES_MAX: usize = 64 << 10;
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// After a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves a store to readers until it is dropped.
#[derive(Debug)]
pub struct MetaSocket {
    pub(super) task: JoinHandle<()>,
}

impl MetaSocket {
    /// Serves the store that this process has open under a directory. Must be called within a tokio runtime.
    pub fn serve(dir: &Path, store: Arc<dyn MetaStore>) -> io::Result<MetaSocket> {
        let listener = Socket::of(dir)?.listen()?;
        Ok(MetaSocket { task: tokio::spawn(accept(listener, store)) })
    }
}

impl Drop for MetaSocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: UnixListener, store: Arc<dyn MetaStore>) {
    let (ranges, places) =
        (Arc::new(Ranges::new(Arc::clone(&store))), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    // Ended with this task.
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) if !admits(&stream).unwrap_or(false) => {
                tracing::debug!("a reader of the metadata is of another user, and was sent away");
            }
            Ok((stream, _)) => {
                let (ranges, watches) = (Arc::clone(&ranges), Watches::new(Arc::clone(&store)));
                connections.spawn(async move {
                    let _place = place;
                    serve(stream, ranges, watches).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a reader of the metadata could not connect");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, ranges: Arc<Ranges>, watches: Watches) {
    let answer = service_fn(|request| answer(Arc::clone(&ranges), watches.clone(), request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .max_concurrent_streams(STREAMS_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a reader of the metadata broke off");
    }
}

async fn answer(
    ranges: Arc<Ranges>,
    watches: Watches,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    Ok(match request.uri().path() {
        proto::RANGE => {
            let codec = ProstCodec::<proto::RangeResponse, proto::RangeRequest>::default();
            let grpc = Grpc::new(codec).max_decoding_message_size(REQUEST_BYTES_MAX);
            grpc.max_encoding_message_size(usize::MAX).unary(ranges.asked(), request).await
        }
        proto::WATCH => {
            let codec = ProstCodec::<proto::WatchResponse, proto::WatchRequest>::default();
            let grpc = Grpc::new(codec).max_decoding_message_size(REQUEST_BYTES_MAX);
            grpc.max_encoding_message_size(usize::MAX).streaming(watches, request).await
        }
        _ => Status::unimplemented("metadata is served here for reading only: Range and Watch").into_http(),
    })
}
