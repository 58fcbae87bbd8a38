//! Plans that stop when nobody waits for them any more.
//!
//! Dropping a stream ends the tasks behind it, but only where they come up for air. The engine's
//! own sources do that for each batch. A join makes any number of batches of one, and one that
//! filters its rows may look at any number of pairs for a single batch. So joins give way to others
//! after some batches, and their conditions fail once the statement is stopped.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder};

use crate::error::SqlError;
use crate::metered;
use crate::query::Query;

/// Steps that may make many batches of one.
pub const MULTIPLYING: [&str; 7] = [
    "CrossJoinExec",
    "HashJoinExec",
    "NestedLoopJoinExec",
    "PiecewiseMergeJoin",
    "RecursiveQueryExec",
    "SortMergeJoinExec",
    "UnnestExec",
];

/// The same plan, which ends soon after its query was stopped.
pub fn stoppable(plan: Arc<dyn ExecutionPlan>, query: &Arc<Query>) -> Result<Arc<dyn ExecutionPlan>> {
    let of_step = |step: Arc<dyn ExecutionPlan>| {
        if !MULTIPLYING.contains(&step.name()) {
            return Ok(Transformed::no(step));
        }
        let step = with_checks(step, query)?;
        Ok(Transformed::yes(Arc::new(CooperativeExec::new(step)) as Arc<dyn ExecutionPlan>))
    };
    Ok(plan.transform_up(of_step)?.data)
}

/// The same join, whose condition looks whether the query is stopped.
fn with_checks(step: Arc<dyn ExecutionPlan>, query: &Arc<Query>) -> Result<Arc<dyn ExecutionPlan>> {
    let checked = |filter: &JoinFilter| {
        let inner = Arc::clone(filter.expression());
        let expression = Arc::new(UnlessStopped { inner, query: Arc::clone(query) });
        Some(JoinFilter::new(expression, filter.column_indices().to_vec(), Arc::clone(filter.schema())))
    };
    if let Some(join) = step.downcast_ref::<NestedLoopJoinExec>()
        && let Some(filter) = join.filter()
    {
        return Ok(Arc::new(NestedLoopJoinExecBuilder::from(join).with_filter(checked(filter)).build()?));
    }
    if let Some(join) = step.downcast_ref::<HashJoinExec>()
        && let Some(filter) = join.filter()
    {
        return join.builder().with_filter(checked(filter)).build_exec();
    }
    Ok(step)
}

/// An expression that cannot be evaluated any more once its query is stopped.
#[derive(Debug)]
struct UnlessStopped {
    inner: Arc<dyn PhysicalExpr>,
    query: Arc<Query>,
}

impl PartialEq for UnlessStopped {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner) && Arc::ptr_eq(&self.query, &other.query)
    }
}

impl Eq for UnlessStopped {}

impl Hash for UnlessStopped {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for UnlessStopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PhysicalExpr for UnlessStopped {
    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        match self.query.is_stopped() {
            true => Err(SqlError::Cancelled.into()),
            false => {
                metered::check()?;
                self.inner.evaluate(batch)
            }
        }
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let inner = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.inner));
        Ok(Arc::new(UnlessStopped { inner, query: Arc::clone(&self.query) }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}
