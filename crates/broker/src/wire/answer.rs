//! A response on its way to the socket.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ResponseHeader;
use kafka_protocol::protocol::{Encodable, HeaderVersion};
use tokio::sync::OwnedSemaphorePermit;

use super::Refusal;
use crate::answer_memory::{self, Room};

/// The bytes of one response, its length in front, and what it holds of the memory budget until it is written.
#[derive(Debug, Default)]
pub struct Answer {
    chunks: VecDeque<Bytes>,
    /// Given back when the answer is dropped, after it was written.
    _budget: Option<OwnedSemaphorePermit>,
}

impl Answer {
    /// Nothing is sent, as for Produce with acks=0.
    pub fn none() -> Answer {
        Answer::default()
    }

    /// Encodes a message with its header.
    pub fn encode<M: Encodable + HeaderVersion>(
        correlation_id: i32,
        version: i16,
        message: &M,
    ) -> Result<Answer, Refusal> {
        let mut out = Self::begin(correlation_id, M::header_version(version))?;
        message.encode(&mut out, version).map_err(|e| Refusal::Encode(e.to_string()))?;
        Self::finish(out, Vec::new(), None)
    }

    /// Starts a response: room for the length, then the header.
    pub fn begin(correlation_id: i32, header_version: i16) -> Result<BytesMut, Refusal> {
        let mut out = BytesMut::with_capacity(256);
        out.put_i32(0);
        ResponseHeader::default()
            .with_correlation_id(correlation_id)
            .encode(&mut out, header_version)
            .map_err(|e| Refusal::Encode(e.to_string()))?;
        Ok(out)
    }

    /// Ends a response that [`Answer::begin`] started: `first` is followed by `rest`.
    pub fn finish(
        mut first: BytesMut,
        rest: Vec<Bytes>,
        budget: Option<OwnedSemaphorePermit>,
    ) -> Result<Answer, Refusal> {
        let size = first.len() - 4 + rest.iter().map(Bytes::len).sum::<usize>();
        let size = i32::try_from(size).map_err(|_| Refusal::Encode(format!("it has {size} bytes")))?;
        first[..4].copy_from_slice(&size.to_be_bytes());
        let chunks = std::iter::once(first.freeze()).chain(rest.into_iter().filter(|c| !c.is_empty()));
        Ok(Answer { chunks: chunks.collect(), _budget: budget })
    }
}

impl Answer {
    /// Holds what it takes of a budget until it was written.
    pub fn holding(self, mut room: Room) -> Answer {
        answer_memory::shrink(&mut room, self.remaining());
        Answer { _budget: room, ..self }
    }
}

impl Buf for Answer {
    fn remaining(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    fn has_remaining(&self) -> bool {
        !self.chunks.is_empty()
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |c| c)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(&self.chunks);
        filled.map(|(slice, chunk)| *slice = IoSlice::new(chunk)).count()
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let front = self.chunks.front_mut().expect("no more is advanced than remains");
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.chunks.pop_front();
        }
    }
}
