//! `x = ANY (SELECT …)`, `x > ALL (SELECT …)` and the like, in words that the engine plans.
//!
//! Equality with any row, and inequality with all, are `IN` and `NOT IN`. For the others a row decides that
//! is the smallest or the largest. By SQL's rules `ANY` is false of no rows and `ALL` is true, whatever the
//! value is; and both are NULL where no row decides and the value or a row is NULL.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArguments, GroupByExpr, Query, SelectItem, SetExpr, TableFactor,
    Value, visit_expressions_mut,
};

use super::empty::is_empty;
use super::rewrite::{call, only_name_of, select_of};
use super::single;
use super::subqueries::{INNER_MAX, subqueries};
use crate::error::SqlError;

/// Another expression for a comparison with the rows of a subquery. `None`: it is none.
pub fn comparison(expr: &Expr) -> Result<Option<Expr>, SqlError> {
    let (value, op, of, is_all) = match expr {
        Expr::AnyOp { left, compare_op, right, .. } => (left, compare_op, right, false),
        Expr::AllOp { left, compare_op, right } => (left, compare_op, right, true),
        _ => return Ok(None),
    };
    let Some(query) = subquery(of) else { return Ok(None) };
    if is_empty(query) {
        return Ok(Some(Expr::Value(Value::Boolean(is_all).into())));
    }
    if !is_comparison(op) {
        return Err(refused(&format!("{op} beside ANY or ALL and a subquery")));
    }
    if matches!((op, is_all), (BinaryOperator::Eq, false) | (BinaryOperator::NotEq, true)) {
        let (expr, subquery) = (value.clone(), Box::new(query.clone()));
        return Ok(Some(Expr::InSubquery { expr, subquery, negated: is_all }));
    }
    if matches!(**value, Expr::Tuple(_)) {
        return Err(refused("a comparison of rows with ANY or ALL of a subquery"));
    }
    if subqueries(&**value) + subqueries(query) > INNER_MAX {
        return Err(refused(&format!("ANY or ALL of a subquery with more than {INNER_MAX} of its own")));
    }
    Ok(decided(value, op, query, is_all))
}

fn refused(what: &str) -> SqlError {
    SqlError::Unsupported(format!("{what} is not supported"))
}

fn subquery(of: &Expr) -> Option<&Query> {
    match of {
        Expr::Subquery(query) => Some(query),
        Expr::Nested(inner) => subquery(inner),
        // ARRAY(SELECT …), whose items are the rows.
        Expr::Function(Function { name, args: FunctionArguments::Subquery(query), .. })
            if only_name_of(name).is_some_and(|name| name == "array") =>
        {
            Some(query)
        }
        _ => None,
    }
}

fn is_comparison(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

/// What a row has to be for `ANY` to be true, or `ALL` to be false.
fn decides(op: &BinaryOperator, is_all: bool) -> Option<&'static str> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    Some(match (op, is_all) {
        (Gt, false) => "value > smallest",
        (GtEq, false) => "value >= smallest",
        (Lt, false) => "value < largest",
        (LtEq, false) => "value <= largest",
        (NotEq, false) | (Eq, true) => "value <> smallest OR value <> largest",
        (Gt, true) => "value <= largest",
        (GtEq, true) => "value < largest",
        (Lt, true) => "value >= smallest",
        (LtEq, true) => "value > smallest",
        _ => return None,
    })
}

fn decided(value: &Expr, op: &BinaryOperator, query: &Query, is_all: bool) -> Option<Expr> {
    let decides = decides(op, is_all)?;
    let (of_none, of_one) = if is_all { ("true", "false") } else { ("false", "true") };
    let sql = format!(
        "SELECT CASE WHEN counted = 0 THEN {of_none} WHEN {decides} THEN {of_one} \
         WHEN value IS NULL OR counted > known THEN NULL ELSE {of_none} END"
    );
    let Some(SelectItem::UnnamedExpr(mut made)) = select_of(&sql)?.projection.pop() else { return None };
    let _ = visit_expressions_mut(&mut made, |part| {
        let of_rows = match part {
            Expr::Identifier(name) => match name.value.as_str() {
                "value" => {
                    *part = Expr::Nested(Box::new(value.clone()));
                    return ControlFlow::<()>::Continue(());
                }
                "counted" => aggregate(query, "count", true),
                "known" => aggregate(query, "count", false),
                "smallest" => aggregate(query, "min", false),
                "largest" => aggregate(query, "max", false),
                _ => None,
            },
            _ => None,
        };
        if let Some(of_rows) = of_rows {
            *part = Expr::Subquery(Box::new(of_rows));
        }
        ControlFlow::Continue(())
    });
    Some(made)
}

/// An aggregate of the only column of a query, or of its rows.
fn aggregate(query: &Query, name: &str, of_rows: bool) -> Option<Query> {
    let rows = || {
        let counted = select_of("SELECT count(*)")?;
        match counted.projection.into_iter().next()? {
            SelectItem::UnnamedExpr(count) => Some(count),
            _ => None,
        }
    };
    let mut made = query.clone();
    if let Some(item) = only_item(&mut made) {
        *item = SelectItem::UnnamedExpr(match (of_rows, &item) {
            (true, _) => rows()?,
            (false, SelectItem::UnnamedExpr(of) | SelectItem::ExprWithAlias { expr: of, .. }) => {
                call(name, of.clone())
            }
            (false, _) => return None,
        });
        made.order_by = None;
        return Some(made);
    }
    let of = if of_rows { "count(*)".to_owned() } else { format!("{name}(_item)") };
    let mut outer = select_of(&format!("SELECT (SELECT {of} FROM (SELECT 1) AS _of (_item))"))?;
    let Some(SelectItem::UnnamedExpr(Expr::Subquery(mut outer))) = outer.projection.pop() else {
        return None;
    };
    let SetExpr::Select(select) = &mut *outer.body else { return None };
    if let TableFactor::Derived { subquery, .. } = &mut select.from.first_mut()?.relation {
        **subquery = query.clone();
    }
    Some(*outer)
}

/// The item of a query that gives a row for each that it reads, and nothing but that.
fn only_item(query: &mut Query) -> Option<&mut SelectItem> {
    let has_more = query.with.is_some() || query.limit_clause.is_some() || query.fetch.is_some();
    let SetExpr::Select(select) = &mut *query.body else { return None };
    let is_grouped = !matches!(&select.group_by, GroupByExpr::Expressions(groups, _) if groups.is_empty())
        || select.having.is_some()
        || select.distinct.is_some()
        || select.qualify.is_some();
    if has_more || is_grouped || select.from.is_empty() || single::is_aggregate(select) {
        return None;
    }
    let [item @ (SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. })] = &mut select.projection[..]
    else {
        return None;
    };
    // What gives several rows for one, and what is of several, is no argument of an aggregate.
    let text = item.to_string().to_uppercase();
    let is_plain = [" OVER ", "UNNEST(", "_TABLE(", "ELEMENTS", "OBJECT_KEYS("];
    (!is_plain.iter().any(|part| text.contains(part))).then_some(item)
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;

    use super::super::rewrite::rewrite;
    use crate::dialect::PostgresDialect;
    use crate::error::SqlError;

    fn rewritten(condition: &str) -> Result<String, SqlError> {
        let sql = format!("SELECT a FROM t WHERE {condition}");
        let mut statement = Parser::parse_sql(&PostgresDialect, &sql).unwrap().remove(0);
        rewrite(&mut statement)?;
        Ok(statement.to_string().split_once(" WHERE ").unwrap().1.to_owned())
    }

    /// What a condition is for each of some values, beside rows.
    async fn found(operator: &str, rows: &str) -> Vec<Option<bool>> {
        use arrow::array::AsArray as _;
        let sql = format!(
            "SELECT (x {operator} (SELECT y FROM {rows} AS u (y))) AS found FROM (VALUES (1), (2), (NULL)) AS t (x)"
        );
        let mut statement = Parser::parse_sql(&PostgresDialect, &sql).unwrap().remove(0);
        rewrite(&mut statement).unwrap();
        let context = datafusion::prelude::SessionContext::new();
        let batches = context.sql(&statement.to_string()).await.unwrap().collect().await.unwrap();
        batches.iter().flat_map(|batch| batch.column(0).as_boolean().iter().collect::<Vec<_>>()).collect()
    }

    #[test]
    fn equality_with_any_is_in() {
        for (condition, expected) in [
            ("a = ANY (SELECT b FROM u)", "a IN (SELECT b FROM u)"),
            ("a = SOME (SELECT b FROM u)", "a IN (SELECT b FROM u)"),
            ("a = ANY (ARRAY(SELECT b FROM u))", "a IN (SELECT b FROM u)"),
            ("a <> ALL (SELECT b FROM u)", "a NOT IN (SELECT b FROM u)"),
            ("a > ALL (SELECT conname FROM pg_constraint)", "true"),
            ("a > ANY (SELECT conname FROM pg_constraint)", "false"),
        ] {
            assert_eq!(rewritten(condition).unwrap(), expected, "{condition}");
        }
    }

    #[test]
    fn what_is_not_written_out_is_refused() {
        let nested =
            (0..4).fold("1".to_owned(), |inner, _| format!("b > ALL (SELECT c FROM u WHERE {inner})"));
        for condition in ["a ~ ANY (SELECT b FROM u)", "(a, b) > ALL (SELECT b, c FROM u)", &nested] {
            let refused = rewritten(condition).unwrap_err();
            assert_eq!(refused.code(), "0A000", "{condition}: {refused}");
        }
    }

    #[tokio::test]
    async fn rows_decide_as_sql_has_it() {
        let (yes, no, unknown) = (Some(true), Some(false), None);
        let (none, one, null) =
            ("(SELECT 1 WHERE false)", "(VALUES (1), (1))", "(VALUES (1), (CAST(NULL AS bigint)))");
        for (operator, rows, expected) in [
            ("> ALL", none, [yes, yes, yes]),
            ("> ANY", none, [no, no, no]),
            ("= ALL", none, [yes, yes, yes]),
            ("> ALL", one, [no, yes, unknown]),
            (">= ALL", one, [yes, yes, unknown]),
            ("< ALL", one, [no, no, unknown]),
            ("= ALL", one, [yes, no, unknown]),
            ("<> ANY", one, [no, yes, unknown]),
            ("> ALL", null, [no, unknown, unknown]),
            ("> ANY", null, [unknown, yes, unknown]),
            ("<= ANY", null, [yes, unknown, unknown]),
            ("= ALL", null, [unknown, no, unknown]),
        ] {
            assert_eq!(found(operator, rows).await, expected, "{operator} {rows}");
        }
    }
}
