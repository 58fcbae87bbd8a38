//! Types of MySQL as types of the engine, and values from the one to the other.
//!
//! A date that no calendar has, such as 0000-00-00, is NULL and counted. What has no counterpart is
//! text.

use chrono::NaiveDate;
use kafscale_core::sql_schema::SqlType;
use kafscale_sql::topic::cell::Cell;
use mysql_async::Value;

/// What a precision of `decimal` may be, to be a decimal of the engine.
const PRECISION_MAX: u64 = 38;

/// How a column is read and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Int,
    /// The server takes 5 for 2005 where it is compared with one.
    Year,
    /// `bigint unsigned`
    Unsigned,
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// Kept in a character set that has all of Unicode, so that the server can look a text up in an
    /// index.
    Text {
        unicode: bool,
    },
    /// Selected as text.
    AsText,
    Bytes,
    Bits,
    Json,
    Date,
    DateTime,
    /// A moment.
    Timestamp,
}

/// A column as `information_schema` tells it.
#[derive(Debug, Clone, Default)]
pub struct Described {
    pub data_type: String,
    pub column_type: String,
    pub precision: u64,
    pub scale: u64,
    pub character_set: String,
}

impl Kind {
    pub fn of(described: &Described) -> (Kind, SqlType) {
        let unsigned = described.column_type.contains("unsigned");
        match described.data_type.to_ascii_lowercase().as_str() {
            "tinyint" | "smallint" | "mediumint" => (Kind::Int, SqlType::Int4),
            "year" => (Kind::Year, SqlType::Int4),
            "int" | "integer" if !unsigned => (Kind::Int, SqlType::Int4),
            "bigint" if unsigned => (Kind::Unsigned, SqlType::Numeric(20, 0)),
            "int" | "integer" | "bigint" => (Kind::Int, SqlType::Int8),
            "float" => (Kind::Float, SqlType::Float4),
            "double" => (Kind::Double, SqlType::Float8),
            "decimal" | "numeric" => Kind::decimal(described),
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => {
                let unicode = matches!(described.character_set.as_str(), "utf8mb4" | "utf8mb3" | "utf8");
                (Kind::Text { unicode }, SqlType::Text)
            }
            "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => {
                (Kind::Bytes, SqlType::Bytea)
            }
            "bit" => (Kind::Bits, SqlType::Numeric(20, 0)),
            "json" => (Kind::Json, SqlType::Json),
            "date" => (Kind::Date, SqlType::Date),
            "datetime" => (Kind::DateTime, SqlType::LocalTimestamp),
            "timestamp" => (Kind::Timestamp, SqlType::Timestamp),
            _ => (Kind::AsText, SqlType::Text),
        }
    }

    fn decimal(described: &Described) -> (Kind, SqlType) {
        match (u8::try_from(described.precision), u8::try_from(described.scale)) {
            (Ok(precision), Ok(scale)) if described.precision <= PRECISION_MAX => {
                (Kind::Decimal { precision, scale }, SqlType::Numeric(precision, scale))
            }
            _ => (Kind::AsText, SqlType::Text),
        }
    }

    /// How many bytes a value takes, and the value.
    pub fn cell(self, value: &Value) -> (usize, Cell<'_>) {
        let cell = match (self, value) {
            (_, Value::NULL) => Cell::Null,
            (Kind::Unsigned, Value::UInt(value)) => Cell::Numeric(i128::from(*value), 0),
            (Kind::Unsigned, Value::Int(value)) => Cell::Numeric(i128::from(*value), 0),
            (Kind::Int | Kind::Year, Value::Int(value)) => Cell::Int(*value),
            (Kind::Int | Kind::Year, Value::UInt(value)) => {
                i64::try_from(*value).map_or(Cell::Misfit, Cell::Int)
            }
            (Kind::Float, Value::Float(value)) => Cell::Float4(*value),
            (Kind::Double, Value::Double(value)) => Cell::Float8(*value),
            (Kind::Decimal { .. }, Value::Bytes(text)) => decimal(text),
            (Kind::Text { .. } | Kind::AsText, Value::Bytes(text)) => {
                Cell::Text(String::from_utf8_lossy(text))
            }
            (Kind::Bytes, Value::Bytes(bytes)) => Cell::Bytes(bytes.into()),
            (Kind::Bits, Value::Bytes(bytes)) => bits(bytes),
            (Kind::Json, Value::Bytes(text)) => Cell::Json(String::from_utf8_lossy(text)),
            (Kind::Date, Value::Date(year, month, day, ..)) => {
                date(*year, *month, *day).map_or(Cell::Misfit, |date| Cell::Date(days(date)))
            }
            (Kind::DateTime, value @ Value::Date(..)) => {
                micros(value).map_or(Cell::Misfit, Cell::LocalTimestamp)
            }
            (Kind::Timestamp, value @ Value::Date(..)) => micros(value).map_or(Cell::Misfit, Cell::Timestamp),
            _ => Cell::Misfit,
        };
        let bytes = match value {
            Value::Bytes(bytes) => bytes.len(),
            _ => size_of::<u64>(),
        };
        (bytes, cell)
    }
}

fn date(year: u16, month: u8, day: u8) -> Option<NaiveDate> {
    // Its first year is 1000, or 0 for what is no date.
    if year == 0 { None } else { NaiveDate::from_ymd_opt(i32::from(year), month.into(), day.into()) }
}

fn days(date: NaiveDate) -> i32 {
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days())
        .expect("a year has four digits")
}

fn micros(value: &Value) -> Option<i64> {
    let Value::Date(year, month, day, hour, minute, second, micros) = value else { return None };
    let date = date(*year, *month, *day)?;
    let at = date.and_hms_micro_opt((*hour).into(), (*minute).into(), (*second).into(), *micros)?;
    Some(at.and_utc().timestamp_micros())
}

fn decimal(text: &[u8]) -> Cell<'static> {
    let parsed = || {
        let text = std::str::from_utf8(text).ok()?;
        let (whole, behind) = text.split_once('.').unwrap_or((text, ""));
        let digits: i128 = format!("{whole}{behind}").parse().ok()?;
        Some(Cell::Numeric(digits, u8::try_from(behind.len()).ok()?))
    };
    parsed().unwrap_or(Cell::Misfit)
}

fn bits(bytes: &[u8]) -> Cell<'static> {
    match bytes.len() {
        0..=8 => Cell::Numeric(bytes.iter().fold(0, |bits, byte| bits << 8 | i128::from(*byte)), 0),
        _ => Cell::Misfit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_that_no_calendar_has_are_misfits() {
        let of = |kind: Kind, year, month, day| {
            let value = Value::Date(year, month, day, 1, 2, 3, 4);
            format!("{:?}", kind.cell(&value).1)
        };
        assert_eq!(of(Kind::Date, 2024, 2, 29), "Date(19782)");
        assert_eq!(of(Kind::DateTime, 1970, 1, 1), "LocalTimestamp(3723000004)");
        for (year, month, day) in [(0, 0, 0), (2024, 0, 1), (2024, 2, 0), (2023, 2, 29), (0, 1, 1)] {
            for kind in [Kind::Date, Kind::DateTime, Kind::Timestamp] {
                assert_eq!(of(kind, year, month, day), "Misfit", "{year}-{month}-{day}");
            }
        }
    }

    #[test]
    fn numbers_keep_every_digit() {
        let of = |kind: Kind, value: Value| format!("{:?}", kind.cell(&value).1);
        assert_eq!(of(Kind::Unsigned, Value::UInt(u64::MAX)), "Numeric(18446744073709551615, 0)");
        let decimal = Kind::Decimal { precision: 10, scale: 2 };
        assert_eq!(of(decimal, Value::Bytes(b"-0.05".to_vec())), "Numeric(-5, 2)");
        assert_eq!(of(decimal, Value::Bytes(b"12".to_vec())), "Numeric(12, 0)");
        assert_eq!(of(decimal, Value::Bytes(b"x".to_vec())), "Misfit");
        assert_eq!(of(Kind::Bits, Value::Bytes(vec![1, 2])), "Numeric(258, 0)");
    }
}
