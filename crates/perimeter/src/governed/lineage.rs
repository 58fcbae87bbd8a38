//! Where the values of an answer come from, whatever they are called by then: the labels of all columns that they are computed from,
//! and whether one of these has no label, so that the last net has to look at them.
//!
//! What a condition looks at is not in it: it decides which rows there are, not what is in them.
//!
//! Invariant: what is not known here (a step, an expression, a column) comes from everything that the statement reads.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef};
use datafusion::error::Result;
use datafusion::logical_expr::{Distinct, Expr, JoinType, LogicalPlan, Operator, TableScan};

use super::leakproof::is_comparison;
use super::table::of_source;

pub type Labels = BTreeSet<String>;

/// Where the values of one column come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    pub labels: Labels,
    /// A value of a column without labels may be in it. What the caller writes itself does not count.
    pub has_unlabelled: bool,
}

impl Lineage {
    fn add(&mut self, other: &Lineage) {
        self.labels.extend(other.labels.iter().cloned());
        self.has_unlabelled |= other.has_unlabelled;
    }

    fn of_all<'l>(all: impl IntoIterator<Item = &'l Lineage>) -> Lineage {
        let mut together = Lineage::default();
        all.into_iter().for_each(|one| together.add(one));
        together
    }

    /// Whether the last net looks for personal data in it.
    pub fn is_searched(&self) -> bool {
        self.has_unlabelled || self.labels.is_empty()
    }
}

/// Lineages of each column of a plan, in their order.
pub fn lineages(plan: &LogicalPlan) -> Vec<Lineage> {
    let mut everything = Lineage::default();
    // It cannot fail, as nothing in it does.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            of_scan(scan).iter().for_each(|column| everything.add(column));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    Statement { everything }.of_plan(plan)
}

fn of_scan(scan: &TableScan) -> Vec<Lineage> {
    let fields = scan.projected_schema.fields().iter();
    let Some(table) = of_source(scan.source.as_ref()) else {
        return fields.map(|_| Lineage { has_unlabelled: true, ..Lineage::default() }).collect();
    };
    let of = |name: &str| {
        let column = table.shape().columns.iter().find(|column| column.name == name);
        let labels: Labels =
            column.map_or_else(Labels::new, |column| column.labels.iter().cloned().collect());
        Lineage { has_unlabelled: labels.is_empty() || table.has_unlabelled(name), labels }
    };
    fields.map(|field| of(field.name())).collect()
}

/// What is known of a statement.
struct Statement {
    /// All that it reads, together.
    everything: Lineage,
}

impl Statement {
    fn of_plan(&self, plan: &LogicalPlan) -> Vec<Lineage> {
        let count = plan.schema().fields().len();
        match plan {
            LogicalPlan::TableScan(scan) => of_scan(scan),
            LogicalPlan::Projection(projection) => self.of_expressions(&projection.expr, &projection.input),
            LogicalPlan::Aggregate(aggregate) => {
                let expressions: Vec<Expr> =
                    aggregate.group_expr.iter().chain(&aggregate.aggr_expr).cloned().collect();
                self.fit(self.of_expressions(&expressions, &aggregate.input), count)
            }
            LogicalPlan::Window(window) => {
                let known = self.of_plan(&window.input);
                let schema = window.input.schema();
                let own = window
                    .window_expr
                    .iter()
                    .map(|expression| self.of_expression(expression, schema, &known));
                let own = own.collect();
                self.fit([known, own].concat(), count)
            }
            LogicalPlan::Join(join) => {
                let (left, right) = (self.of_plan(&join.left), self.of_plan(&join.right));
                match join.join_type {
                    JoinType::LeftSemi | JoinType::LeftAnti => left,
                    JoinType::RightSemi | JoinType::RightAnti => right,
                    _ => self.fit([left, right].concat(), count),
                }
            }
            LogicalPlan::Union(union) => {
                let mut all = vec![Lineage::default(); count];
                for input in &union.inputs {
                    for (of_all, of_input) in all.iter_mut().zip(self.of_plan(input)) {
                        of_all.add(&of_input);
                    }
                }
                all
            }
            LogicalPlan::Values(values) => {
                let mut all = vec![Lineage::default(); count];
                for row in &values.values {
                    for (of_all, value) in all.iter_mut().zip(row) {
                        of_all.add(&self.of_expression(value, &values.schema, &[]));
                    }
                }
                all
            }
            LogicalPlan::Distinct(Distinct::On(distinct)) => {
                self.fit(self.of_expressions(&distinct.select_expr, &distinct.input), count)
            }
            LogicalPlan::EmptyRelation(_) => vec![Lineage::default(); count],
            LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::Repartition(_)
            | LogicalPlan::Distinct(Distinct::All(_)) => {
                let mut inputs = plan.inputs().into_iter().map(|input| self.of_plan(input));
                let mut of_input = inputs.next().unwrap_or_default();
                of_input.truncate(count);
                self.fit(of_input, count)
            }
            _ => vec![self.everything.clone(); count],
        }
    }

    /// One for each column; where it is not clear which is which, each has everything.
    fn fit(&self, found: Vec<Lineage>, count: usize) -> Vec<Lineage> {
        if found.len() == count { found } else { vec![self.everything.clone(); count] }
    }

    fn of_expressions(&self, expressions: &[Expr], input: &LogicalPlan) -> Vec<Lineage> {
        let known = self.of_plan(input);
        expressions.iter().map(|expression| self.of_expression(expression, input.schema(), &known)).collect()
    }

    fn of_expression(&self, expression: &Expr, schema: &DFSchemaRef, known: &[Lineage]) -> Lineage {
        let mut found = Lineage::default();
        // Neither can fail, as nothing in them does.
        let _ = expression.apply(|part| {
            if let Some(of_part) = self.of_part(part, schema, known) {
                found.labels.extend(of_part.labels);
            }
            Ok(TreeNodeRecursion::Continue)
        });
        let _ = each_value(expression, &mut |part| {
            found.has_unlabelled |=
                self.of_part(part, schema, known).is_some_and(|of_part| of_part.has_unlabelled);
            Ok(())
        });
        found
    }

    /// None: it is put together from its parts.
    fn of_part(&self, part: &Expr, schema: &DFSchema, known: &[Lineage]) -> Option<Lineage> {
        match part {
            Expr::Column(column) => Some(self.of_column(column, schema, known)),
            Expr::ScalarSubquery(subquery) => Some(Lineage::of_all(&self.of_plan(&subquery.subquery))),
            Expr::InSubquery(within) => Some(Lineage::of_all(&self.of_plan(&within.subquery.subquery))),
            Expr::SetComparison(comparison) => {
                Some(Lineage::of_all(&self.of_plan(&comparison.subquery.subquery)))
            }
            // Of a row around it, which is of a plan that is not looked at here.
            Expr::OuterReferenceColumn(..) => Some(self.everything.clone()),
            _ => None,
        }
    }

    fn of_column(&self, column: &Column, schema: &DFSchema, known: &[Lineage]) -> Lineage {
        let at = schema.index_of_column(column).ok();
        at.and_then(|at| known.get(at)).unwrap_or(&self.everything).clone()
    }
}

/// The parts of an expression whose values may be in its own, not those that it only compares, sorts or chooses by.
fn each_value(expression: &Expr, of: &mut impl FnMut(&Expr) -> Result<()>) -> Result<()> {
    of(expression)?;
    match expression {
        Expr::BinaryExpr(binary) if is_condition(binary.op) => Ok(()),
        Expr::Not(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Like(_)
        | Expr::SimilarTo(_)
        | Expr::Between(_)
        | Expr::InList(_)
        | Expr::Exists(_) => Ok(()),
        Expr::Case(case) => {
            let mut values = case.when_then_expr.iter().map(|(_, then)| then).chain(&case.else_expr);
            values.try_for_each(|value| each_value(value, of))
        }
        Expr::AggregateFunction(function) => {
            function.params.args.iter().try_for_each(|arg| each_value(arg, of))
        }
        Expr::WindowFunction(function) => function.params.args.iter().try_for_each(|arg| each_value(arg, of)),
        _ => expression
            .apply_children(|part| each_value(part, of).map(|()| TreeNodeRecursion::Continue))
            .map(drop),
    }
}

fn is_condition(operator: Operator) -> bool {
    let is_match = matches!(
        operator,
        Operator::RegexMatch | Operator::RegexIMatch | Operator::RegexNotMatch | Operator::RegexNotIMatch
    );
    is_match || is_comparison(operator)
}
