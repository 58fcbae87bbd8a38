//! Looks at each group of held rows before it leaves: whether it is large enough, whether what was kept back could be told from the
//! rest, and whether it differs by a few from what the same principal was shown before.
//!
//! The aggregation below has a sketch of the entities of each group, and of those that a figure rests on where it does not rest on
//! all. The groups come together here, and leave without the sketches.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BinaryArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch, nullif};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, LogicalPlan, Signature, UserDefinedLogicalNode,
    UserDefinedLogicalNodeCore, Volatility,
};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, PlanProperties};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use futures_util::{StreamExt as _, stream};

use super::Refused;
use super::releases::{Candidate, Released, Verdict, Work};
use super::sketch::Sketch;

/// Groups, times the sets of columns that they have in common.
const GROUPS_AND_SETS_MAX: usize = 1 << 21;

const KEPT: ReplaceChildrenOptions = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);

/// The function that makes sketches, for groups of `size`.
pub fn entity_guard(size: u32) -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(EntityGuard { size, signature: Signature::any(1, Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct EntityGuard {
    size: u32,
    signature: Signature,
}

impl AggregateUDFImpl for EntityGuard {
    fn name(&self) -> &str {
        "__kafscale_entity_guard"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Entities { size: self.size, keys: HashSet::new() }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format!("{}[keys]", args.name), DataType::Binary, true))])
    }
}

/// The different entities of a group, as hashes.
#[derive(Debug)]
struct Entities {
    size: u32,
    keys: HashSet<u64>,
}

impl Accumulator for Entities {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [entities] = values else { return Ok(()) };
        let converter = RowConverter::new(vec![SortField::new(entities.data_type().clone())])?;
        let rows = converter.convert_columns(std::slice::from_ref(entities))?;
        for (at, row) in rows.iter().enumerate() {
            if entities.is_valid(at) {
                self.keys.insert(hash_of(row.as_ref()));
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [states] = states else { return Ok(()) };
        for keys in states.as_binary::<i32>().iter().flatten() {
            self.keys.extend(
                keys.chunks_exact(8).map(|key| u64::from_le_bytes(key.try_into().expect("they are 8"))),
            );
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let keys: Vec<u8> = self.keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        Ok(vec![ScalarValue::Binary(Some(keys))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sketch = Sketch::of(self.keys.iter().copied(), self.size);
        Ok(ScalarValue::Binary(Some(sketch.to_bytes())))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.keys.capacity() * 9
    }
}

fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A column of sketches, behind those that are shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
pub struct GuardColumn {
    pub name: String,
    /// The table and the column of its entities.
    pub domain: String,
    /// The same, as the caller may know it.
    pub told: String,
    pub size: u32,
}

/// A figure, and the sketch of those that it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
pub struct GuardedFigure {
    /// Among the columns that are shown.
    pub column: usize,
    /// Among the guards.
    pub guard: usize,
    /// Figures of the same kind are compared with each other.
    pub kind: String,
}

/// What the columns of the aggregation are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
pub struct Layout {
    pub group_columns: usize,
    pub shown_columns: usize,
    /// The first so many guards are of the groups themselves.
    pub held: usize,
    pub guards: Vec<GuardColumn>,
    pub figures: Vec<GuardedFigure>,
    /// What the statement is known by.
    pub origin: u64,
}

/// The step in a logical plan.
#[derive(Debug, Clone)]
pub struct Guard {
    input: LogicalPlan,
    layout: Layout,
    released: Released,
    schema: DFSchemaRef,
}

impl Guard {
    pub fn try_new(input: LogicalPlan, layout: Layout, released: Released) -> Result<Guard> {
        let shown = input.schema().iter().take(layout.shown_columns);
        // Figures that are kept back are NULL.
        let fields = shown.map(|(qualifier, field)| {
            (qualifier.cloned(), Arc::new(Field::new(field.name(), field.data_type().clone(), true)))
        });
        let schema = DFSchema::new_with_metadata(fields.collect(), HashMap::new())?;
        Ok(Guard { input, layout, released, schema: Arc::new(schema) })
    }
}

impl PartialEq for Guard {
    fn eq(&self, other: &Self) -> bool {
        self.input == other.input && self.layout == other.layout
    }
}

impl Eq for Guard {}

impl Hash for Guard {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.layout.hash(state);
    }
}

impl PartialOrd for Guard {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.layout.partial_cmp(&other.layout)
    }
}

impl UserDefinedLogicalNodeCore for Guard {
    fn name(&self) -> &str {
        "Guard"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt_layout(&self.layout, f)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let input = inputs.into_iter().next().unwrap_or_else(|| self.input.clone());
        Ok(Guard { input, ..self.clone() })
    }
}

fn fmt_layout(layout: &Layout, f: &mut fmt::Formatter) -> fmt::Result {
    let groups = layout.guards.iter().take(layout.held);
    let groups = groups.map(|guard| format!("at least {} different {}", guard.size, guard.told));
    write!(f, "GuardExec: groups of {}", groups.collect::<Vec<_>>().join(", "))
}

/// Makes the step of an execution.
#[derive(Debug)]
pub struct GuardPlanner;

#[async_trait]
impl ExtensionPlanner for GuardPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let (Some(guard), [input]) = (node.as_any().downcast_ref::<Guard>(), inputs) else { return Ok(None) };
        let schema = Arc::new(Schema::new(guard.schema.fields().to_vec()));
        Ok(Some(Arc::new(GuardExec::new(
            Arc::clone(input),
            Arc::new(guard.layout.clone()),
            guard.released.clone(),
            schema,
        ))))
    }
}

/// The step as it is executed.
#[derive(Debug)]
pub struct GuardExec {
    input: Arc<dyn ExecutionPlan>,
    layout: Arc<Layout>,
    released: Released,
    properties: Arc<PlanProperties>,
}

impl GuardExec {
    fn new(
        input: Arc<dyn ExecutionPlan>,
        layout: Arc<Layout>,
        released: Released,
        schema: SchemaRef,
    ) -> GuardExec {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        GuardExec { input, layout, released, properties: Arc::new(properties) }
    }
}

impl DisplayAs for GuardExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_layout(&self.layout, f)
    }
}

impl ExecutionPlan for GuardExec {
    fn name(&self) -> &str {
        "GuardExec"
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
        let (layout, schema) = (Arc::clone(&self.layout), self.schema());
        Ok(Arc::new(GuardExec::new(input, layout, self.released.clone(), schema)))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, KEPT)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let memory = MemoryConsumer::new("Guard").register(context.memory_pool());
        let mut groups = self.input.execute(partition, context)?;
        let (layout, released, schema) = (Arc::clone(&self.layout), self.released.clone(), self.schema());
        let of_input = self.input.schema();
        let guarded = async move {
            let mut batches = Vec::new();
            while let Some(batch) = groups.next().await {
                let batch = batch?;
                memory.try_grow(batch.get_array_memory_size())?;
                batches.push(batch);
            }
            let groups = concat_batches(&of_input, &batches)?;
            drop(batches);
            let guarded = Guarding::new(&layout, &groups)?.guard(&released, &schema);
            drop(memory);
            guarded
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream::once(guarded))))
    }
}

/// All groups of one aggregation.
struct Guarding<'a> {
    layout: &'a Layout,
    groups: &'a RecordBatch,
    sketches: Vec<&'a BinaryArray>,
    kept: Vec<bool>,
}

impl<'a> Guarding<'a> {
    fn new(layout: &'a Layout, groups: &'a RecordBatch) -> Result<Guarding<'a>> {
        let columns = groups.columns().iter().skip(layout.shown_columns);
        let sketches: Option<Vec<_>> = columns.map(|column| column.as_binary_opt::<i32>()).collect();
        let sketches = sketches.filter(|sketches| sketches.len() == layout.guards.len());
        let sketches =
            sketches.ok_or_else(|| DataFusionError::Internal("a guard lacks its columns".to_owned()))?;
        Ok(Guarding { layout, groups, sketches, kept: vec![true; groups.num_rows()] })
    }

    /// None: nobody is in it.
    fn sketch(&self, guard: usize, row: usize) -> Option<Sketch> {
        let sketches = self.sketches[guard];
        sketches.is_valid(row).then(|| Sketch::from_bytes(sketches.value(row))).flatten()
    }

    fn entities(&self, guard: usize, row: usize) -> u64 {
        let sketches = self.sketches[guard];
        sketches.is_valid(row).then(|| Sketch::entities_in(sketches.value(row))).flatten().unwrap_or(0)
    }

    fn guard(mut self, released: &Released, schema: &SchemaRef) -> Result<RecordBatch> {
        // Each set of columns is looked at, of each group.
        if self.groups.num_rows() << self.layout.group_columns > GROUPS_AND_SETS_MAX {
            return Err(too_many(self.groups.num_rows()).into());
        }
        for guard in 0..self.layout.held {
            self.keep_back_small(guard);
            self.keep_back_more(guard)?;
        }
        let keys = self.keys(&(0..self.layout.group_columns).collect::<Vec<_>>())?;
        let mut hidden: HashMap<usize, Vec<bool>> = HashMap::new();
        let mut work = Work::default();
        for figure in &self.layout.figures {
            let guard = &self.layout.guards[figure.guard];
            let domain: Arc<str> = format!("{} {}", guard.domain, figure.kind).into();
            for row in 0..self.groups.num_rows() {
                if !self.kept[row] {
                    continue;
                }
                let origin =
                    hash_of((self.layout.origin, key_of(keys.as_ref(), row), figure.column, figure.guard));
                let sketch = self.sketch(figure.guard, row);
                let verdict = match sketch.filter(|sketch| sketch.entities >= u64::from(guard.size)) {
                    None => Verdict::DiffersLittle,
                    Some(sketch) => {
                        let domain = Arc::clone(&domain);
                        released.ask(&Candidate { domain, origin, size: guard.size, sketch }, &mut work)
                    }
                };
                match verdict {
                    Verdict::Shown => {}
                    Verdict::DiffersLittle => {
                        hidden.entry(figure.column).or_insert_with(|| vec![false; self.groups.num_rows()])
                            [row] = true;
                    }
                    Verdict::Full => return Err(too_much().into()),
                }
            }
        }
        let mut columns: Vec<ArrayRef> = self.groups.columns()[..self.layout.shown_columns].to_vec();
        for (column, rows) in hidden {
            columns[column] = nullif(&columns[column], &BooleanArray::from(rows))?;
        }
        let shown = RecordBatch::try_new(Arc::clone(schema), columns)?;
        Ok(filter_record_batch(&shown, &BooleanArray::from(self.kept))?)
    }

    fn keep_back_small(&mut self, guard: usize) {
        let size = u64::from(self.layout.guards[guard].size);
        for row in 0..self.groups.num_rows() {
            self.kept[row] &= self.entities(guard, row) >= size;
        }
    }

    /// Where the groups that are kept back are few entities together, the total of all would tell of them: so that the smallest
    /// others are kept back too. The total may be of all groups, or of those that have some of their columns in common.
    fn keep_back_more(&mut self, guard: usize) -> Result<()> {
        let size = u64::from(self.layout.guards[guard].size);
        let entities: Vec<u64> = (0..self.groups.num_rows()).map(|row| self.entities(guard, row)).collect();
        let columns = self.layout.group_columns;
        loop {
            let mut changed = false;
            for set in 0..(1_usize << columns) {
                // All columns make the groups themselves.
                if columns > 0 && set == (1 << columns) - 1 {
                    continue;
                }
                let common: Vec<usize> = (0..columns).filter(|column| set & (1 << column) != 0).collect();
                changed |= self.keep_back_in(&common, &entities, size)?;
            }
            if !changed {
                return Ok(());
            }
        }
    }

    fn keep_back_in(&mut self, common: &[usize], entities: &[u64], size: u64) -> Result<bool> {
        let keys = self.keys(common)?;
        let mut parts: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for row in 0..self.groups.num_rows() {
            parts.entry(key_of(keys.as_ref(), row)).or_default().push(row);
        }
        let mut changed = false;
        for rows in parts.into_values() {
            let kept_back = |kept: &[bool]| -> u64 {
                rows.iter().filter(|row| !kept[**row]).map(|row| entities[*row]).sum()
            };
            while (1..size).contains(&kept_back(&self.kept)) {
                let smallest = rows.iter().filter(|row| self.kept[**row]).min_by_key(|row| entities[**row]);
                let Some(smallest) = smallest else { break };
                self.kept[*smallest] = false;
                changed = true;
            }
        }
        Ok(changed)
    }

    fn keys(&self, columns: &[usize]) -> Result<Option<Rows>> {
        if columns.is_empty() {
            return Ok(None);
        }
        let columns: Vec<ArrayRef> =
            columns.iter().map(|column| Arc::clone(self.groups.column(*column))).collect();
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        Ok(Some(RowConverter::new(fields)?.convert_columns(&columns)?))
    }
}

fn key_of(keys: Option<&Rows>, row: usize) -> Vec<u8> {
    keys.map_or_else(Vec::new, |keys| keys.row(row).as_ref().to_vec())
}

fn too_many(groups: usize) -> Refused {
    Refused::new(
        format!("these are {groups} groups, which are too many to be looked at together"),
        "group by fewer columns, or by values that more rows have in common".to_owned(),
    )
}

fn too_much() -> Refused {
    Refused::new(
        "so many different groups were shown to this principal within a day that more could be compared with them".to_owned(),
        "ask again tomorrow, or ask for fewer groups".to_owned(),
    )
}
