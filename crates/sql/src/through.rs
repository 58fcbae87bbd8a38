//! A step of a plan that gives its input's rows on, partition by partition and in their order, and does something on the way.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use datafusion::prelude::SessionConfig;

/// New inputs have the properties of those before.
pub const KEPT: ReplaceChildrenOptions = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);

/// Executes a partition of the input, and gives its rows on.
type Through =
    dyn Fn(&dyn ExecutionPlan, usize, Arc<TaskContext>) -> Result<SendableRecordBatchStream> + Send + Sync;

/// The same context for the steps below, with something more in it.
pub fn with_extension<T: Send + Sync + 'static>(
    context: &TaskContext,
    extension: Arc<T>,
) -> Arc<TaskContext> {
    let config = context.session_config().clone().with_extension(extension);
    with_runtime(context, config, context.runtime_env())
}

/// The same context, with settings and memory of its own.
pub fn with_runtime(
    context: &TaskContext,
    config: SessionConfig,
    runtime: Arc<RuntimeEnv>,
) -> Arc<TaskContext> {
    Arc::new(TaskContext::new(
        context.task_id(),
        context.session_id(),
        config,
        context.scalar_functions().clone(),
        context.higher_order_functions().clone(),
        context.aggregate_functions().clone(),
        context.window_functions().clone(),
        runtime,
    ))
}

/// See the file's comment.
pub struct ThroughExec {
    name: &'static str,
    input: Arc<dyn ExecutionPlan>,
    through: Arc<Through>,
}

impl ThroughExec {
    pub fn of(
        name: &'static str,
        input: &Arc<dyn ExecutionPlan>,
        through: impl Fn(&dyn ExecutionPlan, usize, Arc<TaskContext>) -> Result<SendableRecordBatchStream>
        + Send
        + Sync
        + 'static,
    ) -> Arc<dyn ExecutionPlan> {
        Arc::new(ThroughExec { name, input: Arc::clone(input), through: Arc::new(through) })
    }
}

impl fmt::Debug for ThroughExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.name).field("input", &self.input).finish_non_exhaustive()
    }
}

impl DisplayAs for ThroughExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl ExecutionPlan for ThroughExec {
    fn name(&self) -> &str {
        self.name
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
        let input = Arc::clone(children.first().unwrap_or(&self.input));
        Ok(Arc::new(ThroughExec { name: self.name, input, through: Arc::clone(&self.through) }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, KEPT)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        (self.through)(&*self.input, partition, context)
    }
}
