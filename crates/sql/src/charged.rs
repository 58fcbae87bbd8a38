//! Memory of windows, which the engine does not count.
//!
//! A window over whole partitions holds all of its rows before it gives the first one. One that
//! goes along with its rows holds those whose results are not known yet and those that a later
//! frame may begin with, which is all of a partition where the frame grows. Here both are charged
//! to the limit of all queries as rows come in, and given back when the window does not hold them
//! any more.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::partition;
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::window::{StandardWindowExpr, WindowExpr};
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, InputOrderMode};
use futures_util::{Stream, StreamExt as _};

use crate::running::batch_bytes;
use crate::through::{KEPT, ThroughExec, with_extension};

/// Rows are put together into one batch, and are there twice meanwhile.
const COPIES: u64 = 2;
/// So many rows before the current one are not worth counting.
const FEW_ROWS: u64 = 10_000;

/// The same plan, with what its windows hold charged.
pub fn charged(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let of_step = |step: Arc<dyn ExecutionPlan>| {
        let is_bounded = step.downcast_ref::<BoundedWindowAggExec>().is_some();
        if !is_bounded && step.downcast_ref::<WindowAggExec>().is_none() {
            return Ok(Transformed::no(step));
        }
        let charge = |input| ThroughExec::of("ChargedExec", input, charge);
        let inputs = step.children().into_iter().map(charge).collect();
        let step = step.replace_children(inputs, KEPT)?;
        Ok(Transformed::yes(match is_bounded {
            true => ThroughExec::of("CountedExec", &step, counted),
            false => step,
        }))
    };
    Ok(plan.transform_up(of_step)?.data)
}

/// What a window that goes along holds, between what comes in and what goes out.
struct Held {
    /// Rows whose results are not given yet.
    pending: AtomicU64,
    keeps: Keeps,
}

/// Rows whose results are given and that are held all the same.
enum Keeps {
    Few,
    All,
    /// Those of the last partition that has come, by what partitions are told apart.
    Partition(Vec<Arc<dyn PhysicalExpr>>),
}

impl Keeps {
    fn of(window: &BoundedWindowAggExec) -> Keeps {
        let by = window.window_expr().first().map_or(&[][..], |expr| expr.partition_by());
        match (window.window_expr().iter().any(keeps_rows), &window.input_order_mode) {
            (false, _) => Keeps::Few,
            (true, InputOrderMode::Sorted) if !by.is_empty() => Keeps::Partition(by.to_vec()),
            (true, _) => Keeps::All,
        }
    }
}

/// Of functions that are no aggregates, the engine forgets rows that they do not look back to.
fn keeps_rows(expr: &Arc<dyn WindowExpr>) -> bool {
    let frame = expr.get_window_frame();
    match &frame.start_bound {
        _ if expr.as_any().is::<StandardWindowExpr>() => false,
        WindowFrameBound::Preceding(rows) => frame.units != WindowFrameUnits::Rows || !is_few(rows),
        WindowFrameBound::CurrentRow | WindowFrameBound::Following(_) => false,
    }
}

/// Without a bound there are NULL rows.
fn is_few(rows: &ScalarValue) -> bool {
    match rows {
        ScalarValue::UInt64(rows) => rows.is_some_and(|rows| rows <= FEW_ROWS),
        ScalarValue::Int64(rows) => rows.is_some_and(|rows| rows.unsigned_abs() <= FEW_ROWS),
        _ => false,
    }
}

/// Executes a window that goes along, and counts what it gives.
fn counted(
    window: &dyn ExecutionPlan,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let keeps = window.downcast_ref::<BoundedWindowAggExec>().map_or(Keeps::All, Keeps::of);
    let held = Arc::new(Held { pending: AtomicU64::new(0), keeps });
    let rows = window.execute(partition, with_extension(&context, Arc::clone(&held)))?;
    Ok(Box::pin(Counted { rows, held }))
}

struct Counted {
    rows: SendableRecordBatchStream,
    held: Arc<Held>,
}

impl Stream for Counted {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.rows.poll_next_unpin(cx);
        if let Poll::Ready(Some(Ok(batch))) = &next {
            self.held.pending.fetch_sub(batch.num_rows() as u64, Ordering::Relaxed);
        }
        next
    }
}

impl RecordBatchStream for Counted {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
}

fn charge(
    input: &dyn ExecutionPlan,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let reservation = MemoryConsumer::new("Window").register(context.memory_pool());
    let held = context.session_config().get_extension::<Held>();
    let rows = input.execute(partition, context)?;
    Ok(Box::pin(Charged { rows, reservation, held, all: Sum::default(), kept: 0, last: Vec::new() }))
}

/// What has come so far.
#[derive(Default)]
struct Sum {
    rows: u64,
    bytes: u64,
}

/// Holds the charge until it is dropped, which the window does at its own end.
struct Charged {
    rows: SendableRecordBatchStream,
    reservation: MemoryReservation,
    /// `None`: the window holds all.
    held: Option<Arc<Held>>,
    all: Sum,
    /// Rows of the last partition, and what they are told by.
    kept: u64,
    last: Vec<ScalarValue>,
}

impl Charged {
    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = batch.num_rows() as u64;
        self.all.rows += rows;
        self.all.bytes += batch_bytes(batch);
        let Some(held) = self.held.clone() else { return self.charge(self.all.rows) };
        let pending = held.pending.fetch_add(rows, Ordering::Relaxed) + rows;
        match &held.keeps {
            Keeps::Few => self.kept = 0,
            Keeps::All => self.kept = self.all.rows,
            Keeps::Partition(by) => self.keep_last(by, batch)?,
        }
        self.charge(pending.max(self.kept))
    }

    /// Rows are as large as all are on average.
    fn charge(&self, rows: u64) -> Result<()> {
        let bytes = u128::from(self.all.bytes) * u128::from(rows) / u128::from(self.all.rows.max(1));
        self.reservation.try_resize(usize::try_from(bytes * u128::from(COPIES)).unwrap_or(usize::MAX))
    }

    fn keep_last(&mut self, by: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<()> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let of_batch = |by: &Arc<dyn PhysicalExpr>| by.evaluate(batch)?.into_array(rows);
        let columns = by.iter().map(of_batch).collect::<Result<Vec<ArrayRef>>>()?;
        let at = |row: usize| {
            columns.iter().map(|column| ScalarValue::try_from_array(column, row)).collect::<Result<Vec<_>>>()
        };
        let ranges = partition(&columns)?.ranges();
        let of_last = ranges.last().map_or(rows, |range| range.end - range.start) as u64;
        let goes_on = ranges.len() <= 1 && self.last == at(0)?;
        self.kept = if goes_on { self.kept + of_last } else { of_last };
        self.last = at(rows - 1)?;
        Ok(())
    }
}

impl Stream for Charged {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Poll::Ready(next) = self.rows.poll_next_unpin(cx) else { return Poll::Pending };
        let Some(Ok(batch)) = next else { return Poll::Ready(next) };
        Poll::Ready(Some(self.add(&batch).map(|()| batch)))
    }
}

impl RecordBatchStream for Charged {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
}
