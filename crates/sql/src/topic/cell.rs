//! What is read of one field of a value, in whatever format the value is, until it is appended to its column.

use std::borrow::Cow;
use std::fmt::Write as _;

use arrow::temporal_conversions::{date32_to_datetime, time64us_to_time};
use chrono::{DateTime, NaiveDateTime, SecondsFormat};

use super::values::numeric_text;

/// One field of one value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'a> {
    Null,
    /// There is something that does not fit the column.
    Misfit,
    Boolean(bool),
    Int(i64),
    Float4(f32),
    Float8(f64),
    /// Digits, and how many of them stand behind the point.
    Numeric(i128, u8),
    /// For columns of other types: as CSV has them.
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    /// Microseconds since 1970 in UTC.
    Timestamp(i64),
    /// The same on the wall.
    LocalTimestamp(i64),
    /// Days since 1970.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// Valid JSON, for a column of any type.
    Json(Cow<'a, str>),
}

impl Cell<'_> {
    /// Writes the value as JSON: what JSON has no form for as text, bytes in hex as PostgreSQL writes them.
    pub fn write_json(&self, json: &mut String) {
        match self {
            Cell::Null | Cell::Misfit => json.push_str("null"),
            Cell::Boolean(value) => json.push_str(if *value { "true" } else { "false" }),
            Cell::Int(value) => write(json, value),
            Cell::Float4(value) if value.is_finite() => write_float(json, &format!("{value:?}")),
            Cell::Float8(value) if value.is_finite() => write_float(json, &format!("{value:?}")),
            Cell::Numeric(digits, scale) => json.push_str(&numeric_text(*digits, *scale)),
            Cell::Json(text) => json.push_str(text),
            Cell::Text(text) => push_json(json, text),
            Cell::Bytes(bytes) => push_json(json, &hex(bytes)),
            Cell::Float4(_)
            | Cell::Float8(_)
            | Cell::Timestamp(_)
            | Cell::LocalTimestamp(_)
            | Cell::Date(_)
            | Cell::Time(_) => push_json(json, &self.text()),
        }
    }

    /// The value as text, as a column of text has it.
    pub fn text(&self) -> Cow<'_, str> {
        let shown = match self {
            Cell::Text(text) | Cell::Json(text) => return Cow::Borrowed(text),
            Cell::Float4(value) => float_text(f64::from(*value), &format!("{value:?}")),
            Cell::Float8(value) => float_text(*value, &format!("{value:?}")),
            Cell::Timestamp(us) => match DateTime::from_timestamp_micros(*us) {
                Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
                None => us.to_string(),
            },
            Cell::LocalTimestamp(us) => shown(*us, local(*us), "%Y-%m-%dT%H:%M:%S%.f"),
            Cell::Date(days) => shown(i64::from(*days), date32_to_datetime(*days), "%Y-%m-%d"),
            Cell::Time(us) => time64us_to_time(*us)
                .map_or_else(|| us.to_string(), |time| time.format("%H:%M:%S%.f").to_string()),
            Cell::Bytes(bytes) => hex(bytes),
            Cell::Null | Cell::Misfit | Cell::Boolean(_) | Cell::Int(_) | Cell::Numeric(..) => {
                let mut text = String::new();
                self.write_json(&mut text);
                text
            }
        };
        Cow::Owned(shown)
    }
}

fn local(us: i64) -> Option<NaiveDateTime> {
    DateTime::from_timestamp_micros(us).map(|time| time.naive_utc())
}

fn shown(number: i64, time: Option<NaiveDateTime>, form: &str) -> String {
    time.map_or_else(|| number.to_string(), |time| time.format(form).to_string())
}

/// As PostgreSQL writes them.
fn float_text(value: f64, shown: &str) -> String {
    match (value.is_nan(), value.is_infinite()) {
        (true, _) => "NaN".to_owned(),
        (_, true) if value > 0.0 => "Infinity".to_owned(),
        (_, true) => "-Infinity".to_owned(),
        _ => shown.trim_end_matches(".0").to_owned(),
    }
}

fn write_float(json: &mut String, shown: &str) {
    json.push_str(shown.trim_end_matches(".0"));
}

fn write(json: &mut String, value: impl std::fmt::Display) {
    let _ = write!(json, "{value}");
}

/// Appends a text as a string of JSON.
pub fn push_json(json: &mut String, text: &str) {
    json.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '\\' || c < ' ') {
        let (plain, behind) = rest.split_at(at);
        json.push_str(plain);
        match behind.as_bytes()[0] {
            b'"' => json.push_str("\\\""),
            b'\\' => json.push_str("\\\\"),
            b'\n' => json.push_str("\\n"),
            b'\r' => json.push_str("\\r"),
            b'\t' => json.push_str("\\t"),
            control => {
                let _ = write!(json, "\\u{control:04x}");
            }
        }
        rest = &behind[1..];
    }
    json.push_str(rest);
    json.push('"');
}

/// Bytes as PostgreSQL writes them.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("\\x");
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// What [`hex`] wrote.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_written_as_json() {
        for (cell, json) in [
            (Cell::Null, "null"),
            (Cell::Boolean(true), "true"),
            (Cell::Int(-5), "-5"),
            (Cell::Float4(1.1), "1.1"),
            (Cell::Float8(2.0), "2"),
            (Cell::Float8(1e300), "1e300"),
            (Cell::Float8(f64::NAN), "\"NaN\""),
            (Cell::Float4(f32::NEG_INFINITY), "\"-Infinity\""),
            (Cell::Numeric(-5, 2), "-0.05"),
            (Cell::Text("a\"\\\n\u{1}ä".into()), r#""a\"\\\n\u0001ä""#),
            (Cell::Bytes(Cow::Borrowed(&[0, 255])), r#""\\x00ff""#),
            (Cell::Timestamp(1_500_000), "\"1970-01-01T00:00:01.500Z\""),
            (Cell::Timestamp(i64::MAX), "\"9223372036854775807\""),
            (Cell::LocalTimestamp(1_000_001), "\"1970-01-01T00:00:01.000001\""),
            (Cell::Date(-1), "\"1969-12-31\""),
            (Cell::Time(3_600_000_000), "\"01:00:00\""),
            (Cell::Json("[1]".into()), "[1]"),
        ] {
            let mut written = String::new();
            cell.write_json(&mut written);
            assert_eq!(written, json);
            serde_json::from_str::<serde_json::Value>(&written).unwrap();
        }
    }

    #[test]
    fn hex_is_read_as_it_is_written() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        for text in ["", "00", "\\x0", "\\x0g", "\\x+1", "\\xä"] {
            assert_eq!(unhex(text), None, "{text}");
        }
    }
}
