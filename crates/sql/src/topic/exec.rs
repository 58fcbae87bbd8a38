//! Reads parts of a topic and gives rows. Parts are read at the same time; batches are decompressed and decoded on threads where that
//! keeps nobody waiting.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ScalarValue, Statistics};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream,
};
use futures_util::{Stream, StreamExt as _};
use kafscale_storage::scan::{Bounds, ScanError, ScannedBatch, Snapshot};
use parking_lot::Mutex;
use tokio::sync::mpsc::Sender;

use super::decode::{DecodeError, Decoded, Decoder};
use super::layout::{Layout, MetaColumn};
use crate::error::SqlError;
use crate::query::Counters;

/// Batches are decoded together up to this size, as they are stored.
const CHUNK_BYTES: usize = 1 << 20;
const CHUNK_RECORDS: i64 = 16 << 10;
/// Of one stream, at the same time.
const DECODING: usize = 2;
/// Rows that wait to be taken.
const WAITING: usize = 2;

/// A stretch of a partition that is read in order.
#[derive(Debug, Clone)]
pub struct Part {
    pub partition: i32,
    pub bounds: Bounds,
    /// About.
    pub bytes: u64,
    /// Only so many of its last records.
    pub tail: Option<u64>,
}

/// What a scan reads, by manifests and indexes alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    pub objects: u64,
    /// The objects that are segments; the others are of the write-ahead log.
    pub segments: u64,
    pub bytes: u64,
    /// `None`: only reading tells.
    pub records: Option<u64>,
    pub first_offset: Option<i64>,
    pub last_offset: Option<i64>,
}

impl Totals {
    /// Without exact numbers, unless `exact`.
    pub fn known_if(self, exact: bool) -> Totals {
        Totals { records: self.records.filter(|_| exact), ..self }
    }
}

/// What to read.
#[derive(Debug)]
pub struct Scan {
    pub snapshot: Snapshot,
    pub layout: Arc<Layout>,
    pub projection: Vec<usize>,
    /// Projected.
    pub schema: SchemaRef,
    pub parts: Vec<Part>,
    pub at_once: usize,
    pub limit: Option<usize>,
    pub totals: Totals,
    pub counters: Arc<Counters>,
}

#[derive(Debug)]
pub struct TopicExec {
    scan: Scan,
    /// What each stream reads, one part after the other.
    streams: Vec<Vec<Part>>,
    decoder: Arc<Decoder>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    /// Others read the rest: how many rows there are is known of the whole only.
    is_part: bool,
}

impl TopicExec {
    pub fn new(scan: Scan) -> TopicExec {
        let count = scan.parts.len().clamp(1, scan.at_once.max(1));
        TopicExec::with_streams(scan, count, false)
    }

    /// The part of a scan that one of several tasks does, in so many streams.
    pub fn part(scan: Scan, streams: usize) -> TopicExec {
        TopicExec::with_streams(scan, streams.max(1), true)
    }

    fn with_streams(scan: Scan, count: usize, is_part: bool) -> TopicExec {
        let streams = spread(&scan.parts, count);
        let decoder =
            Arc::new(Decoder::new(Arc::clone(&scan.layout), &scan.projection, Arc::clone(&scan.schema)));
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&scan.schema)),
            Partitioning::UnknownPartitioning(streams.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        TopicExec { scan, streams, decoder, properties, metrics: ExecutionPlanMetricsSet::new(), is_part }
    }

    pub fn scan(&self) -> &Scan {
        &self.scan
    }

    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    pub fn topic(&self) -> &str {
        &self.scan.layout.topic
    }

    pub fn totals(&self) -> &Totals {
        &self.scan.totals
    }
}

/// The largest part to the stream that has least so far, of `count` streams.
fn spread(parts: &[Part], count: usize) -> Vec<Vec<Part>> {
    let mut streams: Vec<(u64, Vec<Part>)> = vec![(0, Vec::new()); count];
    let mut sorted: Vec<&Part> = parts.iter().collect();
    sorted.sort_by_key(|part| (std::cmp::Reverse(part.bytes), part.partition, part.bounds.offsets.start));
    for part in sorted {
        let (bytes, stream) =
            streams.iter_mut().min_by_key(|(bytes, stream)| (*bytes, stream.len())).expect("there is one");
        *bytes += part.bytes;
        stream.push(part.clone());
    }
    let mut streams: Vec<Vec<Part>> = streams.into_iter().map(|(_, stream)| stream).collect();
    for stream in &mut streams {
        stream.sort_by_key(|part| (part.partition, part.bounds.offsets.start));
    }
    streams
}

impl DisplayAs for TopicExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { objects, segments, bytes, .. } = self.scan.totals;
        let columns: Vec<&str> =
            self.scan.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(
            f,
            "TopicExec: topic={}, segments={segments}, wal_objects={}, bytes={bytes}, streams={}, columns=[{}]",
            self.topic(),
            objects - segments,
            self.streams.len(),
            columns.join(", ")
        )?;
        match self.scan.limit {
            Some(limit) => write!(f, ", limit={limit}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for TopicExec {
    fn name(&self) -> &'static str {
        "TopicExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut builder = RecordBatchReceiverStream::builder(Arc::clone(&self.scan.schema), WAITING);
        let reader = Reader {
            snapshot: self.scan.snapshot.clone(),
            decoder: Arc::clone(&self.decoder),
            counters: Arc::clone(&self.scan.counters),
            metrics: BaselineMetrics::new(&self.metrics, partition),
            rows: builder.tx(),
            left: AtomicUsize::new(self.scan.limit.unwrap_or(usize::MAX)),
            object: Mutex::default(),
        };
        let parts = self.streams[partition].clone();
        builder.spawn(async move {
            for part in parts {
                if !reader.read(&part).await? {
                    break;
                }
            }
            Ok(())
        });
        Ok(builder.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.scan.schema);
        let totals = &self.scan.totals;
        let Some(records) = totals.records.and_then(|records| usize::try_from(records).ok()) else {
            return Ok(Arc::new(statistics));
        };
        if args.partition().is_some() || self.scan.limit.is_some() || self.is_part {
            return Ok(Arc::new(statistics));
        }
        statistics.num_rows = Precision::Exact(records);
        let offset = self.scan.schema.index_of(MetaColumn::Offset.name());
        if let (Ok(at), Some(first), Some(last), true) =
            (offset, totals.first_offset, totals.last_offset, records > 0)
        {
            let column = &mut statistics.column_statistics[at];
            column.min_value = Precision::Exact(ScalarValue::Int64(Some(first)));
            column.max_value = Precision::Exact(ScalarValue::Int64(Some(last)));
            column.null_count = Precision::Exact(0);
        }
        Ok(Arc::new(statistics))
    }
}

/// One stream while it is read.
struct Reader {
    snapshot: Snapshot,
    decoder: Arc<Decoder>,
    counters: Arc<Counters>,
    metrics: BaselineMetrics,
    rows: Sender<Result<RecordBatch>>,
    /// Rows until the limit.
    left: AtomicUsize,
    /// The object that is being read.
    object: Mutex<Option<Arc<str>>>,
}

impl Reader {
    /// `false`: no more rows are wanted.
    async fn read(&self, part: &Part) -> Result<bool> {
        match part.tail {
            Some(count) => self.read_tail(part, count).await,
            None => self.read_range(part.partition, part.bounds.clone()).await,
        }
    }

    async fn read_range(&self, partition: i32, bounds: Bounds) -> Result<bool> {
        let offsets = bounds.offsets.clone();
        let mut chunks = std::pin::pin!(chunks(self.snapshot.read(partition, bounds)));
        let mut decoding = VecDeque::with_capacity(DECODING);
        loop {
            let chunk = if decoding.len() < DECODING { chunks.next().await } else { None };
            match chunk {
                Some(chunk) => decoding.push_back(self.decode(chunk?, &offsets)),
                None => match decoding.pop_front() {
                    Some(task) => {
                        if !self.give(joined(task).await?.rows).await {
                            return Ok(false);
                        }
                    }
                    None => return Ok(true),
                },
            }
        }
    }

    /// The last records. Offsets may be missing, so that more of them may have to be looked at than there are records to give.
    async fn read_tail(&self, part: &Part, count: u64) -> Result<bool> {
        let whole = &part.bounds.offsets;
        let mut span = i64::try_from(count).unwrap_or(i64::MAX).max(1);
        loop {
            let start = whole.end.saturating_sub(span).max(whole.start);
            let offsets = start..whole.end;
            let mut chunks =
                std::pin::pin!(chunks(self.snapshot.read(part.partition, Bounds::offsets(offsets.clone()))));
            let (mut found, mut rows) = (VecDeque::new(), 0);
            while let Some(chunk) = chunks.next().await {
                let decoded = joined(self.decode(chunk?, &offsets)).await?;
                rows += decoded.rows.num_rows() as u64;
                found.push_back(decoded.rows);
            }
            if rows >= count || start == whole.start {
                return self.give_last(found, rows, count).await;
            }
            span = span.saturating_mul(4);
        }
    }

    async fn give_last(&self, found: VecDeque<RecordBatch>, rows: u64, count: u64) -> Result<bool> {
        let mut surplus = usize::try_from(rows.saturating_sub(count)).unwrap_or(usize::MAX);
        for batch in found {
            let skipped = surplus.min(batch.num_rows());
            surplus -= skipped;
            if skipped < batch.num_rows()
                && !self.give(batch.slice(skipped, batch.num_rows() - skipped)).await
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn decode(&self, chunk: Vec<ScannedBatch>, offsets: &Range<i64>) -> SpawnedTask<Result<Decoded>> {
        let (decoder, counters, offsets) =
            (Arc::clone(&self.decoder), Arc::clone(&self.counters), offsets.clone());
        self.count_objects(&chunk);
        SpawnedTask::spawn_blocking(move || {
            let bytes: usize = chunk.iter().map(|batch| batch.data.len()).sum();
            let decoded = decoder.decode(&chunk, &offsets).map_err(|error| match error {
                DecodeError::Registry(error) => SqlError::Registry(Arc::new(error)).into(),
                other => DataFusionError::External(Box::new(other)),
            })?;
            counters.add(decoded.rows.num_rows() as u64, bytes as u64, decoded.misfits);
            counters.add_reasons(&decoded.reasons);
            Ok(decoded)
        })
    }

    fn count_objects(&self, chunk: &[ScannedBatch]) {
        let mut object = self.object.lock();
        for batch in chunk {
            if object.as_deref() != Some(&*batch.object) {
                self.counters.objects.fetch_add(1, Ordering::Relaxed);
                *object = Some(Arc::clone(&batch.object));
            }
        }
    }

    /// `false`: no more are wanted.
    async fn give(&self, rows: RecordBatch) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        let rows = if rows.num_rows() > left { rows.slice(0, left) } else { rows };
        self.left.store(left - rows.num_rows(), Ordering::Relaxed);
        self.metrics.record_output(rows.num_rows());
        if rows.num_rows() > 0 && self.rows.send(Ok(rows)).await.is_err() {
            return false;
        }
        self.left.load(Ordering::Relaxed) > 0
    }
}

async fn joined(task: SpawnedTask<Result<Decoded>>) -> Result<Decoded> {
    task.join().await.map_err(|e| DataFusionError::External(Box::new(e)))?
}

/// Batches that are worth decoding together.
fn chunks(
    batches: impl Stream<Item = std::result::Result<ScannedBatch, ScanError>> + Send,
) -> impl Stream<Item = Result<Vec<ScannedBatch>>> + Send {
    let batches = Box::pin(batches.fuse());
    futures_util::stream::try_unfold(batches, |mut batches| async move {
        let (mut chunk, mut bytes, mut records) = (Vec::new(), 0, 0);
        while bytes < CHUNK_BYTES && records < CHUNK_RECORDS {
            match batches.next().await {
                Some(Ok(batch)) => {
                    bytes += batch.data.len();
                    records += i64::from(batch.header.records_count);
                    chunk.push(batch);
                }
                Some(Err(error)) => return Err(SqlError::from(error).into()),
                None => break,
            }
        }
        Ok((!chunk.is_empty()).then_some((chunk, batches)))
    })
}
