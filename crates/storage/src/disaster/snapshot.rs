//! A snapshot of the metadata: every record of the cluster in one object, `snapshots/{number}.json`. Written only when something has
//! changed since; some older ones are kept.
//!
//! Invariant: numbers grow with what snapshots say, whatever the clocks of their writers. A number is the revision of the metadata that
//! was read, above the base that restored metadata begins with. So a controller that lost its office and wakes up late
//! writes nothing that is taken for the newest.
//! Invariant: a snapshot of another store's metadata, which says so inside, is used for nothing.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use futures_util::{StreamExt, TryStreamExt, stream};
use kafscale_meta::records::{IncarnationBaseRecord, Keyspace, Record, StoreRecord};
use kafscale_meta::{Listing, MAX_TXN_OPS, MetaStore, Op, RangeRequest, Revision, Txn};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use crate::compute::compute;
use crate::log::identity::trace;

const DIRECTORY: &str = "snapshots";
const VERSION: u32 = 1;
const KEPT: usize = 3;
/// No metadata counts as far, so that what is added to a number does not overflow.
const NUMBER_MAX: u64 = 1 << 62;

/// So many topics that were deleted are remembered: those of the last minutes, of which clocks do not tell whether they were there before
/// a snapshot.
const DELETED_TOPICS_KEPT: usize = 4096;

/// Why there is no snapshot, or none to begin with.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{0}")]
    Meta(#[from] kafscale_meta::Error),
    #[error("{path}: {source}")]
    Store { path: Path, source: object_store::Error },
    #[error("{key}: {source}")]
    Text { key: String, source: std::str::Utf8Error },
    #[error("{path} has version {version}, this program knows {VERSION}: use the newer kafscale")]
    Newer { path: Path, version: u32 },
    #[error("the metadata is not what this broker began with; the snapshots are kept as they are")]
    OtherMetadata,
    #[error(transparent)]
    Ended(#[from] tokio::task::JoinError),
}

/// The records, by their keys below the cluster's root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub v: u32,
    pub number: u64,
    pub taken_ms: i64,
    /// Whether the metadata had a note of it before it was written. Earlier releases made none.
    #[serde(default)]
    pub noted: bool,
    pub records: BTreeMap<String, String>,
}

/// What is bound to processes that live now is of no use later. Chains tell which processes there
/// were, and metadata that is rebuilt is made of the write-ahead log that there is, and counts from
/// above everything that the store has.
fn is_kept(key: &str) -> bool {
    let kind = key.split('/').next().unwrap_or(key);
    !matches!(kind, "brokers" | "controller" | "coordinators" | "incarnations" | "traces" | "wal-ends")
}

/// A snapshot that was taken, and its bytes.
struct Taken {
    snapshot: Snapshot,
    hash: u64,
    bytes: Vec<u8>,
}

/// Reads all records, as of one revision.
async fn take(meta: &dyn MetaStore, keys: &Keyspace, taken_ms: i64) -> Result<Taken, SnapshotError> {
    let listed = meta.range_all(keys.root()).await?;
    let keys = keys.clone();
    // There may be many records.
    let taken = compute(move || {
        let snapshot = snapshot_of(listed, &keys, taken_ms)?;
        let mut hasher = DefaultHasher::new();
        snapshot.records.hash(&mut hasher);
        let bytes = serde_json::to_vec(&snapshot).expect("it is a map with string keys");
        Ok(Taken { snapshot, hash: hasher.finish(), bytes })
    });
    taken.await?
}

fn snapshot_of(listed: Listing, keys: &Keyspace, taken_ms: i64) -> Result<Snapshot, SnapshotError> {
    let mut records = BTreeMap::new();
    let mut base = 0;
    for kv in listed.kvs {
        if kv.key == keys.incarnation_base() {
            base = IncarnationBaseRecord::decode(&kv.key, &kv.value)?.base;
        }
        let Some(key) = kv.key.strip_prefix(keys.root()).filter(|key| is_kept(key)) else { continue };
        let value = std::str::from_utf8(&kv.value);
        let value = value.map_err(|source| SnapshotError::Text { key: kv.key.clone(), source })?;
        records.insert(key.to_owned(), value.to_owned());
    }
    Ok(Snapshot { v: VERSION, number: base + listed.revision.0, taken_ms, noted: true, records })
}

/// Puts a snapshot into the store, and lets go of those that it makes superfluous.
async fn write(store: &dyn ObjectStore, number: u64, bytes: Vec<u8>) -> Result<(), SnapshotError> {
    let failed = |source| SnapshotError::Store { path: path(number), source };
    store.put(&path(number), bytes.into()).await.map_err(failed)?;
    let mut older = numbers(store).await.map_err(failed)?;
    // A higher number is not superfluous by this one, and does not make this one so: it may be another store's.
    older.retain(|other| *other <= number);
    older.truncate(older.len().saturating_sub(KEPT));
    let old: Vec<_> = older.into_iter().map(|number| Ok(path(number))).collect();
    let mut deleted = store.delete_stream(stream::iter(old).boxed());
    while let Some(outcome) = deleted.next().await {
        // It is deleted the next time.
        if let Err(error) = outcome {
            tracing::warn!(%error, "an old snapshot was not deleted");
        }
    }
    Ok(())
}

/// What the directory of snapshots has for one who begins with the newest.
#[derive(Debug, Default)]
pub struct Newest {
    /// That of the store itself.
    pub snapshot: Option<Snapshot>,
    /// Newer ones that are damaged or another store's, with the reason.
    pub left_out: Vec<String>,
    /// How many of them are another store's.
    pub others: usize,
}

/// Looks for the newest snapshot of the store with this id. Where no id is known, it is that of any store.
pub async fn newest(store: &dyn ObjectStore, store_id: Option<&str>) -> Result<Newest, SnapshotError> {
    let mut found = Newest::default();
    let listed = numbers(store).await;
    let listed = listed.map_err(|source| SnapshotError::Store { path: Path::from(DIRECTORY), source })?;
    for number in listed.into_iter().rev() {
        let path = path(number);
        let read = read(store, number, store_id).await;
        match read.map_err(|source| SnapshotError::Store { path: path.clone(), source })? {
            Read::Own(snapshot) if snapshot.v > VERSION => {
                return Err(SnapshotError::Newer { path, version: snapshot.v });
            }
            Read::Own(snapshot) => {
                found.snapshot = Some(snapshot);
                return Ok(found);
            }
            Read::OfNone(why) => found.left_out.push(format!("{path}: {why}")),
            Read::OfOther(id) => {
                found.others += 1;
                found.left_out.push(format!("{path}: {}", of_other(&id)));
            }
            Read::Gone => {}
        }
    }
    Ok(found)
}

fn of_other(id: &str) -> String {
    format!("it is of the store with the id {id}, and was put here from there")
}

enum Read {
    Own(Snapshot),
    /// Of the store with this id.
    OfOther(String),
    /// It is no snapshot, for this reason.
    OfNone(String),
    Gone,
}

async fn read(store: &dyn ObjectStore, number: u64, store_id: Option<&str>) -> object_store::Result<Read> {
    let bytes = async { store.get(&path(number)).await?.bytes().await };
    let bytes = match bytes.await {
        Ok(bytes) => bytes,
        Err(object_store::Error::NotFound { .. }) => return Ok(Read::Gone),
        Err(e) => return Err(e),
    };
    Ok(match serde_json::from_slice::<Snapshot>(&bytes) {
        Err(error) => Read::OfNone(error.to_string()),
        Ok(snapshot) if snapshot.number != number => {
            Read::OfNone(format!("it was renamed: its number is {}", snapshot.number))
        }
        Ok(snapshot) => match store_of(&snapshot) {
            Some(theirs) if store_id.is_some_and(|own| own != theirs) => Read::OfOther(theirs),
            Some(_) | None => Read::Own(snapshot),
        },
    })
}

/// The numbers of the snapshots that there are, in their order.
pub async fn numbers(store: &dyn ObjectStore) -> object_store::Result<Vec<u64>> {
    let number = |object: &Path| object.filename()?.strip_suffix(".json")?.parse().ok();
    let listed: Vec<_> = store.list(Some(&Path::from(DIRECTORY))).try_collect().await?;
    let own = listed.into_iter().filter_map(|object| {
        number(&object.location).filter(|number| *number <= NUMBER_MAX && path(*number) == object.location)
    });
    let mut numbers: Vec<u64> = own.collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whether a snapshot is one of the metadata of this store, and if so, whether the metadata had a note of it before it was written. One
/// that is gone says nothing; of one that does not count, the log tells.
pub async fn is_noted(
    store: &dyn ObjectStore,
    number: u64,
    store_id: &str,
) -> object_store::Result<Option<bool>> {
    let why = match read(store, number, Some(store_id)).await? {
        Read::Own(snapshot) => return Ok(Some(snapshot.noted)),
        Read::Gone => return Ok(None),
        Read::OfOther(id) => of_other(&id),
        Read::OfNone(why) => why,
    };
    tracing::warn!(snapshot = %path(number), why, "a snapshot of the metadata is left out");
    Ok(None)
}

fn path(number: u64) -> Path {
    Path::from(format!("{DIRECTORY}/{number:020}.json"))
}

/// What a snapshot said, and of which revision of the metadata it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    revision: Revision,
    hash: u64,
}

/// Takes a snapshot and writes it, unless it says what the one with this mark said. Gives its mark.
pub async fn renew(
    store: &dyn ObjectStore,
    meta: &dyn MetaStore,
    keys: &Keyspace,
    store_id: Option<&str>,
    now_ms: i64,
    last: Option<Mark>,
) -> Result<Mark, SnapshotError> {
    // Most of the time nothing has changed, and reading everything takes a while where there are many partitions.
    let first = RangeRequest { prefix: keys.root().to_owned(), start_after: None, limit: 1 };
    let revision = meta.range(first).await?.revision;
    if let Some(last) = last.filter(|last| last.revision == revision) {
        return Ok(last);
    }
    forget_deleted_topics(meta, keys).await?;
    let Taken { snapshot, hash, bytes } = take(meta, keys, now_ms).await?;
    if !is_of(&snapshot, store_id) {
        return Err(SnapshotError::OtherMetadata);
    }
    let mut mark = Mark { revision, hash };
    if last.is_none_or(|last| last.hash != hash) {
        let noted = trace::note(meta, &keys.snapshot_trace(), snapshot.number).await?;
        write(store, snapshot.number, bytes).await?;
        if noted == revision.next() {
            mark.revision = noted;
        }
    }
    Ok(mark)
}

/// Forgets the oldest of the topics that were deleted.
async fn forget_deleted_topics(meta: &dyn MetaStore, keys: &Keyspace) -> Result<(), kafscale_meta::Error> {
    let mut deleted = meta.range_all(&keys.deleted_topics_prefix()).await?.kvs;
    deleted.sort_by_key(|kv| kv.mod_revision);
    deleted.truncate(deleted.len().saturating_sub(DELETED_TOPICS_KEPT));
    for some in deleted.chunks(MAX_TXN_OPS) {
        let delete = |txn: Txn, kv: &kafscale_meta::KeyValue| txn.and_then(Op::delete(&kv.key));
        // Without a condition it cannot fail to hold.
        let _ = meta.txn(some.iter().fold(Txn::new(), delete)).await?;
    }
    Ok(())
}

/// Whether a snapshot is of the metadata of this store. Somebody may have emptied the metadata store, and the snapshots before are what
/// it comes back from.
fn is_of(taken: &Snapshot, store_id: Option<&str>) -> bool {
    store_of(taken).as_deref() == store_id
}

/// The store whose metadata a snapshot is of. Those of the first releases do not say so.
pub fn store_of(snapshot: &Snapshot) -> Option<String> {
    let value = snapshot.records.get("store")?;
    Some(StoreRecord::decode("store", value.as_bytes()).ok()?.store_id)
}
