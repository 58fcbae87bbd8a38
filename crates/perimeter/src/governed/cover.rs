//! Which entities an answer covers, as keyed hashes: what a budget of entities counts.
//!
//! [`super::entities`] puts a column with hashes beside the rows of a table whose rules count entities. What leaves with the answer is
//! in that column at the end; where it cannot go further ([`Passed`]), all that pass are counted.
//!
//! Invariant: neither a value nor anything that tells of one without the key is kept, and no set is larger than its limit and one.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use arrow::array::{Array as _, ArrayRef, AsArray as _, BinaryBuilder, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, ScalarValue};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, UserDefinedLogicalNode, UserDefinedLogicalNodeCore, Volatility,
};
use datafusion::physical_expr::projection::ProjectionMapping;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

const KEPT: ReplaceChildrenOptions = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
pub const KEY_BYTES: usize = 32;
const HASH_BYTES: usize = 8;

/// The secret by which entities are hashed, of one day. It is never printed.
#[derive(Clone)]
pub struct EntityKey(Arc<hmac::Key>);

impl fmt::Debug for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EntityKey")
    }
}

impl EntityKey {
    pub fn of(secret: &[u8; KEY_BYTES]) -> EntityKey {
        EntityKey(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    #[cfg(test)]
    pub fn is(&self, other: &EntityKey) -> bool {
        self.hash("", b"x") == other.hash("", b"x")
    }

    /// None: the system has no randomness.
    pub fn random() -> Option<[u8; KEY_BYTES]> {
        let mut secret = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut secret).ok().map(|()| secret)
    }

    /// For a process that counts nothing across restarts.
    pub fn of_process() -> EntityKey {
        static KEY: LazyLock<EntityKey> = LazyLock::new(|| {
            EntityKey::of(&EntityKey::random().expect("the system has randomness, as TLS needs it"))
        });
        KEY.clone()
    }

    fn hash(&self, domain: &str, value: &[u8]) -> [u8; HASH_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&(domain.len() as u64).to_le_bytes());
        context.update(domain.as_bytes());
        context.update(value);
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(&context.sign().as_ref()[..HASH_BYTES]);
        hash
    }
}

/// What the answer of one statement covers.
#[derive(Debug)]
pub struct Cover {
    pub key: EntityKey,
    /// What is more is not told apart: the answer is refused in any case.
    most: usize,
    found: Mutex<HashSet<u64>>,
}

impl Cover {
    /// `limit`: the most that may leave in a day.
    pub fn new(key: EntityKey, limit: u64) -> Cover {
        let most = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1);
        Cover { key, most, found: Mutex::default() }
    }

    pub fn found(&self) -> HashSet<u64> {
        self.found.lock().clone()
    }

    pub fn add(&self, column: &ArrayRef) {
        add(&mut self.found.lock(), column, self.most);
    }
}

fn add(all: &mut HashSet<u64>, column: &ArrayRef, most: usize) {
    let Some(sets) = column.as_binary_opt::<i32>() else { return };
    for hash in sets.iter().flatten().flat_map(|set| set.chunks_exact(HASH_BYTES)) {
        if all.len() >= most {
            return;
        }
        all.insert(u64::from_le_bytes(hash.try_into().expect("they are 8")));
    }
}

/// The function that hashes an entity of a table.
pub fn hash_function(key: EntityKey, domain: String) -> ScalarUDF {
    ScalarUDF::from(HashEntity { key, domain, signature: Signature::any(1, Volatility::Immutable) })
}

#[derive(Debug)]
struct HashEntity {
    key: EntityKey,
    domain: String,
    signature: Signature,
}

impl PartialEq for HashEntity {
    fn eq(&self, other: &Self) -> bool {
        self.domain == other.domain && Arc::ptr_eq(&self.key.0, &other.key.0)
    }
}

impl Eq for HashEntity {}

impl Hash for HashEntity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.domain.hash(state);
    }
}

impl ScalarUDFImpl for HashEntity {
    fn name(&self) -> &str {
        "__kafscale_entity"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(values) = arrays.first() else { return Ok(ScalarValue::Binary(None).into()) };
        let converter = RowConverter::new(vec![SortField::new(values.data_type().clone())])?;
        let rows = converter.convert_columns(std::slice::from_ref(values))?;
        let mut hashes = BinaryBuilder::with_capacity(values.len(), values.len() * HASH_BYTES);
        for (at, row) in rows.iter().enumerate() {
            match values.is_null(at) {
                true => hashes.append_null(),
                false => hashes.append_value(self.key.hash(&self.domain, row.as_ref())),
            }
        }
        Ok(ColumnarValue::Array(Arc::new(hashes.finish())))
    }
}

/// The function that puts sets of hashes together, up to `limit` and one.
pub fn union_function(limit: usize) -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(UnionOfEntities {
        limit,
        signature: Signature::exact(vec![DataType::Binary], Volatility::Immutable),
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct UnionOfEntities {
    limit: usize,
    signature: Signature,
}

impl AggregateUDFImpl for UnionOfEntities {
    fn name(&self) -> &str {
        "__kafscale_entities"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Union { most: self.limit, all: HashSet::new() }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format!("{}[hashes]", args.name), DataType::Binary, true))])
    }
}

#[derive(Debug)]
struct Union {
    most: usize,
    all: HashSet<u64>,
}

impl Accumulator for Union {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        values.iter().for_each(|column| add(&mut self.all, column, self.most));
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Binary(Some(self.all.iter().flat_map(|hash| hash.to_le_bytes()).collect())))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.all.capacity() * 9
    }
}

/// The step in a plan behind which hashes go no further: all that pass it are counted.
#[derive(Debug, Clone)]
pub struct Passed {
    input: LogicalPlan,
    /// Places of columns with hashes in the input.
    hashes: Vec<usize>,
    cover: Arc<Cover>,
    schema: DFSchemaRef,
}

impl Passed {
    pub fn try_new(input: LogicalPlan, hashes: Vec<usize>, cover: Arc<Cover>) -> Result<Passed> {
        let fields = input.schema().iter().enumerate().filter(|(at, _)| !hashes.contains(at));
        let fields = fields.map(|(_, (qualifier, field))| (qualifier.cloned(), Arc::clone(field)));
        let schema = Arc::new(DFSchema::new_with_metadata(fields.collect(), HashMap::new())?);
        Ok(Passed { input, hashes, cover, schema })
    }
}

impl PartialEq for Passed {
    fn eq(&self, other: &Self) -> bool {
        self.input == other.input && self.hashes == other.hashes && Arc::ptr_eq(&self.cover, &other.cover)
    }
}

impl Eq for Passed {}

impl Hash for Passed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.hashes.hash(state);
    }
}

impl PartialOrd for Passed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.hashes.partial_cmp(&other.hashes)
    }
}

impl UserDefinedLogicalNodeCore for Passed {
    fn name(&self) -> &str {
        "Passed"
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
        f.write_str("Passed: entities are counted")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let input = inputs.into_iter().next().unwrap_or_else(|| self.input.clone());
        Ok(Passed { input, ..self.clone() })
    }
}

/// The step as it is executed.
#[derive(Debug)]
struct PassedExec {
    input: Arc<dyn ExecutionPlan>,
    hashes: Vec<usize>,
    cover: Arc<Cover>,
    properties: Arc<PlanProperties>,
}

impl PassedExec {
    fn new(
        input: Arc<dyn ExecutionPlan>,
        hashes: Vec<usize>,
        cover: Arc<Cover>,
        schema: SchemaRef,
    ) -> PassedExec {
        let of_input = input.properties();
        // Rows pass in their order, which a limit above relies on.
        let kept: Vec<usize> = (0..input.schema().fields().len()).filter(|at| !hashes.contains(at)).collect();
        let equivalence = match ProjectionMapping::from_indices(&kept, &input.schema()) {
            Ok(mapping) => of_input.eq_properties.project(&mapping, Arc::clone(&schema)),
            Err(_) => EquivalenceProperties::new(schema),
        };
        let properties = PlanProperties::new(
            equivalence,
            Partitioning::UnknownPartitioning(of_input.partitioning.partition_count()),
            of_input.emission_type,
            of_input.boundedness,
        );
        PassedExec { input, hashes, cover, properties: Arc::new(properties) }
    }
}

impl DisplayAs for PassedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PassedExec")
    }
}

impl ExecutionPlan for PassedExec {
    fn name(&self) -> &str {
        "PassedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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
        let (hashes, cover) = (self.hashes.clone(), Arc::clone(&self.cover));
        Ok(Arc::new(PassedExec::new(input, hashes, cover, self.schema())))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, KEPT)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let (hashes, cover, schema) = (self.hashes.clone(), Arc::clone(&self.cover), self.schema());
        let passed = rows.map(move |batch| {
            let batch = batch?;
            hashes.iter().for_each(|at| cover.add(batch.column(*at)));
            without(&batch, &hashes, &schema)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), passed)))
    }
}

fn without(batch: &RecordBatch, hashes: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
    let kept = batch.columns().iter().enumerate().filter(|(at, _)| !hashes.contains(at));
    let kept = kept.map(|(_, column)| Arc::clone(column)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), kept, &options)?)
}

/// Makes the step of an execution.
#[derive(Debug)]
pub struct PassedPlanner;

#[async_trait]
impl ExtensionPlanner for PassedPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let (Some(passed), [input]) = (node.as_any().downcast_ref::<Passed>(), inputs) else {
            return Ok(None);
        };
        let schema = Arc::new(Schema::new(passed.schema.fields().to_vec()));
        let (hashes, cover) = (passed.hashes.clone(), Arc::clone(&passed.cover));
        Ok(Some(Arc::new(PassedExec::new(Arc::clone(input), hashes, cover, schema))))
    }
}
