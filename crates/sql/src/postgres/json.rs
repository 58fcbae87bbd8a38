//! Fields of JSON in text: `->`, `->>`, `#>`, `#>>`, `@>`, `?` and `json_extract_path_text`, as PostgreSQL has them for its types json and
//! jsonb.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable as _, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility, cast as cast_expr,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use kafscale_core::sql_schema::{SqlColumn, SqlType};
use serde_json::Value;
use serde_json::value::RawValue;

use super::json_build::json_field;
use super::json_edit::{self, Edit};
use super::sides::{self, Sides};
use super::{parts, scalar};
use crate::error::SqlError;
use crate::topic::json::Fields;
use crate::topic::values::text_of;
use crate::{growth, planning};

pub fn all() -> Vec<Arc<ScalarUDF>> {
    [Wanted::Json, Wanted::Text]
        .into_iter()
        .flat_map(|wanted| [false, true].map(|by_path| Arc::new(ScalarUDF::from(Get::new(wanted, by_path)))))
        .chain(json_edit::all())
        .collect()
}

/// Plans the operators as the functions.
#[derive(Debug)]
pub struct Operators;

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        planning::check()?;
        let expr = match sides::of(expr, schema) {
            Sides::Operator(expr) => expr,
            Sides::Whole(expr) => return Ok(PlannerResult::Planned(expr)),
        };
        let get = |wanted, by_path| ScalarUDF::from(Get::new(wanted, by_path));
        // Lists have operators of the same names.
        let is_text =
            |expr: &Expr| expr.get_type(schema).is_ok_and(|kind| kind.is_string() || kind == DataType::Null);
        // What has no type that is known is nothing that is looked for below.
        let kind = |expr: &Expr| expr.get_type(schema).unwrap_or(DataType::Boolean);
        let function = match &expr.op {
            BinaryOperator::Arrow => get(Wanted::Json, false),
            BinaryOperator::LongArrow => get(Wanted::Text, false),
            BinaryOperator::HashArrow => get(Wanted::Json, true),
            BinaryOperator::HashLongArrow => get(Wanted::Text, true),
            BinaryOperator::AtArrow if is_text(&expr.left) => scalar::contains(),
            BinaryOperator::ArrowAt if is_text(&expr.left) => {
                let call = scalar::contains().call(vec![expr.right, expr.left]);
                return Ok(PlannerResult::Planned(call));
            }
            BinaryOperator::Question if is_text(&expr.left) => scalar::has(),
            BinaryOperator::QuestionPipe if is_text(&expr.left) => scalar::has_any(),
            BinaryOperator::QuestionAnd if is_text(&expr.left) => scalar::has_all(),
            BinaryOperator::HashMinus if is_text(&expr.left) => json_edit::function(Edit::MinusPath),
            BinaryOperator::Minus if json_edit::is_json(&expr.left, schema) => {
                json_edit::function(Edit::Minus)
            }
            BinaryOperator::StringConcat if is_of_json(&expr, schema) => growth::json_concat(),
            BinaryOperator::AtQuestion | BinaryOperator::AtAt => {
                let why = format!("the operator {} is not supported: there are no JSON paths", expr.op);
                return Err(SqlError::Unsupported(why).into());
            }
            // The engine's own have no bound for what values become.
            BinaryOperator::StringConcat => {
                let of =
                    |expr: &Expr| if growth::is_text_chain(expr) { DataType::Utf8View } else { kind(expr) };
                let (left, right) = (of(&expr.left), of(&expr.right));
                let is_text = |kind: &DataType| kind.is_string() || *kind == DataType::Null;
                // Beside a text, a number is one.
                let as_text = |expr: Expr, kind: &DataType| match kind.is_integer() {
                    true => cast_expr(expr, DataType::Utf8View),
                    false => expr,
                };
                let fits = |kind: &DataType| is_text(kind) || kind.is_integer();
                if fits(&left) && fits(&right) && (is_text(&left) || is_text(&right)) {
                    let call = growth::text_chain(as_text(expr.left, &left), as_text(expr.right, &right));
                    return Ok(PlannerResult::Planned(call));
                }
                if !matches!((&left, &right), (DataType::List(_), DataType::List(_))) {
                    return Ok(PlannerResult::Original(expr));
                }
                growth::array_concat()
            }
            _ => return Ok(PlannerResult::Original(expr)),
        };
        Ok(PlannerResult::Planned(function.call(vec![expr.left, expr.right])))
    }

    fn plan_extract(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(parts::extract(args)))
    }

    fn plan_array_literal(&self, elements: Vec<Expr>, _: &DFSchema) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(growth::make_array().call(elements)))
    }
}

/// `||` puts JSON together where both sides are JSON, or one is and the other a text of the statement.
fn is_of_json(concat: &RawBinaryExpr, schema: &DFSchema) -> bool {
    let is_json = |expr: &Expr| json_edit::is_json(expr, schema);
    let fits = |expr: &Expr| is_json(expr) || json_edit::is_unknown(expr);
    (is_json(&concat.left) && fits(&concat.right)) || (is_json(&concat.right) && fits(&concat.left))
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
    /// The path is one argument: a list, or text as `{a,0,b}`.
    by_path: bool,
    aliases: Vec<String>,
    signature: Signature,
}

impl Get {
    fn new(wanted: Wanted, by_path: bool) -> Get {
        let aliases = match (wanted, by_path) {
            (Wanted::Json, false) => vec!["jsonb_extract_path".to_owned()],
            (Wanted::Text, false) => vec!["jsonb_extract_path_text".to_owned()],
            (_, true) => Vec::new(),
        };
        Get { wanted, by_path, aliases, signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

/// A step of a path, for all rows or by row.
enum Step {
    Names(StringArray),
    /// Names or places.
    Either(StringArray),
    Places(arrow::array::Int64Array),
    /// Names and places, as they fit.
    Paths(StringArray),
    Lists(arrow::array::ListArray),
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
            Step::Either(steps) => steps.is_valid(row).then(|| step_in(json, steps.value(row)))?,
            Step::Places(places) => places.is_valid(row).then(|| item(json, places.value(row)))?,
            Step::Paths(paths) => {
                let path = paths.is_valid(row).then(|| paths.value(row))?;
                let inner = path.trim().strip_prefix('{')?.strip_suffix('}')?;
                let steps = inner.split(',').map(|step| step.trim().trim_matches('"'));
                steps.filter(|step| !step.is_empty()).try_fold(json, step_in)
            }
            Step::Lists(lists) => {
                let steps = lists.is_valid(row).then(|| cast(&lists.value(row), &DataType::Utf8).ok())??;
                steps.as_string::<i32>().iter().try_fold(json, |json, step| step_in(json, step?))
            }
        }
    }
}

fn step_in<'a>(json: &'a str, step: &str) -> Option<&'a str> {
    match step.parse::<i64>() {
        Ok(place) if json.trim_start().starts_with('[') => item(json, place),
        _ => field(json, step),
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
        match (self.wanted, self.by_path) {
            (Wanted::Json, false) => "json_extract_path",
            (Wanted::Text, false) => "json_extract_path_text",
            (Wanted::Json, true) => "kafscale_json_path",
            (Wanted::Text, true) => "kafscale_json_path_text",
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
        Ok(match self.wanted {
            Wanted::Json => json_field(self.name()),
            Wanted::Text => Arc::new(Field::new(self.name(), DataType::Utf8, true)),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { args.number_rows };
        let mut arrays = ColumnarValue::values_to_arrays(&args.args)?.into_iter();
        let Some(json) = arrays.next() else { return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None))) };
        let json = cast(&json, &DataType::Utf8)?;
        let json = json.as_string::<i32>();
        let step = |array: ArrayRef| match array.data_type() {
            DataType::List(_) if self.by_path => Ok(Step::Lists(array.as_list().clone())),
            _ if self.by_path => Ok(Step::Paths(scalar::utf8(&array)?)),
            _ => Step::of(&array),
        };
        // Several steps are a path, in which a place may be a text.
        let is_path = arrays.len() > 1;
        let step = |array: ArrayRef| match step(array)? {
            Step::Names(names) if is_path => Ok(Step::Either(names)),
            step => Ok(step),
        };
        let steps = arrays.map(step).collect::<Result<Vec<Step>>>()?;
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

/// How many items an array has.
pub fn length(json: &str) -> Option<i32> {
    let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    i32::try_from(items.len()).ok()
}

pub fn kind(json: &str) -> Option<&'static str> {
    Some(match json.trim_start().chars().next()? {
        '{' => "object",
        '[' => "array",
        '"' => "string",
        't' | 'f' => "boolean",
        'n' => "null",
        _ => "number",
    })
}

/// The items of an array, as they stand there.
pub fn items(json: &str) -> Option<Vec<String>> {
    let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    Some(items.into_iter().map(|item| item.get().to_owned()).collect())
}

/// The items of an array, strings without quotes.
pub fn item_texts(json: &str) -> Option<Vec<String>> {
    let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    Some(items.into_iter().filter_map(|item| text_of(item.get()).map(|text| text.into_owned())).collect())
}

/// The names of an object's fields.
pub fn keys(json: &str) -> Option<Vec<String>> {
    let fields: indexmap::IndexMap<String, &RawValue> = serde_json::from_str(json).ok()?;
    Some(fields.into_keys().collect())
}

/// `@>`: whether everything in the second one is in the first one.
pub fn contains(json: &str, part: &str) -> Option<bool> {
    let (json, part) = (serde_json::from_str(json).ok()?, serde_json::from_str(part).ok()?);
    let is_scalar = |value: &Value| !value.is_array() && !value.is_object();
    // An array contains a value that is no array, at the top only.
    if let Value::Array(items) = &json
        && is_scalar(&part)
    {
        return Some(items.contains(&part));
    }
    Some(within(&json, &part))
}

fn within(json: &Value, part: &Value) -> bool {
    match (json, part) {
        (Value::Object(fields), Value::Object(parts)) => {
            parts.iter().all(|(name, part)| fields.get(name).is_some_and(|value| within(value, part)))
        }
        (Value::Array(items), Value::Array(parts)) => {
            parts.iter().all(|part| items.iter().any(|item| within(item, part)))
        }
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (json, part) => json == part,
    }
}

/// `?`: whether an object has a field, or an array a string.
pub fn has(json: &str, name: &str) -> Option<bool> {
    Some(match serde_json::from_str::<Value>(json).ok()? {
        Value::Object(fields) => fields.contains_key(name),
        Value::Array(items) => items.iter().any(|item| item.as_str() == Some(name)),
        Value::String(text) => text == name,
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    })
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

    #[test]
    fn a_part_is_contained_as_jsonb_has_it() {
        for (json, part, expected) in [
            (r#"{"a":1,"b":[1,{"c":2,"d":3}]}"#, r#"{"b":[{"c":2}]}"#, true),
            (r#"{"a":1}"#, r#"{"a":1.0}"#, true),
            (r#"{"a":1}"#, r#"{"a":2}"#, false),
            ("[1,2,3]", "[3,1]", true),
            ("[1,2,3]", "2", true),
            ("[[1]]", "1", false),
            ("1", "[1]", false),
        ] {
            assert_eq!(contains(json, part), Some(expected), "{json} @> {part}");
        }
        assert_eq!(contains("no json", "1"), None);
        assert_eq!(
            (has(r#"{"a":1}"#, "a"), has(r#"["a"]"#, "a"), has("1", "a")),
            (Some(true), Some(true), Some(false))
        );
    }

    #[test]
    fn paths_name_fields_and_places() {
        let json = r#"{"a":[{"b":"x"}]}"#;
        assert_eq!(["a", "0", "b"].into_iter().try_fold(json, step_in), Some("\"x\""));
        assert_eq!(keys(json).unwrap(), ["a"]);
        assert_eq!((length("[1,2]"), length("{}"), kind(" [")), (Some(2), None, Some("array")));
        assert_eq!(
            (items(r#"["a",1]"#).unwrap(), item_texts(r#"["a",1]"#).unwrap()),
            (vec!["\"a\"".to_owned(), "1".into()], vec!["a".to_owned(), "1".into()])
        );
    }
}
