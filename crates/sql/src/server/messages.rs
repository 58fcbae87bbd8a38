//! The messages of one connection, none of which is larger than there is memory for.
//!
//! `pgwire` reads a message as a whole, and takes up to 1 GiB. Here the length that a message
//! begins with is compared before its bytes are read; a client whose message is too large is told
//! so, and its connection ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use pgwire::api::{ClientInfo as _, ErrorHandler as _, PgWireConnectionState, PgWireServerHandlers};
use pgwire::error::ErrorInfo;
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use pgwire::tokio::TlsAcceptor;
use pgwire::tokio::server::{PgWireMessageServerCodec, negotiate_tls, process_error, process_message};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{Framed, FramedParts};

/// Of a client that may ask: a statement's text, or the values of its parameters.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Of one that has not shown who it is.
const STARTUP_BYTES_MAX: usize = 64 << 10;
const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);
/// For a client to read why its connection ends, while it still sends.
const FAREWELL: Duration = Duration::from_secs(2);

/// Talks to a client until one of both ends the connection.
pub async fn process<H: PgWireServerHandlers>(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    handlers: H,
) -> io::Result<()> {
    let late = Instant::now() + STARTUP_TIMEOUT;
    let negotiated = tokio::select! {
        () = sleep_until(late) => return Ok(()),
        negotiated = negotiate_tls(stream, tls) => negotiated?,
    };
    // A client that begins with TLS where there is none.
    let Some(negotiated) = negotiated else { return Ok(()) };
    let mut socket = bounded(negotiated)?;
    loop {
        let is_starting = matches!(
            socket.state(),
            PgWireConnectionState::AwaitingStartup | PgWireConnectionState::AuthenticationInProgress
        );
        socket.get_mut().max_bytes = if is_starting { STARTUP_BYTES_MAX } else { MESSAGE_BYTES_MAX };
        let message = tokio::select! {
            () = sleep_until(late), if is_starting => None,
            message = socket.next() => message,
        };
        if let Some(bytes) = socket.get_ref().refused {
            return refuse(socket, bytes).await;
        }
        let Some(Ok(message)) = message else { return Ok(()) };
        if matches!(message, PgWireFrontendMessage::Terminate(_)) {
            return Ok(());
        }
        let is_extended = match socket.state() {
            PgWireConnectionState::CopyInProgress(is_extended) => is_extended,
            _ => message.is_extended_query(),
        };
        let done = process_message(
            message,
            &mut socket,
            handlers.startup_handler(),
            handlers.simple_query_handler(),
            handlers.extended_query_handler(),
            handlers.copy_handler(),
            handlers.cancel_handler(),
        );
        if let Err(mut error) = done.await {
            handlers.error_handler().on_error(&socket, &mut error);
            process_error(&mut socket, error, is_extended).await?;
        }
    }
}

type Socket<S, Q> = Framed<Bounded<S>, PgWireMessageServerCodec<Q>>;

fn bounded<S, Q>(socket: Framed<S, PgWireMessageServerCodec<Q>>) -> io::Result<Socket<S, Q>> {
    let parts = socket.into_parts();
    let mut io = Bounded::new(parts.io);
    io.look_at(&parts.read_buf)?;
    let mut bounded = FramedParts::new::<PgWireBackendMessage>(io, parts.codec);
    (bounded.read_buf, bounded.write_buf) = (parts.read_buf, parts.write_buf);
    Ok(Framed::from_parts(bounded))
}

/// Says why, and throws away what the client still sends.
async fn refuse<S, Q>(mut socket: Socket<S, Q>, bytes: usize) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let most = socket.get_ref().max_bytes;
    let message = format!("a message of {bytes} bytes is too large: {most} are the most");
    let info = ErrorInfo::new("FATAL".to_owned(), "54000".to_owned(), message);
    socket.send(PgWireBackendMessage::ErrorResponse(info.into())).await?;
    let io = socket.get_mut();
    io.max_bytes = usize::MAX;
    let mut thrown_away = vec![0; 64 << 10];
    let reading = async { while matches!(io.inner.read(&mut thrown_away).await, Ok(1..)) {} };
    let _ = timeout(FAREWELL, reading).await;
    Ok(())
}

/// Compares the length of each message that is read. The first one has no type before its length.
struct Bounded<S> {
    inner: S,
    max_bytes: usize,
    /// What there is of a message's type and length.
    head: Vec<u8>,
    has_type: bool,
    /// Until the next message begins.
    left: usize,
    /// The length that a message had which was too large.
    refused: Option<usize>,
}

impl<S> Bounded<S> {
    fn new(inner: S) -> Bounded<S> {
        let head = Vec::with_capacity(5);
        Bounded { inner, max_bytes: STARTUP_BYTES_MAX, head, has_type: false, left: 0, refused: None }
    }

    fn look_at(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let passed = self.left.min(bytes.len());
            bytes = &bytes[passed..];
            self.left -= passed;
            let head_bytes = 4 + usize::from(self.has_type);
            while let (true, [first, rest @ ..]) = (self.left == 0 && self.head.len() < head_bytes, bytes) {
                self.head.push(*first);
                bytes = rest;
            }
            if self.left == 0 && self.head.len() == head_bytes {
                let length = self.head[head_bytes - 4..].try_into().expect("these are four");
                let length = u32::from_be_bytes(length) as usize;
                if length > self.max_bytes {
                    self.refused = Some(length);
                    return Err(io::ErrorKind::InvalidData.into());
                }
                self.left = length.saturating_sub(4);
                self.head.clear();
                self.has_type = true;
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = read {
            self.look_at(&buf.filled()[before..])?;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_compared_however_messages_are_cut() {
        let mut bytes = vec![0, 0, 0, 9, 0, 3, 0, 0, 0];
        for length in [4_u32, 100, 60_000] {
            bytes.push(b'Q');
            bytes.extend(length.to_be_bytes());
            bytes.resize(bytes.len() + length as usize - 4, b'x');
        }
        for step in [1, 2, 3, 7, 1_000, bytes.len()] {
            let mut io = Bounded::new(());
            for piece in bytes.chunks(step) {
                io.look_at(piece).unwrap();
            }
            assert_eq!((io.left, io.head.len()), (0, 0), "in steps of {step}");
            let large = [&b"Q"[..], &(STARTUP_BYTES_MAX as u32 + 1).to_be_bytes()].concat();
            let refused = large.chunks(step).map(|piece| io.look_at(piece)).last();
            assert!(refused.is_some_and(|refused| refused.is_err()), "in steps of {step}");
            assert_eq!(io.refused, Some(STARTUP_BYTES_MAX + 1));
        }
    }
}
