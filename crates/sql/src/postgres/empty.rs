//! Queries that cannot have rows, since they are about tables of PostgreSQL's catalogs that never have any here.

use datafusion::sql::sqlparser::ast::{
    GroupByExpr, JoinOperator, Query, Select, SetExpr, TableFactor, TableWithJoins,
};

use super::rewrite::CATALOG;
use super::{single, tables};

/// Whether a query cannot have rows, since it is about a table that has none.
pub fn is_empty(query: &Query) -> bool {
    query_is_empty(query, &mut Vec::new())
}

/// `empty` are names of the queries before it (`WITH`) that have no rows.
fn query_is_empty(query: &Query, empty: &mut Vec<String>) -> bool {
    let known = empty.len();
    for table in query.with.iter().flat_map(|with| &with.cte_tables) {
        if query_is_empty(&table.query, empty) {
            empty.push(table.alias.name.value.to_lowercase());
        }
    }
    let found = set_is_empty(&query.body, empty);
    empty.truncate(known);
    found
}

fn set_is_empty(set: &SetExpr, empty: &mut Vec<String>) -> bool {
    match set {
        SetExpr::Select(select) => select_is_empty(select, empty),
        SetExpr::Query(query) => query_is_empty(query, empty),
        SetExpr::SetOperation { left, right, .. } => set_is_empty(left, empty) && set_is_empty(right, empty),
        _ => false,
    }
}

fn select_is_empty(select: &Select, empty: &mut Vec<String>) -> bool {
    // An aggregate has a row also of nothing, unless it is one for each group.
    let has_groups = !matches!(&select.group_by, GroupByExpr::Expressions(groups, _) if groups.is_empty());
    (has_groups || !single::is_aggregate(select)) && select.from.iter().any(|from| from_is_empty(from, empty))
}

fn from_is_empty(from: &TableWithJoins, empty: &mut Vec<String>) -> bool {
    factor_is_empty(&from.relation, empty)
        || from.joins.iter().any(|join| {
            let inner = matches!(
                join.join_operator,
                JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_)
            );
            inner && factor_is_empty(&join.relation, empty)
        })
}

/// Columns of PostgreSQL's catalogs that have lists there.
const ALWAYS_NULL: [&str; 8] =
    ["attacl", "attfdwoptions", "attoptions", "datacl", "nspacl", "relacl", "reloptions", "typacl"];

fn is_null_column(expr: &str) -> bool {
    let column = expr.to_lowercase();
    column.rsplit('.').next().is_some_and(|column| ALWAYS_NULL.contains(&column))
}

fn factor_is_empty(factor: &TableFactor, empty: &mut Vec<String>) -> bool {
    match factor {
        TableFactor::Table { name, args: None, .. } => {
            let parts: Vec<String> =
                name.0.iter().filter_map(|part| part.as_ident()).map(|i| i.value.to_lowercase()).collect();
            match parts.as_slice() {
                [table] => empty.contains(table) || tables::is_always_empty(table),
                [schema, table] if schema == CATALOG => tables::is_always_empty(table),
                _ => false,
            }
        }
        // What is in a column that is always NULL.
        TableFactor::Table { name, args: Some(args), .. } => {
            let function =
                name.0.last().and_then(|part| part.as_ident()).map(|name| name.value.to_lowercase());
            matches!(function.as_deref(), Some("unnest" | "pg_options_to_table" | "aclexplode"))
                && args.args.first().is_some_and(|arg| is_null_column(&arg.to_string()))
        }
        TableFactor::UNNEST { array_exprs, .. } => {
            array_exprs.first().is_some_and(|expr| is_null_column(&expr.to_string()))
        }
        TableFactor::Derived { subquery, .. } => query_is_empty(subquery, empty),
        TableFactor::NestedJoin { table_with_joins, .. } => from_is_empty(table_with_joins, empty),
        _ => false,
    }
}
