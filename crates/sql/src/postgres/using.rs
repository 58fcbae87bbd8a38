//! Columns that `USING` makes one of two: the left side's, but of a right join the right side's, and of a full join
//! whichever is there. The engine takes the left side's always, and knows none of them in WHERE.
//!
//! Names without a table become names with one. `NATURAL`, which does not say which columns those are, is left to the engine,
//! and refused where that would answer wrongly.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Ident, Join, JoinConstraint, JoinOperator, ObjectName, OrderBy, OrderByKind, Query,
    Select, SelectItem, SetExpr, Statement, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::names::{self, folded};
use super::rewrite::call_of;
use crate::error::SqlError;

/// A column that two tables have in common.
struct Common {
    name: Ident,
    stands_for: Expr,
    /// The engine would take another one.
    is_other: bool,
}

/// Puts names of tables before the columns of USING.
pub fn write_out(select: &mut Select, order: Option<&mut OrderBy>) -> Result<(), SqlError> {
    let count = select.from.len();
    let mut common: Vec<Common> = Vec::new();
    let mut tables: Vec<Ident> = Vec::new();
    for from in &mut select.from {
        refuse_inside(&from.relation)?;
        let mut left: Vec<Option<Ident>> = vec![name_of(&from.relation)];
        for join in &mut from.joins {
            refuse_inside(&join.relation)?;
            let of_join = columns(join, &left, &common)?;
            left.push(name_of(&join.relation));
            for column in of_join {
                common.retain(|known| folded(&known.name) != folded(&column.name));
                common.push(column);
            }
        }
        tables.extend(left.into_iter().flatten());
    }
    if common.is_empty() {
        return Ok(());
    }
    if let Some(selection) = &mut select.selection {
        replace(selection, &common);
    }
    common.retain(|column| column.is_other);
    if common.is_empty() {
        return Ok(());
    }
    if count > 1 {
        return Err(refused("with other tables beside it"));
    }
    items(select, &common, &tables)?;
    let _ = select.group_by.visit(&mut Columns { common: &common, depth: 0 });
    for part in [&mut select.having, &mut select.qualify].into_iter().flatten() {
        replace(part, &common);
    }
    if let Some(OrderByKind::Expressions(keys)) = order.map(|order| &mut order.kind) {
        for key in keys {
            // By its name alone, a key is the column of the answer, if there is one of that name.
            let is_of_answer =
                matches!(&key.expr, Expr::Identifier(name) if is_item(&select.projection, &folded(name)));
            if !is_of_answer {
                replace(&mut key.expr, &common);
            }
        }
    }
    Ok(())
}

fn refused(why: &str) -> SqlError {
    let why = format!(
        "RIGHT or FULL JOIN with USING or NATURAL is not supported {why}; write ON and name the columns"
    );
    SqlError::Unsupported(why)
}

fn name_of(table: &TableFactor) -> Option<Ident> {
    match table {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            Some(alias.name.clone())
        }
        TableFactor::Table { name, args: None, .. } => name.0.last()?.as_ident().cloned(),
        _ => None,
    }
}

/// Joins in parentheses have no name for their columns.
fn refuse_inside(table: &TableFactor) -> Result<(), SqlError> {
    let TableFactor::NestedJoin { table_with_joins, .. } = table else { return Ok(()) };
    refuse_inside(&table_with_joins.relation)?;
    for join in &table_with_joins.joins {
        refuse_inside(&join.relation)?;
        let (keeps_right, constraint) = parts(&join.join_operator);
        if keeps_right && matches!(constraint, Some(JoinConstraint::Using(_) | JoinConstraint::Natural)) {
            return Err(refused("within parentheses"));
        }
    }
    Ok(())
}

/// Whether rows of the right side stay that have none on the left, and what the sides are joined by.
fn parts(operator: &JoinOperator) -> (bool, Option<&JoinConstraint>) {
    match operator {
        JoinOperator::Right(on) | JoinOperator::RightOuter(on) | JoinOperator::FullOuter(on) => {
            (true, Some(on))
        }
        JoinOperator::Join(on)
        | JoinOperator::Inner(on)
        | JoinOperator::Left(on)
        | JoinOperator::LeftOuter(on) => (false, Some(on)),
        _ => (false, None),
    }
}

fn columns(join: &mut Join, left: &[Option<Ident>], known: &[Common]) -> Result<Vec<Common>, SqlError> {
    let (keeps_right, constraint) = parts(&join.join_operator);
    let names: Vec<Ident> = match constraint {
        Some(JoinConstraint::Using(names)) => names.iter().filter_map(only).collect(),
        Some(JoinConstraint::Natural) if keeps_right => return Err(refused("without the columns' names")),
        _ => return Ok(Vec::new()),
    };
    let is_full = matches!(join.join_operator, JoinOperator::FullOuter(_));
    let right = name_of(&join.relation);
    let (mut found, mut on, mut is_on) = (Vec::new(), Vec::new(), keeps_right);
    for name in names {
        let before = known.iter().find(|column| folded(&column.name) == folded(&name));
        let of_left = match (before, left) {
            (Some(column), _) => Some(column.stands_for.clone()),
            (None, [Some(only)]) => Some(column_of(only, &name)),
            (None, _) => None,
        };
        let (Some(of_left), Some(right)) = (of_left, &right) else {
            match keeps_right || before.is_some_and(|column| column.is_other) {
                true => return Err(refused("of these tables")),
                false => continue,
            }
        };
        let of_right = column_of(right, &name);
        is_on |= before.is_some_and(|column| column.is_other);
        on.push(Expr::BinaryOp {
            left: Box::new(of_left.clone()),
            op: BinaryOperator::Eq,
            right: Box::new(of_right.clone()),
        });
        let stands_for = match (is_full, keeps_right) {
            (true, _) => call_of("coalesce", vec![of_left, of_right]),
            (false, true) => of_right,
            (false, false) => of_left,
        };
        let is_other = keeps_right || before.is_some_and(|column| column.is_other);
        found.push(Common { name, stands_for, is_other });
    }
    if let Some(condition) = on.into_iter().reduce(and)
        && is_on
        && let Some(constraint) = constraint_of(&mut join.join_operator)
    {
        *constraint = JoinConstraint::On(condition);
    }
    Ok(found)
}

fn constraint_of(operator: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    match operator {
        JoinOperator::Right(on)
        | JoinOperator::RightOuter(on)
        | JoinOperator::FullOuter(on)
        | JoinOperator::Join(on)
        | JoinOperator::Inner(on)
        | JoinOperator::Left(on)
        | JoinOperator::LeftOuter(on) => Some(on),
        _ => None,
    }
}

fn and(one: Expr, other: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(one), op: BinaryOperator::And, right: Box::new(other) }
}

fn only(name: &ObjectName) -> Option<Ident> {
    name.0.last().and_then(|part| part.as_ident()).cloned()
}

fn column_of(table: &Ident, column: &Ident) -> Expr {
    Expr::CompoundIdentifier(vec![table.clone(), column.clone()])
}

/// The columns of the answer. `*` has the common ones first, and each once.
fn items(select: &mut Select, common: &[Common], tables: &[Ident]) -> Result<(), SqlError> {
    names::name_columns(select);
    let mut made = Vec::new();
    for mut item in std::mem::take(&mut select.projection) {
        match &mut item {
            SelectItem::Wildcard(_) => {
                let of = |column: &Common| SelectItem::ExprWithAlias {
                    expr: column.stands_for.clone(),
                    alias: column.name.clone(),
                };
                made.extend(common.iter().map(of));
                let names: Vec<String> = common.iter().map(|column| column.name.to_string()).collect();
                let rest = tables.iter().map(|table| format!("{table}.* EXCLUDE ({})", names.join(", ")));
                made.extend(written(&rest.collect::<Vec<_>>().join(", ")).ok_or_else(|| refused("with *"))?);
                continue;
            }
            SelectItem::UnnamedExpr(Expr::Identifier(name)) => {
                let column = common.iter().find(|column| folded(&column.name) == folded(name));
                if let Some(column) = column {
                    item = SelectItem::ExprWithAlias {
                        expr: column.stands_for.clone(),
                        alias: Ident::with_quote('"', folded(name)),
                    };
                }
            }
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => replace(expr, common),
            _ => {}
        }
        made.push(item);
    }
    select.projection = made;
    Ok(())
}

fn is_item(items: &[SelectItem], name: &str) -> bool {
    items.iter().any(|item| matches!(item, SelectItem::ExprWithAlias { alias, .. } if folded(alias) == name))
}

fn written(items: &str) -> Option<Vec<SelectItem>> {
    let parsed = Parser::parse_sql(&GenericDialect, &format!("SELECT {items} FROM t")).ok()?.pop()?;
    let Statement::Query(query) = parsed else { return None };
    match *query.body {
        SetExpr::Select(select) => Some(select.projection),
        _ => None,
    }
}

fn replace(expr: &mut Expr, common: &[Common]) {
    let _ = expr.visit(&mut Columns { common, depth: 0 });
}

/// Names of columns, but not in subqueries, which may have columns of the same names.
struct Columns<'a> {
    common: &'a [Common],
    depth: usize,
}

impl VisitorMut for Columns<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(name) = expr
            && self.depth == 0
            && let Some(column) = self.common.iter().find(|column| folded(&column.name) == folded(name))
        {
            *expr = column.stands_for.clone();
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::SessionContext;

    use super::super::rewrite::rewrite;
    use crate::dialect::PostgresDialect;
    use crate::error::SqlError;

    use super::*;

    fn rewritten(sql: &str) -> Result<String, SqlError> {
        let mut statement = Parser::parse_sql(&PostgresDialect, sql).unwrap().remove(0);
        rewrite(&mut statement).map(|()| statement.to_string())
    }

    async fn rows(sql: &str) -> Vec<String> {
        let state = SessionContext::new().state();
        let parsed = Parser::parse_sql(&PostgresDialect, sql).unwrap().remove(0);
        let mut statement = parsed;
        rewrite(&mut statement).unwrap();
        let statement = datafusion::sql::parser::Statement::Statement(Box::new(statement));
        let plan = state.statement_to_plan(statement).await.unwrap();
        let frame = datafusion::dataframe::DataFrame::new(state, plan);
        let shown = pretty_format_batches(&frame.collect().await.unwrap()).unwrap().to_string();
        let lines =
            shown.lines().skip(1).filter(|line| line.starts_with('|')).map(|line| line.replace(' ', ""));
        lines.collect()
    }

    #[tokio::test]
    async fn common_columns_are_those_of_the_side_that_is_there() {
        let t = "(VALUES (1, 'a'), (2, 'b')) AS t (k, x)";
        let u = "(VALUES (2, 'c'), (3, 'd')) AS u (k, y)";
        for (columns, join, rest, expected) in [
            ("*", "FULL JOIN", "ORDER BY k", vec!["|k|x|y|", "|1|a||", "|2|b|c|", "|3||d|"]),
            ("*", "RIGHT JOIN", "ORDER BY k", vec!["|k|x|y|", "|2|b|c|", "|3||d|"]),
            ("k, k + 1 AS n", "FULL JOIN", "WHERE k > 1 ORDER BY k DESC", vec!["|k|n|", "|3|4|", "|2|3|"]),
            ("k, count(*) AS n", "RIGHT JOIN", "GROUP BY k HAVING k > 2", vec!["|k|n|", "|3|1|"]),
            ("k, t.k AS of_t", "FULL JOIN", "WHERE x IS NULL", vec!["|k|of_t|", "|3||"]),
            ("k, x", "JOIN", "WHERE k = 2", vec!["|k|x|", "|2|b|"]),
            ("k, y", "LEFT JOIN", "WHERE k = 1", vec!["|k|y|", "|1||"]),
        ] {
            let sql = format!("SELECT {columns} FROM {t} {join} {u} USING (k) {rest}");
            assert_eq!(rows(&sql).await, expected, "{sql}");
        }
    }

    #[test]
    fn joins_of_joins_name_the_column_that_was_made() {
        let made = rewritten("SELECT k FROM a FULL JOIN b USING (k) FULL JOIN c USING (k)").unwrap();
        let all = "coalesce(coalesce(a.k, b.k), c.k)";
        assert!(made.contains(all) && made.contains("ON coalesce(a.k, b.k) = c.k"), "{made}");
        let made = rewritten("SELECT k FROM a JOIN b USING (k) JOIN c USING (k) WHERE k > 1").unwrap();
        assert!(made.ends_with("USING(k) WHERE a.k > 1"), "{made}");
        for sql in [
            "SELECT * FROM a NATURAL FULL JOIN b",
            "SELECT * FROM a RIGHT JOIN b USING (k), c",
            "SELECT * FROM a JOIN (b FULL JOIN c USING (k)) ON true",
            "SELECT k FROM a JOIN b ON true FULL JOIN c USING (k)",
        ] {
            assert_eq!(rewritten(sql).unwrap_err().code(), "0A000", "{sql}");
        }
    }
}
