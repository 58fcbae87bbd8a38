//! An answer as an agent gets it: rows that fit its budget of tokens, and beside them what they were computed from, which rules
//! shaped them, and whether they are all.

use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, SchemaRef, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use kafscale_agent::answer::budget::tokens;
use kafscale_agent::schemars::{self, JsonSchema};
use serde::Serialize;
use serde_json::Value;

use crate::catalog::Used;
use crate::governed::lineage::Labels;
use crate::shape::{ColumnShape, Mask, Shown, TableShape};

/// Tokens of an answer, and what is kept of them for all that is not rows.
pub const TOKENS_DEFAULT: usize = 800;
pub const TOKENS_MAX: usize = 8_000;
const TOKENS_BESIDE: usize = 350;
/// Of one value; the rest is left out, and said to be.
const VALUE_CHARS_MAX: usize = 2_000;

/// A column of an answer: its name, its type, the labels of what it was computed from.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct AnswerColumn {
    pub name: String,
    pub r#type: String,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<String>,
}

pub fn columns(schema: &SchemaRef, labels: &[Labels]) -> Vec<AnswerColumn> {
    let none = Labels::new();
    schema
        .fields()
        .iter()
        .enumerate()
        .map(|(at, field)| AnswerColumn {
            name: field.name().clone(),
            r#type: type_name(field.data_type()),
            labels: labels.get(at).unwrap_or(&none).clone(),
        })
        .collect()
}

/// As SQL names it.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 | DataType::Int16 => "smallint".to_owned(),
        DataType::Int32 | DataType::UInt8 | DataType::UInt16 => "integer".to_owned(),
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "bigint".to_owned(),
        DataType::Float32 => "real".to_owned(),
        DataType::Float64 => "double precision".to_owned(),
        DataType::Decimal128(precision, scale) => format!("numeric({precision},{scale})"),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Timestamp(_, None) => "timestamp".to_owned(),
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "bytea".to_owned(),
        other => other.to_string(),
    }
}

/// Rows from `first` on, as many as fit in `budget` tokens.
pub fn page(batches: &[RecordBatch], first: u64, most: u64, budget: usize) -> Vec<Vec<Value>> {
    let mut left = budget.saturating_sub(TOKENS_BESIDE).max(TOKENS_DEFAULT - TOKENS_BESIDE);
    let mut skip = usize::try_from(first).unwrap_or(usize::MAX);
    let mut rows = Vec::new();
    for batch in batches {
        if skip >= batch.num_rows() {
            skip -= batch.num_rows();
            continue;
        }
        for at in skip..batch.num_rows() {
            if rows.len() as u64 >= most {
                return rows;
            }
            let row: Vec<Value> = batch.columns().iter().map(|column| value(column, at)).collect();
            let cost = serde_json::to_string(&row).map_or(usize::MAX, |text| tokens(&text) + 1);
            // One row is shown in any case, or nobody would come further.
            if cost > left && !rows.is_empty() {
                return rows;
            }
            left = left.saturating_sub(cost);
            rows.push(row);
        }
        skip = 0;
    }
    rows
}

/// A value as JSON has it: numbers that JavaScript keeps, and texts for everything else.
fn value(column: &ArrayRef, at: usize) -> Value {
    if column.is_null(at) {
        return Value::Null;
    }
    macro_rules! number {
        ($of:ty) => {
            Value::from(column.as_primitive::<$of>().value(at))
        };
    }
    match column.data_type() {
        DataType::Boolean => Value::Bool(column.as_boolean().value(at)),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => whole(column.as_primitive::<Int64Type>().value(at)),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => match i64::try_from(column.as_primitive::<UInt64Type>().value(at)) {
            Ok(number) => whole(number),
            Err(_) => Value::String(text(column, at)),
        },
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        _ => Value::String(text(column, at)),
    }
}

/// 2^53, up to which a JSON number is the same everywhere.
fn whole(value: i64) -> Value {
    const EXACT: i64 = 1 << 53;
    if (-EXACT..=EXACT).contains(&value) { Value::from(value) } else { Value::String(value.to_string()) }
}

fn text(column: &ArrayRef, at: usize) -> String {
    let options = FormatOptions::new();
    let mut text = match ArrayFormatter::try_new(column.as_ref(), &options) {
        Ok(formatter) => formatter.value(at).to_string(),
        Err(_) => return "a value that has no text".to_owned(),
    };
    if let Some((end, _)) = text.char_indices().nth(VALUE_CHARS_MAX) {
        text.truncate(end);
        text.push_str("… (cut)");
    }
    text
}

/// What a table of the answer was read as of.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ComputedFrom {
    pub table: String,
    pub as_of: Value,
}

/// For the audit log.
pub fn computed_from(used: &[Used]) -> Vec<ComputedFrom> {
    let of = |used: &Used| ComputedFrom { table: used.table.to_string(), as_of: (used.provenance.0)() };
    used.iter().map(of).collect()
}

/// What is told of a table of which rows are kept back.
const TOLD_OF_THE_REST: [&str; 4] = ["topic", "database", "from", "to"];
/// Where the server keeps something.
const PLACES: [&str; 2] = ["path", "root"];

/// The same as its caller may know it: of a table of which rows are kept back, neither how much of it was read, nor which files or
/// offsets, since a condition goes to the source before rows are taken away; of no table what was found in columns that are not
/// shown, nor a path of the server.
pub fn computed_from_told(used: &[Used]) -> Vec<ComputedFrom> {
    let of = |used: &Used, mut from: ComputedFrom| {
        // How much was read tells of rows that no answer has, and that nobody paid for.
        let keeps_rows_back = used.shape.keeps_rows_back() || used.shape.counted.is_some();
        match &mut from.as_of {
            Value::Object(told) if keeps_rows_back => {
                told.retain(|key, value| value.is_string() && TOLD_OF_THE_REST.contains(&key.as_str()));
            }
            Value::Object(told) => {
                told.retain(|key, _| !PLACES.contains(&key.as_str()));
                if let Some(Value::Object(misfits)) = told.get_mut("misfits") {
                    misfits.retain(|name, _| {
                        let of = |column: &&ColumnShape| column.name == *name && column.shown == Shown::AsIs;
                        used.shape.columns.iter().any(|column| of(&column))
                    });
                }
            }
            Value::String(_) => {}
            other => *other = Value::Null,
        }
        from
    };
    used.iter().zip(computed_from(used)).map(|(used, from)| of(used, from)).collect()
}

/// In words, what the rules did to the tables of an answer.
pub fn shaped_by(used: &[Used]) -> Vec<String> {
    used.iter().filter_map(|used| shape_in_words(&used.shape)).collect()
}

/// None: the table is as it is.
pub fn shape_in_words(shape: &TableShape) -> Option<String> {
    let mut parts = Vec::new();
    let masked: Vec<String> = shape
        .columns
        .iter()
        .filter_map(|column| match &column.shown {
            Shown::Masked(mask) => Some(format!("{} {}", column.name, mask_in_words(mask))),
            Shown::Hidden | Shown::AsIs => None,
        })
        .collect();
    if !masked.is_empty() {
        parts.push(format!("{} columns masked ({})", masked.len(), masked.join(", ")));
    }
    if shape.columns.iter().any(|column| column.shown == Shown::Hidden) {
        parts.push("some columns not shown".to_owned());
    }
    if !shape.row_filters.is_empty() {
        parts.push("only rows that are for this caller".to_owned());
    }
    if let Some(min_group) = &shape.min_group {
        let (size, entity) = (min_group.size, shape.entity_told());
        parts.push(format!(
            "groups under {size} different {entity} suppressed, figures that would tell of them, and rows of nobody"
        ));
    }
    if let Some(counted) = shape.counted.as_ref().filter(|_| shape.min_group.is_none()) {
        parts.push(format!("at most {} different entities in a day", counted.per_day));
    }
    if let Some(rows) = shape.max_rows {
        parts.push(format!("at most {rows} rows"));
    }
    if let Some(bytes) = shape.max_bytes {
        parts.push(format!("at most {bytes} bytes"));
    }
    parts.extend(shape.patterns.iter().map(|pattern| pattern.in_words()));
    (!parts.is_empty()).then(|| format!("{}: {}", shape.table, parts.join("; ")))
}

pub fn mask_in_words(mask: &Mask) -> String {
    match mask {
        Mask::Null => "as null".to_owned(),
        Mask::Fixed(_) => "replaced".to_owned(),
        Mask::Hash(_) => "hashed".to_owned(),
        Mask::Tokenise(_) => "tokenised".to_owned(),
        Mask::KeepLast(count) => format!("but for the last {count}"),
        Mask::Date(part) => format!("to the {}", format!("{part:?}").to_lowercase()),
        Mask::Bucket(width) => format!("in steps of {width}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::collection::Provenance;
    use crate::rules::Limits;
    use crate::shape::{Counted, TableName};

    fn told(filters: &[&str], as_of: Value) -> Value {
        told_of(filters, None, as_of)
    }

    fn told_of(filters: &[&str], counted: Option<Counted>, as_of: Value) -> Value {
        let table = TableName::new("a", "t");
        let shape = TableShape {
            table: table.clone(),
            columns: Vec::new(),
            row_filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
            min_group: None,
            max_rows: None,
            max_bytes: None,
            patterns: Vec::new(),
            counted,
        };
        let used = Used {
            table,
            shape: Arc::new(shape),
            rules: Vec::new(),
            budgets: Limits::default(),
            record: None,
            columns: Vec::new(),
            provenance: Provenance(Arc::new(move || as_of.clone())),
        };
        computed_from_told(&[used]).remove(0).as_of
    }

    #[test]
    fn what_an_answer_is_computed_from_tells_neither_places_nor_rows_that_are_kept_back() {
        let topic = || json!({ "topic": "t", "as_of": "0:0-445,1:0-455", "rows_read": 900, "columns": "inferred from 900 records" });
        assert_eq!(told(&[], topic()), topic());
        assert_eq!(told(&["ward = 2"], topic()), json!({ "topic": "t" }));
        let of_entities = Counted { entity: "id".to_owned(), per_day: 3 };
        assert_eq!(told_of(&[], Some(of_entities), topic()), json!({ "topic": "t" }));
        let database = || json!({ "path": "/srv/clinic.db", "data_version": 3, "file": { "bytes": 5 } });
        assert_eq!(told(&[], database()), json!({ "data_version": 3, "file": { "bytes": 5 } }));
        assert_eq!(told(&["ward = 2"], database()), json!({}));
        let files = json!({ "root": "/srv/papers", "files": [{ "path": "a.csv", "bytes": 5 }] });
        assert_eq!(told(&[], files), json!({ "files": [{ "path": "a.csv", "bytes": 5 }] }));
    }
}
