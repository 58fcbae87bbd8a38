//! Values of documents as cells of columns, and as JSON.
//!
//! Invariant: what a column of a type takes is what [`super::filter`] asks the server for. A column
//! of text takes strings, object ids and UUIDs and nothing else, one of numbers takes numbers.

use std::borrow::Cow;

use kafscale_core::sql_schema::SqlType;
use kafscale_sql::topic::cell::{Cell, hex, push_json};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{RawBinaryRef, RawBsonRef};
use uuid::Uuid;

use super::fields::Found;

/// A value whose JSON is longer is NULL, and counted.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Documents within each other, as deep as that.
const DEPTH_MAX: usize = 64;
/// Below it, a number of floating point tells every whole number from the next.
pub const EXACT: f64 = 9_007_199_254_740_992.0;
const DAY_MS: i64 = 86_400_000;

/// What a document has, for a column of that type.
pub fn cell(found: Found<'_>, sql_type: SqlType) -> Cell<'_> {
    let value = match found {
        Found::Nothing | Found::Value(RawBsonRef::Null | RawBsonRef::Undefined) => return Cell::Null,
        Found::Damaged => return Cell::Misfit,
        Found::Value(value) => value,
    };
    match (sql_type, value) {
        (SqlType::Json, value) => {
            let mut json = String::new();
            match write_json(value, &mut json, 0) {
                true => Cell::Json(Cow::Owned(json)),
                false => Cell::Misfit,
            }
        }
        (SqlType::Text, value) => text(value).map_or(Cell::Misfit, Cell::Text),
        (SqlType::Boolean, RawBsonRef::Boolean(value)) => Cell::Boolean(value),
        (SqlType::Int4 | SqlType::Int8, value) => whole(value).map_or(Cell::Misfit, Cell::Int),
        // The engine orders numbers by their bits, of which this one has many.
        (SqlType::Float4 | SqlType::Float8, RawBsonRef::Double(value)) if value.is_nan() => {
            Cell::Float8(f64::NAN)
        }
        (SqlType::Float4, RawBsonRef::Double(value)) => {
            let nearest = value as f32;
            if nearest.is_finite() == value.is_finite() { Cell::Float4(nearest) } else { Cell::Misfit }
        }
        (SqlType::Float8, RawBsonRef::Double(value)) => Cell::Float8(value),
        (SqlType::Float4 | SqlType::Float8 | SqlType::Numeric(..), RawBsonRef::Int32(value)) => {
            Cell::Int(value.into())
        }
        (SqlType::Float4 | SqlType::Float8 | SqlType::Numeric(..), RawBsonRef::Int64(value)) => {
            Cell::Int(value)
        }
        (SqlType::Numeric(..), RawBsonRef::Decimal128(value)) => Cell::Text(value.to_string().into()),
        (SqlType::Timestamp, RawBsonRef::DateTime(time)) => {
            time.timestamp_millis().checked_mul(1_000).map_or(Cell::Misfit, Cell::Timestamp)
        }
        (SqlType::Date, RawBsonRef::DateTime(time)) => day(time.timestamp_millis()),
        // No condition on these is told to the server.
        (SqlType::Date | SqlType::Time | SqlType::LocalTimestamp, RawBsonRef::String(text)) => {
            Cell::Text(text.into())
        }
        (SqlType::Bytea, RawBsonRef::Binary(binary)) if binary.bytes.len() <= VALUE_BYTES_MAX => {
            Cell::Bytes(binary.bytes.into())
        }
        _ => Cell::Misfit,
    }
}

/// What a column of text takes.
pub fn text(value: RawBsonRef<'_>) -> Option<Cow<'_, str>> {
    match value {
        RawBsonRef::String(text) => (text.len() <= VALUE_BYTES_MAX).then_some(text.into()),
        RawBsonRef::ObjectId(id) => Some(id.to_hex().into()),
        RawBsonRef::Binary(binary) => uuid(binary).map(|uuid| uuid.to_string().into()),
        _ => None,
    }
}

fn uuid(binary: RawBinaryRef<'_>) -> Option<Uuid> {
    match binary.subtype {
        BinarySubtype::Uuid => Uuid::from_slice(binary.bytes).ok(),
        _ => None,
    }
}

/// A moment is a day where that begins.
fn day(ms: i64) -> Cell<'static> {
    match (ms % DAY_MS, i32::try_from(ms / DAY_MS)) {
        (0, Ok(days)) => Cell::Date(days),
        _ => Cell::Misfit,
    }
}

fn whole(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(value) => Some(value.into()),
        RawBsonRef::Int64(value) => Some(value),
        RawBsonRef::Double(value) if value.fract() == 0.0 && value.abs() <= EXACT => Some(value as i64),
        _ => None,
    }
}

/// False: it is too deep, too long, or damaged. Ids, dates and decimals are texts.
fn write_json(value: RawBsonRef<'_>, json: &mut String, depth: usize) -> bool {
    if depth > DEPTH_MAX || json.len() > VALUE_BYTES_MAX {
        return false;
    }
    match value {
        RawBsonRef::Document(document) => {
            json.push('{');
            for (n, element) in document.iter().enumerate() {
                let Ok((name, value)) = element else { return false };
                json.push_str(if n > 0 { "," } else { "" });
                push_json(json, name.as_str());
                json.push(':');
                if !write_json(value, json, depth + 1) {
                    return false;
                }
            }
            json.push('}');
        }
        RawBsonRef::Array(array) => {
            json.push('[');
            for (n, element) in array.into_iter().enumerate() {
                let Ok(value) = element else { return false };
                json.push_str(if n > 0 { "," } else { "" });
                if !write_json(value, json, depth + 1) {
                    return false;
                }
            }
            json.push(']');
        }
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => push_json(json, text),
        RawBsonRef::ObjectId(id) => push_json(json, &id.to_hex()),
        RawBsonRef::Binary(binary) => match uuid(binary) {
            Some(uuid) => push_json(json, &uuid.to_string()),
            None => push_json(json, &hex(binary.bytes)),
        },
        RawBsonRef::Decimal128(value) => push_json(json, &value.to_string()),
        RawBsonRef::Boolean(value) => Cell::Boolean(value).write_json(json),
        RawBsonRef::Int32(value) => Cell::Int(value.into()).write_json(json),
        RawBsonRef::Int64(value) => Cell::Int(value).write_json(json),
        RawBsonRef::Double(value) => Cell::Float8(value).write_json(json),
        RawBsonRef::DateTime(time) => match time.timestamp_millis().checked_mul(1_000) {
            Some(us) => Cell::Timestamp(us).write_json(json),
            None => return false,
        },
        RawBsonRef::Null | RawBsonRef::Undefined => json.push_str("null"),
        // Code, patterns and marks of the server's own.
        RawBsonRef::RegularExpression(_)
        | RawBsonRef::JavaScriptCode(_)
        | RawBsonRef::JavaScriptCodeWithScope(_)
        | RawBsonRef::Timestamp(_)
        | RawBsonRef::MaxKey
        | RawBsonRef::MinKey
        | RawBsonRef::DbPointer(_) => return false,
    }
    json.len() <= VALUE_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use mongodb::bson::oid::ObjectId;
    use mongodb::bson::{Binary, Bson, DateTime, Decimal128, Document, RawDocumentBuf, doc};

    use super::*;

    fn bytes(subtype: BinarySubtype, bytes: Vec<u8>) -> Bson {
        Bson::Binary(Binary { subtype, bytes })
    }

    fn raw(document: &Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(document).unwrap()
    }

    /// What a column of that type has of the field. `!`: it does not fit.
    fn of(document: &RawDocumentBuf, field: &str, sql_type: SqlType) -> String {
        let found = match document.get(field).unwrap() {
            Some(value) => Found::Value(value),
            None => Found::Nothing,
        };
        let cell = cell(found, sql_type);
        if cell == Cell::Misfit { "!".to_owned() } else { cell.text().into_owned() }
    }

    #[test]
    fn values_fit_their_columns_or_are_told() {
        let id = ObjectId::parse_str("65f000000000000000000001").unwrap();
        let document = raw(&doc! {
            "id": id, "n": 7, "big": 7_i64, "whole": 7.0, "half": 7.5, "text": "a", "none": Bson::Null,
            "at": DateTime::from_millis(1_500), "in": { "a": [1, { "b": "x\"" }], "t": id }, "live": true,
            "day": DateTime::from_millis(-86_400_000), "written": "2026-01-02",
            "money": "12.50".parse::<Decimal128>().unwrap(), "bytes": bytes(BinarySubtype::Generic, vec![0, 255]),
            "uuid": bytes(BinarySubtype::Uuid, vec![0x11; 16]), "short": bytes(BinarySubtype::Uuid, vec![1]),
            "symbol": Bson::Symbol("s".into()), "pattern": Bson::MaxKey,
        });
        for (path, sql_type, expected) in [
            ("id", SqlType::Text, "65f000000000000000000001"),
            ("n", SqlType::Int8, "7"),
            ("big", SqlType::Float8, "7"),
            ("whole", SqlType::Int8, "7"),
            ("half", SqlType::Int8, "!"),
            ("half", SqlType::Float8, "7.5"),
            ("n", SqlType::Text, "!"),
            ("text", SqlType::Int8, "!"),
            ("none", SqlType::Int8, "null"),
            ("nothing", SqlType::Int8, "null"),
            ("at", SqlType::Timestamp, "1970-01-01T00:00:01.500Z"),
            ("in", SqlType::Json, r#"{"a":[1,{"b":"x\""}],"t":"65f000000000000000000001"}"#),
            ("live", SqlType::Boolean, "true"),
            ("at", SqlType::Date, "!"),
            ("day", SqlType::Date, "1969-12-31"),
            ("written", SqlType::Date, "2026-01-02"),
            ("written", SqlType::Timestamp, "!"),
            ("money", SqlType::Numeric(28, 2), "12.50"),
            ("money", SqlType::Float8, "!"),
            ("money", SqlType::Json, r#""12.50""#),
            ("bytes", SqlType::Bytea, "\\x00ff"),
            ("bytes", SqlType::Text, "!"),
            ("uuid", SqlType::Text, "11111111-1111-1111-1111-111111111111"),
            ("uuid", SqlType::Json, r#""11111111-1111-1111-1111-111111111111""#),
            ("short", SqlType::Text, "!"),
            ("symbol", SqlType::Text, "!"),
            ("pattern", SqlType::Json, "!"),
        ] {
            assert_eq!(of(&document, path, sql_type), expected, "{path} as {sql_type:?}");
        }
        let nan = cell(Found::Value(RawBsonRef::Double(-f64::NAN)), SqlType::Float8);
        assert!(matches!(nan, Cell::Float8(nan) if nan.is_nan() && nan.is_sign_positive()));
        assert_eq!(cell(Found::Damaged, SqlType::Json), Cell::Misfit);
    }

    #[test]
    fn deep_and_long_documents_are_told() {
        let mut deep = doc! { "a": 1 };
        for _ in 0..100 {
            deep = doc! { "a": deep };
        }
        let document = raw(&deep);
        assert_eq!(of(&document, "a", SqlType::Json), "!");
        let long = raw(&doc! { "a": "x".repeat(VALUE_BYTES_MAX + 1) });
        assert_eq!(of(&long, "a", SqlType::Text), "!");
        assert_eq!(of(&long, "a", SqlType::Json), "!");
    }
}
