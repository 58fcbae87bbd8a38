//! Batches for the tests of this crate.

use bytes::{BufMut, Bytes, BytesMut};
use kafscale_core::batch::{BatchRules, TimestampType, ValidBatch};
use kafscale_core::ids::{LeaderEpoch, Offset};

pub const NOW_MS: i64 = 1_700_000_000_000;

const RULES: BatchRules = BatchRules {
    max_message_bytes: 64 << 20,
    timestamp_type: TimestampType::CreateTime,
    timestamp_before_max_ms: i64::MAX,
    timestamp_after_max_ms: i64::MAX,
    key_required: false,
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
    let mut body = BytesMut::new();
    for i in 0..records {
        let mut record = BytesMut::new();
        record.put_u8(0);
        varint(&mut record, 0);
        varint(&mut record, i64::from(i));
        varint(&mut record, -1);
        varint(&mut record, value_bytes as i64);
        record.put_bytes(tag, value_bytes);
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
    let crc = crc32c::crc32c(&b[21..]);
    b[17..21].copy_from_slice(&crc.to_be_bytes());
    ValidBatch::check(b, &RULES, timestamp_ms).expect("the batch is valid")
}

/// The bytes of a batch as a log holds it.
pub fn batch_bytes(base: i64, records: i32, value_bytes: usize) -> Bytes {
    valid_batch(records, value_bytes, b'v', NOW_MS, None).place(Offset(base), LeaderEpoch(0), NOW_MS).bytes
}

fn varint(out: &mut BytesMut, value: i64) {
    let mut v = ((value << 1) ^ (value >> 63)) as u64;
    while v >= 0x80 {
        out.put_u8(v as u8 | 0x80);
        v >>= 7;
    }
    out.put_u8(v as u8);
}
