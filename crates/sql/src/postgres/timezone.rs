//! `x AT TIME ZONE zone`, which PostgreSQL also calls `timezone(zone, x)`: of a time with a zone, what clocks there show, which has none;
//! of a time without one, the moment at which clocks there show it.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{ArrayRef, AsArray as _, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, LocalResult, NaiveDateTime, TimeDelta, TimeZone as _};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

/// Its name.
pub const TIMEZONE: &str = "timezone";

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct AtTimeZone {
    signature: Signature,
}

impl AtTimeZone {
    pub fn new() -> AtTimeZone {
        AtTimeZone { signature: Signature::any(2, Volatility::Immutable) }
    }
}

/// Whether it is a time without a zone. Texts and dates are taken for moments.
fn is_local(kind: &DataType) -> bool {
    matches!(kind, DataType::Timestamp(_, None))
}

fn returned(kind: &DataType) -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, is_local(kind).then(|| "UTC".into()))
}

impl ScalarUDFImpl for AtTimeZone {
    fn name(&self) -> &'static str {
        TIMEZONE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(returned(&types[1]))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(TIMEZONE, returned(args.arg_fields[1].data_type()), true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [ColumnarValue::Scalar(zone), times] = &args.args[..] else {
            return exec_err!("a time zone is one for all rows");
        };
        let kind = times.data_type();
        let Some(Some(zone)) = zone.try_as_str() else {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from(&returned(&kind))?));
        };
        let zone = zone_of(zone)?;
        let is_scalar = matches!(times, ColumnarValue::Scalar(_));
        let times = times.to_array(if is_scalar { 1 } else { args.number_rows })?;
        let values = if is_local(&kind) { moments(&times, zone)? } else { shown(&times, zone)? };
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?)),
            false => Ok(ColumnarValue::Array(values)),
        }
    }
}

/// A zone by its name, or by an offset; the signs of those are POSIX's, and so the other way round.
fn zone_of(name: &str) -> Result<Tz> {
    let name = name.trim();
    let upper = name.to_uppercase();
    let (sign, offset) = match name.as_bytes().first() {
        Some(b'+') => ("-", &name[1..]),
        Some(b'-') => ("+", &name[1..]),
        _ => {
            let known = if matches!(&*upper, "UTC" | "GMT" | "Z") { "UTC" } else { name };
            return known.parse().or_else(|_| exec_err!("time zone \"{name}\" not recognized"));
        }
    };
    let (hours, minutes) = offset.split_once(':').unwrap_or((offset, "0"));
    match (hours.parse::<u8>(), minutes.parse::<u8>()) {
        (Ok(hours), Ok(minutes)) if hours < 16 && minutes < 60 => {
            let fixed = format!("{sign}{hours:02}:{minutes:02}");
            fixed.parse().or_else(|_| exec_err!("time zone \"{name}\" not recognized"))
        }
        _ => exec_err!("time zone \"{name}\" not recognized"),
    }
}

fn micros(times: &ArrayRef, zone: Option<Arc<str>>) -> Result<TimestampMicrosecondArray> {
    let times = cast(times, &DataType::Timestamp(TimeUnit::Microsecond, zone))?;
    Ok(times.as_primitive::<TimestampMicrosecondType>().clone())
}

/// What clocks show at moments.
fn shown(times: &ArrayRef, zone: Tz) -> Result<ArrayRef> {
    let local = |moment: i64| {
        let moment = DateTime::from_timestamp_micros(moment)?;
        Some(moment.with_timezone(&zone).naive_local().and_utc().timestamp_micros())
    };
    let values = micros(times, Some("UTC".into()))?;
    Ok(Arc::new(values.iter().map(|moment| moment.and_then(local)).collect::<TimestampMicrosecondArray>()))
}

/// When clocks show times. A time that comes twice is the later one, and one that is left out as if clocks had not been changed.
fn moments(times: &ArrayRef, zone: Tz) -> Result<ArrayRef> {
    let moment = |shown: i64| {
        let shown: NaiveDateTime = DateTime::from_timestamp_micros(shown)?.naive_utc();
        match zone.from_local_datetime(&shown) {
            LocalResult::Single(moment) | LocalResult::Ambiguous(_, moment) => {
                Some(moment.timestamp_micros())
            }
            LocalResult::None => {
                let hours = TimeDelta::hours(3);
                let before = zone.from_local_datetime(&(shown - hours)).latest()?;
                Some((before + hours).timestamp_micros())
            }
        }
    };
    let values = micros(times, None)?;
    let moments = values.iter().map(|shown| shown.and_then(moment)).collect::<TimestampMicrosecondArray>();
    Ok(Arc::new(moments.with_timezone("UTC")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-01-31 10:20:30 UTC, and the last of March, when clocks in Berlin are put forward at 2.
    const WINTER: i64 = 1_706_696_430_000_000;
    const GAP: i64 = 1_711_852_200_000_000;

    fn one(values: ArrayRef) -> i64 {
        values.as_primitive::<TimestampMicrosecondType>().value(0)
    }

    #[test]
    fn moments_are_what_clocks_show_and_back() {
        let hours = |n: i64| n * 3_600_000_000;
        for (zone, ahead) in
            [("America/New_York", -5), ("Asia/Tokyo", 9), ("UTC", 0), ("utc", 0), ("+02", -2), ("-02:00", 2)]
        {
            let zone = zone_of(zone).unwrap();
            let moment: ArrayRef =
                Arc::new(TimestampMicrosecondArray::from(vec![WINTER]).with_timezone("UTC"));
            assert_eq!(one(shown(&moment, zone).unwrap()), WINTER + hours(ahead));
            let local: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![WINTER + hours(ahead)]));
            assert_eq!(one(moments(&local, zone).unwrap()), WINTER);
        }
        // 02:30 is not there: as PostgreSQL, 03:30 in summer.
        let local: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![GAP]));
        assert_eq!(one(moments(&local, zone_of("Europe/Berlin").unwrap()).unwrap()), GAP - hours(1));
        for wrong in ["Nowhere/City", "+99", "+x", ""] {
            assert!(zone_of(wrong).is_err(), "{wrong}");
        }
    }
}
