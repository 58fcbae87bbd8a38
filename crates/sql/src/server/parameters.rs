//! Parameters of prepared statements: values as clients send them, as text or binary, and as the engine takes them.

use std::borrow::Cow;

use arrow::datatypes::{DataType, IntervalMonthDayNano, IntervalUnit, TimeUnit};
use datafusion::common::ScalarValue;
use pgwire::api::Type;
use pgwire::api::portal::{Format, Portal};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};

use super::arrays;
use super::statements::pg_error;
use crate::error::SqlError;
use crate::postgres::texts;

/// Microseconds from 1970 to 2000, which is where PostgreSQL begins to count.
const EPOCH_US: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

/// The type that the engine gives values of a type of PostgreSQL. `None` for those that it takes for text.
pub fn arrow_type(declared: &Type) -> Option<DataType> {
    Some(match *declared {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 | Type::OID => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        Type::NUMERIC => DataType::Decimal128(38, 10),
        Type::BYTEA => DataType::Binary,
        Type::DATE => DataType::Date32,
        Type::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Type::TIME => DataType::Time64(TimeUnit::Microsecond),
        Type::INTERVAL => DataType::Interval(IntervalUnit::MonthDayNano),
        _ => return Some(arrays::list_of(arrow_type(arrays::item_of(declared)?).unwrap_or(DataType::Utf8))),
    })
}

/// How SQL writes a type, for a cast. `None`: a parameter of this type needs none.
pub fn sql_type(declared: &Type) -> Option<Cow<'static, str>> {
    let plain = match *declared {
        Type::BOOL => "boolean",
        Type::INT2 => "smallint",
        Type::INT4 => "int",
        Type::INT8 | Type::OID => "bigint",
        Type::FLOAT4 => "real",
        Type::FLOAT8 => "double precision",
        Type::NUMERIC => "decimal(38, 10)",
        Type::BYTEA => "bytea",
        Type::DATE => "date",
        Type::TIMESTAMP => "timestamp",
        Type::TIMESTAMPTZ => "timestamp with time zone",
        Type::TIME => "time",
        Type::INTERVAL => "interval",
        _ => {
            let item = sql_type(arrays::item_of(declared)?).unwrap_or(Cow::Borrowed("text"));
            return Some(Cow::Owned(format!("{item}[]")));
        }
    };
    Some(Cow::Borrowed(plain))
}

/// The values of all parameters, in order.
pub fn values<S: Clone>(portal: &Portal<S>, types: &[Type]) -> PgWireResult<Vec<ScalarValue>> {
    if portal.parameters.len() != types.len() {
        let message = format!(
            "{} parameters were given, and the statement has {}",
            portal.parameters.len(),
            types.len()
        );
        let info = ErrorInfo::new("ERROR".to_owned(), "08P01".to_owned(), message);
        return Err(PgWireError::UserError(Box::new(info)));
    }
    let value = |(at, (bytes, declared)): (usize, (&Option<bytes::Bytes>, &Type))| {
        let target = arrow_type(declared).unwrap_or(DataType::Utf8);
        match bytes {
            None => ScalarValue::try_from(&target).map_err(|e| pg_error(&SqlError::from(e))),
            Some(bytes) if target == DataType::Utf8 && bytes.contains(&0) && *declared != Type::UUID => {
                let message =
                    format!("invalid byte sequence for encoding \"UTF8\": 0x00 (parameter ${})", at + 1);
                Err(pg_error(&SqlError::State { code: "22021", message }))
            }
            Some(bytes) if is_binary(&portal.parameter_format, at) => {
                binary(declared, bytes).ok_or_else(|| bad(at, declared, "22P03"))
            }
            Some(bytes) if *declared == Type::UUID => {
                uuid_text(bytes).ok_or_else(|| bad(at, declared, "22P02"))
            }
            Some(bytes) => text(bytes, &target).ok_or_else(|| bad(at, declared, "22P02")),
        }
    };
    portal.parameters.iter().zip(types).enumerate().map(value).collect()
}

/// As PostgreSQL takes one: digits of either case, with or without hyphens and braces.
fn uuid_text(bytes: &[u8]) -> Option<ScalarValue> {
    let id = uuid::Uuid::try_parse(std::str::from_utf8(bytes).ok()?.trim()).ok()?;
    Some(ScalarValue::Utf8(Some(id.hyphenated().to_string())))
}

/// One format for each parameter, or one for all; a client that says less means text.
fn is_binary(format: &Format, at: usize) -> bool {
    match format {
        Format::UnifiedBinary => true,
        Format::UnifiedText => false,
        Format::Individual(formats) => formats.get(at) == Some(&1),
    }
}

fn bad(at: usize, declared: &Type, code: &str) -> PgWireError {
    let message = format!("invalid input syntax for type {declared}: parameter ${}", at + 1);
    PgWireError::UserError(Box::new(ErrorInfo::new("ERROR".to_owned(), code.to_owned(), message)))
}

pub fn text(bytes: &[u8], target: &DataType) -> Option<ScalarValue> {
    let text = std::str::from_utf8(bytes).ok()?;
    match target {
        DataType::Utf8 => Some(ScalarValue::Utf8(Some(text.to_owned()))),
        DataType::Boolean => match text.trim().to_ascii_lowercase().as_str() {
            "t" | "true" | "1" | "on" | "y" | "yes" => Some(ScalarValue::Boolean(Some(true))),
            "f" | "false" | "0" | "off" | "n" | "no" => Some(ScalarValue::Boolean(Some(false))),
            _ => None,
        },
        DataType::Binary => {
            let digits = text.strip_prefix("\\x")?;
            let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
            let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
            bytes.map(|bytes| ScalarValue::Binary(Some(bytes)))
        }
        DataType::List(item) => arrays::from_text(text, item),
        // Some send a time zone behind a day.
        DataType::Date32 => {
            let day = text.trim().split([' ', 'T']).next().unwrap_or_default();
            ScalarValue::Utf8(Some(day.to_owned())).cast_to(target).ok().filter(|v| !v.is_null())
        }
        other => texts::value_of(text, other).or_else(|| {
            ScalarValue::Utf8(Some(text.trim().to_owned())).cast_to(other).ok().filter(|v| !v.is_null())
        }),
    }
}

pub fn binary(declared: &Type, bytes: &[u8]) -> Option<ScalarValue> {
    let utc = || Some("UTC".into());
    Some(match *declared {
        Type::BOOL => ScalarValue::Boolean(Some(*bytes.first()? != 0)),
        Type::INT2 => ScalarValue::Int16(Some(i16::from_be_bytes(bytes.try_into().ok()?))),
        Type::INT4 => ScalarValue::Int32(Some(i32::from_be_bytes(bytes.try_into().ok()?))),
        Type::INT8 => ScalarValue::Int64(Some(i64::from_be_bytes(bytes.try_into().ok()?))),
        Type::OID => ScalarValue::Int64(Some(u32::from_be_bytes(bytes.try_into().ok()?).into())),
        Type::FLOAT4 => ScalarValue::Float32(Some(f32::from_be_bytes(bytes.try_into().ok()?))),
        Type::FLOAT8 => ScalarValue::Float64(Some(f64::from_be_bytes(bytes.try_into().ok()?))),
        Type::NUMERIC => numeric(bytes)?,
        Type::BYTEA => ScalarValue::Binary(Some(bytes.to_vec())),
        Type::DATE => {
            let days = i32::from_be_bytes(bytes.try_into().ok()?);
            ScalarValue::Date32(Some(days.checked_add(EPOCH_DAYS)?))
        }
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            let us = i64::from_be_bytes(bytes.try_into().ok()?).checked_add(EPOCH_US)?;
            let zone = if *declared == Type::TIMESTAMPTZ { utc() } else { None };
            ScalarValue::TimestampMicrosecond(Some(us), zone)
        }
        Type::TIME => ScalarValue::Time64Microsecond(Some(i64::from_be_bytes(bytes.try_into().ok()?))),
        Type::INTERVAL => {
            let us = i64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
            let days = i32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?);
            let months = i32::from_be_bytes(bytes.get(12..)?.try_into().ok()?);
            let value = IntervalMonthDayNano::new(months, days, us.checked_mul(1_000)?);
            ScalarValue::IntervalMonthDayNano(Some(value))
        }
        Type::UUID => {
            ScalarValue::Utf8(Some(uuid::Uuid::from_bytes(bytes.try_into().ok()?).hyphenated().to_string()))
        }
        // Items of arrays; elsewhere it was told.
        Type::TEXT | Type::VARCHAR if bytes.contains(&0) => return None,
        // A version stands before it.
        Type::JSONB => ScalarValue::Utf8(Some(std::str::from_utf8(bytes.get(1..)?).ok()?.to_owned())),
        _ if arrays::item_of(declared).is_some() => arrays::from_binary(bytes, declared)?,
        _ => ScalarValue::Utf8(Some(std::str::from_utf8(bytes).ok()?.to_owned())),
    })
}

/// Digits to the base of 10,000, with a weight and a sign.
fn numeric(bytes: &[u8]) -> Option<ScalarValue> {
    let field = |at: usize| Some(i16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (count, weight, sign) = (field(0)?, field(2)?, field(4)?);
    // What is no number, and infinity, are none here.
    let negative = match sign {
        0 => false,
        0x4000 => true,
        _ => return None,
    };
    let mut value: i128 = 0;
    let scale = 10_i128.pow(10);
    for at in 0..count {
        let digit = i128::from(field(8 + usize::try_from(at).ok()? * 2)?);
        let power = i32::from(weight) - i32::from(at);
        let shifted = match u32::try_from(power) {
            Ok(power) => digit.checked_mul(10_000_i128.checked_pow(power)?)?.checked_mul(scale)?,
            Err(_) => {
                digit.checked_mul(scale)?.checked_div(10_000_i128.checked_pow(power.unsigned_abs())?)?
            }
        };
        value = value.checked_add(shifted)?;
    }
    Some(ScalarValue::Decimal128(Some(if negative { -value } else { value }), 38, 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_values_are_those_of_postgresql() {
        for (declared, bytes, expected) in [
            (Type::INT4, &7_i32.to_be_bytes()[..], ScalarValue::Int32(Some(7))),
            (Type::DATE, &0_i32.to_be_bytes(), ScalarValue::Date32(Some(10_957))),
            (
                Type::TIMESTAMPTZ,
                &1_i64.to_be_bytes(),
                ScalarValue::TimestampMicrosecond(Some(EPOCH_US + 1), Some("UTC".into())),
            ),
            // -12345.67
            (
                Type::NUMERIC,
                &[0, 3, 0, 1, 0x40, 0, 0, 2, 0, 1, 0x09, 0x29, 0x1a, 0x2c],
                ScalarValue::Decimal128(Some(-123_456_700_000_000), 38, 10),
            ),
            (Type::TEXT, b"a", ScalarValue::Utf8(Some("a".into()))),
        ] {
            assert_eq!(binary(&declared, bytes), Some(expected), "{declared}");
        }
        assert_eq!(binary(&Type::INT4, b"abc"), None);
        assert_eq!(binary(&Type::TEXT, b"\xff"), None);
    }

    #[test]
    fn uuids_are_written_one_way() {
        let one = Some(ScalarValue::Utf8(Some("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".into())));
        for text in [
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        ] {
            assert_eq!(uuid_text(text.as_bytes()), one, "{text}");
        }
        assert_eq!((uuid_text(b"a0eebc99"), uuid_text(b"\xff")), (None, None));
    }

    #[test]
    fn text_values_are_read_by_their_type() {
        assert_eq!(text(b"-5", &DataType::Int64), Some(ScalarValue::Int64(Some(-5))));
        assert_eq!(text(b"five", &DataType::Int64), None);
        assert_eq!(text(b"t", &DataType::Boolean), Some(ScalarValue::Boolean(Some(true))));
        assert_eq!(text(b"\\x0aff", &DataType::Binary), Some(ScalarValue::Binary(Some(vec![10, 255]))));
        assert_eq!(text(b"\\x0", &DataType::Binary), None);
    }
}
