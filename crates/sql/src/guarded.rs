//! Conditions that guard others: `WHERE t ~ '^[0-9]+$' AND t::int > 2`.
//!
//! The engine evaluates both sides of an AND for all rows of a batch, and so fails on those that the left one leaves out.
//! PostgreSQL promises no order either, but goes by that of the text, and statements rely on it. So what may fail on a row
//! is evaluated last, and only for rows for which the conditions before it are true.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, CaseExpr, CastExpr, lit};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr, conjunction, split_conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};

/// The same plan, whose filters ask last what may fail.
pub fn guarded(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let of_step = |step: Arc<dyn ExecutionPlan>| {
        let Some(filter) = step.downcast_ref::<FilterExec>() else { return Ok(Transformed::no(step)) };
        let Some(predicate) = in_turn(filter.predicate(), &filter.input().schema())? else {
            return Ok(Transformed::no(step));
        };
        let filter = FilterExecBuilder::from(filter).with_predicate(predicate).build()?;
        Ok(Transformed::yes(Arc::new(filter) as Arc<dyn ExecutionPlan>))
    };
    Ok(plan.transform_up(of_step)?.data)
}

/// `None` where nothing is to be guarded.
fn in_turn(predicate: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let (mut sound, mut others) = (Vec::new(), Vec::new());
    for condition in split_conjunction(predicate) {
        if may_fail(condition, schema)? { &mut others } else { &mut sound }.push(Arc::clone(condition));
    }
    let steps = usize::from(!sound.is_empty()) + others.len();
    if others.is_empty() || steps < 2 {
        return Ok(None);
    }
    let mut last = others.pop();
    if !sound.is_empty() {
        others.insert(0, conjunction(sound));
    }
    for before in others.into_iter().rev() {
        let Some(then) = last else { break };
        last = Some(Arc::new(CaseExpr::try_new(None, vec![(before, then)], Some(lit(false)))?));
    }
    Ok(last)
}

fn may_fail(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<bool> {
    let mut found = false;
    expr.apply(|expr| {
        found = if let Some(cast) = expr.downcast_ref::<CastExpr>() {
            !always_fits(&cast.expr().data_type(schema)?, cast.cast_type())
        } else if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
            matches!(binary.op(), Operator::Divide | Operator::Modulo)
        } else {
            let called = expr.downcast_ref::<ScalarFunctionExpr>();
            called.is_some_and(|function| function.name().starts_with("checked_"))
        };
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Whether each value of one type is one of another.
fn always_fits(from: &DataType, to: &DataType) -> bool {
    let bits = |number: &DataType| number.primitive_width().unwrap_or_default();
    match (from, to) {
        (from, to) if from == to => true,
        (_, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => true,
        (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, _) => false,
        (from, to) if from.is_signed_integer() == to.is_signed_integer() && to.is_integer() => {
            from.is_integer() && bits(from) <= bits(to)
        }
        (from, to) if to.is_integer() => from.is_unsigned_integer() && bits(from) < bits(to),
        (from, DataType::Decimal128(..) | DataType::Decimal256(..)) => from.is_integer(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn rows(condition: &str, is_guarded: bool) -> Result<usize> {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["1", "x", "3", "12", "y7", "40"]));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 0, 3, 12, 0, 40]));
        let session = SessionContext::new();
        session.register_batch("t", RecordBatch::try_from_iter([("s", texts), ("n", numbers)])?)?;
        let statement = format!("SELECT s FROM t WHERE {condition}");
        let plan = session.sql(&statement).await?.create_physical_plan().await?;
        let plan = if is_guarded { guarded(plan)? } else { plan };
        let batches = collect(plan, session.task_ctx()).await?;
        Ok(batches.iter().map(RecordBatch::num_rows).sum())
    }

    #[tokio::test]
    async fn what_may_fail_is_asked_of_rows_that_are_left() {
        for (condition, count) in [
            ("s ~ '^[0-9]+$' AND CAST(s AS int) > 2", 3),
            ("CAST(s AS int) > 2 AND s ~ '^[0-9]+$'", 3),
            ("n <> 0 AND 24 / n > 1", 3),
            ("n <> 0 AND 24 / n > 1 AND s ~ '^[0-9]+$' AND CAST(s AS int) < 12", 2),
        ] {
            assert!(rows(condition, false).await.is_err(), "{condition}");
            assert_eq!(rows(condition, true).await.unwrap(), count, "{condition}");
        }
        assert_eq!(rows("n > 1 AND s <> 'x'", true).await.unwrap(), 3);
        assert!(rows("CAST(s AS int) > 2", true).await.is_err(), "what nothing guards fails");
    }

    #[test]
    fn wider_numbers_hold_narrower_ones() {
        for (from, to, fits) in [
            (DataType::Int32, DataType::Int64, true),
            (DataType::Int64, DataType::Int32, false),
            (DataType::UInt32, DataType::Int64, true),
            (DataType::Int64, DataType::UInt64, false),
            (DataType::Float64, DataType::Int64, false),
            (DataType::Int64, DataType::Float64, true),
            (DataType::Utf8View, DataType::Date32, false),
            (DataType::Date32, DataType::Utf8, true),
        ] {
            assert_eq!(always_fits(&from, &to), fits, "{from} as {to}");
        }
    }
}
