//! Rewrites a plan so that rows of a table whose rules say "only in groups" are in nothing but groups that are large enough.
//!
//! From the scan on, such rows are held: columns with their entity and a key of the row go with them through projections, filters and
//! joins, until an aggregation, behind which [`super::guard`] looks at the set of rows of each group and of each figure. What cannot
//! be looked at there is refused here: expressions that could fail on one row ([`whole`]), make one row outweigh all others
//! ([`weight_of`], [`super::joins`]), or single one out ([`apart`]); functions that give single values, windows, limits, unions,
//! and subqueries that give held rows to others.
//!
//! Invariant: no held row, and nothing computed from fewer entities than the rule says, is in the result; and each held row is in a set
//! once at most, so that figures of two sets can be compared by comparing the sets.

use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, DFSchemaRef};
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    Aggregate, AggregateUDF, Distinct, Expr, ExprSchemable as _, Extension, Filter, LogicalPlan, Projection,
    Subquery, SubqueryAlias, TableScan, TableScanBuilder, Union, lit,
};

use super::apart::{self, Says, conjuncts_are_apart};
use super::guard::{Guard, GuardColumn, GuardedFigure, Layout, entity_guard};
use super::releases::Released;
use super::table::{GovernedTable, of_source};
use super::weight::{Weight, weight_of};
use super::whole::whole;
use super::{Refused, made_anew};
use crate::catalog::HANDLES;
use crate::shape::MinGroup;

/// No column that a caller can name begins so.
pub const RESERVED: &str = "__kafscale_";
/// Columns of one grouping: secondary suppression looks at all sets of them.
const GROUP_COLUMNS_MAX: usize = 6;

/// A plan, and which rows in it are held.
pub(super) struct Relation {
    pub(super) plan: LogicalPlan,
    pub(super) held: Vec<Held>,
    /// One for each column of the plan, without those of entities and rows.
    pub(super) known: Vec<Known>,
}

/// What is known of a column.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) weight: Weight,
    pub(super) says: Says,
}

impl Known {
    const NOTHING: Known = Known { weight: Weight::Unknown, says: Says::Nothing };
}

/// Rows whose entity and whose key are in columns of the plan.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// The names of both columns, which are in the plan once.
    entity: String,
    row: String,
    pub(super) table: String,
    rule: MinGroup,
    /// The entity, as the caller may know it.
    told: String,
}

/// The plan with its rules about groups carried out. `origin` is what the statement is known by.
pub fn in_groups(plan: &LogicalPlan, released: &Released, origin: u64) -> Result<LogicalPlan> {
    let mut rewriting = Rewriting { made: 0, released: released.clone(), origin };
    let relation = rewriting.relation(plan)?;
    match relation.held.first() {
        None => Ok(relation.plan),
        Some(held) => Err(not_in_groups(held).into()),
    }
}

pub(super) fn not_in_groups(held: &Held) -> Refused {
    Refused::new(
        format!(
            "rows of {} leave only in groups of at least {} different {}",
            held.table, held.rule.size, held.told
        ),
        format!("ask for figures of groups, such as SELECT count(*) FROM {} or with GROUP BY", held.table),
    )
}

/// A figure of a group of held rows.
struct Figure {
    figure: Expr,
    /// On which of the rows it rests, beside all of them. Whether the set is one that it tells of, or must only be large enough.
    rests_on: Vec<(Expr, bool)>,
}

pub(super) struct Rewriting {
    made: usize,
    released: Released,
    origin: u64,
}

impl Rewriting {
    fn name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{RESERVED}{what}_{}", self.made)
    }

    pub(super) fn relation(&mut self, plan: &LogicalPlan) -> Result<Relation> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.relation(&alias.input)?;
                let plan = SubqueryAlias::try_new(Arc::new(input.plan), alias.alias.clone())?;
                Ok(Relation { plan: LogicalPlan::SubqueryAlias(plan), ..input })
            }
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Distinct(Distinct::All(input)) => self.distinct(plan, input),
            LogicalPlan::Union(union) => self.union(plan, union),
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
                let input = self.relation(&sort.input)?;
                if input.held.is_empty() {
                    return self.rebuilt(plan, vec![input]);
                }
                // A group has no order.
                Ok(input)
            }
            _ => self.released(plan),
        }
    }

    /// A step that only takes rows that are not held.
    fn released(&mut self, plan: &LogicalPlan) -> Result<Relation> {
        let inputs = plan.inputs().into_iter().map(|input| self.relation(input));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        self.rebuilt(plan, inputs)
    }

    /// The same step over inputs that are rewritten already: to rewrite them anew at each level would take twice as long for each.
    fn rebuilt(&mut self, plan: &LogicalPlan, relations: Vec<Relation>) -> Result<Relation> {
        let mut inputs = Vec::new();
        for input in relations {
            if let Some(held) = input.held.first() {
                return Err(not_in_groups(held).into());
            }
            inputs.push(input.plan);
        }
        let expressions = plan.expressions().into_iter().map(|expression| self.subqueries(expression));
        let expressions = expressions.collect::<Result<Vec<_>>>()?;
        let plan = made_anew(plan, expressions, inputs)?;
        let known = vec![Known::NOTHING; plan.schema().fields().len()];
        Ok(Relation { plan, held: Vec::new(), known })
    }

    fn scan(&mut self, scan: &TableScan) -> Result<Relation> {
        let Some(table) = of_source(scan.source.as_ref()) else {
            return self.released(&LogicalPlan::TableScan(scan.clone()));
        };
        self.made += 1;
        let scan_number = self.made;
        // What is in a handle, its caller may have made up.
        let is_made_up = table.shape().table.collection == HANDLES;
        let rule = table.min_group();
        let own = |field: &FieldRef| Known {
            weight: match is_made_up {
                true => Weight::Unknown,
                false => Weight::of_column(scan_number, format!("{}.{}", table.shape().table, field.name())),
            },
            says: match rule {
                None => Says::Nothing,
                Some(rule) if *field.name() == rule.entity => Says::Whose,
                Some(_) => Says::What,
            },
        };
        let known = scan.projected_schema.fields().iter().map(own).collect();
        let Some(rule) = rule else {
            return Ok(Relation { plan: LogicalPlan::TableScan(scan.clone()), held: Vec::new(), known });
        };
        let (entity, row) = (self.name("entity"), self.name("row"));
        let held_rows: GovernedTable = table.held(&rule.entity, &entity, &row)?;
        let source = provider_as_source(Arc::new(held_rows));
        let projection = scan.projection.as_ref().map(|projection| {
            let shown = table_columns(table);
            projection.iter().copied().chain([shown, shown + 1]).collect()
        });
        let plan = TableScanBuilder::new(scan.table_name.clone(), source)
            .with_projection(projection)
            .with_filters(scan.filters.clone())
            .build()?;
        let told = table.shape().entity_told().to_owned();
        let held = Held { entity, row, table: table.shape().table.to_string(), rule: rule.clone(), told };
        Ok(Relation { plan: LogicalPlan::TableScan(plan), held: vec![held], known })
    }

    fn projection(&mut self, projection: &Projection) -> Result<Relation> {
        let input = self.relation(&projection.input)?;
        let (weights, says) = (input.weights_by_name(), input.says_by_name());
        let known = projection.expr.iter().map(|expression| {
            Ok::<_, DataFusionError>(Known {
                weight: weight_of(expression, &weights),
                says: if input.held.is_empty() { Says::Nothing } else { apart::says(expression, &says)? },
            })
        });
        let known = known.collect::<Result<_>>()?;
        let mut expressions = self.expressions(&projection.expr, &input)?;
        for name in input.held.iter().flat_map(|held| [&held.entity, &held.row]) {
            expressions.push(column_of(input.plan.schema(), name)?);
        }
        let plan = Projection::try_new(expressions, Arc::new(input.plan))?;
        Ok(Relation { plan: LogicalPlan::Projection(plan), held: input.held, known })
    }

    fn filter(&mut self, filter: &Filter) -> Result<Relation> {
        let input = self.relation(&filter.input)?;
        let mut predicate = self.subqueries(filter.predicate.clone())?;
        if !input.held.is_empty() {
            conjuncts_are_apart(&predicate, &input.says_by_name())?;
            predicate = whole(predicate)?;
        }
        let plan = Filter::try_new(predicate, Arc::new(input.plan))?;
        Ok(Relation { plan: LogicalPlan::Filter(plan), held: input.held, known: input.known })
    }

    /// Expressions over rows that may be held. Their names stay.
    fn expressions(&mut self, expressions: &[Expr], input: &Relation) -> Result<Vec<Expr>> {
        let names = NamePreserver::new_for_projection();
        let mut treated = Vec::new();
        for expression in expressions {
            let name = names.save(expression);
            let mut expression = self.subqueries(expression.clone())?;
            if !input.held.is_empty() {
                expression = whole(expression)?;
            }
            treated.push(name.restore(expression));
        }
        Ok(treated)
    }

    /// The same expression, with the rules carried out in its subqueries.
    pub(super) fn subqueries(&mut self, expression: Expr) -> Result<Expr> {
        let rewritten = expression.transform_up(|part| match part {
            Expr::ScalarSubquery(subquery) => {
                Ok(Transformed::yes(Expr::ScalarSubquery(self.subquery(subquery)?)))
            }
            Expr::Exists(mut exists) => {
                exists.subquery = self.subquery(exists.subquery)?;
                Ok(Transformed::yes(Expr::Exists(exists)))
            }
            Expr::InSubquery(mut within) => {
                within.subquery = self.subquery(within.subquery)?;
                Ok(Transformed::yes(Expr::InSubquery(within)))
            }
            Expr::SetComparison(mut comparison) => {
                comparison.subquery = self.subquery(comparison.subquery)?;
                Ok(Transformed::yes(Expr::SetComparison(comparison)))
            }
            part => Ok(Transformed::no(part)),
        });
        Ok(rewritten?.data)
    }

    fn subquery(&mut self, subquery: Subquery) -> Result<Subquery> {
        let inner = self.relation(&subquery.subquery)?;
        if let Some(held) = inner.held.first() {
            return Err(not_in_groups(held).into());
        }
        if !subquery.outer_ref_columns.is_empty()
            && let Some(table) = held_table(&subquery.subquery)
        {
            return Err(Refused::new(
                format!("rows of {table} leave only in groups, and a subquery that depends on the row around it would make groups of its own for each"),
                "join the table and use GROUP BY".to_owned(),
            )
            .into());
        }
        Ok(Subquery { subquery: Arc::new(inner.plan), ..subquery })
    }

    fn distinct(&mut self, plan: &LogicalPlan, input: &Arc<LogicalPlan>) -> Result<Relation> {
        let of_input = self.relation(input)?;
        if of_input.held.is_empty() {
            return self.rebuilt(plan, vec![of_input]);
        }
        let groups = input.schema().columns().into_iter().map(Expr::Column).collect();
        self.aggregated(of_input, groups, Vec::new())
    }

    fn union(&mut self, plan: &LogicalPlan, union: &Union) -> Result<Relation> {
        let relations = union.inputs.iter().map(|input| self.relation(input)).collect::<Result<Vec<_>>>()?;
        if relations.iter().all(|relation| relation.held.is_empty()) {
            return self.rebuilt(plan, relations);
        }
        // The same row could be in it twice.
        let held = relations.iter().find_map(|relation| relation.held.first());
        Err(in_union(held.map_or("a table", |held| held.table.as_str())).into())
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Relation> {
        let input = self.relation(&aggregate.input)?;
        if input.held.is_empty() {
            return self.rebuilt(&LogicalPlan::Aggregate(aggregate.clone()), vec![input]);
        }
        if aggregate.group_expr.iter().any(|group| matches!(group, Expr::GroupingSet(_))) {
            return Err(Refused::new(
                format!("{} is shown in groups of one kind at a time", input.held[0].table),
                "write a query for each instead of ROLLUP, CUBE or GROUPING SETS".to_owned(),
            )
            .into());
        }
        self.aggregated(input, aggregate.group_expr.clone(), aggregate.aggr_expr.clone())
    }

    /// Groups of held rows, each looked at before it leaves.
    fn aggregated(&mut self, input: Relation, groups: Vec<Expr>, figures: Vec<Expr>) -> Result<Relation> {
        if groups.len() > GROUP_COLUMNS_MAX {
            return Err(Refused::new(
                format!("groups of {} are made by at most {GROUP_COLUMNS_MAX} columns", input.held[0].table),
                "group by fewer columns".to_owned(),
            )
            .into());
        }
        let group_columns = groups.len();
        let says = input.says_by_name();
        groups.iter().try_for_each(|group| apart::says(group, &says).map(drop))?;
        let groups = self.expressions(&groups, &input)?;
        let (mut guards, mut sketches) = (Vec::new(), Vec::new());
        let mut guard = |rewriting: &mut Self, held: &Held, contributes: Option<Expr>| {
            let name = rewriting.name("guard");
            let of_row = [&held.entity, &held.row].map(|name| column_of(input.plan.schema(), name));
            let of_row = of_row.into_iter().collect::<Result<Vec<_>>>()?;
            sketches.push(call(entity_guard(held.rule.size), of_row, contributes).alias(&name));
            guards.push(GuardColumn {
                name,
                domain: format!("{}.{} {}", held.table, held.rule.entity, held.rule.size),
                told: format!("{} of {}", held.told, held.table),
                size: held.rule.size,
            });
            Ok::<_, DataFusionError>(guards.len() - 1)
        };
        for held in &input.held {
            guard(self, held, None)?;
        }
        let (mut shown, mut guarded) = (Vec::new(), Vec::new());
        for (at, figure) in figures.iter().enumerate() {
            let Figure { figure, rests_on } = self.figure(figure, &input)?;
            shown.push(figure);
            for (condition, is_noted) in rests_on {
                for held in &input.held {
                    let guard = guard(self, held, Some(condition.clone()))?;
                    guarded.push(GuardedFigure { column: group_columns + at, guard, is_noted });
                }
            }
        }
        let layout = Layout {
            group_columns,
            shown_columns: group_columns + shown.len(),
            held: input.held.len(),
            guards,
            figures: guarded,
            origin: self.origin,
        };
        let known = vec![Known::NOTHING; layout.shown_columns];
        let aggregate = Aggregate::try_new(Arc::new(input.plan), groups, [shown, sketches].concat())?;
        let guard = Guard::try_new(LogicalPlan::Aggregate(aggregate), layout, self.released.clone())?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(guard) });
        Ok(Relation { plan, held: Vec::new(), known })
    }

    fn figure(&mut self, figure: &Expr, input: &Relation) -> Result<Figure> {
        let names = NamePreserver::new_for_projection();
        let name = names.save(figure);
        let refused = || figure_refused(&figure.to_string());
        let Expr::AggregateFunction(AggregateFunction { func, params }) = figure.clone().unalias() else {
            return Err(refused().into());
        };
        let known = input.weights_by_name();
        let weights: Vec<Weight> = params.args.iter().map(|arg| weight_of(arg, &known)).collect();
        let is_plain = params.order_by.is_empty() && params.null_treatment.is_none();
        if !is_plain || !may_be_shown(func.name(), &weights, params.distinct) {
            return Err(refused().into());
        }
        // Its accumulator says so where there is a group only.
        if func.name() == "approx_distinct" {
            for arg in &params.args {
                if arg.get_type(input.plan.schema())?.is_floating() {
                    return Err(refused().into());
                }
            }
        }
        let says = input.says_by_name();
        params.args.iter().try_for_each(|arg| apart::says(arg, &says).map(drop))?;
        params.filter.iter().try_for_each(|filter| conjuncts_are_apart(filter, &says))?;
        let args = self.plain(params.args)?;
        let filter = params.filter.map(|filter| self.plain(vec![*filter])).transpose()?;
        let filter = filter.and_then(|mut filter| filter.pop());
        let rests_on = rests_on(func.name(), &args, &weights, filter.as_ref(), input)?;
        let params = AggregateFunctionParams { args, filter: filter.map(Box::new), ..params };
        let figure = name.restore(Expr::AggregateFunction(AggregateFunction { func, params }));
        Ok(Figure { figure, rests_on })
    }

    fn plain(&mut self, expressions: Vec<Expr>) -> Result<Vec<Expr>> {
        expressions.into_iter().map(|expression| whole(self.subqueries(expression)?)).collect()
    }
}

impl Relation {
    fn by_name<T>(&self, of: impl Fn(&Known) -> T) -> Vec<(Column, T)> {
        let shown = self.plan.schema().columns().into_iter();
        let shown = shown.filter(|column| !column.name.starts_with(RESERVED));
        shown.zip(self.known.iter().map(of)).collect()
    }

    fn weights_by_name(&self) -> Vec<(Column, Weight)> {
        self.by_name(|known| known.weight.clone())
    }

    pub(super) fn says_by_name(&self) -> Vec<(Column, Says)> {
        self.by_name(|known| known.says)
    }
}

fn table_columns(table: &GovernedTable) -> usize {
    use datafusion::catalog::TableProvider as _;
    table.schema().fields().len()
}

fn column_of(schema: &DFSchemaRef, name: &str) -> Result<Expr> {
    let (qualifier, field) = schema.qualified_field_with_unqualified_name(name)?;
    Ok(Expr::Column(Column::new(qualifier.cloned(), field.name())))
}

fn call(func: Arc<AggregateUDF>, args: Vec<Expr>, filter: Option<Expr>) -> Expr {
    Expr::AggregateFunction(AggregateFunction::new_udf(func, args, false, filter.map(Box::new), vec![], None))
}

/// A table with held rows in a plan, whatever becomes of them.
fn held_table(plan: &LogicalPlan) -> Option<String> {
    let mut found = None;
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(table) = of_source(scan.source.as_ref())
            && table.min_group().is_some()
        {
            found = Some(table.shape().table.to_string());
        }
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    found
}

fn in_union(table: &str) -> Refused {
    Refused::new(
        format!("rows of {table} leave only in groups, and a UNION of them could have the same row twice"),
        "make groups in each part of the UNION, or write the conditions of both in one WHERE".to_owned(),
    )
}

fn figure_refused(figure: &str) -> Refused {
    Refused::new(
        format!("{figure} could tell of single rows"),
        "figures of groups are count, sum, avg, stddev, var, median and corr of columns, or of their sums and products with numbers from \
         0.001 to 1000 (divide by 100.0, not by 100); conditions go to WHERE or to FILTER (WHERE …); round what comes out, not what \
         goes in"
            .to_owned(),
    )
}

/// On which rows a figure rests, beside all of its group: those that it is a figure of, which are noted, and those without which a sum
/// would be the same.
fn rests_on(
    function: &str,
    args: &[Expr],
    weights: &[Weight],
    filter: Option<&Expr>,
    input: &Relation,
) -> Result<Vec<(Expr, bool)>> {
    let filtered = |condition: Expr| match filter {
        Some(filter) => filter.clone().and(condition),
        None => condition,
    };
    let is_not_zero = |expression: &Expr| expression.clone().not_eq(lit(0));
    let varying = args.iter().zip(weights).filter(|(_, weight)| **weight != Weight::Constant);
    let values = varying.clone().map(|(arg, _)| arg.clone().is_not_null()).reduce(Expr::and);
    let Some(values) = values else {
        return Ok(filter.map(|filter| (filter.clone(), true)).into_iter().collect());
    };
    let mut sets = Vec::new();
    if function != "sum" {
        sets.push((filtered(values.clone()), true));
    } else if let Some(filter) = filter {
        // NULL is 0 in a sum, which is of all its rows.
        sets.push((filter.clone(), true));
    }
    for (arg, weight) in varying {
        match weight {
            Weight::Indicator if function != "count" => {
                sets.push((filtered(values.clone().and(is_not_zero(arg))), true));
            }
            Weight::Columns { .. } if function == "sum" => {
                for column in arg.column_refs() {
                    let column = Expr::Column(column.clone());
                    let is_number = column.get_type(input.plan.schema())?.is_numeric();
                    let weighs = is_not_zero(if is_number { &column } else { arg });
                    sets.push((filtered(values.clone().and(weighs)), false));
                }
            }
            _ => {}
        }
    }
    Ok(sets)
}

/// Whether a function of such arguments tells of all its rows alike.
fn may_be_shown(name: &str, args: &[Weight], distinct: bool) -> bool {
    let is_even =
        |weight: &Weight| weight.is_columns() || matches!(weight, Weight::Indicator | Weight::Constant);
    // Of other values, how many there are tells of conditions on single rows.
    let is_column = |weight: &Weight| weight.is_plain_column();
    match name {
        "count" if distinct => args.iter().all(is_column),
        "count" => true,
        "sum" | "avg" | "mean" => !distinct && args.iter().all(is_even),
        "stddev" | "stddev_pop" | "stddev_samp" | "var" | "var_pop" | "var_samp" | "var_sample"
        | "median" | "corr" => !distinct && args.iter().all(Weight::is_columns),
        "approx_distinct" => args.iter().all(is_column),
        _ => false,
    }
}
