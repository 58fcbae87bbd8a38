//! Rewrites a plan so that rows of a table whose rules say "only in groups" are in nothing but groups that are large enough.
//!
//! From the scan on, such rows are held: a column with their entity goes with them through projections, filters and joins, until an
//! aggregation, behind which [`super::guard`] looks at each group. What cannot be looked at there is refused here: expressions
//! that could fail on one row, or make one row outweigh all others ([`weight`]), functions that give single values, windows,
//! limits, and subqueries that give held rows to others.
//!
//! Invariant: no held row, and nothing computed from fewer entities than the rule says, is in the result.

use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, DFSchemaRef, JoinType};
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    Aggregate, AggregateUDF, Distinct, Expr, Extension, Filter, Join, LogicalPlan, Projection, Subquery,
    SubqueryAlias, TableScan, TableScanBuilder, Union, lit,
};

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
/// Figures that count rows.
const ROWS: &str = "rows";

/// A plan, and which rows in it are held.
pub(super) struct Relation {
    plan: LogicalPlan,
    held: Vec<Held>,
    /// One for each column of the plan, without those of entities.
    weights: Vec<Weight>,
}

/// Rows whose entity is in a column of the plan.
#[derive(Debug, Clone)]
struct Held {
    /// The column's name, which is in the plan once.
    column: String,
    table: String,
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

fn not_in_groups(held: &Held) -> Refused {
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
    /// On which of its rows it rests, where that is not all of them.
    rests_on: Option<Expr>,
    kind: String,
}

struct Rewriting {
    made: usize,
    released: Released,
    origin: u64,
}

impl Rewriting {
    fn name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{RESERVED}{what}_{}", self.made)
    }

    fn relation(&mut self, plan: &LogicalPlan) -> Result<Relation> {
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
        let weights = vec![Weight::Unknown; plan.schema().fields().len()];
        Ok(Relation { plan, held: Vec::new(), weights })
    }

    fn scan(&mut self, scan: &TableScan) -> Result<Relation> {
        let Some(table) = of_source(scan.source.as_ref()) else {
            return self.released(&LogicalPlan::TableScan(scan.clone()));
        };
        self.made += 1;
        let scan_number = self.made;
        // What is in a handle, its caller may have made up.
        let is_made_up = table.shape().table.collection == HANDLES;
        let own = |field: &FieldRef| match is_made_up {
            true => Weight::Unknown,
            false => Weight::of_column(scan_number, format!("{}.{}", table.shape().table, field.name())),
        };
        let weights = scan.projected_schema.fields().iter().map(own).collect();
        let Some(rule) = table.min_group() else {
            return Ok(Relation { plan: LogicalPlan::TableScan(scan.clone()), held: Vec::new(), weights });
        };
        let column = self.name("entity");
        let with_entity: GovernedTable = table.with_entity(&rule.entity, &column)?;
        let source = provider_as_source(Arc::new(with_entity));
        let projection = scan.projection.as_ref().map(|projection| {
            let entity = table_columns(table);
            projection.iter().copied().chain([entity]).collect()
        });
        let plan = TableScanBuilder::new(scan.table_name.clone(), source)
            .with_projection(projection)
            .with_filters(scan.filters.clone())
            .build()?;
        let told = table.shape().entity_told().to_owned();
        let held = Held { column, table: table.shape().table.to_string(), rule: rule.clone(), told };
        Ok(Relation { plan: LogicalPlan::TableScan(plan), held: vec![held], weights })
    }

    fn projection(&mut self, projection: &Projection) -> Result<Relation> {
        let input = self.relation(&projection.input)?;
        let known = input.weights_by_name();
        let weights = projection.expr.iter().map(|expression| weight_of(expression, &known)).collect();
        let mut expressions = self.expressions(&projection.expr, &input)?;
        for held in &input.held {
            expressions.push(column_of(input.plan.schema(), &held.column)?);
        }
        let plan = Projection::try_new(expressions, Arc::new(input.plan))?;
        Ok(Relation { plan: LogicalPlan::Projection(plan), held: input.held, weights })
    }

    fn filter(&mut self, filter: &Filter) -> Result<Relation> {
        let input = self.relation(&filter.input)?;
        let mut predicate = self.subqueries(filter.predicate.clone())?;
        if !input.held.is_empty() {
            predicate = whole(predicate)?;
        }
        let plan = Filter::try_new(predicate, Arc::new(input.plan))?;
        Ok(Relation { plan: LogicalPlan::Filter(plan), held: input.held, weights: input.weights })
    }

    fn join(&mut self, join: &Join) -> Result<Relation> {
        let (left, right) = (self.relation(&join.left)?, self.relation(&join.right)?);
        let dropped = match join.join_type {
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => None,
            JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => right.held.first(),
            JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => left.held.first(),
        };
        if let Some(held) = dropped {
            return Err(not_in_groups(held).into());
        }
        let is_held = !left.held.is_empty() || !right.held.is_empty();
        let treat = |rewriting: &mut Self, expression: Expr| {
            let expression = rewriting.subqueries(expression)?;
            if is_held { whole(expression) } else { Ok(expression) }
        };
        let mut on = Vec::new();
        for (l, r) in &join.on {
            on.push((treat(self, l.clone())?, treat(self, r.clone())?));
        }
        let filter = join.filter.clone().map(|filter| treat(self, filter)).transpose()?;
        let (of_left, of_right) = (left.weights, right.weights);
        let weights = match join.join_type {
            JoinType::LeftSemi | JoinType::LeftAnti => of_left,
            JoinType::RightSemi | JoinType::RightAnti => of_right,
            _ => [of_left, of_right].concat(),
        };
        let held = [left.held, right.held].concat();
        let plan = Join::try_new(
            Arc::new(left.plan),
            Arc::new(right.plan),
            on,
            filter,
            join.join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?;
        Ok(Relation { plan: LogicalPlan::Join(plan), held, weights })
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
    fn subqueries(&mut self, expression: Expr) -> Result<Expr> {
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
        let Some([first, rest @ ..]) = relations.first().map(|relation| relation.held.as_slice()) else {
            return Err(mixed_union().into());
        };
        let same = |relation: &Relation| match relation.held.as_slice() {
            [held] => held.table == first.table && held.rule == first.rule,
            _ => false,
        };
        if !rest.is_empty() || !relations.iter().all(same) {
            return Err(mixed_union().into());
        }
        // The entity is the last column of each, by the same name.
        let (held, columns) = (first.clone(), union.schema.columns());
        let mut inputs = Vec::new();
        for relation in relations {
            let own = relation.plan.schema().columns();
            let entity = column_of(relation.plan.schema(), &relation.held[0].column)?.alias(&held.column);
            let shown = own.into_iter().filter(|column| column.name != relation.held[0].column);
            let expressions = shown.map(Expr::Column).chain([entity]).collect();
            inputs.push(Arc::new(LogicalPlan::Projection(Projection::try_new(
                expressions,
                Arc::new(relation.plan),
            )?)));
        }
        let weights = vec![Weight::Unknown; columns.len()];
        let plan = LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?);
        Ok(Relation { plan, held: vec![held], weights })
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
        let groups = self.expressions(&groups, &input)?;
        let (mut guards, mut sketches) = (Vec::new(), Vec::new());
        let mut guard = |rewriting: &mut Self, held: &Held, contributes: Option<Expr>| {
            let name = rewriting.name("guard");
            let entity = column_of(input.plan.schema(), &held.column)?;
            sketches.push(call(entity_guard(held.rule.size), entity, contributes).alias(&name));
            guards.push(GuardColumn {
                name,
                domain: format!("{}.{}", held.table, held.rule.entity),
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
            let Figure { figure, rests_on, kind } = self.figure(figure, &input)?;
            shown.push(figure);
            for (of_group, held) in input.held.iter().enumerate() {
                let guard = match &rests_on {
                    Some(rests_on) => guard(self, held, Some(rests_on.clone()))?,
                    None => of_group,
                };
                guarded.push(GuardedFigure { column: group_columns + at, guard, kind: kind.clone() });
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
        let weights = vec![Weight::Unknown; layout.shown_columns];
        let aggregate = Aggregate::try_new(Arc::new(input.plan), groups, [shown, sketches].concat())?;
        let guard = Guard::try_new(LogicalPlan::Aggregate(aggregate), layout, self.released.clone())?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(guard) });
        Ok(Relation { plan, held: Vec::new(), weights })
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
        let args = self.plain(params.args)?;
        let filter = params.filter.map(|filter| self.plain(vec![*filter])).transpose()?;
        let filter = filter.and_then(|mut filter| filter.pop());
        let mut rests_on = filter.clone();
        for (arg, weight) in args.iter().zip(&weights) {
            let condition = match weight {
                Weight::Constant => continue,
                Weight::Indicator => arg.clone().is_not_null().and(arg.clone().not_eq(lit(0))),
                Weight::Columns(_) | Weight::Unknown => arg.clone().is_not_null(),
            };
            rests_on = Some(match rests_on {
                Some(before) => before.and(condition),
                None => condition,
            });
        }
        let kind = match func.name() {
            "count" => ROWS.to_owned(),
            _ => kind_of(&weights),
        };
        let params = AggregateFunctionParams { args, filter: filter.map(Box::new), ..params };
        let figure = name.restore(Expr::AggregateFunction(AggregateFunction { func, params }));
        Ok(Figure { figure, rests_on, kind })
    }

    fn plain(&mut self, expressions: Vec<Expr>) -> Result<Vec<Expr>> {
        expressions.into_iter().map(|expression| whole(self.subqueries(expression)?)).collect()
    }
}

impl Relation {
    fn weights_by_name(&self) -> Vec<(Column, Weight)> {
        let shown = self.plan.schema().columns().into_iter();
        let shown = shown.filter(|column| !self.held.iter().any(|held| held.column == column.name));
        shown.zip(self.weights.iter().cloned()).collect()
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

fn call(func: Arc<AggregateUDF>, arg: Expr, filter: Option<Expr>) -> Expr {
    Expr::AggregateFunction(AggregateFunction::new_udf(
        func,
        vec![arg],
        false,
        filter.map(Box::new),
        vec![],
        None,
    ))
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

fn mixed_union() -> Refused {
    Refused::new(
        "rows that leave only in groups are put together only with rows of the same table".to_owned(),
        "make groups in each part of the UNION".to_owned(),
    )
}

fn figure_refused(figure: &str) -> Refused {
    Refused::new(
        format!("{figure} could tell of single rows"),
        "figures of groups are count, sum, avg, stddev, var and median of columns, of their sums and products with constants, and of \
         CASE WHEN … THEN 1 ELSE 0 END"
            .to_owned(),
    )
}

/// What a figure is a figure of: figures of the same kind can be subtracted from each other.
fn kind_of(weights: &[Weight]) -> String {
    let columns = weights.iter().filter_map(|weight| match weight {
        Weight::Columns(columns) => {
            Some(columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join("+"))
        }
        Weight::Constant | Weight::Indicator | Weight::Unknown => None,
    });
    let columns: Vec<String> = columns.collect();
    if columns.is_empty() { ROWS.to_owned() } else { columns.join(",") }
}

/// Whether a function of such arguments tells of all its rows alike.
fn may_be_shown(name: &str, args: &[Weight], distinct: bool) -> bool {
    let is_even =
        |weight: &Weight| matches!(weight, Weight::Columns(_) | Weight::Indicator | Weight::Constant);
    match name {
        "count" => true,
        "sum" | "avg" | "mean" => !distinct && args.iter().all(is_even),
        "stddev" | "stddev_pop" | "stddev_samp" | "var" | "var_pop" | "var_samp" | "var_sample"
        | "median" | "corr" => !distinct && args.iter().all(|weight| matches!(weight, Weight::Columns(_))),
        "approx_distinct" => true,
        _ => false,
    }
}
