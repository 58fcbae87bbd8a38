//! Rebuilding the metadata of a cluster from its store alone: a bucket, or the directory of a local disk.
//!
//! It begins with the newest snapshot. Chains are sealed where they are not, so that a broker that is still alive somewhere can
//! acknowledge nothing any more, and get their records back, so that owners find in them what no segment has. Segments that are
//! newer than the snapshot are found by their names and read for what manifests say of them.
//!
//! Invariant: brokers stay out from the first write to the last: they do not join while `restoring` is there.
//! Invariant: what is written depends on what the bucket holds only: an attempt that was cut off is repeated, with the same outcome.
//! Every write is guarded by `restoring`, so that of two attempts at a time the earlier one fails.

use std::sync::Arc;

use kafscale_meta::Metadata;
use kafscale_meta::records::{Keyspace, StoreRecord};
use object_store::ObjectStore;

use super::error::RestoreError;
use super::hold::{self, Hold};
use super::local::Local;
use super::logs::Logs;
use super::plan::Plan;
use super::snapshot;
use super::survey::Segments;
use crate::StoreUrl;
use crate::log::identity;
use crate::store::patient::Patient;
use crate::store::{open_store, open_to_look};

/// How to restore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Also where there is metadata of this cluster, which is lost then.
    pub replace: bool,
    /// Also where a part of the write-ahead log is lost: everything else is restored, and what is lost is given up. Metadata of this store
    /// that is there is not lost then, but begun with.
    pub accept_loss: bool,
    /// Brings back topics that were deleted, too.
    pub with_deleted: bool,
}

/// What was rebuilt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    pub topics: Vec<RestoredTopic>,
    /// Files of a local write-ahead log with something in them; `None` where the log is in a bucket.
    pub wal_files: Option<usize>,
    /// Chains with something in them, and those that were sealed or would be.
    pub chains: usize,
    pub chains_sealed: usize,
    /// Segments that the snapshot did not know.
    pub newer_segments: usize,
    pub committed_offsets: usize,
    /// The time of the snapshot, from which committed offsets are; `None` where there was none.
    pub snapshot_ms: Option<i64>,
    /// Newer snapshots that are damaged or another store's, with the reason.
    pub left_out_snapshots: Vec<String>,
    /// Topics whose names and settings are lost: they were created after the snapshot, and all their records were in chains.
    pub nameless: Vec<String>,
    /// Topics of which there are records, although they were deleted before the snapshot.
    pub deleted_topics: Vec<String>,
    /// For a person: what of a write-ahead log is lost, and given up.
    pub losses: Vec<String>,
    /// For a person: offsets that were lost with it, and are answered as damaged.
    pub lost: Vec<String>,
    /// For a person: partitions whose last records may have been lost with it, and where they end now.
    pub may_lack: Vec<String>,
    /// For a person: offsets that no object covers, and that the log begins above.
    pub holes: Vec<String>,
    /// For a person: offsets above the start of a log whose segments are gone, and that are answered as damaged.
    pub gaps: Vec<String>,
    /// For a person: batches that came back after they had been given up, and are left out, as newer records have their offsets.
    pub superseded: Vec<String>,
    /// For a person: writes at the end of a local write-ahead log that are not whole, and are left out.
    pub cut_off: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoredTopic {
    pub name: String,
    pub partitions: i32,
    /// Offsets from the log starts to the log ends, of all partitions together.
    pub offsets: i64,
    /// How many of them are in chains only.
    pub in_chains: i64,
}

/// Whether [`restore`] would be refused, found out without changing anything: `metadata` may be a copy.
pub async fn may_restore(
    url: &StoreUrl,
    metadata: &Metadata,
    now_ms: i64,
    options: RestoreOptions,
) -> Result<(), RestoreError> {
    let options = RestoreOptions { dry_run: true, ..options };
    let source = Source::open(url, metadata, options).await?;
    hold::check(&**metadata.store(), metadata.keys(), options.replace || source.keeps_metadata).await?;
    source.plan(metadata.keys(), now_ms, options).await.map(drop)
}

/// Writes the records of a cluster whose metadata is lost.
pub async fn restore(
    url: &StoreUrl,
    metadata: &Metadata,
    now_ms: i64,
    options: RestoreOptions,
) -> Result<Restored, RestoreError> {
    let (meta, keys) = (&**metadata.store(), metadata.keys());
    let source = Source::open(url, metadata, options).await?;
    if options.dry_run {
        return Ok(source.plan(keys, now_ms, options).await?.restored);
    }
    let replace = options.replace || source.keeps_metadata;
    if source.keeps_metadata {
        hold::check(meta, keys, replace).await?;
        // An attempt that is cut off finds in the store what it began with.
        snapshot::renew(&*source.store, meta, keys, source.store_id.as_deref(), now_ms, None).await?;
    }
    let hold = Hold::take(meta, keys, replace).await?;
    let planned = source.plan(keys, now_ms, options).await;
    let planned = match planned {
        Ok(plan) => source.give_up_losses().await.map(|()| plan),
        Err(why) => Err(why),
    };
    match planned {
        Ok(plan) => {
            hold.write(meta, keys, plan.records).await?;
            Ok(plan.restored)
        }
        Err(why) => {
            hold.give_up(meta).await;
            Err(why)
        }
    }
}

/// What metadata is rebuilt from.
struct Source {
    store: Arc<dyn ObjectStore>,
    /// Held to the end: no broker starts in the directory meanwhile.
    local: Option<Local>,
    /// What `identity.json` says.
    said: Option<String>,
    /// The id of the store, where it is known.
    store_id: Option<String>,
    /// Metadata of this store is there, and is begun with.
    keeps_metadata: bool,
}

impl Source {
    async fn open(
        url: &StoreUrl,
        metadata: &Metadata,
        options: RestoreOptions,
    ) -> Result<Source, RestoreError> {
        let RestoreOptions { dry_run, replace, accept_loss, .. } = options;
        let local = match url {
            StoreUrl::File(directory) => Some(Local::open(directory, dry_run, accept_loss).await?),
            StoreUrl::Memory | StoreUrl::S3(_) | StoreUrl::Shared(_) => None,
        };
        let store = match url {
            StoreUrl::File(directory) if dry_run => open_to_look(directory)?,
            url => open_store(url, &Arc::default())?,
        };
        let store = Patient::where_shared(url, store, 0);
        let files = local.as_ref().map_or(&[][..], |local| &local.files);
        let said = identity::known_id(&*store).await?;
        let store_id = said.clone().or_else(|| identity::id_in(files).map(|id| id.to_string()));
        if let Some(id) = &store_id {
            identity::check_files(files, id)?;
        }
        let (meta, keys) = (&**metadata.store(), metadata.keys());
        let keeps_metadata = accept_loss
            && !replace
            && store_id.is_some()
            && identity::recorded(meta, keys).await? == store_id
            && !hold::is_resumed(meta, keys).await?;
        Ok(Source { store, local, said, store_id, keeps_metadata })
    }

    /// What is to be written. Chains are sealed on the way, unless it is only planned.
    async fn plan<'a>(
        &self,
        keys: &'a Keyspace,
        now_ms: i64,
        options: RestoreOptions,
    ) -> Result<Plan<'a>, RestoreError> {
        let newest = snapshot::newest(&*self.store, self.store_id.as_deref()).await?;
        refuse_others(&newest, self.said.as_deref())?;
        let left_out_snapshots = newest.left_out;
        let snapshot_ms = newest.snapshot.as_ref().map(|s| s.taken_ms);
        let found = newest.snapshot.unwrap_or_default();
        let store_id = self.store_id.clone().or_else(|| snapshot::store_of(&found));
        let number = found.number;
        let restored = Restored { snapshot_ms, left_out_snapshots, ..Restored::default() };
        let mut plan = Plan::new(Arc::clone(&self.store), keys, restored, found.records);
        let logs = match &self.local {
            Some(local) => Logs::of_files(local),
            None => plan.chains(!options.dry_run, options.accept_loss).await?,
        };
        // After the seals: nobody deletes segments any more.
        let segments = Segments::of(&*plan.store).await?;
        let nothing = segments.by_partition.is_empty() && logs.in_chains.is_empty();
        if snapshot_ms.is_none() && nothing && logs.last_incarnation == 0 {
            return Err(RestoreError::Nothing);
        }
        let last = number.max(logs.last_incarnation).max(segments.last_incarnation());
        plan.logs = logs;
        plan.topics(&segments, now_ms, options.with_deleted)?;
        if let Some(local) = &self.local {
            plan.tell_of(local)?;
        }
        plan.partitions(&segments, now_ms).await?;
        // What a broker was deleting at its end may vanish a moment after it was listed.
        let later = Segments::of(&*plan.store).await?;
        if let Some(gone) = segments.gone_in(&later) {
            return Err(RestoreError::Vanished(gone.clone()));
        }
        plan.assignments()?;
        plan.cluster(now_ms, last)?;
        if !options.dry_run {
            let store_id = identity::id_of(&*plan.store, store_id, now_ms).await?;
            plan.put(&keys.store(), &StoreRecord { store_id });
        }
        Ok(plan)
    }

    /// The next start does without what is lost. Before anything is written: what is cut off is repeated, and finds it given up.
    async fn give_up_losses(&self) -> Result<(), RestoreError> {
        match &self.local {
            Some(local) => Ok(local.give_up_losses()?),
            None => Ok(()),
        }
    }
}

/// Where `identity.json` was put there from another store, none of the store's own snapshots is one that it names, and without them
/// settings, groups and committed offsets would be lost.
fn refuse_others(newest: &snapshot::Newest, said: Option<&str>) -> Result<(), RestoreError> {
    let (None, true, Some(said)) = (&newest.snapshot, newest.others > 0, said) else { return Ok(()) };
    Err(RestoreError::OtherSnapshots { said: said.to_owned(), left_out: newest.left_out.join("; ") })
}
