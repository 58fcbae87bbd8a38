//! The accept loop: bounded connections, each in a task of its own, all awaited at the end.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{error, warn};

use crate::cluster::Progress;
use crate::connection;
use crate::listeners::Bound;
use crate::log_limit::Line;
use crate::node::Node;
use crate::transport::{Accepted, Transport};

/// Connections that the kernel keeps for us.
const BACKLOG: i32 = 1024;
/// After an error of accept, such as too many open files.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Binds the address, which may still be in TIME_WAIT after a restart.
pub fn bind(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connections wait for so long until the broker serves what it owns: better than an answer that it does not.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// Accepts until the broker stops, then waits for the connections to end. All listeners share the slots.
pub async fn run<T: Transport>(node: Arc<Node>, bound: Bound<T>, slots: Arc<Semaphore>) {
    let Bound { transport: mut listener, endpoint, .. } = bound;
    let mut progress = node.cluster.progress();
    let ready = timeout(READY_WITHIN, progress.wait_for(|progress| *progress == Progress::Ready));
    if node.stopping.run_until_cancelled(ready).await.is_some_and(|in_time| in_time.is_err()) {
        warn!("accepting connections although not everything that this broker owns is served yet");
    }
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = node.stopping.cancelled() => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            accepted = accept(&node, &mut listener, &slots) => accepted,
        };
        match accepted {
            Ok((accepted, slot)) => {
                let limit = address_limit(&node, slots.available_permits());
                let Some(counted) = node.addresses.admit(accepted.peer.ip(), limit) else {
                    refuse(&node, accepted.peer, limit);
                    continue;
                };
                let (node, name) = (Arc::clone(&node), Arc::clone(&endpoint.listener));
                connections.spawn(async move {
                    connection::serve(node, name, accepted).await;
                    drop((slot, counted));
                });
            }
            // The peer went away before it was accepted.
            Err(error)
                if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(error) => {
                if node.lines.allow(Line::AcceptFailed) {
                    warn!(%error, "a connection cannot be accepted");
                }
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

/// Closes a connection of an address that has too many, as Apache Kafka does, without a word.
fn refuse(node: &Node, address: std::net::SocketAddr, limit: usize) {
    node.metrics.connections_over_limit.inc();
    if !node.lines.allow(Line::AddressFull) {
        return;
    }
    match few_left(node) {
        Some(few) => warn!(%address, few, "connection closed"),
        None => warn!(%address, limit, "connection closed: its address has max.connections.per.ip already"),
    }
}

/// How many connections an address may have, when so many are `free` beside the one that it asks for: the last ones are for addresses that
/// have none.
fn address_limit(node: &Node, free: usize) -> usize {
    let limit = node.connections_per_address();
    if free < node.config.connections_reserved(limit) { limit.min(1) } else { limit }
}

/// What is to be said when nearly all connections are taken.
pub fn few_left(node: &Node) -> Option<String> {
    let (open, limit) = (node.metrics.places.open.get(), node.metrics.places.limit.get());
    let reserved = node.metrics.places.reserved.get();
    let meaning = match limit - open {
        ..=0 => "new ones wait until others end",
        left if left <= reserved => "an address that has one gets no other",
        _ => return None,
    };
    Some(format!("{open} of {limit} connections are taken (--max-connections): {meaning}"))
}

async fn accept<T: Transport>(
    node: &Node,
    listener: &mut T,
    slots: &Arc<Semaphore>,
) -> io::Result<(Accepted<T::Input, T::Output>, OwnedSemaphorePermit)> {
    let slot = match Arc::clone(slots).try_acquire_owned() {
        Ok(slot) => slot,
        Err(_) => {
            let _full = Full::begin(node);
            Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed")
        }
    };
    Ok((listener.accept().await?, slot))
}

/// A listener that waits for a connection to end.
struct Full<'a>(&'a Node);

impl Full<'_> {
    fn begin(node: &Node) -> Full<'_> {
        node.metrics.places.listeners_full.inc();
        if node.lines.allow(Line::AllTaken) {
            let limit = node.config.max_connections;
            warn!(limit, "all connections are taken (--max-connections): new ones wait until others end");
        }
        Full(node)
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        self.0.metrics.places.listeners_full.dec();
    }
}

/// A panic of one connection is a bug, and the others go on.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a connection task panicked");
    }
}
