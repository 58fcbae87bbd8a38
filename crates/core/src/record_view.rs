//! Records one by one, with keys, values and headers, over the decompressed body of a batch.
//!
//! Left to others: decompression ([`crate::records::inflate`]), and which records are wanted.

use crate::records::{ReadError, RecordsError, read_varint};

/// A record where it lies.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    pub offset_delta: i64,
    pub timestamp_delta: i64,
    pub key: Option<&'a [u8]>,
    /// `None` for a tombstone.
    pub value: Option<&'a [u8]>,
    attributes: u8,
    /// Everything behind the timestamp delta.
    pub(crate) rest: &'a [u8],
    /// Everything behind the value.
    headers: &'a [u8],
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
        let value = match value_length {
            ..0 => None,
            length => Some(split(&mut record, length, "its value runs past its end")?),
        };
        Ok(RecordView { offset_delta, timestamp_delta, key, value, attributes, rest, headers: record })
    }

    /// Calls `take` with the key and the value of each header, in order.
    pub fn for_each_header(
        &self,
        mut take: impl FnMut(&'a [u8], Option<&'a [u8]>),
    ) -> Result<(), RecordsError> {
        let mut rest = self.headers;
        self.read_headers(&mut rest, &mut take).map_err(|e| e.at(0))
    }

    fn read_headers(
        &self,
        rest: &mut &'a [u8],
        take: &mut impl FnMut(&'a [u8], Option<&'a [u8]>),
    ) -> Result<(), ReadError> {
        let (count, _) = read_varint(rest)?;
        for _ in 0..count {
            let (length, _) = read_varint(rest)?;
            let key = split(rest, length, "a header's key runs past its end")?;
            let (length, _) = read_varint(rest)?;
            let value = match length {
                ..0 => None,
                length => Some(split(rest, length, "a header's value runs past its end")?),
            };
            take(key, value);
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
        put_varint(out, bytes.map_or(-1, |b| b.len() as i64));
        out.extend_from_slice(bytes.unwrap_or_default());
    }

    type Header<'a> = (&'a [u8], Option<&'a [u8]>);

    fn record(delta: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) -> Vec<u8> {
        let mut fields = vec![0];
        put_varint(&mut fields, 7);
        put_varint(&mut fields, delta);
        put_bytes(&mut fields, key);
        put_bytes(&mut fields, value);
        put_varint(&mut fields, headers.len() as i64);
        for (key, value) in headers {
            put_bytes(&mut fields, Some(key));
            put_bytes(&mut fields, *value);
        }
        let mut out = Vec::new();
        put_varint(&mut out, fields.len() as i64);
        out.extend_from_slice(&fields);
        out
    }

    #[test]
    fn null_and_empty_are_told_apart() {
        let mut body = record(0, None, Some(b""), &[(b"a", None), (b"", Some(b"")), (b"a", Some(b"x"))]);
        body.extend(record(1, Some(b""), None, &[]));
        let records: Vec<_> = views(&body, 2).map(Result::unwrap).collect();
        assert_eq!((records[0].key, records[0].value), (None, Some(&b""[..])));
        assert_eq!((records[1].key, records[1].value), (Some(&b""[..]), None));
        let mut headers: Vec<Header<'_>> = Vec::new();
        records[0].for_each_header(|key, value| headers.push((key, value))).unwrap();
        let expected: [(&[u8], Option<&[u8]>); 3] = [(b"a", None), (b"", Some(b"")), (b"a", Some(b"x"))];
        assert_eq!(headers, expected);
        records[1].for_each_header(|_, _| panic!("there is none")).unwrap();
    }

    #[test]
    fn a_header_that_runs_past_the_record_is_an_error() {
        let mut body = record(0, None, None, &[(b"a", Some(b"x"))]);
        // The length of the header's value, before its one byte.
        let at = body.len() - 2;
        body[at] = 40;
        let view = views(&body, 1).next().unwrap().unwrap();
        assert!(view.for_each_header(|_, _| {}).is_err());
    }
}
