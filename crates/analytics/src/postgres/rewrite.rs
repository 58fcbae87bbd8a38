//! PostgreSQL's own words in a query, in words that the engine knows: `pg_catalog.` before functions and types, `OPERATOR(…)`, `COLLATE`,
//! casts to `regclass` and its like.
//!
//! Many tables of its catalogs never have rows here ([`tables::is_always_empty`]). A subquery over one of them is NULL, and a whole query
//! has no rows, so that nothing else of it need be understood: clients ask for constraints, triggers or policies with all that
//! PostgreSQL's SQL has.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, GroupByExpr, Ident, JoinOperator, ObjectName, ObjectNamePart, Query, Select,
    SelectItem, SetExpr, Statement, TableFactor, TableWithJoins, Value, VisitMut as _, VisitorMut,
};

use super::functions::TYPE_NAME;
use super::tables;

const CATALOG: &str = "pg_catalog";

/// Changes a query in place.
pub fn rewrite(statement: &mut Statement) {
    if let Statement::Query(query) = statement
        && is_empty(query)
    {
        **query = without_rows(query);
        return;
    }
    let _ = statement.visit(&mut Words);
}

struct Words;

impl VisitorMut for Words {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let null = || Expr::Value(Value::Null.into());
        match expr {
            Expr::Subquery(query) if is_empty(query) => *expr = null(),
            Expr::Exists { subquery, negated } if is_empty(subquery) => {
                *expr = Expr::Value(Value::Boolean(*negated).into());
            }
            Expr::Collate { expr: inner, .. } => *expr = (**inner).clone(),
            Expr::BinaryOp { op, .. } => {
                if let BinaryOperator::PGCustomBinaryOperator(name) = op
                    && let Some(known) = name.last().and_then(|name| operator(name))
                {
                    *op = known;
                }
            }
            // ARRAY(SELECT …)
            Expr::Function(Function { args: FunctionArguments::Subquery(query), .. }) if is_empty(query) => {
                *expr = null();
            }
            Expr::Function(function) => strip_catalog(&mut function.name),
            Expr::Cast { expr: inner, data_type, kind, .. } => {
                if let Some(cast) = cast(inner, data_type, kind) {
                    *expr = cast;
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    /// A column of NULL gets a name of its own: the engine wants each name once.
    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for (at, item) in select.projection.iter_mut().enumerate() {
            if let SelectItem::UnnamedExpr(Expr::Subquery(query)) = item
                && is_empty(query)
            {
                let (expr, alias) =
                    (Expr::Value(Value::Null.into()), Ident::with_quote('"', format!("?column{at}?")));
                *item = SelectItem::ExprWithAlias { expr, alias };
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        // A function as a table.
        if let TableFactor::Table { name, args: Some(_), .. } = factor {
            strip_catalog(name);
        }
        ControlFlow::Continue(())
    }
}

fn operator(name: &str) -> Option<BinaryOperator> {
    Some(match name {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "=" => BinaryOperator::Eq,
        "<>" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

/// `pg_catalog.name` is `name`.
fn strip_catalog(name: &mut ObjectName) {
    let [ObjectNamePart::Identifier(schema), last] = &name.0[..] else { return };
    if schema.value.eq_ignore_ascii_case(CATALOG) {
        name.0 = vec![last.clone()];
    }
}

/// A cast to a type that the engine does not have.
fn cast(inner: &Expr, data_type: &mut DataType, kind: &CastKind) -> Option<Expr> {
    let DataType::Custom(name, modifiers) = data_type else {
        return None;
    };
    strip_catalog(name);
    let [ObjectNamePart::Identifier(only)] = &name.0[..] else { return None };
    let to = |data_type: DataType| {
        Some(Expr::Cast {
            kind: kind.clone(),
            expr: Box::new(inner.clone()),
            data_type,
            array: false,
            format: None,
        })
    };
    match only.value.to_ascii_lowercase().as_str() {
        "regtype" => match inner {
            // A name stays a name.
            Expr::Value(_) => to(DataType::Text),
            _ => Some(call(TYPE_NAME, inner.clone())),
        },
        // Of a name: the table's oid.
        "regclass" | "regproc" | "regprocedure" | "regnamespace" | "regrole" => match inner {
            Expr::Value(value) => match value.value.clone().into_string() {
                Some(name) => Some(tables::oid_query(&name)),
                None => to(DataType::Text),
            },
            _ => to(DataType::Text),
        },
        "name" | "text" | "cstring" | "unknown" | "json" | "jsonb" | "\"char\"" | "char" => {
            to(DataType::Text)
        }
        "oid" | "xid" | "int8" => to(DataType::BigInt(None)),
        "int4" => to(DataType::Int(None)),
        "int2" => to(DataType::SmallInt(None)),
        "bool" => to(DataType::Boolean),
        "varchar" if modifiers.is_empty() => to(DataType::Text),
        "float8" => to(DataType::DoublePrecision),
        "timestamptz" => Some(Expr::Cast {
            kind: kind.clone(),
            expr: Box::new(inner.clone()),
            data_type: DataType::Timestamp(None, datafusion::sql::sqlparser::ast::TimezoneInfo::WithTimeZone),
            array: false,
            format: None,
        }),
        _ => None,
    }
}

fn call(name: &str, argument: Expr) -> Expr {
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))],
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Whether a query cannot have rows, since it is about a table that has none.
fn is_empty(query: &Query) -> bool {
    query.with.is_none() && set_is_empty(&query.body)
}

fn set_is_empty(set: &SetExpr) -> bool {
    match set {
        SetExpr::Select(select) => select_is_empty(select),
        SetExpr::Query(query) => is_empty(query),
        SetExpr::SetOperation { left, right, .. } => set_is_empty(left) && set_is_empty(right),
        _ => false,
    }
}

fn select_is_empty(select: &Select) -> bool {
    // An aggregate has a row also of nothing, unless it is one for each group.
    let has_groups = !matches!(&select.group_by, GroupByExpr::Expressions(groups, _) if groups.is_empty());
    (has_groups || !has_aggregate(select)) && select.from.iter().any(from_is_empty)
}

fn has_aggregate(select: &Select) -> bool {
    let text: String = select.projection.iter().map(|item| format!("{item} ").to_lowercase()).collect();
    ["count(", "sum(", "min(", "max(", "avg(", "array_agg(", "string_agg(", "bool_or(", "bool_and("]
        .iter()
        .any(|aggregate| text.contains(aggregate))
}

fn from_is_empty(from: &TableWithJoins) -> bool {
    factor_is_empty(&from.relation)
        || from.joins.iter().any(|join| {
            let inner = matches!(
                join.join_operator,
                JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_)
            );
            inner && factor_is_empty(&join.relation)
        })
}

fn factor_is_empty(factor: &TableFactor) -> bool {
    match factor {
        TableFactor::Table { name, args: None, .. } => {
            let parts: Vec<String> =
                name.0.iter().filter_map(|part| part.as_ident()).map(|i| i.value.to_lowercase()).collect();
            match parts.as_slice() {
                [table] => tables::is_always_empty(table),
                [schema, table] if schema == CATALOG => tables::is_always_empty(table),
                _ => false,
            }
        }
        TableFactor::Derived { subquery, .. } => is_empty(subquery),
        TableFactor::NestedJoin { table_with_joins, .. } => from_is_empty(table_with_joins),
        _ => false,
    }
}

/// A query with the same columns, all of text, and no rows.
fn without_rows(query: &Query) -> Query {
    let mut columns: Vec<String> = Vec::new();
    for name in names(&query.body) {
        let mut column = format!("CAST(NULL AS text) AS \"{}\"", name.replace('"', "\"\""));
        // The engine wants each name once.
        while columns.contains(&column) {
            column.insert(column.len() - 1, '_');
        }
        columns.push(column);
    }
    let sql = format!("SELECT {} WHERE false", columns.join(", "));
    let dialect = datafusion::sql::sqlparser::dialect::PostgreSqlDialect {};
    let parsed = datafusion::sql::sqlparser::parser::Parser::parse_sql(&dialect, &sql);
    match parsed.ok().and_then(|mut statements| statements.pop()) {
        Some(Statement::Query(empty)) => *empty,
        _ => query.clone(),
    }
}

fn names(set: &SetExpr) -> Vec<String> {
    match set {
        SetExpr::Select(select) => select.projection.iter().map(name_of).collect(),
        SetExpr::Query(query) => names(&query.body),
        SetExpr::SetOperation { left, .. } => names(left),
        _ => Vec::new(),
    }
}

fn name_of(item: &SelectItem) -> String {
    let of = |expr: &Expr| match expr {
        Expr::Identifier(name) => name.value.clone(),
        Expr::CompoundIdentifier(parts) => parts.last().map(|name| name.value.clone()).unwrap_or_default(),
        Expr::Function(function) => {
            let last = function.name.0.last().and_then(|part| part.as_ident());
            last.map(|name| name.value.clone()).unwrap_or_default()
        }
        Expr::Cast { expr, .. } => match &**expr {
            Expr::Identifier(name) => name.value.clone(),
            Expr::CompoundIdentifier(parts) => {
                parts.last().map(|name| name.value.clone()).unwrap_or_default()
            }
            _ => "?column?".to_owned(),
        },
        _ => "?column?".to_owned(),
    };
    match item {
        SelectItem::UnnamedExpr(expr) => of(expr),
        SelectItem::ExprWithAlias { alias, .. } => alias.value.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn rewritten(sql: &str) -> String {
        let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
        rewrite(&mut statement);
        statement.to_string()
    }

    #[test]
    fn words_of_postgresql_are_replaced() {
        for (sql, expected) in [
            (
                "SELECT pg_catalog.version() WHERE a OPERATOR(pg_catalog.~) '^x$' COLLATE pg_catalog.default",
                "SELECT version() WHERE a ~ '^x$'",
            ),
            ("SELECT c.oid::pg_catalog.regclass FROM t c", "SELECT c.oid::TEXT FROM t c"),
            ("SELECT x::pg_catalog.text FROM t", "SELECT x::TEXT FROM t"),
            (
                "SELECT (SELECT adbin FROM pg_catalog.pg_attrdef d WHERE d.adnum = a.attnum) FROM pg_attribute a",
                "SELECT NULL AS \"?column0?\" FROM pg_attribute a",
            ),
            ("SELECT a FROM t WHERE NOT EXISTS (SELECT 1 FROM pg_depend)", "SELECT a FROM t WHERE NOT false"),
        ] {
            assert_eq!(rewritten(sql), expected, "{sql}");
        }
    }

    #[test]
    fn queries_about_what_is_never_there_have_no_rows() {
        for (sql, empty) in [
            ("SELECT oid, 'd' = any(stxkind) AS d FROM pg_catalog.pg_statistic_ext", true),
            ("SELECT 1 FROM pg_class c JOIN pg_inherits i ON c.oid = i.inhrelid", true),
            ("SELECT 1 FROM (SELECT conname FROM pg_constraint) x, pg_class", true),
            ("SELECT 1 FROM pg_policy UNION ALL SELECT 1 FROM pg_trigger", true),
            ("SELECT count(*) FROM pg_policy", false),
            ("SELECT polrelid, count(*) FROM pg_policy GROUP BY polrelid", true),
            ("SELECT 1 FROM pg_class c LEFT JOIN pg_description d ON true", false),
            ("SELECT 1 FROM pg_policy UNION ALL SELECT 1 FROM pg_class", false),
        ] {
            assert_eq!(rewritten(sql).ends_with("WHERE false"), empty, "{sql}: {}", rewritten(sql));
        }
        let named = rewritten("SELECT p.polname, pg_get_expr(a, b), 1 AS \"One\" FROM pg_policy p");
        for name in ["\"polname\"", "\"pg_get_expr\"", "\"One\""] {
            assert!(named.contains(name), "{named}");
        }
    }
}
