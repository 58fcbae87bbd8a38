//! A step that lets rows through as they are, and fails where two of them have the same key.
//!
//! It is over what a table of held rows is joined to: each held row has one partner then at most, and none weighs more than another.
//! The rows here are not held, so that their caller may know of them.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::sync::Arc;

use arrow::array::{Array as _, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::DFSchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, PlanProperties};
use futures_util::StreamExt as _;

use super::Refused;

const KEPT: ReplaceChildrenOptions = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);

/// The step in a logical plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    input: LogicalPlan,
    /// Columns of the input, by their places.
    keys: Vec<usize>,
}

impl Unique {
    pub fn new(input: LogicalPlan, keys: Vec<usize>) -> Unique {
        Unique { input, keys }
    }

    /// The step as it is executed.
    pub fn physical(&self, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(UniqueExec::new(input, self.keys.clone().into()))
    }
}

impl Hash for Unique {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.keys.hash(state);
    }
}

impl PartialOrd for Unique {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.keys.partial_cmp(&other.keys)
    }
}

impl UserDefinedLogicalNodeCore for Unique {
    fn name(&self) -> &str {
        "Unique"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Unique")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let input = inputs.into_iter().next().unwrap_or_else(|| self.input.clone());
        Ok(Unique { input, keys: self.keys.clone() })
    }
}

#[derive(Debug)]
struct UniqueExec {
    input: Arc<dyn ExecutionPlan>,
    keys: Arc<[usize]>,
    properties: Arc<PlanProperties>,
}

impl UniqueExec {
    fn new(input: Arc<dyn ExecutionPlan>, keys: Arc<[usize]>) -> UniqueExec {
        let of_input = input.properties();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            Partitioning::UnknownPartitioning(1),
            of_input.emission_type,
            of_input.boundedness,
        );
        UniqueExec { input, keys, properties: Arc::new(properties) }
    }
}

impl DisplayAs for UniqueExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UniqueExec")
    }
}

impl ExecutionPlan for UniqueExec {
    fn name(&self) -> &str {
        "UniqueExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition]
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
        Ok(Arc::new(UniqueExec::new(input, Arc::clone(&self.keys))))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, KEPT)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let memory = MemoryConsumer::new("Unique").register(context.memory_pool());
        let mut seen = Seen::new(&self.schema(), &self.keys)?;
        let rows = self.input.execute(partition, context)?.map(move |batch| {
            let batch = batch?;
            memory.try_grow(batch.num_rows() * 2 * size_of::<u64>())?;
            seen.take(&batch)?;
            Ok::<_, DataFusionError>(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// Keys that were there, as hashes.
struct Seen {
    places: Vec<usize>,
    converter: RowConverter,
    keys: HashSet<u64>,
    state: RandomState,
}

impl Seen {
    fn new(schema: &SchemaRef, places: &[usize]) -> Result<Seen> {
        let schema: &Schema = schema;
        let fields = places.iter().map(|at| SortField::new(schema.field(*at).data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        Ok(Seen { places: places.to_vec(), converter, keys: HashSet::new(), state: RandomState::new() })
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let columns: Vec<_> = self.places.iter().map(|at| Arc::clone(batch.column(*at))).collect();
        let keys = self.converter.convert_columns(&columns)?;
        for (at, key) in keys.iter().enumerate() {
            // NULL is equal to nothing.
            if columns.iter().any(|column| column.is_null(at)) {
                continue;
            }
            if !self.keys.insert(self.state.hash_one(key.as_ref())) {
                return Err(Refused::new(
                    "rows that leave only in groups are joined here to a table that has several rows for one of them, so that some would \
                     weigh more than others"
                        .to_owned(),
                    "join on columns that are unique in the other table, or make it unique before: (SELECT DISTINCT …), or GROUP BY"
                        .to_owned(),
                )
                .into());
            }
        }
        Ok(())
    }
}
