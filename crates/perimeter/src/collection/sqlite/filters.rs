//! Conditions of a query that SQLite looks at: names quoted, values as parameters, never as text.
//!
//! SQLite compares values of different kinds with each other, and text by the column's collation. So a condition says which kind it
//! is about, as values of another kind are NULL in the engine's column, and compares text byte by byte. Where the engine may
//! decide otherwise for some value, the condition only keeps away rows that are not wanted, and the engine looks again.
//!
//! Invariant: conditions are never negated here, since what is NULL to the engine is false to SQLite.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::columns::{Column, Found, Kind, quoted};

/// In one statement. More are left to the engine.
const MAX_PARAMS: usize = 1_000;
const MAX_DEPTH: usize = 20;

#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    Int(i64),
    Real(f64),
    Text(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// With a `?` for each parameter.
    pub sql: String,
    pub params: Vec<Param>,
    /// Just the rows that the engine would keep. Otherwise: these and others.
    pub exact: bool,
}

/// None: SQLite cannot look at it.
pub fn condition(filter: &Expr, table: &Found) -> Option<Condition> {
    within(filter, table, 0).filter(|condition| condition.params.len() <= MAX_PARAMS)
}

fn within(filter: &Expr, table: &Found, depth: usize) -> Option<Condition> {
    if depth > MAX_DEPTH {
        return None;
    }
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let (left, right) = (within(left, table, depth + 1)?, within(right, table, depth + 1)?);
            let word = if *op == Operator::And { "AND" } else { "OR" };
            Some(Condition {
                sql: format!("({} {word} {})", left.sql, right.sql),
                params: left.params.into_iter().chain(right.params).collect(),
                exact: left.exact && right.exact,
            })
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (&**left, &**right) {
            (Expr::Column(column), Expr::Literal(value, _)) => {
                comparison(of(table, &column.name)?, *op, value, table)
            }
            (Expr::Literal(value, _), Expr::Column(column)) => {
                comparison(of(table, &column.name)?, op.swap()?, value, table)
            }
            _ => None,
        },
        Expr::IsNull(inner) => is_null(inner, table),
        Expr::IsNotNull(inner) => is_not_null(inner, table),
        Expr::InList(InList { expr, list, negated: false }) => in_list(expr, list, table),
        _ => None,
    }
}

fn of<'t>(table: &'t Found, name: &str) -> Option<&'t Column> {
    table.columns.iter().find(|column| column.name == name)
}

/// What SQLite calls values of a kind, where the column has no others but what is NULL to the engine.
fn storage(column: &Column) -> Option<&'static str> {
    match column.kind {
        Kind::Int => Some("integer"),
        // In a column without that affinity there may be whole numbers too.
        Kind::Real if column.has_affinity => Some("real"),
        Kind::Text => Some("text"),
        _ => None,
    }
}

fn comparison(column: &Column, op: Operator, value: &ScalarValue, table: &Found) -> Option<Condition> {
    let sign = match op {
        Operator::Eq => "=",
        Operator::NotEq => "<>",
        Operator::Lt => "<",
        Operator::LtEq => "<=",
        Operator::Gt => ">",
        Operator::GtEq => ">=",
        _ => return None,
    };
    let (name, storage, param) = (quoted(&column.name), storage(column)?, param(column, value)?);
    let (name, exact) = match column.kind {
        // What is no UTF-8 is NULL to the engine, and has its place in this order.
        Kind::Text => {
            let is_equality = op == Operator::Eq;
            if !table.is_utf8 && !is_equality {
                return None;
            }
            (format!("{name} COLLATE BINARY"), is_equality)
        }
        _ => (name, true),
    };
    let guard = quoted(&column.name);
    Some(Condition {
        sql: format!("(typeof({guard}) = '{storage}' AND {name} {sign} ?)"),
        params: vec![param],
        exact,
    })
}

fn param(column: &Column, value: &ScalarValue) -> Option<Param> {
    match (column.kind, value) {
        (Kind::Int, ScalarValue::Int64(Some(value))) => Some(Param::Int(*value)),
        // Zero has two signs, which the engine tells from each other. NaN is NULL to SQLite.
        (Kind::Real, ScalarValue::Float64(Some(value))) if *value != 0.0 && !value.is_nan() => {
            Some(Param::Real(*value))
        }
        (
            Kind::Text,
            ScalarValue::Utf8(Some(text))
            | ScalarValue::LargeUtf8(Some(text))
            | ScalarValue::Utf8View(Some(text)),
        ) => Some(Param::Text(text.clone())),
        _ => None,
    }
}

fn in_list(expr: &Expr, list: &[Expr], table: &Found) -> Option<Condition> {
    let Expr::Column(column) = expr else { return None };
    if list.is_empty() || list.len() > MAX_PARAMS {
        return None;
    }
    let column = of(table, &column.name)?;
    let storage = storage(column)?;
    let literal = |item: &Expr| match item {
        Expr::Literal(value, _) => param(column, value),
        _ => None,
    };
    let params: Vec<Param> = list.iter().map(literal).collect::<Option<_>>()?;
    let name = quoted(&column.name);
    let collation = if column.kind == Kind::Text { " COLLATE BINARY" } else { "" };
    let places = vec!["?"; params.len()].join(", ");
    let sql = format!("(typeof({name}) = '{storage}' AND {name}{collation} IN ({places}))");
    Some(Condition { sql, params, exact: true })
}

fn is_null(inner: &Expr, table: &Found) -> Option<Condition> {
    let Expr::Column(column) = inner else { return None };
    let column = of(table, &column.name)?;
    // Of text, what is no UTF-8 is NULL too, and of reals whole numbers are not.
    let exact = column.kind == Kind::Int;
    let sql = format!("typeof({}) <> 'integer'", quoted(&column.name));
    exact.then_some(Condition { sql, params: Vec::new(), exact })
}

fn is_not_null(inner: &Expr, table: &Found) -> Option<Condition> {
    let Expr::Column(column) = inner else { return None };
    let column = of(table, &column.name)?;
    let sql = format!("{} IS NOT NULL", quoted(&column.name));
    Some(Condition { sql, params: Vec::new(), exact: false })
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, ident, lit};

    use super::*;

    fn table() -> Found {
        let column = |name: &str, kind| Column { name: name.to_owned(), kind, has_affinity: true };
        let columns =
            vec![column("id", Kind::Int), column("name\"x", Kind::Text), column("size", Kind::Real)];
        Found { name: "t".to_owned(), columns, is_utf8: true }
    }

    #[test]
    fn values_are_parameters_and_names_are_quoted() {
        let found = condition(&ident("name\"x").eq(lit("'; DROP TABLE t; --")), &table()).unwrap();
        assert_eq!(found.sql, "(typeof(\"name\"\"x\") = 'text' AND \"name\"\"x\" COLLATE BINARY = ?)");
        assert_eq!((found.params, found.exact), (vec![Param::Text("'; DROP TABLE t; --".to_owned())], true));
        let found = condition(&col("id").gt(lit(1_i64)).or(col("size").lt(lit(2.5))), &table()).unwrap();
        assert_eq!(
            found.sql,
            "((typeof(\"id\") = 'integer' AND \"id\" > ?) OR (typeof(\"size\") = 'real' AND \"size\" < ?))"
        );
    }

    #[test]
    fn what_sqlite_may_see_otherwise_is_left_to_the_engine() {
        for filter in [
            col("id").gt(lit(1.5)),
            col("size").eq(lit(0.0)),
            col("size").eq(lit(f64::NAN)),
            ident("name\"x").like(lit("a%")),
            ident("name\"x").is_null(),
            !col("id").eq(lit(1_i64)),
            col("id").eq(lit(ScalarValue::Int64(None))),
            col("id").in_list(vec![lit(1_i64)], true),
            col("other").eq(lit(1_i64)),
            (0..2_000).map(|i| col("id").eq(lit(i64::from(i)))).reduce(Expr::or).unwrap(),
        ] {
            assert_eq!(condition(&filter, &table()), None);
        }
        assert!(!condition(&ident("name\"x").gt(lit("a")), &table()).unwrap().exact);
        let other = Found { is_utf8: false, ..table() };
        assert_eq!(condition(&ident("name\"x").gt(lit("a")), &other), None);
    }
}
