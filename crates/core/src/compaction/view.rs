//! Records one by one, with their keys, over the decompressed body of a batch.

use crate::records::{ReadError, RecordsError, read_varint};

/// A record where it lies.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    pub offset_delta: i64,
    pub timestamp_delta: i64,
    pub key: Option<&'a [u8]>,
    /// `false` for a tombstone.
    pub has_value: bool,
    attributes: u8,
    /// Everything behind the timestamp delta.
    pub(super) rest: &'a [u8],
}

/// The records of `body`; ends at the first that is malformed, which it gives as an error.
pub fn views(mut body: &[u8], count: i32) -> impl Iterator<Item = Result<RecordView<'_>, RecordsError>> {
    let mut failed = false;
    (0..count).map_while(move |index| {
        if failed {
            return None;
        }
        let view = RecordView::read(&mut body).map_err(|e| e.at(index));
        failed = view.is_err();
        Some(view)
    })
}

impl<'a> RecordView<'a> {
    fn read(body: &mut &'a [u8]) -> Result<RecordView<'a>, ReadError> {
        let (length, _) = read_varint(body)?;
        let mut record = split(body, length, "it is cut off")?;
        let attributes = split(&mut record, 1, "its attributes are missing")?[0];
        let (timestamp_delta, _) = read_varint(&mut record)?;
        let rest = record;
        let (offset_delta, _) = read_varint(&mut record)?;
        let (key_length, _) = read_varint(&mut record)?;
        let key = match key_length {
            ..0 => None,
            length => Some(split(&mut record, length, "its key runs past its end")?),
        };
        let (value_length, _) = read_varint(&mut record)?;
        if value_length > 0 {
            split(&mut record, value_length, "its value runs past its end")?;
        }
        Ok(RecordView { offset_delta, timestamp_delta, key, has_value: value_length >= 0, attributes, rest })
    }

    /// Appends the record with another timestamp delta.
    pub fn encode(&self, timestamp_delta: i64, out: &mut Vec<u8>) {
        let mut delta = Vec::with_capacity(10);
        put_varint(&mut delta, timestamp_delta);
        put_varint(out, (1 + delta.len() + self.rest.len()) as i64);
        out.push(self.attributes);
        out.extend_from_slice(&delta);
        out.extend_from_slice(self.rest);
    }
}

fn split<'a>(from: &mut &'a [u8], length: i64, why: &'static str) -> Result<&'a [u8], ReadError> {
    let length = usize::try_from(length).ok().filter(|n| *n <= from.len());
    let (front, rest) = from.split_at(length.ok_or(ReadError::Malformed(why))?);
    *from = rest;
    Ok(front)
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}
