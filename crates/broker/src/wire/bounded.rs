//! Decoding with hostile counts kept out.
//!
//! The generated decoders reserve memory for an array's stated count before they look at its elements, so that a frame
//! of a few bytes could ask for gigabytes. Every element takes at least one byte, so a count above the bytes that
//! are left is a lie. The buffer below sits between the decoder and the bytes and sees every number that could be a
//! count, without knowing the schemas:
//! - classic arrays state an `i32`, which may as well be an ordinary field. A value above the limit is lowered to it and
//!   noted; a lowered count makes the decoding fail, because its elements are not there. When decoding succeeds
//!   nevertheless, only ordinary fields were lowered, all counts were possible, and a second, plain decoding is safe;
//! - compact arrays state a varint, read byte by byte, as are only varints and booleans. A run of bytes that could be read
//!   as a varint above the limit is an error.

use bytes::{Buf, Bytes, TryGetError};
use kafka_protocol::protocol::Decodable;
use kafka_protocol::protocol::buf::ByteBuf;

/// No array of a request needs more elements, and no string or byte field outside of Produce more bytes: Apache Kafka
/// keeps the metadata of a whole group in one record of a megabyte.
const COUNT_MAX: usize = 1 << 20;
/// The decoder of varints takes at most five bytes.
const VARINT_MAX_BYTES: usize = 5;

/// Decodes a message; the text says what is wrong with it.
pub fn decode<M: Decodable>(body: Bytes, version: i16) -> Result<M, String> {
    let mut buf =
        BoundedBuf { inner: body.clone(), lowered: false, run: [0; VARINT_MAX_BYTES], run_bytes: 0 };
    let message = M::decode(&mut buf, version).map_err(|e| e.to_string())?;
    let (lowered, rest) = (buf.lowered, buf.inner);
    let (message, rest) = if lowered {
        let mut plain = body;
        (M::decode(&mut plain, version).map_err(|e| e.to_string())?, plain)
    } else {
        (message, rest)
    };
    if rest.is_empty() { Ok(message) } else { Err(format!("{} bytes are left over", rest.len())) }
}

struct BoundedBuf {
    inner: Bytes,
    lowered: bool,
    /// The last bytes that were read one by one, newest last.
    run: [u8; VARINT_MAX_BYTES],
    run_bytes: usize,
}

impl BoundedBuf {
    fn limit(&self) -> usize {
        self.inner.remaining().min(COUNT_MAX)
    }

    /// Whether the newest bytes, from any start, read as a varint that cannot be a count or a length here.
    fn run_is_excessive(&self) -> bool {
        // Compact counts and lengths are stated plus one, as 0 means null.
        let limit = self.limit() as u64 + 1;
        let newest = &self.run[VARINT_MAX_BYTES - self.run_bytes..];
        (0..newest.len().saturating_sub(1)).any(|start| {
            let bits = newest[start..].iter().enumerate();
            bits.fold(0, |value, (i, byte)| value | u64::from(byte & 0x7f) << (7 * i)) > limit
        })
    }
}

impl Buf for BoundedBuf {
    fn remaining(&self) -> usize {
        self.inner.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.inner.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.run_bytes = 0;
        self.inner.advance(count);
    }

    fn try_get_u8(&mut self) -> Result<u8, TryGetError> {
        let byte = self.inner.try_get_u8()?;
        self.run.rotate_left(1);
        self.run[VARINT_MAX_BYTES - 1] = byte;
        self.run_bytes = (self.run_bytes + 1).min(VARINT_MAX_BYTES);
        if self.run_is_excessive() {
            return Err(TryGetError { requested: usize::MAX, available: self.inner.remaining() });
        }
        if byte < 0x80 {
            self.run_bytes = 0;
        }
        Ok(byte)
    }

    fn try_get_i32(&mut self) -> Result<i32, TryGetError> {
        self.run_bytes = 0;
        let value = self.inner.try_get_i32()?;
        let limit = self.limit();
        if usize::try_from(value).is_ok_and(|v| v > limit) {
            self.lowered = true;
            return Ok(i32::try_from(limit).expect("at most COUNT_MAX"));
        }
        Ok(value)
    }
}

impl ByteBuf for BoundedBuf {
    fn peek_bytes(&mut self, range: std::ops::Range<usize>) -> Bytes {
        self.inner.slice(range)
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        self.run_bytes = 0;
        self.inner.split_to(size)
    }
}
