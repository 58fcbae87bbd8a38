//! One column of typed values while it is built: JSON or CSV text in, an Arrow array out.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::builder::{
    BooleanBuilder, Date32Builder, Float64Builder, Int32Builder, Int64Builder, StringViewBuilder,
    TimestampMillisecondBuilder,
};
use arrow::array::{ArrayRef, types::Date32Type};
use arrow::compute::kernels::cast_utils::{Parser as _, string_to_datetime};
use kafscale_core::sql_schema::SqlType;

#[derive(Debug)]
pub enum ValueBuilder {
    Boolean(BooleanBuilder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Float8(Float64Builder),
    Text(StringViewBuilder),
    Json(StringViewBuilder),
    Timestamp(TimestampMillisecondBuilder),
    Date(Date32Builder),
}

impl ValueBuilder {
    pub fn new(sql_type: SqlType, rows: usize) -> ValueBuilder {
        match sql_type {
            SqlType::Boolean => ValueBuilder::Boolean(BooleanBuilder::with_capacity(rows)),
            SqlType::Int4 => ValueBuilder::Int4(Int32Builder::with_capacity(rows)),
            SqlType::Int8 => ValueBuilder::Int8(Int64Builder::with_capacity(rows)),
            SqlType::Float8 => ValueBuilder::Float8(Float64Builder::with_capacity(rows)),
            SqlType::Text => ValueBuilder::Text(StringViewBuilder::with_capacity(rows)),
            SqlType::Json => ValueBuilder::Json(StringViewBuilder::with_capacity(rows)),
            SqlType::Timestamp => {
                let builder = TimestampMillisecondBuilder::with_capacity(rows);
                ValueBuilder::Timestamp(builder.with_timezone("UTC"))
            }
            SqlType::Date => ValueBuilder::Date(Date32Builder::with_capacity(rows)),
        }
    }

    pub fn append_null(&mut self) {
        match self {
            ValueBuilder::Boolean(builder) => builder.append_null(),
            ValueBuilder::Int4(builder) => builder.append_null(),
            ValueBuilder::Int8(builder) => builder.append_null(),
            ValueBuilder::Float8(builder) => builder.append_null(),
            ValueBuilder::Text(builder) | ValueBuilder::Json(builder) => builder.append_null(),
            ValueBuilder::Timestamp(builder) => builder.append_null(),
            ValueBuilder::Date(builder) => builder.append_null(),
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
            ValueBuilder::Json(builder) => {
                builder.append_value(raw);
                true
            }
            ValueBuilder::Text(builder) => match text_of(raw) {
                Some(text) => {
                    builder.append_value(text);
                    true
                }
                None => {
                    builder.append_null();
                    false
                }
            },
            ValueBuilder::Timestamp(builder) => {
                let parsed = match raw.strip_prefix('"') {
                    Some(_) => text_of(raw).and_then(|text| timestamp_ms(&text)),
                    None => whole(raw),
                };
                builder.append_option(parsed);
                parsed.is_some()
            }
            ValueBuilder::Date(builder) => {
                let parsed = raw.strip_prefix('"').and_then(|_| Date32Type::parse(&text_of(raw)?));
                builder.append_option(parsed);
                parsed.is_some()
            }
            // These have the same form in both.
            ValueBuilder::Boolean(_)
            | ValueBuilder::Int4(_)
            | ValueBuilder::Int8(_)
            | ValueBuilder::Float8(_) => self.append_text(raw),
        }
    }

    /// Appends a field of a text. `false`: it does not fit, and is NULL.
    pub fn append_text(&mut self, text: &str) -> bool {
        match self {
            ValueBuilder::Boolean(builder) => {
                let parsed = match text {
                    "true" => Some(true),
                    "false" => Some(false),
                    _ => None,
                };
                builder.append_option(parsed);
                parsed.is_some()
            }
            ValueBuilder::Int4(builder) => {
                let parsed = whole(text).and_then(|n| i32::try_from(n).ok());
                builder.append_option(parsed);
                parsed.is_some()
            }
            ValueBuilder::Int8(builder) => {
                let parsed = whole(text);
                builder.append_option(parsed);
                parsed.is_some()
            }
            ValueBuilder::Float8(builder) => {
                let parsed = text.parse::<f64>().ok().filter(|_| is_number(text));
                builder.append_option(parsed);
                parsed.is_some()
            }
            ValueBuilder::Text(builder) | ValueBuilder::Json(builder) => {
                builder.append_value(text);
                true
            }
            ValueBuilder::Timestamp(builder) => {
                let parsed = timestamp_ms(text).or_else(|| whole(text));
                builder.append_option(parsed);
                parsed.is_some()
            }
            ValueBuilder::Date(builder) => {
                let parsed = Date32Type::parse(text);
                builder.append_option(parsed);
                parsed.is_some()
            }
        }
    }

    pub fn finish(&mut self) -> ArrayRef {
        match self {
            ValueBuilder::Boolean(builder) => Arc::new(builder.finish()),
            ValueBuilder::Int4(builder) => Arc::new(builder.finish()),
            ValueBuilder::Int8(builder) => Arc::new(builder.finish()),
            ValueBuilder::Float8(builder) => Arc::new(builder.finish()),
            ValueBuilder::Text(builder) | ValueBuilder::Json(builder) => Arc::new(builder.finish()),
            ValueBuilder::Timestamp(builder) => Arc::new(builder.finish()),
            ValueBuilder::Date(builder) => Arc::new(builder.finish()),
        }
    }
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

fn timestamp_ms(text: &str) -> Option<i64> {
    string_to_datetime(&chrono::Utc, text).ok().map(|time| time.timestamp_millis())
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
        assert_eq!(column(SqlType::Date, &["\"2026-01-02\"", "1"]), ["2026-01-02", "!"]);
    }
}
