//! Damage in what is stored: what is healthy is read, what is not is an error at its own offsets, and background work goes on around it.

use std::path::PathBuf;

use kafscale_meta::MetaStoreExt;
use kafscale_meta::records::{Record, TopicRecord};

use super::super::compacting::compact;
use super::super::rewrite::rewrite;
use super::*;
use crate::scrub::{Finding, Harm, Progress, ScrubError, Watch, scrub};

/// A log whose background work does not begin by itself.
fn quiet(dir: &Path) -> Fixture {
    let mut fixture = Fixture::file(dir);
    fixture.partitions = 1;
    fixture.config.wal_max_bytes = 1 << 30;
    fixture.config.retention_check_interval = Duration::from_secs(3600);
    fixture
}

/// Thirty batches of ten records; tag and offset tell them apart.
async fn fill(p: &Partition) -> Vec<(i64, u8)> {
    for i in 0..30 {
        append(p, 10, i).await;
    }
    expected(&(0..30).map(|i| (10, i)).collect::<Vec<_>>())
}

/// Offsets 0 to 299 and 300 to 309 in a segment each, and 310 to 319 in none.
async fn two_segments_and_a_tail(p: &Partition) -> Vec<(i64, u8)> {
    let all = fill(p).await;
    rewrite(&p.log, &p.inner).await.unwrap();
    append(p, 10, 30).await;
    rewrite(&p.log, &p.inner).await.unwrap();
    append(p, 10, 31).await;
    all
}

pub fn files(under: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Changes one byte of the record values of batch `tag`.
fn damage_batch(file: &Path, tag: u8) {
    let mut bytes = std::fs::read(file).unwrap();
    let at = bytes.windows(20).position(|w| w.iter().all(|b| *b == tag)).expect("the batch is there");
    bytes[at + 10] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

/// What a process that is killed now leaves behind; the fixture goes on with that.
fn cut_off(fixture: &mut Fixture) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let to = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy(&path, &to);
            } else {
                std::fs::copy(&path, &to).unwrap();
            }
        }
    }
    let StoreUrl::File(from) = &fixture.config.store else { unreachable!("over files") };
    let dir = tempfile::tempdir().unwrap();
    copy(from, dir.path());
    fixture.config.store = StoreUrl::File(dir.path().to_owned());
    dir
}

fn without(all: &[(i64, u8)], lost: &[i64]) -> Vec<(i64, u8)> {
    all.iter().filter(|(offset, _)| !lost.contains(offset)).copied().collect()
}

#[tokio::test]
async fn a_damaged_batch_of_a_segment_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = quiet(dir.path());
    let log = fixture.open().await;
    let p = partition(&log, 0);
    let all = fill(&p).await;
    rewrite(&p.log, &p.inner).await.unwrap();
    log.shutdown().await;
    let segments = files(&dir.path().join("topics"), "kfs");
    damage_batch(&segments[0], 7);
    damage_batch(&segments[0], 29);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    let (found, lost) = read_around(&p).await;
    assert_eq!(lost, (70..80).chain(290..300).collect::<Vec<_>>());
    assert_eq!(found, without(&all, &lost));
    let report = log.damages();
    assert_eq!(report.places.len(), 2, "noted once each: {report:?}");
    assert_eq!(report.places[0].offsets, Some((Offset(70), Offset(79))));
    assert_eq!((&*report.places[0].topic, report.places[0].partition), ("orders", 0));
    assert!(report.failed_reads >= 20 && report.summary().unwrap().contains("20 unreadable offsets"));
    p.delete_records(Offset(300)).await.unwrap();
    assert!(log.damages().places.is_empty(), "what is deleted is damaged no more");
}

#[tokio::test]
async fn a_segment_is_read_without_its_index_footer_and_statistics() {
    for (what, cut) in [("the footer", 30), ("the end", 400), ("one byte", 1)] {
        let dir = tempfile::tempdir().unwrap();
        let mut fixture = quiet(dir.path());
        let log = fixture.open().await;
        let p = partition(&log, 0);
        let all = fill(&p).await;
        rewrite(&p.log, &p.inner).await.unwrap();
        log.shutdown().await;
        let segments = files(&dir.path().join("topics"), "kfs");
        let mut bytes = std::fs::read(&segments[0]).unwrap();
        let len = bytes.len();
        bytes[len - cut..].fill(0);
        std::fs::write(&segments[0], bytes).unwrap();
        let log = fixture.open().await;
        let p = partition(&log, 0);
        assert_eq!(read_around(&p).await, (all, Vec::new()), "{what}");
        let report = log.damages();
        assert_eq!((report.places.len(), report.places[0].offsets), (1, None), "{what}: {report:?}");
    }
}

#[tokio::test]
async fn a_segment_that_is_gone_is_lost_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = quiet(dir.path());
    let log = fixture.open().await;
    let p = partition(&log, 0);
    let all = two_segments_and_a_tail(&p).await;
    let segments = files(&dir.path().join("topics"), "kfs");
    assert_eq!(segments.len(), 2);
    std::fs::remove_file(&segments[1]).unwrap();
    let (found, lost) = read_around(&p).await;
    assert_eq!(lost, (300..310).collect::<Vec<_>>());
    assert_eq!(found, [all, (310..320).map(|o| (o, 31)).collect()].concat());
}

#[tokio::test]
async fn a_segment_that_cannot_be_opened_is_told_of_until_it_can_and_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = quiet(dir.path());
    let log = fixture.open().await;
    let p = partition(&log, 0);
    let all = two_segments_and_a_tail(&p).await;
    let segment = files(&dir.path().join("topics"), "kfs").pop().unwrap();
    let aside = dir.path().join("aside");
    std::fs::rename(&segment, &aside).unwrap();
    // Nobody opens a link to itself, whoever runs this test.
    std::os::unix::fs::symlink(&segment, &segment).unwrap();
    for _ in 0..3 {
        let error = p.read(Offset(300), 20_000, true).await.unwrap_err();
        assert!(matches!(error, ReadError::Unavailable(_)), "{error}");
    }
    assert_eq!(read_all(&p, 310).await, (310..320).map(|o| (o, 31)).collect::<Vec<_>>());
    let report = log.unreadable();
    assert_eq!((report.objects.len(), report.failed_reads), (1, 3), "one attempt for each read: {report:?}");
    let (object, why) = &report.objects[0];
    assert!(segment.ends_with(&**object) && !why.is_empty(), "{report:?}");
    assert!(log.damages().places.is_empty(), "it is there, and may be as it was");
    std::fs::rename(&aside, &segment).unwrap();
    assert_eq!(read_all(&p, 0).await[..310], [all, (300..310).map(|o| (o, 30)).collect()].concat());
    assert!(log.unreadable().objects.is_empty(), "it was read");
}

#[tokio::test]
async fn a_damaged_batch_of_the_write_ahead_log_hides_no_other_and_does_not_hold_up_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = quiet(dir.path());
    fixture.config.wal_file_bytes = 1 << 20;
    let log = fixture.open().await;
    let all = fill(&partition(&log, 0)).await;
    log.shutdown().await;
    damage_batch(&files(&dir.path().join("wal"), "kfw")[0], 12);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    let (found, lost) = read_around(&p).await;
    assert_eq!(lost, (120..130).collect::<Vec<_>>());
    assert_eq!(found, without(&all, &lost));
    rewrite(&p.log, &p.inner).await.unwrap();
    assert!(p.inner.state.lock().tail.is_empty(), "all of it is in segments");
    let report = log.damages();
    assert_eq!(report.places.len(), 1);
    assert!(report.places[0].object.ends_with(".kfs"), "it is damaged there now: {report:?}");
    for restarted in [false, true] {
        let log = if restarted { fixture.open_after(log.clone()).await } else { log.clone() };
        let p = partition(&log, 0);
        assert_eq!(read_around(&p).await, (without(&all, &lost), lost.clone()), "restarted: {restarted}");
    }
}

#[tokio::test]
async fn a_search_by_time_finds_the_damaged_batch_that_may_have_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = quiet(dir.path());
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for i in 0..30 {
        fixture.clock.0.store(NOW_MS + i64::from(i) * 1000, Ordering::Relaxed);
        append(&p, 10, i).await;
    }
    rewrite(&p.log, &p.inner).await.unwrap();
    log.shutdown().await;
    damage_batch(&files(&dir.path().join("topics"), "kfs")[0], 7);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for (second, offset) in [(6, 60), (7, 70), (8, 80), (20, 200)] {
        let found = p.offset_for_timestamp(Requester::Broker, NOW_MS + second * 1000).await.unwrap();
        assert_eq!(
            found.map(|(o, t, _)| (o.0, t)),
            Some((offset, NOW_MS + second * 1000)),
            "second {second}"
        );
    }
}

#[tokio::test]
async fn merging_leaves_damaged_segments_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = quiet(dir.path());
    let log = fixture.open().await;
    let p = partition(&log, 0);
    let mut all = Vec::new();
    for i in 0..7 {
        append(&p, 10, i).await;
        all.push((10, i));
        rewrite(&p.log, &p.inner).await.unwrap();
    }
    log.shutdown().await;
    let segments = files(&dir.path().join("topics"), "kfs");
    assert_eq!(segments.len(), 7);
    damage_batch(&segments[3], 3);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for i in 7..20 {
        append(&p, 10, i).await;
        all.push((10, i));
        rewrite(&p.log, &p.inner).await.unwrap();
    }
    let left = files(&dir.path().join("topics"), "kfs");
    assert!(left.contains(&segments[3]), "the damaged one is there: {left:?}");
    assert!(left.len() < 12, "its neighbours were merged: {left:?}");
    let (found, lost) = read_around(&p).await;
    assert_eq!(lost, (30..40).collect::<Vec<_>>());
    assert_eq!(found, without(&expected(&all), &lost));
}

#[tokio::test]
async fn compaction_goes_on_around_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture =
        quiet(dir.path()).with_topic(&[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")]);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for round in 0..6u8 {
        for key in [b"a", b"b"] {
            let value = [round; 60];
            let batch = crate::testing::batch_of(&[(Some(key), Some(&value))], NOW_MS, None);
            p.append(batch).unwrap().durable.wait().await.unwrap();
        }
        rewrite(&p.log, &p.inner).await.unwrap();
    }
    log.shutdown().await;
    let segments = files(&dir.path().join("topics"), "kfs");
    // The first batch of the third segment.
    damage_batch(&segments[2], 2);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for _ in 0..3 {
        compact(&p.log, &p.inner, 1 << 20).await.unwrap();
    }
    assert!(p.inner.state.lock().segments.iter().all(|s| s.compacted), "nothing is left to do");
    let (found, lost) = read_around(&p).await;
    // Before it nothing is left, so that a read from the beginning comes to it.
    assert_eq!(lost, vec![0, 1, 2, 3, 4]);
    // Of the damaged segment its other record is kept; of the rest the last values.
    assert_eq!(found, vec![(5, 2), (10, 5), (11, 5)]);
}

#[tokio::test]
async fn the_newest_write_ahead_file_is_missed_when_it_is_gone() {
    for all in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut fixture = quiet(dir.path());
        fixture.config.wal_file_bytes = 8 << 10;
        let log = fixture.open().await;
        fill(&partition(&log, 0)).await;
        log.shutdown().await;
        let wal = files(&dir.path().join("wal"), "kfw");
        let gone = if all { &wal[..] } else { &wal[wal.len() - 1..] };
        let kept: Vec<_> = gone.iter().map(|path| std::fs::read(path).unwrap()).collect();
        gone.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        let why = fixture.try_open().await.unwrap_err().to_string();
        let newest = wal.last().unwrap().display().to_string();
        assert!(why.contains(&newest) && why.contains("bytes of acknowledged records"), "{why}");
        for (path, bytes) in gone.iter().zip(kept) {
            std::fs::write(path, bytes).unwrap();
        }
        assert_eq!(read_around(&partition(&fixture.open().await, 0)).await.0.len(), 300);
    }
}

#[tokio::test]
async fn the_oldest_write_ahead_file_is_missed_when_it_is_gone_and_not_when_it_was_freed() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = quiet(dir.path());
    fixture.config.wal_file_bytes = 8 << 10;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    let mut all = fill(&p).await;
    rewrite(&p.log, &p.inner).await.unwrap();
    p.log.free_unused();
    all.extend((0..10).map(|o| (300 + o, 99)));
    append(&p, 10, 99).await;
    let _dir = cut_off(&mut fixture);
    log.shutdown().await;
    let log = fixture.open().await;
    assert_eq!(read_around(&partition(&log, 0)).await, (all, Vec::new()), "freed files are not missed");
    fill(&partition(&log, 0)).await;
    let dir = cut_off(&mut fixture);
    log.shutdown().await;
    let wal = files(&dir.path().join("wal"), "kfw");
    assert!(wal.len() > 2, "{wal:?}");
    std::fs::remove_file(&wal[0]).unwrap();
    let why = fixture.try_open().await.unwrap_err().to_string();
    assert!(why.contains(&format!("{} is missing", wal[0].display())), "{why}");
}

#[tokio::test]
async fn starts_and_stops_alone_never_miss_a_file() {
    let mut dirs = vec![tempfile::tempdir().unwrap()];
    let mut fixture = quiet(dirs[0].path());
    for round in 0..8 {
        let log = fixture.open().await;
        if round == 3 {
            append(&partition(&log, 0), 10, 1).await;
        }
        // Every second one is cut off.
        if round % 2 == 1 {
            dirs.push(cut_off(&mut fixture));
        }
        log.shutdown().await;
    }
    assert_eq!(read_around(&partition(&fixture.open().await, 0)).await.0.len(), 10);
}

#[tokio::test]
async fn a_damaged_batch_in_a_file_that_was_not_closed_does_not_refuse_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = quiet(dir.path());
    fixture.config.wal_file_bytes = 1 << 20;
    let log = fixture.open().await;
    let all = fill(&partition(&log, 0)).await;
    let dir = cut_off(&mut fixture);
    log.shutdown().await;
    damage_batch(&files(&dir.path().join("wal"), "kfw")[0], 12);
    let log = fixture.open().await;
    let (found, lost) = read_around(&partition(&log, 0)).await;
    assert_eq!(lost, (120..130).collect::<Vec<_>>());
    assert_eq!(found, without(&all, &lost));
}

/// Nobody has written a snapshot for long by then.
const LONG_AFTER_MS: i64 = NOW_MS + 3_600_000;

/// Tells nobody.
struct Silent;

impl Watch for Silent {
    fn found(&mut self, _: &Finding) {}
    fn progress(&mut self, _: &Progress) {}
}

#[tokio::test]
async fn verify_knows_segments_in_the_place_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = quiet(dir.path());
    let log = fixture.open().await;
    let p = partition(&log, 0);
    fill(&p).await;
    rewrite(&p.log, &p.inner).await.unwrap();
    append(&p, 10, 30).await;
    rewrite(&p.log, &p.inner).await.unwrap();
    log.shutdown().await;
    let store = StoreUrl::File(dir.path().to_owned());
    assert_eq!(scrub(&store, LONG_AFTER_MS, &mut Silent).await.unwrap().findings, Vec::new());
    let segments = files(&dir.path().join("topics"), "kfs");
    let aside = dir.path().join("aside");
    std::fs::rename(&segments[0], &aside).unwrap();
    std::fs::rename(&segments[1], &segments[0]).unwrap();
    std::fs::rename(&aside, &segments[1]).unwrap();
    let scrubbed = scrub(&store, LONG_AFTER_MS, &mut Silent).await.unwrap();
    let told: Vec<_> = scrubbed.findings.iter().map(|f| (f.offsets, f.harm)).collect();
    let whole = |first, last| (Some((Offset(first), Offset(last))), Harm::Records);
    assert_eq!(told, [whole(0, 299), whole(300, i64::MAX - 1)], "{:?}", scrubbed.findings);
}

#[tokio::test]
async fn verify_refuses_what_is_no_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let refused = scrub(&StoreUrl::File(dir.path().to_owned()), LONG_AFTER_MS, &mut Silent).await;
    assert!(matches!(refused, Err(ScrubError::NotAStore(_))), "{refused:?}");
}

#[tokio::test]
async fn verify_misses_segments_that_the_last_snapshot_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = quiet(dir.path());
    let keys = Keyspace::new("test").unwrap();
    let topic = TopicRecord {
        topic_id: TOPIC.0,
        partitions: 1,
        configs: BTreeMap::new(),
        created_ms: 1,
        internal: false,
    };
    fixture.meta.put(&keys.topic("orders"), topic.encode()).await.unwrap();
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for tag in 0..2 {
        append(&p, 10, tag).await;
        rewrite(&p.log, &p.inner).await.unwrap();
    }
    log.snapshot().await.unwrap();
    log.shutdown().await;
    let store = StoreUrl::File(dir.path().to_owned());
    assert_eq!(scrub(&store, LONG_AFTER_MS, &mut Silent).await.unwrap().findings, Vec::new());
    let topics = dir.path().join("topics");
    let segments = files(&topics, "kfs");
    assert_eq!(segments.len(), 2);
    let missed = async || {
        let findings = scrub(&store, LONG_AFTER_MS, &mut Silent).await.unwrap().findings;
        findings.iter().map(|f| f.offsets.map(|(first, last)| (first.0, last.0)).unwrap()).collect::<Vec<_>>()
    };
    let aside = dir.path().join("aside");
    std::fs::rename(&segments[0], &aside).unwrap();
    assert_eq!(missed().await, [(0, 9)], "the first one");
    std::fs::rename(&aside, &segments[0]).unwrap();
    std::fs::rename(&segments[1], &aside).unwrap();
    assert_eq!(missed().await, [(10, 19)], "the last one");
    std::fs::remove_dir_all(&topics).unwrap();
    assert_eq!(missed().await, [(0, 9), (10, 19)], "all");
}
