//! Joins of held rows: no row of them is in the result more than once, so that none weighs more than another in a figure.
//!
//! The condition is the equality of columns as they are, and the other side has one row for each of their values ([`Unique`]).
//! Where a held row is missing (an outer join), the result has no entity, and is left out as rows without an entity are.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchemaRef, JoinType};
use datafusion::error::Result;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable as _, Extension, Join, LogicalPlan, Operator,
};

use super::Refused;
use super::apart::{Says, mixed};
use super::groups::{Known, RESERVED, Relation, Rewriting, not_in_groups};
use super::unique::Unique;
use super::whole::whole;

impl Rewriting {
    pub(super) fn join(&mut self, join: &Join) -> Result<Relation> {
        let (left, right) = (self.relation(&join.left)?, self.relation(&join.right)?);
        let dropped = match join.join_type {
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => None,
            JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => right.held.first(),
            JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => left.held.first(),
        };
        if let Some(held) = dropped {
            return Err(not_in_groups(held).into());
        }
        if left.held.is_empty() && right.held.is_empty() {
            return self.joined(join, join.join_type, left, right);
        }
        match join.join_type {
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
                self.join_of_held(join, left, right)
            }
            JoinType::LeftMark | JoinType::RightMark => Err(refused(&left, &right).into()),
            JoinType::LeftSemi | JoinType::LeftAnti | JoinType::RightSemi | JoinType::RightAnti => {
                let of_rows = [left.says_by_name(), right.says_by_name()].concat();
                let on = join.on.iter().flat_map(|(l, r)| [l, r]).chain(&join.filter);
                let mut all = Says::Nothing;
                for expression in on {
                    let says = super::apart::says(expression, &of_rows)?;
                    all = all.with(says).ok_or_else(|| mixed("a condition of a join"))?;
                }
                self.joined(join, join.join_type, left, right)
            }
        }
    }

    fn join_of_held(&mut self, join: &Join, mut left: Relation, mut right: Relation) -> Result<Relation> {
        let (of_left, of_right) = (!left.held.is_empty(), !right.held.is_empty());
        let Some(join) = &of_equal_columns(join, left.plan.schema(), right.plan.schema()) else {
            return Err(refused(&left, &right).into());
        };
        let columns = join.on.iter().map(|pair| match pair {
            (Expr::Column(l), Expr::Column(r)) => Some((l, r)),
            _ => None,
        });
        let Some(columns) = columns.collect::<Option<Vec<_>>>() else {
            return Err(refused(&left, &right).into());
        };
        if columns.is_empty() || join.filter.is_some() || (of_left && of_right) {
            return Err(refused(&left, &right).into());
        }
        // A cast could make two values of the other side one.
        let (in_left, in_right) = (left.plan.schema(), right.plan.schema());
        for (l, r) in &join.on {
            if !are_alike(&l.get_type(in_left)?, &r.get_type(in_right)?) {
                return Err(refused(&left, &right).into());
            }
        }
        let keys: Vec<&Column> = columns.iter().map(|(l, r)| if of_left { *l } else { *r }).collect();
        let (held, other) = if of_left { (&left, &mut right) } else { (&right, &mut left) };
        let mut found_by = Says::Nothing;
        for key in keys {
            let says = super::apart::says(&Expr::Column(key.clone()), &held.says_by_name())?;
            found_by = found_by.with(says).ok_or_else(|| mixed("the condition of a join"))?;
        }
        other.known.iter_mut().for_each(|known| known.says = found_by);
        let of_other = columns.iter().map(|(l, r)| if of_left { *r } else { *l });
        let places = of_other.map(|column| place(other.plan.schema(), column)).collect::<Result<_>>()?;
        let unique = Unique::new(other.plan.clone(), places);
        other.plan = LogicalPlan::Extension(Extension { node: Arc::new(unique) });
        let join_type = match join.join_type {
            JoinType::Left | JoinType::Full if of_left => JoinType::Left,
            JoinType::Right | JoinType::Full if of_right => JoinType::Right,
            _ => JoinType::Inner,
        };
        self.joined(join, join_type, left, right)
    }

    fn joined(
        &mut self,
        join: &Join,
        join_type: JoinType,
        left: Relation,
        right: Relation,
    ) -> Result<Relation> {
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
        let known: Vec<Known> = match join_type {
            JoinType::LeftSemi | JoinType::LeftAnti => left.known,
            JoinType::RightSemi | JoinType::RightAnti => right.known,
            _ => [left.known, right.known].concat(),
        };
        let held = [left.held, right.held].concat();
        let plan = Join::try_new(
            Arc::new(left.plan),
            Arc::new(right.plan),
            on,
            filter,
            join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?;
        Ok(Relation { plan: LogicalPlan::Join(plan), held, known })
    }
}

/// The same join with its whole condition as pairs of columns. None: there is more to it.
fn of_equal_columns(join: &Join, left: &DFSchemaRef, right: &DFSchemaRef) -> Option<Join> {
    let mut on = join.on.clone();
    for part in join.filter.iter().flat_map(split_conjunction) {
        let Expr::BinaryExpr(BinaryExpr { left: one, op: Operator::Eq, right: other }) = part else {
            return None;
        };
        let (Expr::Column(l), Expr::Column(r)) = (one.as_ref(), other.as_ref()) else { return None };
        let (one, other) = ((**one).clone(), (**other).clone());
        if left.has_column(l) && right.has_column(r) {
            on.push((one, other));
        } else if left.has_column(r) && right.has_column(l) {
            on.push((other, one));
        } else {
            return None;
        }
    }
    Some(Join { on, filter: None, ..join.clone() })
}

fn place(schema: &DFSchemaRef, column: &Column) -> Result<usize> {
    debug_assert!(!column.name.starts_with(RESERVED));
    schema.index_of_column(column)
}

fn are_alike(one: &DataType, other: &DataType) -> bool {
    let is_text = |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    one == other || (one.is_integer() && other.is_integer()) || (is_text(one) && is_text(other))
}

fn refused(left: &Relation, right: &Relation) -> Refused {
    let table = left.held.iter().chain(&right.held).next().map_or("a table", |held| held.table.as_str());
    Refused::new(
        format!(
            "rows of {table} leave only in groups, and are joined only by JOIN … ON equal columns, of one type, to a table whose rows \
             are not in groups too and that has one row for each of their values"
        ),
        "name both columns as they are, and write all other conditions after WHERE".to_owned(),
    )
}
