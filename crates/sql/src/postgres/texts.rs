//! Texts of values, and values of texts, as PostgreSQL writes and reads them, once types are known.
//!
//! The engine's casts write `7.0`, `2024-06-01T10:00:00Z` and `[0, 1]`, where PostgreSQL writes `7`, `2024-06-01 10:00:00+00`
//! and `{0,1}`; and read no time without seconds. Casts stand also where texts are put together (`||`, `concat`, `string_agg`).

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, DurationMicrosecondType, Float32Type, Float64Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit,
};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{Cast, TryCast};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{Expr, ExprSchemable as _, ScalarUDF, cast as cast_expr, lit};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::function_rewrite::ApplyFunctionRewrites;

use super::casts;
use super::scalar::{row_wise, utf8};
use crate::growth;
use crate::server::text;

/// The name of the function that writes.
pub const TEXT: &str = "kafscale_text";
const MOMENT: &str = "kafscale_moment";
const LOCAL: &str = "kafscale_local_moment";
const DAY: &str = "kafscale_day";

/// The rule, which is to come when all casts are there.
pub fn rule() -> Arc<dyn AnalyzerRule + Send + Sync> {
    Arc::new(ApplyFunctionRewrites::new(vec![Arc::new(Casts)]))
}

#[derive(Debug)]
struct Casts;

impl FunctionRewrite for Casts {
    fn name(&self) -> &'static str {
        "postgres_texts"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        Ok(match expr {
            Expr::Cast(Cast { expr, field }) => match meant(*expr, field.data_type(), schema) {
                Meant::Text(expr) => Transformed::yes(expr),
                Meant::Cast(expr, is_changed) => {
                    let cast = Expr::Cast(Cast { expr: Box::new(expr), field });
                    Transformed::new_transformed(cast, is_changed)
                }
            },
            Expr::TryCast(TryCast { expr, field }) => match meant(*expr, field.data_type(), schema) {
                Meant::Text(expr) => Transformed::yes(expr),
                Meant::Cast(expr, is_changed) => {
                    let cast = Expr::TryCast(TryCast { expr: Box::new(expr), field });
                    Transformed::new_transformed(cast, is_changed)
                }
            },
            other => Transformed::no(other),
        })
    }
}

enum Meant {
    /// Instead of the cast.
    Text(Expr),
    /// What is cast, and whether it is another.
    Cast(Expr, bool),
}

fn meant(expr: Expr, target: &DataType, schema: &DFSchema) -> Meant {
    let Ok(kind) = expr.get_type(schema) else { return Meant::Cast(expr, false) };
    if target.is_string() && is_written(&kind) {
        let text = growth::as_text().call(vec![expr]);
        return Meant::Text(cast_expr(text, target.clone()));
    }
    let read = match target {
        DataType::Timestamp(_, Some(_)) => MOMENT,
        DataType::Timestamp(_, None) => LOCAL,
        DataType::Date32 | DataType::Date64 => DAY,
        // By its digits: what a double is beyond those would be among the numeric's.
        kind_of if kind_of.is_decimal() && kind.is_floating() => {
            return Meant::Cast(decimal_text().call(vec![expr]), true);
        }
        _ => return Meant::Cast(expr, false),
    };
    if !kind.is_string() {
        return Meant::Cast(expr, false);
    }
    match &expr {
        Expr::Literal(value, _) => {
            let text = value.try_as_str().flatten();
            match text.and_then(|text| Some((text, iso(text, read)?))) {
                Some((text, made)) if text != made => Meant::Cast(lit(made), true),
                _ => Meant::Cast(expr, false),
            }
        }
        Expr::ScalarFunction(call) if call.name() == read => Meant::Cast(expr, false),
        _ => Meant::Cast(reader(read).call(vec![expr]), true),
    }
}

fn is_written(kind: &DataType) -> bool {
    match kind {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::Timestamp(..) | DataType::Time32(_) | DataType::Time64(_) => true,
        DataType::Interval(_) | DataType::Duration(_) => true,
        DataType::List(item) => is_item(item.data_type()),
        _ => false,
    }
}

/// Items of lists that are written.
fn is_item(kind: &DataType) -> bool {
    let is_plain = matches!(
        kind,
        DataType::Boolean | DataType::Date32 | DataType::Utf8 | DataType::Utf8View | DataType::Null
    );
    is_plain || kind.is_integer() || kind.is_decimal() || is_written(kind)
}

pub fn all() -> Vec<Arc<ScalarUDF>> {
    [as_text(), decimal_text(), reader(MOMENT), reader(LOCAL), reader(DAY)].map(Arc::new).into()
}

/// Doubles with the fifteen digits that PostgreSQL makes a numeric of, and six of a real.
fn decimal_text() -> ScalarUDF {
    row_wise("kafscale_decimal_text", 1, DataType::Utf8, |args, _| {
        let digits = if *args[0].data_type() == DataType::Float64 { 15 } else { 6 };
        let doubles = cast(&args[0], &DataType::Float64)?;
        let doubles = doubles.as_primitive::<Float64Type>().iter();
        Ok(Arc::new(doubles.map(|value| value.map(|value| decimal(value, digits))).collect::<StringArray>()))
    })
}

/// Without an exponent.
fn decimal(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let mantissa = mantissa.replace('.', "");
    let significant = mantissa.trim_end_matches('0');
    let exponent: i32 = exponent.parse().unwrap_or_default();
    match usize::try_from(exponent) {
        Ok(before) if significant.len() > before + 1 => {
            format!("{sign}{}.{}", &significant[..=before], &significant[before + 1..])
        }
        Ok(before) => format!("{sign}{significant:0<width$}", width = before + 1),
        Err(_) => format!("{sign}0.{}{significant}", "0".repeat(exponent.unsigned_abs() as usize - 1)),
    }
}

/// The function that writes.
pub fn as_text() -> ScalarUDF {
    row_wise(TEXT, 1, DataType::Utf8, |args, _| Ok(Arc::new(written(&args[0])?)))
}

fn reader(name: &'static str) -> ScalarUDF {
    match name {
        MOMENT => row_wise(MOMENT, 1, DataType::Utf8, |args, _| read(&args[0], MOMENT)),
        LOCAL => row_wise(LOCAL, 1, DataType::Utf8, |args, _| read(&args[0], LOCAL)),
        _ => row_wise(DAY, 1, DataType::Utf8, |args, _| read(&args[0], DAY)),
    }
}

fn read(texts: &ArrayRef, name: &'static str) -> Result<ArrayRef> {
    let texts = utf8(texts)?;
    // What is not understood is told of by the cast.
    let made = texts.iter().map(|text| text.map(|text| iso(text, name).unwrap_or_else(|| text.to_owned())));
    Ok(Arc::new(made.collect::<StringArray>()))
}

/// The text of one value.
pub fn of(value: &ArrayRef) -> Option<String> {
    let text = written(value).ok()?;
    text.is_valid(0).then(|| text.value(0).to_owned())
}

/// What lies between two moments: days, and the rest.
fn difference(micros: i64) -> String {
    const DAY: i64 = 86_400_000_000;
    let days = i32::try_from(micros / DAY).unwrap_or(i32::MAX);
    interval(IntervalMonthDayNano::new(0, days, micros % DAY * 1_000))
}

/// A text as PostgreSQL writes it, of each value.
fn written(values: &ArrayRef) -> Result<StringArray> {
    let each = |of: &dyn Fn(usize) -> Result<String>| {
        let one = |row: usize| values.is_valid(row).then(|| of(row)).transpose();
        (0..values.len()).map(one).collect::<Result<StringArray>>()
    };
    match values.data_type() {
        DataType::Float16 | DataType::Float32 => {
            let floats = cast(values, &DataType::Float32)?;
            let floats = floats.as_primitive::<Float32Type>();
            each(&|row| Ok(text::float(floats.value(row), 6)))
        }
        DataType::Float64 => {
            let floats = values.as_primitive::<Float64Type>();
            each(&|row| Ok(text::float(floats.value(row), 15)))
        }
        DataType::Timestamp(_, zone) => {
            // Of other zones, too, times are given in UTC.
            let zone = zone.as_ref().map(|_| "UTC".into());
            let times = cast(values, &DataType::Timestamp(TimeUnit::Microsecond, zone))?;
            each(&|row| Ok(text::of(&times, row).unwrap_or_default()))
        }
        DataType::Time32(_) | DataType::Time64(_) => {
            let times = cast(values, &DataType::Time64(TimeUnit::Microsecond))?;
            let times = times.as_primitive::<Time64MicrosecondType>();
            each(&|row| Ok(clock(times.value(row))))
        }
        DataType::Duration(_) => {
            let spans = cast(values, &DataType::Duration(TimeUnit::Microsecond))?;
            let spans = spans.as_primitive::<DurationMicrosecondType>();
            each(&|row| Ok(difference(spans.value(row))))
        }
        DataType::Interval(_) => {
            let spans = cast(values, &DataType::Interval(IntervalUnit::MonthDayNano))?;
            let spans = spans.as_primitive::<IntervalMonthDayNanoType>();
            each(&|row| Ok(interval(spans.value(row))))
        }
        DataType::Boolean => {
            let values = values.as_boolean();
            each(&|row| Ok(if values.value(row) { "t" } else { "f" }.to_owned()))
        }
        DataType::List(_) => {
            let lists = values.as_list::<i32>();
            each(&|row| {
                let items = written(&lists.value(row))?;
                let is_list = matches!(lists.value_type(), DataType::List(_));
                let item = |item: Option<&str>| match item {
                    None => "NULL".to_owned(),
                    Some(item) if is_list => item.to_owned(),
                    Some(item) => in_list(item),
                };
                Ok(format!("{{{}}}", items.iter().map(item).collect::<Vec<_>>().join(",")))
            })
        }
        _ => utf8(values),
    }
}

/// In quotes where it has letters that mean something in a list.
fn in_list(item: &str) -> String {
    let is_special = |c: char| matches!(c, '{' | '}' | ',' | '"' | '\\') || c.is_ascii_whitespace();
    if item.is_empty() || item.contains(is_special) || item.eq_ignore_ascii_case("null") {
        return format!("\"{}\"", item.replace('\\', "\\\\").replace('"', "\\\""));
    }
    item.to_owned()
}

fn clock(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let whole = format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match fraction {
        0 => whole,
        fraction => format!("{whole}.{}", format!("{fraction:06}").trim_end_matches('0')),
    }
}

/// `1 year 2 mons 3 days 04:05:06.7`; a part behind a negative one has its sign.
fn interval(span: IntervalMonthDayNano) -> String {
    let mut parts = Vec::new();
    let mut was_negative = false;
    for (count, unit) in [(span.months / 12, "year"), (span.months % 12, "mon"), (span.days, "day")] {
        if count != 0 {
            let sign = if was_negative && count > 0 { "+" } else { "" };
            parts.push(format!("{sign}{count} {unit}{}", if count == 1 { "" } else { "s" }));
            was_negative = count < 0;
        }
    }
    let micros = span.nanoseconds / 1_000;
    if micros != 0 || parts.is_empty() {
        let sign = if micros < 0 {
            "-"
        } else if was_negative {
            "+"
        } else {
            ""
        };
        parts.push(format!("{sign}{}", clock(micros.abs())));
    }
    parts.join(" ")
}

/// A date and a time of ISO 8601, as PostgreSQL takes them (its manual, date/time input), in the one form that the engine reads.
/// A moment without a zone is as the text shows it, whatever zone stands behind it; a day is without its time.
fn iso(text: &str, read: &str) -> Option<String> {
    let text = text.trim();
    let (date, rest) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], text[at + 1..].trim_start()),
        None => (text, ""),
    };
    let date = day(date)?;
    let (time, zone) = clock_of(rest)?;
    if read == DAY {
        return Some(date);
    }
    if time.is_empty() && zone.is_empty() {
        return Some(date);
    }
    let time = if time.is_empty() { "00:00:00".to_owned() } else { time };
    let zone = if read == LOCAL { String::new() } else { offset(zone)? };
    Some(format!("{date}T{time}{zone}"))
}

fn number(text: &str, digits: std::ops::RangeInclusive<usize>, most: u32) -> Option<u32> {
    let is_number = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?.filter(|number| *number <= most)
}

fn day(text: &str) -> Option<String> {
    let (year, month, day) = match text.split('-').collect::<Vec<_>>()[..] {
        [year, month, day] => (year, month, day),
        [plain] if plain.len() == 8 && plain.is_ascii() => (&plain[..4], &plain[4..6], &plain[6..]),
        _ => return None,
    };
    let (year, month, day) =
        (number(year, 4..=4, 9_999)?, number(month, 1..=2, 12)?, number(day, 1..=2, 31)?);
    Some(format!("{year:04}-{month:02}-{day:02}"))
}

/// Hours, minutes and seconds, and what stands behind them.
fn clock_of(text: &str) -> Option<(String, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.').unwrap_or(text.len());
    let (time, zone) = (&text[..end], text[end..].trim());
    if time.is_empty() {
        return Some((String::new(), zone));
    }
    let mut parts = time.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next().unwrap_or("00"));
    if parts.next().is_some() {
        return None;
    }
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let (hours, minutes) = (number(hours, 1..=2, 23)?, number(minutes, 2..=2, 59)?);
    let seconds = number(seconds, 1..=2, 59)?;
    let whole = format!("{hours:02}:{minutes:02}:{seconds:02}");
    if fraction.is_empty() {
        return Some((whole, zone));
    }
    // Nine digits are as many as the engine has.
    number(&fraction[..fraction.len().min(9)], 1..=9, u32::MAX)?;
    Some((format!("{whole}.{}", &fraction[..fraction.len().min(9)]), zone))
}

fn offset(zone: &str) -> Option<String> {
    match zone.to_ascii_uppercase().as_str() {
        "" => return Some(String::new()),
        "Z" | "UTC" | "GMT" => return Some("Z".to_owned()),
        _ => {}
    }
    let Some(digits) = zone.strip_prefix(['+', '-']) else {
        // A name.
        let is_name = zone.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '/' | '_'));
        return is_name.then(|| format!(" {zone}"));
    };
    let (hours, minutes) = match digits.split_once(':') {
        Some(parts) => parts,
        None if digits.len() == 4 && digits.is_ascii() => digits.split_at(2),
        None => (digits, "00"),
    };
    let (hours, minutes) = (number(hours, 1..=2, 15)?, number(minutes, 2..=2, 59)?);
    Some(format!("{}{hours:02}:{minutes:02}", &zone[..1]))
}

/// The value of a text as a client sends it.
pub fn value_of(text: &str, target: &DataType) -> Option<ScalarValue> {
    let read = match target {
        DataType::Timestamp(_, Some(_)) => MOMENT,
        DataType::Timestamp(_, None) => LOCAL,
        DataType::Date32 => DAY,
        DataType::Interval(_) => {
            let text = ScalarValue::Utf8(Some(casts::interval(text)));
            return text.cast_to(target).ok().filter(|value| !value.is_null());
        }
        _ => return None,
    };
    ScalarValue::Utf8(Some(iso(text, read)?)).cast_to(target).ok().filter(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Float64Array, ListBuilder, StringBuilder, Time64MicrosecondArray, TimestampMillisecondArray,
    };
    use datafusion::execution::session_state::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    use super::*;

    #[test]
    fn moments_are_read_in_the_forms_of_postgresql() {
        for (text, moment, local, day) in [
            ("2024-06-01 10:00", "2024-06-01T10:00:00", "2024-06-01T10:00:00", "2024-06-01"),
            ("2024-06-01T10:00Z", "2024-06-01T10:00:00Z", "2024-06-01T10:00:00", "2024-06-01"),
            (" 2024-6-1 9:05+02 ", "2024-06-01T09:05:00+02:00", "2024-06-01T09:05:00", "2024-06-01"),
            (
                "20240601 10:00:01.5 -0330",
                "2024-06-01T10:00:01.5-03:30",
                "2024-06-01T10:00:01.5",
                "2024-06-01",
            ),
            ("2024-06-01", "2024-06-01", "2024-06-01", "2024-06-01"),
            (
                "2024-06-01 10:00 Asia/Tokyo",
                "2024-06-01T10:00:00 Asia/Tokyo",
                "2024-06-01T10:00:00",
                "2024-06-01",
            ),
            ("2024-06-01+02", "", "", ""),
        ] {
            let found = [MOMENT, LOCAL, DAY].map(|read| iso(text, read).unwrap_or_default());
            assert_eq!(found, [moment, local, day], "{text}");
        }
        for wrong in
            ["2024-13-01", "10:00", "2024-06-01 25:00", "2024-06-01 10", "2024-06-01 10:00:00:00", "now", ""]
        {
            assert_eq!(iso(wrong, MOMENT), None, "{wrong}");
        }
        let moment = |text| value_of(text, &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
        assert_eq!(moment("2024-06-01 10:00+02"), moment("2024-06-01T08:00:00Z"));
        assert!(moment("2024-06-01 10:00+02").is_some() && moment("tomorrow").is_none());
        let span = value_of("3 days, 0:00:05.000007", &DataType::Interval(IntervalUnit::MonthDayNano));
        let expected = IntervalMonthDayNano::new(0, 3, 5_000_007_000);
        assert_eq!(span, Some(ScalarValue::IntervalMonthDayNano(Some(expected))));
    }

    #[test]
    fn values_are_written_as_postgresql_writes_them() {
        let text = |array: ArrayRef| written(&array).unwrap().value(0).to_owned();
        assert_eq!(text(Arc::new(Float64Array::from(vec![7.0]))), "7");
        assert_eq!(text(Arc::new(Float64Array::from(vec![1e20]))), "1e+20");
        let moment = TimestampMillisecondArray::from(vec![1_700_000_000_500]);
        assert_eq!(text(Arc::new(moment.clone())), "2023-11-14 22:13:20.5");
        assert_eq!(text(Arc::new(moment.with_timezone("UTC"))), "2023-11-14 22:13:20.5+00");
        assert_eq!(text(Arc::new(Time64MicrosecondArray::from(vec![36_000_500_000]))), "10:00:00.5");
        let mut list = ListBuilder::new(StringBuilder::new());
        for item in [Some("a"), Some("b c"), None, Some("null"), Some("q\"\\"), Some("")] {
            list.values().append_option(item);
        }
        list.append(true);
        assert_eq!(text(Arc::new(list.finish())), r#"{a,"b c",NULL,"null","q\"\\",""}"#);
        for (months, days, nanos, expected) in [
            (27, 0, 0, "2 years 3 mons"),
            (1, 1, 3_600_000_000_000, "1 mon 1 day 01:00:00"),
            (-1, 2, -1_500_000_000, "-1 mons +2 days -00:00:01.5"),
            (0, 0, 0, "00:00:00"),
            (0, -1, 3_600_000_000_000, "-1 days +01:00:00"),
        ] {
            assert_eq!(interval(IntervalMonthDayNano::new(months, days, nanos)), expected);
        }
    }

    #[test]
    fn doubles_become_numerics_by_their_digits() {
        for (value, digits, expected) in [
            (746_942.68, 15, "746942.68"),
            (1e20, 15, "100000000000000000000"),
            (-0.000_12, 15, "-0.00012"),
            (0.0, 15, "0"),
            (f64::from(0.1_f32), 6, "0.1"),
            (0.1 + 0.2, 15, "0.3"),
            (1234.0, 15, "1234"),
        ] {
            assert_eq!(decimal(value, digits), expected);
        }
    }

    #[tokio::test]
    async fn casts_that_a_statement_has_are_those_of_postgresql() {
        let mut state = SessionStateBuilder::new().with_default_features().build();
        let mut rules = state.analyzer().rules.clone();
        rules.push(rule());
        state = SessionStateBuilder::new_from_existing(state).with_analyzer_rules(rules).build();
        let context = SessionContext::new_with_state(state);
        for (sql, expected) in [
            ("CAST(CAST(5 AS double) AS varchar)", "5"),
            ("concat('x', CAST(0.5 AS double))", "x0.5"),
            ("CAST(a AS varchar)", "2024-06-01 10:00:00"),
            ("a || ''", "2024-06-01 10:00:00"),
            ("CAST(CAST(t AS timestamp) AS varchar)", "2024-06-01 08:30:00"),
            ("CAST(a >= '2024-06-01 10:00' AS varchar)", "true"),
            ("CAST(a < '2024-06-01 10:00' AS varchar)", "false"),
            ("CAST(a IN ('2024-06-01 10:00') AS varchar)", "true"),
            ("CAST(a BETWEEN '2024-06-01 9:00' AND '2024-06-01 11:00' AS varchar)", "true"),
            ("CAST(make_array(1, 2) AS varchar)", "{1,2}"),
            ("CAST(CAST(746942.68 AS decimal(38, 10)) AS varchar)", "746942.6800000000"),
        ] {
            let sql = format!(
                "SELECT {sql} AS x FROM (SELECT timestamp '2024-06-01 10:00' AS a, '2024-06-01 8:30' AS t) AS r"
            );
            let batches = context.sql(&sql).await.unwrap().collect().await.unwrap();
            assert_eq!(utf8(batches[0].column(0)).unwrap().value(0), expected, "{sql}");
        }
    }
}
