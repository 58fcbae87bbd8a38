//! JSON made of values: `to_json`, `json_build_object`, `json_build_array`, and what the aggregates of JSON need.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};

use super::names;
use crate::error::SqlError;
use crate::topic::layout::JSON_MARK;

/// A column of text that is JSON.
pub fn json_field(name: &str) -> FieldRef {
    let mark = HashMap::from([(JSON_MARK.to_owned(), String::new())]);
    Arc::new(Field::new(name, DataType::Utf8, true).with_metadata(mark))
}

/// An array whose values are written as JSON.
pub enum JsonText {
    /// It is JSON already, or a number.
    Plain(StringArray),
    Quoted(StringArray),
    Null,
    List(ArrayRef),
    Struct(StructArray),
}

impl JsonText {
    pub fn is_json(field: &Field) -> bool {
        field.metadata().contains_key(JSON_MARK)
    }

    pub fn new(array: &ArrayRef, is_json: bool) -> Result<JsonText> {
        let text = |array: &ArrayRef| {
            Ok::<_, DataFusionError>(cast(array, &DataType::Utf8)?.as_string::<i32>().clone())
        };
        Ok(match array.data_type() {
            DataType::Null => JsonText::Null,
            DataType::Float16 | DataType::Float32 | DataType::Float64 => {
                let doubles = cast(array, &DataType::Float64)?;
                let written = |value: f64| match value.is_finite() {
                    true => value.to_string(),
                    false => format!("\"{value}\""),
                };
                let texts = doubles.as_primitive::<Float64Type>().iter().map(|value| value.map(written));
                JsonText::Plain(texts.collect())
            }
            kind if kind.is_numeric() || *kind == DataType::Boolean || is_json => {
                JsonText::Plain(text(array)?)
            }
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                JsonText::List(Arc::clone(array))
            }
            DataType::Struct(_) => JsonText::Struct(array.as_struct().clone()),
            DataType::Timestamp(..) | DataType::Date32 | DataType::Time64(_) | DataType::Interval(_) => {
                let options = FormatOptions::new().with_display_error(false);
                let formatter = ArrayFormatter::try_new(array, &options)?;
                let written = |row: usize| array.is_valid(row).then(|| formatter.value(row).to_string());
                JsonText::Quoted((0..array.len()).map(written).collect())
            }
            _ => JsonText::Quoted(text(array)?),
        })
    }

    pub fn value(&self, row: usize) -> Result<String> {
        let null = || "null".to_owned();
        Ok(match self {
            JsonText::Null => null(),
            JsonText::Plain(texts) if texts.is_valid(row) => texts.value(row).to_owned(),
            JsonText::Quoted(texts) if texts.is_valid(row) => quoted(texts.value(row)),
            JsonText::List(lists) if lists.is_valid(row) => {
                let items = match lists.data_type() {
                    DataType::FixedSizeList(..) => lists.as_fixed_size_list().value(row),
                    DataType::LargeList(_) => lists.as_list::<i64>().value(row),
                    _ => lists.as_list::<i32>().value(row),
                };
                let texts = JsonText::new(&items, false)?;
                let items = (0..items.len()).map(|row| texts.value(row)).collect::<Result<Vec<String>>>()?;
                format!("[{}]", items.join(","))
            }
            JsonText::Struct(fields) if fields.is_valid(row) => {
                let field = |(field, column): (&FieldRef, &ArrayRef)| {
                    let value = JsonText::new(column, JsonText::is_json(field))?.value(row)?;
                    Ok(format!("{}:{value}", quoted(names::shown(field.name()))))
                };
                let fields: Vec<String> =
                    fields.fields().iter().zip(fields.columns()).map(field).collect::<Result<_>>()?;
                format!("{{{}}}", fields.join(","))
            }
            JsonText::Plain(_) | JsonText::Quoted(_) | JsonText::List(_) | JsonText::Struct(_) => null(),
        })
    }

    /// As the name of a field.
    pub fn name(&self, row: usize) -> Result<String> {
        match self {
            JsonText::Plain(texts) | JsonText::Quoted(texts) if texts.is_valid(row) => {
                Ok(quoted(texts.value(row)))
            }
            _ => Err(SqlError::BadValue("a name of a JSON object is null".to_owned()).into()),
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

pub fn all() -> Vec<Arc<ScalarUDF>> {
    [Made::Object, Made::Array, Made::Value, Made::Checked]
        .into_iter()
        .map(|made| Arc::new(ScalarUDF::from(Build::new(made))))
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Made {
    Object,
    Array,
    Value,
    /// A cast to json.
    Checked,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Build {
    made: Made,
    aliases: Vec<String>,
    signature: Signature,
}

impl Build {
    fn new(made: Made) -> Build {
        let (aliases, signature) = match made {
            Made::Object => (vec!["jsonb_build_object"], TypeSignature::VariadicAny),
            Made::Array => (vec!["jsonb_build_array"], TypeSignature::VariadicAny),
            Made::Value => (vec!["to_jsonb", "row_to_json", "array_to_json"], TypeSignature::Any(1)),
            Made::Checked => (Vec::new(), TypeSignature::Any(1)),
        };
        let signature = match made {
            Made::Value | Made::Checked => signature,
            Made::Object | Made::Array => TypeSignature::OneOf(vec![TypeSignature::Nullary, signature]),
        };
        let aliases = aliases.into_iter().map(str::to_owned).collect();
        Build { made, aliases, signature: Signature::new(signature, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Build {
    fn name(&self) -> &str {
        match self.made {
            Made::Object => "json_build_object",
            Made::Array => "json_build_array",
            Made::Value => "to_json",
            Made::Checked => "kafscale_json",
        }
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(json_field(self.name()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if self.made == Made::Object && args.args.len() % 2 == 1 {
            let why = "argument list must have even number of elements".to_owned();
            return Err(SqlError::BadValue(why).into());
        }
        if self.made == Made::Checked {
            let texts = super::scalar::utf8(&args.args[0].to_array(args.number_rows)?)?;
            for text in texts.iter().flatten() {
                if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
                    let message = "invalid input syntax for type json".to_owned();
                    return Err(SqlError::State { code: "22P02", message }.into());
                }
            }
            return Ok(ColumnarValue::Array(Arc::new(texts)));
        }
        let mut texts = Vec::with_capacity(args.args.len());
        for (arg, field) in args.args.iter().zip(&args.arg_fields) {
            texts.push(JsonText::new(&arg.to_array(args.number_rows)?, JsonText::is_json(field))?);
        }
        let value = |row: usize| {
            Ok(Some(match self.made {
                Made::Checked => return Ok(None),
                Made::Value if matches!(texts[0], JsonText::Null) => return Ok(None),
                Made::Value => texts[0].value(row)?,
                Made::Array => {
                    let items = texts.iter().map(|text| text.value(row)).collect::<Result<Vec<String>>>()?;
                    format!("[{}]", items.join(", "))
                }
                Made::Object => {
                    let pair =
                        |pair: &[JsonText]| Ok(format!("{} : {}", pair[0].name(row)?, pair[1].value(row)?));
                    let pairs = texts.chunks_exact(2).map(pair).collect::<Result<Vec<String>>>()?;
                    format!("{{{}}}", pairs.join(", "))
                }
            }))
        };
        let values: StringArray = (0..args.number_rows).map(value).collect::<Result<_>>()?;
        Ok(ColumnarValue::Array(Arc::new(values)))
    }
}
