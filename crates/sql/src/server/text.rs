//! Values as PostgreSQL writes them as text, where the protocol's crate writes them another way: floating-point numbers and times.

use arrow::array::{ArrayRef, AsArray as _};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType};
use chrono::DateTime;

use crate::postgres::texts;

/// The text of a value that is not NULL, if it is one of those.
pub fn of(array: &ArrayRef, row: usize) -> Option<String> {
    match array.data_type() {
        DataType::Float32 => Some(float(array.as_primitive::<Float32Type>().value(row), 6)),
        DataType::Float64 => Some(float(array.as_primitive::<Float64Type>().value(row), 15)),
        DataType::Timestamp(_, zone) => {
            let micros =
                cast(&array.slice(row, 1), &DataType::Timestamp(TimeUnit::Microsecond, zone.clone())).ok()?;
            let at =
                DateTime::from_timestamp_micros(micros.as_primitive::<TimestampMicrosecondType>().value(0))?;
            let text = at.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
            let text = text.trim_end_matches('0').trim_end_matches('.');
            let whole = text.len().max("2000-01-01 00:00:00".len());
            let text = format!("{text:0<whole$}");
            let is_utc = zone.as_deref().is_some_and(|zone| matches!(zone, "UTC" | "+00:00" | "Z"));
            match zone {
                None => Some(text),
                Some(_) if is_utc => Some(format!("{text}+00")),
                // Of another zone: as it was.
                Some(_) => None,
            }
        }
        DataType::Time32(_) | DataType::Time64(_) | DataType::Interval(_) | DataType::Duration(_) => {
            texts::of(&array.slice(row, 1))
        }
        _ => None,
    }
}

/// The shortest text that gives the same number again; with an exponent from so many digits on.
pub fn float(value: impl Into<f64> + Copy + std::fmt::Display + std::fmt::LowerExp, digits: i32) -> String {
    let wide: f64 = value.into();
    if wide.is_nan() {
        return "NaN".to_owned();
    }
    if wide.is_infinite() {
        return if wide > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if exponent < -4 || exponent >= digits => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.abs())
        }
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{DurationMillisecondArray, TimestampMillisecondArray};

    use super::*;

    #[test]
    fn numbers_and_times_are_written_as_postgresql_writes_them() {
        for (value, text) in [
            (2.0, "2"),
            (1.5, "1.5"),
            (-0.1, "-0.1"),
            (1e15, "1e+15"),
            (123_456_789_012_345.0, "123456789012345"),
            (0.00001, "1e-05"),
            (0.0001, "0.0001"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float(value, 15), text);
        }
        assert_eq!(float(1_000_000_f32, 6), "1e+06");
        let times = TimestampMillisecondArray::from(vec![1_700_000_001_000, 1_700_000_000_120]);
        let plain: ArrayRef = Arc::new(times.clone());
        assert_eq!(
            (of(&plain, 0).unwrap(), of(&plain, 1).unwrap()),
            ("2023-11-14 22:13:21".into(), "2023-11-14 22:13:20.12".into())
        );
        let zoned: ArrayRef = Arc::new(times.with_timezone("UTC"));
        assert_eq!(of(&zoned, 0).unwrap(), "2023-11-14 22:13:21+00");
        let span: ArrayRef = Arc::new(DurationMillisecondArray::from(vec![2_462_400_500]));
        assert_eq!(of(&span, 0).unwrap(), "28 days 12:00:00.5");
        let midnight: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![0]));
        assert_eq!(of(&midnight, 0).unwrap(), "1970-01-01 00:00:00");
    }
}
