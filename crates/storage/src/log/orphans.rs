//! Collecting orphans: segments that no manifest names (ADR 0012).
//!
//! They are left by a crash between a PUT and its publication, by a deletion that failed, and by the deletion of a topic whose owner
//! was gone. The controller looks for them, also while other brokers write. A segment is an orphan when
//! - its topic does not exist any more, or
//! - its topic exists, no manifest names it, and its writer can publish nothing any more: the writer's chain was found sealed before the
//!   manifests were read, and a manifest is published only while the publisher's chain is not sealed. The writer is in the segment's name.
//!
//! An orphan waits in quarantine, at its place, before it is deleted. The list of orphans is the object `quarantine.json`; the time
//! counts only while somebody looks, so that neither a clock that jumps nor a cluster that was stopped for a week ends it.
//!
//! Invariant: an object that is not named like a segment is never deleted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use kafscale_core::ids::PartitionId;
use kafscale_meta::records::{ChainRecord, ControllerRecord, PartitionRecord, Record};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::StoreUrl;
use super::identity::{last_epoch, still_bound};
use super::load::load_records;
use super::shared::Shared;
use crate::compute::compute;
use crate::disaster::survey::{Object, segment};
use crate::store::verify::PROBES;

const QUARANTINE: &str = "quarantine.json";
const VERSION: u32 = 1;

/// The quarantine is this many rounds long.
const ROUNDS: u32 = 24;
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// The first look after a start.
const FIRST_LOOK: Duration = Duration::from_secs(60);
/// More orphans than this wait for the next rounds.
const ORPHANS_MAX: usize = 100_000;
/// Names in a log line.
const NAMES_MAX: usize = 5;
/// What is not in the name of its writer may be in the making: a topic that is being restored.
const UNKNOWN_WRITER_MS: i64 = 24 * 3600 * 1000;
/// A probe takes seconds.
const PROBE_MS: i64 = 24 * 3600 * 1000;

/// `quarantine.json`
#[derive(Debug, Default, Serialize, Deserialize)]
struct Quarantine {
    v: u32,
    /// When somebody looked last.
    looked_ms: i64,
    /// For how many milliseconds each was seen as an orphan, by its path.
    orphans: BTreeMap<String, i64>,
}

#[derive(Debug, thiserror::Error)]
enum OrphanError {
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error("the metadata: {0}")]
    Meta(#[from] kafscale_meta::Error),
    #[error("the work was cut off: {0}")]
    Work(#[from] tokio::task::JoinError),
    #[error("{QUARANTINE}: {0}")]
    Quarantine(#[from] serde_json::Error),
    #[error(
        "{path} was written by the incarnation {found}, and the metadata has counted to {known} only: it was restored from an old \
         copy. Nothing is deleted; `kafscale restore --replace` rebuilds the metadata from the store"
    )]
    OldMetadata { path: Path, found: u64, known: u64 },
}

/// Runs until the log is shut down.
pub async fn run(shared: Arc<Shared>) {
    if matches!(shared.config.store, StoreUrl::Memory) {
        return;
    }
    let interval = interval(shared.config.orphan_quarantine);
    let mut pause = interval.min(FIRST_LOOK);
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = interval;
        if let Err(error) = look(&shared).await {
            tracing::warn!(%error, "orphaned segments cannot be looked for");
        }
    }
}

fn interval(quarantine: Duration) -> Duration {
    (quarantine / ROUNDS).clamp(INTERVAL_MIN, INTERVAL_MAX)
}

/// One look, by the controller. On a local disk there is nobody else.
async fn look(shared: &Shared) -> Result<(), OrphanError> {
    if !is_in_charge(shared).await? || !still_bound(shared).await? {
        shared.counters.orphans.store(0, Ordering::Relaxed);
        shared.counters.orphan_bytes.store(0, Ordering::Relaxed);
        return Ok(());
    }
    let orphans = find(shared).await?;
    let bytes = orphans.iter().map(|object| object.size_bytes).sum();
    shared.counters.orphans.store(orphans.len() as u64, Ordering::Relaxed);
    shared.counters.orphan_bytes.store(bytes, Ordering::Relaxed);
    let due = wait(shared, &orphans).await?;
    if !due.is_empty() {
        delete(shared, due).await?;
    }
    clear_probes(shared).await
}

/// What trying the store at a start has left behind, where it could not delete it.
async fn clear_probes(shared: &Shared) -> Result<(), OrphanError> {
    let old_ms = shared.clock.now_ms().saturating_sub(PROBE_MS);
    let listed: Vec<_> = shared.store.list(Some(&Path::from(PROBES))).try_collect().await?;
    let old = listed.into_iter().filter(|object| object.last_modified.timestamp_millis() < old_ms);
    let paths = stream::iter(old.map(|object| Ok(object.location)).collect::<Vec<_>>()).boxed();
    let _: Vec<_> = shared.store.delete_stream(paths).collect().await;
    Ok(())
}

async fn is_in_charge(shared: &Shared) -> Result<bool, kafscale_meta::Error> {
    if shared.chain.is_none() {
        return Ok(true);
    }
    let key = shared.keys.controller();
    let Some(kv) = shared.meta.get(&key).await? else { return Ok(false) };
    Ok(ControllerRecord::decode(&key, &kv.value)?.epoch == shared.config.incarnation)
}

/// The orphans of this moment.
async fn find(shared: &Shared) -> Result<Vec<Object>, OrphanError> {
    // Most segments are named, and need no second look.
    let named = named(shared).await?;
    let mut unnamed: HashMap<PartitionId, Vec<Object>> = HashMap::new();
    let (mut count, mut newest) = (0, None::<Object>);
    let mut listed = shared.store.list(Some(&Path::from("topics")));
    while let Some(object) = listed.try_next().await? {
        let Some((_, id, object)) = segment(&object) else { continue };
        if newest.as_ref().is_none_or(|newest| newest.number < object.number) {
            newest = Some(object.clone());
        }
        if count < ORPHANS_MAX && !named.contains(&hash(&object.path)) {
            count += 1;
            unnamed.entry(id).or_default().push(object);
        }
    }
    drop(named);
    check_age(shared, newest).await?;
    // Writers before topics and manifests: who is found dead here has published what it will ever publish.
    let writers = live_writers(shared).await?;
    let topics = existing_topics(shared).await?;
    let ids: HashSet<PartitionId> = unnamed.keys().copied().collect();
    let manifests = load_records(&*shared.meta, &shared.keys, &ids).await?;
    let old_ms = shared.clock.now_ms().saturating_sub(UNKNOWN_WRITER_MS);
    let mut orphans = Vec::new();
    for (id, objects) in unnamed {
        let record =
            manifests.get(&id).and_then(|records| records.partition.as_ref()).map(|(record, _)| record);
        let exists = topics.contains(&id.topic.0);
        orphans.extend(objects.into_iter().filter(|object| {
            let can_publish = match object.number >> 32 {
                0 => object.modified_ms > old_ms,
                writer => exists && writers.contains(&writer),
            };
            !can_publish && !record.is_some_and(|record| names(record, &object.path))
        }));
    }
    Ok(orphans)
}

fn names(record: &PartitionRecord, path: &Path) -> bool {
    record.segments.iter().any(|segment| path.filename() == Some(segment.object.as_str()))
}

fn hash(path: &Path) -> u64 {
    let id_and_name: Vec<_> = path.as_ref().rsplit('/').take(3).collect();
    let mut hasher = DefaultHasher::new();
    id_and_name.hash(&mut hasher);
    hasher.finish()
}

/// The hashes of all segments that manifests name. Two of the same hash only hide an orphan.
async fn named(shared: &Shared) -> Result<HashSet<u64>, OrphanError> {
    let listed = shared.meta.range_all(&shared.keys.partitions_prefix()).await?;
    let keys = shared.keys.clone();
    // There may be many.
    compute(move || {
        let mut named = HashSet::new();
        for kv in listed.kvs {
            let Some((topic, index)) = keys.parse_partition(&kv.key) else { continue };
            for segment in PartitionRecord::decode(&kv.key, &kv.value)?.segments {
                named.insert(hash(&Path::from(format!("{topic}/{index}/{}", segment.object))));
            }
        }
        Ok(named)
    })
    .await?
}

/// Metadata that is older than the store would make orphans of everything since.
async fn check_age(shared: &Shared, newest: Option<Object>) -> Result<(), OrphanError> {
    let Some(newest) = newest else { return Ok(()) };
    let found = newest.number >> 32;
    let known = shared.config.incarnation.max(last_epoch(&*shared.meta, &shared.keys).await?);
    match found > known {
        true => Err(OrphanError::OldMetadata { path: newest.path, found, known }),
        false => Ok(()),
    }
}

/// The incarnations that may still publish.
async fn live_writers(shared: &Shared) -> Result<HashSet<u64>, OrphanError> {
    let mut writers = HashSet::from([shared.config.incarnation]);
    for kv in shared.meta.range_all(&shared.keys.chains_prefix()).await?.kvs {
        let Some((_, incarnation)) = shared.keys.parse_chain(&kv.key) else { continue };
        if ChainRecord::decode(&kv.key, &kv.value)?.sealed_at.is_none() {
            writers.insert(incarnation);
        }
    }
    Ok(writers)
}

async fn existing_topics(shared: &Shared) -> Result<HashSet<uuid::Uuid>, OrphanError> {
    let listed = shared.meta.range_all(&shared.keys.assignments_prefix()).await?;
    Ok(listed.kvs.iter().filter_map(|kv| shared.keys.parse_assignment(&kv.key)).collect())
}

/// Notes how long each orphan has been one, and gives those that have waited long enough.
async fn wait(shared: &Shared, orphans: &[Object]) -> Result<Vec<Path>, OrphanError> {
    let quarantine = &shared.config.orphan_quarantine;
    let needed_ms = i64::try_from(quarantine.as_millis()).unwrap_or(i64::MAX);
    let longest_ms = i64::try_from(interval(*quarantine).as_millis()).unwrap_or(i64::MAX).saturating_mul(2);
    let now_ms = shared.clock.now_ms();
    let before = load(&*shared.store).await?;
    let passed_ms = now_ms.saturating_sub(before.looked_ms).clamp(0, longest_ms);
    let mut after = Quarantine { v: VERSION, looked_ms: now_ms, orphans: BTreeMap::new() };
    let (mut new, mut due) = (Vec::new(), Vec::new());
    for object in orphans {
        let age_ms = before.orphans.get(object.path.as_ref()).map(|age_ms| age_ms.saturating_add(passed_ms));
        if age_ms.is_none() {
            new.push(object.path.as_ref());
        }
        let age_ms = age_ms.unwrap_or(0);
        if age_ms >= needed_ms {
            due.push(object.path.clone());
        }
        after.orphans.insert(object.path.to_string(), age_ms);
    }
    if !new.is_empty() {
        tracing::warn!(
            segments = new.len(),
            quarantine_s = quarantine.as_secs(),
            names = ?&new[..new.len().min(NAMES_MAX)],
            "segments that no metadata names are in quarantine; they will be deleted"
        );
    }
    if !(after.orphans.is_empty() && before.orphans.is_empty()) {
        let bytes = serde_json::to_vec(&after)?;
        shared.store.put(&Path::from(QUARANTINE), bytes.into()).await?;
    }
    Ok(due)
}

/// A list that cannot be read begins anew: that only takes longer.
async fn load(store: &dyn ObjectStore) -> Result<Quarantine, OrphanError> {
    let path = Path::from(QUARANTINE);
    let read = async { store.get(&path).await?.bytes().await };
    match read.await {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(Error::NotFound { .. }) => Ok(Quarantine::default()),
        Err(e) => Err(e.into()),
    }
}

async fn delete(shared: &Shared, due: Vec<Path>) -> Result<(), OrphanError> {
    // Looking took a while.
    if !still_bound(shared).await? {
        return Ok(());
    }
    let names: Vec<_> = due.iter().take(NAMES_MAX).map(ToString::to_string).collect();
    let paths = stream::iter(due.into_iter().map(Ok)).boxed();
    let (mut deleted, mut failed) = (0u64, None);
    let mut outcomes = shared.store.delete_stream(paths);
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(_) | Err(Error::NotFound { .. }) => deleted += 1,
            Err(e) => {
                shared.counters.segment_delete_failures.fetch_add(1, Ordering::Relaxed);
                failed = Some(e);
            }
        }
    }
    shared.counters.segments_deleted.fetch_add(deleted, Ordering::Relaxed);
    shared.counters.orphans_deleted.fetch_add(deleted, Ordering::Relaxed);
    tracing::warn!(
        segments = deleted,
        ?names,
        "deleted segments that no metadata names, after their quarantine"
    );
    failed.map_or(Ok(()), |e| Err(e.into()))
}
