//! The connections of metrics and health: accepted, bounded, and closed when they take too long.
//!
//! An orchestrator that gets no answer from /healthz kills the broker, so nobody may keep it from being answered: a connection that
//! has sent no whole request makes way for the next one ([`ConnectionTable`]), and only scrapes take long, of which there are few at
//! a time (`http`). So there is always a place for who asks at once.
//!
//! Invariant: a request is over, its answer taken included, within [`ANSWER_TIMEOUT`], or its connection is closed.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kafscale_core::connections::{Admission, ConnectionId, ConnectionTable};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Nobody needs many, and each takes memory.
const CONNECTIONS_MAX: usize = 128;
/// For a request's head, also after the one before it on the same connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// From a request's head to the end of its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const HEAD_MAX_BYTES: usize = 16 << 10;
/// After an error of accept, such as too many open files.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// For requests that are answered when the broker stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

type Connections = Arc<Mutex<ConnectionTable<CancellationToken>>>;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let table: Connections = Arc::new(Mutex::new(ConnectionTable::new(CONNECTIONS_MAX)));
    let mut tasks = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        while tasks.try_join_next().is_some() {}
        let Ok((stream, address)) = accepted else {
            tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            continue;
        };
        let close = stop.child_token();
        match table.lock().admit(address.ip(), close.clone()) {
            Admission::Admitted { id, evicted } => {
                if let Some(evicted) = evicted {
                    evicted.cancel();
                }
                let place = Place { table: Arc::clone(&table), id, close };
                tasks.spawn(connection(stream, address.ip(), router.clone(), place, stop.clone()));
            }
            Admission::Full => drop(stream),
        }
    }
    drop(listener);
    let drained = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tasks.shutdown().await;
    }
}

/// A connection's place in the table, which it leaves when this is dropped.
struct Place {
    table: Connections,
    id: ConnectionId,
    close: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.lock().leave(self.id);
    }
}

impl Place {
    /// Held while a request is answered. None: the connection was given up.
    fn answering(&self) -> Option<Answering> {
        if !self.table.lock().busy(self.id) {
            return None;
        }
        let close = self.close.clone();
        let deadline = tokio::spawn(async move {
            tokio::time::sleep(ANSWER_TIMEOUT).await;
            close.cancel();
        });
        let (table, id) = (Arc::clone(&self.table), self.id);
        Some(Answering { table, id, _deadline: AbortOnDropHandle::new(deadline) })
    }
}

struct Answering {
    table: Connections,
    id: ConnectionId,
    _deadline: AbortOnDropHandle<()>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.table.lock().waiting(self.id);
    }
}

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

async fn connection(stream: TcpStream, peer: IpAddr, router: Router, place: Place, stop: CancellationToken) {
    let (close, place) = (place.close.clone(), Arc::new(place));
    let routes = TowerToHyperService::new(router.into_service::<Body>());
    let of_requests = Arc::clone(&place);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let answering = of_requests.answering();
        request.extensions_mut().insert(Peer(peer));
        let answer = hyper::service::Service::call(&routes, request.map(Body::new));
        async move {
            let response = answer.await?;
            Ok::<_, std::convert::Infallible>(response.map(|body| Held::new(body, answering)))
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    // The header `date` panics when the clock is before 1970 or after 9999.
    http.auto_date_header(false);
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_MAX_BYTES);
    let served = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    tokio::select! {
        _ = &mut served => return,
        () = close.cancelled() => {}
    }
    // A request that is under way when the broker stops is answered.
    if stop.is_cancelled() {
        served.as_mut().graceful_shutdown();
        let _ = served.await;
    }
}
