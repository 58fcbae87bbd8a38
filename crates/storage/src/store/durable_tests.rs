//! What the local store promises: whole objects, create-if-absent, tidy directories.

use object_store::ObjectStoreExt;

use super::*;
use crate::store::{StoreError, StoreErrorKind};

fn open(directory: &FsPath) -> DurableLocal {
    DurableLocal::open(directory, Arc::default()).unwrap()
}

async fn create(store: &DurableLocal, at: &str, data: &'static [u8]) -> Result<PutResult> {
    store.put_opts(&Path::from(at), PutPayload::from_static(data), PutMode::Create.into()).await
}

async fn get(store: &DurableLocal, at: &str) -> Bytes {
    store.get(&Path::from(at)).await.unwrap().bytes().await.unwrap()
}

#[tokio::test]
async fn a_put_is_there_after_reopening() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("not/yet/there");
    let store = open(&directory);
    let pieces: PutPayload = [Bytes::from_static(b"ab"), Bytes::from_static(b"cd")].into_iter().collect();
    store.put(&Path::from("x/y/z"), pieces).await.unwrap();
    store.put(&Path::from("x/y/z"), PutPayload::from_static(b"new")).await.unwrap();
    create(&store, "x/y/w", b"w").await.unwrap();
    drop(store);
    let store = open(&directory);
    assert_eq!(get(&store, "x/y/z").await, "new");
    assert_eq!(get(&store, "x/y/w").await, "w");
}

#[tokio::test]
async fn create_never_overwrites() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    create(&store, "a/b", b"first").await.unwrap();
    let error = create(&store, "a/b", b"second").await.unwrap_err();
    assert_eq!(StoreError::from(error).kind(), StoreErrorKind::Exists);
    assert_eq!(get(&store, "a/b").await, "first");
}

#[tokio::test]
async fn staging_files_are_no_objects_and_do_not_stay() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    create(&store, "a", b"1").await.unwrap();
    store.put(&Path::from("b"), PutPayload::from_static(b"2")).await.unwrap();
    let _ = create(&store, "a", b"3").await;
    let staging = root.path().join(STAGING);
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
    fs::write(staging.join("put#0"), "left by a crash").unwrap();
    let store = open(root.path());
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
    let listed = store.list_with_delimiter(None).await.unwrap();
    let mut names: Vec<String> = listed.objects.iter().map(|o| o.location.to_string()).collect();
    names.sort();
    assert_eq!((names.join(" "), listed.common_prefixes), ("a b".to_owned(), vec![]));
}

/// As an operator puts `topics` on a larger disk.
#[tokio::test]
async fn a_directory_on_another_file_system_takes_objects() {
    use std::os::unix::fs::MetadataExt;
    let (root, shared_memory) = (tempfile::tempdir().unwrap(), FsPath::new("/dev/shm"));
    let device = |path: &FsPath| fs::metadata(path).map(|found| found.dev()).ok();
    if device(shared_memory).is_none_or(|other| Some(other) == device(root.path())) {
        return;
    }
    let other = tempfile::tempdir_in(shared_memory).unwrap();
    std::os::unix::fs::symlink(other.path(), root.path().join("topics")).unwrap();
    fs::create_dir(other.path().join(STAGING)).unwrap();
    fs::write(other.path().join(STAGING).join("put#9"), "left by a crash").unwrap();
    let store = open(root.path());
    for i in 0..3 {
        store.put(&Path::from(format!("topics/t/0/{i}")), PutPayload::from_static(b"x")).await.unwrap();
    }
    create(&store, "topics/t/0/new", b"1").await.unwrap();
    create(&store, "topics/t/0/new", b"2").await.unwrap_err();
    assert_eq!(get(&store, "topics/t/0/2").await, "x");
    assert_eq!(get(&store, "topics/t/0/new").await, "1");
    assert_eq!(fs::read_dir(other.path().join(STAGING)).unwrap().count(), 0);
    assert_eq!(fs::read_dir(root.path().join(STAGING)).unwrap().count(), 0);
    let listed = store.list_with_delimiter(Some(&Path::from("topics"))).await.unwrap();
    assert_eq!(listed.common_prefixes, [Path::from("topics/t")]);
}

#[tokio::test]
async fn the_last_delete_takes_the_directories_along() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    create(&store, "topics/t/0/segment", b"1").await.unwrap();
    create(&store, "topics/u/0/segment", b"1").await.unwrap();
    store.delete(&Path::from("topics/t/0/segment")).await.unwrap();
    assert!(!root.path().join("topics/t").exists());
    assert!(root.path().join("topics/u").exists());
    let gone = store.delete(&Path::from("topics/t/0/segment")).await.unwrap_err();
    assert_eq!(StoreError::from(gone).kind(), StoreErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn puts_and_deletes_of_one_directory_do_not_disturb_each_other() {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(open(root.path()));
    let tasks = (0..4).map(|task| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let path = Path::from(format!("deep/er/{task}"));
            for _ in 0..50 {
                store.put(&path, PutPayload::from_static(b"x")).await.unwrap();
                store.delete(&path).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_missing_object_and_a_path_that_cannot_be_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let missing = store.get(&Path::from("a")).await.unwrap_err();
    assert_eq!(StoreError::from(missing).kind(), StoreErrorKind::NotFound);
    create(&store, "a", b"1").await.unwrap();
    let below_a_file = create(&store, "a/b", b"1").await.unwrap_err();
    assert_eq!(StoreError::from(below_a_file).kind(), StoreErrorKind::Internal);
}

#[test]
fn a_full_disk_is_recognised_through_every_layer() {
    let full = io_error(ErrorKind::StorageFull.into(), "write", FsPath::new("/x"));
    assert_eq!(StoreError::from(full).kind(), StoreErrorKind::Full);
    let denied = io_error(ErrorKind::PermissionDenied.into(), "write", FsPath::new("/x"));
    assert_eq!(StoreError::from(denied).kind(), StoreErrorKind::Denied);
}
