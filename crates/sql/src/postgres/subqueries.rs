//! Subqueries in places where the engine does not plan them, in words that it plans.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Query, SelectItem, SetExpr, TableFactor, UnaryOperator, Visit, visit_expressions,
    visit_expressions_mut,
};

use super::empty::is_empty;
use super::rewrite::select_of;
use super::single;

/// A subquery that is written several times may have so many of its own, so that no text grows by more than a few times.
pub const INNER_MAX: usize = 2;

/// `EXISTS` among the columns, which the engine only plans in conditions: whether there are rows is counted.
pub fn exists(expr: &Expr) -> Option<Expr> {
    let Expr::Exists { subquery, negated } = expr else { return None };
    if is_empty(subquery) {
        return None;
    }
    let operator = if *negated { "=" } else { ">" };
    let plain = "SELECT (SELECT count(*) > 0 FROM x)".replace('>', operator);
    let mut outer = select_of(&plain)?;
    let Some(SelectItem::UnnamedExpr(Expr::Subquery(mut counted))) = outer.projection.pop() else {
        return None;
    };
    let (SetExpr::Select(counted_select), SetExpr::Select(inner)) = (&mut *counted.body, &*subquery.body)
    else {
        return None;
    };
    let is_plain = matches!(&inner.group_by, GroupByExpr::Expressions(groups, _) if groups.is_empty())
        && inner.having.is_none()
        && subquery.limit_clause.is_none()
        && subquery.with.is_none()
        && !single::is_aggregate(inner);
    if !is_plain {
        return None;
    }
    counted_select.from.clone_from(&inner.from);
    counted_select.selection.clone_from(&inner.selection);
    Some(Expr::Subquery(counted))
}

/// `IN (SELECT …)` among the columns: the matches are counted. By SQL's rules it is false of no rows, NULL where the value is,
/// and NULL where nothing matches beside a NULL.
pub fn is_in(expr: &Expr) -> Option<Expr> {
    const COUNTED: &str = "SELECT CASE WHEN (SELECT count(*) FROM (SELECT 1) AS _in) = 0 THEN false WHEN value IS NULL THEN NULL \
         WHEN (SELECT count(*) FROM (SELECT 1) AS _in (_item) WHERE _in._item = value) > 0 THEN true \
         WHEN (SELECT count(*) FROM (SELECT 1) AS _in (_item) WHERE _in._item IS NULL) > 0 THEN NULL ELSE false END";
    let Expr::InSubquery { expr: value, subquery, negated } = expr else { return None };
    if matches!(**value, Expr::Tuple(_))
        || of_search_path(subquery)
        || subqueries(value) + subqueries(subquery) > INNER_MAX
    {
        return None;
    }
    let Some(SelectItem::UnnamedExpr(mut counted)) = select_of(COUNTED)?.projection.pop() else {
        return None;
    };
    let _ = visit_expressions_mut(&mut counted, |part| {
        match part {
            Expr::Identifier(name) if name.value == "value" => part.clone_from(value),
            Expr::Subquery(count) => counts(count, subquery),
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
    let counted = Box::new(counted);
    Some(match negated {
        true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(Expr::Nested(counted)) },
        false => *counted,
    })
}

/// Puts what is counted in its place.
fn counts(count: &mut Query, counted: &Query) {
    let SetExpr::Select(select) = &mut *count.body else { return };
    if let Some(TableFactor::Derived { subquery, .. }) =
        select.from.first_mut().map(|from| &mut from.relation)
    {
        **subquery = counted.clone();
    }
}

pub fn subqueries(of: &impl Visit) -> usize {
    let mut found = 0;
    let _ = visit_expressions(of, |expr| {
        found +=
            usize::from(matches!(expr, Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. }));
        ControlFlow::<()>::Continue(())
    });
    found
}

/// The schemas of the search path, one by one, as Grafana asks for them: an array of them with an element for each index of it.
pub fn of_search_path(query: &Query) -> bool {
    let SetExpr::Select(select) = &*query.body else { return false };
    let [SelectItem::UnnamedExpr(Expr::Case { .. })] = &select.projection[..] else { return false };
    let [indexes, path] = &select.from[..] else { return false };
    let [indexes, path] = [&indexes.relation, &path.relation].map(|relation| match relation {
        TableFactor::Table { name, args: Some(args), .. } => {
            let asks = args.args.iter().any(|arg| arg.to_string().contains("current_setting('search_path')"));
            asks.then(|| name.to_string().to_lowercase())
        }
        _ => None,
    });
    indexes.as_deref() == Some("generate_series") && path.as_deref() == Some("string_to_array")
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::super::rewrite::rewrite;

    fn rewritten(sql: &str) -> String {
        let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
        rewrite(&mut statement).unwrap();
        statement.to_string()
    }

    #[test]
    fn matches_among_the_columns_are_counted() {
        let text = rewritten("SELECT value IN (SELECT value FROM t) AS a FROM u");
        assert!(!text.contains(" IN ") && text.matches("FROM t").count() == 3, "{text}");
        assert!(text.contains("_in._item = value"), "{text}");
        let text = rewritten("SELECT a NOT IN (SELECT b FROM t) FROM u WHERE c IN (SELECT d FROM v)");
        assert!(text.contains("NOT (CASE") && text.contains("c IN (SELECT d"), "{text}");
    }

    #[test]
    fn subqueries_within_each_other_do_not_grow() {
        let nested = (0..8).fold("SELECT 1".to_owned(), |inner, _| format!("SELECT a IN ({inner}) FROM t"));
        assert!(rewritten(&nested).len() < 20 * nested.len());
        let beside = (0..8).fold("a".to_owned(), |inner, _| format!("({inner} IN (SELECT 1))"));
        assert!(rewritten(&format!("SELECT {beside} FROM t")).len() < 20 * beside.len());
    }

    #[test]
    fn the_search_path_is_the_public_schema() {
        let sql = "SELECT CASE WHEN quote_ident(table_schema) IN (SELECT CASE WHEN trim(s[i]) = '\"$user\"' THEN user ELSE trim(s[i]) END \
             FROM generate_series(array_lower(string_to_array(current_setting('search_path'),','),1), \
             array_upper(string_to_array(current_setting('search_path'),','),1)) AS i, \
             string_to_array(current_setting('search_path'),',') s) THEN 1 END FROM information_schema.tables";
        assert!(rewritten(sql).contains("quote_ident(table_schema) IN ('public')"), "{}", rewritten(sql));
    }
}
