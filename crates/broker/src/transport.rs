//! Where connections come from: TCP, or whatever a simulation puts in its place.
//!
//! Invariant: nothing behind this file knows what carries the bytes, and for TCP it costs nothing.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// One connection: what the peer sends, where answers go, and who the peer is.
#[derive(Debug)]
pub struct Accepted<R, W> {
    pub input: R,
    pub output: W,
    pub peer: SocketAddr,
}

/// A source of connections.
pub trait Transport: Send + 'static {
    type Input: AsyncRead + Unpin + Send + 'static;
    type Output: AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Cancel-safe.
    fn accept(&mut self) -> impl Future<Output = io::Result<Accepted<Self::Input, Self::Output>>> + Send;

    /// Where connections are accepted.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

impl Transport for TcpListener {
    type Input = OwnedReadHalf;
    type Output = OwnedWriteHalf;

    async fn accept(&mut self) -> io::Result<Accepted<OwnedReadHalf, OwnedWriteHalf>> {
        let (stream, peer) = TcpListener::accept(self).await?;
        // Without it answers are only slower; a peer that has gone already is noticed when it is read from.
        let _ = stream.set_nodelay(true);
        let (input, output) = stream.into_split();
        Ok(Accepted { input, output, peer })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}
