//! A topic as of one moment, as the engine's table.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kafscale_storage::scan::{Bounds, Piece, PieceSource, Snapshot};

use super::bounds::{Wanted, pushdown};
use super::exec::{Part, TopicExec, Totals};
use super::layout::Layout;
use crate::error::SqlError;
use crate::query::{Counters, Query};

/// Partitions that are looked at together.
const PARTITIONS_AT_ONCE: usize = 16;
/// Less is not worth reading in several parts.
const PART_BYTES_MIN: u64 = 8 << 20;

#[derive(Debug)]
pub struct TopicTable {
    snapshot: Snapshot,
    layout: Arc<Layout>,
    /// Only so many of the last records of each partition.
    tail: Option<u64>,
    query: Arc<Query>,
    counters: Arc<Counters>,
}

impl TopicTable {
    pub fn new(
        snapshot: Snapshot,
        layout: Arc<Layout>,
        tail: Option<u64>,
        query: Arc<Query>,
        counters: Arc<Counters>,
    ) -> TopicTable {
        TopicTable { snapshot, layout, tail, query, counters }
    }

    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The same columns of the same topic, as of another moment.
    pub fn with_snapshot(&self, snapshot: Snapshot) -> TopicTable {
        TopicTable {
            snapshot,
            layout: Arc::clone(&self.layout),
            tail: self.tail,
            query: Arc::clone(&self.query),
            counters: Arc::clone(&self.counters),
        }
    }

    /// What is to be read of each partition, and what that costs.
    async fn pieces(&self, wanted: &Wanted) -> Result<Vec<(Bounds, i32, Vec<Piece>)>> {
        let ranges = self.snapshot.ranges().into_iter().filter(|range| wanted.has_partition(range.partition));
        let of_partition = |range: kafscale_storage::scan::Range| {
            let mut bounds = wanted.bounds();
            // The ends of a snapshot are known, so that parts can be made.
            bounds.offsets.start = bounds.offsets.start.max(range.start);
            bounds.offsets.end = bounds.offsets.end.min(range.end).max(bounds.offsets.start);
            async move {
                let pieces = self.snapshot.pieces(range.partition, &bounds).await.map_err(SqlError::from)?;
                Ok::<_, SqlError>((bounds, range.partition, pieces))
            }
        };
        let found = stream::iter(ranges).map(of_partition).buffered(PARTITIONS_AT_ONCE);
        Ok(found.try_collect().await?)
    }

    fn check_scan_limit(&self, wanted: &Wanted, limit: Option<usize>, totals: &Totals) -> Result<()> {
        let Some(most) = self.query.limits.scan_bytes else { return Ok(()) };
        if totals.bytes <= most || wanted.is_bounded() || self.tail.is_some() || limit.is_some() {
            return Ok(());
        }
        let topic = &self.layout.topic;
        let refused = SqlError::TooMuch {
            message: format!(
                "this would read {} bytes of {topic} in {} objects, which is more than the limit of {most} (--scan-limit)",
                totals.bytes, totals.objects
            ),
            hint: format!(
                "Add a bound on time or offsets: FROM {topic} LAST 1h, WHERE _ts >= …, WHERE _offset >= …; or end the query with SCAN FULL."
            ),
        };
        Err(refused.into())
    }
}

#[async_trait]
impl TableProvider for TopicTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.layout.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // The last records are those of the whole partition, not the last ones that a condition leaves over.
        let treated = |filter: &&Expr| match self.tail {
            Some(_) => TableProviderFilterPushDown::Unsupported,
            None => pushdown(filter),
        };
        Ok(filters.iter().map(treated).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted = Wanted::of(filters);
        let found = self.pieces(&wanted).await?;
        let totals = Totals::of(found.iter().flat_map(|(.., pieces)| pieces));
        self.check_scan_limit(&wanted, limit, &totals)?;
        let projection: Vec<usize> = match projection {
            Some(projection) => projection.clone(),
            None => (0..self.layout.schema.fields().len()).collect(),
        };
        let schema: Arc<Schema> = Arc::new(self.layout.schema.project(&projection)?);
        let at_once = state.config().target_partitions();
        let mut parts = Vec::new();
        for (bounds, partition, pieces) in &found {
            let bytes: u64 = pieces.iter().map(|piece| piece.bytes).sum();
            if bytes > 0 {
                let count = if limit.is_some() || self.tail.is_some() { 1 } else { at_once };
                parts.extend(split(*partition, bounds, bytes, count, self.tail));
            }
        }
        let exact = self.tail.is_none() && !wanted.bounds_time();
        let exec = TopicExec::new(super::exec::Scan {
            snapshot: self.snapshot.clone(),
            layout: Arc::clone(&self.layout),
            projection,
            schema,
            parts,
            at_once,
            limit,
            totals: totals.known_if(exact),
            counters: Arc::clone(&self.counters),
        });
        Ok(Arc::new(exec))
    }
}

/// Parts of about the same size, to be read at the same time.
fn split(partition: i32, bounds: &Bounds, bytes: u64, at_once: usize, tail: Option<u64>) -> Vec<Part> {
    let offsets = &bounds.offsets;
    let most = u64::try_from(at_once).unwrap_or(1).max(1);
    let count = i64::try_from((bytes / PART_BYTES_MIN).clamp(1, most)).unwrap_or(1);
    let step = ((offsets.end - offsets.start) / count).max(1);
    let mut parts = Vec::new();
    let mut start = offsets.start;
    for at in 1..=count {
        let end = if at == count { offsets.end } else { (start + step).min(offsets.end) };
        if start < end {
            parts.push(Part {
                partition,
                bounds: Bounds { offsets: start..end, ..bounds.clone() },
                bytes: bytes / u64::try_from(count).unwrap_or(1),
                tail,
            });
        }
        start = end;
    }
    parts
}

impl Totals {
    fn of<'a>(pieces: impl Iterator<Item = &'a Piece>) -> Totals {
        let mut totals = Totals { records: Some(0), ..Totals::default() };
        for piece in pieces {
            totals.objects += 1;
            totals.segments += u64::from(piece.source == PieceSource::Segment);
            totals.bytes += piece.bytes;
            let records = piece.records.filter(|_| !piece.compacted);
            totals.records = totals.records.zip(records).map(|(all, more)| all + more);
            totals.first_offset =
                Some(totals.first_offset.map_or(piece.first_offset, |o| o.min(piece.first_offset)));
            totals.last_offset = totals.last_offset.max(Some(piece.last_offset));
        }
        totals
    }
}
