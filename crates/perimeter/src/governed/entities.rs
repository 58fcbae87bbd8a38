//! Rewrites a plan so that it is known which entities its answer covers, for tables whose rules have a budget of them.
//!
//! From the scan on, a column with the hash of each row's entity goes along through projections, filters, joins, sorts, limits, and as
//! a set of hashes through aggregations. It is behind the answer's own columns at the end. Where rows of several entities are mixed in
//! another way (windows, unions, subqueries, sides of a join that only say which rows there are), all entities that go in are counted,
//! whether the answer shows them or not. So they are where rows are left out by what tells of others: an offset, a condition on a
//! figure, an order by one, or that an outer join found nobody.
//!
//! Tables of which rows leave in groups alone have no such column: [`super::groups`] sees to those.
//!
//! Invariant: an entity of whom a row, or a figure computed from one, is in the answer is counted.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, JoinType};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, Extension, FetchType, Filter, Join, Limit, LogicalPlan, Projection, SkipType,
    Subquery, SubqueryAlias, TableScan, TableScanBuilder, lit,
};

use super::cover::{Cover, EntityKey, Passed, hash_function, union_function};
use super::groups::RESERVED;
use super::made_anew;
use super::table::{GovernedTable, of_source};
use crate::shape::Counted;

/// A plan that counts.
#[derive(Debug)]
pub struct Covered {
    pub plan: LogicalPlan,
    /// Columns of the answer; behind them are hashes.
    pub shown: usize,
    pub cover: Arc<Cover>,
}

/// The plan with its entities counted. None: it has no table of which they are.
pub fn covered(plan: &LogicalPlan, key: EntityKey) -> Result<Option<Covered>> {
    let Some(limit) = least_limit(plan) else { return Ok(None) };
    let cover = Arc::new(Cover::new(key, limit));
    let most = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1);
    let mut counting = Counting { made: 0, most, is_correlated: false, cover: Arc::clone(&cover) };
    let Relation { plan, hashes, .. } = counting.relation(plan)?;
    let own = |column: &Column| !hashes.contains(&column.name);
    let shown: Vec<Expr> = plan.schema().columns().into_iter().filter(own).map(Expr::Column).collect();
    let count = shown.len();
    let mut expressions = shown;
    for name in &hashes {
        expressions.push(column_of(&plan, name)?);
    }
    let plan = match hashes.is_empty() {
        true => plan,
        false => LogicalPlan::Projection(Projection::try_new(expressions, Arc::new(plan))?),
    };
    Ok(Some(Covered { plan, shown: count, cover }))
}

/// The least of the budgets of all tables in it.
fn least_limit(plan: &LogicalPlan) -> Option<u64> {
    let mut least: Option<u64> = None;
    // It cannot fail, as nothing in it does.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some((_, counted)) = counted(scan)
        {
            least = Some(least.map_or(counted.per_day, |known| known.min(counted.per_day)));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    least
}

fn counted(scan: &TableScan) -> Option<(&GovernedTable, &Counted)> {
    let table = of_source(scan.source.as_ref())?;
    let counted = table.shape().counted.as_ref().filter(|_| table.min_group().is_none())?;
    Some((table, counted))
}

/// A plan, and its columns with hashes: each name is in it once.
struct Relation {
    plan: LogicalPlan,
    hashes: Vec<String>,
    /// Columns whose values tell of entities that the row is not of: how many others are in a group, or that somebody is not there.
    /// Where rows are chosen by them, those that are left out are counted too.
    telling: Vec<Column>,
    /// Rows are in the order of such a column.
    is_ordered_by_telling: bool,
}

impl Relation {
    fn new(plan: LogicalPlan, hashes: Vec<String>) -> Relation {
        Relation { plan, hashes, telling: Vec::new(), is_ordered_by_telling: false }
    }

    /// The same rows, as this step gives them: with each column where it was.
    fn through(self, plan: LogicalPlan) -> Relation {
        let before = self.plan.schema().columns();
        let after = plan.schema().columns();
        let telling = before.iter().zip(after).filter(|(column, _)| self.telling.contains(column));
        let telling = telling.map(|(_, column)| column).collect();
        Relation { plan, telling, ..self }
    }

    fn is_told_by(&self, expression: &Expr) -> bool {
        tells(expression, &self.telling)
    }

    /// Of one side of a join. In an outer one that keeps all rows of the other side, each column tells whether there is a row.
    fn telling_of_join(&self, kind: JoinType, outer: JoinType) -> Vec<Column> {
        match !self.hashes.is_empty() && (kind == outer || kind == JoinType::Full) {
            true => self.plan.schema().columns(),
            false => self.telling.clone(),
        }
    }
}

/// Whether a value depends on one of these columns.
fn tells(expression: &Expr, telling: &[Column]) -> bool {
    let of_outer = |subquery: &Subquery| subquery.outer_ref_columns.iter().any(|outer| tells(outer, telling));
    let told = expression.exists(|part| {
        Ok(match part {
            Expr::Column(column) | Expr::OuterReferenceColumn(_, column) => telling.contains(column),
            Expr::ScalarSubquery(subquery) => of_outer(subquery),
            Expr::Exists(exists) => of_outer(&exists.subquery),
            Expr::InSubquery(within) => of_outer(&within.subquery),
            Expr::SetComparison(comparison) => of_outer(&comparison.subquery),
            _ => false,
        })
    });
    told.unwrap_or(true)
}

struct Counting {
    made: usize,
    most: usize,
    /// Within a subquery that depends on the row around it: the optimizer moves conditions out of it, and past no step of ours.
    is_correlated: bool,
    cover: Arc<Cover>,
}

impl Counting {
    fn relation(&mut self, plan: &LogicalPlan) -> Result<Relation> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let scanned = self.scan(scan)?;
                if self.is_correlated { self.ended(scanned) } else { Ok(scanned) }
            }
            LogicalPlan::Filter(filter) if self.is_correlated => self.correlated(filter),
            LogicalPlan::Projection(projection) if !has_outer(plan) => self.projection(projection),
            LogicalPlan::Filter(filter) if !has_outer(plan) => {
                let input = self.relation(&filter.input)?;
                let is_told = input.is_told_by(&filter.predicate);
                let input = if is_told { self.ended(input)? } else { input };
                self.rebuilt(plan, input)
            }
            LogicalPlan::Sort(sort) if !has_outer(plan) => {
                let input = self.relation(&sort.input)?;
                let is_told = sort.expr.iter().any(|sort| input.is_told_by(&sort.expr));
                let input = if is_told && sort.fetch.is_some() { self.ended(input)? } else { input };
                let sorted = self.rebuilt(plan, input)?;
                let is_ordered_by_telling = sorted.is_ordered_by_telling || is_told;
                Ok(Relation { is_ordered_by_telling, ..sorted })
            }
            LogicalPlan::Limit(limit) if !has_outer(plan) => self.limit(plan, limit),
            LogicalPlan::Subquery(subquery) => {
                let inner = self.subquery(subquery.clone())?;
                Ok(Relation::new(LogicalPlan::Subquery(inner), Vec::new()))
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.relation(&alias.input)?;
                let plan = SubqueryAlias::try_new(Arc::new(input.plan.clone()), alias.alias.clone())?;
                Ok(input.through(LogicalPlan::SubqueryAlias(plan)))
            }
            LogicalPlan::Join(join) if !has_outer(plan) => self.join(join),
            LogicalPlan::Aggregate(aggregate) if !has_outer(plan) => {
                let input = self.relation(&aggregate.input)?;
                let groups = self.expressions(aggregate.group_expr.clone())?;
                let figures = self.expressions(aggregate.aggr_expr.clone())?;
                self.aggregated(input, groups, figures)
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let of_input = self.relation(input)?;
                if of_input.hashes.is_empty() {
                    return self.rebuilt(plan, of_input);
                }
                let groups = input.schema().columns().into_iter().map(Expr::Column).collect();
                self.aggregated(of_input, groups, Vec::new())
            }
            _ => {
                let inputs = plan.inputs().into_iter().map(|input| {
                    let input = self.relation(input)?;
                    Ok(self.ended(input)?.plan)
                });
                let inputs = inputs.collect::<Result<Vec<_>>>()?;
                Ok(Relation::new(self.made_anew(plan, inputs)?, Vec::new()))
            }
        }
    }

    /// The same step over an input that is rewritten already, whose columns it has as they are, those with hashes too.
    fn rebuilt(&mut self, plan: &LogicalPlan, input: Relation) -> Result<Relation> {
        let plan = self.made_anew(plan, vec![input.plan.clone()])?;
        Ok(input.through(plan))
    }

    fn made_anew(&mut self, plan: &LogicalPlan, inputs: Vec<LogicalPlan>) -> Result<LogicalPlan> {
        let expressions = self.expressions(plan.expressions())?;
        made_anew(plan, expressions, inputs)
    }

    fn projection(&mut self, projection: &Projection) -> Result<Relation> {
        let input = self.relation(&projection.input)?;
        let mut expressions = self.expressions(projection.expr.clone())?;
        for name in &input.hashes {
            expressions.push(column_of(&input.plan, name)?);
        }
        let told: Vec<bool> = projection.expr.iter().map(|expression| input.is_told_by(expression)).collect();
        let plan = Projection::try_new(expressions, Arc::new(input.plan))?;
        let columns = plan.schema.columns().into_iter().zip(told);
        let telling = columns.filter(|(_, is_told)| *is_told).map(|(column, _)| column).collect();
        Ok(Relation { plan: LogicalPlan::Projection(plan), telling, ..input })
    }

    /// Rows that are skipped are counted: which is the first that is not tells of them.
    fn limit(&mut self, plan: &LogicalPlan, limit: &Limit) -> Result<Relation> {
        let input = self.relation(&limit.input)?;
        if input.hashes.is_empty() {
            return self.rebuilt(plan, input);
        }
        let input = match (limit.get_skip_type()?, limit.get_fetch_type()?) {
            (SkipType::Literal(0), _) if !input.is_ordered_by_telling => input,
            (SkipType::Literal(skip), FetchType::Literal(Some(fetch))) if !input.is_ordered_by_telling => {
                let all = i64::try_from(skip.saturating_add(fetch)).unwrap_or(i64::MAX);
                let first = Limit {
                    skip: None,
                    fetch: Some(Box::new(lit(all))),
                    input: Arc::new(input.plan.clone()),
                };
                let first = input.through(LogicalPlan::Limit(first));
                self.ended(first)?
            }
            _ => self.ended(input)?,
        };
        self.rebuilt(plan, input)
    }

    /// Counts all that pass, and takes their hashes away.
    fn ended(&mut self, relation: Relation) -> Result<Relation> {
        if relation.hashes.is_empty() {
            return Ok(relation);
        }
        let columns = relation.plan.schema().columns().into_iter().enumerate();
        let places = columns.filter(|(_, column)| relation.hashes.contains(&column.name));
        let places = places.map(|(at, _)| at).collect();
        let passed = Passed::try_new(relation.plan, places, Arc::clone(&self.cover))?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(passed) });
        Ok(Relation::new(plan, Vec::new()))
    }

    fn scan(&mut self, scan: &TableScan) -> Result<Relation> {
        let Some((table, counted)) = counted(scan) else {
            return Ok(Relation::new(LogicalPlan::TableScan(scan.clone()), Vec::new()));
        };
        self.made += 1;
        let value = format!("{RESERVED}covered_{}", self.made);
        let with_entity = table.with_entity(&counted.entity, &value)?;
        let columns = {
            use datafusion::catalog::TableProvider as _;
            table.schema().fields().len()
        };
        let projection = scan.projection.as_ref();
        let projection = projection.map(|projection| projection.iter().copied().chain([columns]).collect());
        let source = provider_as_source(Arc::new(with_entity));
        let read = TableScanBuilder::new(scan.table_name.clone(), source)
            .with_projection(projection)
            .with_filters(scan.filters.clone())
            .build()?;
        let read = LogicalPlan::TableScan(read);
        let domain = format!("{} {}", table.shape().table, counted.entity);
        let name = format!("{RESERVED}hash_{}", self.made);
        let hash = hash_function(self.cover.key.clone(), domain);
        let hash = hash.call(vec![column_of(&read, &value)?]).alias(&name);
        let own = read.schema().columns().into_iter().filter(|column| column.name != value);
        let expressions: Vec<Expr> = own.map(Expr::Column).chain([hash]).collect();
        let plan = LogicalPlan::Projection(Projection::try_new(expressions, Arc::new(read))?);
        Ok(Relation::new(plan, vec![name]))
    }

    /// A condition within a subquery that depends on the row around it: what does not depend on it is applied before counting.
    fn correlated(&mut self, filter: &Filter) -> Result<Relation> {
        let input = match leaf(&filter.input) {
            Some(scan) => {
                let scanned = self.scan(scan)?;
                match filter.input.as_ref() {
                    LogicalPlan::SubqueryAlias(alias) => {
                        let plan = SubqueryAlias::try_new(Arc::new(scanned.plan), alias.alias.clone())?;
                        Relation::new(LogicalPlan::SubqueryAlias(plan), scanned.hashes)
                    }
                    _ => scanned,
                }
            }
            None => self.relation(&filter.input)?,
        };
        let parts = split_conjunction_owned(filter.predicate.clone());
        let (outer, own): (Vec<Expr>, Vec<Expr>) = parts.into_iter().partition(expression_has_outer);
        let own = conjunction(self.expressions(own)?);
        let outer = conjunction(self.expressions(outer)?);
        let mut relation = input;
        if let Some(own) = own {
            let plan = LogicalPlan::Filter(Filter::try_new(own, Arc::new(relation.plan))?);
            relation = Relation { plan, ..relation };
        }
        relation = self.ended(relation)?;
        if let Some(outer) = outer {
            let plan = LogicalPlan::Filter(Filter::try_new(outer, Arc::new(relation.plan))?);
            relation = Relation { plan, ..relation };
        }
        Ok(relation)
    }

    fn join(&mut self, join: &Join) -> Result<Relation> {
        let (mut left, mut right) = (self.relation(&join.left)?, self.relation(&join.right)?);
        let conditions = join.on.iter().flat_map(|(left, right)| [left, right]).chain(&join.filter);
        let (of_left, of_right) = conditions.fold((false, false), |(of_left, of_right), condition| {
            (of_left || left.is_told_by(condition), of_right || right.is_told_by(condition))
        });
        let kind = join.join_type;
        let only_left = matches!(kind, JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark);
        let only_right = matches!(kind, JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark);
        if of_left || only_right {
            left = self.ended(left)?;
        }
        if of_right || only_left {
            right = self.ended(right)?;
        }
        let mut telling =
            [left.telling_of_join(kind, JoinType::Right), right.telling_of_join(kind, JoinType::Left)]
                .concat();
        let mut on = Vec::new();
        for (l, r) in &join.on {
            on.push((self.subqueries(l.clone())?, self.subqueries(r.clone())?));
        }
        let filter = join.filter.clone().map(|filter| self.subqueries(filter)).transpose()?;
        let hashes = [left.hashes, right.hashes].concat();
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
        let plan = LogicalPlan::Join(plan);
        telling.retain(|column| plan.schema().has_column(column));
        Ok(Relation { telling, ..Relation::new(plan, hashes) })
    }

    fn aggregated(&mut self, input: Relation, groups: Vec<Expr>, mut figures: Vec<Expr>) -> Result<Relation> {
        let union = union_function(self.most);
        for name in &input.hashes {
            let hashes = vec![column_of(&input.plan, name)?];
            let call = AggregateFunction::new_udf(Arc::clone(&union), hashes, false, None, vec![], None);
            figures.push(Expr::AggregateFunction(call).alias(name));
        }
        let told: Vec<bool> = groups.iter().map(|group| input.is_told_by(group)).collect();
        let plan = Aggregate::try_new(Arc::new(input.plan), groups, figures)?;
        let is_plain = plan.group_expr.iter().all(|group| !matches!(group, Expr::GroupingSet(_)));
        // A figure tells how many there are.
        let columns = plan.schema.columns().into_iter().enumerate();
        let telling = columns.filter(|(at, _)| told.get(*at).is_none_or(|is_told| *is_told || !is_plain));
        let telling = telling.map(|(_, column)| column).filter(|_| !input.hashes.is_empty()).collect();
        Ok(Relation { telling, ..Relation::new(LogicalPlan::Aggregate(plan), input.hashes) })
    }

    fn expressions(&mut self, expressions: Vec<Expr>) -> Result<Vec<Expr>> {
        expressions.into_iter().map(|expression| self.subqueries(expression)).collect()
    }

    /// The same expression, with the entities of its subqueries counted.
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
        let around = self.is_correlated;
        self.is_correlated = around || !subquery.outer_ref_columns.is_empty();
        let inner = self.relation(&subquery.subquery);
        self.is_correlated = around;
        let inner = inner?;
        let plan = match inner.hashes.is_empty() {
            true => inner.plan,
            false => {
                // The optimizer asks what the one column is, which a step of ours does not say.
                let plan = self.ended(inner)?.plan;
                let columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
                LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?)
            }
        };
        Ok(Subquery { subquery: Arc::new(plan), ..subquery })
    }
}

/// The scan that a plan is nothing but.
fn leaf(plan: &LogicalPlan) -> Option<&TableScan> {
    match plan {
        LogicalPlan::TableScan(scan) => Some(scan),
        LogicalPlan::SubqueryAlias(alias) => match alias.input.as_ref() {
            LogicalPlan::TableScan(scan) => Some(scan),
            _ => None,
        },
        _ => None,
    }
}

fn expression_has_outer(expression: &Expr) -> bool {
    expression.contains_outer() || expression.exists(|part| Ok(is_correlated(part))).unwrap_or(true)
}

/// A subquery in a subquery, that looks further out.
fn is_correlated(part: &Expr) -> bool {
    let subquery = match part {
        Expr::ScalarSubquery(subquery) => subquery,
        Expr::Exists(exists) => &exists.subquery,
        Expr::InSubquery(within) => &within.subquery,
        Expr::SetComparison(comparison) => &comparison.subquery,
        _ => return false,
    };
    !subquery.outer_ref_columns.is_empty()
}

fn has_outer(plan: &LogicalPlan) -> bool {
    plan.expressions().iter().any(Expr::contains_outer)
}

fn column_of(plan: &LogicalPlan, name: &str) -> Result<Expr> {
    let (qualifier, field) = plan.schema().qualified_field_with_unqualified_name(name)?;
    Ok(Expr::Column(Column::new(qualifier.cloned(), field.name())))
}
