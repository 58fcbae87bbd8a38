//! Frames between processes: the length of what follows, as four bytes with the highest first, one byte that says what
//! the frame is, and its body.
//!
//! Invariant: nothing is allocated for a frame before its length was compared with what may come at that place.

use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Both ends of a connection, with TLS or without.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// Of a frame while its sender is unknown, and of all that are not made for more.
pub const SMALL_BYTES: usize = 64 << 10;
/// Of a plan, and of what it reads.
pub const PLAN_BYTES: usize = 64 << 20;
/// Of a frame of rows. A batch may take several.
pub const DATA_BYTES: usize = 1 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Hello,
    Challenge,
    Proof,
    Ready,
    /// Instead of any answer: an error, as JSON.
    Failed,
    Ping,
    Pong,
    /// The task that the next frame is the plan of.
    Task,
    Plan,
    Planned,
    /// Nothing but that the sender is still there.
    Alive,
    /// The query is at its end.
    Done,
    Report,
    Execute,
    /// Bytes of a stream of Arrow's IPC format.
    Data,
    /// The rows are complete. A stream that stops without it was cut off.
    End,
}

const KINDS: [Kind; 16] = [
    Kind::Hello,
    Kind::Challenge,
    Kind::Proof,
    Kind::Ready,
    Kind::Failed,
    Kind::Ping,
    Kind::Pong,
    Kind::Task,
    Kind::Plan,
    Kind::Planned,
    Kind::Alive,
    Kind::Done,
    Kind::Report,
    Kind::Execute,
    Kind::Data,
    Kind::End,
];

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        KINDS.into_iter().find(|kind| *kind as u8 == byte)
    }
}

#[derive(Debug)]
pub struct Frame {
    pub kind: Kind,
    pub body: Vec<u8>,
}

/// Why there is no frame, or none that was expected.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection was closed")]
    Closed,
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
    #[error("nothing came for {} seconds", .0.as_secs())]
    Silent(Duration),
    #[error("a frame of {length} bytes came, where {most} are the most")]
    TooLarge { length: usize, most: usize },
    #[error("what came is no frame of this protocol")]
    Unknown,
    #[error("a frame of another kind came: {0:?}")]
    Unexpected(Kind),
    #[error("a frame could not be read: {0}")]
    Form(#[from] serde_json::Error),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> FrameError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => FrameError::Closed,
            _ => FrameError::Io(error),
        }
    }
}

impl Frame {
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    /// The body of the one kind that is expected.
    pub fn expect<T: DeserializeOwned>(&self, kind: Kind) -> Result<T, FrameError> {
        if self.kind == kind { self.json() } else { Err(FrameError::Unexpected(self.kind)) }
    }
}

/// The next frame. Not to be given up halfway, unless the connection is.
pub async fn read(from: &mut (impl AsyncRead + Unpin), most: usize) -> Result<Frame, FrameError> {
    let length = usize::try_from(from.read_u32().await?).unwrap_or(usize::MAX);
    if length > most {
        return Err(FrameError::TooLarge { length, most });
    }
    let kind = Kind::of(from.read_u8().await?).ok_or(FrameError::Unknown)?;
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    Ok(Frame { kind, body })
}

/// The same, if it comes in time.
pub async fn read_within(
    from: &mut (impl AsyncRead + Unpin),
    most: usize,
    limit: Duration,
) -> Result<Frame, FrameError> {
    tokio::time::timeout(limit, read(from, most)).await.map_err(|_| FrameError::Silent(limit))?
}

pub async fn write(to: &mut (impl AsyncWrite + Unpin), kind: Kind, body: &[u8]) -> Result<(), FrameError> {
    let length = u32::try_from(body.len())
        .map_err(|_| FrameError::TooLarge { length: body.len(), most: u32::MAX as usize })?;
    let mut head = [0; 5];
    head[..4].copy_from_slice(&length.to_be_bytes());
    head[4] = kind as u8;
    to.write_all(&head).await?;
    to.write_all(body).await?;
    Ok(to.flush().await?)
}

pub async fn write_json(
    to: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    body: &impl Serialize,
) -> Result<(), FrameError> {
    write(to, kind, &serde_json::to_vec(body)?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_read_as_they_are_written() {
        let mut bytes = Vec::new();
        for kind in KINDS {
            write(&mut bytes, kind, b"body").await.unwrap();
        }
        let mut rest = &bytes[..];
        for kind in KINDS {
            let frame = read(&mut rest, 4).await.unwrap();
            assert_eq!((frame.kind, &frame.body[..]), (kind, &b"body"[..]));
        }
        assert!(matches!(read(&mut rest, 4).await, Err(FrameError::Closed)));
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused_before_it_takes_memory() {
        for (bytes, why) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "a frame of 1195725856 bytes"),
            (&[0, 0, 0, 1, 200, 0][..], "no frame of this protocol"),
            (&[0, 0, 0, 9, 1, 0][..], "was closed"),
            (&[0, 0][..], "was closed"),
        ] {
            let refused = read(&mut &bytes[..], SMALL_BYTES).await.unwrap_err().to_string();
            assert!(refused.contains(why), "{bytes:?}: {refused}");
        }
    }
}
