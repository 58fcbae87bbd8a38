//! Reading requests off a socket: a length, a header, a body.
//!
//! A frame is charged to the broker's budget as its bytes arrive, and given back when it was handled. A peer that keeps a frame open
//! below a minimum rate is disconnected.
//! What is no Kafka request is found out from the first twelve bytes, before any memory is taken for it.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::StrBytes;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::time::{Instant, sleep, timeout};

use super::Refusal;
use super::cursor::{Cursor, Malformed};
use super::memory::{Account, Charge};

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
/// A peer that began a frame must send so many bytes a second, after some time in which it may be slower.
const BYTES_PER_SECOND_MIN: usize = 64 << 10;
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is looked at whether it does.
const RATE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A frame that waits for memory for longer is given up: its client has given up by then, or soon will.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(30);
/// What a frame may grow by with one read, and the least that is worth one.
const READ_MAX_BYTES: usize = 256 << 10;
const READ_MIN_BYTES: usize = 4 << 10;
/// After so many bytes of one frame the other connections of the thread get their turn, also if more is there: what is read is written to
/// new memory, which the system may take long to give.
const TURN_BYTES: usize = 1280 << 10;
/// The room that a frame is given at first, and by how much that grows when it is full. Room that is not used takes no memory: the
/// system gives pages when they are written to.
const ROOM_MAX_BYTES: usize = 2 << 20;
const ROOM_FACTOR: usize = 7;

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
    pub charge: Charge,
}

/// Why no further frame comes.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection was idle for too long")]
    Idle,
    #[error("a request was not sent to its end, or too slowly")]
    Stalled,
    #[error("a request could not be taken in, because there was no memory for it")]
    NoMemory,
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
    account: Arc<Account>,
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
    pub fn new(input: R, max_bytes: usize, max_idle: Duration, account: Arc<Account>) -> FrameReader<R> {
        FrameReader { input: BufReader::new(input), max_bytes, max_idle, account, first: true }
    }

    /// The next frame.
    pub async fn next(&mut self) -> Result<Frame, FrameError> {
        let preamble = self.read_preamble().await?;
        let mut charge = self.account.charge();
        let body = self.read_body(preamble.size_bytes - 8, &mut charge).await?;
        if preamble.api != ApiKey::Produce {
            let decoded = preamble.size_bytes.saturating_mul(DECODED_FACTOR - 1);
            if charge.try_grow(decoded, decoded).is_none() {
                grow_later(&self.account, &mut charge, decoded, decoded).await?;
            }
        }
        charge.arrived();
        Ok(parse_header(preamble, body, charge)?)
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

    async fn read_body(&mut self, size_bytes: usize, charge: &mut Charge) -> Result<BytesMut, FrameError> {
        let mut body = BytesMut::new();
        if self.input.buffer().is_empty() && size_bytes > 0 {
            // Who sends no more than the preamble takes nothing.
            self.wait_for_bytes().await?;
        }
        let look = sleep(RATE_CHECK_INTERVAL);
        tokio::pin!(look);
        let mut rate = Rate { started: look.deadline() - RATE_CHECK_INTERVAL, waited: Duration::ZERO };
        let mut turn_ends = TURN_BYTES;
        while body.len() < size_bytes {
            if body.len() >= turn_ends {
                turn_ends = body.len() + TURN_BYTES;
                tokio::task::yield_now().await;
            }
            let room = make_room(&mut body, size_bytes);
            let (min, max) = (room.min(READ_MIN_BYTES), room.min(READ_MAX_BYTES));
            let reading = read_some(&mut self.input, &mut body, charge, min, max);
            let read = tokio::select! {
                biased;
                read = reading => read?,
                () = self.account.evicted() => return Err(FrameError::NoMemory),
                () = &mut look => {
                    rate.check(body.len(), charge)?;
                    look.as_mut().reset(Instant::now() + RATE_CHECK_INTERVAL);
                    continue;
                }
            };
            match read {
                Some(0) => return Err(FrameError::Closed),
                Some(_) => {}
                None => {
                    let began = Instant::now();
                    grow_later(&self.account, charge, min, 0).await?;
                    rate.waited += began.elapsed();
                }
            }
        }
        Ok(body)
    }

    /// Returns when a byte is there, which it leaves where it is.
    async fn wait_for_bytes(&mut self) -> Result<(), FrameError> {
        match timeout(FRAME_TIMEOUT, self.input.fill_buf()).await {
            Err(_) => Err(FrameError::Stalled),
            Ok(Err(e)) => Err(e.into()),
            Ok(Ok([])) => Err(FrameError::Closed),
            Ok(Ok(_)) => Ok(()),
        }
    }
}

/// Whether a frame arrives fast enough.
struct Rate {
    started: Instant,
    /// How long it was not read, for want of memory.
    waited: Duration,
}

impl Rate {
    fn check(&self, arrived_bytes: usize, charge: &Charge) -> Result<(), FrameError> {
        let allowed = FRAME_TIMEOUT + Duration::from_secs((arrived_bytes / BYTES_PER_SECOND_MIN) as u64);
        if self.started.elapsed().saturating_sub(self.waited) > allowed {
            return Err(FrameError::Stalled);
        }
        if charge.is_overdue() { Err(FrameError::NoMemory) } else { Ok(()) }
    }
}

/// Makes room for what is missing, and gives how much there is.
fn make_room(body: &mut BytesMut, size_bytes: usize) -> usize {
    let left = size_bytes - body.len();
    if body.capacity() == body.len() {
        body.reserve(left.min(ROOM_MAX_BYTES.max(body.len() * ROOM_FACTOR)));
    }
    left.min(body.capacity() - body.len())
}

/// Reads what is there, up to `max` bytes, and charges for it: nothing is charged while the peer is waited for. `None` without memory for
/// `min` bytes.
async fn read_some<R: AsyncRead + Unpin>(
    input: &mut BufReader<R>,
    body: &mut BytesMut,
    charge: &mut Charge,
    min: usize,
    max: usize,
) -> io::Result<Option<usize>> {
    poll_fn(|cx| {
        let before = charge.bytes();
        let Some(granted) = charge.try_grow(min, max) else { return Poll::Ready(Ok(None)) };
        let mut room = (&mut *body).limit(granted);
        let read = pin!(input.read_buf(&mut room)).poll(cx);
        let arrived = if let Poll::Ready(Ok(read)) = &read { *read } else { 0 };
        charge.shrink_to(before + arrived);
        read.map_ok(Some)
    })
    .await
}

/// Waits for memory: until there is some for `min` bytes, and grows by `exactly`.
async fn grow_later(
    account: &Account,
    charge: &mut Charge,
    min: usize,
    exactly: usize,
) -> Result<(), FrameError> {
    let growing = async {
        loop {
            charge.wait(min).await;
            if charge.try_grow(exactly, exactly).is_some() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = account.evicted() => Err(FrameError::NoMemory),
        grown = timeout(MEMORY_TIMEOUT, growing) => grown.map_err(|_| FrameError::NoMemory),
    }
}

fn parse_header(preamble: Preamble, body: BytesMut, charge: Charge) -> Result<Frame, Refusal> {
    let Preamble { size_bytes, api, version, correlation_id } = preamble;
    let (client_id, body) = split_header(api, version, body)?;
    Ok(Frame { api, version, correlation_id, client_id, body, size_bytes, charge })
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

#[cfg(test)]
mod tests;
