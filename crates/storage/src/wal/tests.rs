//! The chain survives whatever a crash or a damaged disk leaves behind, or says what is wrong.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kafscale_core::batch::{BatchHeader, PlacedBatch};
use kafscale_core::crc;
use kafscale_core::ids::{LeaderEpoch, Offset, PartitionId, TopicId};
use kafscale_core::times::Times;
use proptest::prelude::*;
use uuid::Uuid;

use super::chain::{Chain, ChainConfig, LocalChain};
use super::file::{FILE_HEADER_BYTES, file_name};
use super::files::WalFiles;
use super::given_up::{GivenUp, Loss};
use super::object::{self, HEADER_BYTES, IndexEntry, ObjectHeader, ObjectId, encode_tail};
use super::recovery::{RecoveredFile, RecoveryError, ends, recover, remove_unfinished, salvage};
use super::recovery_point::RecoveryPoint;
use super::scan;
use crate::testing::batch_bytes;

const PARTITION: PartitionId = PartitionId { topic: TopicId(Uuid::from_u128(7)), index: 3 };

fn config(file_bytes: u64) -> ChainConfig {
    ChainConfig { node_id: 1, incarnation: 9, file_bytes, file_batches: usize::MAX, store_id: None }
}

/// An object of one batch with `records` records from `base` on.
fn one(base: i64, records: i32) -> (Vec<IndexEntry>, Vec<Bytes>) {
    sized(base, records, 100)
}

fn sized(base: i64, records: i32, value_bytes: usize) -> (Vec<IndexEntry>, Vec<Bytes>) {
    let bytes = batch_bytes(base, records, value_bytes);
    let header = BatchHeader::parse(&bytes).unwrap();
    let entry = IndexEntry {
        partition: PARTITION,
        leader_epoch: LeaderEpoch(header.leader_epoch.0),
        base_offset: Offset(base),
        last_offset: header.last_offset(),
        position: 0,
        size_bytes: bytes.len() as u32,
        records_count: records,
        max_timestamp_ms: header.max_timestamp_ms,
        span_bits: Some(0),
        appended_ms: 5,
        sequence: header.sequence(),
    };
    (vec![entry], vec![bytes])
}

#[test]
fn an_entry_says_when_its_records_begin_in_powers_of_two() {
    let (mut index, batches) = one(0, 1);
    for (span_bits, min_ms) in [(None, None), (Some(0), Some(0)), (Some(1), Some(1)), (Some(10), Some(1023))]
    {
        index[0].span_bits = span_bits;
        assert_eq!(index[0].min_timestamp_ms(), min_ms.map(|span| index[0].max_timestamp_ms - span));
        let encoded = object::encode_index(&index);
        assert_eq!(object::decode_index(&encoded, crc::crc32c(&encoded), 1 << 20).unwrap(), index);
        let proven = IndexEntry::decode_proven(&encoded).unwrap();
        assert_eq!(proven.span_bits, None, "its own CRC does not prove it");
    }
    index[0].span_bits = Some(64);
    assert!(index[0].min_timestamp_ms().unwrap() < 0);
    let times = |min_ms, max_ms| Times { min_ms, max_ms, disorder_ms: 0 };
    for (min_ms, max_ms) in [(0, 0), (-1, 0), (7, 1000), (i64::MIN, i64::MAX), (i64::MAX, i64::MAX)] {
        let mut batch = PlacedBatch::from_log(batches[0].clone()).unwrap();
        (batch.max_timestamp_ms, batch.times) = (max_ms, Some(times(min_ms, max_ms)));
        let entry = IndexEntry::of(PARTITION, &batch, 0, 0);
        assert!(entry.min_timestamp_ms().unwrap() <= min_ms, "{min_ms} to {max_ms}");
    }
}

/// A directory with `count` objects, each of one batch of ten records.
fn written(dir: &Path, count: i64, file_bytes: u64) -> Arc<WalFiles> {
    let files = Arc::new(WalFiles::default());
    let mut chain = Chain::from(LocalChain::new(dir, config(file_bytes), files.clone(), None));
    for i in 0..count {
        let (index, batches) = one(i * 10, 10);
        chain.append(&index, &batches).unwrap();
    }
    files
}

fn offsets(recovered: &[RecoveredFile]) -> Vec<i64> {
    recovered.iter().flat_map(|f| f.batches.iter().map(|(_, e)| e.base_offset.0)).collect()
}

fn expect(count: i64) -> Vec<i64> {
    (0..count).map(|i| i * 10).collect()
}

#[test]
fn everything_written_is_recovered_over_several_files() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 50, 16 << 10);
    let recovered = recover(dir.path()).unwrap();
    assert!(recovered.len() > 3, "the files did not roll");
    assert_eq!(offsets(&recovered), expect(50));
    for file in &recovered {
        for (position, entry) in &file.batches {
            let mut bytes = vec![0; entry.size_bytes as usize];
            file.file.read_exact_at(&mut bytes, *position).unwrap();
            assert_eq!(BatchHeader::parse(&bytes).unwrap().base_offset, entry.base_offset);
        }
    }
}

/// Each takes memory, however small it is.
#[test]
fn a_file_is_closed_at_a_number_of_batches() {
    let dir = tempfile::tempdir().unwrap();
    let config = ChainConfig { file_batches: 7, ..config(1 << 20) };
    let mut chain = Chain::from(LocalChain::new(dir.path(), config, Arc::default(), None));
    for i in 0..20 {
        let (index, batches) = one(i * 10, 10);
        chain.append(&index, &batches).unwrap();
    }
    // An object may have more than a file should: it gets one of its own.
    let (mut index, mut batches, mut position) = (Vec::new(), Vec::new(), 0);
    for (entries, bytes) in (20..30).map(|i| one(i * 10, 10)) {
        index.push(IndexEntry { position, ..entries[0] });
        position += bytes[0].len() as u64;
        batches.extend(bytes);
    }
    chain.append(&index, &batches).unwrap();
    let recovered = recover(dir.path()).unwrap();
    let counts: Vec<usize> = recovered.iter().map(|file| file.batches.len()).collect();
    assert_eq!(counts, [7, 7, 6, 10]);
}

#[test]
fn a_torn_tail_is_left_out_and_stays_left_out() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 10, 1 << 20);
    let first = recover(dir.path()).unwrap().pop().unwrap();
    let last_batch = first.batches.last().unwrap().0;
    first.file.write_all_at(&[0xff; 40], last_batch + 70).unwrap();
    let recovered = recover(dir.path()).unwrap();
    assert_eq!(offsets(&recovered), expect(9));
    // Its index is whole, and says whose it was.
    let cut = recovered[0].cut_off.as_ref().unwrap();
    assert_eq!(cut.position, recovered[0].end);
    assert_eq!(records_of(&recovered), "orders-3 offsets 90 to 99");
    assert!(cut.meaning().contains("a crash in the middle of a write"), "{}", cut.meaning());
    // The chain goes on in a new file, which remembers where the old one ends.
    let (end, file_no) = (recovered[0].end, recovered[0].header.file_no);
    let files = Arc::new(WalFiles::default());
    let mut chain = LocalChain::new(dir.path(), config(1 << 20), files, Some((file_no, end)));
    chain.open_file().unwrap();
    let (index, batches) = one(90, 10);
    Chain::from(chain).append(&index, &batches).unwrap();
    assert_eq!(offsets(&recover(dir.path()).unwrap()), expect(10));
}

#[test]
fn a_damaged_middle_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 10, 1 << 20);
    let sound = recover(dir.path()).unwrap().pop().unwrap();
    // A batch alone is for whoever reads it; without a header, an index or a footer nobody knows what was there.
    for (at, byte, refused) in [
        (sound.batches[4].0 + 70, 0xffu8, false),
        (sound.batches[0].0, 9, false),
        (sound.batches[4].0 - 60, 0xff, true),
        (sound.batches[4].0 + u64::from(sound.batches[4].1.size_bytes) + 3, 0xff, true),
    ] {
        let mut before = [0];
        sound.file.read_exact_at(&mut before, at).unwrap();
        sound.file.write_all_at(&[byte], at).unwrap();
        if !refused {
            assert_eq!(offsets(&recover(dir.path()).unwrap()), expect(10));
            sound.file.write_all_at(&before, at).unwrap();
            continue;
        }
        let Err(RecoveryError::Damaged { path, position, .. }) = recover(dir.path()) else {
            panic!("damage at {at} was not refused")
        };
        assert_eq!(path, dir.path().join(file_name(0)));
        assert!(position <= at && at < position + 2000);
        sound.file.write_all_at(&before, at).unwrap();
    }
    assert_eq!(offsets(&recover(dir.path()).unwrap()), expect(10));
}

#[test]
fn damage_in_a_closed_file_is_never_taken_for_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 50, 16 << 10);
    let recovered = recover(dir.path()).unwrap();
    let (position, _) = *recovered[1].batches.last().unwrap();
    // In a batch, which is below the recovery point: for whoever reads it.
    recovered[1].file.write_all_at(&[0xff; 8], position + 30).unwrap();
    assert_eq!(offsets(&recover(dir.path()).unwrap()), expect(50));
    std::fs::remove_file(RecoveryPoint::path(dir.path())).unwrap();
    assert_eq!(offsets(&recover(dir.path()).unwrap()), expect(50));
}

#[test]
fn damage_around_batches_is_refused_below_the_recovery_point_too() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 50, 16 << 10);
    let recovered = recover(dir.path()).unwrap();
    let (position, entry) = *recovered[1].batches.last().unwrap();
    recovered[1].file.write_all_at(&[0xff; 8], position + u64::from(entry.size_bytes) + 10).unwrap();
    assert!(matches!(recover(dir.path()), Err(RecoveryError::Damaged { .. })));
}

/// A clean end leaves nothing to be read in full; a point of another time or file, or a damaged one, counts for nothing.
#[test]
fn a_recovery_point_is_taken_only_for_what_it_was_written_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::from(LocalChain::new(dir.path(), config(1 << 20), Arc::default(), None));
    for i in 0..10 {
        let (index, batches) = one(i * 10, 10);
        chain.append(&index, &batches).unwrap();
    }
    chain.close();
    let file = recover(dir.path()).unwrap().pop().unwrap();
    let (position, _) = file.batches[9];
    file.file.write_all_at(&[0xff; 8], position + 70).unwrap();
    assert_eq!(offsets(&recover(dir.path()).unwrap()), expect(10));
    let sound = RecoveryPoint::read(dir.path()).unwrap();
    let expected = RecoveryPoint { file_no: 0, salt: file.header.salt, position: file.end, oldest: Some(0) };
    assert_eq!(sound, expected);
    RecoveryPoint { file_no: 7, ..sound }.write(dir.path()).unwrap();
    assert!(matches!(recover(dir.path()), Err(RecoveryError::LastMissing { .. })));
    // Without a point of its own, the last write counts as torn.
    RecoveryPoint { salt: 1, ..sound }.write(dir.path()).unwrap();
    assert_eq!(offsets(&recover(dir.path()).unwrap()), expect(9));
    sound.write(dir.path()).unwrap();
    let path = RecoveryPoint::path(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(offsets(&recover(dir.path()).unwrap()), expect(9));
}

#[test]
fn behind_a_clean_end_nothing_is_searched() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::from(LocalChain::new(dir.path(), config(1 << 20), Arc::default(), None));
    for i in 0..3 {
        let (index, batches) = one(i * 10, 10);
        chain.append(&index, &batches).unwrap();
    }
    chain.close();
    let file = recover(dir.path()).unwrap().pop().unwrap();
    // Only a search finds it, and takes what is before it for damage.
    let id = ObjectId { node_id: 1, incarnation: 9, seq: 7, salt: file.header.salt };
    let later =
        ObjectHeader { id, seal: false, body_bytes: 0, entries: 0, has_index_copy: false, durable_below: 0 };
    file.file.write_all_at(&later.encode(), file.end + 5000).unwrap();
    assert_eq!(offsets(&recover(dir.path()).unwrap()), expect(3));
    std::fs::remove_file(RecoveryPoint::path(dir.path())).unwrap();
    assert!(matches!(recover(dir.path()), Err(RecoveryError::Damaged { .. })));
}

#[test]
fn a_start_leaves_no_more_for_the_next_one_to_search() {
    let dir = tempfile::tempdir().unwrap();
    drop(written(dir.path(), 3, 8 << 20));
    let to_search = || scan::written_end(&File::open(dir.path().join(file_name(0))).unwrap()).unwrap();
    let at_first = to_search();
    for _ in 0..3 {
        assert_eq!(offsets(&recover(dir.path()).unwrap()), expect(3));
        assert_eq!(to_search(), at_first);
    }
}

#[test]
fn a_missing_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 50, 16 << 10);
    std::fs::remove_file(dir.path().join(file_name(1))).unwrap();
    assert!(matches!(recover(dir.path()), Err(RecoveryError::Missing { .. })));
}

type Harm = fn(&Path);

/// What may happen to six files of three objects; which batches are lost then, and in how many places.
fn harms() -> [(&'static str, Harm, Vec<i64>, usize); 9] {
    let of_file = |no: i64| (no * 3..no * 3 + 3).map(|i| i * 10);
    let remove: Harm = |dir| std::fs::remove_file(dir.join(file_name(2))).unwrap();
    [
        ("one is missing", remove, of_file(2).collect(), 1),
        (
            "the first is missing",
            |dir| std::fs::remove_file(dir.join(file_name(0))).unwrap(),
            of_file(0).collect(),
            1,
        ),
        (
            "the last is missing",
            |dir| std::fs::remove_file(dir.join(file_name(5))).unwrap(),
            of_file(5).collect(),
            1,
        ),
        (
            "two are missing",
            |dir| [1, 3].iter().for_each(|no| std::fs::remove_file(dir.join(file_name(*no))).unwrap()),
            of_file(1).chain(of_file(3)).collect(),
            2,
        ),
        (
            "neighbours are missing",
            |dir| [1, 2].iter().for_each(|no| std::fs::remove_file(dir.join(file_name(*no))).unwrap()),
            of_file(1).chain(of_file(2)).collect(),
            1,
        ),
        (
            "a header is damaged",
            |dir| {
                let file = File::options().write(true).open(dir.join(file_name(2))).unwrap();
                file.write_all_at(&[0xff; 40], 20).unwrap();
            },
            of_file(2).collect(),
            1,
        ),
        (
            "a directory has its name",
            |dir| {
                std::fs::remove_file(dir.join(file_name(2))).unwrap();
                std::fs::create_dir(dir.join(file_name(2))).unwrap();
            },
            of_file(2).collect(),
            1,
        ),
        (
            "an object in the middle is damaged",
            |dir| damage_objects(&dir.join(file_name(2)), 1..2),
            vec![70],
            1,
        ),
        (
            "a file is cut off",
            |dir| {
                let bytes = std::fs::metadata(dir.join(file_name(2))).unwrap().len();
                let file = File::options().write(true).open(dir.join(file_name(2))).unwrap();
                file.set_len(bytes / 2).unwrap();
            },
            vec![70, 80],
            1,
        ),
    ]
}

/// What is left behind every kind of loss, and that a start refuses each until it is given up.
#[test]
fn everything_else_is_read_around_whatever_is_lost() {
    for (what, harm, lost, count) in harms() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        written_in_threes(dir, 18);
        assert_eq!(recover(dir).unwrap().len(), 6, "files of three objects");
        harm(dir);
        let refused = recover(dir).unwrap_err();
        assert!(refused.to_string().contains("kafscale restore --accept-loss"), "{what}: {refused}");
        let (files, losses) = salvage(dir).unwrap();
        let left: Vec<i64> = expect(18).into_iter().filter(|base| !lost.contains(base)).collect();
        assert_eq!(offsets(&files), left, "{what}");
        assert_eq!(losses.len(), count, "{what}: {losses:?}");

        let losses: Vec<Loss> = losses.into_iter().map(|(loss, _)| loss).collect();
        GivenUp::add(dir, &losses).unwrap();
        RecoveryPoint::remove(dir).unwrap();
        assert_eq!(offsets(&recover(dir).unwrap()), left, "{what}: given up");
        // Another loss between files is refused all the same.
        let another = if lost == [150, 160, 170] { 3 } else { 4 };
        std::fs::remove_file(dir.join(file_name(another))).unwrap();
        assert!(recover(dir).is_err(), "{what}");
    }
}

/// Files of three objects of one batch of ten records each, after a clean end.
fn written_in_threes(dir: &Path, count: i64) {
    // An object has some 3,900 bytes.
    let (files, file_bytes) = (Arc::new(WalFiles::default()), 16 << 10);
    let mut chain = Chain::from(LocalChain::new(dir, config(file_bytes), files, None));
    for i in 0..count {
        let (index, batches) = sized(i * 10, 10, 350);
        chain.append(&index, &batches).unwrap();
    }
    chain.close();
}

/// Overwrites headers and ends of objects of a file, by their places in it.
fn damage_objects(path: &Path, which: std::ops::Range<usize>) {
    let (files, _) = salvage(path.parent().unwrap()).unwrap();
    let of_file = files.iter().find(|file| file.path == path).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    for (position, entry) in &of_file.batches[which] {
        file.write_all_at(&[0xee; 20], position - HEADER_BYTES as u64 + 8).unwrap();
        file.write_all_at(&[0xee; 60], position + u64::from(entry.size_bytes)).unwrap();
    }
}

fn records_of(recovered: &[RecoveredFile]) -> String {
    let cut = recovered.last().unwrap().cut_off.as_ref().unwrap();
    cut.records(&ends(recovered), |_| "orders".to_owned())
}

#[test]
fn a_cut_off_file_says_what_may_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 10, 1 << 20);
    let file = recover(dir.path()).unwrap().pop().unwrap();
    let begins = file.batches[9].0 - HEADER_BYTES as u64;
    let whole = std::fs::read(&file.path).unwrap();
    for (size, records) in [
        (begins + 5, "batches of which nothing is known"),
        (begins + HEADER_BYTES as u64, "1 batches of which nothing is known"),
        (file.batches[9].0 + 50, "1 batches, as it seems the first of them orders-3 from offset 90 on"),
        (file.end - 1, "1 batches, as it seems the first of them orders-3 from offset 90 on"),
    ] {
        file.file.set_len(size).unwrap();
        let recovered = recover(dir.path()).unwrap();
        let cut = recovered[0].cut_off.as_ref().unwrap();
        assert_eq!((cut.position, records_of(&recovered)), (begins, records.to_owned()), "{size}");
        assert!(cut.is_shortened && cut.meaning().contains("it was shortened later"), "{size}");
        let (found, path) = (cut.found(&ends(&recovered), |_| "orders".to_owned()), file.path.display());
        assert!(
            found.starts_with(&format!("{path} at byte {begins}: the last write is not whole")),
            "{found}"
        );
        file.file.write_all_at(&whole, 0).unwrap();
    }
}

#[test]
fn a_cut_off_file_keeps_what_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 10, 1 << 20);
    let file = recover(dir.path()).unwrap().pop().unwrap();
    for cut in 1..10 {
        file.file.set_len(file.batches[10 - cut].0 + 50).unwrap();
        assert_eq!(offsets(&recover(dir.path()).unwrap()), expect(10 - cut as i64));
    }
}

#[test]
fn freed_files_are_recycled_and_their_old_objects_are_not_seen() {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(WalFiles::default());
    let mut chain = Chain::from(LocalChain::new(dir.path(), config(16 << 10), files.clone(), None));
    for i in 0..500 {
        let (index, batches) = one(i * 10, 10);
        let (file_no, _) = chain.append(&index, &batches).unwrap();
        files.retain(file_no, 1, 1);
        files.release(file_no, 1);
        files.free_unused();
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().count() <= 4, "files were not freed");
    let recovered = recover(dir.path()).unwrap();
    let found = offsets(&recovered);
    assert_eq!(found.last(), Some(&4990));
    assert!(found.is_sorted() && found.len() < 40, "old objects came back: {found:?}");
}

#[test]
fn a_burst_leaves_as_many_spares_as_there_is_room_for() {
    let spares = |room_bytes| {
        let dir = tempfile::tempdir().unwrap();
        let files = Arc::new(WalFiles::with_room(room_bytes));
        let mut chain = Chain::from(LocalChain::new(dir.path(), config(16 << 10), files.clone(), None));
        let mut held = Vec::new();
        for i in 0..200 {
            let (index, batches) = one(i * 10, 10);
            held.push(chain.append(&index, &batches).unwrap().0);
            files.retain(held[held.len() - 1], 1, 1);
        }
        assert!(*held.last().unwrap() > 10, "the burst has too few files");
        for file_no in held {
            files.release(file_no, 1);
        }
        files.free_unused();
        files.remove_old_spares();
        std::iter::from_fn(|| files.take_spare()).filter(|spare| spare.exists()).count()
    };
    assert_eq!(spares(0), 2);
    assert_eq!(spares(6 * (16 << 10)), 5, "and one is in use");
}

#[test]
fn spares_of_an_earlier_process_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    for (name, size_bytes) in
        [("0001.spare.tmp", 16 << 10), ("0002.spare.tmp", 8 << 10), ("0003.tmp", 16 << 10)]
    {
        std::fs::write(dir.path().join(name), vec![0; size_bytes]).unwrap();
    }
    assert!(recover(dir.path()).unwrap().is_empty());
    assert!(dir.path().join("0003.tmp").exists(), "reading changes nothing");
    remove_unfinished(dir.path()).unwrap();
    let files = Arc::new(WalFiles::with_room(1 << 20));
    files.adopt_spares(dir.path(), 16 << 10).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["0001.spare.tmp"], "the others are of no use");
    let mut chain = LocalChain::new(dir.path(), config(16 << 10), files.clone(), None);
    chain.open_file().unwrap();
    assert_eq!(files.take_spare(), None);
    assert!(dir.path().join(file_name(0)).exists());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "the file and a recovery point");
}

#[test]
fn an_object_made_up_by_a_producer_is_not_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 3, 1 << 20);
    let file = recover(dir.path()).unwrap().pop().unwrap();
    // A forged header with a right CRC, but without the file's salt, behind the torn tail.
    let id = ObjectId { node_id: 1, incarnation: 9, seq: 77, salt: 0 };
    let forged =
        ObjectHeader { id, seal: false, body_bytes: 0, entries: 0, has_index_copy: false, durable_below: 0 };
    let mut bytes = forged.encode().to_vec();
    bytes.extend_from_slice(&encode_tail(&forged, &[]));
    file.file.write_all_at(&bytes, file.end + 100).unwrap();
    file.file.write_all_at(b"KAFWgarbage", file.end).unwrap();
    assert_eq!(offsets(&recover(dir.path()).unwrap()), expect(3));
}

#[test]
fn a_file_header_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 3, 1 << 20);
    let path = dir.path().join(file_name(0));
    let file = File::options().write(true).read(true).open(&path).unwrap();
    let mut header = vec![0; 80];
    file.read_exact_at(&mut header, 0).unwrap();
    header[9] = 200;
    let crc = crc::crc32c(&header[..76]);
    header[76..].copy_from_slice(&crc.to_be_bytes());
    file.write_all_at(&header, 0).unwrap();
    assert!(matches!(recover(dir.path()), Err(RecoveryError::NewerVersion { version: 200.., .. })));
    assert!(salvage(dir.path()).is_err(), "it is not lost");
    assert_eq!(FILE_HEADER_BYTES, 4096);
}

fn encoded() -> Vec<u8> {
    let (index, batches) = one(0, 10);
    let id = ObjectId { node_id: 1, incarnation: 2, seq: 3, salt: 4 };
    let header = ObjectHeader {
        id,
        seal: false,
        body_bytes: batches[0].len() as u64,
        entries: 1,
        has_index_copy: false,
        durable_below: 0,
    };
    [header.encode().to_vec(), batches[0].to_vec(), encode_tail(&header, &index).to_vec()].concat()
}

proptest! {
    #[test]
    fn a_flipped_bit_in_an_object_is_noticed(at in 0usize..1300, bit in 0u8..8) {
        let mut bytes = encoded();
        let at = at % bytes.len();
        let sound = object::decode(&bytes).unwrap();
        bytes[at] ^= 1 << bit;
        match object::decode(&bytes) {
            Err(_) => {}
            Ok(read) => prop_assert_eq!(read, sound, "byte {} carries nothing", at),
        }
    }

    #[test]
    fn hostile_objects_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), body in any::<u64>(), entries in any::<u32>()) {
        let _ = object::decode(&bytes);
        let id = ObjectId { node_id: 1, incarnation: 2, seq: 3, salt: 4 };
        for body_bytes in [body, body >> 20, u64::MAX] {
            let mut forged = ObjectHeader { id, seal: false, body_bytes, entries, has_index_copy: false, durable_below: 0 }.encode().to_vec();
            forged.extend(&bytes);
            let _ = object::decode(&forged);
        }
    }
}

#[test]
fn a_file_says_which_store_it_belongs_to_and_one_of_earlier_versions_says_nothing() {
    let id = uuid::Uuid::new_v4();
    for store_id in [Some(id), Some(uuid::Uuid::nil()), None] {
        let dir = tempfile::tempdir().unwrap();
        let config = ChainConfig { store_id, ..config(64 << 10) };
        LocalChain::new(dir.path(), config, Arc::default(), None).open_file().unwrap();
        assert_eq!(recover(dir.path()).unwrap()[0].header.store_id, store_id);
    }
}
