//! A part of a local write-ahead log is lost: nothing starts before a person says so, and then everything else is there.

use kafscale_meta::{MetaStoreExt, Metadata};

use super::super::rewrite::rewrite;
use super::identity::{found, keys, lose_metadata};
use super::scan::scanner;
use super::*;
use crate::wal::file::file_name;
use crate::wal::recovery::{RecoveredFile, read_all as read_files};
use crate::{RestoreOptions, Restored, restore};

const BATCHES: i64 = 60;

/// Batches of ten records; partition 0 has its first ones in a segment. Gives the write-ahead files that hold the others.
async fn written(dir: &Path) -> (Fixture, Vec<RecoveredFile>) {
    let mut fixture = Fixture::file(dir);
    fixture.config.wal_file_bytes = 8 << 10;
    fixture.config.wal_max_bytes = 1 << 30;
    fixture.config.retention_check_interval = Duration::from_secs(3600);
    found(&fixture, NOW_MS - 1).await;
    let log = fixture.open().await;
    for i in 0..BATCHES {
        append(&partition(&log, (i % 3) as i32), 10, i as u8).await;
        if i == 9 {
            let p = partition(&log, 0);
            rewrite(&p.log, &p.inner).await.unwrap();
        }
    }
    log.snapshot().await.unwrap();
    log.shutdown().await;
    // Later than the snapshot.
    let offset = format!("{}offsets/g/orders/1", keys().root());
    fixture.meta.put(&offset, r#"{"v":1,"offset":3}"#.into()).await.unwrap();
    let files = read_files(&dir.join("wal/1")).unwrap();
    assert!(files.len() > 5, "{} files", files.len());
    (fixture, files)
}

async fn run(fixture: &Fixture, options: RestoreOptions) -> Result<Restored, String> {
    let metadata = Metadata::new(fixture.meta.clone(), "test").unwrap();
    restore(&fixture.config.store, &metadata, NOW_MS, options).await.map_err(|e| e.to_string())
}

const ACCEPT: RestoreOptions =
    RestoreOptions { dry_run: false, replace: false, accept_loss: true, with_deleted: false };

/// The first offset of each batch of a partition, with its tag.
fn batches_of(index: i64) -> impl Iterator<Item = (i64, u8)> {
    (0..BATCHES / 3).map(move |i| (i * 10, (i * 3 + index) as u8))
}

/// First offsets of batches of a partition in these files that no segment has.
fn lost_of(index: i32, lost: &[&RecoveredFile]) -> Vec<i64> {
    let in_segments = if index == 0 { 40 } else { 0 };
    let entries = lost.iter().flat_map(|file| &file.batches).map(|(_, entry)| entry);
    let of_partition = entries.filter(|entry| entry.partition.index == index);
    let offsets = of_partition.map(|entry| entry.base_offset.0).filter(|base| *base >= in_segments);
    offsets.collect()
}

/// Everything but what was lost is read; what is lost is an error, and what was lost at the end was never there.
async fn check_read(log: &Log, lost: &[&RecoveredFile], what: &str) {
    for index in 0..3 {
        let (p, lost) = (partition(log, index), lost_of(index, lost));
        let last_left = batches_of(i64::from(index)).filter(|(base, _)| !lost.contains(base)).last();
        let end = last_left.map_or(0, |(base, _)| base + 10);
        let first_left = batches_of(i64::from(index)).find(|(base, _)| !lost.contains(base)).unwrap().0;
        let offsets = p.offsets();
        assert_eq!((offsets.log_start.0, offsets.high_watermark.0), (first_left, end), "{what}: {index}");
        for (base, tag) in batches_of(i64::from(index)).filter(|(base, _)| (first_left..end).contains(base)) {
            let read = p.read(Offset(base), 1, true).await;
            match read {
                Ok(read) => {
                    let bytes = read.chunks.concat();
                    let (_, header): (usize, BatchHeader) = batch::batches(&bytes).next().unwrap().unwrap();
                    assert_eq!((header.base_offset.0, bytes[bytes.len() - 2]), (base, tag), "{what}");
                    assert!(!lost.contains(&base), "{what}: {index} at {base}");
                }
                Err(ReadError::Corrupt(_)) => assert!(lost.contains(&base), "{what}: {index} at {base}"),
                Err(e) => panic!("{what}: {index} at {base}: {e}"),
            }
        }
    }
}

async fn check_restored(
    (mut fixture, dir): (Fixture, &Path),
    lost: &[&RecoveredFile],
    (keeps_metadata, what): (bool, &str),
) {
    let refused = fixture.try_open().await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("kafscale restore --accept-loss"), "{what}: {refused}");
    let refused =
        run(&fixture, RestoreOptions { replace: true, ..RestoreOptions::default() }).await.unwrap_err();
    assert!(refused.contains("kafscale restore --accept-loss"), "{what}: {refused}");
    if !keeps_metadata {
        lose_metadata(&mut fixture);
    }
    let planned = run(&fixture, RestoreOptions { dry_run: true, ..ACCEPT }).await.unwrap();
    assert!(fixture.try_open().await.is_err(), "{what}: nothing was changed");
    let restored = run(&fixture, ACCEPT).await.unwrap();
    assert_eq!((&restored.lost, &restored.losses), (&planned.lost, &planned.losses), "{what}");
    assert!(!restored.losses.is_empty(), "{what}");
    assert_eq!(restored.committed_offsets, if keeps_metadata { 2 } else { 1 }, "{what}");
    for index in 0..3 {
        let lost = lost_of(index, lost);
        for base in &lost {
            let told = |line: &&String| line.starts_with(&format!("orders, partition {index}:"));
            let listed = restored.lost.iter().filter(told).any(|line| {
                let numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<i64>().ok());
                let numbers: Vec<i64> = numbers.collect();
                (numbers[1]..=numbers[2]).contains(base) && numbers[2] % 10 == 9 && numbers[1] % 10 == 0
            });
            let at_end = restored.may_lack.iter().any(|line| told(&line));
            assert!(listed || at_end, "{what}: partition {index} at {base}: {restored:?}");
        }
    }
    let log = fixture.open().await;
    check_read(&log, lost, what).await;
    let snapshot = scanner(&fixture.config.store, &fixture.meta).await.snapshot("orders").await;
    for (range, p) in snapshot.unwrap().ranges().iter().zip(log.partitions()) {
        let p = partition(&log, range.partition).offsets().high_watermark.max(p.offsets().log_start);
        assert_eq!(range.end, p.0, "{what}: what SQL reads");
    }
    // Again, then from segments, and then without anything of that time.
    let log = fixture.open_after(log).await;
    check_read(&log, lost, what).await;
    for p in log.partitions() {
        rewrite(&p.log, &p.inner).await.unwrap();
    }
    let log = fixture.open_after(log).await;
    check_read(&log, lost, what).await;
    let ends: Vec<i64> = (0..3).map(|i| partition(&log, i).offsets().high_watermark.0).collect();
    for (index, end) in ends.into_iter().enumerate() {
        assert_eq!(append(&partition(&log, index as i32), 10, 99).await, Offset(end), "{what}");
    }
    let log = fixture.open_after(log).await;
    log.shutdown().await;
    assert!(!dir.join("wal/1/given-up.json").exists(), "{what}: it is forgotten when nothing rests on it");
}

#[tokio::test]
async fn lost_write_ahead_files_hide_nothing_else() {
    for (what, gone) in [
        ("one in the middle", &[3][..]),
        ("two", &[2, 4]),
        ("neighbours", &[2, 3]),
        ("the first", &[0]),
        ("the last", &[-1]),
        ("the first and the last", &[0, -1]),
    ] {
        for keeps_metadata in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (fixture, files) = written(dir.path()).await;
            let at = |i: &i64| &files[usize::try_from(*i).unwrap_or(files.len() - 1)];
            let lost: Vec<&RecoveredFile> = gone.iter().map(at).collect();
            lost.iter().for_each(|file| std::fs::remove_file(&file.path).unwrap());
            check_restored((fixture, dir.path()), &lost, (keeps_metadata, what)).await;
        }
    }
}

#[tokio::test]
async fn damaged_write_ahead_files_hide_nothing_else() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 3] = [
        ("the header is overwritten", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[..200].fill(0xff);
            std::fs::write(path, bytes).unwrap();
        }),
        ("all objects are overwritten", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[4096..].fill(0xff);
            std::fs::write(path, bytes).unwrap();
        }),
        ("a directory is there", |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::create_dir(path).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let dir = tempfile::tempdir().unwrap();
        let (fixture, files) = written(dir.path()).await;
        harm(&files[3].path);
        check_restored((fixture, dir.path()), &[&files[3]], (true, what)).await;
        let kept = dir.path().join("wal/1").join(file_name(3)).with_extension("kfw.aside");
        assert!(kept.exists(), "{what}: what is left is kept for a person");
    }
}

/// What was given up and found again is kept, and is not in the way of what was acknowledged since.
#[tokio::test]
async fn a_file_that_comes_back_replaces_nothing() {
    for (what, gone, loses_metadata) in
        [("the last", -1, false), ("the last, without metadata", -1, true), ("the first", 0, false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (mut fixture, files) = written(dir.path()).await;
        let file = &files[usize::try_from(gone).unwrap_or(files.len() - 1)];
        let found_again = dir.path().join("found");
        std::fs::rename(&file.path, &found_again).unwrap();
        run(&fixture, ACCEPT).await.unwrap();
        let log = fixture.open().await;
        let mut newer = Vec::new();
        for index in 0..3 {
            newer.push(append(&partition(&log, index), 10, 200).await);
        }
        log.shutdown().await;
        std::fs::copy(&found_again, &file.path).unwrap();
        if loses_metadata {
            lose_metadata(&mut fixture);
            let restored = run(&fixture, RestoreOptions::default()).await.unwrap();
            assert!(restored.losses.is_empty(), "{what}: {restored:?}");
        }
        let mut log = fixture.open().await;
        for _ in 0..2 {
            for (index, base) in (0..3).zip(&newer) {
                let p = partition(&log, index);
                assert_eq!(p.offsets().high_watermark, base.plus(10), "{what}: {index}");
                let bytes = p.read(*base, 1, true).await.unwrap().chunks.concat();
                assert_eq!(bytes[bytes.len() - 2], 200, "{what}: {index}");
            }
            log = fixture.open_after(log).await;
        }
        log.shutdown().await;
        let aside = file.path.with_extension("kfw.aside");
        assert_eq!(std::fs::read(aside).unwrap(), std::fs::read(found_again).unwrap(), "{what}");
    }
}
