//! One column of typed values while it is built: cells, JSON or CSV text in, an Arrow array out.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::builder::{
    BinaryViewBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int32Builder, Int64Builder, StringViewBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow::array::{
    ArrayRef,
    types::{Date32Type, Time64MicrosecondType},
};
use arrow::compute::kernels::cast_utils::{Parser as _, string_to_datetime};
use arrow::temporal_conversions::date32_to_datetime;
use chrono::{DateTime, Utc};
use kafscale_core::sql_schema::SqlType;

use super::cell::{Cell, unhex};
use super::layout::data_type;

const DAY_US: i64 = 86_400_000_000;

#[derive(Debug)]
pub enum ValueBuilder {
    Boolean(BooleanBuilder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    /// With its digits, and those behind the point.
    Numeric(Decimal128Builder, u8, u8),
    Text(StringViewBuilder),
    Bytea(BinaryViewBuilder),
    Json(StringViewBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    LocalTimestamp(TimestampMicrosecondBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
}

/// Does the same with the builder of every type.
macro_rules! each {
    ($self:expr, $builder:ident => $result:expr) => {
        match $self {
            ValueBuilder::Boolean($builder) => $result,
            ValueBuilder::Int4($builder) => $result,
            ValueBuilder::Int8($builder) => $result,
            ValueBuilder::Float4($builder) => $result,
            ValueBuilder::Float8($builder) => $result,
            ValueBuilder::Numeric($builder, ..) => $result,
            ValueBuilder::Text($builder) | ValueBuilder::Json($builder) => $result,
            ValueBuilder::Bytea($builder) => $result,
            ValueBuilder::Timestamp($builder) | ValueBuilder::LocalTimestamp($builder) => $result,
            ValueBuilder::Date($builder) => $result,
            ValueBuilder::Time($builder) => $result,
        }
    };
}

/// Appends what is there, or NULL.
macro_rules! put {
    ($builder:expr, $parsed:expr) => {{
        let parsed = $parsed;
        let fits = parsed.is_some();
        $builder.append_option(parsed);
        fits
    }};
}

impl ValueBuilder {
    pub fn new(sql_type: SqlType, rows: usize) -> ValueBuilder {
        let moments = || TimestampMicrosecondBuilder::with_capacity(rows);
        match sql_type {
            SqlType::Boolean => ValueBuilder::Boolean(BooleanBuilder::with_capacity(rows)),
            SqlType::Int4 => ValueBuilder::Int4(Int32Builder::with_capacity(rows)),
            SqlType::Int8 => ValueBuilder::Int8(Int64Builder::with_capacity(rows)),
            SqlType::Float4 => ValueBuilder::Float4(Float32Builder::with_capacity(rows)),
            SqlType::Float8 => ValueBuilder::Float8(Float64Builder::with_capacity(rows)),
            SqlType::Numeric(precision, scale) => {
                let builder = Decimal128Builder::with_capacity(rows);
                ValueBuilder::Numeric(builder.with_data_type(data_type(sql_type)), precision, scale)
            }
            SqlType::Text => ValueBuilder::Text(StringViewBuilder::with_capacity(rows)),
            SqlType::Bytea => ValueBuilder::Bytea(BinaryViewBuilder::with_capacity(rows)),
            SqlType::Json => ValueBuilder::Json(StringViewBuilder::with_capacity(rows)),
            SqlType::Timestamp => ValueBuilder::Timestamp(moments().with_timezone("UTC")),
            SqlType::LocalTimestamp => ValueBuilder::LocalTimestamp(moments()),
            SqlType::Date => ValueBuilder::Date(Date32Builder::with_capacity(rows)),
            SqlType::Time => ValueBuilder::Time(Time64MicrosecondBuilder::with_capacity(rows)),
        }
    }

    pub fn append_null(&mut self) {
        each!(self, builder => builder.append_null());
    }

    /// Appends a field. `false`: it does not fit, and is NULL.
    pub fn append(&mut self, cell: &Cell<'_>) -> bool {
        match (&mut *self, cell) {
            (_, Cell::Null) => {
                self.append_null();
                true
            }
            (_, Cell::Misfit) => {
                self.append_null();
                false
            }
            (_, Cell::Json(raw)) => self.append_json(raw),
            (ValueBuilder::Json(builder), other) => {
                let mut json = String::new();
                other.write_json(&mut json);
                put!(builder, Some(json))
            }
            (_, Cell::Text(text)) => self.append_text(text),
            (ValueBuilder::Text(builder), other) => put!(builder, Some(other.text())),
            (ValueBuilder::Boolean(builder), Cell::Boolean(value)) => put!(builder, Some(*value)),
            (ValueBuilder::Int4(builder), Cell::Int(n)) => put!(builder, i32::try_from(*n).ok()),
            (ValueBuilder::Int8(builder), Cell::Int(n)) => put!(builder, Some(*n)),
            (ValueBuilder::Float4(builder), Cell::Int(n)) => put!(builder, Some(*n as f32)),
            (ValueBuilder::Float4(builder), Cell::Float4(value)) => put!(builder, Some(*value)),
            (ValueBuilder::Float8(builder), Cell::Int(n)) => put!(builder, Some(*n as f64)),
            (ValueBuilder::Float8(builder), Cell::Float4(value)) => put!(builder, Some(f64::from(*value))),
            (ValueBuilder::Float8(builder), Cell::Float8(value)) => put!(builder, Some(*value)),
            (ValueBuilder::Numeric(builder, precision, scale), Cell::Int(n)) => {
                put!(builder, rescaled(i128::from(*n), 0, *precision, *scale))
            }
            (ValueBuilder::Numeric(builder, precision, scale), Cell::Numeric(digits, behind)) => {
                put!(builder, rescaled(*digits, i32::from(*behind), *precision, *scale))
            }
            (ValueBuilder::Bytea(builder), Cell::Bytes(bytes)) => put!(builder, Some(bytes)),
            (ValueBuilder::Timestamp(builder), Cell::Timestamp(us)) => put!(builder, moment(*us)),
            (ValueBuilder::LocalTimestamp(builder), Cell::LocalTimestamp(us)) => put!(builder, moment(*us)),
            (ValueBuilder::Date(builder), Cell::Date(days)) => put!(builder, day(*days)),
            (ValueBuilder::Time(builder), Cell::Time(us)) => put!(builder, time_of_day(*us)),
            _ => {
                self.append_null();
                false
            }
        }
    }

    /// Appends a field of a JSON object, which is valid JSON. `false`: it does not fit, and is NULL.
    pub fn append_json(&mut self, raw: &str) -> bool {
        match self {
            // A JSON null is a value of this type, but nobody wants to tell it from one that is not there.
            _ if raw == "null" => {
                self.append_null();
                true
            }
            ValueBuilder::Json(builder) => put!(builder, Some(raw)),
            ValueBuilder::Text(builder) => put!(builder, text_of(raw)),
            ValueBuilder::Timestamp(builder) => match raw.strip_prefix('"') {
                Some(_) => put!(builder, text_of(raw).and_then(|text| timestamp_us(&text))),
                None => put!(builder, milliseconds(raw)),
            },
            // These are text in JSON.
            ValueBuilder::Bytea(_)
            | ValueBuilder::LocalTimestamp(_)
            | ValueBuilder::Date(_)
            | ValueBuilder::Time(_) => match raw.strip_prefix('"').and_then(|_| text_of(raw)) {
                Some(text) => self.append_text(&text),
                None => {
                    self.append_null();
                    false
                }
            },
            // These have the same form in both.
            ValueBuilder::Boolean(_)
            | ValueBuilder::Int4(_)
            | ValueBuilder::Int8(_)
            | ValueBuilder::Float4(_)
            | ValueBuilder::Float8(_)
            | ValueBuilder::Numeric(..) => self.append_text(raw),
        }
    }

    /// Appends a field of a text. `false`: it does not fit, and is NULL.
    pub fn append_text(&mut self, text: &str) -> bool {
        match self {
            ValueBuilder::Boolean(builder) => match text {
                "true" => put!(builder, Some(true)),
                "false" => put!(builder, Some(false)),
                _ => put!(builder, None),
            },
            ValueBuilder::Int4(builder) => put!(builder, whole(text).and_then(|n| i32::try_from(n).ok())),
            ValueBuilder::Int8(builder) => put!(builder, whole(text)),
            ValueBuilder::Float4(builder) => put!(builder, text.parse().ok().filter(|_| is_number(text))),
            ValueBuilder::Float8(builder) => put!(builder, text.parse().ok().filter(|_| is_number(text))),
            ValueBuilder::Numeric(builder, precision, scale) => {
                let parsed = parse_numeric(text);
                put!(
                    builder,
                    parsed.and_then(|(digits, behind)| rescaled(digits, behind, *precision, *scale))
                )
            }
            ValueBuilder::Text(builder) => put!(builder, Some(text)),
            ValueBuilder::Json(builder) => put!(builder, Some(text)),
            ValueBuilder::Bytea(builder) => put!(builder, unhex(text)),
            ValueBuilder::Timestamp(builder) => {
                put!(builder, timestamp_us(text).or_else(|| milliseconds(text)))
            }
            ValueBuilder::LocalTimestamp(builder) => put!(builder, timestamp_us(text)),
            ValueBuilder::Date(builder) => put!(builder, Date32Type::parse(text)),
            ValueBuilder::Time(builder) => put!(builder, Time64MicrosecondType::parse(text)),
        }
    }

    pub fn finish(&mut self) -> ArrayRef {
        each!(self, builder => Arc::new(builder.finish()))
    }
}

/// What cannot be shown as a date is none.
fn moment(us: i64) -> Option<i64> {
    DateTime::from_timestamp_micros(us).map(|_| us)
}

fn day(days: i32) -> Option<i32> {
    date32_to_datetime(days).map(|_| days)
}

fn time_of_day(us: i64) -> Option<i64> {
    (0..DAY_US).contains(&us).then_some(us)
}

/// The digits of a number with so many of them behind the point. `None`: it has more.
fn rescaled(digits: i128, behind: i32, precision: u8, scale: u8) -> Option<i128> {
    let more = i32::from(scale).checked_sub(behind)?;
    let power = |n: u32| 10_i128.checked_pow(n);
    let digits = match u32::try_from(more) {
        Ok(_) if digits == 0 => 0,
        Ok(more) => digits.checked_mul(power(more)?)?,
        Err(_) if digits == 0 => 0,
        Err(_) => {
            let power = power(more.unsigned_abs())?;
            (digits % power == 0).then_some(digits / power)?
        }
    };
    (digits.unsigned_abs() < power(u32::from(precision))?.unsigned_abs()).then_some(digits)
}

/// The digits of a number, and how many of them stand behind the point; less than 0 for zeros before it.
fn parse_numeric(text: &str) -> Option<(i128, i32)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i16>().ok()?),
        None => (text, 0),
    };
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let behind = behind.trim_end_matches('0');
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits(before.strip_prefix(['-', '+']).unwrap_or(before)) || !digits(behind) {
        return None;
    }
    let scale = i32::try_from(behind.len()).ok()? - i32::from(exponent);
    Some((format!("{before}{behind}").parse().ok()?, scale))
}

/// A number with so many digits behind the point.
pub fn numeric_text(digits: i128, scale: u8) -> String {
    let sign = if digits < 0 { "-" } else { "" };
    with_point(sign, &digits.unsigned_abs().to_string(), usize::from(scale))
}

pub fn with_point(sign: &str, digits: &str, scale: usize) -> String {
    if scale == 0 {
        return format!("{sign}{digits}");
    }
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (before, behind) = padded.split_at(padded.len() - scale);
    format!("{sign}{before}.{behind}")
}

/// A JSON value as text: a string without its quotes, everything else as it is written.
pub fn text_of(raw: &str) -> Option<Cow<'_, str>> {
    match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
        Some(_) => serde_json::from_str::<String>(raw).ok().map(Cow::Owned),
        None => Some(Cow::Borrowed(raw)),
    }
}

/// A whole number, also one that is written as 1.0 or 1e3.
fn whole(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    // Beyond this, not every whole number is one of these.
    let exact = |n: &f64| n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_992.0;
    text.parse::<f64>().ok().filter(|n| is_number(text) && exact(n)).map(|n| n as i64)
}

/// Rust also reads `inf` and `nan`.
fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'))
}

fn timestamp_us(text: &str) -> Option<i64> {
    string_to_datetime(&Utc, text).ok().map(|time| time.timestamp_micros())
}

fn milliseconds(text: &str) -> Option<i64> {
    whole(text).and_then(|ms| ms.checked_mul(1_000)).and_then(moment)
}

#[cfg(test)]
mod tests {
    use arrow::util::display::array_value_to_string;

    use super::*;

    /// What becomes of JSON texts, with `!` where they do not fit.
    fn column(sql_type: SqlType, raws: &[&str]) -> Vec<String> {
        let mut builder = ValueBuilder::new(sql_type, raws.len());
        let fits: Vec<bool> = raws.iter().map(|raw| builder.append_json(raw)).collect();
        let array = builder.finish();
        let shown = |(i, fits): (usize, &bool)| match fits {
            true => array_value_to_string(&array, i).unwrap(),
            false => {
                assert!(array.is_null(i));
                "!".to_owned()
            }
        };
        fits.iter().enumerate().map(shown).collect()
    }

    #[test]
    fn what_fits_is_taken_and_nothing_else() {
        let raws = ["1", "-2.0", "1e3", "1.5", "9223372036854775807", "1e30", "\"1\"", "true", "null"];
        assert_eq!(
            column(SqlType::Int8, &raws),
            ["1", "-2", "1000", "!", "9223372036854775807", "!", "!", "!", ""]
        );
        assert_eq!(column(SqlType::Int4, &["7", "2147483648"]), ["7", "!"]);
        assert_eq!(column(SqlType::Float8, &["1", "1.25", "\"nan\"", "[]"]), ["1.0", "1.25", "!", "!"]);
        assert_eq!(
            column(SqlType::Boolean, &["true", "false", "1", "\"true\""]),
            ["true", "false", "!", "!"]
        );
        assert_eq!(
            column(SqlType::Text, &["\"a\"", r#""\u00e4\n""#, "1.0", "[1]", r#""\ud800""#]),
            ["a", "ä\n", "1.0", "[1]", "!"]
        );
        assert_eq!(column(SqlType::Json, &["{\"a\": 1}", "\"a\"", "null"]), ["{\"a\": 1}", "\"a\"", ""]);
        let times = ["\"2026-01-02T03:04:05.678Z\"", "\"2026-01-02T03:04:05+02:00\"", "1", "\"soon\"", "1.5"];
        assert_eq!(
            column(SqlType::Timestamp, &times),
            ["2026-01-02T03:04:05.678Z", "2026-01-02T01:04:05Z", "1970-01-01T00:00:00.001Z", "!", "!"]
        );
        assert_eq!(column(SqlType::Timestamp, &["9223372036854775807"]), ["!"]);
        assert_eq!(
            column(SqlType::LocalTimestamp, &["\"2026-01-02T03:04:05\"", "1"]),
            ["2026-01-02T03:04:05", "!"]
        );
        assert_eq!(column(SqlType::Date, &["\"2026-01-02\"", "1"]), ["2026-01-02", "!"]);
        assert_eq!(column(SqlType::Time, &["\"03:04:05.000006\"", "\"25:00\""]), ["03:04:05.000006", "!"]);
        assert_eq!(column(SqlType::Float4, &["1.1", "\"a\""]), ["1.1", "!"]);
        assert_eq!(column(SqlType::Bytea, &[r#""\\x00ff""#, "\"00\"", "1"]), ["00ff", "!", "!"]);
        let numbers =
            ["1.5", "-0.050", "1e2", "12345.67", "123456.7", "0.001", "0e99", "\"1\"", "1e999", "."];
        assert_eq!(
            column(SqlType::Numeric(7, 2), &numbers),
            ["1.50", "-0.05", "100.00", "12345.67", "!", "!", "0.00", "!", "!", "!"]
        );
    }

    #[test]
    fn cells_of_other_formats_are_taken_where_they_fit() {
        let one = |sql_type: SqlType, cell: &Cell<'_>| {
            let mut builder = ValueBuilder::new(sql_type, 1);
            let fits = builder.append(cell);
            let array = builder.finish();
            assert_eq!(array.is_null(0), !fits || *cell == Cell::Null);
            fits.then(|| array_value_to_string(&array, 0).unwrap())
        };
        let numeric = SqlType::Numeric(5, 2);
        for (sql_type, cell, shown) in [
            (SqlType::Int4, Cell::Int(i64::from(i32::MAX)), Some("2147483647")),
            (SqlType::Int4, Cell::Int(1 << 31), None),
            (SqlType::Float8, Cell::Int(3), Some("3.0")),
            (SqlType::Float8, Cell::Float4(0.5), Some("0.5")),
            (SqlType::Int8, Cell::Float8(1.0), None),
            (numeric, Cell::Numeric(12_345, 3), None),
            (numeric, Cell::Numeric(12_340, 3), Some("12.34")),
            (numeric, Cell::Numeric(1_000, 0), None),
            (numeric, Cell::Int(999), Some("999.00")),
            (SqlType::Text, Cell::Numeric(-1, 1), Some("-0.1")),
            (SqlType::Text, Cell::Misfit, None),
            (SqlType::Json, Cell::Text("a".into()), Some("\"a\"")),
            (SqlType::Json, Cell::Null, Some("")),
            (SqlType::Timestamp, Cell::Timestamp(i64::MIN), None),
            (SqlType::Timestamp, Cell::Timestamp(1), Some("1970-01-01T00:00:00.000001Z")),
            (SqlType::Date, Cell::Date(i32::MAX), None),
            (SqlType::Time, Cell::Time(DAY_US), None),
            (SqlType::Bytea, Cell::Bytes(Cow::Borrowed(&[1])), Some("01")),
        ] {
            assert_eq!(one(sql_type, &cell).as_deref(), shown, "{sql_type:?} {cell:?}");
        }
    }
}
