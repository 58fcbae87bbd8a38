//! What a plan may consist of. Everything is named that may be in one, so that a new kind of plan is refused until somebody has
//! thought about it.

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;

use crate::error::SqlError;

/// A WITH that is named twice is there twice, and so on: a short text may have a plan without end.
const STEPS_MAX: usize = 20_000;

/// Refuses plans that do anything but read, subqueries included, and those that would never be ready.
pub fn check(plan: &LogicalPlan) -> Result<(), SqlError> {
    let (mut refused, mut steps) = (None, 0);
    plan.apply_with_subqueries(|node| {
        steps += 1;
        let many = (steps > STEPS_MAX)
            .then(|| SqlError::TooComplex(format!("the plan would have more than {STEPS_MAX} steps")));
        let why = refusal(node).or(many);
        let found = why.is_some();
        refused = refused.take().or(why);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    refused.map_or(Ok(()), Err)
}

fn refusal(node: &LogicalPlan) -> Option<SqlError> {
    match node {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Aggregate(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::TableScan(_)
        | LogicalPlan::EmptyRelation(_)
        | LogicalPlan::Subquery(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Values(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::RecursiveQuery(_) => None,
        LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) => {
            Some(SqlError::ReadOnly(format!("{} is refused", node.display())))
        }
        LogicalPlan::Statement(_)
        | LogicalPlan::Explain(_)
        | LogicalPlan::Analyze(_)
        | LogicalPlan::Extension(_)
        | LogicalPlan::DescribeTable(_) => {
            Some(SqlError::Unsupported(format!("{} is not supported here", node.display())))
        }
    }
}
