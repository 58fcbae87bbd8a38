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
//!   as a varint above the limit is an error, unless it is the number of a tagged field: those may be any, and unknown ones are
//!   skipped (KIP-482). A number that is too large for a count is lowered, and what follows tells: a length, and as many bytes in
//!   one piece, which nothing else has behind it. With anything else behind it, the decoding fails.
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
    let mut buf = BoundedBuf::new(body.clone());
    let mut message = buf.decode(version)?;
    if buf.lowered {
        message = BoundedBuf { lowers: false, ..BoundedBuf::new(body) }.decode(version)?;
    }
    Ok(message)
}

/// Whether a number above the limit is that of a tagged field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    /// There is no such number, or what it was is known to be a tag.
    None,
    /// The length of the field is being read.
    Length { so_far: u64, shift: u32 },
    /// As many bytes must be taken next.
    Bytes(u64),
    /// It was something else.
    Wrong,
}

struct BoundedBuf {
    inner: Bytes,
    /// Whether classic counts above the bytes that are left are lowered.
    lowers: bool,
    lowered: bool,
    tag: Tag,
    /// The last bytes that were read one by one, newest last.
    run: [u8; VARINT_MAX_BYTES],
    run_bytes: usize,
}

impl BoundedBuf {
    fn new(inner: Bytes) -> BoundedBuf {
        let run = [0; VARINT_MAX_BYTES];
        BoundedBuf { inner, lowers: true, lowered: false, tag: Tag::None, run, run_bytes: 0 }
    }

    fn decode<M: Decodable>(&mut self, version: i16) -> Result<M, String> {
        let message = M::decode(self, version).map_err(|e| e.to_string())?;
        match self.tag {
            Tag::None => Ok(message),
            Tag::Length { .. } | Tag::Bytes(_) | Tag::Wrong => Err("a count is too large".to_owned()),
        }
    }

    /// Something else than a byte is read.
    fn ends_run(&mut self) {
        self.run_bytes = 0;
        if self.tag != Tag::None {
            self.tag = Tag::Wrong;
        }
    }

    /// A byte that is read behind a number above the limit belongs to the length of the tagged field.
    fn follow_tag(&mut self, byte: u8) {
        self.tag = match self.tag {
            Tag::None => Tag::None,
            Tag::Length { so_far, shift } => {
                let so_far = so_far | u64::from(byte & 0x7f) << shift;
                match (byte < 0x80, shift) {
                    (true, _) => Tag::Bytes(so_far),
                    (false, ..28) => Tag::Length { so_far, shift: shift + 7 },
                    (false, _) => Tag::Wrong,
                }
            }
            Tag::Bytes(_) | Tag::Wrong => Tag::Wrong,
        };
    }

    /// Passes over the rest of a varint that is above the limit, and gives the byte to end it with: so that it is within the limit for
    /// who counts by it, and still the number of no tagged field that is known. `None` where that cannot be.
    fn lower_varint(&mut self) -> Option<u8> {
        let newest = &self.run[VARINT_MAX_BYTES - self.run_bytes..];
        let before = newest[..newest.len() - 1].iter().enumerate();
        let given = before.fold(0u64, |value, (i, byte)| value | u64::from(byte & 0x7f) << (7 * i));
        let last = match self.run_bytes {
            ..=3 if given < 0x80 => 1,
            _ if given >= 0x80 => 0,
            _ => return None,
        };
        let mut byte = *newest.last()?;
        let mut bytes = self.run_bytes;
        while byte >= 0x80 {
            bytes += 1;
            if bytes > VARINT_MAX_BYTES {
                return None;
            }
            byte = self.inner.try_get_u8().ok()?;
        }
        Some(last)
    }

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
        self.ends_run();
        self.inner.advance(count);
    }

    fn try_get_u8(&mut self) -> Result<u8, TryGetError> {
        let byte = self.inner.try_get_u8()?;
        self.run.rotate_left(1);
        self.run[VARINT_MAX_BYTES - 1] = byte;
        self.run_bytes = (self.run_bytes + 1).min(VARINT_MAX_BYTES);
        if self.run_is_excessive() {
            let impossible = TryGetError { requested: usize::MAX, available: self.inner.remaining() };
            if self.tag != Tag::None {
                return Err(impossible);
            }
            let last = self.lower_varint().ok_or(impossible)?;
            self.tag = Tag::Length { so_far: 0, shift: 0 };
            self.run_bytes = 0;
            return Ok(last);
        }
        self.follow_tag(byte);
        if byte < 0x80 {
            self.run_bytes = 0;
        }
        Ok(byte)
    }

    fn try_get_i32(&mut self) -> Result<i32, TryGetError> {
        self.ends_run();
        let value = self.inner.try_get_i32()?;
        let left = self.inner.remaining();
        if self.lowers && usize::try_from(value).is_ok_and(|v| v > left) {
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
        if self.tag == Tag::Bytes(size as u64) {
            self.tag = Tag::None;
        }
        self.ends_run();
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
            let mut buf = BoundedBuf::new(Bytes::from(vec![lead, 0x80, 0x80, 0x80, 0x80, 0x0f, 0, 0]));
            assert!((0..6).any(|_| buf.try_get_u8().is_err()), "{lead:#x}");
        }
    }

    fn varint(mut value: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    /// KIP-482: whoever does not know a tagged field passes over it.
    #[test]
    fn tagged_fields_with_any_number_are_skipped() {
        for tag in [63, 127, 128, 129, 200, 300, 1000, 9999, 16_383, 16_385, 20_000, 1 << 20, (1 << 27) + 999]
        {
            for value in [&[][..], b"zz", &[0xff; 300]] {
                // No topics, and the tagged fields of the topic or the request.
                let field = [&varint(tag)[..], &varint(value.len() as u32), value].concat();
                let two = [&[2][..], &field, &varint(tag + 1), &[1, 7]].concat();
                let in_request = [&[1u8, 0, 0, 0][..], &two].concat();
                let request = decode::<MetadataRequest>(in_request.into(), 9);
                assert_eq!(request.unwrap().topics.unwrap().len(), 0, "{tag} with {} bytes", value.len());
                let in_topic = [&[2, 2, b'x'][..], &two, &[0, 0, 1, 0]].concat();
                let request: MetadataRequest = decode(in_topic.into(), 9).unwrap();
                assert_eq!(request.topics.unwrap().len(), 1, "{tag} with {} bytes", value.len());
                assert!(!request.allow_auto_topic_creation && request.include_topic_authorized_operations);
            }
        }
    }

    #[test]
    fn what_is_no_tag_is_not_lowered() {
        // An array of 300 strings that is one of a few, and a string that is longer than the message.
        let strings = [&varint(300)[..], &[2, b'x', 0].repeat(40), &[0; 80]].concat();
        assert!(decode::<MetadataRequest>(strings.into(), 9).is_err());
        let string = [&[2][..], &varint(600), &[b'x'; 400], &[0; 9]].concat();
        assert!(decode::<MetadataRequest>(string.into(), 9).is_err());
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
