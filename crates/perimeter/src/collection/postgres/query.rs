//! What a scan asks the server: text of SQL with quoted names, and parameters with types. Nothing
//! of a caller is in the text but its comment.
//!
//! A condition is told to the server only where it means the same on both sides. Texts are equal
//! where their bytes are, since the collation says so or is set to `C`; their order is that of
//! bytes only by `COLLATE "C"` in UTF-8. Zeros and numbers that are none are left to the engine,
//! which tells -0 from 0.

use std::fmt::Write as _;

use arrow::datatypes::{Decimal128Type, DecimalType as _};
use bytes::BytesMut;
use chrono::{DateTime, Days, NaiveDate};
use datafusion::common::ScalarValue;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use super::catalog::{Column, Relation};
use super::types::{DAYS, Kind, MICROS};
use crate::collection::predicate::{Comparison, Predicate, Pushed, Test, text};
use crate::collection::remote::Request;

/// A parameter, sent as text of the type that stands beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    pub text: String,
    pub data_type: Type,
}

#[derive(Debug, Default, PartialEq)]
pub struct Query {
    pub text: String,
    pub parameters: Vec<Parameter>,
}

impl ToSql for Parameter {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    tokio_postgres::types::to_sql_checked!();
}

/// A name as SQL writes it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub fn select(relation: &Relation, request: &Request) -> Query {
    let mut query = Query::default();
    let column = |at: &usize| match &relation.columns[*at] {
        Column { name, kind: Kind::AsText } => format!("{}::text", quoted(name)),
        Column { name, .. } => quoted(name),
    };
    let columns: Vec<String> = request.projection.iter().map(column).collect();
    query.text = format!(
        "SELECT {} FROM {}.{}",
        columns.join(", "),
        quoted(&relation.schema),
        quoted(&relation.table)
    );
    for (at, predicate) in request.predicates.iter().enumerate() {
        query.text.push_str(if at == 0 { " WHERE " } else { " AND " });
        query.condition(relation, predicate);
    }
    if let Some(limit) = request.limit {
        write!(query.text, " LIMIT {limit}").expect("a String takes all");
    }
    query
}

impl Query {
    fn condition(&mut self, relation: &Relation, predicate: &Predicate) {
        match predicate {
            Predicate::Leaf(leaf) => self.leaf(&relation.columns[leaf.column], &leaf.test),
            Predicate::All(parts) => self.joined(relation, parts, " AND "),
            Predicate::Any(parts) => self.joined(relation, parts, " OR "),
        }
    }

    fn joined(&mut self, relation: &Relation, parts: &[Predicate], by: &str) {
        for (at, part) in parts.iter().enumerate() {
            self.text.push_str(if at == 0 { "(" } else { by });
            self.condition(relation, part);
        }
        self.text.push(')');
    }

    fn leaf(&mut self, column: &Column, test: &Test) {
        let Column { name, kind } = column;
        let plain = quoted(name);
        let compared = match kind {
            Kind::AsText => format!("{plain}::text COLLATE \"C\""),
            _ => plain.clone(),
        };
        match test {
            Test::Compare(op, value) => {
                let by_bytes = *kind == Kind::Text && !op.is_equality();
                let collation = if by_bytes { " COLLATE \"C\"" } else { "" };
                write!(self.text, "{compared}{collation} {} ", op.sql()).expect("a String takes all");
                self.value(kind, value);
                if matches!(op, Comparison::Gt | Comparison::GtEq | Comparison::NotEq) {
                    self.but_not_numbers_that_are_none(&plain, kind);
                }
            }
            Test::In { values, negated } => {
                self.text.push_str(&compared);
                self.text.push_str(if *negated { " NOT IN (" } else { " IN (" });
                for (at, value) in values.iter().enumerate() {
                    self.text.push_str(if at == 0 { "" } else { ", " });
                    self.value(kind, value);
                }
                self.text.push(')');
                if *negated {
                    self.but_not_numbers_that_are_none(&plain, kind);
                }
            }
            Test::Null { negated } => self.text.push_str(&null_test(&plain, kind, *negated)),
            Test::Like { pattern, negated } => {
                let like = if *negated { "NOT LIKE" } else { "LIKE" };
                write!(self.text, "{compared} {like} ").expect("a String takes all");
                self.parameter(pattern.clone(), Type::TEXT);
            }
        }
    }

    /// They are above all others on the server, and NULL here.
    fn but_not_numbers_that_are_none(&mut self, plain: &str, kind: &Kind) {
        if matches!(kind, Kind::Numeric { .. }) {
            // AND binds before OR, and there is no NOT around it.
            write!(self.text, " AND {plain} <> 'NaN'").expect("a String takes all");
        }
    }

    fn value(&mut self, kind: &Kind, value: &ScalarValue) {
        let (text, data_type) = parameter(kind, value).expect("only what has a parameter is pushed");
        self.parameter(text, data_type);
    }

    fn parameter(&mut self, text: String, data_type: Type) {
        self.parameters.push(Parameter { text, data_type });
        write!(self.text, "${}", self.parameters.len()).expect("a String takes all");
    }
}

/// What the engine has no value for is NULL here, and not on the server.
fn null_test(plain: &str, kind: &Kind, negated: bool) -> String {
    match (kind, negated) {
        (Kind::Numeric { .. }, false) => format!("({plain} IS NULL OR {plain} = 'NaN')"),
        (Kind::Numeric { .. }, true) => format!("({plain} IS NOT NULL AND {plain} <> 'NaN')"),
        (Kind::List(_), false) => format!("({plain} IS NULL OR array_ndims({plain}) > 1)"),
        (Kind::List(_), true) => format!("({plain} IS NOT NULL AND coalesce(array_ndims({plain}), 1) = 1)"),
        (_, false) => format!("{plain} IS NULL"),
        (_, true) => format!("{plain} IS NOT NULL"),
    }
}

/// `utf8` says that the database keeps texts in UTF-8.
pub fn pushed(column: &Column, test: &Test, utf8: bool) -> Pushed {
    let kind = &column.kind;
    let has_values = |values: &[ScalarValue]| values.iter().all(|value| parameter(kind, value).is_some());
    let same = match test {
        Test::Null { .. } => true,
        Test::Compare(op, value) => {
            (op.is_equality() || has_order(kind, utf8)) && has_values(std::slice::from_ref(value))
        }
        Test::In { values, .. } => has_values(values),
        Test::Like { pattern, .. } => {
            utf8 && matches!(kind, Kind::Text | Kind::AsText) && !pattern.contains(['\\', '\0'])
        }
    };
    if same { Pushed::Wholly } else { Pushed::No }
}

fn has_order(kind: &Kind, utf8: bool) -> bool {
    match kind {
        Kind::Text | Kind::AsText => utf8,
        Kind::Bool | Kind::Uuid | Kind::Bytea | Kind::Json | Kind::Jsonb | Kind::Time | Kind::List(_) => {
            false
        }
        Kind::Int2
        | Kind::Int4
        | Kind::Int8
        | Kind::Oid
        | Kind::Float4
        | Kind::Float8
        | Kind::Numeric { .. }
        | Kind::Date
        | Kind::Timestamp
        | Kind::Timestamptz => true,
    }
}

/// A value for a column of this kind, as text. None: it cannot be told, or would not mean the same.
fn parameter(kind: &Kind, value: &ScalarValue) -> Option<(String, Type)> {
    let data_type = kind.parameter()?;
    let text = match (kind, value) {
        (Kind::Text | Kind::AsText, value) => {
            text(value).filter(|text| !text.contains('\0')).map(str::to_owned)
        }
        (Kind::Uuid, value) => {
            let text = text(value)?;
            let canonical = uuid::Uuid::try_parse(text).is_ok_and(|uuid| uuid.to_string() == text);
            canonical.then(|| text.to_owned())
        }
        (Kind::Oid, ScalarValue::Int64(Some(value))) => u32::try_from(*value).ok().map(|v| v.to_string()),
        (_, ScalarValue::Boolean(Some(value))) => Some(value.to_string()),
        (_, ScalarValue::Int16(Some(value))) => Some(value.to_string()),
        (_, ScalarValue::Int32(Some(value))) => Some(value.to_string()),
        (_, ScalarValue::Int64(Some(value))) => Some(value.to_string()),
        (_, ScalarValue::Float32(Some(value))) => {
            (value.is_finite() && *value != 0.0).then(|| value.to_string())
        }
        (_, ScalarValue::Float64(Some(value))) => {
            (value.is_finite() && *value != 0.0).then(|| value.to_string())
        }
        (_, ScalarValue::Decimal128(Some(value), precision, scale)) => {
            Some(Decimal128Type::format_decimal(*value, *precision, *scale))
        }
        (_, ScalarValue::Date32(Some(days))) => date_text(*days),
        (_, ScalarValue::TimestampMicrosecond(Some(micros), zone)) => timestamp_text(*micros, zone.is_some()),
        _ => None,
    };
    Some((text?, data_type))
}

/// Not at the ends, where everything beyond is kept.
fn date_text(days: i32) -> Option<String> {
    let within = days > *DAYS.start() && days < *DAYS.end();
    let since = within.then(|| u64::try_from(i64::from(days) - i64::from(*DAYS.start())).ok()).flatten()?;
    let date = NaiveDate::from_ymd_opt(1, 1, 1)?.checked_add_days(Days::new(since))?;
    Some(date.format("%Y-%m-%d").to_string())
}

fn timestamp_text(micros: i64, with_zone: bool) -> Option<String> {
    let within = micros > *MICROS.start() && micros < *MICROS.end();
    let at = within.then(|| DateTime::from_timestamp_micros(micros)).flatten()?;
    let zone = if with_zone { "+00" } else { "" };
    Some(format!("{}{zone}", at.format("%Y-%m-%d %H:%M:%S%.6f")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::logical_expr::{Expr, col, lit};

    use super::*;

    fn relation() -> Relation {
        let column = |name: &str, kind| Column { name: name.to_owned(), kind };
        Relation {
            schema: "public".to_owned(),
            table: "pa\"tients".to_owned(),
            columns: vec![
                column("id", Kind::Int8),
                column("name", Kind::Text),
                column("ward", Kind::AsText),
                column("born", Kind::Date),
                column("seen", Kind::Timestamptz),
                column("fee", Kind::Numeric { precision: 10, scale: 2 }),
                column("ratio", Kind::Float8),
                column("key", Kind::Uuid),
                column("notes", Kind::Jsonb),
            ],
        }
    }

    fn asked(filters: &[Expr], utf8: bool) -> Query {
        let relation = relation();
        let schema = relation.arrow_schema();
        let predicate = |filter: &Expr| {
            let predicate = Predicate::of(filter, &schema)?;
            let pushed = predicate.pushed(&|leaf| pushed(&relation.columns[leaf.column], &leaf.test, utf8));
            (pushed == Pushed::Wholly).then_some(predicate)
        };
        let request = Request {
            projection: vec![0, 2],
            schema: Arc::new(schema.project(&[0, 2]).expect("they exist")),
            predicates: filters.iter().filter_map(predicate).collect(),
            limit: Some(7),
            batch_rows: 10,
        };
        select(&relation, &request)
    }

    fn told(filter: Expr) -> (String, Vec<String>) {
        let query = asked(&[filter], true);
        let (_, condition) = query.text.split_once(" WHERE ").unwrap_or_default();
        let condition = condition.strip_suffix(" LIMIT 7").unwrap_or_default().to_owned();
        (condition, query.parameters.into_iter().map(|p| format!("{}:{}", p.text, p.data_type)).collect())
    }

    #[test]
    fn names_are_quoted_and_values_are_parameters() {
        let evil = "x'; DROP TABLE t; --";
        let query = asked(&[col("name").eq(lit(evil)), col("id").gt(lit(5_i64))], true);
        let expected = "SELECT \"id\", \"ward\"::text FROM \"public\".\"pa\"\"tients\" \
            WHERE \"name\" = $1 AND \"id\" > $2 LIMIT 7";
        assert_eq!(query.text, expected);
        assert_eq!(query.parameters[0], Parameter { text: evil.to_owned(), data_type: Type::TEXT });
    }

    #[test]
    fn conditions_mean_the_same_on_both_sides() {
        let date = |days| lit(ScalarValue::Date32(Some(days)));
        let seen = lit(ScalarValue::TimestampMicrosecond(Some(1_700_000_000_000_001), Some("UTC".into())));
        let fee = lit(ScalarValue::Decimal128(Some(-1_250), 10, 2));
        let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for (filter, condition, parameters) in [
            (col("name").gt(lit("m")), "\"name\" COLLATE \"C\" > $1", vec!["m:text"]),
            (col("ward").eq(lit("icu")), "\"ward\"::text COLLATE \"C\" = $1", vec!["icu:text"]),
            (col("born").lt(date(0)), "\"born\" < $1", vec!["1970-01-01:date"]),
            (col("seen").gt_eq(seen), "\"seen\" >= $1", vec!["2023-11-14 22:13:20.000001+00:timestamptz"]),
            (col("fee").eq(fee), "\"fee\" = $1", vec!["-12.50:numeric"]),
            (col("key").eq(lit(uuid)), "\"key\" = $1", vec!["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11:uuid"]),
            (col("name").like(lit("Mü_l%")), "\"name\" LIKE $1", vec!["Mü_l%:text"]),
            (col("notes").is_null(), "\"notes\" IS NULL", vec![]),
            (col("fee").is_null(), "(\"fee\" IS NULL OR \"fee\" = 'NaN')", vec![]),
            (
                col("id").in_list(vec![lit(1_i64), lit(2_i64)], true).or(col("name").is_not_null()),
                "(\"id\" NOT IN ($1, $2) OR \"name\" IS NOT NULL)",
                vec!["1:int8", "2:int8"],
            ),
        ] {
            let (text, values) = told(filter);
            assert_eq!(
                (text.as_str(), values),
                (condition, parameters.into_iter().map(str::to_owned).collect())
            );
        }
    }

    #[test]
    fn what_could_differ_is_not_told() {
        let date = |days| lit(ScalarValue::Date32(Some(days)));
        for filter in [
            col("ratio").eq(lit(0.0)),
            col("ratio").lt(lit(f64::NAN)),
            col("born").eq(date(*DAYS.end())),
            col("key").eq(lit("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11")),
            col("key").gt(lit("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
            col("notes").eq(lit("{}")),
            col("name").eq(lit("a\0b")),
            col("name").like(lit("50\\%%")),
        ] {
            assert_eq!(told(filter.clone()).0, "", "{filter}");
        }
        assert!(asked(&[col("name").gt(lit("m")), col("name").like(lit("a%"))], false).parameters.is_empty());
        assert_eq!(asked(&[col("name").eq(lit("m"))], false).parameters.len(), 1);
    }

    #[test]
    fn rows_alone_can_be_asked_for() {
        let request = Request {
            projection: vec![],
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            predicates: vec![],
            limit: None,
            batch_rows: 10,
        };
        assert_eq!(select(&relation(), &request).text, "SELECT  FROM \"public\".\"pa\"\"tients\"");
    }
}
