//! Operators that make JSON of JSON, as PostgreSQL has them for jsonb: `||`, `-` and `#-`.
//!
//! What they give is written as jsonb is: names once, the shorter ones first, and spaces behind `:` and `,`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable as _, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, TypeSignature, Volatility,
};
use serde_json::value::RawValue;

use super::json_build::{JsonText, json_field};
use super::scalar::utf8;
use crate::error::SqlError;
use crate::growth;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Edit {
    Concat,
    Minus,
    MinusPath,
}

pub const CONCAT: &str = "kafscale_json_concat";

pub fn function(edit: Edit) -> ScalarUDF {
    let signature = Signature::new(TypeSignature::Any(2), Volatility::Immutable);
    ScalarUDF::from(Edited { edit, signature })
}

pub fn all() -> Vec<Arc<ScalarUDF>> {
    [Edit::Concat, Edit::Minus, Edit::MinusPath].map(|edit| Arc::new(function(edit))).into()
}

/// Whether an expression is of type json. One that was cast to text still says so of itself.
pub fn is_json(expr: &Expr, schema: &DFSchema) -> bool {
    // Neither is an operator, nor a chain of texts, of which the type would be asked for each part.
    let is_other = matches!(expr, Expr::Cast(_) | Expr::TryCast(_) | Expr::BinaryExpr(_));
    !is_other
        && !growth::is_text_chain(expr)
        && expr.to_field(schema).is_ok_and(|(_, field)| JsonText::is_json(&field))
}

/// A text of the statement that is an object or an array, or NULL: beside JSON it is JSON. Other texts stay texts.
pub fn is_unknown(expr: &Expr) -> bool {
    let Expr::Literal(value, _) = expr else { return false };
    let is_json = |text: &str| {
        text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<&RawValue>(text).is_ok()
    };
    value.is_null() || value.try_as_str().flatten().is_some_and(is_json)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Edited {
    edit: Edit,
    signature: Signature,
}

impl ScalarUDFImpl for Edited {
    fn name(&self) -> &str {
        match self.edit {
            Edit::Concat => CONCAT,
            Edit::Minus => "kafscale_json_minus",
            Edit::MinusPath => "kafscale_json_minus_path",
        }
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
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { args.number_rows };
        let [json, other] = [args.args[0].to_array(rows)?, args.args[1].to_array(rows)?];
        let json = utf8(&json)?;
        let other = Other::of(self.edit, &other)?;
        let value = |row: usize| match json.is_valid(row) && other.is_valid(row) {
            true => edited(self.edit, json.value(row), &other, row).map(Some),
            false => Ok(None),
        };
        let values = (0..rows).map(value).collect::<std::result::Result<StringArray, SqlError>>()?;
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?)),
            false => Ok(ColumnarValue::Array(Arc::new(values))),
        }
    }
}

/// The right side: JSON, names or a path, or a place.
enum Other {
    Text(StringArray),
    Texts(arrow::array::ListArray),
    Place(arrow::array::Int64Array),
}

impl Other {
    fn of(edit: Edit, array: &ArrayRef) -> Result<Other> {
        Ok(match array.data_type() {
            DataType::List(_) => Other::Texts(array.as_list().clone()),
            kind if kind.is_integer() && edit == Edit::Minus => {
                Other::Place(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            _ => Other::Text(utf8(array)?),
        })
    }

    fn is_valid(&self, row: usize) -> bool {
        match self {
            Other::Text(texts) => texts.is_valid(row),
            Other::Texts(lists) => lists.is_valid(row),
            Other::Place(places) => places.is_valid(row),
        }
    }

    fn names(&self, row: usize) -> Vec<String> {
        match self {
            Other::Text(texts) => vec![texts.value(row).to_owned()],
            Other::Texts(lists) => list(&lists.value(row)),
            Other::Place(_) => Vec::new(),
        }
    }

    fn path(&self, row: usize) -> Option<Vec<String>> {
        match self {
            Other::Text(texts) => steps(texts.value(row)),
            other => Some(other.names(row)),
        }
    }
}

fn list(array: &ArrayRef) -> Vec<String> {
    let texts = utf8(array);
    texts.map(|texts| texts.iter().flatten().map(str::to_owned).collect()).unwrap_or_default()
}

/// The items of `{a,"b",0}`.
pub fn steps(text: &str) -> Option<Vec<String>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let steps = inner.split(',').map(|step| step.trim().trim_matches('"').to_owned());
    Some(steps.filter(|step| !step.is_empty()).collect())
}

/// JSON of which the outermost level is known.
enum Level<'a> {
    Object(BTreeMap<Name, &'a RawValue>),
    Array(Vec<&'a RawValue>),
    Other(&'a RawValue),
}

/// As jsonb sorts names.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name(usize, String);

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Name, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(Name(name.len(), name))
    }
}

fn invalid() -> SqlError {
    SqlError::State { code: "22P02", message: "invalid input syntax for type json".to_owned() }
}

fn refused(message: &str) -> SqlError {
    SqlError::State { code: "22023", message: message.to_owned() }
}

impl<'a> Level<'a> {
    fn of(json: &'a str) -> std::result::Result<Level<'a>, SqlError> {
        let read = match json.trim_start().as_bytes().first() {
            Some(b'{') => serde_json::from_str(json).map(Level::Object),
            Some(b'[') => serde_json::from_str(json).map(Level::Array),
            _ => serde_json::from_str(json).map(Level::Other),
        };
        read.map_err(|_| invalid())
    }

    fn written(&self) -> std::result::Result<String, SqlError> {
        Ok(match self {
            Level::Object(fields) => {
                let field = |(name, value): (&Name, &&RawValue)| {
                    let name = serde_json::Value::from(name.1.as_str());
                    Ok(format!("{name}: {}", Level::of(value.get())?.written()?))
                };
                let fields = fields.iter().map(field).collect::<std::result::Result<Vec<_>, SqlError>>()?;
                format!("{{{}}}", fields.join(", "))
            }
            Level::Array(items) => {
                let item = |item: &&RawValue| Level::of(item.get())?.written();
                let items = items.iter().map(item).collect::<std::result::Result<Vec<_>, SqlError>>()?;
                format!("[{}]", items.join(", "))
            }
            Level::Other(value) => value.get().to_owned(),
        })
    }
}

fn edited(edit: Edit, json: &str, other: &Other, row: usize) -> std::result::Result<String, SqlError> {
    match (edit, other) {
        (Edit::Concat, Other::Text(texts)) => joined(json, texts.value(row)),
        (Edit::Concat, _) => Err(invalid()),
        (Edit::Minus, Other::Place(places)) => without_place(json, places.value(row)),
        (Edit::Minus, other) => without_names(json, &other.names(row)),
        (Edit::MinusPath, other) => {
            let path = other.path(row).ok_or_else(|| refused("a path is an array: '{a,0}'"))?;
            match path.is_empty() {
                true => Level::of(json)?.written(),
                false => without_path(json, &path),
            }
        }
    }
}

fn joined(left: &str, right: &str) -> std::result::Result<String, SqlError> {
    let raw = |json| serde_json::from_str::<&RawValue>(json).map_err(|_| invalid());
    let items = |level, json| match level {
        Level::Array(items) => Ok(items),
        _ => raw(json).map(|one| vec![one]),
    };
    match (Level::of(left)?, Level::of(right)?) {
        (Level::Object(mut fields), Level::Object(others)) => {
            fields.extend(others);
            Level::Object(fields).written()
        }
        (one, other) => {
            let mut all = items(one, left)?;
            all.extend(items(other, right)?);
            Level::Array(all).written()
        }
    }
}

fn without_names(json: &str, names: &[String]) -> std::result::Result<String, SqlError> {
    match Level::of(json)? {
        Level::Object(mut fields) => {
            fields.retain(|name, _| !names.contains(&name.1));
            Level::Object(fields).written()
        }
        Level::Array(mut items) => {
            items.retain(|item| {
                !serde_json::from_str::<String>(item.get()).is_ok_and(|text| names.contains(&text))
            });
            Level::Array(items).written()
        }
        Level::Other(_) => Err(refused("cannot delete from scalar")),
    }
}

/// A place is counted from the end where it is negative.
fn place_in(length: usize, place: i64) -> Option<usize> {
    let place = if place < 0 { i64::try_from(length).ok()? + place } else { place };
    usize::try_from(place).ok().filter(|place| *place < length)
}

fn without_place(json: &str, place: i64) -> std::result::Result<String, SqlError> {
    match Level::of(json)? {
        Level::Object(_) => Err(refused("cannot delete from object using integer index")),
        Level::Array(mut items) => {
            if let Some(at) = place_in(items.len(), place) {
                items.remove(at);
            }
            Level::Array(items).written()
        }
        Level::Other(_) => Err(refused("cannot delete from scalar")),
    }
}

fn without_path(json: &str, path: &[String]) -> std::result::Result<String, SqlError> {
    let Some((step, rest)) = path.split_first() else { return Level::of(json)?.written() };
    let inside = |value: &RawValue| {
        let made = without_path(value.get(), rest)?;
        RawValue::from_string(made).map_err(|_| invalid())
    };
    let made;
    let level = match Level::of(json)? {
        Level::Object(mut fields) => {
            let name = Name(step.len(), step.clone());
            match fields.get_mut(&name) {
                Some(value) if !rest.is_empty() => {
                    made = inside(value)?;
                    *value = &made;
                }
                _ => {
                    fields.remove(&name);
                }
            }
            Level::Object(fields)
        }
        Level::Array(mut items) => {
            let place = step.parse().map_err(|_| refused("a step of the path is no place of an array"))?;
            match place_in(items.len(), place) {
                Some(at) if rest.is_empty() => {
                    items.remove(at);
                }
                Some(at) => {
                    made = inside(items[at])?;
                    items[at] = &made;
                }
                None => {}
            }
            Level::Array(items)
        }
        other => other,
    };
    level.written()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_statement_beside_json_are_json_where_they_can_be() {
        use datafusion::logical_expr::{cast as cast_expr, col, lit};
        let field = json_field("j").as_ref().clone();
        let schema = DFSchema::try_from(arrow::datatypes::Schema::new(vec![field])).unwrap();
        assert!(is_json(&col("j"), &schema));
        assert!(!is_json(&cast_expr(col("j"), DataType::Utf8), &schema));
        let known = ["{\"a\":1}", "[1]", " and more", "{x", "1"].map(|text| is_unknown(&lit(text)));
        assert_eq!(known, [true, true, false, false, false]);
    }

    #[test]
    fn json_is_put_together_as_jsonb_is() {
        for (left, right, expected) in [
            (
                r#"{"a":1,"bb":{"y":1,"x":2}}"#,
                r#"{"z":1,"a":"n"}"#,
                r#"{"a": "n", "z": 1, "bb": {"x": 2, "y": 1}}"#,
            ),
            ("[1,2]", "[ 3 ]", "[1, 2, 3]"),
            ("[1]", r#"{"a":null}"#, r#"[1, {"a": null}]"#),
            ("1", "2", "[1, 2]"),
            (r#"{"a":1}"#, "{}", r#"{"a": 1}"#),
            ("12345678901234567890123", "[]", "[12345678901234567890123]"),
        ] {
            assert_eq!(joined(left, right).unwrap(), expected, "{left} || {right}");
        }
        assert!(joined("{", "{}").is_err());
    }

    #[test]
    fn parts_are_taken_out_as_of_jsonb() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (json, without, expected) in [
            (r#"{"a":1,"b":2}"#, names(&["a"]), r#"{"b": 2}"#),
            (r#"["a","b",1,"a"]"#, names(&["a"]), r#"["b", 1]"#),
            (r#"{"a":1,"b":2,"c":3}"#, names(&["a", "c", "x"]), r#"{"b": 2}"#),
        ] {
            assert_eq!(without_names(json, &without).unwrap(), expected);
        }
        assert_eq!(without_place("[1,2,3]", -1).unwrap(), "[1, 2]");
        assert_eq!(without_place("[1,2,3]", 3).unwrap(), "[1, 2, 3]");
        assert!(without_place("{}", 0).is_err() && without_names("1", &[]).is_err());
        for (json, path, expected) in [
            (r#"{"a":{"b":[1,{"c":2}]}}"#, "{a,b,1,c}", r#"{"a": {"b": [1, {}]}}"#),
            (r#"{"a":{"b":[1,{"c":2}]}}"#, "{a,b,-2}", r#"{"a": {"b": [{"c": 2}]}}"#),
            (r#"{"a":1}"#, "{x,y}", r#"{"a": 1}"#),
            (r#"{"a":1}"#, "{a,y}", r#"{"a": 1}"#),
        ] {
            assert_eq!(without_path(json, &steps(path).unwrap()).unwrap(), expected, "{json} #- {path}");
        }
    }
}
