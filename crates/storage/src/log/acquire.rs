//! How a partition comes to this broker and how it leaves: acquired with its manifest and what the write-ahead log has
//! above it, released with nothing left to read back, or abandoned because somebody else owns it already.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use kafscale_core::ids::{Offset, PartitionId};
use kafscale_core::producer::SeenBatch;

use super::load::{PartitionRecords, load_records};
use super::manifest::{self, Manifest};
use super::objects::footers::{ChainIndex, FootersError, Found};
use super::partition::{PartitionInner, State, TailBatch};
use super::rewrite;
use super::shared::Shared;
use super::unclaimed::Recovered;
use super::{HostedPartition, new_partition};
use crate::error::{AcquireError, AppendError, ReleaseError};
use crate::wal::chain_id::ChainId;
use crate::wal::files::{Place, StoredObject, WalFiles};
use crate::wal::object::{HEADER_BYTES, IndexEntry};

/// What became of each partition.
pub type Acquired = Vec<(PartitionId, Result<(), AcquireError>)>;

/// Begins to serve partitions. Each succeeds or fails for itself.
pub async fn acquire(shared: &Shared, wanted: Vec<HostedPartition>) -> Acquired {
    let mut outcomes = Vec::with_capacity(wanted.len());
    let mut missing = Vec::with_capacity(wanted.len());
    for hosted in wanted {
        match shared.partition(hosted.id) {
            Some(served) => {
                served.raise_leader_epoch(hosted.leader_epoch);
                outcomes.push((hosted.id, Ok(())));
            }
            None => missing.push(hosted),
        }
    }
    if missing.is_empty() {
        return outcomes;
    }
    let all_fail = |outcomes: &mut Acquired, missing: Vec<HostedPartition>, why: String| {
        let failed = |hosted: HostedPartition| (hosted.id, Err(AcquireError::Retry(why.clone())));
        outcomes.extend(missing.into_iter().map(failed));
    };
    // Before the manifests: a chain that is collected between the two is covered by them.
    let mut above = match Above::of(shared).await {
        Ok(above) => above,
        Err(e) => {
            all_fail(&mut outcomes, missing, e.to_string());
            return outcomes;
        }
    };
    let ids: HashSet<_> = missing.iter().map(|hosted| hosted.id).collect();
    let mut records = match load_records(&*shared.meta, &shared.keys, &ids).await {
        Ok(records) => records,
        Err(e) => {
            all_fail(&mut outcomes, missing, e.to_string());
            return outcomes;
        }
    };
    for hosted in missing {
        let records = records.remove(&hosted.id).unwrap_or_default();
        let outcome = claim(shared, &hosted, records, &mut above);
        outcomes.push((hosted.id, outcome));
    }
    shared.free_unused();
    if shared.files.last_taken_over().is_some() {
        shared.file_closed.notify_one();
    }
    outcomes
}

/// What write-ahead chains hold above the manifests.
enum Above {
    /// On a local disk, what this process read when it started.
    Unclaimed,
    /// In an object store, the sealed chains of others, and the objects that were found to be needed.
    Chains { chains: Vec<Arc<ChainIndex>>, needed: HashMap<(ChainId, u64), u64> },
}

impl Above {
    async fn of(shared: &Shared) -> Result<Above, FootersError> {
        match &shared.chain {
            Some(chain) => {
                let chains = chain.footers.all(shared).await?;
                Ok(Above::Chains { chains, needed: HashMap::new() })
            }
            None => Ok(Above::Unclaimed),
        }
    }

    /// The batches of a partition that reach above `end`, in the order of the log. Each keeps its file.
    fn take(&mut self, shared: &Shared, id: PartitionId, end: Offset) -> Vec<Recovered> {
        match self {
            Above::Unclaimed => shared.unclaimed.take(id),
            Above::Chains { chains, needed } => {
                let mut found: Vec<(ChainId, Found)> = Vec::new();
                for chain in chains.iter() {
                    let batches = chain.by_partition.get(&id).map_or(&[][..], Vec::as_slice);
                    let reaching = batches.iter().filter(|f| f.entry.last_offset >= end);
                    found.extend(reaching.map(|f| (chain.id, *f)));
                }
                found.sort_by_key(|(_, f)| (f.entry.leader_epoch, f.entry.base_offset));
                found.into_iter().map(|(chain, f)| keep(&shared.files, needed, chain, f)).collect()
            }
        }
    }

    /// After a failure.
    fn put_back(&self, shared: &Shared, id: PartitionId, recovered: Vec<Recovered>) {
        match self {
            Above::Unclaimed => shared.unclaimed.put_back(id, recovered),
            Above::Chains { .. } => {
                recovered.iter().for_each(|(place, _)| shared.files.release(place.file_no, 1));
            }
        }
    }
}

fn keep(
    files: &WalFiles,
    needed: &mut HashMap<(ChainId, u64), u64>,
    chain: ChainId,
    found: Found,
) -> Recovered {
    let Found { seq, object_bytes, entry } = found;
    let file_no = *needed.entry((chain, seq)).or_insert_with(|| {
        let path = chain.object(seq);
        files.add_object(StoredObject { path, size_bytes: object_bytes, own_seq: None })
    });
    files.retain(file_no, 1, u64::from(entry.size_bytes));
    (Place { file_no, position: HEADER_BYTES as u64 + entry.position }, entry)
}

/// Serves one partition from its records and what was recovered of it.
fn claim(
    shared: &Shared,
    hosted: &HostedPartition,
    records: PartitionRecords,
    above: &mut Above,
) -> Result<(), AcquireError> {
    let directory = manifest::directory(&hosted.topic_name, hosted.id);
    let manifest = Manifest::from_records(&directory, records.partition, records.producers);
    let mut state = State::from_manifest(manifest);
    let recovered = above.take(shared, hosted.id, state.log_end);
    let covered = match state.replay_all(&recovered) {
        Ok(covered) => covered,
        Err(gap) => {
            above.put_back(shared, hosted.id, recovered);
            return Err(gap);
        }
    };
    covered.iter().for_each(|place| shared.files.release(place.file_no, 1));
    shared.partitions.insert(Arc::new(new_partition(hosted, state)));
    Ok(())
}

/// Hands a partition over: nothing of the write-ahead log is needed for it afterwards. When this fails, it is served on.
pub async fn release(shared: &Shared, id: PartitionId) -> Result<(), ReleaseError> {
    let Some(partition) = shared.partition(id) else { return Ok(()) };
    partition.state.lock().releasing = true;
    let released = drain(shared, &partition).await;
    match released {
        Ok(()) => {
            drop_state(shared, &partition);
            shared.partitions.remove(id);
            shared.free_unused();
            Ok(())
        }
        Err(e) => {
            partition.state.lock().releasing = false;
            Err(e)
        }
    }
}

/// Waits until what was accepted is durable, and moves it into segments.
async fn drain(shared: &Shared, partition: &PartitionInner) -> Result<(), ReleaseError> {
    let last = {
        let state = partition.state.lock();
        state.tail.range(state.durable..).next_back().and_then(|b| b.flush.upgrade())
    };
    if let Some(last) = last {
        last.wait().await.map_err(|e| match e {
            AppendError::Fenced => ReleaseError::NotOwner,
            AppendError::Sequence(_) | AppendError::Unavailable(_) | AppendError::Gone => {
                ReleaseError::Retry(e.to_string())
            }
        })?;
    }
    rewrite::rewrite(shared, partition).await.map_err(|e| match e {
        e if e.is_conflict() => ReleaseError::NotOwner,
        e => ReleaseError::Retry(e.to_string()),
    })
}

/// Stops to serve partitions that belong to somebody else now. Nothing is written.
pub fn abandon(shared: &Shared, ids: &[PartitionId]) {
    for id in ids {
        if let Some(partition) = shared.partitions.remove(*id) {
            drop_state(shared, &partition);
        }
    }
    shared.free_unused();
}

/// Makes a partition that was taken off the map useless to whoever still holds it.
pub fn drop_state(shared: &Shared, partition: &PartitionInner) {
    let tail = {
        let mut state = partition.state.lock();
        state.gone = true;
        state.wake();
        let durable = state.durable;
        let tail = state.drop_front(durable);
        state.tail.clear();
        tail
    };
    shared.release(&tail);
}

impl State {
    pub fn from_manifest(manifest: Manifest) -> State {
        let end = manifest.segments.last().map_or(Offset::ZERO, |s| s.last_offset().plus(1));
        let end = end.max(manifest.log_start);
        State {
            log_start: manifest.log_start,
            log_end: end,
            high_watermark: end,
            epochs: manifest.epochs,
            producers: manifest.producers,
            segment_bytes: manifest.segments.iter().map(|s| s.at.size_bytes).sum(),
            segments: manifest.segments,
            revision: manifest.revision,
            ..State::default()
        }
    }

    /// Puts recovered batches on top of the manifest. Gives the places of those that it covers already.
    fn replay_all(&mut self, recovered: &[Recovered]) -> Result<Vec<Place>, AcquireError> {
        let mut covered = Vec::new();
        for (place, entry) in recovered {
            if !self.replay(entry, *place)? {
                covered.push(*place);
            }
        }
        Ok(covered)
    }

    /// Adds a batch; `false` when the manifest covers it already.
    fn replay(&mut self, entry: &IndexEntry, place: Place) -> Result<bool, AcquireError> {
        if entry.last_offset < self.log_end {
            return Ok(false);
        }
        if entry.base_offset > self.log_end {
            return Err(AcquireError::Gap { log_end: self.log_end, found: entry.base_offset });
        }
        self.epochs.assign(entry.leader_epoch, entry.base_offset);
        self.log_end = entry.last_offset.plus(1);
        self.high_watermark = self.log_end;
        if let Some(s) = entry.sequence {
            let seen = SeenBatch {
                epoch: s.epoch,
                first_sequence: s.first,
                last_sequence: s.last,
                base_offset: entry.base_offset,
                last_offset: entry.last_offset,
                timestamp_ms: entry.appended_ms,
            };
            self.producers.record(s.producer_id, seen, self.high_watermark);
        }
        self.tail_bytes += u64::from(entry.size_bytes);
        self.tail.push_back(TailBatch {
            base_offset: entry.base_offset,
            last_offset: entry.last_offset,
            max_timestamp_ms: entry.max_timestamp_ms,
            appended_ms: entry.appended_ms,
            size_bytes: entry.size_bytes,
            place,
            flush: Weak::new(),
            slot: 0,
        });
        self.durable = self.tail.len();
        Ok(true)
    }
}
