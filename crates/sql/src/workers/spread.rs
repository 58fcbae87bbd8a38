//! Which queries go to workers, and how their plans are divided.
//!
//! A plan is made as for one machine, and divided afterwards by datafusion-distributed: its stages go to workers, each
//! as so many tasks, and what is above all of them stays here. Where a plan has a step that only this process can do, or
//! reads little, all of it stays here.
//!
//! Invariant: a plan that goes to workers was encoded and decoded here before, and is the same.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{LogicalPlan, Volatility};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion_distributed::{
    DesiredTaskCountEvent, DesiredTaskCountEventResponse, DistributedExec, DistributedExt as _,
    DistributedLeafExec, NetworkBoundaryExt as _, ScaleUpLeafNodeEvent, ScaleUpLeafNodeEventResponse,
    SessionStateBuilderExt as _, Stage, WorkerResolver,
};
use url::Url;

use super::channel::{OfQuery, Peers, Resolver, reachable, shown};
use super::codec;
use super::exec::SpreadExec;
use super::task::session_of;
use super::topics::divided;
use crate::charged::charged;
use crate::error::SqlError;
use crate::query::Query;
use crate::stoppable::stoppable;
use crate::topic::exec::TopicExec;

/// Less of a topic is not worth another task.
const PART_BYTES_MIN: u64 = 8 << 20;

/// The workers that a server may use.
#[derive(Debug)]
pub struct Workers {
    pub addresses: Vec<Url>,
    pub peers: Arc<Peers>,
    /// Queries that read less stay here.
    pub min_bytes: u64,
}

impl Workers {
    /// The plan of a query, with workers if it is worth them.
    pub async fn spread(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        state: &SessionState,
        query: &Arc<Query>,
    ) -> Result<Arc<dyn ExecutionPlan>, SqlError> {
        let small = match reads(&plan)? {
            Some(bytes) => bytes < self.min_bytes,
            None => true,
        };
        if small {
            return Ok(plan);
        }
        let (there, others) = reachable(&self.peers, &self.addresses).await;
        for (worker, why) in &others {
            let worker = shown(worker);
            match why.is_refusal() {
                true => tracing::warn!(worker, %why, "a worker refuses this server"),
                false => tracing::warn!(worker, %why, "a worker cannot be reached"),
            }
        }
        if there.is_empty() {
            tracing::warn!("no worker can be used: a query is answered by this server alone");
            query.remark("no worker can be used, and this server has read all of it alone".to_owned());
            return Ok(plan);
        }
        if !others.is_empty() {
            let count = self.addresses.len();
            query.remark(format!("{} of {count} workers could be used", there.len()));
        }
        Ok(self.divided(plan, state, query, there).await?)
    }

    async fn divided(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        state: &SessionState,
        query: &Arc<Query>,
        workers: Vec<Url>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let count = workers.len();
        let config = state
            .config()
            .clone()
            .with_extension(Arc::new(OfQuery(Arc::clone(query))))
            .with_distributed_worker_resolver(Known(workers))
            .with_distributed_channel_resolver(Resolver(Arc::clone(&self.peers)))
            .with_distributed_desired_task_count_handler(move |ev: DesiredTaskCountEvent<'_>| {
                desired_tasks(ev.plan, count)
            })
            .with_distributed_scale_up_leaf_node_handler(scaled_up)
            .with_distributed_metrics_collection(false)?;
        let distributing = SessionStateBuilder::new_from_existing(state.clone())
            .with_config(config)
            .with_query_planner(Arc::new(Made(Arc::clone(&plan))))
            .with_distributed_planner()
            .build();
        let nothing = LogicalPlan::default();
        let spread = distributing.query_planner().create_physical_plan(&nothing, &distributing).await?;
        if !spread.is::<DistributedExec>() {
            return Ok(plan);
        }
        let state = session_of(state, distributing.config().clone());
        if let Err(why) = check(&spread, &state) {
            tracing::debug!(%why, "a plan stays on this machine");
            return Ok(plan);
        }
        let spread = with_head(spread, |head| charged(stoppable(head, query)?))?;
        Ok(Arc::new(SpreadExec::new(spread, state.config().clone(), count)))
    }
}

/// The bytes that a plan reads. `None`: it has a step that is for this process alone.
fn reads(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<u64>> {
    let (mut bytes, mut is_own) = (0_u64, false);
    plan.apply(|step| {
        if let Some(topic) = step.downcast_ref::<TopicExec>() {
            bytes = bytes.saturating_add(topic.totals().bytes);
        } else if step.children().is_empty() {
            // What the server tells of itself, and rows that stand in the statement.
            is_own |= !step.is::<EmptyExec>() && !step.is::<PlaceholderRowExec>();
        }
        is_own |= step.name() == "ScalarSubqueryExec" || step.name() == "RecursiveQueryExec";
        step.apply_expressions(&mut |expr| {
            is_own |= is_volatile(expr)?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(if is_own { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok((!is_own).then_some(bytes))
}

/// Whether an expression gives something else each time, or asks for the session.
fn is_volatile(expr: &Arc<dyn PhysicalExpr>) -> Result<bool> {
    let mut found = false;
    expr.apply(|expr| {
        let call = expr.downcast_ref::<ScalarFunctionExpr>();
        found |= call.is_some_and(|call| call.fun().signature().volatility == Volatility::Volatile);
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

fn desired_tasks(
    plan: &Arc<dyn ExecutionPlan>,
    workers: usize,
) -> Option<Result<DesiredTaskCountEventResponse>> {
    let topic = plan.downcast_ref::<TopicExec>()?;
    let scan = topic.scan();
    let by_size = usize::try_from(scan.totals.bytes / PART_BYTES_MIN).unwrap_or(usize::MAX);
    let tasks = scan.parts.len().max(by_size).clamp(1, workers.max(1));
    // The first rows of a topic are read by one.
    let tasks = if scan.limit.is_some() { 1 } else { tasks };
    Some(Ok(DesiredTaskCountEventResponse::desired(tasks)))
}

fn scaled_up(ev: ScaleUpLeafNodeEvent<'_>) -> Option<Result<ScaleUpLeafNodeEventResponse>> {
    let topic = ev.plan.downcast_ref::<TopicExec>()?;
    let variants = divided(topic, ev.task_count, PART_BYTES_MIN).into_iter();
    let variants = variants.map(|variant| Arc::new(variant) as Arc<dyn ExecutionPlan>);
    let leaf = DistributedLeafExec::try_new(Arc::clone(ev.plan), variants);
    Some(leaf.map(|leaf| ScaleUpLeafNodeEventResponse::new(Arc::new(leaf))))
}

/// Encodes what workers would get, decodes it, and compares.
fn check(spread: &Arc<dyn ExecutionPlan>, state: &SessionState) -> Result<()> {
    let context = state.task_ctx();
    let mut stages = Vec::new();
    spread.apply(|step| {
        if let Some(boundary) = step.as_network_boundary()
            && let Stage::Local(stage) = boundary.input_stage()
        {
            stages.push(Arc::clone(&stage.plan));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    for stage in stages {
        let stage = stage.transform_up(|step| {
            Ok(match step.downcast_ref::<DistributedLeafExec>().and_then(|leaf| leaf.variants().first()) {
                Some(variant) => Transformed::yes(Arc::clone(variant)),
                None => Transformed::no(step),
            })
        })?;
        let encoded = codec::encode(&stage.data, &context)?;
        let decoded = codec::decode(&encoded.plan, encoded.opened, &context)?;
        let text = |plan: &Arc<dyn ExecutionPlan>| displayable(&**plan).indent(false).to_string();
        let (before, after) = (text(&stage.data), text(&decoded));
        if before != after {
            let why = format!("a plan is another one once it was encoded:\n{before}\n{after}");
            return Err(DataFusionError::Plan(why));
        }
    }
    Ok(())
}

/// The same plan, with something done to what stays here.
fn with_head(
    spread: Arc<dyn ExecutionPlan>,
    change: impl FnOnce(Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(head) = spread.children().first().map(|head| Arc::clone(head)) else { return Ok(spread) };
    let held = head.transform_down(|step| {
        Ok(match step.is_network_boundary() {
            true => Transformed::new(Arc::new(super::exec::Held(step)) as _, true, TreeNodeRecursion::Jump),
            false => Transformed::no(step),
        })
    })?;
    let changed = change(held.data)?;
    let released = changed.transform_up(|step| {
        Ok(match step.downcast_ref::<super::exec::Held>() {
            Some(held) => Transformed::yes(Arc::clone(&held.0)),
            None => Transformed::no(step),
        })
    })?;
    spread
        .replace_children(vec![released.data], ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// Gives a plan that was made before.
struct Made(Arc<dyn ExecutionPlan>);

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Made")
    }
}

#[async_trait]
impl QueryPlanner for Made {
    async fn create_physical_plan(&self, _: &LogicalPlan, _: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::clone(&self.0))
    }
}

/// The workers that one query uses.
struct Known(Vec<Url>);

impl WorkerResolver for Known {
    fn get_urls(&self) -> Result<Vec<Url>, DataFusionError> {
        Ok(self.0.clone())
    }
}
