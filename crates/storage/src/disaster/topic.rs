//! One topic as it was at some time, under a new name, beside a cluster that runs or is stopped.
//!
//! A partition of the new topic has the records of the old one up to, but not including, the first whose timestamp is later than the
//! time; at the same offsets, in batches as they were sent, but for the last one, which may have to be cut. What retention or compaction
//! has taken out before is not there.
//!
//! What is damaged is left out and told of: its offsets are answered as damaged in the new topic too.
//!
//! Invariant: nothing of the old topic is changed, and the new one is there with all of its records or not at all: it is created when
//! they are in place.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use kafscale_core::batch::{BatchHeader, NO_TIMESTAMP, PlacedBatch};
use kafscale_core::compaction;
use kafscale_core::ids::{LeaderEpoch, Offset, PartitionId, TopicId};
use kafscale_core::names::check_topic_name;
use kafscale_core::records;
use kafscale_meta::records::{
    AssignmentRecord, ChainRecord, PartitionAssignment, PartitionRecord, ProducersRecord, Record,
    SegmentRecord, TopicRecord,
};
use kafscale_meta::{Metadata, NewTopic, Op, Txn};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use uuid::Uuid;

use crate::StoreUrl;
use crate::log::load::{PartitionRecords, load_records};
use crate::log::manifest::{Manifest, directory};
use crate::log::objects::footers::{Absent, ChainIndex, Found, read_chain};
use crate::log::objects::seal::{find_end, list};
use crate::log::superseded::take_out;
use crate::segment::{
    DamagedBatch, ReadLimits, SegmentBuilder, SegmentError, SegmentReader, SegmentRef, segment_path,
};
use crate::store::open_store;
use crate::store::patient::Patient;
use crate::wal::chain_id::ChainId;
use crate::wal::object::{HEADER_BYTES, IndexEntry, check_batch};

const CACHE_BYTES: usize = 64 << 20;
/// What is read at a time.
const PIECE_BYTES: usize = 4 << 20;
/// A segment is put when its batches have so many bytes.
const SEGMENT_BYTES: u64 = 32 << 20;
const INDEX_INTERVAL_BYTES: usize = 4096;
/// Objects may be merged and freed while they are read; then it is begun anew with those that hold the same records.
const ATTEMPTS: usize = 5;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicAt {
    pub topic: String,
    pub until_ms: i64,
    pub new_name: String,
    /// Only say what would be there.
    pub dry_run: bool,
}

/// What became of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedPartition {
    pub log_start: Offset,
    pub log_end: Offset,
    pub records: u64,
    pub bytes: u64,
    /// Where the old partition ends.
    pub source_end: Offset,
    /// What could not be read, in the order of offsets.
    pub lost: Vec<LostRange>,
    /// Objects of the write-ahead log that are lost, and whose records may have been behind the end that is known.
    pub may_lack: Vec<String>,
}

/// Offsets whose records cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRange {
    pub first: Offset,
    pub last: Offset,
    pub why: String,
}

/// Copies. Errors are for a person.
pub async fn restore_topic(
    url: &StoreUrl,
    metadata: &Metadata,
    now_ms: i64,
    wanted: &TopicAt,
) -> Result<Vec<CopiedPartition>, String> {
    let source = source(metadata, wanted).await?;
    let store = open_store(url, &Arc::default()).map_err(|e| e.to_string())?;
    let store = Patient::where_shared(url, store, 0);
    let reader = SegmentReader::new(Arc::clone(&store), ReadLimits::with_cache_bytes(CACHE_BYTES));
    let copy = Copy { store, reader, metadata, wanted, source, new_id: TopicId(Uuid::new_v4()), now_ms };
    let copied = copy.all().await;
    if copied.is_err() {
        copy.undo().await;
    }
    copy.reader.shutdown().await;
    copied
}

async fn source(metadata: &Metadata, wanted: &TopicAt) -> Result<TopicRecord, String> {
    let TopicAt { topic, new_name, .. } = wanted;
    check_topic_name(new_name).map_err(|e| format!("{new_name}: {e}"))?;
    let failed = |e: kafscale_meta::Error| e.to_string();
    if metadata.store().get(&metadata.keys().restoring()).await.map_err(failed)?.is_some() {
        return Err("the metadata of this cluster is being restored; finish that first".into());
    }
    if metadata.load_topic(new_name).await.map_err(failed)?.is_some() {
        return Err(format!("there is a topic {new_name} already; choose another name with --as"));
    }
    let source = metadata.load_topic(topic).await.map_err(failed)?;
    source.map(|found| found.record).ok_or_else(|| format!("there is no topic {topic}"))
}

/// Why a partition was not copied.
enum Failed {
    /// An object was freed, whose records are in others now.
    Moved(String),
    Fatal(String),
}

impl Failed {
    fn store(path: &Path, e: &object_store::Error) -> Failed {
        match e {
            object_store::Error::NotFound { .. } => Failed::Moved(format!("{path}: {e}")),
            _ => Failed::Fatal(format!("{path}: {e}")),
        }
    }
}

fn fatal(e: impl std::fmt::Display) -> Failed {
    Failed::Fatal(e.to_string())
}

/// Everything that the source has at one moment.
struct Sources {
    chains: Vec<ChainIndex>,
    records: HashMap<PartitionId, PartitionRecords>,
}

struct Copy<'a> {
    store: Arc<dyn ObjectStore>,
    reader: SegmentReader,
    metadata: &'a Metadata,
    wanted: &'a TopicAt,
    source: TopicRecord,
    new_id: TopicId,
    now_ms: i64,
}

/// A partition of the new topic in the making.
struct Output {
    id: PartitionId,
    record: PartitionRecord,
    builder: SegmentBuilder,
    copied: CopiedPartition,
    /// A record that is later than the time was met.
    ended: bool,
}

impl Copy<'_> {
    async fn all(&self) -> Result<Vec<CopiedPartition>, String> {
        let mut sources = self.sources().await?;
        let (mut copied, mut epochs) = (Vec::new(), Vec::new());
        for index in 0..self.source.partitions {
            let mut attempt = 1;
            let output = loop {
                match self.partition(index, &sources, attempt == ATTEMPTS).await {
                    Ok(output) => break output,
                    Err(Failed::Moved(_)) if attempt < ATTEMPTS => attempt += 1,
                    Err(Failed::Moved(why) | Failed::Fatal(why)) => return Err(why),
                }
                self.delete_objects(index).await?;
                sources = self.sources().await?;
            };
            epochs.push(output.record.leader_epochs.last().map_or(0, |(epoch, _)| *epoch));
            if !self.wanted.dry_run {
                let producers = ProducersRecord::default();
                let written =
                    self.metadata.swap_partition(self.new_id.0, index, None, (&output.record, &producers));
                written.await.map_err(|e| e.to_string())?;
            }
            copied.push(output.copied);
        }
        if !self.wanted.dry_run {
            self.create(&epochs).await?;
        }
        Ok(copied)
    }

    async fn create(&self, epochs: &[i32]) -> Result<(), String> {
        let mut configs = self.source.configs.clone();
        // Old records would be dropped again at once.
        configs.insert("retention.ms".into(), "-1".into());
        configs.insert("retention.bytes".into(), "-1".into());
        let topic = TopicRecord {
            topic_id: self.new_id.0,
            partitions: self.source.partitions,
            configs,
            created_ms: self.now_ms,
            internal: false,
        };
        let partitions = epochs.iter().map(|epoch| PartitionAssignment::released(*epoch)).collect();
        let assignment = AssignmentRecord { partitions };
        let new = NewTopic { name: self.wanted.new_name.clone(), topic, assignment };
        match self.metadata.create_topic(&new).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(format!("a topic {} was created meanwhile", self.wanted.new_name)),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Chains before manifests: what is freed between the two is in a segment.
    async fn sources(&self) -> Result<Sources, String> {
        let mut attempt = 1;
        let chains = loop {
            let absent = if attempt < ATTEMPTS { Absent::Fails } else { Absent::IsLost };
            match self.chains(absent).await {
                Ok(chains) => break chains,
                Err(Failed::Moved(_)) if attempt < ATTEMPTS => attempt += 1,
                Err(Failed::Moved(why) | Failed::Fatal(why)) => return Err(why),
            }
        };
        let id = |index| PartitionId { topic: TopicId(self.source.topic_id), index };
        let ids: HashSet<_> = (0..self.source.partitions).map(id).collect();
        let records = load_records(&**self.metadata.store(), self.metadata.keys(), &ids);
        Ok(Sources { chains, records: records.await.map_err(|e| e.to_string())? })
    }

    /// All chains, up to where they reach at this moment.
    async fn chains(&self, absent: Absent) -> Result<Vec<ChainIndex>, Failed> {
        let keys = self.metadata.keys();
        let listed = self.metadata.store().range_all(&keys.chains_prefix()).await.map_err(fatal)?;
        let mut chains = Vec::new();
        for kv in listed.kvs {
            let Some((node_id, incarnation)) = keys.parse_chain(&kv.key) else { continue };
            let id = ChainId { node_id, incarnation };
            let ChainRecord { first_seq, sealed_at, given_up } =
                ChainRecord::decode(&kv.key, &kv.value).map_err(fatal)?;
            let end = match sealed_at {
                Some(end) => end,
                None => {
                    let objects = list(&*self.store, id).await.map_err(fatal)?;
                    find_end(&*self.store, id, first_seq, &objects).await.map_err(fatal)?.seq
                }
            };
            let record = ChainRecord { first_seq, sealed_at: Some(end), given_up };
            let read = read_chain(&*self.store, id, &record, absent).await;
            chains.push(
                read.map_err(|e| if e.is_missing() { Failed::Moved(e.to_string()) } else { fatal(e) })?,
            );
        }
        Ok(chains)
    }

    /// Copies one. What is not there is looked for once more in other objects, until the `last_attempt`.
    async fn partition(&self, index: i32, sources: &Sources, last_attempt: bool) -> Result<Output, Failed> {
        let id = PartitionId { topic: TopicId(self.source.topic_id), index };
        let record = sources.records.get(&id).and_then(|r| r.partition.clone());
        let manifest = Manifest::from_records(&directory(&self.wanted.topic, id), record, None);
        let log_start = manifest.log_start;
        let segments_end =
            manifest.segments.last().map_or(log_start, |s| s.last_offset().plus(1)).max(log_start);
        let above = above(&sources.chains, id, segments_end, manifest.epochs.starts());
        let source_end = above.last().map_or(segments_end, |(_, f)| f.entry.last_offset.plus(1));
        let mut output = self.output(index, log_start, source_end);
        output.copied.may_lack = may_lack(&sources.chains, id);
        for segment in &manifest.segments {
            self.copy_segment(&segment.at, &mut output, last_attempt).await?;
        }
        for (chain, found) in above {
            if output.ended {
                break;
            }
            // Compaction may have taken the last batches of the segments out.
            let expected = output.copied.log_end.max(segments_end);
            if found.entry.base_offset > expected {
                let last = Offset(found.entry.base_offset.0 - 1);
                self.lose((expected, last), "no object has these records".to_owned(), &mut output)?;
            }
            let all = (found.entry.base_offset, found.entry.last_offset);
            match self.batch_of(chain, &found).await {
                Ok(batch) => self.add(batch, &mut output).await?,
                Err(ChainBatch::Lost(why)) => self.lose(all, why, &mut output)?,
                Err(ChainBatch::Failed(Failed::Moved(why))) if last_attempt => {
                    self.lose(all, why, &mut output)?;
                }
                Err(ChainBatch::Failed(failed)) => return Err(failed),
            }
        }
        self.put(&mut output).await?;
        Ok(output)
    }

    /// A batch of a chain, as it was written.
    async fn batch_of(&self, chain: ChainId, found: &Found) -> Result<PlacedBatch, ChainBatch> {
        let path = chain.object(found.seq);
        let at = HEADER_BYTES as u64 + found.entry.position;
        let end = at + u64::from(found.entry.size_bytes);
        let failed = |e: object_store::Error| ChainBatch::Failed(Failed::store(&path, &e));
        if self.store.head(&path).await.map_err(failed)?.size < end {
            return Err(ChainBatch::Lost(format!("{path} is cut off")));
        }
        let bytes = self.store.get_range(&path, at..end).await.map_err(failed)?;
        let lost = |why: String| ChainBatch::Lost(format!("{path}: {why}"));
        check_batch(&bytes, &IndexEntry { position: 0, ..found.entry })
            .map_err(|why| lost(why.to_string()))?;
        PlacedBatch::from_log(bytes).map_err(|why| lost(why.to_string()))
    }

    fn output(&self, index: i32, log_start: Offset, source_end: Offset) -> Output {
        let id = PartitionId { topic: self.new_id, index };
        Output {
            id,
            record: PartitionRecord { log_start_offset: log_start.0, ..PartitionRecord::default() },
            builder: self.builder(id),
            copied: CopiedPartition {
                log_start,
                log_end: log_start,
                records: 0,
                bytes: 0,
                source_end,
                lost: Vec::new(),
                may_lack: Vec::new(),
            },
            ended: false,
        }
    }

    fn builder(&self, id: PartitionId) -> SegmentBuilder {
        SegmentBuilder::new(id, self.now_ms, INDEX_INTERVAL_BYTES)
    }

    async fn copy_segment(
        &self,
        segment: &SegmentRef,
        output: &mut Output,
        last_attempt: bool,
    ) -> Result<(), Failed> {
        let mut from = segment.base_offset.max(output.copied.log_end);
        while from <= segment.last_offset && !output.ended {
            let read = match self.reader.read(segment, from, PIECE_BYTES, true).await {
                Ok(read) => read,
                Err(SegmentError::Corrupt { object, first, last, why, .. }) => {
                    let last = last.clamp(from, segment.last_offset);
                    self.lose((first.clamp(from, last), last), format!("{object}: {why}"), output)?;
                    from = last.plus(1);
                    continue;
                }
                Err(e) if e.is_not_found() && last_attempt => {
                    return self.lose((from, segment.last_offset), e.to_string(), output);
                }
                Err(e) if e.is_not_found() => return Err(Failed::Moved(e.to_string())),
                Err(e) => return Err(fatal(e)),
            };
            let mut bytes: Bytes = read.chunks.concat().into();
            while !bytes.is_empty() && !output.ended {
                let batch = PlacedBatch::from_log(bytes.clone()).map_err(fatal)?;
                bytes = bytes.split_off(batch.bytes.len());
                self.add(batch, output).await?;
            }
            from = read.next;
        }
        Ok(())
    }

    /// Leaves offsets damaged, as they were found.
    fn lose(&self, (first, last): (Offset, Offset), why: String, output: &mut Output) -> Result<(), Failed> {
        let first = first.max(output.copied.log_end);
        if last < first {
            return Ok(());
        }
        let leader_epoch =
            output.record.leader_epochs.last().map_or(LeaderEpoch(0), |(e, _)| LeaderEpoch(*e));
        let damaged = DamagedBatch {
            base_offset: first,
            last_offset: last,
            max_timestamp_ms: NO_TIMESTAMP,
            leader_epoch,
        };
        if !self.wanted.dry_run {
            output.builder.append_damaged(&damaged, Bytes::new()).map_err(fatal)?;
        }
        output.copied.log_end = last.plus(1);
        output.copied.lost.push(LostRange { first, last, why });
        Ok(())
    }

    /// Adds a batch, or what of it is not later than the time.
    async fn add(&self, batch: PlacedBatch, output: &mut Output) -> Result<(), Failed> {
        if batch.last_offset < output.copied.log_end {
            return Ok(());
        }
        let all = (batch.base_offset, batch.last_offset);
        let batch = match cut(batch, self.wanted.until_ms, &mut output.ended) {
            Ok(Some(batch)) => batch,
            Ok(None) => return Ok(()),
            Err(why) => return self.lose(all, why, output),
        };
        let epochs = &mut output.record.leader_epochs;
        if epochs.last().is_none_or(|(last, _)| *last < batch.leader_epoch.0) {
            epochs.push((batch.leader_epoch.0, batch.base_offset.0));
        }
        let copied = &mut output.copied;
        copied.log_end = batch.last_offset.plus(1);
        copied.records += u64::try_from(batch.records_count).unwrap_or_default();
        copied.bytes += batch.bytes.len() as u64;
        if !self.wanted.dry_run {
            output.builder.append(batch).map_err(fatal)?;
        }
        if output.builder.body_bytes() >= SEGMENT_BYTES {
            self.put(output).await?;
        }
        Ok(())
    }

    /// Puts what has gathered as a segment that goes on where the one before ends.
    async fn put(&self, output: &mut Output) -> Result<(), Failed> {
        let builder = std::mem::replace(&mut output.builder, self.builder(output.id));
        if builder.is_empty() {
            return Ok(());
        }
        let encoded = builder.finish().ok_or_else(|| fatal("an empty segment"))?;
        let path = segment_path(&self.wanted.new_name, output.id, encoded.base_offset, 0);
        output.record.segments.push(SegmentRecord {
            base_offset: encoded.base_offset.0,
            last_offset: encoded.last_offset.0,
            size_bytes: encoded.size_bytes,
            max_timestamp_ms: encoded.max_timestamp_ms,
            min_timestamp_ms: None,
            disorder_ms: None,
            records: encoded.records,
            object: path.rsplit('/').next().unwrap_or(&path).to_owned(),
            compacted: false,
        });
        let path = Path::from(path);
        self.store.put(&path, PutPayload::from(encoded)).await.map_err(|e| fatal(format!("{path}: {e}")))?;
        Ok(())
    }

    /// Deletes what was written, as far as that goes: nobody knows of it.
    async fn undo(&self) {
        if self.wanted.dry_run {
            return;
        }
        for index in 0..self.source.partitions {
            if let Err(error) = self.delete_objects(index).await {
                tracing::warn!(error, "objects of a copy that failed are left over");
            }
        }
        let prefix = |prefix: String| Op::delete_prefix(prefix);
        let keys = self.metadata.keys();
        let txn = Txn::new()
            .and_then(prefix(keys.partitions_of_topic_prefix(self.new_id.0)))
            .and_then(prefix(keys.producers_of_topic_prefix(self.new_id.0)));
        if let Err(error) = self.metadata.store().txn(txn).await {
            tracing::warn!(%error, "records of a copy that failed are left over");
        }
    }

    async fn delete_objects(&self, index: i32) -> Result<(), String> {
        let id = PartitionId { topic: self.new_id, index };
        let directory = Path::from(directory(&self.wanted.new_name, id));
        let listed: Vec<_> =
            self.store.list(Some(&directory)).try_collect().await.map_err(|e| e.to_string())?;
        let paths = stream::iter(listed.into_iter().map(|object| Ok(object.location)).collect::<Vec<_>>());
        let mut deleted = self.store.delete_stream(paths.boxed());
        while let Some(outcome) = deleted.next().await {
            outcome.map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

/// The batches that chains hold above the segments, in the order of the log.
fn above(
    chains: &[ChainIndex],
    id: PartitionId,
    end: Offset,
    starts: &[(LeaderEpoch, Offset)],
) -> Vec<(ChainId, Found)> {
    let mut found: Vec<(ChainId, Found)> = Vec::new();
    for chain in chains {
        let batches = chain.by_partition.get(&id).map_or(&[][..], Vec::as_slice);
        found.extend(batches.iter().filter(|f| f.entry.last_offset >= end).map(|f| (chain.id, *f)));
    }
    take_out(&mut found, starts, |(_, f)| f.written());
    found
}

/// Why a batch of a chain was not read.
enum ChainBatch {
    Lost(String),
    Failed(Failed),
}

/// Objects that are lost behind the last batch that is known of a partition.
fn may_lack(chains: &[ChainIndex], id: PartitionId) -> Vec<String> {
    let mut objects = Vec::new();
    for chain in chains {
        let last = chain.batches(id).last().map(|found| found.seq);
        let behind = chain.lost.iter().filter(|lost| last.is_none_or(|last| last <= lost.seq));
        objects.extend(behind.map(|lost| chain.id.object(lost.seq).to_string()));
    }
    objects
}

/// What of a batch is before the first record that is later than the time; sets `ended` when there is one.
fn cut(batch: PlacedBatch, until_ms: i64, ended: &mut bool) -> Result<Option<PlacedBatch>, String> {
    if batch.max_timestamp_ms <= until_ms {
        return Ok(Some(batch));
    }
    let header = BatchHeader::parse(&batch.bytes).map_err(|e| e.to_string())?;
    let later = records::first_at_or_after(&header, &batch.bytes, until_ms.saturating_add(1));
    let Some((offset, _)) = later.map_err(|e| e.to_string())? else { return Ok(Some(batch)) };
    let kept = compaction::keep_below(&header, &batch.bytes, offset).map_err(|e| e.to_string())?;
    *ended = true;
    kept.map(|bytes| PlacedBatch::from_log(bytes).map_err(|e| e.to_string())).transpose()
}
