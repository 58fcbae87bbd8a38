//! The messages of one connection: none is larger than there is memory for, and each is what its
//! kind has to be ([`bodies`]).
//!
//! `pgwire` takes up to 1 GiB, and believes what a message states of its own parts. Here the length
//! that a message begins with is compared before its bytes are read; a client whose message is too
//! large is told so, and its connection ends. A message with wrong parts is answered with an error
//! and passed over. Whatever fails beyond that, in a handler or a query, is an error of that one
//! statement.

use std::any::Any;
use std::io;
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Buf as _;
use futures_util::{FutureExt as _, SinkExt as _};
use pgwire::api::{ClientInfo as _, ErrorHandler as _, PgWireConnectionState, PgWireServerHandlers};
use pgwire::error::{ErrorInfo, PgWireError};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use pgwire::tokio::TlsAcceptor;
use pgwire::tokio::server::{PgWireMessageServerCodec, negotiate_tls, process_error, process_message};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{Decoder as _, Framed};

use super::bodies::{self, Wrong};
use super::statements::pg_error;
use crate::error::SqlError;

/// Of a client that may ask: a statement's text, or the values of its parameters.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Of one that has not shown who it is.
const STARTUP_BYTES_MAX: usize = 64 << 10;
const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);
/// For a client to read why its connection ends, while it still sends.
const FAREWELL: Duration = Duration::from_secs(2);
/// Room that is made for what is read next.
const READ_BYTES: usize = 8 << 10;
const READ_BYTES_MAX: usize = 256 << 10;

type Socket<S, Q> = Framed<S, PgWireMessageServerCodec<Q>>;

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
    let Some(mut socket) = negotiated else { return Ok(()) };
    loop {
        let received = tokio::select! {
            () = sleep_until(late), if is_starting(&socket.state()) => return Ok(()),
            received = receive(&mut socket) => received?,
        };
        let (message, kind_is_extended) = match received {
            Received::Message(message) => {
                let is_extended = message.is_extended_query();
                (Ok(message), is_extended)
            }
            Received::PassedOver(wrong, is_extended) => (Err(refusal(wrong)), is_extended),
            Received::End => return Ok(()),
            Received::Refused(info) => return refuse(socket, info).await,
        };
        let is_extended = match socket.state() {
            PgWireConnectionState::CopyInProgress(is_extended) => is_extended,
            // Until a client has heard of an error, what it has sent meanwhile is passed over.
            PgWireConnectionState::AwaitingSync if message.is_err() => continue,
            _ => kind_is_extended,
        };
        let was_starting = is_starting(&socket.state());
        let done = match message {
            Ok(PgWireFrontendMessage::Terminate(_)) => return Ok(()),
            Ok(message) => {
                let done = process_message(
                    message,
                    &mut socket,
                    handlers.startup_handler(),
                    handlers.simple_query_handler(),
                    handlers.extended_query_handler(),
                    handlers.copy_handler(),
                    handlers.cancel_handler(),
                );
                AssertUnwindSafe(done).catch_unwind().await.unwrap_or_else(|panic| Err(failed(panic)))
            }
            Err(error) => Err(error),
        };
        if let Err(mut error) = done {
            handlers.error_handler().on_error(&socket, &mut error);
            // Whoever is not known yet has nothing more to ask.
            let ends = was_starting || matches!(&error, PgWireError::UserError(info) if info.is_fatal());
            process_error(&mut socket, error, is_extended).await?;
            if ends {
                return Ok(());
            }
        }
    }
}

fn is_starting(state: &PgWireConnectionState) -> bool {
    matches!(state, PgWireConnectionState::AwaitingStartup | PgWireConnectionState::AuthenticationInProgress)
}

fn failed(panic: Box<dyn Any + Send>) -> PgWireError {
    pg_error(&SqlError::panicked(&*panic))
}

fn refusal(wrong: Wrong) -> PgWireError {
    let info = ErrorInfo::new("ERROR".to_owned(), wrong.code().to_owned(), wrong.to_string());
    PgWireError::UserError(Box::new(info))
}

fn fatal(code: &str, message: String) -> Box<ErrorInfo> {
    Box::new(ErrorInfo::new("FATAL".to_owned(), code.to_owned(), message))
}

/// What came of a client.
enum Received {
    Message(PgWireFrontendMessage),
    /// It had wrong parts; whether it was one of the extended protocol.
    PassedOver(Wrong, bool),
    End,
    /// Nothing that comes behind it can be understood.
    Refused(Box<ErrorInfo>),
}

/// The next message, once it is there as a whole.
async fn receive<S, Q>(socket: &mut Socket<S, Q>) -> io::Result<Received>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    loop {
        let state = socket.state();
        let most = if is_starting(&state) { STARTUP_BYTES_MAX } else { MESSAGE_BYTES_MAX };
        let has_kind = !matches!(state, PgWireConnectionState::AwaitingStartup);
        let wanted = match whole(socket.read_buffer(), has_kind, most) {
            Ok(Some(bytes)) if socket.read_buffer().len() >= bytes => {
                return Ok(decode(socket, bytes, has_kind));
            }
            Ok(wanted) => wanted.unwrap_or_default(),
            Err(info) => return Ok(Received::Refused(info)),
        };
        let mut bytes = take(socket.read_buffer_mut());
        bytes.reserve(wanted.saturating_sub(bytes.len()).clamp(READ_BYTES, READ_BYTES_MAX));
        let read = socket.get_mut().read_buf(&mut bytes).await;
        *socket.read_buffer_mut() = bytes;
        if read? == 0 {
            return Ok(Received::End);
        }
    }
}

/// The bytes of the message that begins there, as far as they are known.
fn whole(bytes: &[u8], has_kind: bool, most: usize) -> Result<Option<usize>, Box<ErrorInfo>> {
    let kind_bytes = usize::from(has_kind);
    let Some(length) = bytes.get(kind_bytes..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
    match u32::from_be_bytes(*length) as usize {
        length if length > most => {
            let message = format!("a message of {length} bytes is too large: {most} are the most");
            Err(fatal("54000", message))
        }
        0..4 => Err(fatal("08P01", "invalid message length".to_owned())),
        length => Ok(Some(kind_bytes + length)),
    }
}

fn decode<S, Q>(socket: &mut Socket<S, Q>, bytes: usize, has_kind: bool) -> Received {
    let message = &socket.read_buffer()[..bytes];
    let kind = message[0];
    let checked = if has_kind { bodies::check(kind, &message[5..]) } else { Ok(()) };
    match checked {
        Err(wrong @ Wrong::Kind(_)) => return Received::Refused(fatal(wrong.code(), wrong.to_string())),
        Err(wrong) => {
            socket.read_buffer_mut().advance(bytes);
            return Received::PassedOver(wrong, b"PBDECSH".contains(&kind));
        }
        Ok(()) => {}
    }
    let mut message = socket.read_buffer_mut().split_to(bytes);
    let codec = socket.codec_mut();
    let why = match catch_unwind(AssertUnwindSafe(|| codec.decode(&mut message))) {
        Ok(Ok(Some(message))) => return Received::Message(message),
        Ok(Ok(None)) => "invalid message format".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => SqlError::panicked(&*panic).to_string(),
    };
    Received::Refused(fatal("08P01", why))
}

/// Says why, and throws away what the client still sends.
async fn refuse<S, Q>(mut socket: Socket<S, Q>, info: Box<ErrorInfo>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    socket.send(PgWireBackendMessage::ErrorResponse((*info).into())).await?;
    let io = socket.get_mut();
    let mut thrown_away = vec![0; 64 << 10];
    let reading = async { while matches!(io.read(&mut thrown_away).await, Ok(1..)) {} };
    let _ = timeout(FAREWELL, reading).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_compared_as_soon_as_they_are_there() {
        let sized = |bytes: &[u8], has_kind| whole(bytes, has_kind, 100).map_err(|info| info.code);
        assert_eq!((sized(b"", true), sized(b"Q\0\0\0", true)), (Ok(None), Ok(None)));
        assert_eq!(sized(b"Q\0\0\0\x64", true), Ok(Some(101)));
        assert_eq!(sized(b"\0\0\0\x08", false), Ok(Some(8)));
        assert_eq!(sized(b"Q\0\0\0\x65", true), Err("54000".to_owned()));
        assert_eq!(sized(b"Q\xff\xff\xff\xff", true), Err("54000".to_owned()));
        assert_eq!(sized(b"Q\0\0\0\x03", true), Err("08P01".to_owned()));
    }
}
