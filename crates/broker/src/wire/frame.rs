//! Reading requests off a socket: a length, a header, a body.
//!
//! A frame's memory is taken from the broker's budget before its body is read, and given back when it was handled.
//! What is no Kafka request is found out from the first twelve bytes, before any memory is taken for it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::StrBytes;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Refusal;
use super::cursor::{Cursor, Malformed};
use super::memory::RequestMemory;

/// A frame begins with an API key, its version, a correlation id and the length of the client id.
const HEADER_MIN_BYTES: usize = 10;
/// Only Produce carries much. A list of 100,000 partitions has about three megabytes.
const SMALL_REQUEST_MAX_BYTES: usize = 8 << 20;
/// The same for versions before KIP-482, whose counts are harder to check before memory is taken for them.
const CLASSIC_REQUEST_MAX_BYTES: usize = 2 << 20;
/// What decoding a message may take, compared with its bytes.
const DECODED_FACTOR: usize = 8;
/// The most of the budget that a request other than Produce takes.
pub const DECODING_MAX_BYTES: usize = SMALL_REQUEST_MAX_BYTES * DECODED_FACTOR;
/// A peer that began a frame must send the rest in this time, and a second for each of the bytes below.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
const BYTES_PER_SECOND_MIN: usize = 64 << 10;

/// One request as it came in.
#[derive(Debug)]
pub struct Frame {
    pub api: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<StrBytes>,
    /// Everything after the header. The only handle on its memory, so that it can be changed in place.
    pub body: BytesMut,
    pub size_bytes: usize,
    /// Held until the request was handled.
    pub budget: OwnedSemaphorePermit,
}

/// Why no further frame comes.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection was idle for too long")]
    Idle,
    #[error("a request was not sent to its end")]
    Stalled,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Reads frames from one connection.
#[derive(Debug)]
pub struct FrameReader<R> {
    input: BufReader<R>,
    max_bytes: usize,
    max_idle: Duration,
    memory: Arc<RequestMemory>,
    first: bool,
}

/// The first twelve bytes of a frame, its length included.
#[derive(Debug, Clone, Copy)]
struct Preamble {
    size_bytes: usize,
    api: ApiKey,
    version: i16,
    correlation_id: i32,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(input: R, max_bytes: usize, max_idle: Duration, memory: Arc<RequestMemory>) -> FrameReader<R> {
        FrameReader { input: BufReader::new(input), max_bytes, max_idle, memory, first: true }
    }

    /// The next frame.
    pub async fn next(&mut self) -> Result<Frame, FrameError> {
        let preamble = self.read_preamble().await?;
        let cost = if preamble.api == ApiKey::Produce {
            preamble.size_bytes
        } else {
            preamble.size_bytes.saturating_mul(DECODED_FACTOR)
        };
        let budget = self.memory.take(cost).await;
        let patience =
            FRAME_TIMEOUT + Duration::from_secs((preamble.size_bytes / BYTES_PER_SECOND_MIN) as u64);
        let body = timeout(patience, self.read_body(preamble.size_bytes - 8));
        let body = body.await.map_err(|_| FrameError::Stalled)??;
        Ok(parse_header(preamble, body, budget)?)
    }

    async fn read_preamble(&mut self) -> Result<Preamble, FrameError> {
        let mut bytes = [0u8; 12];
        match timeout(self.max_idle, self.input.read_exact(&mut bytes[..4])).await {
            Err(_) => return Err(FrameError::Idle),
            Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(FrameError::Closed),
            Ok(read) => read?,
        };
        let first = std::mem::replace(&mut self.first, false);
        if let Some(guess) = first.then(|| other_protocol([bytes[0], bytes[1], bytes[2], bytes[3]])).flatten()
        {
            return Err(Refusal::Protocol(guess.into()).into());
        }
        let stated = i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let size_bytes = usize::try_from(stated)
            .ok()
            .filter(|size| (HEADER_MIN_BYTES..=self.max_bytes).contains(size))
            .ok_or_else(|| {
                let max = self.max_bytes;
                Refusal::Protocol(format!("a frame states {stated} bytes; socket.request.max.bytes is {max}"))
            })?;
        self.read_fully(&mut bytes[4..]).await?;
        let mut header = &bytes[4..];
        let (key, version, correlation_id) = (header.get_i16(), header.get_i16(), header.get_i32());
        let api = api_key(key)?;
        let flexible = api.request_header_version(version) >= 2;
        let small = if flexible { SMALL_REQUEST_MAX_BYTES } else { CLASSIC_REQUEST_MAX_BYTES };
        if api != ApiKey::Produce && size_bytes > small {
            let why = format!("{api:?} with {size_bytes} bytes is larger than any such request need be");
            return Err(Refusal::Protocol(why).into());
        }
        Ok(Preamble { size_bytes, api, version, correlation_id })
    }

    async fn read_fully(&mut self, bytes: &mut [u8]) -> Result<(), FrameError> {
        match timeout(FRAME_TIMEOUT, self.input.read_exact(bytes)).await {
            Err(_) => Err(FrameError::Stalled),
            Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => Err(FrameError::Closed),
            Ok(read) => read.map(drop).map_err(FrameError::Io),
        }
    }

    async fn read_body(&mut self, size_bytes: usize) -> Result<BytesMut, FrameError> {
        let mut body = BytesMut::with_capacity(size_bytes);
        while body.len() < size_bytes {
            let left = size_bytes - body.len();
            let mut room = (&mut body).limit(left);
            if self.input.read_buf(&mut room).await? == 0 {
                return Err(FrameError::Closed);
            }
        }
        Ok(body)
    }
}

fn parse_header(preamble: Preamble, body: BytesMut, budget: OwnedSemaphorePermit) -> Result<Frame, Refusal> {
    let Preamble { size_bytes, api, version, correlation_id } = preamble;
    let (client_id, body) = split_header(api, version, body)?;
    Ok(Frame { api, version, correlation_id, client_id, body, size_bytes, budget })
}

/// Takes the rest of the header off: the client id and tagged fields, none of which is known so far.
fn split_header(api: ApiKey, version: i16, bytes: BytesMut) -> Result<(Option<StrBytes>, BytesMut), Refusal> {
    let malformed = |e: Malformed| Refusal::Protocol(format!("malformed request header: {e}"));
    // The client id keeps its old form in the flexible header, so that any broker can read it (KIP-482).
    let mut cursor = Cursor { bytes, flexible: false };
    let client_id = cursor.string().map_err(malformed)?;
    cursor.flexible = api.request_header_version(version) >= 2;
    cursor.tagged_fields().map_err(malformed)?;
    Ok((client_id, cursor.bytes))
}

fn api_key(key: i16) -> Result<ApiKey, Refusal> {
    ApiKey::try_from(key).map_err(|()| Refusal::Protocol(format!("unknown API key {key}")))
}

/// The API, the version and the body of a frame that is in memory already, without its length.
pub fn split_frame(mut bytes: BytesMut) -> Result<(ApiKey, i16, BytesMut), Refusal> {
    if bytes.len() < HEADER_MIN_BYTES {
        return Err(Refusal::Protocol("the frame is too short".into()));
    }
    let (key, version, _correlation_id) = (bytes.get_i16(), bytes.get_i16(), bytes.get_i32());
    let api = api_key(key)?;
    let (_, body) = split_header(api, version, bytes)?;
    Ok((api, version, body))
}

/// Bytes of other protocols that people send to this port by mistake.
fn other_protocol(first: [u8; 4]) -> Option<&'static str> {
    match &first {
        [0x16, 0x03, _, _] => Some("this looks like a TLS hello, but the listener is plaintext"),
        b"GET " | b"POST" | b"HEAD" | b"PUT " | b"OPTI" => {
            Some("this looks like HTTP, but the listener speaks the Kafka protocol")
        }
        _ => None,
    }
}
