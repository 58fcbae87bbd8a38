//! Conditions that are joined by AND, and may fail: `name ~ '^[0-9]+$' AND name::int > 2`. The engine looks at both for all
//! rows of a batch, in no certain order; here, what may fail is only looked at for rows that the other conditions keep.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal, case, lit};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr, conjunction, split_conjunction};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::ProjectionExec;

/// How the engine calls columns that it makes of what stands in a condition twice.
const COMMON: &str = "__common_expr";

/// The rule, which is to come behind those that move conditions.
pub fn rule() -> Arc<dyn PhysicalOptimizerRule + Send + Sync> {
    Arc::new(Guarded)
}

#[derive(Debug)]
struct Guarded;

impl PhysicalOptimizerRule for Guarded {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let of_step = |step: Arc<dyn ExecutionPlan>| {
            let Some(filter) = step.downcast_ref::<FilterExec>() else { return Ok(Transformed::no(step)) };
            if let Some(turned) = before_columns(filter)? {
                return Ok(Transformed::yes(turned));
            }
            let Some(predicate) = guarded(filter.predicate(), &filter.input().schema())? else {
                return Ok(Transformed::no(step));
            };
            let made = FilterExecBuilder::from(filter).with_predicate(predicate).build()?;
            Ok(Transformed::yes(Arc::new(made) as Arc<dyn ExecutionPlan>))
        };
        Ok(plan.transform_up(of_step)?.data)
    }

    fn name(&self) -> &'static str {
        "guarded_conditions"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What stands in a condition twice is a column before it, for all rows. Where that may fail, the condition comes first.
fn before_columns(filter: &FilterExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(columns) = filter.input().downcast_ref::<ProjectionExec>() else { return Ok(None) };
    let (exprs, schema) = (columns.expr(), columns.input().schema());
    let mut is_risky = false;
    for column in exprs {
        is_risky |= column.alias.starts_with(COMMON) && may_fail(&column.expr, &schema)?;
    }
    if !is_risky {
        return Ok(None);
    }
    let of_input = |part: Arc<dyn PhysicalExpr>| match part.downcast_ref::<Column>() {
        Some(column) => {
            let expr = Arc::clone(&exprs[column.index()].expr);
            Ok(Transformed::new(expr, true, TreeNodeRecursion::Jump))
        }
        None => Ok(Transformed::no(part)),
    };
    let predicate = Arc::clone(filter.predicate()).transform_down(of_input)?.data;
    let predicate = guarded(&predicate, &schema)?.unwrap_or(predicate);
    let made = FilterExecBuilder::new(predicate, Arc::clone(columns.input()))
        .with_default_selectivity(filter.default_selectivity())
        .with_batch_size(filter.batch_size())
        .with_fetch(filter.fetch())
        .build()?;
    let kept: Vec<_> = match filter.projection() {
        Some(places) => places.iter().map(|at| exprs[*at].clone()).collect(),
        None => exprs.to_vec(),
    };
    Ok(Some(Arc::new(ProjectionExec::try_new(kept, Arc::new(made))?)))
}

/// The same condition, if parts of it may fail: the others stay, and each of these is asked where all before it are true.
fn guarded(predicate: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let (mut safe, mut risky) = (Vec::new(), Vec::new());
    for part in split_conjunction(predicate) {
        let parts = if may_fail(part, schema)? { &mut risky } else { &mut safe };
        parts.push(Arc::clone(part));
    }
    if risky.is_empty() || safe.len() + risky.len() < 2 {
        return Ok(None);
    }
    let mut asked = match safe.is_empty() {
        true => risky.remove(0),
        false => conjunction(safe.clone()),
    };
    for part in risky {
        asked = case(None, vec![(asked, part)], Some(lit(ScalarValue::Boolean(Some(false)))))?;
    }
    safe.push(asked);
    Ok(Some(conjunction(safe)))
}

/// Whether there are values for which it fails: a text that is no number, a divisor of 0, a sum that is too large.
fn may_fail(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<bool> {
    let mut found = false;
    expr.apply(|part| {
        if let Some(cast) = part.downcast_ref::<CastExpr>() {
            let (from, to) = (cast.expr().data_type(schema)?, part.data_type(schema)?);
            found |= from.is_string() && !to.is_string();
        } else if let Some(binary) = part.downcast_ref::<BinaryExpr>() {
            let divides = matches!(binary.op(), Operator::Divide | Operator::Modulo);
            found |= divides && binary.right().downcast_ref::<Literal>().is_none();
        } else if let Some(call) = part.downcast_ref::<ScalarFunctionExpr>() {
            found |= FAILING.iter().any(|name| call.name().starts_with(name));
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Functions by the beginnings of their names.
const FAILING: [&str; 6] =
    ["checked_", "kafscale_interval_over", "kafscale_json", "kafscale_uuid", "to_date", "to_timestamp"];

#[cfg(test)]
mod tests {
    use datafusion::execution::session_state::SessionStateBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    async fn count(condition: &str) -> Result<usize> {
        let config = SessionConfig::new().with_target_partitions(1);
        let builder = SessionStateBuilder::new().with_default_features().with_config(config);
        let context = SessionContext::new_with_state(builder.with_physical_optimizer_rule(rule()).build());
        let rows = "(SELECT v, length(v) - 1 AS n FROM (VALUES ('1'), ('x'), ('30'), ('4'), (NULL), ('y')) AS r (v)) AS t";
        context.sql(&format!("SELECT v FROM {rows} WHERE {condition}")).await?.count().await
    }

    #[tokio::test]
    async fn what_may_fail_is_asked_of_rows_that_are_kept() {
        for (condition, expected) in [
            ("v ~ '^[0-9]+$' AND CAST(v AS int) > 2", 2),
            ("CAST(v AS int) > 2 AND v ~ '^[0-9]+$'", 2),
            ("CASE WHEN v ~ '^[0-9]+$' THEN CAST(v AS int) > 2 ELSE false END", 2),
            ("v ~ '^[0-9]+$' AND CAST(v AS int) > 2 AND 10 / CAST(v AS int) > 1", 1),
            ("v ~ '^[0-9]+$' AND CAST(v AS int) > 2 AND CAST(v AS int) < 10", 1),
            ("n <> 0 AND 10 / n > 1", 1),
        ] {
            let found = count(condition).await.map_err(|error| format!("{condition}: {error}"));
            assert_eq!(found, Ok(expected), "{condition}");
        }
        assert!(count("CAST(v AS int) > 2").await.is_err());
        assert!(count("v IS NOT NULL AND CAST(v AS int) > 2").await.is_err());
    }
}
