//! A snapshot of the metadata: every record of the cluster in one object, `snapshots/{number}.json`. Written only when something has
//! changed since; some older ones are kept.
//!
//! Invariant: numbers grow with what snapshots say, whatever the clocks of their writers. A number is the revision of the metadata that
//! was read, above the base that restored metadata begins with. So a controller that lost its office and wakes up late
//! writes nothing that is taken for the newest.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use futures_util::{StreamExt, TryStreamExt, stream};
use kafscale_meta::MetaStore;
use kafscale_meta::records::{IncarnationBaseRecord, Keyspace, Record};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

const DIRECTORY: &str = "snapshots";
const VERSION: u32 = 1;
const KEPT: usize = 3;

/// The records, by their keys below the cluster's root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub v: u32,
    pub number: u64,
    pub taken_ms: i64,
    pub records: BTreeMap<String, String>,
}

/// What is bound to processes that live now is of no use later. Chains tell which processes there were.
fn is_kept(key: &str) -> bool {
    let kind = key.split('/').next().unwrap_or(key);
    !matches!(kind, "brokers" | "controller" | "coordinators" | "incarnations")
}

/// Reads all records, as of one revision.
pub async fn take(meta: &dyn MetaStore, keys: &Keyspace, taken_ms: i64) -> Result<Snapshot, String> {
    let listed = meta.range_all(keys.root()).await.map_err(|e| e.to_string())?;
    let mut records = BTreeMap::new();
    let mut base = 0;
    for kv in listed.kvs {
        if kv.key == keys.incarnation_base() {
            base = IncarnationBaseRecord::decode(&kv.key, &kv.value).map_err(|e| e.to_string())?.base;
        }
        let Some(key) = kv.key.strip_prefix(keys.root()).filter(|key| is_kept(key)) else { continue };
        let value = std::str::from_utf8(&kv.value).map_err(|e| format!("{}: {e}", kv.key))?;
        records.insert(key.to_owned(), value.to_owned());
    }
    Ok(Snapshot { v: VERSION, number: base + listed.revision.0, taken_ms, records })
}

/// Puts a snapshot into the bucket, and lets go of those that it makes superfluous.
async fn write(store: &dyn ObjectStore, snapshot: &Snapshot) -> Result<(), String> {
    let path = Path::from(format!("{DIRECTORY}/{:020}.json", snapshot.number));
    let bytes = serde_json::to_vec(snapshot).map_err(|e| e.to_string())?;
    store.put(&path, bytes.into()).await.map_err(|e| e.to_string())?;
    let mut all = list(store).await?;
    all.truncate(all.len().saturating_sub(KEPT));
    let old: Vec<_> = all.into_iter().map(Ok).collect();
    let mut deleted = store.delete_stream(stream::iter(old).boxed());
    while let Some(outcome) = deleted.next().await {
        // It is deleted the next time.
        if let Err(error) = outcome {
            tracing::debug!(%error, "an old snapshot was not deleted");
        }
    }
    Ok(())
}

/// The newest snapshot, if there is any.
pub async fn newest(store: &dyn ObjectStore) -> Result<Option<Snapshot>, String> {
    let Some(path) = list(store).await?.pop() else { return Ok(None) };
    let read = async { store.get(&path).await?.bytes().await };
    let bytes = read.await.map_err(|e: object_store::Error| format!("{path}: {e}"))?;
    let damaged =
        |e: serde_json::Error| format!("{path} cannot be read: {e}. Without it, the one before is used");
    let snapshot: Snapshot = serde_json::from_slice(&bytes).map_err(damaged)?;
    if snapshot.v > VERSION {
        return Err(format!(
            "{path} has version {}, this program knows {VERSION}: use the newer kafscale",
            snapshot.v
        ));
    }
    Ok(Some(snapshot))
}

/// The snapshots in the order of their numbers.
async fn list(store: &dyn ObjectStore) -> Result<Vec<Path>, String> {
    let listed: Vec<_> =
        store.list(Some(&Path::from(DIRECTORY))).try_collect().await.map_err(|e| e.to_string())?;
    let mut paths: Vec<_> = listed.into_iter().map(|object| object.location).collect();
    paths.sort_unstable();
    Ok(paths)
}

/// Takes a snapshot and writes it, unless it says what the one with this mark said. Gives its mark.
pub async fn renew(
    store: &dyn ObjectStore,
    meta: &dyn MetaStore,
    keys: &Keyspace,
    now_ms: i64,
    last: Option<u64>,
) -> Result<u64, String> {
    let taken = take(meta, keys, now_ms).await?;
    let mut hasher = DefaultHasher::new();
    taken.records.hash(&mut hasher);
    let mark = hasher.finish();
    if last != Some(mark) {
        write(store, &taken).await?;
    }
    Ok(mark)
}
