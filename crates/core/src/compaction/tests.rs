//! The last record of each key stays, at its offset; a model over plain maps says which that is.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::batch::Codec;
use crate::crc;

const NOW: i64 = 1_700_000_000_000;
const KEEP_MS: i64 = 1000;

/// A record to be written; no value makes it a tombstone.
type KeyValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// A record that was read: offset, timestamp, key, and everything behind the timestamp unless it is a tombstone.
type Record = (Offset, i64, Option<Vec<u8>>, Option<Vec<u8>>);

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut v = ((value << 1) ^ (value >> 63)) as u64;
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn bytes_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    varint(out, field.map_or(-1, |f| f.len() as i64));
    out.extend_from_slice(field.unwrap_or_default());
}

/// A batch of (key, value) records, 5 ms apart.
fn batch(base_offset: i64, codec: i16, records: &[KeyValue<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for (i, (key, value)) in records.iter().enumerate() {
        let mut record = vec![0];
        varint(&mut record, i as i64 * 5);
        varint(&mut record, i as i64);
        bytes_field(&mut record, *key);
        bytes_field(&mut record, *value);
        varint(&mut record, 1);
        bytes_field(&mut record, Some(b"h"));
        bytes_field(&mut record, Some(b"header value"));
        varint(&mut body, record.len() as i64);
        body.extend(record);
    }
    let mut out = Vec::new();
    out.extend(base_offset.to_be_bytes());
    out.extend([0; 4]); // length
    out.extend(7i32.to_be_bytes());
    out.push(2);
    out.extend([0; 4]); // CRC
    out.extend(codec.to_be_bytes());
    out.extend((records.len() as i32 - 1).to_be_bytes());
    out.extend(NOW.to_be_bytes());
    out.extend((NOW + records.len() as i64 * 5 - 5).to_be_bytes());
    out.extend(42i64.to_be_bytes());
    out.extend(3i16.to_be_bytes());
    out.extend(base_offset.to_be_bytes()[4..].iter());
    out.extend((records.len() as i32).to_be_bytes());
    let codec = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd][codec as usize];
    out.extend(Compression::default_of(codec).compress(&body[..], usize::MAX).unwrap());
    let length = out.len() as i32 - 12;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc::crc32c(&out[21..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    out
}

fn map(batches: &[Vec<u8>]) -> OffsetMap {
    let mut map = OffsetMap::new(Offset::ZERO, 1 << 20, [RandomState::new(), RandomState::new()]);
    for b in batches {
        assert!(map.add(&BatchHeader::parse(b).unwrap(), b).unwrap());
    }
    map
}

/// Filters batches one by one, checking what every one of them must keep.
fn compact(map: &OffsetMap, batches: &[Vec<u8>], now_ms: i64) -> Vec<Vec<u8>> {
    let mut kept = Vec::new();
    for b in batches {
        let header = BatchHeader::parse(b).unwrap();
        let after = match filter(map, &header, b, now_ms, KEEP_MS).unwrap() {
            Filtered::Whole => b.clone(),
            Filtered::Nothing => continue,
            Filtered::Rewritten(bytes) => bytes.to_vec(),
        };
        let now = BatchHeader::parse(&after).unwrap();
        assert!(now.crc_matches(&after));
        let same =
            |h: &BatchHeader| (h.base_offset, h.last_offset_delta, h.leader_epoch, h.sequence(), h.codec());
        assert_eq!(same(&now), same(&header));
        kept.push(after);
    }
    kept
}

fn records_of(batches: &[Vec<u8>]) -> Vec<Record> {
    let mut all = Vec::new();
    for b in batches {
        let header = BatchHeader::parse(b).unwrap();
        let body = records::inflate(&header, b).unwrap();
        let mut count = 0;
        for record in views(&body, header.records_count) {
            let record = record.unwrap();
            let offset = header.base_offset.plus(record.offset_delta);
            let value = record.value.map(|_| record.rest.to_vec());
            let timestamp_ms = header.base_timestamp_ms + record.timestamp_delta;
            assert!(timestamp_ms <= header.max_timestamp_ms);
            all.push((offset, timestamp_ms, record.key.map(<[u8]>::to_vec), value));
            count += 1;
        }
        assert_eq!(count, header.records_count);
        records::walk(&header, b, |_, _| true).unwrap();
    }
    all
}

fn any_batches() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let key = prop_oneof![9 => (0u8..12).prop_map(|k| Some(vec![k; 3])), 1 => Just(None)];
    let value = prop_oneof![4 => prop::collection::vec(any::<u8>(), 0..30).prop_map(Some), 1 => Just(None)];
    let records = prop::collection::vec((key, value), 1..8);
    prop::collection::vec((0i16..5, 0i64..4, records), 1..12).prop_map(|shapes| {
        let mut next = 0;
        let mut batches = Vec::new();
        for (codec, gap, records) in shapes {
            let views: Vec<_> = records.iter().map(|(k, v)| (k.as_deref(), v.as_deref())).collect();
            batches.push(batch(next + gap, codec, &views));
            next += gap + records.len() as i64;
        }
        batches
    })
}

proptest! {
    #[test]
    fn the_last_record_of_each_key_stays_as_it_was(batches in any_batches()) {
        let before = records_of(&batches);
        let last: BTreeMap<_, _> = before.iter().filter(|r| r.2.is_some()).map(|r| (r.2.clone(), r.0)).collect();
        let expected: Vec<_> = before.into_iter().filter(|r| last.get(&r.2) == Some(&r.0)).collect();
        let once = compact(&map(&batches), &batches, NOW);
        prop_assert_eq!(&records_of(&once), &expected);
        // A second pass before the tombstones' time changes nothing, not a byte.
        let twice = compact(&map(&once), &once, NOW + KEEP_MS - 1);
        prop_assert_eq!(&twice, &once);
        // At their time they go, and nothing else does.
        let late = compact(&map(&once), &once, NOW + KEEP_MS);
        let valued: Vec<_> = expected.into_iter().filter(|r| r.3.is_some()).collect();
        prop_assert_eq!(records_of(&late), valued);
    }

    #[test]
    fn hostile_records_never_panic(body in prop::collection::vec(any::<u8>(), 0..100), count in -2i32..5, codec in 0i16..5) {
        let mut bytes = batch(0, 0, &[(Some(b"k"), None)]);
        bytes.truncate(BatchHeader::SIZE_BYTES);
        bytes.extend(body);
        let length = bytes.len() as i32 - 12;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[21..23].copy_from_slice(&codec.to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        let header = BatchHeader::parse(&bytes).unwrap();
        let mut offsets = map(&[]);
        let _ = offsets.add(&header, &bytes);
        let _ = filter(&offsets, &header, &bytes, NOW, KEEP_MS);
    }
}

#[test]
fn a_newer_value_in_the_dirty_part_removes_one_from_the_clean_part() {
    let clean = batch(0, 0, &[(Some(b"a"), Some(b"1")), (Some(b"b"), Some(b"1"))]);
    let dirty = batch(2, 0, &[(Some(b"a"), Some(b"2"))]);
    let kept = records_of(&compact(&map(std::slice::from_ref(&dirty)), &[clean, dirty], NOW));
    assert_eq!(kept.iter().map(|r| r.0.0).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_batch_is_cut_at_an_offset() {
    for codec in 0..=4 {
        let whole = batch(70, codec, &[(Some(b"a"), Some(b"1")), (None, Some(b"2")), (Some(b"c"), None)]);
        let header = BatchHeader::parse(&whole).unwrap();
        let all = records_of(std::slice::from_ref(&whole));
        for kept in 1..=3 {
            let cut = keep_below(&header, &whole, header.base_offset.plus(kept)).unwrap().unwrap();
            let now = BatchHeader::parse(&cut).unwrap();
            assert!(now.crc_matches(&cut) && now.size_bytes == cut.len());
            assert_eq!((now.last_offset(), i64::from(now.records_count)), (Offset(69 + kept), kept));
            assert_eq!(now.max_timestamp_ms, NOW + kept * 5 - 5);
            assert_eq!(records_of(&[cut.to_vec()]), all[..kept as usize]);
        }
        assert_eq!(keep_below(&header, &whole, header.base_offset).unwrap(), None);
    }
}

#[test]
fn the_map_keeps_to_its_memory() {
    let mut map = OffsetMap::new(Offset::ZERO, 10 * ENTRY_BYTES, [RandomState::new(), RandomState::new()]);
    let records: Vec<[u8; 1]> = (0..30).map(|k| [k]).collect();
    let views = |range: std::ops::Range<usize>| -> Vec<KeyValue<'_>> {
        records[range].iter().map(|k| (Some(&k[..]), None)).collect()
    };
    let add = |map: &mut OffsetMap, b: &[u8]| map.add(&BatchHeader::parse(b).unwrap(), b).unwrap();
    assert!(add(&mut map, &batch(0, 0, &views(0..6))));
    assert!(!add(&mut map, &batch(6, 0, &views(6..12))));
    assert_eq!((map.keys(), map.end()), (6, Offset(6)));
    // One batch always fits, or there would be no progress.
    let mut empty = OffsetMap::new(Offset::ZERO, 0, [RandomState::new(), RandomState::new()]);
    assert!(add(&mut empty, &batch(0, 0, &views(0..20))));
}

#[test]
fn control_batches_stay() {
    let mut control = batch(5, 0, &[(Some(b"\0\0\0\x01"), Some(b"x"))]);
    control[22] |= 0b10_0000;
    let newer = batch(9, 0, &[(Some(b"\0\0\0\x01"), Some(b"y"))]);
    let header = BatchHeader::parse(&control).unwrap();
    assert_eq!(filter(&map(&[newer]), &header, &control, NOW, KEEP_MS).unwrap(), Filtered::Whole);
}
