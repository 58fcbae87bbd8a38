//! Batches for the tests of this crate.

pub mod faulty;

use bytes::{BufMut, Bytes, BytesMut};
use kafscale_core::batch::{BatchHeader, BatchRules, Codec, TimestampType, ValidBatch, batches};
use kafscale_core::compress::Compression;
use kafscale_core::crc;
use kafscale_core::ids::{LeaderEpoch, Offset};

pub const NOW_MS: i64 = 1_700_000_000_000;

const RULES: BatchRules = BatchRules {
    max_message_bytes: 64 << 20,
    timestamp_type: TimestampType::CreateTime,
    timestamp_before_max_ms: i64::MAX,
    timestamp_after_max_ms: i64::MAX,
    key_required: false,
    compression: None,
};

/// Which producer sends a batch, and its first sequence number.
pub type Producer = Option<(i64, i16, i32)>;

/// A checked batch of `records` records with values of `value_bytes` bytes that carry `tag`.
pub fn valid_batch(
    records: i32,
    value_bytes: usize,
    tag: u8,
    timestamp_ms: i64,
    producer: Producer,
) -> ValidBatch {
    let value = vec![tag; value_bytes];
    let pairs: Vec<KeyValue<'_>> = (0..records).map(|_| (None, Some(&value[..]))).collect();
    batch_of(&pairs, timestamp_ms, producer)
}

/// A record; no value makes it a tombstone.
pub type KeyValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// A checked batch of these records.
pub fn batch_of(pairs: &[KeyValue<'_>], timestamp_ms: i64, producer: Producer) -> ValidBatch {
    timed_batch(pairs, &vec![timestamp_ms; pairs.len()], producer)
}

/// A checked batch of records with these timestamps.
pub fn timed_batch(pairs: &[KeyValue<'_>], times_ms: &[i64], producer: Producer) -> ValidBatch {
    let timestamp_ms = times_ms[0];
    let records = i32::try_from(pairs.len()).unwrap();
    let mut body = BytesMut::new();
    for (i, ((key, value), time_ms)) in (0i64..).zip(pairs.iter().zip(times_ms)) {
        let mut record = BytesMut::new();
        record.put_u8(0);
        varint(&mut record, time_ms - timestamp_ms);
        varint(&mut record, i);
        for field in [key, value] {
            varint(&mut record, field.map_or(-1, |f| f.len() as i64));
            record.extend_from_slice(field.unwrap_or_default());
        }
        varint(&mut record, 0);
        varint(&mut body, record.len() as i64);
        body.extend_from_slice(&record);
    }
    let (id, epoch, sequence) = producer.unwrap_or((-1, -1, -1));
    let mut b = BytesMut::new();
    b.put_i64(0);
    b.put_i32((61 - 12 + body.len()) as i32);
    b.put_i32(-1);
    b.put_i8(2);
    b.put_u32(0);
    b.put_i16(0);
    b.put_i32(records - 1);
    b.put_i64(timestamp_ms);
    b.put_i64(timestamp_ms);
    b.put_i64(id);
    b.put_i16(epoch);
    b.put_i32(sequence);
    b.put_i32(records);
    b.extend_from_slice(&body);
    let crc = crc::crc32c(&b[21..]);
    b[17..21].copy_from_slice(&crc.to_be_bytes());
    ValidBatch::check(b, &RULES, timestamp_ms).expect("the batch is valid")
}

/// The same batch, compressed.
pub fn compressed(batch: ValidBatch, codec: Codec) -> ValidBatch {
    let (timestamp_ms, plain) = (NOW_MS, batch.place(Offset(0), LeaderEpoch(-1), NOW_MS).bytes);
    let compression = Some(Compression::default_of(codec));
    let rules = BatchRules { compression, ..RULES };
    ValidBatch::check(BytesMut::from(&plain[..]), &rules, timestamp_ms).expect("the batch is valid")
}

/// The bytes of a batch as a log holds it.
pub fn batch_bytes(base: i64, records: i32, value_bytes: usize) -> Bytes {
    valid_batch(records, value_bytes, b'v', NOW_MS, None).place(Offset(base), LeaderEpoch(0), NOW_MS).bytes
}

/// Offset, key, value.
pub type Record = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

/// The records of uncompressed batches.
pub fn records_in(bytes: &[u8]) -> Vec<Record> {
    let mut found = Vec::new();
    for parsed in batches(bytes) {
        let (at, header) = parsed.unwrap();
        let mut body = &bytes[at + BatchHeader::SIZE_BYTES..at + header.size_bytes];
        for _ in 0..header.records_count {
            let _length = take_varint(&mut body);
            body = &body[1..];
            let _timestamp_delta = take_varint(&mut body);
            let offset = header.base_offset.0 + take_varint(&mut body);
            let [key, value] = [(); 2].map(|()| {
                let length = usize::try_from(take_varint(&mut body)).ok()?;
                let (field, rest) = body.split_at(length);
                body = rest;
                Some(field.to_vec())
            });
            assert_eq!(take_varint(&mut body), 0, "no headers");
            found.push((offset, key, value));
        }
    }
    found
}

fn take_varint(from: &mut &[u8]) -> i64 {
    let mut zigzag = 0u64;
    for shift in (0..).step_by(7) {
        let (byte, rest) = from.split_first().unwrap();
        *from = rest;
        zigzag |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            break;
        }
    }
    (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)
}

fn varint(out: &mut BytesMut, value: i64) {
    let mut v = ((value << 1) ^ (value >> 63)) as u64;
    while v >= 0x80 {
        out.put_u8(v as u8 | 0x80);
        v >>= 7;
    }
    out.put_u8(v as u8);
}
