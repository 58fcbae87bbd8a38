//! Fields of JSON in text: `->`, `->>` and `json_extract_path_text`, as PostgreSQL has them for its type json.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use kafscale_core::sql_schema::{SqlColumn, SqlType};
use serde_json::value::RawValue;

use crate::topic::json::Fields;
use crate::topic::values::text_of;

pub fn all() -> Vec<Arc<ScalarUDF>> {
    [Wanted::Json, Wanted::Text]
        .into_iter()
        .map(|wanted| Arc::new(ScalarUDF::from(Get::new(wanted))))
        .collect()
}

/// Plans the operators as the functions.
#[derive(Debug)]
pub struct Operators;

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, _: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let wanted = match &expr.op {
            BinaryOperator::Arrow => Wanted::Json,
            BinaryOperator::LongArrow => Wanted::Text,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let function = ScalarUDF::from(Get::new(wanted));
        let call = function.call(vec![expr.left, expr.right]);
        Ok(PlannerResult::Planned(Expr::clone(&call)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Wanted {
    /// As it stands there.
    Json,
    /// Strings without quotes.
    Text,
}

/// The value at a path: names of fields, and places in arrays, from the end where they are negative.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Get {
    wanted: Wanted,
    signature: Signature,
}

impl Get {
    fn new(wanted: Wanted) -> Get {
        Get { wanted, signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

/// A step of a path, for all rows or by row.
enum Step {
    Names(StringArray),
    Places(arrow::array::Int64Array),
}

impl Step {
    fn of(array: &ArrayRef) -> Result<Step> {
        Ok(match array.data_type() {
            kind if kind.is_integer() => {
                Step::Places(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            _ => Step::Names(cast(array, &DataType::Utf8)?.as_string::<i32>().clone()),
        })
    }

    fn get<'a>(&self, json: &'a str, row: usize) -> Option<&'a str> {
        match self {
            Step::Names(names) => names.is_valid(row).then(|| field(json, names.value(row)))?,
            Step::Places(places) => places.is_valid(row).then(|| item(json, places.value(row)))?,
        }
    }
}

fn field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let column = SqlColumn { name: name.to_owned(), sql_type: SqlType::Json };
    let fields = Fields::new(std::iter::once(&column));
    let mut found = [None];
    if fields.read(json.as_bytes(), &mut found) { found[0] } else { None }
}

fn item(json: &str, place: i64) -> Option<&str> {
    let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    let at = if place < 0 { i64::try_from(items.len()).ok()? + place } else { place };
    items.get(usize::try_from(at).ok()?).map(|raw| raw.get())
}

impl ScalarUDFImpl for Get {
    fn name(&self) -> &str {
        match self.wanted {
            Wanted::Json => "json_extract_path",
            Wanted::Text => "json_extract_path_text",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { args.number_rows };
        let mut arrays = ColumnarValue::values_to_arrays(&args.args)?.into_iter();
        let Some(json) = arrays.next() else { return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None))) };
        let json = cast(&json, &DataType::Utf8)?;
        let json = json.as_string::<i32>();
        let steps = arrays.map(|array| Step::of(&array)).collect::<Result<Vec<Step>>>()?;
        let value = |row: usize| {
            let json = json.is_valid(row).then(|| json.value(row))?;
            let found = steps.iter().try_fold(json, |json, step| step.get(json, row))?;
            match self.wanted {
                Wanted::Json => Some(found.to_owned()),
                // A JSON null has no text.
                Wanted::Text if found == "null" => None,
                Wanted::Text => text_of(found).map(|text| text.into_owned()),
            }
        };
        let values: StringArray = (0..rows).map(value).collect();
        if is_scalar {
            let text = values.is_valid(0).then(|| values.value(0).to_owned());
            return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(text)));
        }
        Ok(ColumnarValue::Array(Arc::new(values)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_lead_into_objects_and_arrays() {
        let json = r#"{"a":{"b":[1,"x",null]}}"#;
        let b = field(field(json, "a").unwrap(), "b").unwrap();
        assert_eq!(b, r#"[1,"x",null]"#);
        assert_eq!(
            (item(b, 1), item(b, -1), item(b, 3), item(b, -4)),
            (Some("\"x\""), Some("null"), None, None)
        );
        assert_eq!((field(b, "x"), item(json, 0), field("no json", "a")), (None, None, None));
    }
}
