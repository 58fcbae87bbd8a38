//! How much of a plan is too much. Planning takes time for each step, for each level and for each part of an expression, and nothing
//! ends it from outside, so that all of them are bounded before it goes on.

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};
use kafscale_sql::error::SqlError;

/// Each name of WITH is written out where it is used.
const STEPS_MAX: usize = 2_000;
const DEPTH_MAX: usize = 250;
/// Joins and parts of UNION: the planner looks at all of them for each of them.
const TABLES_MAX: usize = 64;
/// Columns, constants, operators and calls.
const PARTS_MAX: usize = 100_000;

#[derive(Debug, Default)]
struct Counted {
    steps: usize,
    tables: usize,
    parts: usize,
}

/// Refuses plans that would take too long to be made ready.
pub fn check(plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut counted = Counted::default();
    let refused = |what: &str, most: usize| {
        SqlError::TooComplex(format!("the statement is too complex: its plan has more than {most} {what}"))
    };
    if depth_exceeds(plan, DEPTH_MAX) {
        return Err(refused("levels", DEPTH_MAX));
    }
    plan.apply_with_subqueries(|step| {
        counted.steps += 1;
        counted.tables += usize::from(matches!(step, LogicalPlan::TableScan(_) | LogicalPlan::Values(_)));
        step.apply_expressions(|expression| {
            counted.parts += parts(expression, PARTS_MAX.saturating_sub(counted.parts))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        let Counted { steps, tables, parts } = counted;
        let is_much = steps > STEPS_MAX || tables > TABLES_MAX || parts > PARTS_MAX;
        Ok(if is_much { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    match counted {
        Counted { steps, .. } if steps > STEPS_MAX => Err(refused("steps", STEPS_MAX)),
        Counted { tables, .. } if tables > TABLES_MAX => Err(refused("tables", TABLES_MAX)),
        Counted { parts, .. } if parts > PARTS_MAX => Err(refused("parts of expressions", PARTS_MAX)),
        _ => Ok(()),
    }
}

/// Without recursion: the plan may be deeper than the stack.
fn depth_exceeds(plan: &LogicalPlan, most: usize) -> bool {
    let mut level = vec![plan];
    for _ in 0..most {
        if level.is_empty() || level.len() > STEPS_MAX {
            // Too many steps at one level are found by their count.
            return false;
        }
        level = level.into_iter().flat_map(LogicalPlan::inputs).collect();
    }
    !level.is_empty()
}

/// How many parts an expression has, up to somewhat more than `most`.
fn parts(expression: &Expr, most: usize) -> datafusion::error::Result<usize> {
    let mut count = 0;
    expression.apply(|part| {
        count += match part {
            Expr::InList(list) => 1 + list.list.len(),
            _ => 1,
        };
        Ok(if count > most { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(count)
}
