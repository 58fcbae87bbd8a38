//! Functions of PostgreSQL that the engine does not have, or that do something else there, worked out row by row.

use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array,
    IntervalMonthDayNanoArray, ListBuilder, StringArray, StringBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, Float64Type, Int64Type, IntervalMonthDayNano, IntervalUnit, TimeUnit,
    TimestampMicrosecondType,
};
use chrono::Datelike as _;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::functions::quoted;
use super::{json, json_edit, to_char, types};
use crate::error::SqlError;

/// Gives the values of all rows.
pub type Work = fn(&[ArrayRef], usize) -> Result<ArrayRef>;

pub fn all() -> Vec<Arc<ScalarUDF>> {
    use DataType::{Boolean, Float64, Int32, Int64, Utf8};
    let texts = || DataType::List(Arc::new(Field::new_list_field(Utf8, true)));
    let functions: Vec<(&'static str, Option<usize>, DataType, Work)> = vec![
        ("length", Some(1), Int32, |args, _| lengths(args, Unit::Characters)),
        ("octet_length", Some(1), Int32, |args, _| lengths(args, Unit::Bytes)),
        ("bit_length", Some(1), Int32, |args, _| lengths(args, Unit::Bits)),
        ("format", None, Utf8, format_rows),
        ("quote_literal", Some(1), Utf8, |args, _| each_text(&args[0], |text| Some(literal(text)))),
        ("quote_nullable", Some(1), Utf8, |args, rows| {
            let texts = utf8(&args[0])?;
            let value = |row| if texts.is_valid(row) { literal(texts.value(row)) } else { "NULL".to_owned() };
            Ok(Arc::new((0..rows).map(|row| Some(value(row))).collect::<StringArray>()))
        }),
        ("parse_ident", Some(1), texts(), |args, _| each_list(&args[0], parse_ident)),
        ("regexp_split_to_array", Some(2), texts(), regexp_split),
        ("array_lower", Some(2), Int64, |args, rows| bounds(&args[0], rows, |_| 1)),
        ("array_upper", Some(2), Int64, |args, rows| {
            bounds(&args[0], rows, |length| i64::try_from(length).unwrap_or(i64::MAX))
        }),
        ("age", Some(2), DataType::Interval(IntervalUnit::MonthDayNano), ages),
        ("pg_size_pretty", Some(1), Utf8, |args, _| {
            let bytes = cast(&args[0], &Int64)?;
            let sizes = bytes.as_primitive::<Int64Type>().iter().map(|bytes| bytes.map(pretty));
            Ok(Arc::new(sizes.collect::<StringArray>()))
        }),
        ("pg_typeof", Some(1), Utf8, |args, rows| {
            let name = types::name_of(args[0].data_type());
            Ok(Arc::new(StringArray::from(vec![name; rows])))
        }),
        ("mod", Some(2), Int64, |args, rows| integers(args, rows, i64::checked_rem)),
        ("div", Some(2), Int64, |args, rows| integers(args, rows, i64::checked_div)),
        ("width_bucket", Some(4), Int32, width_bucket),
        ("to_number", Some(2), Float64, |args, _| {
            let texts = utf8(&args[0])?;
            Ok(Arc::new(texts.iter().map(|text| text.and_then(number)).collect::<Float64Array>()))
        }),
        ("convert_from", Some(2), Utf8, convert_from),
        ("convert_to", Some(2), DataType::Binary, |args, _| {
            Ok(cast(&cast(&args[0], &Utf8)?, &DataType::Binary)?)
        }),
        ("isfinite", Some(1), Boolean, |args, rows| {
            let valid = |row| args[0].is_valid(row).then_some(true);
            Ok(Arc::new((0..rows).map(valid).collect::<BooleanArray>()))
        }),
        ("to_char", Some(2), Utf8, to_char::to_char),
        ("json_array_length", Some(1), Int32, |args, _| {
            let texts = utf8(&args[0])?;
            Ok(Arc::new(texts.iter().map(|text| text.and_then(json::length)).collect::<Int32Array>()))
        }),
        ("json_typeof", Some(1), Utf8, |args, _| {
            each_text(&args[0], |text| json::kind(text).map(str::to_owned))
        }),
        ("kafscale_uuid", Some(1), Utf8, |args, _| {
            let texts = utf8(&args[0])?;
            let ids = texts.iter().map(|text| text.map(uuid).transpose());
            Ok(Arc::new(ids.collect::<Result<StringArray>>()?))
        }),
        ("kafscale_json_items", Some(1), texts(), |args, _| each_list(&args[0], json::items)),
        ("kafscale_json_item_texts", Some(1), texts(), |args, _| each_list(&args[0], json::item_texts)),
        ("kafscale_json_keys", Some(1), texts(), |args, _| each_list(&args[0], json::keys)),
    ];
    let function = |(name, count, returns, work)| ScalarUDF::from(RowWise::new(name, count, returns, work));
    functions
        .into_iter()
        .map(function)
        .chain([contains(), has(), has_any(), has_all()])
        .map(Arc::new)
        .collect()
}

fn uuid(text: &str) -> Result<String> {
    let message = || format!("invalid input syntax for type uuid: \"{text}\"");
    let id = uuid::Uuid::try_parse(text.trim());
    let id = id.map_err(|_| SqlError::State { code: "22P02", message: message() })?;
    Ok(id.hyphenated().to_string())
}

/// A function of one row at a time, whose values have one type.
pub fn row_wise(name: &'static str, count: usize, returns: DataType, work: Work) -> ScalarUDF {
    ScalarUDF::from(RowWise::new(name, Some(count), returns, work))
}

/// The same of any number of arguments.
pub fn row_wise_of_all(name: &'static str, returns: DataType, work: Work) -> ScalarUDF {
    ScalarUDF::from(RowWise::new(name, None, returns, work))
}

/// `@>` of JSON.
pub fn contains() -> ScalarUDF {
    let work: Work = |args, rows| json_test(args, rows, json::contains);
    ScalarUDF::from(RowWise::new("kafscale_json_contains", Some(2), DataType::Boolean, work))
}

/// `?` of JSON.
pub fn has() -> ScalarUDF {
    let work: Work = |args, rows| json_test(args, rows, json::has);
    ScalarUDF::from(RowWise::new("kafscale_json_has", Some(2), DataType::Boolean, work))
}

/// `?|` of JSON.
pub fn has_any() -> ScalarUDF {
    let work: Work = |args, rows| names_test(args, rows, |has| has.contains(&true));
    ScalarUDF::from(RowWise::new("kafscale_json_has_any", Some(2), DataType::Boolean, work))
}

/// `?&` of JSON.
pub fn has_all() -> ScalarUDF {
    let work: Work = |args, rows| names_test(args, rows, |has| !has.contains(&false));
    ScalarUDF::from(RowWise::new("kafscale_json_has_all", Some(2), DataType::Boolean, work))
}

fn names_test(args: &[ArrayRef], rows: usize, test: fn(&[bool]) -> bool) -> Result<ArrayRef> {
    let json = utf8(&args[0])?;
    let names = match args[1].data_type() {
        DataType::List(_) => None,
        _ => Some(utf8(&args[1])?),
    };
    let value = |row: usize| -> Result<Option<bool>> {
        if json.is_null(row) || args[1].is_null(row) {
            return Ok(None);
        }
        let names = match &names {
            Some(texts) => json_edit::steps(texts.value(row)).unwrap_or_default(),
            None => {
                let names = utf8(&args[1].as_list::<i32>().value(row))?;
                names.iter().flatten().map(str::to_owned).collect()
            }
        };
        let found: Option<Vec<bool>> = names.iter().map(|name| json::has(json.value(row), name)).collect();
        Ok(found.map(|found| test(&found)))
    };
    Ok(Arc::new((0..rows).map(value).collect::<Result<BooleanArray>>()?))
}

fn json_test(args: &[ArrayRef], rows: usize, test: fn(&str, &str) -> Option<bool>) -> Result<ArrayRef> {
    let (left, right) = (utf8(&args[0])?, utf8(&args[1])?);
    let value = |row: usize| {
        let both = left.is_valid(row) && right.is_valid(row);
        both.then(|| test(left.value(row), right.value(row)))?
    };
    Ok(Arc::new((0..rows).map(value).collect::<BooleanArray>()))
}

#[derive(Debug)]
struct RowWise {
    name: &'static str,
    returns: DataType,
    work: Work,
    signature: Signature,
}

impl RowWise {
    fn new(name: &'static str, count: Option<usize>, returns: DataType, work: Work) -> RowWise {
        let types = count.map_or(TypeSignature::VariadicAny, TypeSignature::Any);
        RowWise { name, returns, work, signature: Signature::new(types, Volatility::Immutable) }
    }
}

/// One function has a name.
impl PartialEq for RowWise {
    fn eq(&self, other: &RowWise) -> bool {
        self.name == other.name
    }
}

impl Eq for RowWise {}

impl std::hash::Hash for RowWise {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for RowWise {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<ArrayRef>>>()?;
        let values = (self.work)(&arrays, rows)?;
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&values, 0)?)),
            false => Ok(ColumnarValue::Array(values)),
        }
    }
}

pub fn utf8(array: &ArrayRef) -> Result<StringArray> {
    Ok(cast(array, &DataType::Utf8)?.as_string::<i32>().clone())
}

fn each_text(array: &ArrayRef, of: impl Fn(&str) -> Option<String>) -> Result<ArrayRef> {
    Ok(Arc::new(utf8(array)?.iter().map(|text| text.and_then(&of)).collect::<StringArray>()))
}

fn each_list(array: &ArrayRef, of: impl Fn(&str) -> Option<Vec<String>>) -> Result<ArrayRef> {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for text in &utf8(array)? {
        match text.and_then(&of) {
            Some(items) => {
                items.iter().for_each(|item| lists.values().append_value(item));
                lists.append(true);
            }
            None => lists.append(false),
        }
    }
    Ok(Arc::new(lists.finish()))
}

#[derive(Clone, Copy)]
enum Unit {
    Characters,
    Bytes,
    Bits,
}

/// Of text, and of bytes, which are their own characters.
fn lengths(args: &[ArrayRef], unit: Unit) -> Result<ArrayRef> {
    let scaled = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let of_bytes = |bytes: &[u8]| match unit {
        Unit::Characters | Unit::Bytes => scaled(bytes.len()),
        Unit::Bits => scaled(bytes.len().saturating_mul(8)),
    };
    let of_text = |text: &str| match unit {
        Unit::Characters => scaled(text.chars().count()),
        Unit::Bytes | Unit::Bits => of_bytes(text.as_bytes()),
    };
    let array = &args[0];
    let counts: Int32Array = match array.data_type() {
        DataType::Utf8View => array.as_string_view().iter().map(|text| text.map(of_text)).collect(),
        DataType::BinaryView => array.as_binary_view().iter().map(|bytes| bytes.map(of_bytes)).collect(),
        DataType::Binary => array.as_binary::<i32>().iter().map(|bytes| bytes.map(of_bytes)).collect(),
        DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
            let bytes = cast(array, &DataType::Binary)?;
            bytes.as_binary::<i32>().iter().map(|bytes| bytes.map(of_bytes)).collect()
        }
        _ => utf8(array)?.iter().map(|text| text.map(of_text)).collect(),
    };
    Ok(Arc::new(counts))
}

/// A text in quotes, as a statement has it.
fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    match text.contains('\\') {
        true => format!("E'{}'", doubled.replace('\\', "\\\\")),
        false => format!("'{doubled}'"),
    }
}

/// `format('%s of %I is %L', …)`; widths and places (`%1$s`) as well.
fn format_rows(args: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let texts = args.iter().map(utf8).collect::<Result<Vec<StringArray>>>()?;
    let Some((formats, values)) = texts.split_first() else {
        return Err(SqlError::BadValue("format needs a format".to_owned()).into());
    };
    let line = |row: usize| {
        let value = |at: usize| values.get(at).map(|texts| texts.is_valid(row).then(|| texts.value(row)));
        formats.is_valid(row).then(|| formatted(formats.value(row), value)).transpose()
    };
    Ok(Arc::new((0..rows).map(line).collect::<std::result::Result<StringArray, SqlError>>()?))
}

fn formatted<'a>(
    format: &str,
    value: impl Fn(usize) -> Option<Option<&'a str>>,
) -> std::result::Result<String, SqlError> {
    let bad = |why: &str| SqlError::State { code: "22023", message: why.to_owned() };
    let (mut out, mut next) = (String::new(), 0);
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix('%') {
            out.push('%');
            rest = behind;
            continue;
        }
        let end = rest.find(['s', 'I', 'L']).ok_or_else(|| bad("unterminated format() type specifier"))?;
        let (spec, kind) = (&rest[..end], &rest[end..=end]);
        rest = &rest[end + 1..];
        let (place, width) = match spec.split_once('$') {
            Some((place, width)) => (place.parse::<usize>().ok(), width),
            None => (None, spec),
        };
        let at = place.map_or(next, |place| place.saturating_sub(1));
        next = at + 1;
        let value = value(at).ok_or_else(|| bad("too few arguments for format()"))?;
        let text = match (kind, value) {
            ("s", value) => value.unwrap_or_default().to_owned(),
            ("L", None) => "NULL".to_owned(),
            ("L", Some(value)) => literal(value),
            (_, Some(value)) => quoted(value),
            (_, None) => return Err(bad("null values cannot be formatted as an SQL identifier")),
        };
        let left = width.starts_with('-');
        let width: usize = match width.trim_start_matches('-') {
            "" => 0,
            digits => digits.parse().map_err(|_| bad("unrecognized format() type specifier"))?,
        };
        if width > 10_000 {
            return Err(bad("a width in format() is at most 10000"));
        }
        out.push_str(&if left { format!("{text:<width$}") } else { format!("{text:>width$}") });
    }
    out.push_str(rest);
    Ok(out)
}

/// `a."B c"` is `{a,"B c"}`.
pub fn parse_ident(text: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let (mut in_quotes, mut was_quoted) = (false, false);
    for c in text.trim().chars() {
        let part = parts.last_mut()?;
        match c {
            '"' if in_quotes => in_quotes = false,
            '"' => {
                // Two of them are one.
                if was_quoted {
                    part.push('"');
                }
                (in_quotes, was_quoted) = (true, true);
            }
            '.' if !in_quotes => {
                parts.push(String::new());
                was_quoted = false;
            }
            c if in_quotes => part.push(c),
            c => part.extend(c.to_lowercase()),
        }
    }
    (!in_quotes).then_some(parts)
}

fn regexp_split(args: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let (texts, patterns) = (utf8(&args[0])?, utf8(&args[1])?);
    let mut lists = ListBuilder::new(StringBuilder::new());
    let mut last: Option<(String, regex::Regex)> = None;
    for row in 0..rows {
        if texts.is_null(row) || patterns.is_null(row) {
            lists.append(false);
            continue;
        }
        let pattern = patterns.value(row);
        if last.as_ref().is_none_or(|(known, _)| known != pattern) {
            let message = |e: regex::Error| format!("invalid regular expression: {e}");
            let made = regex::Regex::new(pattern)
                .map_err(|e| SqlError::State { code: "2201B", message: message(e) })?;
            last = Some((pattern.to_owned(), made));
        }
        if let Some((_, pattern)) = &last {
            pattern.split(texts.value(row)).for_each(|part| lists.values().append_value(part));
        }
        lists.append(true);
    }
    Ok(Arc::new(lists.finish()))
}

fn pretty(bytes: i64) -> String {
    let (mut size, mut unit) = (bytes, "bytes");
    for larger in ["kB", "MB", "GB", "TB", "PB"] {
        if size.abs() < 10 * 1_024 {
            break;
        }
        (size, unit) = ((size + 512) / 1_024, larger);
    }
    format!("{size} {unit}")
}

/// Of lists with items.
fn bounds(array: &ArrayRef, rows: usize, of: impl Fn(usize) -> i64) -> Result<ArrayRef> {
    let lists = match array.data_type() {
        DataType::Null => return Ok(Arc::new(Int64Array::new_null(rows))),
        DataType::List(item) => cast(array, &DataType::List(Arc::clone(item)))?,
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            cast(array, &DataType::List(Arc::clone(item)))?
        }
        _ => return Err(SqlError::BadValue("this is no array".to_owned()).into()),
    };
    let lists = lists.as_list::<i32>();
    let length = |row: usize| usize::try_from(lists.value_length(row)).unwrap_or_default();
    let bound = |row: usize| (lists.is_valid(row) && length(row) > 0).then(|| of(length(row)));
    Ok(Arc::new((0..rows).map(bound).collect::<Int64Array>()))
}

/// Years, months, days and the rest between two moments, as a calendar counts them.
fn ages(args: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let micros = |array: &ArrayRef| cast(array, &DataType::Timestamp(TimeUnit::Microsecond, None));
    let (later, earlier) = (micros(&args[0])?, micros(&args[1])?);
    let (later, earlier) = (
        later.as_primitive::<TimestampMicrosecondType>(),
        earlier.as_primitive::<TimestampMicrosecondType>(),
    );
    let value = |row: usize| {
        let both = later.is_valid(row) && earlier.is_valid(row);
        both.then(|| age(later.value(row), earlier.value(row)))?
    };
    Ok(Arc::new((0..rows).map(value).collect::<IntervalMonthDayNanoArray>()))
}

fn age(later: i64, earlier: i64) -> Option<IntervalMonthDayNano> {
    if later < earlier {
        let age = age(earlier, later)?;
        return Some(IntervalMonthDayNano::new(-age.months, -age.days, -age.nanoseconds));
    }
    let moment = |micros| chrono::DateTime::from_timestamp_micros(micros).map(|at| at.naive_utc());
    let (later, earlier) = (moment(later)?, moment(earlier)?);
    let month = |at: &chrono::NaiveDateTime| at.year() * 12 + i32::try_from(at.month0()).unwrap_or_default();
    let mut months = month(&later) - month(&earlier);
    let mut days = i32::try_from(later.day()).ok()? - i32::try_from(earlier.day()).ok()?;
    let mut rest = later.time().signed_duration_since(earlier.time()).num_microseconds()?;
    if rest < 0 {
        (days, rest) = (days - 1, rest + 86_400_000_000);
    }
    if days < 0 {
        // As long as the month is in which it began.
        let first = earlier.date().with_day(1)?;
        let length =
            first.checked_add_months(chrono::Months::new(1))?.signed_duration_since(first).num_days();
        (months, days) = (months - 1, days + i32::try_from(length).ok()?);
    }
    Some(IntervalMonthDayNano::new(months, days, rest * 1_000))
}

fn integers(args: &[ArrayRef], rows: usize, of: fn(i64, i64) -> Option<i64>) -> Result<ArrayRef> {
    let number = |array: &ArrayRef| {
        Ok::<Int64Array, datafusion::error::DataFusionError>(
            cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone(),
        )
    };
    if !args.iter().all(|array| array.data_type().is_integer() || array.data_type().is_null()) {
        let message = "mod and div are for integers; % and / take other numbers too".to_owned();
        return Err(SqlError::State { code: "42883", message }.into());
    }
    let (left, right) = (number(&args[0])?, number(&args[1])?);
    let value = |row: usize| {
        if left.is_null(row) || right.is_null(row) {
            return Ok(None);
        }
        let by_zero = || SqlError::State { code: "22012", message: "division by zero".to_owned() };
        of(left.value(row), right.value(row)).map(Some).ok_or_else(by_zero)
    };
    Ok(Arc::new((0..rows).map(value).collect::<std::result::Result<Int64Array, SqlError>>()?))
}

fn width_bucket(args: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let doubles = |array: &ArrayRef| {
        Ok::<Float64Array, datafusion::error::DataFusionError>(
            cast(array, &DataType::Float64)?.as_primitive::<Float64Type>().clone(),
        )
    };
    let [value, low, high, count] =
        [doubles(&args[0])?, doubles(&args[1])?, doubles(&args[2])?, doubles(&args[3])?];
    let bad = |message: &str| SqlError::State { code: "2201G", message: message.to_owned() };
    let bucket = |row: usize| {
        if [&value, &low, &high, &count].iter().any(|array| array.is_null(row)) {
            return Ok(None);
        }
        let (value, low, high, count) = (value.value(row), low.value(row), high.value(row), count.value(row));
        if count < 1.0 || count > f64::from(i32::MAX - 1) {
            return Err(bad("count must be greater than zero"));
        }
        if low == high || !low.is_finite() || !high.is_finite() || value.is_nan() {
            return Err(bad("lower bound cannot equal upper bound, and all bounds must be finite"));
        }
        let share = (value - low) / (high - low);
        // Within bounds, as was checked: 0 below, count + 1 above.
        #[allow(clippy::cast_possible_truncation)]
        let bucket = if share < 0.0 { 0 } else { (share * count).floor().min(count) as i32 + 1 };
        Ok(Some(bucket))
    };
    Ok(Arc::new((0..rows).map(bucket).collect::<std::result::Result<Int32Array, SqlError>>()?))
}

fn number(text: &str) -> Option<f64> {
    let kept = |c: &char| c.is_ascii_digit() || matches!(c, '.' | '-');
    text.chars().filter(kept).collect::<String>().parse().ok()
}

fn convert_from(args: &[ArrayRef], _: usize) -> Result<ArrayRef> {
    let bytes = cast(&args[0], &DataType::Binary)?;
    let bytes: &BinaryArray = bytes.as_binary();
    let bad = || SqlError::State {
        code: "22021",
        message: "invalid byte sequence for encoding \"UTF8\"".to_owned(),
    };
    let text =
        |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8(b.to_vec()).map_err(|_| bad())).transpose();
    Ok(Arc::new(bytes.iter().map(text).collect::<std::result::Result<StringArray, SqlError>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_writes_values_names_and_literals() {
        let values = [Some("x"), Some("A b"), None, Some("it's")];
        for (format, expected) in [
            ("%s-%I", "x-\"A b\""),
            ("%3$L %4$L %%", "NULL 'it''s' %"),
            ("[%5s][%-5s]", "[    x][A b  ]"),
            ("no", "no"),
        ] {
            assert_eq!(formatted(format, |at| values.get(at).copied()).unwrap(), expected, "{format}");
        }
        for format in ["%s %s %s %s %s", "%d", "%3$I", "%999999s"] {
            assert!(formatted(format, |at| values.get(at).copied()).is_err(), "{format}");
        }
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(parse_ident("Public.\"A.b\"\"c\"").unwrap(), ["public", "A.b\"c"]);
        assert_eq!(parse_ident("\"x"), None);
    }

    #[test]
    fn ages_are_those_of_a_calendar() {
        let at = |text: &str| {
            chrono::NaiveDateTime::parse_from_str(text, "%F %T").unwrap().and_utc().timestamp_micros()
        };
        for (later, earlier, months, days, hours) in [
            ("2026-03-02 00:00:00", "2025-01-31 00:00:00", 13, 2, 0),
            ("2026-03-02 01:00:00", "2026-03-01 02:00:00", 0, 0, 23),
            ("2026-01-01 00:00:00", "2026-02-02 00:00:00", -1, -1, 0),
        ] {
            let expected = IntervalMonthDayNano::new(months, days, hours * 3_600_000_000_000);
            assert_eq!(age(at(later), at(earlier)), Some(expected), "{later} {earlier}");
        }
    }
}
