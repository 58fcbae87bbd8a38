//! Files of another store, or of an older copy, are taken for nothing of this one's, and each refusal names a way out that works.

use kafscale_meta::{MetaStoreExt, Metadata};

use super::identity::{check_served, found, keys, lose_metadata, refusal, written};
use super::*;
use crate::wal::recovery_point::RecoveryPoint;
use crate::{IdentityError, RestoreOptions, Restored, restore};

async fn replace(fixture: &Fixture) -> Result<Restored, String> {
    let metadata = Metadata::new(fixture.meta.clone(), "test").unwrap();
    let options = RestoreOptions { replace: true, ..RestoreOptions::default() };
    restore(&fixture.config.store, &metadata, NOW_MS, options).await.map_err(|e| e.to_string())
}

/// The snapshots of a directory, from the oldest on.
fn snapshots(dir: &Path) -> Vec<std::path::PathBuf> {
    let listed = std::fs::read_dir(dir.join("snapshots")).unwrap();
    let mut paths: Vec<_> = listed.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The newest snapshot of a store, as it would be with another number.
fn numbered(dir: &Path, number: u64) -> String {
    let text = std::fs::read_to_string(snapshots(dir).pop().unwrap()).unwrap();
    let mut snapshot: serde_json::Value = serde_json::from_str(&text).unwrap();
    snapshot["number"] = number.into();
    snapshot.to_string()
}

#[tokio::test]
async fn a_snapshot_of_another_store_counts_for_nothing() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut fixture, wrote) = written(dir.path(), 30).await;
    written(other.path(), 3).await;
    let at = |number: u64| dir.path().join(format!("snapshots/{number:020}.json"));
    let own = snapshots(dir.path()).pop().unwrap();
    for number in [9999, 10_000, 10_001] {
        std::fs::write(at(number), numbered(other.path(), number)).unwrap();
    }
    // Renamed, damaged, and none at all.
    std::fs::copy(&own, at(20_000)).unwrap();
    std::fs::write(at(20_001), "{").unwrap();
    std::fs::write(at(u64::MAX), "{").unwrap();
    std::fs::write(dir.path().join("snapshots/notes.txt"), "").unwrap();
    for _ in 0..2 {
        fixture.config.incarnation = 0;
        check_served(&mut fixture, &wrote).await;
    }
    // The store's own newest one is never deleted in favour of theirs.
    let log = fixture.open().await;
    let offset = format!("{}offsets/g/orders/0", keys().root());
    for committed in 20..25 {
        let value = format!(r#"{{"v":1,"offset":{committed}}}"#);
        fixture.meta.put(&offset, value.into()).await.unwrap();
        log.snapshot().await.unwrap();
    }
    log.shutdown().await;
    let kept = snapshots(dir.path());
    assert_eq!(kept.iter().filter(|path| **path < at(9999)).count(), 3, "{kept:?}");

    lose_metadata(&mut fixture);
    let restored = replace(&fixture).await.unwrap();
    assert_eq!(restored.left_out_snapshots.len(), 5, "{restored:?}");
    assert!(restored.nameless.is_empty(), "{restored:?}");
    assert_eq!(fixture.meta.get(&offset).await.unwrap().unwrap().value, r#"{"v":1,"offset":24}"#);
    for _ in 0..2 {
        check_served(&mut fixture, &wrote).await;
    }
}

#[tokio::test]
async fn an_identity_of_another_store_is_taken_away_as_refusals_say() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut fixture, wrote) = written(dir.path(), 30).await;
    written(other.path(), 3).await;
    let identity = |dir: &Path| dir.join("identity.json");
    let own = std::fs::read_to_string(identity(dir.path())).unwrap();
    let put_foreign = || std::fs::copy(identity(other.path()), identity(dir.path())).unwrap();
    let remove = || std::fs::remove_file(identity(dir.path())).unwrap();
    let id = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["store_id"].clone();

    put_foreign();
    let error = refusal(&mut fixture).await;
    assert!(matches!(error, IdentityError::OtherStore { .. }), "{error}");
    assert!(error.to_string().contains("take away the latter"), "{error}");
    let refused = replace(&fixture).await.unwrap_err();
    assert!(refused.contains("If it is identity.json, take it away"), "{refused}");
    remove();
    check_served(&mut fixture, &wrote).await;
    assert_eq!(id(&std::fs::read_to_string(identity(dir.path())).unwrap()), id(&own));

    remove();
    std::fs::create_dir(identity(dir.path())).unwrap();
    let error = refusal(&mut fixture).await;
    assert!(matches!(error, IdentityError::NotAFile { .. }) && error.is_final(), "{error}");
    std::fs::remove_dir(identity(dir.path())).unwrap();

    // With the metadata lost as well.
    put_foreign();
    lose_metadata(&mut fixture);
    remove();
    let restored = replace(&fixture).await.unwrap();
    assert!(restored.left_out_snapshots.is_empty() && restored.committed_offsets == 1, "{restored:?}");
    check_served(&mut fixture, &wrote).await;
}

/// Where no write-ahead file says whose it is, the snapshots still do.
#[tokio::test]
async fn snapshots_that_an_identity_disowns_are_not_passed_over() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (fixture, _) = written(dir.path(), 30).await;
    written(other.path(), 3).await;
    let identity = dir.path().join("identity.json");
    let own = std::fs::read_to_string(&identity).unwrap();
    std::fs::remove_dir_all(dir.path().join("wal")).unwrap();
    std::fs::copy(other.path().join("identity.json"), &identity).unwrap();
    let refused = replace(&fixture).await.unwrap_err();
    assert!(refused.contains("take it away, and restore again"), "{refused}");
    std::fs::remove_file(&identity).unwrap();
    assert_eq!(replace(&fixture).await.unwrap().committed_offsets, 1);
    let id = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["store_id"].clone();
    assert_eq!(id(&std::fs::read_to_string(&identity).unwrap()), id(&own), "the id that it had");
}

#[tokio::test]
async fn an_older_recovery_point_is_deleted_as_the_refusal_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    found(&fixture, NOW_MS - 1).await;
    let path = RecoveryPoint::path(&dir.path().join("wal/1"));
    let mut wrote = vec![Vec::new(); 3];
    let mut older = None;
    for round in 0..2 {
        let log = fixture.open().await;
        for i in 0..300 {
            append(&partition(&log, i % 3), 10, (i % 251) as u8).await;
            wrote[(i % 3) as usize].push((10, (i % 251) as u8));
        }
        let written = log.stats().segments_written;
        eventually("rewriting", || {
            log.stats().segments_written >= written.max(1) && log.stats().wal_bytes <= 256 << 10
        })
        .await;
        log.shutdown().await;
        if round == 0 {
            older = Some(std::fs::read(&path).unwrap());
        }
    }
    std::fs::write(&path, older.unwrap()).unwrap();
    let refused = fixture.try_open().await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("If recovery-point comes from an older copy"), "{refused}");
    std::fs::remove_file(&path).unwrap();
    check_served(&mut fixture, &wrote).await;
}
