//! Columns as a sample of documents suggests them.

use std::collections::HashMap;

use kafscale_core::sql_schema::{MAX_COLUMNS, MAX_PRECISION, SqlColumn, SqlType};
use mongodb::bson::{RawBsonRef, RawDocument};

use super::values::text;

/// A field with a longer name is no column.
const NAME_BYTES_MAX: usize = 256;

#[derive(Debug, Default)]
pub struct Inference {
    columns: Vec<(String, Option<SqlType>)>,
    places: HashMap<String, usize>,
    pub documents: usize,
}

impl Inference {
    pub fn add(&mut self, document: &RawDocument) {
        self.documents += 1;
        for (name, value) in document.iter().filter_map(Result::ok) {
            let (name, found) = (name.as_str(), type_of(value));
            if let Some(place) = self.places.get(name) {
                let (_, known) = &mut self.columns[*place];
                *known = merged(*known, found);
            } else if self.columns.len() < MAX_COLUMNS && (1..=NAME_BYTES_MAX).contains(&name.len()) {
                self.places.insert(name.to_owned(), self.columns.len());
                self.columns.push((name.to_owned(), found));
            }
        }
    }

    /// What was never anything but null is a text. Every document has an `_id`.
    pub fn columns(mut self) -> Vec<SqlColumn> {
        if self.columns.is_empty() {
            self.columns.push(("_id".to_owned(), None));
        }
        let column = |(name, sql_type): (String, Option<SqlType>)| SqlColumn {
            name,
            sql_type: match sql_type {
                Some(SqlType::Numeric(_, scale)) => SqlType::Numeric(MAX_PRECISION, scale),
                Some(sql_type) => sql_type,
                None => SqlType::Text,
            },
        };
        self.columns.into_iter().map(column).collect()
    }
}

/// None: it says nothing.
fn type_of(value: RawBsonRef<'_>) -> Option<SqlType> {
    Some(match value {
        RawBsonRef::Null | RawBsonRef::Undefined => return None,
        RawBsonRef::Boolean(_) => SqlType::Boolean,
        RawBsonRef::Int32(_) | RawBsonRef::Int64(_) => SqlType::Int8,
        RawBsonRef::Double(_) => SqlType::Float8,
        RawBsonRef::DateTime(_) => SqlType::Timestamp,
        RawBsonRef::Decimal128(value) => return decimal(&value.to_string()),
        RawBsonRef::String(_) => SqlType::Text,
        other if text(other).is_some() => SqlType::Text,
        RawBsonRef::Binary(_) => SqlType::Bytea,
        _ => SqlType::Json,
    })
}

/// As many digits as the number has before and behind its point. None: it is `NaN` or `Infinity`.
fn decimal(text: &str) -> Option<SqlType> {
    let (mantissa, exponent) = text.split_once('E').unwrap_or((text, "0"));
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let before = before.trim_start_matches('-');
    if !before.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (exponent, digits) = (exponent.parse::<i32>().ok()?, |text: &str| i32::try_from(text.len()).ok());
    let scale = (digits(behind)? - exponent).max(0);
    let precision = (digits(before)? + exponent).max(1) + scale;
    Some(numeric(precision, scale))
}

/// What has more digits is JSON, which has it as text.
fn numeric(precision: i32, scale: i32) -> SqlType {
    match (u8::try_from(precision), u8::try_from(scale)) {
        (Ok(precision), Ok(scale)) if precision <= MAX_PRECISION => SqlType::Numeric(precision, scale),
        _ => SqlType::Json,
    }
}

/// Values of several types are JSON.
fn merged(a: Option<SqlType>, b: Option<SqlType>) -> Option<SqlType> {
    let (Some(a), Some(b)) = (a, b) else { return a.or(b) };
    Some(match (a, b) {
        (a, b) if a == b => a,
        (SqlType::Int8, SqlType::Float8) | (SqlType::Float8, SqlType::Int8) => SqlType::Float8,
        (SqlType::Int8, numeric @ SqlType::Numeric(..)) | (numeric @ SqlType::Numeric(..), SqlType::Int8) => {
            numeric
        }
        (SqlType::Numeric(p, s), SqlType::Numeric(q, t)) => {
            let scale = i32::from(s.max(t));
            numeric(i32::from((p - s).max(q - t)) + scale, scale)
        }
        _ => SqlType::Json,
    })
}

#[cfg(test)]
mod tests {
    use mongodb::bson::spec::BinarySubtype;
    use mongodb::bson::{Binary, Bson, DateTime, Decimal128, Document, RawDocumentBuf, doc, oid::ObjectId};

    use super::*;

    fn inferred(documents: &[Document]) -> Vec<(String, SqlType)> {
        let mut inference = Inference::default();
        for document in documents {
            inference.add(&RawDocumentBuf::try_from(document).unwrap());
        }
        inference.columns().into_iter().map(|column| (column.name, column.sql_type)).collect()
    }

    fn named(expected: &[(&str, SqlType)]) -> Vec<(String, SqlType)> {
        expected.iter().map(|(name, sql_type)| ((*name).to_owned(), *sql_type)).collect()
    }

    #[test]
    fn columns_are_inferred_from_all_documents() {
        let bytes = |subtype, length| Bson::Binary(Binary { subtype, bytes: vec![1; length] });
        let documents = [
            doc! { "_id": ObjectId::new(), "a": Bson::Null, "b": 1, "c": "x", "d": Bson::Null },
            doc! {
                "_id": ObjectId::new(), "a": true, "b": 1.5, "c": 7, "e": { "f": 1 }, "g": [1],
                "h": DateTime::from_millis(0), "i": bytes(BinarySubtype::Uuid, 16),
                "j": bytes(BinarySubtype::Generic, 16), "": 1, "x".repeat(300): 1,
            },
        ];
        let expected = [
            ("_id", SqlType::Text),
            ("a", SqlType::Boolean),
            ("b", SqlType::Float8),
            ("c", SqlType::Json),
            ("d", SqlType::Text),
            ("e", SqlType::Json),
            ("g", SqlType::Json),
            ("h", SqlType::Timestamp),
            ("i", SqlType::Text),
            ("j", SqlType::Bytea),
        ];
        assert_eq!(inferred(&documents), named(&expected));
        assert_eq!(inferred(&[]), named(&[("_id", SqlType::Text)]));
    }

    #[test]
    fn decimals_have_the_places_that_the_sample_has() {
        let of = |texts: &[&str]| {
            let document = |text: &&str| doc! { "n": text.parse::<Decimal128>().unwrap() };
            inferred(&texts.iter().map(document).collect::<Vec<_>>()).remove(0).1
        };
        assert_eq!(of(&["1.50", "-12"]), SqlType::Numeric(28, 2));
        assert_eq!(of(&["1E+3", "1.5E-3"]), SqlType::Numeric(28, 4));
        assert_eq!(of(&["NaN", "1.5", "Infinity"]), SqlType::Numeric(28, 1));
        assert_eq!(of(&["1E-30"]), SqlType::Json);
        assert_eq!(
            of(&["12345678901234567890", "1.1234567890"]),
            SqlType::Json,
            "together they have too many"
        );
        assert_eq!(
            inferred(&[doc! { "n": 1 }, doc! { "n": "1.5".parse::<Decimal128>().unwrap() }]).remove(0).1,
            SqlType::Numeric(28, 1)
        );
    }

    #[test]
    fn columns_are_bounded() {
        let wide: Document = (0..2_000).map(|n| (format!("c{n}"), Bson::Int32(1))).collect();
        assert_eq!(inferred(&[wide]).len(), MAX_COLUMNS);
    }
}
