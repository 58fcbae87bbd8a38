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
    compression: None,
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
    let backward_found =
        [(1, 2), (2, 1)].map(|(expected, found)| (expected, RecordFault::OffsetDelta { found, expected }));
    assert_eq!(bad_records(batch(0, 3, &backward), &RULES).named, backward_found);
    for codec in 1..5 {
        assert!(check(batch(codec, 3, &compress(codec, &backward))).is_err(), "codec {codec}");
        assert!(check(batch(codec, 4, &compress(codec, &records(3)))).is_err(), "codec {codec}");
    }
}

#[test]
fn topic_rules_are_enforced() {
    let null_key = batch(0, 1, &record(0, 0, None, b"v"));
    let compacted = BatchRules { key_required: true, ..RULES };
    assert_eq!(bad_records(null_key, &compacted).named, [(0, RecordFault::NoKey)]);
    let small = BatchRules { max_message_bytes: 100, ..RULES };
    assert!(matches!(
        ValidBatch::check(batch(0, 5, &records(5)), &small, NOW),
        Err(BatchRejection::TooLarge { .. })
    ));
    let future = batch(0, 1, &record(0, 7_200_000, None, b"v"));
    let bad = bad_records(future, &RULES);
    assert_eq!((bad.named.len(), bad.by_timestamp), (1, true));
    let stamped = batch(LOG_APPEND_TIME, 1, &records(1));
    assert!(matches!(check(stamped), Err(BatchRejection::InvalidTimestampType(_))));
    assert!(matches!(check(batch(TRANSACTIONAL, 1, &records(1))), Err(BatchRejection::Transactional)));
}

fn bad_records(batch: BytesMut, rules: &BatchRules) -> BadRecords {
    match ValidBatch::check(batch, rules, NOW) {
        Err(BatchRejection::InvalidRecords(bad)) => bad,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_bad_record_is_named() {
    let compacted = BatchRules { key_required: true, ..RULES };
    let key = |i: i64| (i % 3 != 1).then_some(&b"key"[..]);
    let at = |i: i64| if i == 6 { 7_200_000 } else { 0 };
    let mixed: Vec<u8> = (0..9).flat_map(|i| record(i, at(i), key(i), b"v")).collect();
    for codec in 0..5 {
        let bad = bad_records(batch(codec, 9, &compress(codec, &mixed)), &compacted);
        let indexes: Vec<i32> = bad.named.iter().map(|(index, _)| *index).collect();
        assert_eq!((indexes, bad.count, bad.by_timestamp), (vec![1, 4, 6, 7], 4, true), "codec {codec}");
    }
    let text = bad_records(batch(0, 9, &mixed), &compacted).to_string();
    assert!(text.starts_with("4 records are refused") && text.matches(';').count() == 2, "{text}");
}

#[test]
fn a_small_batch_does_not_name_millions() {
    let compacted = BatchRules { key_required: true, ..RULES };
    let many: Vec<u8> = (0..100_000).flat_map(|i| record(i, 0, None, b"")).collect();
    let compressed = compress(4, &many);
    let size_bytes = compressed.len() + BatchHeader::SIZE_BYTES;
    let bad = bad_records(batch(4, 100_000, &compressed), &compacted);
    assert_eq!(bad.count, 100_000);
    assert_eq!(bad.named.len(), NAMED_MIN + size_bytes / BYTES_PER_NAMED);
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

#[test]
fn a_batch_is_compressed_anew_and_nothing_else_of_it_changes() {
    for from in 0..5i16 {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let rules = BatchRules { compression: Some(Compression::default_of(codec)), ..RULES };
            let mut sent = batch(from, 500, &compress(from, &records(500)));
            sent[43..51].copy_from_slice(&77i64.to_be_bytes());
            sent[51..53].copy_from_slice(&3i16.to_be_bytes());
            sent[53..57].copy_from_slice(&1000i32.to_be_bytes());
            recrc(&mut sent);
            let before = BatchHeader::parse(&sent).unwrap();
            let placed =
                ValidBatch::check(sent.clone(), &rules, NOW).unwrap().place(Offset(9), LeaderEpoch(2), NOW);
            let after = BatchHeader::parse(&placed.bytes).unwrap();
            assert!(after.codec() == codec && after.crc_matches(&placed.bytes), "{from} to {codec:?}");
            if before.codec() == codec {
                assert_eq!(placed.bytes[CRC_AT..], sent[CRC_AT..], "{codec:?} was compressed anew");
            }
            assert_eq!(
                placed.bytes[LAST_OFFSET_DELTA_AT..BatchHeader::SIZE_BYTES],
                sent[LAST_OFFSET_DELTA_AT..BatchHeader::SIZE_BYTES]
            );
            assert_eq!(
                (placed.sequence, placed.max_timestamp_ms),
                (before.sequence(), before.max_timestamp_ms)
            );
            assert_eq!(placed.last_offset, Offset(508));
            assert_eq!(records::inflate(&after, &placed.bytes).unwrap(), records(500), "{from} to {codec:?}");
        }
    }
}

#[test]
fn a_bomb_does_not_become_its_size() {
    // 64 MiB of zeros as the value of one record, in a few kilobytes of zstd.
    let bomb = batch(4, 1, &compress(4, &record(0, 0, Some(b"k"), &vec![0; 64 << 20])));
    let rules = BatchRules { compression: Some(Compression::default_of(Codec::None)), ..RULES };
    let refused = ValidBatch::check(bomb, &rules, NOW).unwrap_err();
    assert!(matches!(refused, BatchRejection::RecompressedTooLarge { max: 1_048_576 }), "{refused}");
}

#[test]
fn log_append_time_holds_for_a_batch_that_is_compressed_anew() {
    let compression = Some(Compression::default_of(Codec::Zstd));
    let rules = BatchRules { timestamp_type: TimestampType::LogAppendTime, compression, ..RULES };
    let sent = batch(1, 5, &compress(1, &records(5)));
    let placed = ValidBatch::check(sent, &rules, NOW).unwrap().place(Offset(0), LeaderEpoch(0), NOW + 5000);
    let header = BatchHeader::parse(&placed.bytes).unwrap();
    assert!(header.is_log_append_time() && header.crc_matches(&placed.bytes));
    assert_eq!((header.codec(), header.max_timestamp_ms), (Codec::Zstd, NOW + 5000));
}

/// A batch of one record with a value of zeros.
fn zeros(codec: i16, value_bytes: usize) -> BytesMut {
    batch(codec, 1, &compress(codec, &record(0, 0, None, &vec![0; value_bytes])))
}

fn limit(inflated_bytes: u64) -> WalkLimit {
    WalkLimit { inflated_bytes, ..WalkLimit::FULL }
}

#[test]
fn a_bounded_check_gives_back_what_inflates_to_more() {
    for codec in 1..=4 {
        let large = zeros(codec, 900_000);
        let before = large.clone();
        match ValidBatch::check_within(large, &RULES, NOW, limit(64 << 10)).unwrap() {
            Checked::NotWithin(bytes) => assert_eq!(bytes, before, "codec {codec}"),
            Checked::Valid(_) => panic!("codec {codec} was inflated"),
        }
        match ValidBatch::check_within(before, &RULES, NOW, limit(8 << 20)).unwrap() {
            Checked::Valid(batch) => {
                assert!((900_000..901_000).contains(&batch.inflated_bytes()), "codec {codec}")
            }
            Checked::NotWithin(_) => panic!("codec {codec}: the limit is high enough"),
        }
    }
}

#[test]
fn a_bounded_check_does_not_begin_a_long_walk() {
    let rules = BatchRules { max_message_bytes: 8 << 20, ..RULES };
    let many = batch(0, 100_000, &records(100_000));
    let few = WalkLimit { records: 99_999, ..WalkLimit::FULL };
    assert!(matches!(ValidBatch::check_within(many.clone(), &rules, NOW, few), Ok(Checked::NotWithin(_))));
    assert_eq!(ValidBatch::check(many, &rules, NOW).unwrap().records_count(), 100_000);
    let large = batch(0, 1, &record(0, 0, None, &vec![0; 3 << 20]));
    assert!(matches!(
        ValidBatch::check_within(large, &rules, NOW, limit(256 << 10)),
        Ok(Checked::NotWithin(_))
    ));
}

#[test]
fn an_offset_by_time_is_looked_for_within_a_limit() {
    for codec in 1..=4 {
        let bytes = zeros(codec, 900_000);
        let header = BatchHeader::parse(&bytes).unwrap();
        let found = records::first_within(&header, &bytes, NOW, 64 << 10);
        assert!(
            matches!(found, Err(RecordsError::TooLarge { limit_bytes: 65_536 })),
            "codec {codec}: {found:?}"
        );
        assert_eq!(records::first_within(&header, &bytes, NOW, 8 << 20).unwrap(), Some((Offset(0), NOW)));
    }
}

proptest! {
    #[test]
    fn a_bounded_check_says_what_the_unbounded_one_says(
        codec in 0i16..=4, count in 1i32..40, inflated in 1u64..6000, damage in proptest::option::of(0usize..200),
    ) {
        let mut bytes = batch(codec, count, &compress(codec, &records(count)));
        if let Some(at) = damage {
            let at = BatchHeader::SIZE_BYTES + at % (bytes.len() - BatchHeader::SIZE_BYTES);
            bytes[at] ^= 0x55;
            recrc(&mut bytes);
        }
        let whole = check(bytes.clone()).map(|b| b.times.max_ms).map_err(|e| e.to_string());
        match ValidBatch::check_within(bytes.clone(), &RULES, NOW, limit(inflated)) {
            Ok(Checked::NotWithin(same)) => prop_assert_eq!(same, bytes),
            Ok(Checked::Valid(batch)) => prop_assert_eq!(Ok(batch.times.max_ms), whole),
            Err(e) => prop_assert_eq!(Err(e.to_string()), whole),
        }
    }
}

#[test]
fn a_batch_is_compressed_anew_only_within_what_that_takes() {
    let rules = |codec, level| BatchRules { compression: Some(Compression { codec, level }), ..RULES };
    let sent = zeros(4, 900_000);
    let is_valid = |rules: &BatchRules, limit| {
        matches!(ValidBatch::check_within(sent.clone(), rules, NOW, limit), Ok(Checked::Valid(_)))
    };
    let (here, short) = (limit(256 << 10), limit(8 << 20));
    assert!(is_valid(&RULES, limit(1 << 20)));
    for (codec, level, within_short) in
        [(Codec::Lz4, -1, true), (Codec::Gzip, 6, true), (Codec::Gzip, 9, false), (Codec::Zstd, 3, true)]
    {
        assert!(!is_valid(&rules(codec, level), here), "{codec:?} {level} beside other work");
        // What has the codec already is not compressed.
        let expected = within_short || codec == Codec::Zstd;
        assert_eq!(is_valid(&rules(codec, level), short), expected, "{codec:?} {level}");
        assert!(is_valid(&rules(codec, level), WalkLimit::FULL) || !within_short);
    }
    let small = batch(0, 5, &records(5));
    let slow = rules(Codec::Zstd, 22);
    assert!(matches!(ValidBatch::check_within(small, &slow, NOW, short), Ok(Checked::Valid(_))));
}
