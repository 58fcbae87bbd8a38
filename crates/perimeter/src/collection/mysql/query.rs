//! What a scan asks the server: text of SQL with quoted names, and parameters. Nothing of a caller
//! is in the text but its comment.
//!
//! Texts are compared by their bytes in UTF-8, whatever the collation of a column says of case,
//! accents and blanks; beside that stands the comparison by the collation, which leaves out no
//! equal text and can use an index. Dates are left to the engine to decide once more, since the
//! server counts dates that no calendar has.

use std::fmt::Write as _;

use arrow::datatypes::{Decimal128Type, DecimalType as _};
use chrono::{DateTime, Days, NaiveDate};
use datafusion::common::ScalarValue;
use mysql_async::Value;

use super::catalog::{Column, Relation};
use super::types::Kind;
use crate::collection::predicate::{Comparison, Predicate, Pushed, Test, text};
use crate::collection::remote::Request;

#[derive(Debug, Default, PartialEq)]
pub struct Query {
    pub text: String,
    pub parameters: Vec<Value>,
}

/// A name as SQL writes it.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

pub fn select(database: &str, relation: &Relation, request: &Request) -> Query {
    let column = |at: &usize| match &relation.columns[*at] {
        Column { name, kind: Kind::AsText, .. } => format!("CAST({} AS CHAR)", quoted(name)),
        Column { name, .. } => quoted(name),
    };
    let columns: Vec<String> = request.projection.iter().map(column).collect();
    let columns = if columns.is_empty() { "1".to_owned() } else { columns.join(", ") };
    let text = format!("SELECT {columns} FROM {}.{}", quoted(database), quoted(&relation.table));
    let mut query = Query { text, parameters: Vec::new() };
    for (at, predicate) in request.predicates.iter().enumerate() {
        query.text.push_str(if at == 0 { " WHERE " } else { " AND " });
        query.condition(relation, predicate);
    }
    if let Some(limit) = request.limit {
        query.push(&format!(" LIMIT {limit}"));
    }
    query
}

impl Query {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn condition(&mut self, relation: &Relation, predicate: &Predicate) {
        match predicate {
            Predicate::Leaf(leaf) => self.leaf(&relation.columns[leaf.column], &leaf.test),
            Predicate::All(parts) => self.joined(relation, parts, " AND "),
            Predicate::Any(parts) => self.joined(relation, parts, " OR "),
        }
    }

    fn joined(&mut self, relation: &Relation, parts: &[Predicate], by: &str) {
        for (at, part) in parts.iter().enumerate() {
            self.push(if at == 0 { "(" } else { by });
            self.condition(relation, part);
        }
        self.push(")");
    }

    fn leaf(&mut self, column: &Column, test: &Test) {
        let (plain, kind) = (quoted(&column.name), column.kind);
        match test {
            Test::Compare(op, value) => {
                let by_index = *op == Comparison::Eq && is_indexed(kind, std::slice::from_ref(value));
                if by_index {
                    self.push(&format!("({plain} = "));
                    self.value(kind, value);
                    self.push(" AND ");
                }
                self.push(&format!("{} {} ", compared(&plain, kind), op.sql()));
                self.value(kind, value);
                self.push(if by_index { ")" } else { "" });
            }
            Test::In { values, negated } => {
                let by_index = !*negated && is_indexed(kind, values);
                if by_index {
                    self.list(&format!("({plain} IN "), kind, values);
                    self.push(" AND ");
                }
                let is_in = if *negated { "NOT IN" } else { "IN" };
                self.list(&format!("{} {is_in} ", compared(&plain, kind)), kind, values);
                self.push(if by_index { ")" } else { "" });
            }
            Test::Null { negated } => {
                self.push(&format!("{plain} IS {}NULL", if *negated { "NOT " } else { "" }));
            }
            Test::Like { pattern, negated } => {
                let like = if *negated { "NOT LIKE" } else { "LIKE" };
                self.push(&format!("{} COLLATE utf8mb4_bin {like} ?", unicode(&plain, kind)));
                self.parameters.push(Value::from(pattern));
            }
        }
    }

    fn list(&mut self, before: &str, kind: Kind, values: &[ScalarValue]) {
        self.push(before);
        for (at, value) in values.iter().enumerate() {
            self.push(if at == 0 { "(" } else { ", " });
            self.value(kind, value);
        }
        self.push(")");
    }

    fn value(&mut self, kind: Kind, value: &ScalarValue) {
        self.parameters.push(parameter(kind, value).expect("only what has a parameter is pushed"));
        let form = match kind {
            // As text they would be compared as floating point.
            Kind::Decimal { precision, scale } => format!("CAST(? AS DECIMAL({precision}, {scale}))"),
            Kind::Date => "CAST(? AS DATE)".to_owned(),
            Kind::DateTime | Kind::Timestamp => "CAST(? AS DATETIME(6))".to_owned(),
            _ => "?".to_owned(),
        };
        write!(self.text, "{form}").expect("a String takes all");
    }
}

fn unicode(plain: &str, kind: Kind) -> String {
    match kind {
        Kind::AsText => format!("CONVERT(CAST({plain} AS CHAR) USING utf8mb4)"),
        _ => format!("CONVERT({plain} USING utf8mb4)"),
    }
}

fn compared(plain: &str, kind: Kind) -> String {
    match kind {
        Kind::Text { .. } | Kind::AsText => format!("CAST({} AS BINARY)", unicode(plain, kind)),
        _ => plain.to_owned(),
    }
}

/// Whether equality by the collation finds all texts that are equal byte by byte, without an error
/// of another character set.
fn is_indexed(kind: Kind, values: &[ScalarValue]) -> bool {
    let is_ascii = |value: &ScalarValue| text(value).is_some_and(str::is_ascii);
    match kind {
        Kind::Text { unicode } => unicode || values.iter().all(is_ascii),
        _ => false,
    }
}

pub fn pushed(column: &Column, test: &Test) -> Pushed {
    let kind = column.kind;
    let has_values = |values: &[ScalarValue]| values.iter().all(|value| parameter(kind, value).is_some());
    let is_date = matches!(kind, Kind::Date | Kind::DateTime | Kind::Timestamp);
    match test {
        // A date that no calendar has is NULL here, and is none on the server, or both.
        Test::Null { negated } => match (is_date, negated) {
            (false, _) => Pushed::Wholly,
            (true, true) => Pushed::Partly,
            (true, false) => Pushed::No,
        },
        Test::Compare(_, value) if !has_values(std::slice::from_ref(value)) => Pushed::No,
        Test::In { values, .. } if !has_values(values) => Pushed::No,
        Test::Compare(..) | Test::In { .. } => {
            if is_date {
                Pushed::Partly
            } else {
                Pushed::Wholly
            }
        }
        Test::Like { pattern, .. } => {
            let is_text = matches!(kind, Kind::Text { .. } | Kind::AsText);
            if is_text && !pattern.contains('\\') { Pushed::Wholly } else { Pushed::No }
        }
    }
}

/// None: the value cannot be told, or would not mean the same.
fn parameter(kind: Kind, value: &ScalarValue) -> Option<Value> {
    match (kind, value) {
        (Kind::Text { .. } | Kind::AsText, value) => text(value).map(Value::from),
        (Kind::Int, ScalarValue::Int32(Some(value))) => Some(Value::Int(i64::from(*value))),
        (Kind::Int, ScalarValue::Int64(Some(value))) => Some(Value::Int(*value)),
        (Kind::Unsigned, ScalarValue::Decimal128(Some(value), ..)) => {
            u64::try_from(*value).ok().map(Value::UInt)
        }
        (Kind::Double, ScalarValue::Float64(Some(value))) => {
            (value.is_finite() && *value != 0.0).then_some(Value::Double(*value))
        }
        (Kind::Decimal { .. }, ScalarValue::Decimal128(Some(value), precision, scale)) => {
            Some(Value::from(Decimal128Type::format_decimal(*value, *precision, *scale)))
        }
        (Kind::Date, ScalarValue::Date32(Some(days))) => date(*days),
        (Kind::DateTime | Kind::Timestamp, ScalarValue::TimestampMicrosecond(Some(micros), _)) => {
            let at =
                DateTime::from_timestamp_micros(*micros).filter(|at| has_four_digits(at.date_naive()))?;
            Some(Value::from(at.format("%Y-%m-%d %H:%M:%S%.6f").to_string()))
        }
        _ => None,
    }
}

fn date(days: i32) -> Option<Value> {
    let since = Days::new(days.unsigned_abs().into());
    let epoch = NaiveDate::default();
    let date = if days < 0 { epoch.checked_sub_days(since) } else { epoch.checked_add_days(since) }?;
    has_four_digits(date).then(|| Value::from(date.format("%Y-%m-%d").to_string()))
}

/// Whether the server knows the date.
fn has_four_digits(date: NaiveDate) -> bool {
    let (first, last) = (NaiveDate::from_ymd_opt(1000, 1, 1), NaiveDate::from_ymd_opt(9999, 12, 31));
    Some(date) >= first && Some(date) <= last
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::logical_expr::{Expr, col, lit};
    use kafscale_core::sql_schema::SqlType;

    use super::*;

    fn relation() -> Relation {
        let column = |name: &str, kind, sql_type| Column { name: name.to_owned(), kind, sql_type };
        Relation {
            table: "bi`lls".to_owned(),
            columns: vec![
                column("id", Kind::Int, SqlType::Int8),
                column("name", Kind::Text { unicode: true }, SqlType::Text),
                column("old", Kind::Text { unicode: false }, SqlType::Text),
                column("state", Kind::AsText, SqlType::Text),
                column("due", Kind::Date, SqlType::Date),
                column("amount", Kind::Decimal { precision: 10, scale: 2 }, SqlType::Numeric(10, 2)),
                column("big", Kind::Unsigned, SqlType::Numeric(20, 0)),
                column("ratio", Kind::Double, SqlType::Float8),
                column("raw", Kind::Bytes, SqlType::Bytea),
            ],
        }
    }

    fn told(filter: &Expr) -> (Pushed, String, Vec<Value>) {
        let relation = relation();
        let schema = relation.arrow_schema();
        let Some(predicate) = Predicate::of(filter, &schema) else {
            return (Pushed::No, String::new(), vec![]);
        };
        let found = predicate.pushed(&|leaf| pushed(&relation.columns[leaf.column], &leaf.test));
        if found == Pushed::No {
            return (found, String::new(), vec![]);
        }
        let request = Request {
            projection: vec![],
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            predicates: vec![predicate],
            limit: None,
            batch_rows: 10,
        };
        let query = select("d", &relation, &request);
        let condition =
            query.text.strip_prefix("SELECT 1 FROM `d`.`bi``lls` WHERE ").expect("the head").to_owned();
        (found, condition, query.parameters)
    }

    const NAME: &str = "CAST(CONVERT(`name` USING utf8mb4) AS BINARY)";

    #[test]
    fn texts_are_compared_by_their_bytes() {
        let evil = "x' OR 1=1 -- ";
        for (filter, condition) in [
            (col("name").eq(lit(evil)), format!("(`name` = ? AND {NAME} = ?)")),
            (col("name").lt(lit(evil)), format!("{NAME} < ?")),
            (col("name").not_eq(lit(evil)), format!("{NAME} <> ?")),
            (col("old").eq(lit("ä")), "CAST(CONVERT(`old` USING utf8mb4) AS BINARY) = ?".to_owned()),
            (
                col("name").in_list(vec![lit("a"), lit("b")], false),
                format!("(`name` IN (?, ?) AND {NAME} IN (?, ?))"),
            ),
            (col("name").in_list(vec![lit("a")], true), format!("{NAME} NOT IN (?)")),
            (
                col("name").like(lit("a_%")),
                "CONVERT(`name` USING utf8mb4) COLLATE utf8mb4_bin LIKE ?".to_owned(),
            ),
            (
                col("state").eq(lit("paid")),
                "CAST(CONVERT(CAST(`state` AS CHAR) USING utf8mb4) AS BINARY) = ?".to_owned(),
            ),
        ] {
            let (pushed, text, parameters) = told(&filter);
            assert_eq!((pushed, text.as_str()), (Pushed::Wholly, condition.as_str()));
            assert_eq!(parameters.len(), text.matches('?').count());
        }
    }

    #[test]
    fn numbers_are_exact_and_dates_are_looked_at_again() {
        let decimal = |value, precision, scale| lit(ScalarValue::Decimal128(Some(value), precision, scale));
        let due = lit(ScalarValue::Date32(Some(-1)));
        for (filter, expected, condition, parameter) in [
            (
                col("amount").eq(decimal(-1_250, 10, 2)),
                Pushed::Wholly,
                "`amount` = CAST(? AS DECIMAL(10, 2))",
                Value::from("-12.50"),
            ),
            (col("big").gt(decimal(1 << 63, 20, 0)), Pushed::Wholly, "`big` > ?", Value::UInt(1 << 63)),
            (col("due").lt(due), Pushed::Partly, "`due` < CAST(? AS DATE)", Value::from("1969-12-31")),
        ] {
            assert_eq!(told(&filter), (expected, condition.to_owned(), vec![parameter]));
        }
    }

    #[test]
    fn what_could_differ_is_not_told() {
        for filter in [
            col("ratio").eq(lit(0.0)),
            col("due").is_null(),
            col("due").eq(lit(ScalarValue::Date32(Some(-719_162)))),
            col("big").eq(lit(ScalarValue::Decimal128(Some(-1), 20, 0))),
            col("name").like(lit("50\\%%")),
            col("raw").eq(lit(ScalarValue::Binary(Some(vec![1])))),
        ] {
            assert_eq!(told(&filter).0, Pushed::No, "{filter}");
        }
    }
}
