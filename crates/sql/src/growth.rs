//! Functions whose values may be any number of times as large as what they are given. The engine
//! charges no memory for values while they are made, so that one such call could take all there is;
//! here its size is worked out first.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _};
use arrow::compute::cast;
use arrow::compute::kernels::length::length;
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::error::SqlError;

/// Of the values of one call, which is for the rows of one batch.
const CALL_BYTES_MAX: f64 = (256 << 20) as f64;

/// The size of a value by its arguments: bytes of texts, and numbers.
type Size = fn(&[f64]) -> f64;

/// By name: how large values become, about.
const GROWING: [(&str, Size); 7] = [
    ("repeat", |a| at(a, 0) * at(a, 1)),
    ("lpad", |a| 4.0 * at(a, 1)),
    ("rpad", |a| 4.0 * at(a, 1)),
    ("replace", |a| at(a, 0).max(at(a, 0) / at(a, 1).max(1.0) * at(a, 2))),
    ("array_repeat", |a| 16.0 * at(a, 1)),
    ("range", |a| numbers(a) * 8.0),
    ("generate_series", |a| numbers(a) * 8.0),
];

fn at(arguments: &[f64], place: usize) -> f64 {
    arguments.get(place).copied().unwrap_or_default()
}

fn numbers(arguments: &[f64]) -> f64 {
    match arguments {
        [stop] => *stop,
        [start, stop] => stop - start,
        [start, stop, step, ..] if *step != 0.0 => (stop - start) / step,
        _ => 0.0,
    }
}

/// The same functions, each of which refuses calls that would give too much.
pub fn bounded(functions: &[Arc<ScalarUDF>]) -> Vec<Arc<ScalarUDF>> {
    let bounded = |inner: &Arc<ScalarUDF>| {
        let (_, size) = GROWING.iter().find(|(name, _)| *name == inner.name())?;
        Some(Arc::new(ScalarUDF::new_from_impl(Bounded { inner: Arc::clone(inner), size: *size })))
    };
    functions.iter().filter_map(bounded).collect()
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
        self.inner.inner().return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.inner().return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let bytes = call_bytes(self.size, &args)?;
        if bytes > CALL_BYTES_MAX {
            let refused = SqlError::TooMuch {
                message: format!(
                    "{} would give values of {:.0} MiB at once",
                    self.name(),
                    bytes / 1_048_576.0
                ),
                hint: "256 MiB are the most.".to_owned(),
            };
            return Err(refused.into());
        }
        self.inner.inner().invoke_with_args(args)
    }
}

/// One argument, for each row or for all.
enum Measures {
    All(f64),
    Each(Vec<f64>),
}

impl Measures {
    fn of(value: &ColumnarValue) -> Result<Measures> {
        Ok(match value {
            ColumnarValue::Scalar(value) => Measures::All(scalar(value)),
            ColumnarValue::Array(array) => {
                let numbers = match array.data_type() {
                    DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                        cast(&length(array)?, &DataType::Int64)?
                    }
                    // Times and the like are few, and what else there is has no size that
                    // multiplies.
                    _ => match cast(array, &DataType::Int64) {
                        Ok(numbers) => numbers,
                        Err(_) => return Ok(Measures::All(0.0)),
                    },
                };
                let each = numbers.as_primitive::<Int64Type>().iter();
                Measures::Each(each.map(|n| n.unwrap_or_default() as f64).collect())
            }
        })
    }

    fn at(&self, row: usize) -> f64 {
        match self {
            Measures::All(value) => *value,
            Measures::Each(values) => values.get(row).copied().unwrap_or_default(),
        }
    }
}

fn scalar(value: &ScalarValue) -> f64 {
    match value {
        ScalarValue::Utf8(Some(text))
        | ScalarValue::LargeUtf8(Some(text))
        | ScalarValue::Utf8View(Some(text)) => text.len() as f64,
        other => match other.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(Some(number))) => number as f64,
            _ => 0.0,
        },
    }
}

fn call_bytes(size: Size, args: &ScalarFunctionArgs) -> Result<f64> {
    let measures = args.args.iter().map(Measures::of).collect::<Result<Vec<_>>>()?;
    let is_one = measures.iter().all(|measure| matches!(measure, Measures::All(_)));
    let rows = if is_one { 1 } else { args.number_rows };
    let mut bytes = 0.0;
    for row in 0..rows {
        let of_row: Vec<f64> = measures.iter().map(|measure| measure.at(row)).collect();
        bytes += size(&of_row).max(0.0);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::datatypes::Field;
    use datafusion::config::ConfigOptions;

    use super::*;

    fn call(name: &str, args: Vec<ColumnarValue>, rows: usize) -> Result<ColumnarValue> {
        let all = datafusion::functions::all_default_functions();
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
}
