//! Damaged and hostile objects: an error that names the place, never a panic and never wrong records.

use super::*;
use kafscale_core::crc;

/// Reads everything that can be read of an object, as if the metadata had named it.
async fn read_all(bytes: Vec<u8>, base: Offset, last: Offset) -> Result<Vec<u8>, SegmentError> {
    let bucket = Bucket::new(8 << 20);
    let segment = bucket.put(base, last, bytes).await;
    let _ = bucket.reader.header(&segment).await;
    let _ = bucket.reader.statistics(&segment).await;
    let _ = bucket.reader.max_timestamp(&segment).await;
    let _ = bucket.reader.find_timestamp(&segment, NOW + 500).await;
    let (mut all, mut from) = (Vec::new(), base);
    while from <= last {
        let read = bucket.reader.read(&segment, from, 10_000, true).await?;
        assert!(read.next > from);
        all.extend(read.chunks.concat());
        from = read.next;
    }
    Ok(all)
}

fn small() -> (Vec<PlacedBatch>, Vec<u8>) {
    let batches = batches(&[(0, 2, 30), (0, 1, 1200), (3, 4, 5), (0, 1, 900), (0, 1, 10)]);
    let bytes = build(&batches, 1024).payload.concat();
    (batches, bytes)
}

fn v1() -> (Vec<PlacedBatch>, Vec<u8>) {
    let (batches, _) = small();
    let body = batches.iter().flat_map(|b| b.bytes.clone()).collect::<Vec<u8>>();
    let (base, last) = (batches[0].base_offset, batches[4].last_offset);
    (batches, v1_object(base, last, &body))
}

/// A version 1 object, as the Go implementation writes it.
pub(super) fn v1_object(base: Offset, last: Offset, body: &[u8]) -> Vec<u8> {
    let mut out = b"KAFS\0\x01\0\0".to_vec();
    out.extend(base.0.to_be_bytes());
    out.extend(9i32.to_be_bytes());
    out.extend(NOW.to_be_bytes());
    out.extend([0; 4]);
    out.extend_from_slice(body);
    out.extend(crc::crc32c(body).to_be_bytes());
    out.extend(last.0.to_be_bytes());
    out.extend(b"END!");
    out
}

#[test]
fn version_1_is_read_without_its_index() {
    run(async {
        let (batches, bytes) = v1();
        let bucket = Bucket::new(8 << 20);
        let segment = bucket.put(Offset(100), batches[4].last_offset, bytes).await;
        for from in 98..115 {
            for max_bytes in [0, 200, 1500, 100_000] {
                check_read(&bucket, &segment, &batches, Offset(from), max_bytes, true).await;
            }
        }
        let found = bucket.reader.find_timestamp(&segment, NOW + 1500).await.unwrap();
        assert_eq!(found, Some((Offset(106), NOW + 2000, LeaderEpoch(3))));
        assert_eq!(bucket.reader.statistics(&segment).await.unwrap(), None);
    });
}

#[test]
fn large_version_1_objects_are_walked_block_by_block() {
    run(async {
        let batches = batches(&[(0, 2, 700_000), (0, 1, 100), (0, 1, 1_200_000), (0, 1, 9)]);
        let body = batches.iter().flat_map(|b| b.bytes.clone()).collect::<Vec<u8>>();
        let bucket = Bucket::new(0);
        let object = v1_object(Offset(100), Offset(104), &body);
        let segment = bucket.put(Offset(100), Offset(104), object).await;
        for from in 100..105 {
            check_read(&bucket, &segment, &batches, Offset(from), 1_500_000, true).await;
        }
    });
}

#[test]
fn every_flipped_bit_is_noticed_or_harmless() {
    for (batches, bytes) in [small(), v1()] {
        let (base, last) = (batches[0].base_offset, batches[4].last_offset);
        let good = batches.iter().flat_map(|b| b.bytes.clone()).collect::<Vec<u8>>();
        run(async {
            for at in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << (at % 8);
                match read_all(bad, base, last).await {
                    // The header and the statistics of version 2 are not on the way of a read, nor is most of version 1's header.
                    Ok(read) => assert!(read == good, "byte {at}"),
                    Err(SegmentError::Corrupt { object, .. }) => assert!(object.ends_with(".kfs")),
                    Err(other @ SegmentError::Store(_)) => panic!("byte {at}: {other}"),
                }
            }
        });
    }
}

#[test]
fn every_truncation_is_noticed() {
    for (batches, bytes) in [small(), v1()] {
        let (base, last) = (batches[0].base_offset, batches[4].last_offset);
        run(async {
            for len in 0..bytes.len() {
                let cut = bytes[..len].to_vec();
                assert!(read_all(cut.clone(), base, last).await.is_err(), "{len} bytes");
                // The same, with the metadata still stating the full size.
                let bucket = Bucket::new(8 << 20);
                let mut segment = bucket.put(base, last, cut).await;
                segment.size_bytes = bytes.len() as u64;
                let error = bucket.reader.read(&segment, base, 1 << 20, true).await.unwrap_err();
                assert!(matches!(error, SegmentError::Corrupt { .. }), "{len} bytes: {error}");
            }
        });
    }
}

#[test]
fn another_segment_in_its_place_is_noticed() {
    run(async {
        let (batches, bytes) = small();
        let last = batches[4].last_offset;
        for (base, last) in
            [(Offset(101), last), (Offset(100), last.plus(1)), (Offset(100), Offset(i64::MAX))]
        {
            assert!(read_all(bytes.clone(), base, last).await.is_err(), "{base} to {last}");
        }
    });
}

/// An object whose checksums are all right and whose batches are not.
fn hostile(batches: &[Vec<u8>]) -> Vec<u8> {
    v1_object(Offset(100), Offset(200), &batches.concat())
}

#[test]
fn lying_batches_are_refused() {
    run(async {
        let patched = |at: usize, value: &[u8]| {
            let mut bytes = batch(110, 2, 10, NOW).bytes.to_vec();
            bytes[at..at + value.len()].copy_from_slice(value);
            bytes
        };
        let first = batch(100, 2, 10, NOW).bytes.to_vec();
        for (what, bad) in [
            ("backward", patched(0, &99i64.to_be_bytes())),
            ("overlapping", patched(0, &101i64.to_be_bytes())),
            ("beyond the segment", patched(0, &200i64.to_be_bytes())),
            ("at the end of time", patched(0, &i64::MAX.to_be_bytes())),
            ("negative delta", patched(23, &(-1i32).to_be_bytes())),
            ("huge delta", patched(23, &i32::MAX.to_be_bytes())),
            ("huge length", patched(8, &i32::MAX.to_be_bytes())),
            ("negative length", patched(8, &(-1i32).to_be_bytes())),
            ("short length", patched(8, &48i32.to_be_bytes())),
            ("magic", patched(16, &[1])),
            ("codec", patched(22, &[7])),
            ("cut off", patched(0, &[])[..60].to_vec()),
        ] {
            let error = read_all(hostile(&[first.clone(), bad]), Offset(100), Offset(200)).await;
            assert!(matches!(error, Err(SegmentError::Corrupt { .. })), "{what}");
        }
        read_all(hostile(&[first, patched(0, &[])]), Offset(100), Offset(200)).await.unwrap();
    });
}

proptest! {
    #[test]
    fn hostile_objects_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400), footer in 0..3, last in any::<i64>(),
    ) {
        match footer {
            1 => bytes.extend(b"END!"),
            2 => bytes.extend(b"KAF2"),
            _ => {}
        }
        run(async {
            let bucket = Bucket::new(1 << 20);
            let segment = bucket.put(Offset(0), Offset(last), bytes).await;
            let _ = bucket.reader.read(&segment, Offset(0), 1 << 20, true).await;
            let _ = bucket.reader.statistics(&segment).await;
        });
    }

    #[test]
    fn hostile_indexes_never_panic(
        table in prop::collection::vec(any::<u8>(), 0..60),
        with_summary: bool,
        entries in prop::collection::vec((0i64..200, 0u64..2000, any::<i64>(), 0u32..92), 1..4),
        body in 0u64..400,
    ) {
        let (batches, bytes) = small();
        let summary: &[u8] = if with_summary { &[0; 32] } else { &[] };
        let statistics = [summary, &table].concat();
        let object = forge(&bytes[..64 + body as usize], &statistics, &entries, batches[4].last_offset);
        run(async {
            let bucket = Bucket::new(1 << 20);
            let segment = bucket.put(Offset(100), batches[4].last_offset, object).await;
            let _ = bucket.reader.read(&segment, Offset(0), 1 << 20, true).await;
            let _ = bucket.reader.find_timestamp(&segment, i64::MIN).await;
            let _ = bucket.reader.statistics(&segment).await;
        });
    }
}

/// Puts statistics and an index around a body with checksums that are right.
fn forge(body: &[u8], statistics: &[u8], entries: &[(i64, u64, i64, u32)], last_offset: Offset) -> Vec<u8> {
    use super::super::format::{Footer, IndexEntry};
    let mut index = Vec::new();
    for (i, (base, position, max_timestamp_ms, table_position)) in entries.iter().enumerate() {
        let position = if i == 0 { 64 } else { *position };
        let entry = IndexEntry {
            base_offset: Offset(*base),
            position,
            max_timestamp_ms: *max_timestamp_ms,
            crc: crc::crc32c(&body[64..]),
            table_position: if i == 0 { 32 } else { *table_position },
        };
        entry.encode(&mut index);
    }
    let statistics_position = body.len() as u64;
    let index_position = statistics_position + statistics.len() as u64;
    let footer = Footer {
        statistics_position,
        statistics_bytes: statistics.len() as u32,
        statistics_crc: crc::crc32c(statistics),
        index_position,
        index_bytes: index.len() as u32,
        index_crc: crc::crc32c(&index),
        size_bytes: index_position + index.len() as u64 + 64,
        last_offset,
        body_crc: 0,
    };
    [body, statistics, &index, &footer.encode()].concat()
}
