//! Damaged and hostile objects: an error that names the place, never a panic and never wrong records.

use super::*;
use kafscale_core::crc;

/// Reads everything that can be read of an object, as if the metadata had named it.
async fn read_all(bytes: Vec<u8>, base: Offset, last: Offset) -> Result<Vec<u8>, SegmentError> {
    let bucket = Bucket::new(8 << 20);
    let segment = bucket.put(base, last, bytes).await;
    let _ = bucket.reader.header(&segment).await;
    let _ = bucket.reader.statistics(&segment).await;
    let _ = bucket.reader.max_timestamp(Requester::Broker, &segment).await;
    let _ = bucket.reader.find_timestamp(Requester::Broker, &segment, NOW + 500).await;
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
        let found = bucket.reader.find_timestamp(Requester::Broker, &segment, NOW + 1500).await.unwrap();
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
fn every_truncation_is_noticed_or_harmless() {
    for (batches, bytes) in [small(), v1()] {
        let (base, last) = (batches[0].base_offset, batches[4].last_offset);
        let good = batches.iter().flat_map(|b| b.bytes.clone()).collect::<Vec<u8>>();
        run(async {
            for len in 0..bytes.len() {
                let cut = bytes[..len].to_vec();
                let read = read_all(cut.clone(), base, last).await;
                assert!(read.is_err() || read.is_ok_and(|read| read == good), "{len} bytes");
                // The same, with the metadata still stating the full size.
                let bucket = Bucket::new(8 << 20);
                let mut segment = bucket.put(base, last, cut).await;
                segment.size_bytes = bytes.len() as u64;
                check_around(&bucket, &segment, &batches, &format!("{len} bytes")).await;
            }
        });
    }
}

/// As file systems leave files behind that were not written to the end.
#[test]
fn what_is_overwritten_from_somewhere_on_is_told() {
    let gaps = batches(&[(0, 2, 30), (0, 1, 1200), (3, 4, 5), (0, 1, 900), (0, 1, 10)]);
    let bytes = build(&gaps, 4096).payload.concat();
    for (batches, bytes) in [small(), v1(), (gaps, bytes)] {
        let (base, last) = (batches[0].base_offset, batches[4].last_offset);
        run(async {
            for from in 0..bytes.len() {
                for filling in [0, 0xff, b'A'] {
                    let mut bad = bytes.clone();
                    bad[from..].fill(filling);
                    let bucket = Bucket::new(8 << 20);
                    let segment = bucket.put(base, last, bad).await;
                    check_around(&bucket, &segment, &batches, &format!("{filling} from {from}")).await;
                }
            }
        });
    }
}

/// Reads a damaged segment as one who goes past each error. Every batch is either given as it was written, or its offsets are said to
/// be lost. Gives the batches that are lost.
async fn check_around(
    bucket: &Bucket,
    segment: &SegmentRef,
    batches: &[PlacedBatch],
    what: &str,
) -> Vec<usize> {
    let (mut from, mut found, mut lost) = (segment.base_offset, Vec::new(), Vec::new());
    while from <= segment.last_offset {
        match bucket.reader.read(segment, from, 2000, true).await {
            Ok(read) => {
                assert!(read.next > from, "{what}: stuck at {from}");
                found.extend(read.chunks.concat());
                from = read.next;
            }
            Err(SegmentError::Corrupt { first, last, .. }) => {
                assert!(last >= from && first <= last, "{what}: {first} to {last} at {from}");
                lost.push((first, last));
                from = last.plus(1);
            }
            Err(e) => panic!("{what}: {e}"),
        }
    }
    let is_lost =
        |b: &PlacedBatch| lost.iter().any(|(first, last)| *first <= b.base_offset && b.last_offset <= *last);
    let healthy: Vec<u8> = batches.iter().filter(|b| !is_lost(b)).flat_map(|b| b.bytes.clone()).collect();
    assert!(found == healthy, "{what}: wrong bytes; lost {lost:?}");
    (0..batches.len()).filter(|i| is_lost(&batches[*i])).collect()
}

#[test]
fn a_flipped_bit_costs_one_batch_at_most() {
    let batches = batches(&[(0, 2, 30), (0, 1, 1200), (3, 4, 5), (0, 1, 900), (0, 1, 10)]);
    let bytes = build(&batches, 4096).payload.concat();
    let body_end = 64 + batches.iter().map(|b| b.bytes.len()).sum::<usize>();
    run(async {
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            let bucket = Bucket::new(8 << 20);
            let segment = bucket.put(Offset(100), batches[4].last_offset, bad).await;
            let lost = check_around(&bucket, &segment, &batches, &format!("byte {at}")).await;
            let expected = usize::from((64..body_end).contains(&at));
            assert_eq!(lost.len(), expected, "byte {at}: {lost:?}");
        }
    });
}

#[test]
fn a_compacted_segment_is_read_across_its_gaps_without_its_footer() {
    let shapes: Vec<_> = (0..40).map(|i| (i % 3, 1 + (i % 2) as i32, 200 + i as usize)).collect();
    let batches = batches(&shapes);
    let last = batches[39].last_offset;
    let bytes = build(&batches, 1024).payload.concat();
    let index_at = u64::from_be_bytes(bytes[bytes.len() - 48..][..8].try_into().unwrap()) as usize;
    run(async {
        let groups = (bytes.len() - 64 - index_at) / 32;
        // The footer, then more and more of the index with it.
        for left in [groups, groups - 1, groups / 2] {
            let mut bad = bytes.clone();
            bad[index_at + left * 32..].fill(0);
            let bucket = Bucket::new(8 << 20);
            let segment = bucket.put(Offset(100), last, bad).await;
            let lost = check_around(&bucket, &segment, &batches, &format!("{left} entries")).await;
            assert_eq!(lost.is_empty(), left == groups, "{left} of {groups} entries: {lost:?}");
            assert!(lost.len() <= 40 - 3 * left, "{left} of {groups} entries: {lost:?}");
        }
        // A damaged batch behind it all, and another offset on a batch.
        for (at, what) in [(10 + 61, "a record"), (7, "a base offset")] {
            let hurt: usize = 64 + batches[..20].iter().map(|b| b.bytes.len()).sum::<usize>();
            let mut bad = bytes.clone();
            bad[bytes.len() - 64..].fill(0);
            bad[hurt + at] ^= 1;
            let bucket = Bucket::new(8 << 20);
            let segment = bucket.put(Offset(100), last, bad).await;
            let lost = check_around(&bucket, &segment, &batches, what).await;
            // Nothing proves the other batches of its group.
            assert!(lost.contains(&20) && lost.len() <= 5, "{what}: {lost:?}");
        }
    });
}

#[test]
fn sectors_that_a_disk_cannot_read_cost_their_batches_and_no_others() {
    let shapes: Vec<_> = (0..60).map(|i| (0, 1, 900 + i as usize)).collect();
    let batches = batches(&shapes);
    let bytes = build(&batches, 4096).payload.concat();
    let sectors = bytes.len() as u64 / 4096 + 1;
    run(async {
        for bad in 0..sectors {
            let bucket = Bucket::new(8 << 20);
            let segment = bucket.put(Offset(100), batches[59].last_offset, bytes.clone()).await;
            bucket.store.unreadable.lock().push(bad * 4096..(bad + 1) * 4096);
            let lost = check_around(&bucket, &segment, &batches, &format!("sector {bad}")).await;
            assert!(lost.len() <= 6, "sector {bad}: {lost:?}");
        }
        // A disk that reads nothing at all: what is there comes back with it.
        let bucket = Bucket::new(8 << 20);
        let segment = bucket.put(Offset(100), batches[59].last_offset, bytes.clone()).await;
        bucket.store.unreadable.lock().push(0..sectors * 4096);
        let error = bucket.reader.read(&segment, Offset(100), 2000, true).await.unwrap_err();
        assert!(!error.is_corrupt(), "{error}");
        bucket.store.unreadable.lock().clear();
        assert!(check_around(&bucket, &segment, &batches, "it is back").await.is_empty());
    });
}

#[test]
fn what_stands_before_a_block_that_the_store_does_not_give_is_read() {
    let batches = batches(&[(0, 1, 100_000); 30]);
    let bytes = build(&batches, 4096).payload.concat();
    run(async {
        let bucket = Bucket::new(8 << 20);
        let last = batches[29].last_offset;
        let segment = bucket.put(Offset(100), last, bytes).await;
        bucket.store.errno.store(rustix::io::Errno::ACCESS.raw_os_error(), Ordering::Relaxed);
        bucket.store.unreadable.lock().push(1 << 20..2 << 20);
        let read = bucket.reader.read(&segment, Offset(100), 8 << 20, true).await.unwrap();
        assert_eq!(read.next, Offset(110), "the batches of the first MiB");
        let error = bucket.reader.read(&segment, read.next, 8 << 20, true).await.unwrap_err();
        assert!(!error.is_corrupt(), "{error}");
        assert_eq!(bucket.reader.unreadable().report().objects.len(), 1);
        bucket.store.unreadable.lock().clear();
        let rest = bucket.reader.read(&segment, read.next, 8 << 20, true).await.unwrap();
        assert_eq!(rest.next, last.plus(1));
        assert!(bucket.reader.unreadable().report().objects.is_empty());
    });
}

#[test]
fn version_1_without_gaps_loses_one_batch_at_most() {
    let batches = batches(&[(0, 2, 30), (0, 1, 1200), (0, 4, 5), (0, 1, 900), (0, 1, 10)]);
    let body = batches.iter().flat_map(|b| b.bytes.clone()).collect::<Vec<u8>>();
    let bytes = v1_object(Offset(100), batches[4].last_offset, &body);
    let is_length = |at: usize| {
        let mut position = 32;
        batches.iter().any(|b| {
            let begins = position;
            position += b.bytes.len();
            (begins + 8..begins + 12).contains(&at)
                || (begins + 23..begins + 27).contains(&at)
                || at == begins + 16
        })
    };
    run(async {
        // A leader epoch is in no checksum but that of the whole.
        for at in (32..bytes.len()).filter(|at| !is_length(*at)) {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            let bucket = Bucket::new(8 << 20);
            let segment = bucket.put(Offset(100), batches[4].last_offset, bad).await;
            let mut position = 32;
            let in_epoch = batches.iter().any(|b| {
                let begins = position;
                position += b.bytes.len();
                (begins + 12..begins + 16).contains(&at)
            });
            if !in_epoch {
                let lost = check_around(&bucket, &segment, &batches, &format!("byte {at}")).await;
                assert!(lost.len() <= 1, "byte {at}: {lost:?}");
            }
        }
    });
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
    fn zeroed_ranges_never_give_wrong_records(
        from in 0usize..3000, len in 1usize..600, interval in prop::sample::select(vec![1024usize, 4096]),
    ) {
        let batches = batches(&[(0, 2, 30), (0, 1, 1200), (3, 4, 5), (0, 1, 900), (0, 1, 10)]);
        let mut bytes = build(&batches, interval).payload.concat();
        let from = from.min(bytes.len() - 1);
        let end = (from + len).min(bytes.len());
        bytes[from..end].fill(0);
        run(async {
            let bucket = Bucket::new(8 << 20);
            let segment = bucket.put(Offset(100), batches[4].last_offset, bytes).await;
            check_around(&bucket, &segment, &batches, &format!("{from}..{end}")).await;
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
            let _ = bucket.reader.find_timestamp(Requester::Broker, &segment, i64::MIN).await;
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

#[test]
fn a_segment_of_another_partition_is_damage_and_not_its_records() {
    run(async {
        // Small, with its header in the part that is read first; large, with it elsewhere; and of another size, by way of what can be saved.
        for (shape, other_shape) in [
            ((0, 1, 100), (0, 1, 100)),
            ((0, 1, 200_000), (0, 1, 200_000)),
            ((0, 1, 200_000), (0, 1, 150_000)),
        ] {
            let bucket = Bucket::new(8 << 20);
            let own = build(&batches(&[shape; 3]), 4096);
            let (base, last) = (own.base_offset, own.last_offset);
            let segment = bucket.put_segment(own).await;
            let topic = TopicId(Uuid::from_u128(1));
            let mut builder = SegmentBuilder::new(PartitionId { topic, index: 7 }, NOW, 4096);
            for batch in batches(&[other_shape; 3]) {
                builder.append(batch).unwrap();
            }
            let foreign = builder.finish().unwrap();
            bucket.put(base, last, foreign).await;
            let error = bucket.reader.read(&segment, base, usize::MAX, true).await.unwrap_err();
            let SegmentError::Corrupt { first, last: lost_to, .. } = &error else { panic!("{error}") };
            assert_eq!((*first, *lost_to), (base, last), "{error}");
        }
    });
}
