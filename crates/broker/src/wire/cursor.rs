//! Walking a frame by hand, where the generated decoder would copy: the request header and Produce.

use bytes::{Buf, BytesMut};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// The frame ends before the field does, or a length is impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

const CUT_OFF: Malformed = Malformed("it is cut off");

/// Takes fields off the front of a frame. `flexible` messages have compact lengths and tagged fields (KIP-482).
#[derive(Debug)]
pub struct Cursor {
    pub bytes: BytesMut,
    pub flexible: bool,
}

impl Cursor {
    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.bytes.try_get_i16().map_err(|_| CUT_OFF)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.bytes.try_get_i32().map_err(|_| CUT_OFF)
    }

    pub fn uuid(&mut self) -> Result<Uuid, Malformed> {
        self.bytes.try_get_u128().map(Uuid::from_u128).map_err(|_| CUT_OFF)
    }

    /// An unsigned varint of at most five bytes.
    pub fn varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.bytes.try_get_u8().map_err(|_| CUT_OFF)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u32::try_from(value).map_err(|_| Malformed("a varint is too large"));
            }
        }
        Err(Malformed("a varint is longer than five bytes"))
    }

    /// The number of elements of an array. Every element takes a byte at least.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        let count = if self.flexible { i64::from(self.varint()?) - 1 } else { i64::from(self.i32()?) };
        match usize::try_from(count) {
            Ok(count) if count <= self.bytes.len() => Ok(count),
            Ok(_) => Err(Malformed("an array states more elements than there are bytes")),
            Err(_) => Err(Malformed("an array is null")),
        }
    }

    /// A string that may be null.
    pub fn string(&mut self) -> Result<Option<StrBytes>, Malformed> {
        let length = if self.flexible { i64::from(self.varint()?) - 1 } else { i64::from(self.i16()?) };
        let Some(bytes) = self.take(length)? else { return Ok(None) };
        StrBytes::from_utf8(bytes.freeze()).map(Some).map_err(|_| Malformed("a string is not UTF-8"))
    }

    /// Bytes that may be null, as a part of the frame that can be changed in place.
    pub fn byte_field(&mut self) -> Result<Option<BytesMut>, Malformed> {
        let length = if self.flexible { i64::from(self.varint()?) - 1 } else { i64::from(self.i32()?) };
        self.take(length)
    }

    /// Skips the tagged fields that end every flexible structure.
    pub fn tagged_fields(&mut self) -> Result<(), Malformed> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            self.varint()?;
            let length = i64::from(self.varint()?);
            self.take(length)?;
        }
        Ok(())
    }

    fn take(&mut self, length: i64) -> Result<Option<BytesMut>, Malformed> {
        match usize::try_from(length) {
            Ok(length) if length <= self.bytes.len() => Ok(Some(self.bytes.split_to(length))),
            Ok(_) => Err(CUT_OFF),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(Malformed("a length is negative")),
        }
    }
}
