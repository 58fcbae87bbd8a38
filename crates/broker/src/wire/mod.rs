//! Bytes to messages and back, with limits on everything that a peer states.

mod answer;
mod bounded;
mod cursor;
pub mod fetch;
mod frame;
mod memory;
pub mod produce;

pub use answer::Answer;
pub use frame::{DECODING_MAX_BYTES, Frame, FrameError, FrameReader, split_frame};
pub use memory::{Charge, RequestMemory};
pub use produce::TopicRef;

use bytes::Bytes;
use kafka_protocol::protocol::Decodable;

/// Why a connection is closed instead of answered.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Protocol(String),
    #[error("a request with acks=0 failed, and closing is the only way to say so")]
    SilentProduceFailed,
    #[error("the peer takes no more of its response")]
    SlowPeer,
    #[error("the request could not be handled: {0}")]
    Internal(String),
    #[error("the response cannot be encoded: {0}")]
    Encode(String),
}

/// Decodes a message that a peer sent. The counts that it states are checked before memory is taken for them.
pub fn decode<M: Decodable>(body: Bytes, version: i16) -> Result<M, Refusal> {
    bounded::decode(body, version).map_err(|why| Refusal::Protocol(format!("malformed request: {why}")))
}
