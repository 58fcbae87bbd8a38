//! Plans as bytes: those of the engine by its own format (Protobuf), the reading of topics and checked arithmetic by
//! formats of ours.
//!
//! Invariant: what is decoded only reads topics. Each kind of step is named here that may be in a plan; files, tables
//! of the sender and sinks are not among them. A function is one that every server has under that name: others are not
//! encoded, so that their plans stay on the machine that made them.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{FunctionRegistry as _, TaskContext};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_distributed::DistributedCodec;
use datafusion_proto::physical_plan::from_proto::{
    parse_physical_expr_with_converter, parse_protobuf_partitioning,
};
use datafusion_proto::physical_plan::to_proto::{
    serialize_partitioning, serialize_physical_expr_with_converter,
};
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalPlanNodeExt as _,
    PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use datafusion_proto::protobuf::{self, PhysicalExprNode, PhysicalPlanNode};
use parking_lot::Mutex;
use prost::Message as _;

use super::topics::{Opened, Step};
use super::wire::TopicAsOf;
use crate::postgres::checked;
use crate::topic::exec::TopicExec;

/// Before a step that is ours, and before one of datafusion-distributed.
const TOPIC: u8 = b'T';
const STAGE: u8 = b'S';

/// A plan that goes to others, and the topics that it reads.
pub struct Encoded {
    pub plan: Vec<u8>,
    pub topics: Vec<TopicAsOf>,
    pub opened: Vec<Opened>,
}

pub fn encode(plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Result<Encoded> {
    let codec = Codec::new(context, Vec::new());
    let plan = Converter(&codec).execution_plan_to_proto(plan, &codec)?.encode_to_vec();
    let (topics, opened) = codec.found.into_inner().into_iter().unzip();
    Ok(Encoded { plan, topics, opened })
}

pub fn decode(
    plan: &[u8],
    topics: Vec<Opened>,
    context: &Arc<TaskContext>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let codec = Codec::new(context, topics);
    let proto = PhysicalPlanNode::decode(plan).map_err(|e| refused(format!("it cannot be read: {e}")))?;
    let known = PhysicalPlanDecodeContext::new(context, &codec);
    Converter(&codec).proto_to_execution_plan(&proto, &known)
}

pub fn encode_partitioning(partitioning: &Partitioning, context: &Arc<TaskContext>) -> Result<Vec<u8>> {
    let codec = Codec::new(context, Vec::new());
    Ok(serialize_partitioning(partitioning, &codec, &Converter(&codec))?.encode_to_vec())
}

pub fn decode_partitioning(
    bytes: &[u8],
    schema: &SchemaRef,
    context: &Arc<TaskContext>,
) -> Result<Partitioning> {
    let codec = Codec::new(context, Vec::new());
    let proto = protobuf::Partitioning::decode(bytes).map_err(|e| refused(format!("its head: {e}")))?;
    let known = PhysicalPlanDecodeContext::new(context, &codec);
    let found = parse_protobuf_partitioning(Some(&proto), &known, schema, &Converter(&codec))?;
    found.ok_or_else(|| refused("its head has no partitions".to_owned()))
}

fn refused(why: String) -> DataFusionError {
    DataFusionError::Plan(format!("a plan for a worker: {why}"))
}

struct Codec {
    context: Arc<TaskContext>,
    /// While encoding: the topics so far.
    found: Mutex<Vec<(TopicAsOf, Opened)>>,
    /// While decoding.
    topics: Vec<Opened>,
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec").finish_non_exhaustive()
    }
}

impl Codec {
    fn new(context: &Arc<TaskContext>, topics: Vec<Opened>) -> Codec {
        Codec { context: Arc::clone(context), found: Mutex::default(), topics }
    }

    fn place(&self, opened: Opened) -> usize {
        let topic = opened.as_of();
        let mut found = self.found.lock();
        let known = found.iter().position(|(known, _)| *known == topic);
        known.unwrap_or_else(|| {
            found.push((topic, opened));
            found.len() - 1
        })
    }
}

/// A function goes by its name, if it is the one that others have by this name.
fn by_name(is_same: bool, name: &str) -> Result<()> {
    match is_same {
        true => Ok(()),
        false => Err(refused(format!("{name} is not the function that others know by this name"))),
    }
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match bytes.split_first() {
            Some((&STAGE, rest)) => DistributedCodec.try_decode(rest, inputs, context, converter),
            Some((&TOPIC, rest)) if inputs.is_empty() => {
                let step: Step = serde_json::from_slice(rest).map_err(|e| refused(e.to_string()))?;
                Ok(Arc::new(step.exec(&self.topics)?))
            }
            _ => Err(refused("it has a step of an unknown kind".to_owned())),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(topic) = node.downcast_ref::<TopicExec>() else {
            bytes.push(STAGE);
            return DistributedCodec.try_encode(node, bytes, converter);
        };
        bytes.push(TOPIC);
        let step = Step::of(topic, self.place(Opened::of(topic.scan())));
        serde_json::to_writer(bytes, &step).map_err(|e| refused(e.to_string()))
    }

    fn try_encode_udf(&self, function: &ScalarUDF, bytes: &mut Vec<u8>) -> Result<()> {
        match checked::written(function) {
            Some(written) => {
                bytes.extend(written);
                Ok(())
            }
            None => {
                let own = self.context.udf(function.name());
                by_name(own.is_ok_and(|own| *own == *function), function.name())
            }
        }
    }

    fn try_decode_udf(&self, name: &str, bytes: &[u8]) -> Result<Arc<ScalarUDF>> {
        match checked::read(bytes) {
            Some(function) => Ok(Arc::new(function)),
            None => Err(refused(format!("{name} is no function"))),
        }
    }

    fn try_encode_higher_order_function(&self, function: &HigherOrderUDF, _: &mut Vec<u8>) -> Result<()> {
        by_name(false, function.name())
    }

    fn try_encode_udaf(&self, function: &AggregateUDF, _: &mut Vec<u8>) -> Result<()> {
        let own = self.context.udaf(function.name());
        by_name(own.is_ok_and(|own| *own == *function), function.name())
    }

    fn try_encode_udwf(&self, function: &WindowUDF, _: &mut Vec<u8>) -> Result<()> {
        let own = self.context.udwf(function.name());
        by_name(own.is_ok_and(|own| *own == *function), function.name())
    }
}

/// Sends everything through the one codec: the steps of datafusion-distributed would use their own for expressions.
struct Converter<'a>(&'a Codec);

impl PhysicalProtoConverterExtension for Converter<'_> {
    fn proto_to_execution_plan(
        &self,
        proto: &PhysicalPlanNode,
        known: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        check(proto)?;
        let known = PhysicalPlanDecodeContext::new(known.task_ctx(), self.0);
        self.default_proto_to_execution_plan(proto, &known)
    }

    fn execution_plan_to_proto(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        _: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalPlanNode> {
        PhysicalPlanNode::try_from_physical_plan_with_converter(Arc::clone(plan), self.0, self)
    }

    fn proto_to_physical_expr(
        &self,
        proto: &PhysicalExprNode,
        schema: &Schema,
        known: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let known = PhysicalPlanDecodeContext::new(known.task_ctx(), self.0);
        parse_physical_expr_with_converter(proto, schema, &known, self)
    }

    fn physical_expr_to_proto(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        _: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalExprNode> {
        serialize_physical_expr_with_converter(expr, self.0, self)
    }
}

/// Refuses every kind of step that is not named here, before anything of it is made.
fn check(step: &PhysicalPlanNode) -> Result<()> {
    let kind = match &step.physical_plan_type {
        Some(
            PhysicalPlanType::Aggregate(_)
            | PhysicalPlanType::CoalesceBatches(_)
            | PhysicalPlanType::Cooperative(_)
            | PhysicalPlanType::CrossJoin(_)
            | PhysicalPlanType::Empty(_)
            | PhysicalPlanType::Extension(_)
            | PhysicalPlanType::Filter(_)
            | PhysicalPlanType::GlobalLimit(_)
            | PhysicalPlanType::HashJoin(_)
            | PhysicalPlanType::Interleave(_)
            | PhysicalPlanType::LocalLimit(_)
            | PhysicalPlanType::Merge(_)
            | PhysicalPlanType::NestedLoopJoin(_)
            | PhysicalPlanType::PlaceholderRow(_)
            | PhysicalPlanType::Projection(_)
            | PhysicalPlanType::Repartition(_)
            | PhysicalPlanType::Sort(_)
            | PhysicalPlanType::SortMergeJoin(_)
            | PhysicalPlanType::SortPreservingMerge(_)
            | PhysicalPlanType::Union(_)
            | PhysicalPlanType::Unnest(_)
            | PhysicalPlanType::Window(_),
        ) => return Ok(()),
        Some(PhysicalPlanType::ParquetScan(_)) => "ParquetScan",
        Some(PhysicalPlanType::CsvScan(_)) => "CsvScan",
        Some(PhysicalPlanType::JsonScan(_)) => "JsonScan",
        Some(PhysicalPlanType::AvroScan(_)) => "AvroScan",
        Some(PhysicalPlanType::ArrowScan(_)) => "ArrowScan",
        Some(PhysicalPlanType::MemoryScan(_)) => "MemoryScan",
        Some(PhysicalPlanType::CsvSink(_)) => "CsvSink",
        Some(PhysicalPlanType::JsonSink(_)) => "JsonSink",
        Some(PhysicalPlanType::ParquetSink(_)) => "ParquetSink",
        Some(PhysicalPlanType::Explain(_)) => "Explain",
        Some(PhysicalPlanType::Analyze(_)) => "Analyze",
        Some(PhysicalPlanType::SymmetricHashJoin(_)) => "SymmetricHashJoin",
        Some(PhysicalPlanType::GenerateSeries(_)) => "GenerateSeries",
        Some(PhysicalPlanType::AsyncFunc(_)) => "AsyncFunc",
        Some(PhysicalPlanType::Buffer(_)) => "Buffer",
        Some(PhysicalPlanType::ScalarSubquery(_)) => "ScalarSubquery",
        None => "nothing",
    };
    Err(refused(format!("a worker does not do the step {kind}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use datafusion::execution::session_state::SessionState;
    use datafusion::physical_plan::displayable;
    use datafusion_proto::protobuf::{
        AvroScanExecNode, CsvScanExecNode, CsvSinkExecNode, JsonScanExecNode, JsonSinkExecNode,
        MemoryScanExecNode, ParquetScanExecNode, ParquetSinkExecNode,
    };
    use kafscale_meta::records::{AssignmentRecord, PartitionAssignment, TopicRecord};
    use kafscale_meta::{EtcdOptions, MetaUrl, Metadata, NewTopic};
    use kafscale_settings::sql::QueryLimitArgs;
    use kafscale_storage::StoreUrl;
    use kafscale_storage::scan::{ScanOptions, Scanner};
    use uuid::Uuid;

    use super::*;
    use crate::catalog::{Catalog, Cluster, Database};
    use crate::engine;
    use crate::query::{Query, QueryLimits};
    use crate::topic::infer::Layouts;
    use crate::workers::task::session_of;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        limits: QueryLimitArgs,
    }

    /// A session over a cluster with the topics `t` and `u`, which have no records.
    async fn session(dir: &std::path::Path) -> SessionState {
        let meta = kafscale_meta::open(&MetaUrl::Memory, &EtcdOptions::default()).await.unwrap();
        let metadata = Metadata::new(meta, "test").unwrap();
        for name in ["t", "u"] {
            let schema = "id bigint, n int, amount double, note text, at json".to_owned();
            let configs = [("kafscale.sql.schema".to_owned(), schema)].into();
            let topic_id = Uuid::new_v4();
            let topic = TopicRecord { topic_id, partitions: 3, configs, created_ms: 1, internal: false };
            let assignment = AssignmentRecord { partitions: vec![PartitionAssignment::default(); 3] };
            let new = NewTopic { name: name.to_owned(), topic, assignment };
            metadata.create_topic(&new).await.unwrap().unwrap();
        }
        let store = StoreUrl::File(dir.to_owned());
        let scanner = Scanner::open(&store, metadata, ScanOptions::default()).await.unwrap();
        let cluster = Arc::new(Cluster { scanner, layouts: Layouts::default() });
        let query = Query::new(QueryLimits { scan_bytes: None, result_bytes: None });
        let mut state = engine::own_session(&Line::parse_from(["test"]).limits).unwrap();
        state.register_catalog_list(Arc::new(Database(Arc::new(Catalog::new(cluster, query)))));
        state
    }

    async fn plan(state: &SessionState, sql: &str) -> Arc<dyn ExecutionPlan> {
        let plan = state.statement_to_plan(engine::parse(sql).unwrap()).await.unwrap();
        let plan = checked::with_types(plan).unwrap();
        state.create_physical_plan(&plan).await.unwrap()
    }

    /// A worker makes its session of another, and finds functions in it by their names.
    #[test]
    fn a_name_is_of_one_function_in_sessions_that_are_made_of_others() {
        let state = engine::own_session(&Line::parse_from(["test"]).limits).unwrap();
        for _ in 0..10 {
            let made = session_of(&state, state.config().clone());
            for (name, function) in state.scalar_functions() {
                assert!(made.scalar_functions()[name] == *function, "{name}");
            }
        }
    }

    #[tokio::test]
    async fn plans_are_the_same_once_they_were_encoded() {
        let dir = tempfile::tempdir().unwrap();
        let state = session(dir.path()).await;
        let context = state.task_ctx();
        for sql in [
            "SELECT * FROM t",
            "SELECT id + n * 2 - 1, -n, amount / 3, id % 7 FROM t WHERE n / 2 > 1 AND _offset >= 0",
            "SELECT n + 1, sum(n), sum(id), avg(amount), count(DISTINCT note) FROM t GROUP BY n + 1 ORDER BY 2",
            "SELECT note, sum(amount) OVER (PARTITION BY n + 1 ORDER BY id), row_number() OVER (ORDER BY id) FROM t",
            "SELECT t.id, u.note FROM t JOIN u ON t.id = u.id AND t.n < u.n LEFT JOIN u v ON v.n = t.n",
            "SELECT id FROM t WHERE id IN (SELECT id FROM u) UNION SELECT n FROM u LIMIT 5",
            "SELECT at ->> 'day', upper(note) || 'x', to_char(_ts, 'YYYY'), date_trunc('hour', _ts) FROM t",
            "SELECT string_agg(note, ',' ORDER BY id), array_agg(n), json_agg(id), bool_and(n > 1) FROM t",
            "SELECT repeat(note, 2), replace(note, 'a', 'b'), lpad(note, 3), format('%s', note) FROM t",
            "SELECT to_timestamp(id), extract(epoch FROM _ts), _ts AT TIME ZONE 'Europe/Rome' FROM t",
            "SELECT unnest(ARRAY[n, n + 1]) FROM t",
            "SELECT count(*) FROM t, u WHERE t.note LIKE 'a%' AND u.note IS NOT NULL",
            "SELECT 1",
        ] {
            let plan = plan(&state, sql).await;
            let encoded = encode(&plan, &context).unwrap_or_else(|e| panic!("{sql}: {e}"));
            let decoded = decode(&encoded.plan, encoded.opened, &context);
            let decoded = decoded.unwrap_or_else(|e| panic!("{sql}: {e}"));
            let text = |plan: &Arc<dyn ExecutionPlan>| displayable(&**plan).indent(true).to_string();
            assert_eq!(text(&decoded), text(&plan), "{sql}");
            assert_eq!(decoded.schema().fields().len(), plan.schema().fields().len(), "{sql}");
        }
    }

    #[tokio::test]
    async fn a_plan_reads_only_topics_that_came_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = session(dir.path()).await;
        let context = state.task_ctx();
        let encoded = encode(&plan(&state, "SELECT id FROM t").await, &context).unwrap();
        assert_eq!(encoded.topics.iter().map(|topic| &*topic.name).collect::<Vec<_>>(), ["t"]);
        let refused = decode(&encoded.plan, Vec::new(), &context).unwrap_err().to_string();
        assert!(refused.contains("what its topics do not hold"), "{refused}");
    }

    #[tokio::test]
    async fn steps_that_are_not_named_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = session(dir.path()).await;
        let context = state.task_ctx();
        for kind in [
            PhysicalPlanType::ParquetScan(ParquetScanExecNode::default()),
            PhysicalPlanType::CsvScan(CsvScanExecNode::default()),
            PhysicalPlanType::JsonScan(JsonScanExecNode::default()),
            PhysicalPlanType::AvroScan(AvroScanExecNode::default()),
            PhysicalPlanType::MemoryScan(MemoryScanExecNode::default()),
            PhysicalPlanType::CsvSink(Box::<CsvSinkExecNode>::default()),
            PhysicalPlanType::JsonSink(Box::<JsonSinkExecNode>::default()),
            PhysicalPlanType::ParquetSink(Box::<ParquetSinkExecNode>::default()),
        ] {
            let step = PhysicalPlanNode { physical_plan_type: Some(kind) };
            let below =
                protobuf::CoalescePartitionsExecNode { input: Some(Box::new(step.clone())), fetch: None };
            let above =
                PhysicalPlanNode { physical_plan_type: Some(PhysicalPlanType::Merge(Box::new(below))) };
            for plan in [step, above] {
                let refused = decode(&plan.encode_to_vec(), Vec::new(), &context).unwrap_err().to_string();
                assert!(refused.contains("a worker does not do the step"), "{plan:?}: {refused}");
            }
        }
        let unknown = protobuf::PhysicalExtensionNode { node: b"X".to_vec(), inputs: Vec::new() };
        let unknown = PhysicalPlanNode { physical_plan_type: Some(PhysicalPlanType::Extension(unknown)) };
        assert!(decode(&unknown.encode_to_vec(), Vec::new(), &context).is_err());
    }

    #[test]
    fn arithmetic_that_is_none_is_refused() {
        for bytes in [
            "",
            "Int64",
            "Int64 a",
            "Int64 +",
            "Int64 aa",
            "Int64 aan+n-",
            "Utf8 aa+",
            "Float64 aa+",
            "Int64 a?",
        ] {
            assert!(checked::read(bytes.as_bytes()).is_none(), "{bytes}");
        }
        assert!(checked::read(b"Int64 aa+").is_some() && checked::read(b"Float64 aa/").is_some());
    }
}
