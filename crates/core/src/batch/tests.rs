//! What is stored and what is refused, over batches built by hand.

use crate::crc;
use std::io::Write;

use bytes::BufMut;
use proptest::prelude::*;

use super::*;

const RULES: BatchRules = BatchRules {
    max_message_bytes: 1 << 20,
    timestamp_type: TimestampType::CreateTime,
    timestamp_before_max_ms: i64::MAX,
    timestamp_after_max_ms: 3_600_000,
    key_required: false,
};
const NOW: i64 = 1_700_000_000_000;

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut v = ((value << 1) ^ (value >> 63)) as u64;
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn record(offset_delta: i64, timestamp_delta: i64, key: Option<&[u8]>, value: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    varint(&mut body, timestamp_delta);
    varint(&mut body, offset_delta);
    varint(&mut body, key.map_or(-1, |k| k.len() as i64));
    body.extend_from_slice(key.unwrap_or_default());
    varint(&mut body, value.len() as i64);
    body.extend_from_slice(value);
    varint(&mut body, 1); // one header
    varint(&mut body, 1);
    body.push(b'h');
    varint(&mut body, -1);
    let mut out = Vec::new();
    varint(&mut out, body.len() as i64);
    out.extend(body);
    out
}

/// A batch of `count` records around `records`, with a right CRC.
fn batch(attributes: i16, count: i32, records: &[u8]) -> BytesMut {
    let mut b = BytesMut::new();
    b.put_i64(0);
    b.put_i32((BatchHeader::SIZE_BYTES - 12 + records.len()) as i32);
    b.put_i32(-1);
    b.put_i8(2);
    b.put_u32(0);
    b.put_i16(attributes);
    b.put_i32(count - 1);
    b.put_i64(NOW);
    b.put_i64(NOW + i64::from(count) - 1);
    b.put_i64(-1);
    b.put_i16(-1);
    b.put_i32(-1);
    b.put_i32(count);
    b.put_slice(records);
    recrc(&mut b);
    b
}

fn recrc(b: &mut BytesMut) {
    let crc = crc::crc32c(&b[ATTRIBUTES_AT..]);
    b[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

fn records(count: i32) -> Vec<u8> {
    (0..count).flat_map(|i| record(i.into(), i.into(), Some(b"key"), b"some value, some value")).collect()
}

fn compress(codec: i16, data: &[u8]) -> Vec<u8> {
    match codec {
        0 => data.to_vec(),
        1 => {
            let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            e.write_all(data).unwrap();
            e.finish().unwrap()
        }
        2 => snap::raw::Encoder::new().compress_vec(data).unwrap(),
        3 => {
            let mut e = lz4_flex::frame::FrameEncoder::new(Vec::new());
            e.write_all(data).unwrap();
            e.finish().unwrap()
        }
        4 => zstd::encode_all(data, 3).unwrap(),
        _ => unreachable!(),
    }
}

fn xerial(data: &[u8]) -> Vec<u8> {
    let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for chunk in data.chunks(100) {
        let block = compress(2, chunk);
        out.extend((block.len() as u32).to_be_bytes());
        out.extend(block);
    }
    out
}

fn check(b: BytesMut) -> Result<ValidBatch, BatchRejection> {
    ValidBatch::check(b, &RULES, NOW)
}

#[test]
fn every_codec_passes_untouched() {
    for codec in 0..5 {
        let sent = batch(codec, 50, &compress(codec, &records(50)));
        let placed = check(sent.clone()).unwrap_or_else(|e| panic!("codec {codec}: {e}")).place(
            Offset(1000),
            LeaderEpoch(3),
            NOW,
        );
        assert_eq!(placed.last_offset, Offset(1049));
        assert_eq!(placed.bytes[CRC_AT..], sent[CRC_AT..], "codec {codec}");
        let header = BatchHeader::parse(&placed.bytes).unwrap();
        assert_eq!((header.base_offset, header.leader_epoch), (Offset(1000), LeaderEpoch(3)));
        assert!(header.crc_matches(&placed.bytes));
    }
    check(batch(2, 50, &xerial(&records(50)))).unwrap();
}

#[test]
fn damage_is_refused() {
    let good = batch(0, 3, &records(3));
    let mut bad_crc = good.clone();
    *bad_crc.last_mut().unwrap() ^= 1;
    assert!(matches!(check(bad_crc), Err(BatchRejection::Corrupt(_))));
    let mut old_magic = good.clone();
    old_magic[MAGIC_AT] = 1;
    assert!(matches!(check(old_magic), Err(BatchRejection::InvalidBatch(_))));
    let mut cut = good.clone();
    cut.truncate(80);
    assert!(matches!(check(cut), Err(BatchRejection::Corrupt(_))));
    let mut two = good.clone();
    two.extend_from_slice(&good);
    assert!(matches!(check(two), Err(BatchRejection::InvalidBatch(_))));
    assert!(matches!(check(BytesMut::new()), Err(BatchRejection::Corrupt(_))));
}

#[test]
fn counts_and_deltas_must_agree() {
    for (count, body) in [(4, records(3)), (2, records(3)), (0, vec![]), (-5, records(1))] {
        assert!(check(batch(0, count, &body)).is_err(), "count {count}");
    }
    let backward: Vec<u8> = [0, 2, 1].iter().flat_map(|d| record(*d, 0, None, b"v")).collect();
    let Err(BatchRejection::InvalidRecord { index: 1, .. }) = check(batch(0, 3, &backward)) else {
        panic!("backward deltas were accepted")
    };
    for codec in 1..5 {
        assert!(check(batch(codec, 3, &compress(codec, &backward))).is_err(), "codec {codec}");
        assert!(check(batch(codec, 4, &compress(codec, &records(3)))).is_err(), "codec {codec}");
    }
}

#[test]
fn topic_rules_are_enforced() {
    let null_key = batch(0, 1, &record(0, 0, None, b"v"));
    let compacted = BatchRules { key_required: true, ..RULES };
    assert!(matches!(
        ValidBatch::check(null_key, &compacted, NOW),
        Err(BatchRejection::InvalidRecord { index: 0, .. })
    ));
    let small = BatchRules { max_message_bytes: 100, ..RULES };
    assert!(matches!(
        ValidBatch::check(batch(0, 5, &records(5)), &small, NOW),
        Err(BatchRejection::TooLarge { .. })
    ));
    let future = batch(0, 1, &record(0, 7_200_000, None, b"v"));
    assert!(matches!(check(future), Err(BatchRejection::InvalidTimestamp { index: 0, .. })));
}

#[test]
fn log_append_time_is_the_brokers() {
    let rules = BatchRules { timestamp_type: TimestampType::LogAppendTime, ..RULES };
    let placed = ValidBatch::check(batch(0, 2, &records(2)), &rules, NOW).unwrap().place(
        Offset(5),
        LeaderEpoch(0),
        NOW + 77,
    );
    let header = BatchHeader::parse(&placed.bytes).unwrap();
    assert!(header.is_log_append_time() && header.crc_matches(&placed.bytes));
    assert_eq!(header.max_timestamp_ms, NOW + 77);
    assert_eq!(records::first_at_or_after(&header, &placed.bytes, NOW).unwrap(), Some((Offset(5), NOW + 77)));
}

#[test]
fn a_record_is_found_by_its_timestamp() {
    let bytes = batch(4, 50, &compress(4, &records(50)));
    let header = BatchHeader::parse(&bytes).unwrap();
    let find = |at| records::first_at_or_after(&header, &bytes, at).unwrap();
    assert_eq!(find(NOW - 5), Some((Offset(0), NOW)));
    assert_eq!(find(NOW + 7), Some((Offset(7), NOW + 7)));
    assert_eq!(find(NOW + 50), None);
}

#[test]
fn a_bomb_is_refused_without_its_memory() {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let zeros = vec![0u8; 1 << 20];
    let mut head = Vec::new();
    varint(&mut head, 400 << 20);
    head.extend([0, 0, 0, 1]); // attributes, deltas, null key
    varint(&mut head, (400 << 20) - 20);
    e.write_all(&head).unwrap();
    for _ in 0..300 {
        e.write_all(&zeros).unwrap();
    }
    let b = batch(1, 1, &e.finish().unwrap());
    let rules = BatchRules { max_message_bytes: 64 << 20, ..RULES };
    assert!(matches!(ValidBatch::check(b, &rules, NOW), Err(BatchRejection::InvalidBatch(_))));
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(mut tail in proptest::collection::vec(any::<u8>(), 0..300), attributes in 0i16..8, count in -2i32..6) {
        let _ = check(batch(attributes, count, &tail));
        tail.truncate(120);
        let _ = check(BytesMut::from(&tail[..]));
    }

    #[test]
    fn one_flipped_bit_is_always_noticed(at in 12usize..200, bit in 0u8..8, codec in 0i16..5) {
        let mut b = batch(codec, 20, &compress(codec, &records(20)));
        let at = CRC_AT.max(at).min(b.len() - 1);
        b[at] ^= 1 << bit;
        prop_assert!(check(b).is_err());
    }
}
