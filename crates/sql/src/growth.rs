//! Functions whose values may be any number of times as large as what they are given. Nothing looks while such a call makes
//! its values ([`crate::metered`]), so that one could take all there is; here its size is worked out first, and asked for.
//!
//! Those that put values together are among them: with a subquery for each, thirty of them make a gigabyte of a letter.
//!
//! While a statement is planned, the engine replaces calls of constants by their values, and copies, compares and prints
//! those many times over. There large values are refused, and so made when the statement runs.

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::pin::pin;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, ListArray, StringViewBuilder};
use arrow::compute::cast;
use arrow::compute::kernels::length::length;
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions_nested::{concat, make_array};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::error::SqlError;
use crate::metered;
use crate::postgres::json_edit::{self, Edit};
use crate::postgres::{scalar, texts};

/// Of the values of one call, which is for the rows of one batch.
const CALL_BYTES_MAX: f64 = (256 << 20) as f64;
/// The same, while a statement is planned.
const PLANNING_BYTES_MAX: f64 = (64 << 10) as f64;
const TEXT_CONCAT: &str = "text_concat";
/// An element of a list in memory, besides its text.
const ELEMENT_BYTES: f64 = 16.0;

/// An argument of a call: what it takes, and which number it is.
#[derive(Debug, Clone, Copy, Default)]
struct Argument {
    bytes: f64,
    number: f64,
}

/// The size of a value by its arguments, at most.
type Size = fn(&[Argument]) -> f64;

/// By name: how large values become, at most.
const GROWING: [(&str, Size); 34] = [
    ("repeat", |a| bytes(a, 0) * number(a, 1)),
    ("lpad", |a| 4.0 * number(a, 1)),
    ("rpad", |a| 4.0 * number(a, 1)),
    ("replace", |a| bytes(a, 0).max(bytes(a, 0) / bytes(a, 1).max(1.0) * bytes(a, 2))),
    // One match may be the whole text, and the replacement name it with every second letter; or each letter is one.
    ("regexp_replace", |a| bytes(a, 0) + (bytes(a, 0) + 1.0) * bytes(a, 2)),
    ("translate", |a| 4.0 * bytes(a, 0)),
    ("to_char", |a| 4.0 * bytes(a, 1)),
    // Each four letters may name an argument.
    ("format", |a| bytes(a, 0) + bytes(a, 0) / 4.0 * a.iter().skip(1).fold(0.0, |most, a| a.bytes.max(most))),
    ("string_to_array", |a| (bytes(a, 0) + 1.0) * (1.0 + ELEMENT_BYTES)),
    ("array_to_string", |a| bytes(a, 0) + bytes(a, 0) / ELEMENT_BYTES * bytes(a, 1)),
    ("array_repeat", |a| bytes(a, 0).max(ELEMENT_BYTES) * number(a, 1)),
    ("array_resize", |a| bytes(a, 0) + bytes(a, 2).max(ELEMENT_BYTES) * number(a, 1)),
    ("array_replace", |a| bytes(a, 0) + bytes(a, 2)),
    ("array_replace_n", replaced),
    ("array_replace_all", replaced),
    ("array_union", sum),
    ("array_intersect", sum),
    ("array_except", sum),
    // The shorter ones are filled up.
    ("arrays_zip", |a| a.len() as f64 * a.iter().fold(0.0, |most, a| a.bytes.max(most))),
    ("encode", |a| 2.0 * bytes(a, 0)),
    ("overlay", sum),
    // Letters may be written as `\u0000`.
    ("json_build_array", |a| 6.0 * sum(a)),
    ("json_build_object", |a| 6.0 * sum(a)),
    ("to_json", |a| 6.0 * sum(a)),
    // Each sign may have a space behind it.
    (json_edit::CONCAT, |a| 2.0 * sum(a)),
    // Quotes and their escapes.
    (texts::TEXT, written),
    ("range", |a| numbers(a) * 8.0),
    ("generate_series", |a| numbers(a) * 8.0),
    ("concat", sum),
    ("concat_ws", |a| bytes(a, 0) * a.len() as f64 + sum(a)),
    ("make_array", sum),
    ("array_concat", sum),
    ("array_append", sum),
    ("array_prepend", sum),
];

fn bytes(arguments: &[Argument], place: usize) -> f64 {
    arguments.get(place).map_or(0.0, |argument| argument.bytes)
}

fn number(arguments: &[Argument], place: usize) -> f64 {
    arguments.get(place).map_or(0.0, |argument| argument.number)
}

fn sum(arguments: &[Argument]) -> f64 {
    arguments.iter().map(|argument| argument.bytes).sum()
}

/// A number or a time has up to 40 letters, and of a list each letter may be escaped.
fn written(arguments: &[Argument]) -> f64 {
    40.0 + 3.0 * sum(arguments)
}

/// Each element may be the one that is replaced.
fn replaced(arguments: &[Argument]) -> f64 {
    let elements = arguments.first().map_or(0.0, |list| list.number);
    bytes(arguments, 0) + elements * bytes(arguments, 2)
}

fn numbers(arguments: &[Argument]) -> f64 {
    match *arguments {
        [stop] => stop.number,
        [start, stop] => stop.number - start.number,
        [start, stop, step, ..] if step.number != 0.0 => (stop.number - start.number) / step.number,
        _ => 0.0,
    }
}

thread_local! {
    static PLANS: Cell<bool> = const { Cell::new(false) };
}

/// Plans a statement, without large values.
pub async fn planning<T>(plans: impl Future<Output = T>) -> T {
    let mut plans = pin!(plans);
    std::future::poll_fn(|context| {
        let before = PLANS.replace(true);
        let polled = plans.as_mut().poll(context);
        PLANS.set(before);
        polled
    })
    .await
}

/// The same functions, each of which refuses calls that would give too much.
pub fn bounded(functions: &[Arc<ScalarUDF>]) -> Vec<Arc<ScalarUDF>> {
    let bounded = |inner: &Arc<ScalarUDF>| {
        let (_, size) = GROWING.iter().find(|(name, _)| *name == inner.name())?;
        Some(Arc::new(of_size(Arc::clone(inner), *size)))
    };
    functions.iter().filter_map(bounded).collect()
}

fn of_size(inner: Arc<ScalarUDF>, size: Size) -> ScalarUDF {
    ScalarUDF::new_from_impl(Bounded { inner, size })
}

/// `||` of texts.
pub fn text_concat() -> ScalarUDF {
    of_size(Arc::new(scalar::row_wise_of_all(TEXT_CONCAT, DataType::Utf8View, joined)), sum)
}

/// `left || right` of texts, or those that `left` puts together already, and `right`: however many of them there are in
/// a chain, it is one call.
pub fn text_chain(left: Expr, right: Expr) -> Expr {
    match left {
        Expr::ScalarFunction(mut call) if call.name() == TEXT_CONCAT => {
            call.args.push(right);
            Expr::ScalarFunction(call)
        }
        left => text_concat().call(vec![left, right]),
    }
}

/// Whether an expression is such a chain, which is text.
pub fn is_text_chain(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if call.name() == TEXT_CONCAT)
}

fn joined(texts: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let texts = texts.iter().map(|text| cast(text, &DataType::Utf8View)).collect::<Result<Vec<_>, _>>()?;
    let texts: Vec<_> = texts.iter().map(|text| text.as_string_view()).collect();
    let mut joined = StringViewBuilder::with_capacity(rows);
    let mut text = String::new();
    for row in 0..rows {
        if texts.iter().any(|texts| texts.is_null(row)) {
            joined.append_null();
            continue;
        }
        text.clear();
        texts.iter().for_each(|texts| text.push_str(texts.value(row)));
        joined.try_append_value(&text)?;
    }
    Ok(Arc::new(joined.finish()))
}

/// `||` of JSON.
pub fn json_concat() -> ScalarUDF {
    of_size(Arc::new(json_edit::function(Edit::Concat)), |a| 2.0 * sum(a))
}

/// A value as PostgreSQL writes it.
pub fn as_text() -> ScalarUDF {
    of_size(Arc::new(texts::as_text()), written)
}

/// `||` of two arrays.
pub fn array_concat() -> ScalarUDF {
    of_size(concat::array_concat_udf(), sum)
}

/// `ARRAY[…]`.
pub fn make_array() -> ScalarUDF {
    of_size(make_array::make_array_udf(), sum)
}

#[derive(Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    size: Size,
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(viewed(self.inner.inner().return_type(types)?))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let field = self.inner.inner().return_field_from_args(args)?;
        match viewed(field.data_type().clone()) {
            same if same == *field.data_type() => Ok(field),
            view => Ok(Arc::new(field.as_ref().clone().with_data_type(view))),
        }
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.within(args, if PLANS.get() { PLANNING_BYTES_MAX } else { CALL_BYTES_MAX })
    }
}

/// Large texts are views: what puts rows together copies 16 bytes of each, and not the text as often as a join names it.
fn viewed(data_type: DataType) -> DataType {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        other => other,
    }
}

fn as_view(value: ColumnarValue) -> Result<ColumnarValue> {
    match viewed(value.data_type()) {
        same if same == value.data_type() => Ok(value),
        view => value.cast_to(&view, None),
    }
}

fn scalar_of(arg: &ColumnarValue) -> Option<&ScalarValue> {
    match arg {
        ColumnarValue::Scalar(value) => Some(value),
        ColumnarValue::Array(_) => None,
    }
}

impl Bounded {
    /// The same arguments, for the type that the function itself gives.
    fn as_inner(&self, args: ScalarFunctionArgs) -> Result<ScalarFunctionArgs> {
        let scalars: Vec<_> = args.args.iter().map(scalar_of).collect();
        let of = ReturnFieldArgs { arg_fields: &args.arg_fields, scalar_arguments: &scalars };
        let return_field = self.inner.inner().return_field_from_args(of)?;
        Ok(ScalarFunctionArgs { return_field, ..args })
    }

    fn within(&self, args: ScalarFunctionArgs, left: f64) -> Result<ColumnarValue> {
        let bytes = call_bytes(self.size, &args)?;
        let is_one = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        if bytes <= left {
            let _reserved = metered::reserve(bytes)?;
            let args = self.as_inner(args)?;
            // Some functions make the value of constants once for each row.
            let rows = if is_one { 1 } else { args.number_rows };
            let value =
                self.inner.inner().invoke_with_args(ScalarFunctionArgs { number_rows: rows, ..args })?;
            match as_view(value)? {
                ColumnarValue::Array(one) if is_one && one.len() == 1 => {
                    Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&one, 0)?))
                }
                value => Ok(value),
            }
        } else if is_one || args.number_rows <= 1 {
            Err(self.refusal(bytes))
        } else {
            self.by_halves(&args, left)
        }
    }

    /// The values of some rows, and then those of the others: few are as large as they may be.
    fn by_halves(&self, args: &ScalarFunctionArgs, left: f64) -> Result<ColumnarValue> {
        let half = args.number_rows / 2;
        let part = |first: usize, rows: usize| {
            let part = |arg: &ColumnarValue| match arg {
                ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(first, rows)),
                ColumnarValue::Scalar(_) => arg.clone(),
            };
            let args = ScalarFunctionArgs { args: args.args.iter().map(part).collect(), ..args.clone() };
            ScalarFunctionArgs { number_rows: rows, ..args }
        };
        let first = self.within(part(0, half), left)?.into_array(half)?;
        let left = (left - first.get_array_memory_size() as f64).max(0.0);
        let rest = args.number_rows - half;
        let second = self.within(part(half, rest), left)?.into_array(rest)?;
        Ok(ColumnarValue::Array(arrow::compute::concat(&[&*first, &*second])?))
    }

    fn refusal(&self, bytes: f64) -> datafusion::error::DataFusionError {
        let message = format!("{} would give values of {:.0} MiB at once", self.name(), bytes / 1_048_576.0);
        SqlError::TooMuch { message, hint: "256 MiB are the most.".to_owned() }.into()
    }
}

/// One argument, for each row or for all.
enum Measures {
    All(Argument),
    Each(Vec<Argument>),
}

impl Measures {
    fn of(value: &ColumnarValue) -> Result<Measures> {
        Ok(match value {
            ColumnarValue::Array(array) => Measures::Each(measured(array)?),
            ColumnarValue::Scalar(value) => {
                let one = measured(&value.to_array()?)?;
                Measures::All(one.first().copied().unwrap_or_default())
            }
        })
    }

    fn at(&self, row: usize) -> Argument {
        match self {
            Measures::All(value) => *value,
            Measures::Each(values) => values.get(row).copied().unwrap_or_default(),
        }
    }
}

/// Times and the like are few, and what else there is has no size that multiplies.
fn measured(array: &ArrayRef) -> Result<Vec<Argument>> {
    let each = |numbers: &ArrayRef, argument: &dyn Fn(f64) -> Argument| {
        let numbers = numbers.as_primitive::<Int64Type>().iter();
        numbers.map(|n| argument(n.unwrap_or_default() as f64)).collect()
    };
    Ok(match array.data_type() {
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView => {
            let lengths = cast(&length(array)?, &DataType::Int64)?;
            each(&lengths, &|bytes| Argument { bytes, number: 0.0 })
        }
        DataType::List(_) => {
            let lengths = cast(&length(array)?, &DataType::Int64)?;
            let elements = lengths.as_primitive::<Int64Type>().iter().flatten().sum::<i64>().max(1) as f64;
            let of_element = ELEMENT_BYTES + inside(array.as_list::<i32>())? / elements;
            each(&lengths, &|elements| Argument { bytes: elements * of_element, number: elements })
        }
        _ => match cast(array, &DataType::Int64) {
            Ok(numbers) => each(&numbers, &|number| Argument { bytes: ELEMENT_BYTES, number }),
            Err(_) => vec![Argument { bytes: ELEMENT_BYTES, number: 0.0 }; array.len()],
        },
    })
}

/// Bytes of the texts and lists in lists.
fn inside(lists: &ListArray) -> Result<f64> {
    let ends = lists.value_offsets();
    let (first, end) = (ends[0] as usize, ends[ends.len() - 1] as usize);
    let elements = lists.values().slice(first, end - first);
    match elements.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::List(_) => {
            Ok(sum(&measured(&elements)?))
        }
        _ => Ok(0.0),
    }
}

fn call_bytes(size: Size, args: &ScalarFunctionArgs) -> Result<f64> {
    let measures = args.args.iter().map(Measures::of).collect::<Result<Vec<_>>>()?;
    let is_one = measures.iter().all(|measure| matches!(measure, Measures::All(_)));
    let rows = if is_one { 1 } else { args.number_rows };
    let mut bytes = 0.0;
    let mut of_row = Vec::with_capacity(measures.len());
    for row in 0..rows {
        of_row.clear();
        of_row.extend(measures.iter().map(|measure| measure.at(row)));
        bytes += size(&of_row).max(0.0);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::Field;
    use datafusion::config::ConfigOptions;

    use super::*;

    fn call(name: &str, args: Vec<ColumnarValue>, rows: usize) -> Result<ColumnarValue> {
        let mut all = datafusion::functions::all_default_functions();
        all.extend(datafusion::functions_nested::all_default_nested_functions());
        let function = bounded(&all).into_iter().find(|function| function.name() == name).unwrap();
        let arg_fields = args.iter().map(|a| Arc::new(Field::new("a", a.data_type(), true))).collect();
        function.invoke_with_args(ScalarFunctionArgs {
            args,
            arg_fields,
            number_rows: rows,
            return_field: Arc::new(Field::new("r", DataType::Utf8, true)),
            config_options: Arc::new(ConfigOptions::default()),
        })
    }

    fn text(text: &str) -> ColumnarValue {
        ColumnarValue::Scalar(ScalarValue::Utf8(Some(text.to_owned())))
    }

    fn number(n: i64) -> ColumnarValue {
        ColumnarValue::Scalar(ScalarValue::Int64(Some(n)))
    }

    #[test]
    fn a_call_that_would_give_too_much_is_refused() {
        assert!(call("repeat", vec![text("ab"), number(3)], 1).is_ok());
        let array = |array: ArrayRef| ColumnarValue::Array(array);
        let counts = Arc::new(Int64Array::from(vec![200_000_000; 2]));
        let texts = Arc::new(StringArray::from(vec!["x", "yy"]));
        for (name, args) in [
            ("repeat", vec![text("x"), number(2_000_000_000)]),
            ("repeat", vec![array(texts), array(counts)]),
            ("lpad", vec![text("x"), number(1_000_000_000)]),
            ("replace", vec![text(&"x".repeat(100_000)), text("x"), text(&"y".repeat(10_000))]),
        ] {
            let error = call(name, args, 2).unwrap_err().to_string();
            assert!(error.contains("MiB at once"), "{name}: {error}");
        }
    }
    #[test]
    fn few_rows_are_as_large_as_they_may_be() {
        // By the worst that may be, these are 2 GiB.
        let texts = ColumnarValue::Array(Arc::new(StringArray::from_iter_values(
            (0..2000).map(|i| format!("{i:01000}")),
        )));
        let long = "y".repeat(1000);
        let found = call("regexp_replace", vec![texts.clone(), text("1999$"), text(&long)], 2000).unwrap();
        let found = found.into_array(2000).unwrap();
        let found = cast(&found, &DataType::Utf8).unwrap();
        let found = found.as_string::<i32>();
        assert_eq!((found.value(1998).len(), found.value(1999).len()), (1000, 1996));
        let error = call("regexp_replace", vec![texts, text("0"), text(&long), text("g")], 2000).unwrap_err();
        assert!(error.to_string().contains("MiB at once"), "{error}");
    }

    #[test]
    fn large_numbers_are_no_large_values() {
        let billion = || number(1_000_000_000_000);
        assert!(call("make_array", vec![billion(), billion()], 1).is_ok());
        assert!(call("array_repeat", vec![billion(), number(3)], 1).is_ok());
        let list = call("array_repeat", vec![text("abc"), number(1_000_000)], 1).unwrap();
        let long = "x".repeat(1000);
        let error = call("array_to_string", vec![list, text(&long)], 1).unwrap_err().to_string();
        assert!(error.contains("MiB at once"), "{error}");
    }

    #[test]
    fn what_puts_values_together_does_not_double_them_for_ever() {
        let mut doubled = text(&"x".repeat(1 << 20));
        let mut refused = false;
        for _ in 0..12 {
            match text_concat_of(vec![doubled.clone(), doubled.clone()]) {
                Ok(more) => doubled = more,
                Err(error) => {
                    assert!(error.to_string().contains("MiB at once"), "{error}");
                    refused = true;
                    break;
                }
            }
        }
        assert!(refused);
        let nothing = ColumnarValue::Scalar(ScalarValue::Utf8(None));
        let ColumnarValue::Scalar(value) = text_concat_of(vec![text("a"), nothing]).unwrap() else {
            panic!()
        };
        assert!(value.is_null());
    }

    fn text_concat_of(args: Vec<ColumnarValue>) -> Result<ColumnarValue> {
        let arg_fields = args.iter().map(|a| Arc::new(Field::new("a", a.data_type(), true))).collect();
        text_concat().invoke_with_args(ScalarFunctionArgs {
            args,
            arg_fields,
            number_rows: 1,
            return_field: Arc::new(Field::new("r", DataType::Utf8View, true)),
            config_options: Arc::new(ConfigOptions::default()),
        })
    }

    #[tokio::test]
    async fn large_values_are_not_made_while_planning() {
        let made = || call("repeat", vec![text("ab"), number(100_000)], 1);
        assert!(made().is_ok());
        let refused = planning(async {
            tokio::task::yield_now().await;
            made().is_err()
        });
        assert!(refused.await && made().is_ok());
    }
}
