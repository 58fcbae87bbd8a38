//! One client connection: frames in, answers out, in order.
//!
//! Requests wait in a bounded queue and are handled one at a time when they reach its head, as in Apache Kafka. Produce is the
//! exception: its batches are checked and appended as soon as they are read, so that many produce requests of one
//! connection are on their way to the disk at once; only its answer waits for its turn. A batch that takes long to check is checked beside
//! the event loop, and nothing else of its connection is read meanwhile.
//!
//! A peer that disconnects cancels what it waits for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Buf;
use kafscale_storage::{Requester, Watcher};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use crate::api::{self, Admission, Pending};
use crate::log_limit::Line;
use crate::node::Node;
use crate::transport::Accepted;
use crate::wire::{Answer, FrameError, FrameReader, Refusal};

/// Requests of one connection that may be under way. Clients have 5 by default.
const PIPELINE_MAX: usize = 64;

/// A peer that takes its answer more slowly than this, over the whole of it, is disconnected: it holds memory that others wait for.
const BYTES_PER_SECOND_MIN: usize = 16 << 10;

/// Batches that are being checked when the broker stops are given up after so long.
const CHECK_GRACE: Duration = Duration::from_secs(1);

/// What a connection knows of its peer.
#[derive(Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// The name of the listener that it came in by.
    pub listener: Arc<str>,
    /// Wakes the long poll of this connection; there is one at a time.
    pub watcher: Arc<Watcher>,
    /// Whether it said so in ApiVersions (KIP-511).
    pub is_librdkafka: AtomicBool,
}

impl Peer {
    /// Who asks, where turns are given and shares are kept.
    pub fn requester(&self) -> Requester {
        Requester::peer(self.address.ip())
    }
}

enum ReadEnd {
    Stopping,
    Gone(FrameError),
}

/// Serves a connection until the peer goes, misbehaves, or the broker stops.
pub async fn serve<R, W>(node: Arc<Node>, listener: Arc<str>, accepted: Accepted<R, W>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let address = accepted.peer;
    node.metrics.connections_accepted.inc();
    node.metrics.places.open.inc();
    let ended = exchange(&node, listener, accepted).await;
    node.metrics.places.open.dec();
    match ended {
        Ok(()) | Err(FrameError::Closed) => debug!(%address, "connection closed"),
        Err(e @ (FrameError::Idle | FrameError::Stalled | FrameError::Io(_))) => {
            debug!(%address, reason = %e, "connection closed");
        }
        Err(e @ FrameError::NoMemory) => {
            node.metrics.connections_refused.inc();
            debug!(%address, reason = %e, "connection closed by the broker");
        }
        Err(FrameError::Refused(why)) => {
            node.metrics.connections_refused.inc();
            if node.lines.allow(Line::ConnectionRefused) {
                info!(%address, reason = %why, "connection closed by the broker");
            }
        }
    }
}

async fn exchange<R, W>(
    node: &Arc<Node>,
    listener: Arc<str>,
    accepted: Accepted<R, W>,
) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Accepted { input, output, peer } = accepted;
    let peer = Arc::new(Peer {
        address: peer,
        listener,
        watcher: Arc::default(),
        is_librdkafka: AtomicBool::new(false),
    });
    let (queue, pending) = mpsc::channel(PIPELINE_MAX);
    let reading = read_requests(node, &peer, input, queue);
    let writing = write_answers(node, output, pending);
    tokio::pin!(reading, writing);
    tokio::select! {
        end = &mut reading => match end {
            // The queue is closed, so that writing ends when everything was answered.
            ReadEnd::Stopping => {
                let drain_timeout = *node.drain_timeout.lock();
                timeout(drain_timeout, writing).await.unwrap_or(Ok(()))
            }
            ReadEnd::Gone(error) => Err(error),
        },
        end = &mut writing => end,
    }
}

async fn read_requests(
    node: &Arc<Node>,
    peer: &Arc<Peer>,
    input: impl AsyncRead + Unpin,
    queue: mpsc::Sender<Pending>,
) -> ReadEnd {
    let config = &node.config;
    let account = node.request_memory.account(peer.requester());
    let mut frames =
        FrameReader::new(input, config.socket_request_max_bytes, config.connections_max_idle, account);
    loop {
        let frame = tokio::select! {
            biased;
            () = node.stopping.cancelled() => return ReadEnd::Stopping,
            frame = frames.next() => frame,
        };
        let admitted = match frame {
            Ok(frame) => {
                node.metrics.received_bytes.inc_by(frame.size_bytes as u64 + 4);
                api::admit(node, peer, frame)
            }
            Err(FrameError::Refused(why)) => Err(why),
            Err(end) => return ReadEnd::Gone(end),
        };
        let admitted = match admitted {
            Ok(Admission::Ready(pending)) => Ok(pending),
            // Nothing more is read meanwhile: what is sent later is appended later.
            Ok(Admission::Checking(checking)) => tokio::select! {
                biased;
                checked = checking => checked,
                () = stopping_for(node, CHECK_GRACE) => return ReadEnd::Stopping,
            },
            Err(why) => Err(why),
        };
        // A request that is refused closes the connection when its turn comes: what was asked before is answered.
        let (pending, refused) = match admitted {
            Ok(pending) => (pending, false),
            Err(why) => (api::refuse(why), true),
        };
        if queue.send(pending).await.is_err() || refused {
            drop(queue);
            // The writer ends this connection, after the answers that stand before.
            return std::future::pending().await;
        }
    }
}

/// Returns when the broker has been stopping for so long.
async fn stopping_for(node: &Node, grace: Duration) {
    node.stopping.cancelled().await;
    sleep(grace).await;
}

async fn write_answers(
    node: &Arc<Node>,
    mut output: impl AsyncWrite + Unpin,
    mut pending: mpsc::Receiver<Pending>,
) -> Result<(), FrameError> {
    while let Some(next) = pending.recv().await {
        let answer = next.await.map_err(FrameError::Refused)?;
        write_answer(node, &mut output, answer).await?;
    }
    Ok(())
}

/// Writes an answer without copying its records together.
async fn write_answer(
    node: &Arc<Node>,
    output: &mut (impl AsyncWrite + Unpin),
    mut answer: Answer,
) -> Result<(), FrameError> {
    let stall_timeout = node.config.write_stall_timeout;
    // Set when the first write has not taken everything.
    let mut deadline = None;
    while answer.has_remaining() {
        let patience = deadline.map_or(stall_timeout, |deadline: Instant| {
            stall_timeout.min(deadline.saturating_duration_since(Instant::now()))
        });
        match timeout(patience, output.write_buf(&mut answer)).await {
            Ok(written) => node.metrics.sent_bytes.inc_by(written? as u64),
            Err(_) => return Err(Refusal::SlowPeer.into()),
        }
        if deadline.is_none() && answer.has_remaining() {
            let whole = Duration::from_secs((answer.remaining() / BYTES_PER_SECOND_MIN) as u64);
            deadline = Some(Instant::now() + stall_timeout + whole);
        }
    }
    Ok(())
}
