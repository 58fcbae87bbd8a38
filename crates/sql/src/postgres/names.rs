//! What columns of an answer are called, as PostgreSQL names them: `count`, `date_trunc`, `?column?`.
//!
//! PostgreSQL lets two columns have one name; the engine wants each name once. So a name that is there already gets a mark and a number,
//! which [`shown`] takes off again before anybody sees it.

use std::collections::HashSet;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, DataType, Expr, Ident, ObjectName, Query, Select, SelectItem, SetExpr,
};

/// Stands between a name and its number. No name that people write has it.
const MARK: char = '\u{1}';
const UNNAMED: &str = "?column?";

/// The name without what [`name_columns`] has put behind it.
pub fn shown(name: &str) -> &str {
    name.split_once(MARK).map_or(name, |(name, _)| name)
}

/// Names the columns of a selection that have no name or share one.
pub fn name_columns(select: &mut Select) {
    let is_wildcard =
        |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    // What all the columns are called, this does not know: a column by itself is most likely one of them.
    let has_wildcard = select.projection.iter().any(is_wildcard);
    let mut names = HashSet::new();
    for (at, item) in select.projection.iter_mut().enumerate() {
        let (name, has_name) = match item {
            SelectItem::UnnamedExpr(expr) => (name_of(expr), is_column(expr)),
            SelectItem::ExprWithAlias { alias, .. } => (folded(alias), true),
            _ => continue,
        };
        let is_taken = !names.insert(name.clone());
        let is_doubtful = has_wildcard && matches!(item, SelectItem::UnnamedExpr(expr) if is_column(expr));
        if has_name && !is_taken && !is_doubtful {
            continue;
        }
        let name = if is_taken || is_doubtful { format!("{name}{MARK}{at}") } else { name };
        let alias = Ident::with_quote('"', name);
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        }
    }
}

/// The names of a query's columns, as they are shown.
pub fn of_query(query: &Query) -> Vec<String> {
    of_set(&query.body)
}

fn of_set(set: &SetExpr) -> Vec<String> {
    match set {
        SetExpr::Select(select) => select.projection.iter().map(of_item).collect(),
        SetExpr::Query(query) => of_query(query),
        SetExpr::SetOperation { left, .. } => of_set(left),
        _ => Vec::new(),
    }
}

fn of_item(item: &SelectItem) -> String {
    match item {
        SelectItem::UnnamedExpr(expr) => name_of(expr),
        SelectItem::ExprWithAlias { alias, .. } => alias.value.clone(),
        other => other.to_string(),
    }
}

/// A name as PostgreSQL reads it.
pub fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

fn last_of(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(|part| part.as_ident()).map(folded)
}

fn name_of(expr: &Expr) -> String {
    known(expr).unwrap_or_else(|| UNNAMED.to_owned())
}

/// As `FigureColname` of PostgreSQL's parser.
fn known(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(name) => Some(folded(name)),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let field = access_chain.iter().rev().find_map(|access| match access {
                AccessExpr::Dot(Expr::Identifier(name)) => Some(folded(name)),
                _ => None,
            });
            field.or_else(|| known(root))
        }
        Expr::Function(function) => last_of(&function.name),
        Expr::Cast { expr, data_type, .. } => match &**expr {
            Expr::Case { .. } => Some("case".to_owned()),
            inner => known(inner).or_else(|| Some(type_name(data_type))),
        },
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => known(inner),
        Expr::Case { else_result, .. } => {
            let column = else_result.as_deref().filter(|expr| is_column(expr)).and_then(known);
            column.or_else(|| Some("case".to_owned()))
        }
        Expr::Subquery(query) => of_query(query).into_iter().next().filter(|name| name != UNNAMED),
        Expr::Exists { .. } => Some("exists".to_owned()),
        Expr::Array(_) => Some("array".to_owned()),
        Expr::Tuple(_) => Some("row".to_owned()),
        Expr::Extract { .. } => Some("extract".to_owned()),
        Expr::Substring { .. } => Some("substring".to_owned()),
        Expr::Position { .. } => Some("position".to_owned()),
        Expr::Overlay { .. } => Some("overlay".to_owned()),
        Expr::Trim { .. } => Some("btrim".to_owned()),
        Expr::Ceil { .. } => Some("ceil".to_owned()),
        Expr::Floor { .. } => Some("floor".to_owned()),
        Expr::AtTimeZone { .. } => Some("timezone".to_owned()),
        Expr::TypedString(typed) => Some(type_name(&typed.data_type)),
        Expr::Interval(_) => Some("interval".to_owned()),
        _ => None,
    }
}

/// The name of a type in `pg_type`.
pub fn type_name(data_type: &DataType) -> String {
    let text = data_type.to_string().to_lowercase();
    let plain = text.split('(').next().unwrap_or_default().trim();
    let name = match plain {
        "int" | "integer" | "int4" => "int4",
        "bigint" | "int8" => "int8",
        "smallint" | "int2" => "int2",
        "double precision" | "double" | "float" | "float8" => "float8",
        "real" | "float4" => "float4",
        "boolean" | "bool" => "bool",
        "decimal" | "dec" | "numeric" => "numeric",
        "character varying" | "varchar" => "varchar",
        "character" | "char" => "bpchar",
        "timestamp with time zone" | "timestamptz" => "timestamptz",
        "timestamp without time zone" | "timestamp" => "timestamp",
        other => other.rsplit('.').next().unwrap_or(other),
    };
    name.trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::Statement;
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn select(sql: &str) -> Select {
        match Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0) {
            Statement::Query(query) => match *query.body {
                SetExpr::Select(select) => *select,
                other => panic!("{other}"),
            },
            other => panic!("{other}"),
        }
    }

    #[test]
    fn columns_are_called_as_postgresql_calls_them() {
        for (expr, name) in [
            ("count(*)", "count"),
            ("pg_catalog.version()", "version"),
            ("1 + 1", "?column?"),
            ("NULL", "?column?"),
            ("a.b", "b"),
            ("A", "a"),
            ("\"A\"::text", "A"),
            ("'x'::text", "text"),
            ("1::bigint", "int8"),
            ("CAST('1' AS pg_catalog.regclass)", "regclass"),
            ("CASE WHEN a THEN b ELSE c END", "c"),
            ("CASE WHEN a THEN 1 END", "case"),
            ("(SELECT max(x) FROM t)", "max"),
            ("EXISTS (SELECT 1)", "exists"),
            ("extract(hour FROM a)", "extract"),
            ("a AT TIME ZONE 'UTC'", "timezone"),
            ("DATE '2026-01-01'", "date"),
            ("a IS NULL", "?column?"),
            ("(a).b", "b"),
            ("ARRAY[1]", "array"),
        ] {
            let select = select(&format!("SELECT {expr} FROM t"));
            assert_eq!(of_item(&select.projection[0]), name, "{expr}");
        }
    }

    #[test]
    fn names_that_are_there_already_are_told_apart_and_shown_alike() {
        let mut select = select("SELECT a, b.a, 1, 2, count(*) AS n, max(x), max(y), c AS n FROM t");
        name_columns(&mut select);
        let names: Vec<String> = select.projection.iter().map(of_item).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len(), "{names:?}");
        let seen: Vec<&str> = names.iter().map(|name| shown(name)).collect();
        assert_eq!(seen, ["a", "a", "?column?", "?column?", "n", "max", "max", "n"]);
    }

    #[test]
    fn a_column_beside_all_columns_is_told_apart() {
        let mut select = select("SELECT *, id, id + 1 AS x FROM t");
        name_columns(&mut select);
        let written: Vec<String> = select.projection.iter().map(of_item).collect();
        assert_eq!(written, ["*".to_owned(), format!("id{MARK}1"), "x".to_owned()]);
    }
}
