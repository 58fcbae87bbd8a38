//! Looks at each group of held rows before it leaves: whether it is large enough, whether what was kept back could be told from the
//! rest, and whether it differs by a few from what the same principal was shown before.
//!
//! The aggregation below has a sketch of the rows of each group, and of those that a figure rests on where it does not rest on all.
//! The groups come together here, and leave without the sketches. All groups of one answer, and those that they make together
//! where some of their columns are left out, are sets that are shown ([`super::releases`]): a caller can add them up.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use arrow::array::{Array as _, ArrayRef, AsArray as _, BinaryArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch, nullif};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, UInt64Type};
use arrow::row::{RowConverter, SortField};
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
use super::sketch::{Extent, Rows, Sketch};
use super::unique::Unique;

/// Groups, times the sets of columns that they have in common.
const GROUPS_AND_SETS_MAX: usize = 1 << 18;

const KEPT: ReplaceChildrenOptions = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);

/// The function that makes sketches, for groups of `size`.
pub fn entity_guard(size: u32) -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(EntityGuard { size, signature: Signature::any(2, Volatility::Immutable) }))
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
        Ok(Box::new(OfGroup { size: self.size, rows: Rows::default() }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format!("{}[rows]", args.name), DataType::Binary, true))])
    }
}

/// The rows of a group, by their entities.
#[derive(Debug)]
struct OfGroup {
    size: u32,
    rows: Rows,
}

impl Accumulator for OfGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [entities, keys] = values else { return Ok(()) };
        let Some(keys) = keys.as_primitive_opt::<UInt64Type>() else { return Ok(()) };
        let converter = RowConverter::new(vec![SortField::new(entities.data_type().clone())])?;
        let rows = converter.convert_columns(std::slice::from_ref(entities))?;
        for (at, row) in rows.iter().enumerate() {
            if entities.is_valid(at) && keys.is_valid(at) {
                self.rows.add(hash_of(row.as_ref()), keys.value(at));
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [states] = states else { return Ok(()) };
        for bytes in states.as_binary::<i32>().iter().flatten() {
            self.rows.add_bytes(bytes);
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(self.rows.to_bytes()))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Binary(Some(self.rows.sketch(self.size).to_bytes())))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.rows.bytes()
    }
}

/// Nobody outside knows what has which hash: two values with one hash could be made in minutes.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

pub fn hash_of(value: impl Hash) -> u64 {
    HASHES.hash_one(value)
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

/// A figure, and a sketch of rows that it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
pub struct GuardedFigure {
    /// Among the columns that are shown.
    pub column: usize,
    /// Among the guards.
    pub guard: usize,
    /// Whether the set is one that is compared with others, and not only large enough.
    pub is_noted: bool,
}

/// What the columns of the aggregation are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
pub struct Layout {
    pub group_columns: usize,
    pub shown_columns: usize,
    /// The first so many guards are of the groups themselves.
    pub held: usize,
    pub guards: Vec<GuardColumn>,
    /// On what figures rest beside the groups.
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

/// Makes the steps of an execution: this one, and that of [`Unique`].
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
        let [input] = inputs else { return Ok(None) };
        if let Some(unique) = node.as_any().downcast_ref::<Unique>() {
            return Ok(Some(unique.physical(Arc::clone(input))));
        }
        let Some(guard) = node.as_any().downcast_ref::<Guard>() else { return Ok(None) };
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
            // The sketches of one guard are there once more.
            memory.try_grow(groups.get_array_memory_size())?;
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
    /// For each set of group columns, from the fewest to all, the rows that have them in common.
    parts: Vec<Vec<Part>>,
}

/// Groups that have some of their columns in common.
struct Part {
    key: u64,
    rows: Vec<usize>,
}

impl<'a> Guarding<'a> {
    fn new(layout: &'a Layout, groups: &'a RecordBatch) -> Result<Guarding<'a>> {
        let columns = groups.columns().iter().skip(layout.shown_columns);
        let sketches: Option<Vec<_>> = columns.map(|column| column.as_binary_opt::<i32>()).collect();
        let sketches = sketches.filter(|sketches| sketches.len() == layout.guards.len());
        let sketches =
            sketches.ok_or_else(|| DataFusionError::Internal("a guard lacks its columns".to_owned()))?;
        // Each set of columns is looked at, of each group.
        if groups.num_rows() << layout.group_columns > GROUPS_AND_SETS_MAX {
            return Err(too_many(groups.num_rows()).into());
        }
        let mut sets: Vec<u32> = (0..1 << layout.group_columns).collect();
        sets.sort_by_key(|set| set.count_ones());
        let parts = sets.into_iter().map(|set| parts(layout, groups, set)).collect::<Result<_>>()?;
        Ok(Guarding { layout, groups, sketches, parts })
    }

    /// Without rows where nobody is in it.
    fn sketch(&self, guard: usize, row: usize) -> Sketch {
        let sketches = self.sketches[guard];
        let known = sketches.is_valid(row).then(|| Sketch::from_bytes(sketches.value(row))).flatten();
        known.unwrap_or_else(|| Sketch::new(self.layout.guards[guard].size))
    }

    fn guard(self, released: &Released, schema: &SchemaRef) -> Result<RecordBatch> {
        let mut work = Work::default();
        let mut kept = vec![true; self.groups.num_rows()];
        for guard in 0..self.layout.held {
            self.keep_back(guard, None, &mut kept, released, &mut work)?;
        }
        let mut columns: Vec<ArrayRef> = self.groups.columns()[..self.layout.shown_columns].to_vec();
        for figure in &self.layout.figures {
            let mut shown = kept.clone();
            self.keep_back(figure.guard, Some(figure), &mut shown, released, &mut work)?;
            let hidden: Vec<bool> = shown.into_iter().map(|shown| !shown).collect();
            columns[figure.column] = nullif(&columns[figure.column], &BooleanArray::from(hidden))?;
        }
        let shown = RecordBatch::try_new(Arc::clone(schema), columns)?;
        Ok(filter_record_batch(&shown, &BooleanArray::from(kept))?)
    }

    /// Takes out of `kept` what must not leave of one guard, and notes the rest as shown.
    fn keep_back(
        &self,
        guard: usize,
        figure: Option<&GuardedFigure>,
        kept: &mut [bool],
        released: &Released,
        work: &mut Work,
    ) -> Result<()> {
        let size = self.layout.guards[guard].size;
        let sketches: Vec<Sketch> = (0..kept.len()).map(|row| self.sketch(guard, row)).collect();
        for (row, sketch) in sketches.iter().enumerate() {
            if kept[row] && sketch.entities < u64::from(size) {
                kept[row] = false;
                if figure.is_none_or(|figure| figure.is_noted) {
                    // That it is too small is an answer too.
                    self.ask(guard, (usize::MAX, row as u64), sketch, released, work)?;
                }
            }
        }
        loop {
            self.keep_back_more(size, &sketches, kept);
            if figure.is_some_and(|figure| !figure.is_noted) {
                return Ok(());
            }
            // Some were kept back, so that others make other sums now. Each time there are fewer.
            if !self.keep_back_told(guard, &sketches, kept, released, work)? {
                return Ok(());
            }
        }
    }

    /// Where the groups that are kept back are few entities together, the total of all would tell of them: so that the smallest
    /// others are kept back too. The total may be of all groups, or of those that have some of their columns in common.
    fn keep_back_more(&self, size: u32, sketches: &[Sketch], kept: &mut [bool]) {
        // All columns make the groups themselves, unless there are none.
        let sets = self.parts.len().saturating_sub(1).max(1);
        loop {
            let mut changed = false;
            for part in self.parts[..sets].iter().flatten() {
                let mut back = Sketch::new(size);
                let of_part = part.rows.iter().copied();
                of_part.clone().filter(|row| !kept[*row]).for_each(|row| back.add(&sketches[row]));
                while back.extent(size) == Extent::Few {
                    let others = of_part.clone().filter(|row| kept[*row]);
                    let Some(smallest) = others.min_by_key(|row| sketches[*row].entities) else { break };
                    back.add(&sketches[smallest]);
                    kept[smallest] = false;
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// Compares what is left, and what it makes together, with what was shown before. Whether some had to be kept back.
    fn keep_back_told(
        &self,
        guard: usize,
        sketches: &[Sketch],
        kept: &mut [bool],
        released: &Released,
        work: &mut Work,
    ) -> Result<bool> {
        let mut changed = false;
        for (set, parts) in self.parts.iter().enumerate() {
            for part in parts {
                let rows: Vec<usize> = part.rows.iter().copied().filter(|row| kept[*row]).collect();
                let mut sum = Sketch::new(self.layout.guards[guard].size);
                rows.iter().for_each(|row| sum.add(&sketches[*row]));
                if rows.is_empty() || self.ask(guard, (set, part.key), &sum, released, work)? {
                    continue;
                }
                rows.iter().for_each(|row| kept[*row] = false);
                changed = true;
            }
        }
        Ok(changed)
    }

    fn ask(
        &self,
        guard: usize,
        of: (usize, u64),
        sketch: &Sketch,
        released: &Released,
        work: &mut Work,
    ) -> Result<bool> {
        let GuardColumn { domain, size, .. } = &self.layout.guards[guard];
        let candidate = Candidate {
            domain: domain.as_str().into(),
            origin: hash_of((self.layout.origin, guard, of)),
            size: *size,
            sketch: sketch.clone(),
        };
        match released.ask(&candidate, work) {
            Verdict::Shown => Ok(true),
            Verdict::TellsOfFew => Ok(false),
            Verdict::Full => Err(too_much().into()),
        }
    }
}

/// The groups that have the columns of `set` in common.
fn parts(layout: &Layout, groups: &RecordBatch, set: u32) -> Result<Vec<Part>> {
    let common = (0..layout.group_columns).filter(|column| set & (1 << column) != 0);
    let columns: Vec<ArrayRef> = common.map(|column| Arc::clone(groups.column(column))).collect();
    let rows = 0..groups.num_rows();
    if columns.is_empty() {
        return Ok(vec![Part { key: 0, rows: rows.collect() }]);
    }
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let keys = RowConverter::new(fields)?.convert_columns(&columns)?;
    let mut parts: HashMap<&[u8], Vec<usize>> = HashMap::new();
    let keys: Vec<_> = keys.iter().map(|key| key.as_ref().to_vec()).collect();
    for row in rows {
        parts.entry(&keys[row]).or_default().push(row);
    }
    let mut parts: Vec<Part> =
        parts.into_iter().map(|(key, rows)| Part { key: hash_of(key), rows }).collect();
    // The same answer each time.
    parts.sort_by_key(|part| part.rows[0]);
    Ok(parts)
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
