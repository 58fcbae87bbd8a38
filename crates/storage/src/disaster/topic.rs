//! One topic as it was at some time, under a new name, beside a cluster that runs or is stopped.
//!
//! A partition of the new topic has the records of the old one up to, but not including, the first whose timestamp is later than the
//! time; at the same offsets, in batches as they were sent, but for the last one, which may have to be cut. What retention or compaction
//! has taken out before is not there.
//!
//! Invariant: nothing of the old topic is changed, and the new one is there with all of its records or not at all: it is created when
//! they are in place.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use kafscale_core::batch::{BatchHeader, PlacedBatch};
use kafscale_core::compaction;
use kafscale_core::ids::{Offset, PartitionId, TopicId};
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
use crate::log::objects::footers::{ChainIndex, Found, read_chain};
use crate::log::objects::seal::{find_end, list};
use crate::segment::{ReadLimits, SegmentBuilder, SegmentReader, SegmentRef, segment_path};
use crate::store::open_store;
use crate::wal::chain_id::ChainId;
use crate::wal::object::HEADER_BYTES;

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
                match self.partition(index, &sources).await {
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
            match self.chains().await {
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
    async fn chains(&self) -> Result<Vec<ChainIndex>, Failed> {
        let keys = self.metadata.keys();
        let listed = self.metadata.store().range_all(&keys.chains_prefix()).await.map_err(fatal)?;
        let mut chains = Vec::new();
        for kv in listed.kvs {
            let Some((node_id, incarnation)) = keys.parse_chain(&kv.key) else { continue };
            let id = ChainId { node_id, incarnation };
            let ChainRecord { first_seq, sealed_at } =
                ChainRecord::decode(&kv.key, &kv.value).map_err(fatal)?;
            let end = match sealed_at {
                Some(end) => end,
                None => {
                    let objects = list(&*self.store, id).await.map_err(fatal)?;
                    find_end(&*self.store, id, first_seq, &objects).await.map_err(fatal)?.seq
                }
            };
            let record = ChainRecord { first_seq, sealed_at: Some(end) };
            let read = read_chain(&*self.store, id, &record).await;
            chains.push(
                read.map_err(|e| if e.is_missing() { Failed::Moved(e.to_string()) } else { fatal(e) })?,
            );
        }
        Ok(chains)
    }

    async fn partition(&self, index: i32, sources: &Sources) -> Result<Output, Failed> {
        let id = PartitionId { topic: TopicId(self.source.topic_id), index };
        let record = sources.records.get(&id).and_then(|r| r.partition.clone());
        let manifest = Manifest::from_records(&directory(&self.wanted.topic, id), record, None);
        let log_start = manifest.log_start;
        let segments_end =
            manifest.segments.last().map_or(log_start, |s| s.last_offset().plus(1)).max(log_start);
        let above = above(&sources.chains, id, segments_end);
        let source_end = above.last().map_or(segments_end, |(_, f)| f.entry.last_offset.plus(1));
        let mut output = self.output(index, log_start, source_end);
        for segment in &manifest.segments {
            self.copy_segment(&segment.at, &mut output).await?;
        }
        for (chain, found) in above {
            if output.ended {
                break;
            }
            let path = chain.object(found.seq);
            let at = HEADER_BYTES as u64 + found.entry.position;
            let read = self.store.get_range(&path, at..at + u64::from(found.entry.size_bytes)).await;
            let batch = PlacedBatch::from_log(read.map_err(|e| Failed::store(&path, &e))?).map_err(fatal)?;
            self.add(batch, &mut output).await?;
        }
        self.put(&mut output).await?;
        Ok(output)
    }

    fn output(&self, index: i32, log_start: Offset, source_end: Offset) -> Output {
        let id = PartitionId { topic: self.new_id, index };
        Output {
            id,
            record: PartitionRecord { log_start_offset: log_start.0, ..PartitionRecord::default() },
            builder: self.builder(id),
            copied: CopiedPartition { log_start, log_end: log_start, records: 0, bytes: 0, source_end },
            ended: false,
        }
    }

    fn builder(&self, id: PartitionId) -> SegmentBuilder {
        SegmentBuilder::new(id, self.now_ms, INDEX_INTERVAL_BYTES)
    }

    async fn copy_segment(&self, segment: &SegmentRef, output: &mut Output) -> Result<(), Failed> {
        let mut from = segment.base_offset.max(output.copied.log_end);
        while from <= segment.last_offset && !output.ended {
            let read = self.reader.read(segment, from, PIECE_BYTES, true).await.map_err(|e| {
                match e.is_not_found() {
                    true => Failed::Moved(e.to_string()),
                    false => fatal(e),
                }
            })?;
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

    /// Adds a batch, or what of it is not later than the time.
    async fn add(&self, batch: PlacedBatch, output: &mut Output) -> Result<(), Failed> {
        if batch.last_offset < output.copied.log_end {
            return Ok(());
        }
        let Some(batch) = cut(batch, self.wanted.until_ms, &mut output.ended).map_err(fatal)? else {
            return Ok(());
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
fn above(chains: &[ChainIndex], id: PartitionId, end: Offset) -> Vec<(ChainId, Found)> {
    let mut found: Vec<(ChainId, Found)> = Vec::new();
    for chain in chains {
        let batches = chain.by_partition.get(&id).map_or(&[][..], Vec::as_slice);
        found.extend(batches.iter().filter(|f| f.entry.last_offset >= end).map(|f| (chain.id, *f)));
    }
    found.sort_by_key(|(_, f)| (f.entry.leader_epoch, f.entry.base_offset));
    found
}

/// What of a batch is before the first record that is later than the time; sets `ended` when there is one.
fn cut(batch: PlacedBatch, until_ms: i64, ended: &mut bool) -> Result<Option<PlacedBatch>, String> {
    if batch.max_timestamp_ms <= until_ms {
        return Ok(Some(batch));
    }
    let header = BatchHeader::parse(&batch.bytes).map_err(|e| e.to_string())?;
    let later = records::first_at_or_after(&header, &batch.bytes, until_ms.saturating_add(1));
    let Some((offset, _)) = later.map_err(|e| e.to_string())? else { return Ok(Some(batch)) };
    *ended = true;
    let kept = compaction::keep_below(&header, &batch.bytes, offset).map_err(|e| e.to_string())?;
    kept.map(|bytes| PlacedBatch::from_log(bytes).map_err(|e| e.to_string())).transpose()
}
