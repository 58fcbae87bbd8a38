//! The step of a plan that shapes what comes from a source: rows that the rules keep back are dropped, and values masked. Nothing
//! of the optimizer looks through it or moves anything past it.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use arrow::array::{ArrayRef, AsArray as _, BooleanArray, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
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

/// What is done to each batch.
#[derive(Debug)]
pub struct Shaping {
    pub table: TableName,
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    pub outputs: Vec<Output>,
    pub schema: SchemaRef,
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
        Ok(Box::pin(Shaped { rows, shaping: Arc::clone(&self.shaping) }))
    }
}

struct Shaped {
    rows: SendableRecordBatchStream,
    shaping: Arc<Shaping>,
}

impl Stream for Shaped {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Poll::Ready(next) = self.rows.poll_next_unpin(cx) else { return Poll::Pending };
            let Some(batch) = next else { return Poll::Ready(None) };
            let batch = batch.map_err(|error| source_failed(&self.shaping.table, error));
            let shaped = batch.and_then(|batch| self.shaping.shape(&batch));
            match shaped {
                Ok(batch) if batch.num_rows() == 0 => {}
                shaped => return Poll::Ready(Some(shaped)),
            }
        }
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

    /// Which rows the rules let through; where it is NULL, it is none of them. What they cannot be evaluated on is not told, and neither is why.
    fn permitted(&self, filter: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<BooleanArray> {
        let evaluated = filter.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
        match evaluated {
            Ok(values) if values.data_type() == &DataType::Boolean => Ok(values.as_boolean().clone()),
            Ok(values) => {
                let kind = values.data_type();
                Err(filter_failed(&self.table, &DataFusionError::Plan(format!("it is of the type {kind}"))))
            }
            // Its text may have a value of a row in it.
            Err(_) => Err(filter_failed(&self.table, &DataFusionError::Plan("it fails on a row".to_owned()))),
        }
    }
}
