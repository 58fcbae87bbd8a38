//! Inputs that are executed once.
//!
//! A nested loop join that has no memory for its left side executes that a second time, to keep it on
//! disk (DataFusion 55). Most steps cannot be: a repartitioning panics, a source of the perimeter is
//! asked twice. And where several partitions of the right side look for rows of the left side that
//! have no partner, each gives those that have none in its own partition, so that rows come twice. A
//! second execution fails here as the first did: there is no memory for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{JoinType, resources_err};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::joins::NestedLoopJoinExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties,
};

use crate::through::KEPT;

/// Steps that give the same rows each time.
const REPEATABLE: [&str; 5] =
    ["CoalescePartitionsExec", "CooperativeExec", "FilterExec", "ProjectionExec", "TopicExec"];

/// The same plan, in which no join executes an input a second time that gives other rows then, or none.
pub fn left_sides_once(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let of_step = |step: Arc<dyn ExecutionPlan>| {
        let Some(join) = step.downcast_ref::<NestedLoopJoinExec>() else { return Ok(Transformed::no(step)) };
        if may_repeat(join) {
            return Ok(Transformed::no(step));
        }
        let left: Arc<dyn ExecutionPlan> = Arc::new(OnceExec::new(Arc::clone(join.left())));
        let children = vec![left, Arc::clone(join.right())];
        Ok(Transformed::yes(Arc::clone(&step).replace_children(children, KEPT)?))
    };
    Ok(plan.transform_up(of_step)?.data)
}

fn may_repeat(join: &NestedLoopJoinExec) -> bool {
    let looks_for_partners = match join.join_type() {
        JoinType::Left | JoinType::Full | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
            true
        }
        JoinType::Inner
        | JoinType::Right
        | JoinType::RightSemi
        | JoinType::RightAnti
        | JoinType::RightMark => false,
    };
    let is_alone = join.right().output_partitioning().partition_count() == 1;
    (is_alone || !looks_for_partners) && is_repeatable(join.left())
}

fn is_repeatable(plan: &Arc<dyn ExecutionPlan>) -> bool {
    REPEATABLE.contains(&plan.name()) && plan.children().into_iter().all(is_repeatable)
}

/// Gives the rows of its input, each partition once.
struct OnceExec {
    input: Arc<dyn ExecutionPlan>,
    executed: Vec<AtomicBool>,
}

impl OnceExec {
    fn new(input: Arc<dyn ExecutionPlan>) -> OnceExec {
        let count = input.output_partitioning().partition_count();
        OnceExec { input, executed: (0..count).map(|_| AtomicBool::new(false)).collect() }
    }
}

impl fmt::Debug for OnceExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnceExec").field("input", &self.input).finish_non_exhaustive()
    }
}

impl DisplayAs for OnceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnceExec")
    }
}

impl ExecutionPlan for OnceExec {
    fn name(&self) -> &str {
        "OnceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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
        Ok(Arc::new(OnceExec::new(input)))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, KEPT)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if self.executed.get(partition).is_some_and(|executed| executed.swap(true, Ordering::Relaxed)) {
            return resources_err!(
                "the smaller side of a join without an equality does not fit into the memory for queries: \
                 join on equal columns, or filter it (--memory)"
            );
        }
        self.input.execute(partition, context)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    /// A session with two partitions, so little memory that no left side fits, and a disk.
    fn session() -> SessionContext {
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(16 << 10, 1.0).build_arc();
        let config = SessionConfig::new().with_target_partitions(2).with_batch_size(64);
        SessionContext::new_with_config_rt(config, runtime.expect("an environment"))
    }

    async fn rows(sql: &str, once: bool) -> Result<usize> {
        let session = session();
        let plan = session.sql(sql).await?.create_physical_plan().await?;
        let plan = if once { left_sides_once(plan)? } else { plan };
        let batches = datafusion::physical_plan::collect(plan, session.task_ctx()).await?;
        Ok(batches.iter().map(|batch| batch.num_rows()).sum())
    }

    const LEFT: &str =
        "(SELECT DISTINCT value AS v, repeat('x', 100) AS x FROM generate_series(1, 4000)) AS l";
    const RIGHT: &str = "(SELECT value AS w FROM generate_series(1, 100)) AS r";

    #[tokio::test(flavor = "multi_thread")]
    async fn a_left_side_without_memory_is_an_error_and_not_a_panic_or_other_rows() {
        for join in ["JOIN", "LEFT JOIN", "RIGHT JOIN"] {
            let sql = format!("SELECT l.x, r.w FROM {LEFT} {join} {RIGHT} ON l.v + r.w = 4001");
            let error = rows(&sql, true).await.expect_err("there is no memory").to_string();
            assert!(error.contains("esources exhausted"), "{join}: {error}");
        }
    }

    #[tokio::test]
    async fn steps_are_executed_again_only_where_they_may_be() {
        let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
        let planned = |sql: &'static str| {
            let session = session.clone();
            async move { session.sql(sql).await.expect("SQL").create_physical_plan().await.expect("a plan") }
        };
        let plan = planned(
            "SELECT 1 FROM generate_series(1, 9) AS a, generate_series(1, 9) AS b WHERE a.value < b.value",
        )
        .await;
        let plan = left_sides_once(plan).expect("a plan");
        let shown = datafusion::physical_plan::displayable(&*plan).indent(false).to_string();
        // A source that is not one of ours.
        assert!(shown.contains("NestedLoopJoinExec") && shown.contains("OnceExec"), "{shown}");
    }
}
