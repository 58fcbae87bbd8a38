//! Which labels the values of an answer carry: those of all columns that they are computed from, whatever they are called by then.
//!
//! What a condition looks at is not in it: it decides which rows there are, not what is in them.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef};
use datafusion::logical_expr::{Distinct, Expr, JoinType, LogicalPlan};

use super::table::of_source;

pub type Labels = BTreeSet<String>;

/// Labels of each column of a plan, in their order.
pub fn labels(plan: &LogicalPlan) -> Vec<Labels> {
    let count = plan.schema().fields().len();
    match plan {
        LogicalPlan::TableScan(scan) => {
            let Some(table) = of_source(scan.source.as_ref()) else { return vec![Labels::new(); count] };
            let of = |name: &str| {
                let column = table.shape().columns.iter().find(|column| column.name == name);
                column.map_or_else(Labels::new, |column| column.labels.iter().cloned().collect())
            };
            scan.projected_schema.fields().iter().map(|field| of(field.name())).collect()
        }
        LogicalPlan::Projection(projection) => of_expressions(&projection.expr, &projection.input),
        LogicalPlan::Aggregate(aggregate) => {
            let expressions: Vec<Expr> =
                aggregate.group_expr.iter().chain(&aggregate.aggr_expr).cloned().collect();
            fit(of_expressions(&expressions, &aggregate.input), count)
        }
        LogicalPlan::Window(window) => {
            let known = labels(&window.input);
            let of = |expression: &Expr| of_expression(expression, window.input.schema(), &known);
            let own: Vec<Labels> = window.window_expr.iter().map(of).collect();
            fit([known, own].concat(), count)
        }
        LogicalPlan::Join(join) => {
            let (left, right) = (labels(&join.left), labels(&join.right));
            match join.join_type {
                JoinType::LeftSemi | JoinType::LeftAnti => left,
                JoinType::RightSemi | JoinType::RightAnti => right,
                _ => fit([left, right].concat(), count),
            }
        }
        LogicalPlan::Union(union) => {
            let mut all = vec![Labels::new(); count];
            for input in &union.inputs {
                for (of_all, of_input) in all.iter_mut().zip(labels(input)) {
                    of_all.extend(of_input);
                }
            }
            all
        }
        LogicalPlan::Extension(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Distinct(Distinct::All(_)) => {
            let mut inputs = plan.inputs().into_iter().map(labels);
            let mut of_input = inputs.next().unwrap_or_default();
            of_input.truncate(count);
            fit(of_input, count)
        }
        _ => everything(plan, count),
    }
}

/// One for each column; where it is not clear which is which, each has all.
fn fit(found: Vec<Labels>, count: usize) -> Vec<Labels> {
    if found.len() == count {
        return found;
    }
    let all: Labels = found.into_iter().flatten().collect();
    vec![all; count]
}

fn everything(plan: &LogicalPlan, count: usize) -> Vec<Labels> {
    let all: Labels = plan.inputs().into_iter().flat_map(labels).flatten().collect();
    vec![all; count]
}

fn of_expressions(expressions: &[Expr], input: &LogicalPlan) -> Vec<Labels> {
    let known = labels(input);
    expressions.iter().map(|expression| of_expression(expression, input.schema(), &known)).collect()
}

fn of_expression(expression: &Expr, schema: &DFSchemaRef, known: &[Labels]) -> Labels {
    let mut found = Labels::new();
    let mut of_column = |column: &Column| match schema.index_of_column(column) {
        Ok(at) => found.extend(known.get(at).into_iter().flatten().cloned()),
        Err(_) => found.extend(known.iter().flatten().cloned()),
    };
    let mut of_subqueries = Labels::new();
    // It cannot fail, as nothing in it does.
    let _ = expression.apply(|part| {
        match part {
            Expr::Column(column) => of_column(column),
            Expr::ScalarSubquery(subquery) => {
                of_subqueries.extend(labels(&subquery.subquery).into_iter().flatten())
            }
            Expr::InSubquery(within) => {
                of_subqueries.extend(labels(&within.subquery.subquery).into_iter().flatten())
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found.extend(of_subqueries);
    found
}
