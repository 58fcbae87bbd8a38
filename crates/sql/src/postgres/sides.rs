//! What stands beside an operator, as PostgreSQL takes it, before the engine looks for a common type.
//!
//! - A date and an interval are a timestamp: the engine keeps a date, and loses the hours.
//! - An interval and a number are an interval.
//! - A text of the statement beside a boolean is a boolean.

use arrow::array::{ArrayRef, AsArray as _, IntervalMonthDayNanoArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
};
use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::logical_expr::planner::RawBinaryExpr;
use datafusion::logical_expr::{Expr, ExprSchemable as _, Operator, ScalarUDF, cast as cast_expr, lit};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use std::sync::Arc;

use super::scalar::row_wise;
use crate::error::SqlError;

/// The same operator with other sides, or an expression that it stands for.
pub enum Sides {
    Operator(RawBinaryExpr),
    Whole(Expr),
}

pub fn of(mut expr: RawBinaryExpr, schema: &DFSchema) -> Sides {
    use BinaryOperator::{Divide, Eq, Gt, GtEq, Lt, LtEq, Minus, Multiply, NotEq, Plus};
    if !matches!(expr.op, Plus | Minus | Multiply | Divide | Eq | NotEq | Lt | LtEq | Gt | GtEq) {
        return Sides::Operator(expr);
    }
    // What has no type that is known is nothing that is looked for below. A type is asked for only where it is needed: that
    // of the left side of a long sum is worked out from all of it.
    let kind = |expr: &Expr| expr.get_type(schema).unwrap_or(DataType::Null);
    match &expr.op {
        Plus | Minus => {
            let right = kind(&expr.right);
            if is_span(&right) && is_date(&kind(&expr.left)) {
                expr.left = moment(expr.left);
            } else if expr.op == Plus && is_date(&right) && is_span(&kind(&expr.left)) {
                expr.right = moment(expr.right);
            }
        }
        Multiply | Divide => {
            let right = kind(&expr.right);
            let is_scaled = right.is_numeric() && may_be_span(&expr.left) && is_span(&kind(&expr.left));
            if is_scaled {
                let function = if expr.op == Multiply { times() } else { over() };
                return Sides::Whole(function.call(vec![expr.left, expr.right]));
            }
            if expr.op == Multiply && is_span(&right) && kind(&expr.left).is_numeric() {
                return Sides::Whole(times().call(vec![expr.right, expr.left]));
            }
        }
        _ if is_text(&expr.right) && kind(&expr.left) == DataType::Boolean => {
            expr.right = boolean(expr.right)
        }
        _ if is_text(&expr.left) && kind(&expr.right) == DataType::Boolean => expr.left = boolean(expr.left),
        _ => {}
    }
    Sides::Operator(expr)
}

/// No product is an interval but by a call of [`times`].
fn may_be_span(expr: &Expr) -> bool {
    use Operator::{Divide, Modulo, Multiply};
    !matches!(expr, Expr::BinaryExpr(binary) if matches!(binary.op, Divide | Modulo | Multiply))
}

fn is_text(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(value, _) if value.data_type().is_string())
}

fn is_date(kind: &DataType) -> bool {
    matches!(kind, DataType::Date32 | DataType::Date64)
}

fn is_span(kind: &DataType) -> bool {
    matches!(kind, DataType::Interval(_) | DataType::Duration(_))
}

fn moment(date: Expr) -> Expr {
    cast_expr(date, DataType::Timestamp(TimeUnit::Microsecond, None))
}

/// A text of the statement that says a boolean, as that.
pub fn boolean(expr: Expr) -> Expr {
    let Expr::Literal(value, _) = &expr else { return expr };
    match value.try_as_str().flatten().and_then(meant) {
        Some(value) => lit(value),
        None => expr,
    }
}

/// As PostgreSQL reads booleans: any beginning of a word that no other has.
fn meant(text: &str) -> Option<bool> {
    let text = text.trim().to_ascii_lowercase();
    let is_beginning = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if text == "1" || is_beginning("true", 1) || is_beginning("yes", 1) || text == "on" {
        return Some(true);
    }
    (text == "0" || is_beginning("false", 1) || is_beginning("no", 1) || is_beginning("off", 2))
        .then_some(false)
}

/// `interval * number`
pub fn times() -> ScalarUDF {
    let interval = DataType::Interval(IntervalUnit::MonthDayNano);
    row_wise("kafscale_interval_times", 2, interval, |args, _| scaled(args, |part, number| part * number))
}

/// `interval / number`
pub fn over() -> ScalarUDF {
    let interval = DataType::Interval(IntervalUnit::MonthDayNano);
    row_wise("kafscale_interval_over", 2, interval, |args, _| {
        let divisors = cast(&args[1], &DataType::Float64)?;
        if divisors.as_primitive::<Float64Type>().iter().flatten().any(|divisor| divisor == 0.0) {
            return Err(SqlError::State { code: "22012", message: "division by zero".to_owned() }.into());
        }
        scaled(args, |part, number| part / number)
    })
}

fn scaled(args: &[ArrayRef], by: fn(f64, f64) -> f64) -> Result<ArrayRef> {
    let spans = cast(&args[0], &DataType::Interval(IntervalUnit::MonthDayNano))?;
    let numbers = cast(&args[1], &DataType::Float64)?;
    let (spans, numbers) =
        (spans.as_primitive::<IntervalMonthDayNanoType>(), numbers.as_primitive::<Float64Type>());
    let made = spans.iter().zip(numbers).map(|(span, number)| match (span, number) {
        (Some(span), Some(number)) => part_of(span, |part| by(part, number))
            .map(Some)
            .ok_or_else(|| SqlError::State { code: "22008", message: "interval out of range".to_owned() }),
        _ => Ok(None),
    });
    Ok(Arc::new(made.collect::<std::result::Result<IntervalMonthDayNanoArray, SqlError>>()?))
}

/// What is no whole month becomes days of a month of thirty, and what is no whole day becomes time, as in `interval_mul` of PostgreSQL.
fn part_of(span: IntervalMonthDayNano, scaled: impl Fn(f64) -> f64) -> Option<IntervalMonthDayNano> {
    const SECONDS_OF_DAY: f64 = 86_400.0;
    const NANOS: f64 = 1e9;
    let rounded = |seconds: f64| (seconds * 1e6).round() / 1e6;
    let whole = |number: f64| (number.abs() <= f64::from(i32::MAX)).then_some(number.trunc() as i32);
    let (months, days) = (scaled(f64::from(span.months)), scaled(f64::from(span.days)));
    let days_of_months = rounded(months.fract() * 30.0);
    let seconds = rounded((days.fract() + days_of_months.fract()) * SECONDS_OF_DAY);
    let carried = (seconds / SECONDS_OF_DAY).trunc();
    let days = whole(days)?.checked_add(whole(days_of_months)?)?.checked_add(whole(carried)?)?;
    let micros = (scaled(span.nanoseconds as f64) + (seconds - carried * SECONDS_OF_DAY) * NANOS) / 1e3;
    let nanoseconds = (micros.abs() < 9.2e15).then_some(micros.round() as i64 * 1_000)?;
    Some(IntervalMonthDayNano::new(whole(months)?, days, nanoseconds))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use datafusion::logical_expr::col;

    use super::*;

    fn made(left: Expr, op: BinaryOperator, right: Expr) -> String {
        let kinds = [
            ("d", DataType::Date32),
            ("s", DataType::Interval(IntervalUnit::MonthDayNano)),
            ("n", DataType::Int32),
            ("b", DataType::Boolean),
        ];
        let fields = kinds.map(|(name, kind)| Field::new(name, kind, true));
        let schema = DFSchema::try_from(Schema::new(fields.to_vec())).unwrap();
        match of(RawBinaryExpr { op, left, right }, &schema) {
            Sides::Operator(expr) => format!("{} {} {}", expr.left, expr.op, expr.right),
            Sides::Whole(expr) => expr.to_string(),
        }
    }

    #[test]
    fn sides_are_what_postgresql_takes_them_for() {
        use BinaryOperator::{Divide, Eq, Minus, Multiply, Plus};
        for (made, expected) in [
            (made(col("d"), Minus, col("s")), "CAST(d AS Timestamp(µs)) - s"),
            (made(col("s"), Plus, col("d")), "s + CAST(d AS Timestamp(µs))"),
            (made(col("d"), Plus, col("n")), "d + n"),
            (made(col("n"), Multiply, col("s")), "kafscale_interval_times(s, n)"),
            (made(col("s"), Divide, lit(2)), "kafscale_interval_over(s, Int32(2))"),
            (made(col("b"), Eq, lit("t")), "b = Boolean(true)"),
            (made(lit("OFF"), Eq, col("b")), "Boolean(false) = b"),
            (made(col("b"), Eq, lit("maybe")), "b = Utf8(\"maybe\")"),
        ] {
            assert_eq!(made, expected);
        }
        assert_eq!(
            (meant("o"), meant("of"), meant(" Tr "), meant("")),
            (None, Some(false), Some(true), None)
        );
    }

    #[test]
    fn intervals_are_scaled_as_in_postgresql() {
        let hours = |hours: i64| hours * 3_600_000_000_000;
        for (span, factor, expected) in [
            ((0, 1, 0), 2.0, (0, 2, 0)),
            ((0, 1, 0), 0.5, (0, 0, hours(12))),
            ((1, 0, 0), 1.5, (1, 15, 0)),
            ((1, 1, hours(1)), -1.0, (-1, -1, -hours(1))),
            ((7, 3, 0), 0.1, (0, 21, hours(7) + hours(1) / 5)),
            ((0, 0, hours(30)), 0.5, (0, 0, hours(15))),
        ] {
            let (months, days, nanos) = span;
            let made = part_of(IntervalMonthDayNano::new(months, days, nanos), |part| part * factor).unwrap();
            assert_eq!((made.months, made.days, made.nanoseconds), expected, "{span:?} * {factor}");
        }
        assert!(part_of(IntervalMonthDayNano::new(1_000, 0, 0), |part| part * 1e9).is_none());
    }
}
