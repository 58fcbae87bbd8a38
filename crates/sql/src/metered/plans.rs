//! Plans that look for memory between the batches of their steps, and between the columns of a projection.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::Result;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, AggregatePhysicalExpressions};
use datafusion::physical_expr::expressions::{CaseExpr, Column, Literal};
use datafusion::physical_expr::projection::ProjectionExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::ProjectionExec;
use futures_util::{Stream, StreamExt as _};

use super::{check, copies, reserve};
use crate::through::{KEPT, ThroughExec};

/// What the steps that look are called.
const NAME: &str = "MeteredExec";

/// The same plan as it is executed: each of its steps fails once its statement holds too much. What it was planned with, as
/// the order of rows, is kept.
pub fn metered(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let inputs = plan.children().into_iter().map(|input| metered(Arc::clone(input)));
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    let step = if inputs.is_empty() { plan } else { plan.replace_children(inputs, KEPT)? };
    let step = if let Some(projection) = step.downcast_ref::<ProjectionExec>() {
        between_columns(projection)?
    } else if let Some(aggregate) = step.downcast_ref::<AggregateExec>() {
        of_arguments(aggregate)?
    } else if let Some(filter) = step.downcast_ref::<FilterExec>() {
        of_predicate(filter)?.unwrap_or(step)
    } else {
        copies::with_room(step)?
    };
    Ok(ThroughExec::of(NAME, &step, looked_at))
}

/// Lines of a plan without the steps that look, which say nothing of what it does.
pub fn without_checks(lines: &[String]) -> Vec<String> {
    // How deep lines are that were left out and those below belong to.
    let mut left_out: Vec<usize> = Vec::new();
    let mut kept = Vec::with_capacity(lines.len());
    for line in lines {
        let text = line.trim_start_matches(' ');
        let depth = line.len() - text.len();
        while left_out.last().is_some_and(|above| *above >= depth) {
            left_out.pop();
        }
        if text.starts_with(NAME) {
            left_out.push(depth);
        } else {
            kept.push(format!("{}{text}", " ".repeat(depth.saturating_sub(2 * left_out.len()))));
        }
    }
    kept
}

fn looked_at(
    input: &dyn ExecutionPlan,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    Ok(Box::pin(LookedAt(input.execute(partition, context)?)))
}

struct LookedAt(SendableRecordBatchStream);

impl Stream for LookedAt {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Poll::Ready(next) = self.0.poll_next_unpin(cx) else { return Poll::Pending };
        Poll::Ready(match next {
            Some(Ok(batch)) => Some(check().map(|()| batch)),
            other => other,
        })
    }
}

impl RecordBatchStream for LookedAt {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }
}

/// A selection may have a thousand columns, each of which is as large as the batch.
fn between_columns(projection: &ProjectionExec) -> Result<Arc<dyn ExecutionPlan>> {
    let input = Arc::clone(projection.input());
    let schema = input.schema();
    let with_check = |column: &ProjectionExpr| {
        let expr = of_cases(Arc::clone(&column.expr), &schema)?.data;
        Ok(ProjectionExpr { expr: looking(expr), alias: column.alias.clone() })
    };
    let columns = projection.expr().iter().map(with_check).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(ProjectionExec::try_new(columns, input)?))
}

/// Aggregates take each argument as a column, also one that is the same for all rows.
fn of_arguments(aggregate: &AggregateExec) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = aggregate.input_schema();
    let of_function = |function: &Arc<AggregateFunctionExpr>| {
        let AggregatePhysicalExpressions { args, order_by_exprs } = function.all_expressions();
        let argument = |expr: Arc<dyn PhysicalExpr>| {
            let expr = of_cases(expr, &schema)?.data;
            Ok(if is_short(&expr) { expr } else { looking(expr) })
        };
        let arguments = args.into_iter().map(argument).collect::<Result<_>>()?;
        let looked_at = function.with_new_expressions(arguments, order_by_exprs);
        Ok(looked_at.map_or_else(|| Arc::clone(function), Arc::new))
    };
    let functions = aggregate.aggr_expr().iter().map(of_function).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(aggregate.with_new_aggr_exprs(functions)))
}

fn of_predicate(filter: &FilterExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let predicate = of_cases(Arc::clone(filter.predicate()), &filter.input().schema())?;
    if !predicate.transformed {
        return Ok(None);
    }
    let filter = FilterExecBuilder::from(filter).with_predicate(predicate.data).build()?;
    Ok(Some(Arc::new(filter)))
}

fn is_short(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.downcast_ref::<Literal>().is_some_and(|value| value.value().size() < 1024)
}

fn looking(expr: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    if expr.downcast_ref::<Column>().is_some() {
        return expr;
    }
    Arc::new(Looking(expr))
}

/// CASE copies a value that is the same for all rows into each of them.
fn of_cases(expr: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Transformed<Arc<dyn PhysicalExpr>>> {
    let of_step = |expr: Arc<dyn PhysicalExpr>| {
        if expr.downcast_ref::<CaseExpr>().is_none() {
            return Ok(Transformed::no(expr));
        }
        let mut is_new = false;
        let mut branch = |child: &Arc<dyn PhysicalExpr>| {
            if is_short(child) || !is_copied(&child.data_type(schema)?) {
                return Ok(Arc::clone(child));
            }
            is_new = true;
            Ok(looking(Arc::clone(child)))
        };
        let children = expr.children().into_iter().map(&mut branch).collect::<Result<Vec<_>>>()?;
        if !is_new {
            return Ok(Transformed::no(expr));
        }
        Ok(Transformed::yes(expr.with_new_children(children)?))
    };
    expr.transform_up(of_step)
}

/// Of what a value is copied with its row. Views are not.
pub fn is_copied(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => true,
        other => other.is_nested(),
    }
}

/// An expression that is not evaluated once its statement holds too much, nor where its one value for all rows
/// would be too much when it is copied into each.
struct Looking(Arc<dyn PhysicalExpr>);

impl fmt::Debug for Looking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Looking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for Looking {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq(&other.0)
    }
}

impl Eq for Looking {}

impl Hash for Looking {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl PhysicalExpr for Looking {
    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.0.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        check()?;
        let value = self.0.evaluate(batch)?;
        if let ColumnarValue::Scalar(one) = &value
            && is_copied(&one.data_type())
        {
            // It is given back at once: what is asked is whether there is room.
            reserve(one.size() as f64 * batch.num_rows() as f64)?;
        }
        Ok(value)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.0]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Looking(children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.0)))))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_sql(f)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;
    use kafscale_meter::Meter;

    use super::*;
    use crate::error::SqlError;
    use crate::metered::{limit, working};

    /// A list of four million numbers for each of thousands of rows, wherever the expression stands.
    #[tokio::test]
    async fn a_value_that_is_copied_into_each_row_is_refused_before() {
        limit(64 << 30);
        let list = "CASE WHEN value % 2 = 0 THEN range(0, 4000000) ELSE range(0, 3999999) END";
        let rows = "FROM generate_series(1, 20000)";
        for statement in [
            format!("SELECT cardinality({list}) {rows}"),
            format!("SELECT sum(cardinality({list})) {rows}"),
            format!("SELECT count(CASE WHEN value > 0 THEN range(0, 4000000) END) {rows}"),
            format!("SELECT value % 3, max(cardinality({list})) {rows} GROUP BY 1"),
            format!("SELECT value {rows} WHERE cardinality({list}) > value"),
        ] {
            let session = SessionContext::new();
            let plan = session.sql(&statement).await.unwrap().create_physical_plan().await.unwrap();
            let plan = metered(plan).unwrap();
            let meter = Meter::default();
            let answer = working(meter.current(), collect(plan, session.task_ctx())).await;
            let error = SqlError::from(answer.map(|_| ()).unwrap_err());
            assert_eq!(error.code(), "53200", "{statement}: {error}");
        }
    }

    #[test]
    fn steps_that_look_are_not_shown() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let shown = lines(
            "MeteredExec\n  A\n    MeteredExec\n      B: x\n        MeteredExec\n          C\n    MeteredExec\n      D",
        );
        assert_eq!(without_checks(&shown), lines("A\n  B: x\n    C\n  D"));
        let plain = lines("A\n  B");
        assert_eq!(without_checks(&plain), plain);
    }
}
