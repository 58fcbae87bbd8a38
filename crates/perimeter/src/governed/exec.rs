//! The step of a plan that shapes what comes from a source: rows that the rules keep back are dropped, and values masked. Nothing
//! of the optimizer looks through it or moves anything past it.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use arrow::array::{
    ArrayRef, AsArray as _, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, UInt64Array,
};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef, UInt64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures_util::{Stream, StreamExt as _};

use super::{filter_failed, masks, source_failed};
use crate::shape::{Mask, TableName};

/// Rows that are mixed at once, and bytes of them, whichever are fewer.
const MIXED_ROWS: usize = 1 << 16;
const MIXED_BYTES: usize = 16 << 20;
/// Rows of a batch that leaves.
const EMITTED_ROWS: usize = 1 << 13;
/// The inputs have the properties of those before.
const KEPT: ReplaceChildrenOptions = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);

/// Where a column of the output comes from.
#[derive(Debug, Clone)]
pub enum Output {
    /// A column of the input.
    Column { at: usize, mask: Option<Mask> },
    /// A hash of all columns of the input, whether they are shown or not.
    RowKey,
}

impl Output {
    fn is_masked(&self) -> bool {
        matches!(self, Output::Column { mask: Some(_), .. })
    }
}

/// Nobody outside knows which rows have which keys.
static ROW_KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

fn row_keys(batch: &RecordBatch) -> Result<ArrayRef> {
    let fields = batch.columns().iter().map(|column| SortField::new(column.data_type().clone()));
    let rows = RowConverter::new(fields.collect())?.convert_columns(batch.columns())?;
    Ok(Arc::new(rows.iter().map(|row| ROW_KEYS.hash_one(row.as_ref())).collect::<UInt64Array>()))
}

/// How many rows are mixed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixed {
    /// The statement wants the first ones only, and a source may ask for each page.
    Few,
    Many,
}

/// What is done to each batch.
#[derive(Debug)]
pub struct Shaping {
    pub table: TableName,
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    pub outputs: Vec<Output>,
    pub schema: SchemaRef,
    /// Rows leave in an order that tells nothing of theirs in the source, which may be by a column that is masked or not shown.
    pub mixed: Option<Mixed>,
}

#[derive(Debug)]
pub struct GovernedExec {
    input: Arc<dyn ExecutionPlan>,
    shaping: Arc<Shaping>,
    properties: Arc<PlanProperties>,
}

impl GovernedExec {
    pub fn new(input: Arc<dyn ExecutionPlan>, shaping: Arc<Shaping>) -> GovernedExec {
        let of_input = input.properties();
        // Neither order nor equality of values of the source is known of masked ones.
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&shaping.schema)),
            datafusion::physical_expr::Partitioning::UnknownPartitioning(
                of_input.partitioning.partition_count(),
            ),
            of_input.emission_type,
            of_input.boundedness,
        );
        GovernedExec { input, shaping, properties: Arc::new(properties) }
    }
}

impl DisplayAs for GovernedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shaping = &self.shaping;
        let masked = shaping.outputs.iter().filter(|output| output.is_masked()).count();
        let rows = if shaping.filter.is_some() { "some rows" } else { "all rows" };
        write!(
            f,
            "GovernedExec: {}, {rows}, {masked} of {} columns masked",
            shaping.table,
            shaping.outputs.len()
        )
    }
}

impl ExecutionPlan for GovernedExec {
    fn name(&self) -> &str {
        "GovernedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.input));
        Ok(Arc::new(GovernedExec::new(input, Arc::clone(&self.shaping))))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, KEPT)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let shaping = Arc::clone(&self.shaping);
        Ok(Box::pin(Shaped { rows, shaping, waiting: Waiting::default(), mixed: VecDeque::new() }))
    }
}

struct Shaped {
    rows: SendableRecordBatchStream,
    shaping: Arc<Shaping>,
    waiting: Waiting,
    /// Rows that were mixed already.
    mixed: VecDeque<RecordBatch>,
}

/// Rows that are mixed together: more at once, and less is left of their order.
#[derive(Debug, Default)]
struct Waiting {
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl Waiting {
    fn add(&mut self, batch: RecordBatch) {
        self.rows += batch.num_rows();
        self.bytes += batch.get_array_memory_size();
        self.batches.push(batch);
    }

    fn is_full(&self, mixed: Option<Mixed>) -> bool {
        let rows = match mixed {
            Some(Mixed::Few) => EMITTED_ROWS,
            Some(Mixed::Many) | None => MIXED_ROWS,
        };
        self.rows >= rows || self.bytes >= MIXED_BYTES
    }

    /// All of them, in an order that nobody outside knows, and the same each time.
    fn mixed(&mut self, schema: &SchemaRef) -> Result<VecDeque<RecordBatch>> {
        let Waiting { batches, rows, .. } = std::mem::take(self);
        if rows == 0 {
            return Ok(VecDeque::new());
        }
        let all = concat_batches(schema, &batches)?;
        let keys: Vec<u64> = match row_keys(&all) {
            Ok(keys) => keys.as_primitive::<UInt64Type>().values().to_vec(),
            // Of types that have no order.
            Err(_) => (0..rows).map(|_| uuid::Uuid::new_v4().as_u64_pair().0).collect(),
        };
        let mut order: Vec<u32> = (0..).take(rows).collect();
        order.sort_by_key(|at| keys.get(*at as usize));
        let all = take_record_batch(&all, &UInt32Array::from(order))?;
        let starts = (0..rows).step_by(EMITTED_ROWS);
        Ok(starts.map(|start| all.slice(start, EMITTED_ROWS.min(rows - start))).collect())
    }
}

impl Stream for Shaped {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let batch = match self.mixed.pop_front() {
                Some(batch) => Ok(batch),
                None => {
                    let Poll::Ready(next) = self.rows.poll_next_unpin(cx) else { return Poll::Pending };
                    match next {
                        Some(Ok(batch)) if self.shaping.mixed.is_some() && batch.num_columns() > 0 => {
                            self.waiting.add(batch);
                            if self.waiting.is_full(self.shaping.mixed) {
                                self.mix()?;
                            }
                            continue;
                        }
                        Some(batch) => batch.map_err(|error| source_failed(&self.shaping.table, error)),
                        None if self.waiting.rows == 0 => return Poll::Ready(None),
                        None => {
                            self.mix()?;
                            continue;
                        }
                    }
                }
            };
            let shaped = batch.and_then(|batch| self.shaping.shape(&batch));
            match shaped {
                Ok(batch) if batch.num_rows() == 0 => {}
                shaped => return Poll::Ready(Some(shaped)),
            }
        }
    }
}

impl Shaped {
    fn mix(&mut self) -> Result<()> {
        let schema = self.rows.schema();
        self.mixed = self.waiting.mixed(&schema)?;
        Ok(())
    }
}

impl RecordBatchStream for Shaped {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.shaping.schema)
    }
}

impl Shaping {
    fn shape(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let kept;
        let batch = match &self.filter {
            Some(filter) => {
                kept = filter_record_batch(batch, &self.permitted(filter, batch)?)?;
                &kept
            }
            None => batch,
        };
        let columns = self.outputs.iter().map(|output| match output {
            Output::Column { at, mask: Some(mask) } => Ok(masks::apply(mask, batch.column(*at))),
            Output::Column { at, mask: None } => Ok(Arc::clone(batch.column(*at))),
            Output::RowKey => row_keys(batch),
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// Which rows the rules let through. Where that is NULL, or cannot be told of a row, it is none of them: an error would tell of
    /// rows of others, since the source may have applied conditions of the caller before.
    fn permitted(&self, filter: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<BooleanArray> {
        let evaluated = filter.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
        match evaluated {
            Ok(values) if values.data_type() == &DataType::Boolean => Ok(values.as_boolean().clone()),
            Ok(values) => {
                let kind = values.data_type();
                Err(filter_failed(&self.table, &DataFusionError::Plan(format!("it is of the type {kind}"))))
            }
            Err(_) if batch.num_rows() <= 1 => {
                // The text of the error may have a value of the row in it.
                tracing::warn!(table = %self.table, "a row filter of the rules fails on a row, which is shown to nobody");
                Ok(BooleanArray::from(vec![false; batch.num_rows()]))
            }
            Err(_) => {
                let half = batch.num_rows() / 2;
                let first = self.permitted(filter, &batch.slice(0, half))?;
                let second = self.permitted(filter, &batch.slice(half, batch.num_rows() - half))?;
                Ok(first.iter().chain(second.iter()).collect())
            }
        }
    }
}
