//! `date_part`, which `extract` is, too: the engine's own knows no fractions of seconds, no centuries and no Julian days.
//!
//! It goes by the engine's name, by which others know what it may be asked of.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Float64Array};
use arrow::compute::{cast, date_part};
use arrow::datatypes::{
    DataType, DurationMicrosecondType, Field, FieldRef, Int32Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::functions::datetime;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    cast as cast_expr,
};

const NAME: &str = "date_part";
const MICROS_OF_MINUTE: i64 = 60_000_000;
const MICROS_OF_DAY: i64 = 86_400_000_000;
/// Of 1970-01-01.
const JULIAN_DAY: i64 = 2_440_588;

/// What is asked for that the engine's own does not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Second,
    Millisecond,
    Decade,
    Century,
    Millennium,
    Julian,
    /// What clocks are ahead of UTC, which is nothing here.
    Zone,
    Hour,
    Minute,
    Epoch,
}

impl Part {
    fn of(name: &str) -> Option<Part> {
        Some(match name.trim_matches('\'').to_ascii_lowercase().as_str() {
            "second" | "seconds" | "sec" | "secs" | "s" => Part::Second,
            "millisecond" | "milliseconds" | "msec" | "msecs" | "ms" => Part::Millisecond,
            "decade" | "decades" | "dec" | "decs" => Part::Decade,
            "century" | "centuries" | "cent" | "c" => Part::Century,
            "millennium" | "millennia" | "millenium" | "mil" | "mils" => Part::Millennium,
            "julian" | "jd" => Part::Julian,
            "hour" | "hours" | "hr" | "hrs" | "h" => Part::Hour,
            "minute" | "minutes" | "min" | "mins" => Part::Minute,
            "epoch" => Part::Epoch,
            "timezone" | "timezone_hour" | "timezone_minute" => Part::Zone,
            _ => return None,
        })
    }

    /// The digits behind the point that `extract` gives.
    fn digits(self) -> Option<i8> {
        match self {
            Part::Second => Some(6),
            Part::Millisecond => Some(3),
            _ => None,
        }
    }

    /// Whether the engine's own gives another value of a type.
    fn is_for(self, kind: &DataType) -> bool {
        match self {
            // A difference of moments is days and a rest, and a year has 365.25 days.
            Part::Hour | Part::Minute => matches!(kind, DataType::Duration(_)),
            Part::Epoch => matches!(kind, DataType::Interval(_)),
            _ => true,
        }
    }
}

/// The function for both.
pub fn function() -> ScalarUDF {
    ScalarUDF::from(DatePart { inner: datetime::date_part() })
}

/// `extract(part FROM x)`, which gives numerics, where `date_part` gives doubles.
pub fn extract(args: Vec<Expr>) -> Expr {
    let part = match args.first() {
        Some(Expr::Literal(name, _)) => name.try_as_str().flatten().and_then(Part::of),
        _ => None,
    };
    let call = function().call(args);
    match part.and_then(Part::digits) {
        Some(digits) => cast_expr(call, DataType::Decimal128(10, digits)),
        None => call,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DatePart {
    inner: Arc<ScalarUDF>,
}

fn part_of(name: Option<&ScalarValue>) -> Option<Part> {
    name.and_then(|name| name.try_as_str()).flatten().and_then(Part::of)
}

impl ScalarUDFImpl for DatePart {
    fn name(&self) -> &str {
        NAME
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.inner().return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let kind = args.arg_fields.get(1).map(|field| field.data_type());
        let part = part_of(args.scalar_arguments.first().copied().flatten());
        match part.filter(|part| kind.is_some_and(|kind| part.is_for(kind))) {
            Some(_) => {
                let nullable = args.arg_fields.get(1).is_none_or(|field| field.is_nullable());
                Ok(Arc::new(Field::new(NAME, DataType::Float64, nullable)))
            }
            None => self.inner.inner().return_field_from_args(args),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let part = match args.args.first() {
            Some(ColumnarValue::Scalar(name)) => part_of(Some(name)),
            _ => None,
        };
        let own = match (part, args.args.get(1)) {
            (Some(part), Some(of)) if part.is_for(&of.data_type()) => Some((part, of)),
            _ => None,
        };
        let Some((part, of)) = own else { return self.inner.inner().invoke_with_args(args) };
        match of {
            ColumnarValue::Array(of) => Ok(ColumnarValue::Array(Arc::new(parts(part, of)?))),
            ColumnarValue::Scalar(of) => {
                let one = parts(part, &of.to_array()?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::Float64(one.is_valid(0).then(|| one.value(0)))))
            }
        }
    }

    fn preimage(&self, args: &[Expr], literal: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        self.inner.inner().preimage(args, literal, info)
    }
}

fn parts(part: Part, of: &ArrayRef) -> Result<Float64Array> {
    match part {
        Part::Second | Part::Millisecond => {
            let unit = if part == Part::Second { 1e6 } else { 1e3 };
            Ok(micros_of_minute(of)?.iter().map(|micros| micros.map(|micros| micros as f64 / unit)).collect())
        }
        Part::Decade | Part::Century | Part::Millennium => {
            let is_span = matches!(of.data_type(), DataType::Interval(_) | DataType::Duration(_));
            let years = date_part(of, arrow::compute::DatePart::Year)?;
            let value = |year: i32| {
                // The first century begins with the year 1, and a span of a century has 100 years.
                let of_length = |years: i32| if is_span { year / years } else { (year + years - 1) / years };
                f64::from(match part {
                    Part::Century => of_length(100),
                    Part::Millennium => of_length(1_000),
                    _ => year / 10,
                })
            };
            Ok(years.as_primitive::<Int32Type>().iter().map(|year| year.map(value)).collect())
        }
        Part::Julian => match of.data_type() {
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
                let value = |micros: i64| {
                    let (day, rest) = (micros.div_euclid(MICROS_OF_DAY), micros.rem_euclid(MICROS_OF_DAY));
                    (JULIAN_DAY + day) as f64 + rest as f64 / MICROS_OF_DAY as f64
                };
                let micros = cast(of, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
                let micros = micros.as_primitive::<TimestampMicrosecondType>();
                Ok(micros.iter().map(|micros| micros.map(value)).collect())
            }
            _ => exec_err!("unit \"julian\" not supported for this type"),
        },
        Part::Hour | Part::Minute => {
            let micros = cast(of, &DataType::Duration(TimeUnit::Microsecond))?;
            let (unit, most) = if part == Part::Hour { (60, 24) } else { (1, 60) };
            let value = |micros: i64| (micros / MICROS_OF_MINUTE / unit % most) as f64;
            let micros = micros.as_primitive::<DurationMicrosecondType>();
            Ok(micros.iter().map(|micros| micros.map(value)).collect())
        }
        Part::Epoch => {
            let spans = cast(of, &DataType::Interval(IntervalUnit::MonthDayNano))?;
            let value = |span: IntervalMonthDayNano| {
                let (years, months) = (f64::from(span.months / 12), f64::from(span.months % 12));
                let days = years * 365.25 + months * 30.0 + f64::from(span.days);
                days * 86_400.0 + (span.nanoseconds / 1_000) as f64 / 1e6
            };
            let spans = spans.as_primitive::<IntervalMonthDayNanoType>();
            Ok(spans.iter().map(|span| span.map(value)).collect())
        }
        Part::Zone => match of.data_type() {
            DataType::Timestamp(_, Some(_)) => {
                Ok((0..of.len()).map(|row| of.is_valid(row).then_some(0.0)).collect())
            }
            _ => exec_err!("unit \"timezone\" not supported for this type"),
        },
    }
}

/// Microseconds behind the last full minute.
fn micros_of_minute(of: &ArrayRef) -> Result<arrow::array::Int64Array> {
    let of = &match of.data_type() {
        DataType::Duration(_) => cast(of, &DataType::Duration(TimeUnit::Microsecond))?,
        DataType::Interval(_) => cast(of, &DataType::Interval(IntervalUnit::MonthDayNano))?,
        DataType::Time32(_) | DataType::Time64(_) => cast(of, &DataType::Time64(TimeUnit::Microsecond))?,
        DataType::Timestamp(_, zone) => cast(of, &DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?,
        _ => cast(of, &DataType::Timestamp(TimeUnit::Microsecond, None))?,
    };
    Ok(match of.data_type() {
        DataType::Duration(_) => of
            .as_primitive::<DurationMicrosecondType>()
            .iter()
            .map(|micros| micros.map(|micros| micros % MICROS_OF_MINUTE))
            .collect(),
        DataType::Interval(_) => of
            .as_primitive::<IntervalMonthDayNanoType>()
            .iter()
            .map(|span| span.map(|span| span.nanoseconds / 1_000 % MICROS_OF_MINUTE))
            .collect(),
        DataType::Time64(_) => of
            .as_primitive::<Time64MicrosecondType>()
            .iter()
            .map(|micros| micros.map(|micros| micros % MICROS_OF_MINUTE))
            .collect(),
        _ => of
            .as_primitive::<TimestampMicrosecondType>()
            .iter()
            .map(|micros| micros.map(|micros| micros.rem_euclid(MICROS_OF_MINUTE)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        Date32Array, DurationMillisecondArray, IntervalMonthDayNanoArray, Time64NanosecondArray,
        TimestampMicrosecondArray, TimestampMillisecondArray,
    };

    #[test]
    fn parts_have_their_fractions() {
        let before: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(-500_000), None]));
        // 2024-06-01 00:00:01.448363
        let moment: ArrayRef =
            Arc::new(TimestampMicrosecondArray::from(vec![1_717_200_001_448_363]).with_timezone("UTC"));
        let millis: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![61_500]));
        let time: ArrayRef = Arc::new(Time64NanosecondArray::from(vec![3_661_250_000_000]));
        let span = IntervalMonthDayNano::new(2_412, 3, -61_500_000_000);
        let span: ArrayRef = Arc::new(IntervalMonthDayNanoArray::from(vec![span]));
        // 28 days and 03:02:01.5
        let difference: ArrayRef = Arc::new(DurationMillisecondArray::from(vec![2_430_121_500]));
        let year: ArrayRef =
            Arc::new(IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(12, 0, 0)]));
        let day: ArrayRef = Arc::new(Date32Array::from(vec![19_875]));
        for (name, of, expected) in [
            ("second", &moment, 1.448_363),
            ("SECONDS", &before, 59.5),
            ("milliseconds", &moment, 1_448.363),
            ("second", &millis, 1.5),
            ("second", &time, 1.25),
            ("second", &span, -1.5),
            ("second", &difference, 1.5),
            ("second", &day, 0.0),
            ("century", &moment, 21.0),
            ("millennium", &day, 3.0),
            ("decade", &day, 202.0),
            ("century", &span, 2.0),
            ("julian", &day, 2_460_463.0),
            ("timezone", &moment, 0.0),
            ("epoch", &year, 31_557_600.0),
            ("hour", &difference, 3.0),
            ("minute", &difference, 2.0),
        ] {
            let found = parts(Part::of(name).unwrap(), of).unwrap();
            assert!((found.value(0) - expected).abs() < 1e-9, "{name}: {}", found.value(0));
        }
        assert!(parts(Part::Second, &before).unwrap().is_null(1));
        assert!(parts(Part::Julian, &span).is_err() && parts(Part::Zone, &day).is_err());
        assert_eq!((Part::of("microseconds"), Part::of("day")), (None, None));
        assert!(!Part::Hour.is_for(moment.data_type()) && !Part::Epoch.is_for(moment.data_type()));
    }
}
