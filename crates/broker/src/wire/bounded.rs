//! Decoding with hostile counts kept out.
//!
//! The generated decoders reserve memory for an array's stated count before they look at its elements, so that a frame
//! of a few bytes could ask for gigabytes. Every element takes at least one byte, so a count above the bytes that
//! are left is a lie. The buffer below sits between the decoder and the bytes and sees every number that could be a
//! count, without knowing the schemas:
//! - classic arrays state an `i32`, which may as well be an ordinary field. A value above the bytes that are left is lowered to
//!   one more than there are, and noted; as a count that still cannot be, and the decoding fails. When it succeeds
//!   nevertheless, only ordinary fields were lowered, all counts were possible, and a second, plain decoding is safe;
//! - compact arrays state a varint, read byte by byte, as are only varints and booleans. A run of bytes that could be read
//!   as a varint above the limit is an error.
//!
//! What is reserved for nothing is thus at most the size of an element times the bytes of the frame, or times a million.

use bytes::{Buf, Bytes, TryGetError};
use kafka_protocol::protocol::Decodable;
use kafka_protocol::protocol::buf::ByteBuf;

/// No compact array needs more elements, and no compact string or byte field outside of Produce more bytes: Apache Kafka
/// keeps the metadata of a whole group in one record of a megabyte.
const COMPACT_MAX: usize = 1 << 20;
/// The decoder of varints takes at most five bytes.
const VARINT_MAX_BYTES: usize = 5;

/// Decodes a message; the text says what is wrong with it. Bytes behind the message are not looked at, as in Apache Kafka:
/// librdkafka ends the Metadata requests for all topics in three more.
pub fn decode<M: Decodable>(body: Bytes, version: i16) -> Result<M, String> {
    let mut buf =
        BoundedBuf { inner: body.clone(), lowered: false, run: [0; VARINT_MAX_BYTES], run_bytes: 0 };
    let message = M::decode(&mut buf, version).map_err(|e| e.to_string())?;
    if buf.lowered {
        return M::decode(&mut body.clone(), version).map_err(|e| e.to_string());
    }
    Ok(message)
}

struct BoundedBuf {
    inner: Bytes,
    lowered: bool,
    /// The last bytes that were read one by one, newest last.
    run: [u8; VARINT_MAX_BYTES],
    run_bytes: usize,
}

impl BoundedBuf {
    /// Whether the newest bytes, from any start, read as a varint that cannot be a count or a length here.
    fn run_is_excessive(&self) -> bool {
        // Compact counts and lengths are stated plus one, as 0 means null.
        let limit = self.inner.remaining().min(COMPACT_MAX) as u64 + 1;
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
        let left = self.inner.remaining();
        if usize::try_from(value).is_ok_and(|v| v > left) {
            self.lowered = true;
            return Ok(i32::try_from(left + 1).expect("it is at most the value"));
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

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::{FetchRequest, MetadataRequest};
    use kafka_protocol::protocol::Encodable;

    use super::*;

    fn classic_count(count: i32, follow: &[u8]) -> Result<MetadataRequest, String> {
        let mut body = BytesMut::new();
        body.put_i32(count);
        body.put_slice(follow);
        decode(body.freeze(), 1)
    }

    #[test]
    fn a_count_that_cannot_be_is_refused_before_memory_is_taken() {
        for follow in [&[][..], &[0], &[0, 1, b'x'], &[0; 100]] {
            for count in [follow.len() as i32 + 1, 1 << 20, i32::MAX] {
                assert!(classic_count(count, follow).is_err(), "{count} with {} bytes", follow.len());
            }
        }
        assert_eq!(classic_count(1, &[0, 1, b'x']).unwrap().topics.unwrap().len(), 1);
    }

    #[test]
    fn bytes_behind_the_message_are_not_looked_at() {
        assert_eq!(classic_count(1, &[0, 1, b'x', 9, 9, 9]).unwrap().topics.unwrap().len(), 1);
    }

    #[test]
    fn a_compact_count_that_cannot_be_is_refused() {
        for count in [&[0x81, 0x01][..], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0xff, 0xff, 0x7f]] {
            let body = [count, &[0; 20]].concat();
            assert!(decode::<MetadataRequest>(body.into(), 9).is_err(), "{count:?}");
        }
    }

    #[test]
    fn a_byte_before_a_count_does_not_hide_it() {
        // Every boolean is a byte that could be taken for the beginning of a varint.
        for lead in [0x00, 0x01, 0x80, 0xff] {
            let mut buf = BoundedBuf {
                inner: Bytes::from(vec![lead, 0x80, 0x80, 0x80, 0x80, 0x0f, 0, 0]),
                lowered: false,
                run: [0; VARINT_MAX_BYTES],
                run_bytes: 0,
            };
            assert!((0..6).any(|_| buf.try_get_u8().is_err()), "{lead:#x}");
        }
    }

    #[test]
    fn large_numbers_that_are_no_counts_pass() {
        let request = FetchRequest::default().with_max_wait_ms(i32::MAX).with_max_bytes(i32::MAX);
        for version in 4..=18 {
            let mut body = BytesMut::new();
            request.encode(&mut body, version).unwrap();
            let read: FetchRequest = decode(body.freeze(), version).unwrap();
            assert_eq!((read.max_wait_ms, read.max_bytes), (i32::MAX, i32::MAX), "version {version}");
        }
    }
}
