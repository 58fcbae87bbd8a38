//! A store and metadata that do not belong together are refused, and nothing is deleted; what was lost is rebuilt from the store.

use kafscale_meta::records::{AssignmentRecord, ClusterRecord, PartitionAssignment, Record, TopicRecord};
use kafscale_meta::{MetaStoreExt, Metadata};

use super::super::identity::Trace;
use super::*;
use crate::{IdentityError, RestoreOptions, Restored, restore, set_store};

pub(super) fn keys() -> Keyspace {
    Keyspace::new("test").unwrap()
}

/// The records of the cluster and of the topic.
pub(super) async fn found(fixture: &Fixture, created_ms: i64) {
    let cluster = ClusterRecord { cluster_id: "c".into(), created_ms, store: None };
    fixture.meta.put(&keys().cluster(), cluster.encode()).await.unwrap();
    let configs = BTreeMap::new();
    let topic = TopicRecord { topic_id: TOPIC.0, partitions: 3, configs, created_ms: 1, internal: false };
    fixture.meta.put(&keys().topic("orders"), topic.encode()).await.unwrap();
    let partitions = vec![PartitionAssignment::new(1, 1, 5); 3];
    fixture.meta.put(&keys().assignment(TOPIC.0), AssignmentRecord { partitions }.encode()).await.unwrap();
    let offset = format!("{}offsets/g/orders/0", keys().root());
    fixture.meta.put(&offset, r#"{"v":1,"offset":7}"#.into()).await.unwrap();
}

/// A directory with segments and a write-ahead log, closed.
pub(super) async fn written(dir: &Path, rounds: i32) -> (Fixture, Vec<Vec<(i32, u8)>>) {
    let mut fixture = Fixture::file(dir);
    found(&fixture, NOW_MS - 1).await;
    let log = fixture.open().await;
    let mut wrote = vec![Vec::new(); 3];
    for i in 0..rounds {
        append(&partition(&log, i % 3), 10, (i % 251) as u8).await;
        wrote[(i % 3) as usize].push((10, (i % 251) as u8));
    }
    if rounds > 100 {
        eventually("rewriting", || log.stats().segments_written > 0 && log.stats().wal_bytes <= 256 << 10)
            .await;
    }
    log.snapshot().await.unwrap();
    log.shutdown().await;
    (fixture, wrote)
}

pub(super) fn lose_metadata(fixture: &mut Fixture) {
    fixture.meta = Arc::new(EmbeddedStore::memory());
}

/// All files with their sizes, but those that every start makes anew.
fn files(dir: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(at).unwrap().map(|e| e.unwrap().path()) {
            match entry.is_dir() {
                true => left.push(entry),
                false => drop(found.insert(entry.display().to_string(), entry.metadata().unwrap().len())),
            }
        }
    }
    found
}

pub(super) async fn refusal(fixture: &mut Fixture) -> IdentityError {
    match fixture.try_open().await {
        Err(OpenError::Identity(error)) => error,
        other => panic!("not refused: {:?}", other.map(drop)),
    }
}

async fn run(fixture: &Fixture, dry_run: bool) -> Result<Restored, String> {
    let metadata = Metadata::new(fixture.meta.clone(), "test").unwrap();
    let options = RestoreOptions { dry_run, ..RestoreOptions::default() };
    restore(&fixture.config.store, &metadata, NOW_MS, options).await.map_err(|e| e.to_string())
}

pub(super) async fn check_served(fixture: &mut Fixture, wrote: &[Vec<(i32, u8)>]) {
    let log = fixture.open().await;
    for (index, wrote) in wrote.iter().enumerate() {
        assert_eq!(read_all(&partition(&log, index as i32), 0).await, expected(wrote));
    }
    log.shutdown().await;
}

#[tokio::test]
async fn lost_metadata_is_refused_with_nothing_deleted_and_rebuilt_from_the_directory() {
    for rounds in [30, 400] {
        let dir = tempfile::tempdir().unwrap();
        let (mut fixture, wrote) = written(dir.path(), rounds).await;
        let before = files(dir.path());
        lose_metadata(&mut fixture);
        for _ in 0..2 {
            let error = refusal(&mut fixture).await;
            assert!(matches!(error, IdentityError::NewMetadata { .. }) && error.is_final(), "{error}");
            assert!(error.to_string().contains("kafscale restore"), "{error}");
        }
        assert_eq!(files(dir.path()), before);
        let planned = run(&fixture, true).await.unwrap();
        let restored = run(&fixture, false).await.unwrap();
        assert_eq!(restored, planned);
        assert_eq!((restored.topics[0].name.as_str(), restored.topics[0].partitions), ("orders", 3));
        assert_eq!(restored.topics[0].offsets, i64::from(rounds) * 10, "{restored:?}");
        assert!(restored.wal_files > Some(0) && restored.holes.is_empty(), "{restored:?}");
        assert_eq!(restored.committed_offsets, 1);
        check_served(&mut fixture, &wrote).await;
        assert!(
            run(&fixture, false).await.unwrap_err().contains("already"),
            "there is something to lose now"
        );
    }
}

/// So that it works where nothing can be written, on a copy that is mounted to look at, say.
#[tokio::test]
async fn a_dry_run_writes_nothing_to_the_directory() {
    fn all(dir: &Path) -> Vec<(String, std::time::SystemTime)> {
        let mut found = vec![(dir.display().to_string(), dir.metadata().unwrap().modified().unwrap())];
        if dir.is_dir() {
            found.extend(std::fs::read_dir(dir).unwrap().flat_map(|entry| all(&entry.unwrap().path())));
        }
        found.sort();
        found
    }
    let dir = tempfile::tempdir().unwrap();
    let (fixture, _) = written(dir.path(), 30).await;
    // What a start or another restore makes first of all, and what one clears away that was cut off.
    std::fs::remove_file(dir.path().join("LOCK")).unwrap();
    std::fs::write(dir.path().join("wal/1/prepared.tmp"), "").unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() && entry.read_dir().unwrap().next().is_none() {
            std::fs::remove_dir(entry).unwrap();
        }
    }
    let before = all(dir.path());
    let planned = run(&fixture, true).await.unwrap();
    assert_eq!(planned.topics[0].offsets, 300);
    assert_eq!(all(dir.path()), before);
}

#[tokio::test]
async fn a_directory_in_use_or_of_nobody_is_not_restored_from() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    assert!(run(&fixture, false).await.unwrap_err().contains("not the data directory"));
    let log = fixture.open().await;
    let other = Fixture::file(dir.path());
    for dry_run in [true, false] {
        assert!(run(&other, dry_run).await.unwrap_err().contains("in use"));
    }
    log.shutdown().await;
}

#[tokio::test]
async fn metadata_of_another_store_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut fixture, wrote) = written(dir.path(), 30).await;
    let (another, _) = written(other.path(), 30).await;
    let before = files(dir.path());
    let own = std::mem::replace(&mut fixture.meta, another.meta);
    let error = refusal(&mut fixture).await;
    assert!(matches!(error, IdentityError::OtherStore { .. }), "{error}");
    assert_eq!(files(dir.path()), before);
    fixture.meta = own;
    check_served(&mut fixture, &wrote).await;
}

#[tokio::test]
async fn a_store_without_the_records_that_metadata_knows_is_refused() {
    let (dir, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut fixture, _) = written(dir.path(), 400).await;
    fixture.config.store = StoreUrl::File(empty.path().to_owned());
    let error = refusal(&mut fixture).await;
    assert!(matches!(error, IdentityError::OtherData { .. }), "{error}");
    assert!(!empty.path().join("identity.json").exists());
}

#[tokio::test]
async fn data_of_earlier_releases_gets_an_id() {
    for rounds in [30, 400] {
        let dir = tempfile::tempdir().unwrap();
        let (mut fixture, wrote) = written(dir.path(), rounds).await;
        std::fs::remove_file(dir.path().join("identity.json")).unwrap();
        std::fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
        fixture.meta.delete(&keys().store()).await.unwrap();
        check_served(&mut fixture, &wrote).await;
        assert!(dir.path().join("identity.json").exists());
        assert!(fixture.meta.get(&keys().store()).await.unwrap().is_some());
        // The same with metadata that is new.
        std::fs::remove_file(dir.path().join("identity.json")).unwrap();
        lose_metadata(&mut fixture);
        // After all of it, also by the clock of the disk, where everything is in segments by now.
        let cluster = ClusterRecord { cluster_id: "d".into(), created_ms: 1 << 42, store: None };
        fixture.meta.put(&keys().cluster(), cluster.encode()).await.unwrap();
        let error = refusal(&mut fixture).await;
        assert!(matches!(error, IdentityError::NewMetadata { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_identity_that_was_lost_or_damaged_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, wrote) = written(dir.path(), 30).await;
    let path = dir.path().join("identity.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    check_served(&mut fixture, &wrote).await;
    let id =
        serde_json::from_str::<serde_json::Value>(&whole).unwrap()["store_id"].as_str().unwrap().to_owned();
    let other = if id.starts_with('0') { "1" } else { "0" };
    for damaged in
        [String::new(), whole[..20].to_owned(), whole.replacen(&id[..1], other, 1), whole.replace(&id, "x")]
    {
        std::fs::write(&path, damaged).unwrap();
        check_served(&mut fixture, &wrote).await;
        assert!(std::fs::read_to_string(&path).unwrap().contains(&id));
    }
}

pub(super) async fn copy(meta: &dyn MetaStore) -> Arc<dyn MetaStore> {
    let (copy, listed) = (EmbeddedStore::memory(), meta.range_all(keys().root()).await.unwrap());
    for kv in listed.kvs {
        copy.put(&kv.key, kv.value).await.unwrap();
    }
    while copy.put("/padding", "".into()).await.unwrap() < listed.revision {}
    Arc::new(copy)
}

#[tokio::test]
async fn an_old_copy_of_the_metadata_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, wrote) = written(dir.path(), 30).await;
    let old = copy(&*fixture.meta).await;
    for _ in 0..3 {
        check_served(&mut fixture, &wrote).await;
    }
    // Where brokers with a disk each share an etcd, others have counted it up before this one
    // starts.
    let counted_up = copy(&*old).await;
    for _ in 0..1000 {
        counted_up.put("/padding", "".into()).await.unwrap();
    }
    let right = std::mem::replace(&mut fixture.meta, counted_up);
    fixture.config.incarnation = 0;
    let error = refusal(&mut fixture).await;
    assert!(matches!(error, IdentityError::OldMetadata { .. }), "{error}");
    fixture.meta = old;
    fixture.config.incarnation = 0;
    // Each start takes a number, and the last ones here higher ones than the store knows.
    for attempt in 0..12 {
        let error = refusal(&mut fixture).await;
        assert!(matches!(error, IdentityError::OldMetadata { .. }), "start {attempt}: {error}");
    }
    // In the place of that copy, the metadata of before.
    fixture.meta = right;
    check_served(&mut fixture, &wrote).await;
}

/// A backup from between a clean stop and the next start: that start had the number that the first
/// one on the copy is given.
#[tokio::test]
async fn a_copy_from_just_before_the_last_start_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, _) = written(dir.path(), 30).await;
    let old = copy(&*fixture.meta).await;
    let log = fixture.open().await;
    let last = fixture.config.incarnation;
    append(&partition(&log, 0), 10, 200).await;
    // Killed: without a snapshot.
    log.shutdown().await;
    fixture.meta = old;
    fixture.config.incarnation = last - 1;
    let error = refusal(&mut fixture).await;
    assert_eq!(fixture.config.incarnation, last);
    assert!(matches!(error, IdentityError::OldMetadata { found: Trace::Writer(_), .. }), "{error}");
}

#[tokio::test]
async fn metadata_from_before_the_newest_snapshot_is_refused_until_it_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, wrote) = written(dir.path(), 30).await;
    let log = fixture.open().await;
    let old = copy(&*fixture.meta).await;
    // Within one incarnation, and not more than this.
    let offset = format!("{}offsets/g/orders/0", keys().root());
    fixture.meta.put(&offset, r#"{"v":1,"offset":9}"#.into()).await.unwrap();
    log.snapshot().await.unwrap();
    log.shutdown().await;
    let right = std::mem::replace(&mut fixture.meta, old);
    fixture.config.incarnation = 0;
    for attempt in 0..6 {
        let error = refusal(&mut fixture).await;
        let found = matches!(error, IdentityError::OldMetadata { found: Trace::Snapshot(_), .. });
        assert!(found && error.is_final(), "start {attempt}: {error}");
    }
    let outdated = std::mem::replace(&mut fixture.meta, right);
    check_served(&mut fixture, &wrote).await;

    fixture.meta = outdated;
    let metadata = Metadata::new(fixture.meta.clone(), "test").unwrap();
    let options = RestoreOptions { replace: true, ..RestoreOptions::default() };
    restore(&fixture.config.store, &metadata, NOW_MS, options).await.unwrap();
    assert_eq!(fixture.meta.get(&offset).await.unwrap().unwrap().value, r#"{"v":1,"offset":9}"#);
    for _ in 0..2 {
        check_served(&mut fixture, &wrote).await;
    }
}

/// As of a moment when the broker ran, and put back after a kill, with no snapshot between the two.
#[tokio::test]
async fn metadata_from_before_the_newest_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, mut wrote) = written(dir.path(), 30).await;
    fixture.config.wal_file_bytes = 4 << 10;
    let log = fixture.open().await;
    let old = copy(&*fixture.meta).await;
    for i in 0..40 {
        append(&partition(&log, 0), 10, 100 + i).await;
        wrote[0].push((10, 100 + i));
    }
    for p in log.partitions() {
        super::super::rewrite::rewrite(&p.log, &p.inner).await.unwrap();
    }
    // Until nothing of partition 0 is left in the write-ahead log.
    for i in 0..10 {
        append(&partition(&log, 1), 10, i).await;
        wrote[1].push((10, i));
    }
    log.shared.free_unused();
    let right = copy(&*fixture.meta).await;
    log.shutdown().await;
    fixture.meta = old;
    fixture.config.incarnation = 0;
    for attempt in 0..3 {
        let error = refusal(&mut fixture).await;
        let refused = matches!(&error, IdentityError::OldEnds { partition: 0, .. });
        assert!(refused && error.is_final(), "start {attempt}: {error}");
    }
    fixture.meta = right;
    fixture.config.incarnation = 0;
    check_served(&mut fixture, &wrote).await;
}

pub(super) fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for path in std::fs::read_dir(from).unwrap().map(|e| e.unwrap().path()) {
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[tokio::test]
async fn a_write_ahead_log_that_is_gone_or_older_is_refused_until_its_records_are_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, mut wrote) = written(dir.path(), 30).await;
    let (wal, newest, older) =
        (dir.path().join("wal/1"), dir.path().join("newest"), dir.path().join("older"));
    copy_files(&wal, &older);
    let log = fixture.open().await;
    append(&partition(&log, 0), 10, 200).await;
    wrote[0].push((10, 200));
    let running = copy(&*fixture.meta).await;
    log.shutdown().await;
    std::fs::rename(&wal, &newest).unwrap();
    let (stopped, empty) = (fixture.meta.clone(), dir.path().join("empty"));
    std::fs::create_dir(&empty).unwrap();
    // After a clean stop, and after a kill.
    for meta in [stopped, running] {
        fixture.meta = meta;
        for found in [None, Some(&empty), Some(&older)] {
            let _ = std::fs::remove_dir_all(&wal);
            if let Some(found) = found {
                copy_files(found, &wal);
            }
            let error = refusal(&mut fixture).await;
            assert!(
                matches!(error, IdentityError::ShortLog { .. }) && error.is_final(),
                "{found:?}: {error}"
            );
            assert!(error.to_string().contains("kafscale restore --replace"), "{error}");
        }
    }
    std::fs::remove_dir_all(&wal).unwrap();
    copy_files(&newest, &wal);
    check_served(&mut fixture, &wrote).await;

    std::fs::remove_dir_all(&wal).unwrap();
    refusal(&mut fixture).await;
    let metadata = Metadata::new(fixture.meta.clone(), "test").unwrap();
    let options = RestoreOptions { replace: true, ..RestoreOptions::default() };
    restore(&fixture.config.store, &metadata, NOW_MS, options).await.unwrap();
    check_served(&mut fixture, &[vec![], vec![], vec![]]).await;
}

#[tokio::test]
async fn restarts_without_records_never_miss_what_they_took_away_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    found(&fixture, NOW_MS - 1).await;
    for _ in 0..3 {
        fixture.open().await.shutdown().await;
    }
    let log = fixture.open().await;
    append(&partition(&log, 0), 10, 1).await;
    log.shutdown().await;
    let wrote = [vec![(10, 1)], vec![], vec![]];
    for _ in 0..3 {
        check_served(&mut fixture, &wrote).await;
    }
}

#[tokio::test]
async fn a_write_ahead_file_of_another_store_is_refused_and_left_as_it_is() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut fixture, wrote) = written(dir.path(), 30).await;
    let (mut another, _) = written(other.path(), 30).await;
    let (own_wal, aside) = (dir.path().join("wal/1"), dir.path().join("aside"));
    std::fs::rename(&own_wal, &aside).unwrap();
    copy_files(&other.path().join("wal/1"), &own_wal);
    let before = files(dir.path());
    let error = refusal(&mut fixture).await;
    assert!(matches!(error, IdentityError::OtherFile { .. }) && error.is_final(), "{error}");
    let metadata = Metadata::new(fixture.meta.clone(), "test").unwrap();
    let options = RestoreOptions { dry_run: true, replace: true, ..RestoreOptions::default() };
    let refused = restore(&fixture.config.store, &metadata, NOW_MS, options).await.unwrap_err();
    assert!(refused.to_string().contains("belongs to the store"), "{refused}");
    assert_eq!(files(dir.path()), before);

    // Metadata and identity of another store, beside these files.
    let identity = |dir: &Path| dir.join("identity.json");
    let own_identity = std::fs::read(identity(dir.path())).unwrap();
    std::fs::remove_dir_all(&own_wal).unwrap();
    copy_files(&aside, &own_wal);
    std::fs::copy(identity(other.path()), identity(dir.path())).unwrap();
    let own_meta = std::mem::replace(&mut fixture.meta, another.meta.clone());
    let error = refusal(&mut fixture).await;
    assert!(matches!(error, IdentityError::OtherFile { .. }), "{error}");
    std::fs::write(identity(dir.path()), own_identity).unwrap();
    fixture.meta = own_meta;
    check_served(&mut fixture, &wrote).await;
    another.open().await.shutdown().await;

    // Neither the identity nor the metadata is left: the files tell which store it is.
    std::fs::remove_file(identity(dir.path())).unwrap();
    std::fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    lose_metadata(&mut fixture);
    assert_eq!(run(&fixture, false).await.unwrap().wal_files, Some(1));
    fixture.open().await.shutdown().await;
}

#[tokio::test]
async fn a_file_of_earlier_releases_with_records_that_nobody_knows_is_put_aside() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, mut wrote) = written(dir.path(), 30).await;
    let wal = dir.path().join("wal/1");
    let (file, aside) = (wal.join("00000000000000000000.kfw"), wal.join("00000000000000000000.kfw.aside"));
    std::fs::File::options().write(true).open(&file).unwrap().write_all_at(&[0; 20], 80).unwrap();
    let before = std::fs::read(&file).unwrap();
    // Partition 2 is not one that this metadata knows.
    fixture.partitions = 2;
    let log = fixture.try_open().await.unwrap();
    log.acquire(fixture.hosted()).await;
    log.forget_unclaimed(|id| id.index < 2);
    for p in log.partitions() {
        log.release(p.id()).await.unwrap();
    }
    log.shutdown().await;
    assert!(!file.exists());
    assert!(std::fs::read(&aside).unwrap() == before);
    wrote.truncate(2);
    check_served(&mut fixture, &wrote).await;
    assert!(aside.exists());
}

#[tokio::test]
async fn a_directory_without_records_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    fixture.open().await.shutdown().await;
    lose_metadata(&mut fixture);
    fixture.open().await.shutdown().await;
}

#[tokio::test]
async fn a_cluster_is_given_another_store_only_while_nothing_can_be_lost_by_it() {
    let (url, fixture) = (StoreUrl::shared_memory(), Fixture::new(StoreUrl::Memory));
    let metadata = Metadata::new(fixture.meta.clone(), "test").unwrap();
    let set = async |place: &str| set_store(&url, &metadata, place).await;
    assert!(set("s3://b").await.unwrap_err().contains("no such cluster"));
    let cluster =
        ClusterRecord { cluster_id: "c".into(), created_ms: 1, store: Some("s3://mistyped".into()) };
    fixture.meta.put(&keys().cluster(), cluster.encode()).await.unwrap();
    fixture.meta.put(&keys().store(), r#"{"v":1,"store_id":"a"}"#.into()).await.unwrap();
    assert_eq!(set("s3://b").await, Ok(Some("s3://mistyped".to_owned())));
    let cluster = metadata.load_cluster().await.unwrap().unwrap().record;
    assert_eq!((cluster.store.as_deref(), cluster.cluster_id.as_str()), (Some("s3://b"), "c"));
    assert_eq!(fixture.meta.get(&keys().store()).await.unwrap(), None, "the next broker binds it anew");
    fixture.meta.put(&keys().broker(1), "{}".into()).await.unwrap();
    assert!(set("s3://c").await.unwrap_err().contains("live brokers"));
    fixture.meta.delete(&keys().broker(1)).await.unwrap();
    found(&fixture, 1).await;
    assert!(set("s3://c").await.unwrap_err().contains("has topics"));
    let cluster = metadata.load_cluster().await.unwrap().unwrap().record;
    assert_eq!(cluster.store, None, "as it was");
}

#[tokio::test]
async fn another_node_id_is_refused_while_records_of_the_one_before_are_in_no_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, mut wrote) = written(dir.path(), 30).await;
    fixture.config.node_id = 2;
    let refused = fixture.try_open().await;
    assert!(
        matches!(refused, Err(OpenError::OtherNode { node: 1, node_id: 2, .. })),
        "{:?}",
        refused.map(drop)
    );
    fixture.config.node_id = 1;
    let log = fixture.open().await;
    for p in log.partitions() {
        log.release(p.id()).await.unwrap();
    }
    log.shutdown().await;
    fixture.config.node_id = 2;
    let log = fixture.open().await;
    append(&partition(&log, 0), 10, 7).await;
    wrote[0].push((10, 7));
    log.shutdown().await;
    check_served(&mut fixture, &wrote).await;
}
