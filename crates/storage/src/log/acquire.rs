//! How a partition comes to this broker and how it leaves: acquired with its manifest and what the write-ahead log has
//! above it, released with nothing left to read back, or abandoned because somebody else owns it already.
//!
//! An object of a chain may be lost, with all that told of its batches. Where a partition's log goes on behind it, the offsets that are
//! missing between are answered as damaged. Where nothing shows that the log goes on, its last records may have been in that object: then
//! what is known of it is read, but nothing is appended, as an offset must not be given out twice. Which batches of idempotent producers
//! were lost is not known either: those go on with whatever follows ([`lose_below`](kafscale_core::producer::ProducerWindows::lose_below)).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};

use kafscale_core::batch::NO_TIMESTAMP;
use kafscale_core::ids::{LeaderEpoch, Offset, PartitionId};
use kafscale_core::producer::SeenBatch;
use object_store::path::Path;

use super::load::{PartitionRecords, load_records};
use super::manifest::{self, Manifest};
use super::objects::footers::{ChainIndex, FootersError, Found, LostObject};
use super::partition::{Held, PartitionInner, State, TailBatch};
use super::rewrite;
use super::shared::Shared;
use super::superseded;
use super::unclaimed::Recovered;
use super::{HostedPartition, new_partition};
use crate::damages::Damage;
use crate::error::{AcquireError, AppendError, ReleaseError};
use crate::wal::chain_id::ChainId;
use crate::wal::files::{Lost, Place, StoredObject, WalFiles};
use crate::wal::object::{HEADER_BYTES, IndexEntry};

/// What became of each partition.
pub type Acquired = Vec<(PartitionId, Result<(), AcquireError>)>;

/// Begins to serve partitions. Each succeeds or fails for itself.
pub async fn acquire(shared: &Shared, wanted: Vec<HostedPartition>) -> Acquired {
    let mut outcomes = Vec::with_capacity(wanted.len());
    let mut missing = Vec::with_capacity(wanted.len());
    for hosted in wanted {
        match shared.partition(hosted.id) {
            Some(served) if served.state.lock().held.is_none() => {
                served.raise_leader_epoch(hosted.leader_epoch);
                outcomes.push((hosted.id, Ok(())));
            }
            Some(_) | None => missing.push(hosted),
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
        let outcome =
            match shared.partition(hosted.id).map(|served| hold_on(shared, &served, &hosted, &above)) {
                Some(Err(held)) => Err(held),
                Some(Ok(())) | None => claim(shared, &hosted, records, &mut above),
            };
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
    fn take(&mut self, shared: &Shared, hosted: &HostedPartition, state: &State) -> Vec<Recovered> {
        let (id, end) = (hosted.id, state.log_end);
        match self {
            Above::Unclaimed => shared.unclaimed.take(id),
            Above::Chains { chains, needed } => {
                let mut found: Vec<(ChainId, Found)> = Vec::new();
                for chain in chains.iter() {
                    let reaching = chain.batches(id).iter().filter(|f| f.entry.last_offset >= end);
                    found.extend(reaching.map(|f| (chain.id, *f)));
                }
                let superseded =
                    superseded::take_out(&mut found, state.epochs.starts(), |(_, f)| f.written());
                tell_superseded(hosted, &superseded);
                found.into_iter().map(|(chain, f)| keep(&shared.files, needed, chain, f)).collect()
            }
        }
    }

    /// An object that missing records may have been in, with how it is lost.
    fn lost(&self) -> Option<(Path, Lost)> {
        let Above::Chains { chains, .. } = self else { return None };
        let of = |chain: &ChainIndex, lost: &LostObject| chain.id.object(lost.seq);
        let missed = chains.iter().find_map(|c| c.missed().next().map(|lost| (of(c, lost), Lost::Missed)));
        missed.or_else(|| chains.iter().find_map(|c| Some((of(c, c.lost.first()?), Lost::GivenUp))))
    }

    /// All objects that may be put back.
    fn missed(&self) -> Vec<(ChainId, u64)> {
        let Above::Chains { chains, .. } = self else { return Vec::new() };
        chains.iter().flat_map(|chain| chain.missed().map(|lost| (chain.id, lost.seq))).collect()
    }

    fn is_missed(&self, chain: ChainId, seq: u64) -> bool {
        let Above::Chains { chains, .. } = self else { return false };
        chains.iter().any(|c| c.id == chain && c.missed().any(|lost| lost.seq == seq))
    }

    /// An object that the last records of a partition may have been in, and that may be put back.
    fn holding(&self, hosted: &HostedPartition, published: &Published) -> Option<Held> {
        let (chain, LostObject { seq, why, .. }) = self.lost_at_end(hosted, published, Lost::Missed)?;
        let why = format!(
            "the last records of the partition may have been in {}, which is lost ({why}): it is read, and takes no records, until that object is put back from \
             a copy or an earlier version, or its records are given up with an empty object in its place",
            chain.object(*seq)
        );
        Some(Held { chain, seq: *seq, why })
    }

    /// An object that the last records of a partition may have been in, and that is lost like this.
    fn lost_at_end(
        &self,
        hosted: &HostedPartition,
        published: &Published,
        how: Lost,
    ) -> Option<(ChainId, &LostObject)> {
        let Above::Chains { chains, .. } = self else { return None };
        // Nobody owned it before.
        if hosted.leader_epoch == LeaderEpoch(0) {
            return None;
        }
        let before = LeaderEpoch(hosted.leader_epoch.0 - 1);
        chains.iter().find_map(|chain| {
            let goes_on_elsewhere = chains
                .iter()
                .filter(|other| other.id != chain.id)
                .any(|other| other.batches(hosted.id).iter().any(|found| found.entry.leader_epoch >= before));
            // The last owner but this one, which it was not.
            let is_of_another = published.epoch.is_some_and(|epoch| epoch >= before)
                && ![chain.id.incarnation, published.own].contains(&published.by);
            if goes_on_elsewhere || is_of_another {
                return None;
            }
            let last = chain.batches(hosted.id).last().map(|found| found.seq);
            let is_behind = |lost: &&LostObject| last.is_none_or(|last| last <= lost.seq);
            let mut lost = chain.lost.iter().filter(|lost| lost.given_up == (how == Lost::GivenUp));
            Some((chain.id, lost.find(is_behind)?))
        })
    }

    /// Damaged objects that batches of a partition above `end` are in.
    fn damaged(&self, id: PartitionId, end: Offset) -> Vec<(Path, String)> {
        let Above::Chains { chains, .. } = self else { return Vec::new() };
        let mut damaged = Vec::new();
        for chain in chains.iter().filter(|chain| !chain.damaged.is_empty()) {
            let reaching = chain.batches(id).iter().filter(|f| f.entry.last_offset >= end);
            let seqs: BTreeSet<u64> = reaching.map(|found| found.seq).collect();
            let why = |seq: u64| Some((chain.id.object(seq), chain.damaged.get(&seq)?.clone()));
            damaged.extend(seqs.into_iter().filter_map(why));
        }
        damaged
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

/// Says what came back too late.
fn tell_superseded(hosted: &HostedPartition, superseded: &[(ChainId, Found)]) {
    let objects: BTreeSet<(ChainId, u64)> =
        superseded.iter().map(|(chain, found)| (*chain, found.seq)).collect();
    for (chain, seq) in objects {
        let of_object = superseded.iter().filter(|(of, found)| (*of, found.seq) == (chain, seq));
        let offsets = of_object.clone().map(|(_, found)| found.entry.base_offset.0).min();
        let last = of_object.map(|(_, found)| found.entry.last_offset.0).max();
        tracing::warn!(
            object = %chain.object(seq),
            topic = &*hosted.topic_name, partition = hosted.id.index,
            first_offset = offsets, last_offset = last,
            "an object of the write-ahead log came back after its records had been given up, and newer records have their offsets: the newer \
             ones are served. Keep the object if anybody may want the others"
        );
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
        files.add_object(StoredObject { path, size_bytes: object_bytes, own_seq: None, lost: None })
    });
    files.retain(file_no, 1, u64::from(entry.size_bytes));
    (Place { file_no, position: HEADER_BYTES as u64 + entry.position }, entry)
}

/// What the record of a partition says of its owners.
struct Published {
    /// The epoch of the last batches in segments.
    epoch: Option<LeaderEpoch>,
    /// The incarnation that wrote the record.
    by: u64,
    /// This incarnation.
    own: u64,
}

impl Published {
    fn of(shared: &Shared, records: &PartitionRecords) -> Published {
        let record = records.partition.as_ref().map(|(record, _)| record);
        let epoch = record.and_then(|record| record.leader_epochs.last());
        Published {
            epoch: epoch.map(|(epoch, _)| LeaderEpoch(*epoch)),
            by: record.map_or(0, |record| record.writer_epoch),
            own: shared.config.incarnation,
        }
    }
}

/// Looks at a partition that takes no records. `Ok` when what held it is not lost any more: it is to be acquired anew.
fn hold_on(
    shared: &Shared,
    served: &Arc<PartitionInner>,
    hosted: &HostedPartition,
    above: &Above,
) -> Result<(), AcquireError> {
    let held = served.state.lock().held.clone();
    if let Some(Held { chain, seq, why }) = held
        && above.is_missed(chain, seq)
    {
        served.raise_leader_epoch(hosted.leader_epoch);
        return Err(AcquireError::Held(why));
    }
    abandon(shared, &[hosted.id]);
    Ok(())
}

/// Serves one partition from its records and what was recovered of it.
fn claim(
    shared: &Shared,
    hosted: &HostedPartition,
    records: PartitionRecords,
    above: &mut Above,
) -> Result<(), AcquireError> {
    let directory = manifest::directory(&hosted.topic_name, hosted.id);
    let published = Published::of(shared, &records);
    let manifest = Manifest::from_records(&directory, records.partition, records.producers);
    let mut state = State::from_manifest(manifest);
    let stored_end = state.log_end;
    let recovered = above.take(shared, hosted, &state);
    let lost = above.lost();
    let mut lost_place = |before: Place| {
        if let Above::Unclaimed = above {
            let place = shared.unclaimed.lost_before(before)?;
            shared.files.retain(place.file_no, 1, 0);
            return Some(place);
        }
        let (path, lost) = lost.clone()?;
        let object = StoredObject { path, size_bytes: 0, own_seq: None, lost: Some(lost) };
        let file_no = shared.files.add_object(object);
        shared.files.retain(file_no, 1, 0);
        Some(Place { file_no, position: 0 })
    };
    let covered = match state.replay_all(&recovered, &mut lost_place) {
        Ok(covered) => covered,
        Err(gap) => {
            above.put_back(shared, hosted.id, recovered);
            return Err(gap);
        }
    };
    covered.iter().for_each(|place| shared.files.release(place.file_no, 1));
    state.held = above.holding(hosted, &published);
    let last = recovered.last().map(|(place, _)| *place);
    let is_local = matches!(above, Above::Unclaimed);
    if (is_local && shared.unclaimed.is_lost_behind(last))
        || above.lost_at_end(hosted, &published, Lost::GivenUp).is_some()
    {
        state.producers.lose_below(state.log_end);
    }
    tell_damage(shared, hosted, &state, above.damaged(hosted.id, stored_end));
    let held = state.held.as_ref().map(|held| held.why.clone());
    shared.new_windows.add(state.producers.len());
    shared.partitions.insert(Arc::new(new_partition(hosted, state)));
    if let Some(chain) = &shared.chain {
        chain.awaited.add(above.missed());
    }
    held.map_or(Ok(()), |why| Err(AcquireError::Held(why)))
}

/// Notes what of a partition is damaged: once for the place, before anybody reads it.
fn tell_damage(shared: &Shared, hosted: &HostedPartition, state: &State, damaged: Vec<(Path, String)>) {
    let note = |object: String, offsets: Option<(Offset, Offset)>, why: String| {
        shared.damages().note(Damage {
            object: object.into(),
            position: 0,
            topic: Arc::clone(&hosted.topic_name),
            partition: hosted.id.index,
            offsets,
            why,
        });
    };
    for (path, why) in damaged {
        note(path.to_string(), None, why);
    }
    for hole in state.tail.iter().filter(|batch| batch.size_bytes == 0) {
        let why = "it is lost, and nothing else has its records".to_owned();
        note(shared.files.describe(hole.place.file_no), Some((hole.base_offset, hole.last_offset)), why);
    }
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
        state.end();
        let durable = state.durable;
        let tail = state.drop_front(durable);
        state.tail.clear();
        tail
    };
    shared.damages().forget_partition(&partition.topic_name, partition.id.index);
    shared.segments.unreadable().forget_below(&manifest::directory(&partition.topic_name, partition.id));
    shared.release(&tail);
}

impl State {
    /// Serves nobody any more.
    pub fn end(&mut self) {
        self.gone = true;
        self.wake();
    }

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

    /// Puts recovered batches on top of the manifest. Gives the places of those that it covers already. Where records are missing, `lost` says
    /// what they may have been in.
    fn replay_all(
        &mut self,
        recovered: &[Recovered],
        lost: &mut dyn FnMut(Place) -> Option<Place>,
    ) -> Result<Vec<Place>, AcquireError> {
        let mut covered = Vec::new();
        for (place, entry) in recovered {
            if entry.base_offset > self.log_end
                && let Some(place) = lost(*place)
            {
                self.replay_lost(entry, place);
            }
            if !self.replay(entry, *place)? {
                covered.push(*place);
            }
        }
        Ok(covered)
    }

    /// Stands for the records between the log's end and a batch, which are lost.
    fn replay_lost(&mut self, next: &IndexEntry, place: Place) {
        let starts_at = self.tail_end();
        self.tail.push_back(TailBatch {
            starts_at,
            base_offset: self.log_end,
            last_offset: Offset(next.base_offset.0 - 1),
            max_timestamp_ms: NO_TIMESTAMP,
            times: None,
            appended_ms: next.appended_ms,
            size_bytes: 0,
            place,
            flush: Weak::new(),
            slot: 0,
        });
        self.log_end = next.base_offset;
        self.producers.lose_below(self.log_end);
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
        let starts_at = self.tail_end();
        self.tail_bytes += u64::from(entry.size_bytes);
        self.tail.push_back(TailBatch {
            starts_at,
            base_offset: entry.base_offset,
            last_offset: entry.last_offset,
            max_timestamp_ms: entry.max_timestamp_ms,
            times: None,
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
