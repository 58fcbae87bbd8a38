//! Conditions as the server's filters, which leave out rows that cannot fulfil them. The engine
//! decides.
//!
//! Invariant: a filter never leaves out a document of which the engine would keep the row. The
//! server finds more than that: what is in an array, and numbers of every type. Where it could find
//! less (texts in another order, what is NULL because it does not fit) a condition is left to the
//! engine.

use datafusion::common::ScalarValue;
use kafscale_core::sql_schema::SqlType;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use uuid::Uuid;

use super::fields::FieldPath;
use super::values::EXACT;
use crate::collection::predicate::{Comparison, Leaf, Predicate, Test, text};

/// The filter for all of the conditions. `column` gives a field's path and type.
pub fn all<'c>(
    predicates: &[Predicate],
    column: &impl Fn(usize) -> (&'c FieldPath, SqlType),
) -> Option<Document> {
    match predicates.is_empty() {
        true => Some(Document::new()),
        false => joined("$and", predicates, column),
    }
}

/// None: it has no form that the server may apply.
pub fn of_leaf(leaf: &Leaf, path: &FieldPath, sql_type: SqlType) -> Option<Document> {
    let path = path.written()?;
    match &leaf.test {
        Test::Compare(Comparison::Eq, value) => Some(doc! { path: { "$in": equals(value, sql_type)? } }),
        Test::In { values, negated: false } => {
            let mut all = Vec::new();
            for value in values {
                all.extend(equals(value, sql_type)?);
            }
            Some(doc! { path: { "$in": all } })
        }
        Test::Compare(comparison, value) => {
            ordering(*comparison, ordered(value, sql_type)?).map(|test| doc! { path: test })
        }
        // Whatever fits a column is there, and is not null.
        Test::Null { negated: true } => Some(doc! { path: { "$exists": true } }),
        Test::Null { negated: false } | Test::In { .. } | Test::Like { .. } => None,
    }
}

/// The engine has NaN above all numbers, and a negative zero below the other one; the server has
/// NaN below them, and one zero.
fn ordering(comparison: Comparison, value: Bson) -> Option<Document> {
    let is_float = matches!(value, Bson::Double(_));
    match (comparison, value) {
        (_, Bson::Double(0.0)) => None,
        (Comparison::Lt, value) => Some(doc! { "$lt": value }),
        (Comparison::LtEq, value) => Some(doc! { "$lte": value }),
        (Comparison::Gt, value) if is_float => Some(doc! { "$not": { "$lte": value } }),
        (Comparison::GtEq, value) if is_float => Some(doc! { "$not": { "$lt": value } }),
        (Comparison::Gt, value) => Some(doc! { "$gt": value }),
        (Comparison::GtEq, value) => Some(doc! { "$gte": value }),
        (Comparison::Eq | Comparison::NotEq, _) => None,
    }
}

/// The values that may be shown as this one.
fn equals(value: &ScalarValue, sql_type: SqlType) -> Option<Vec<Bson>> {
    match sql_type {
        SqlType::Text => {
            let text = text(value)?;
            let id = ObjectId::parse_str(text).ok().filter(|id| id.to_hex() == text);
            let uuid = Uuid::parse_str(text).ok().filter(|uuid| uuid.to_string() == text);
            let bytes = |uuid: Uuid| Binary { subtype: BinarySubtype::Uuid, bytes: uuid.as_bytes().to_vec() };
            let others = id.map(Bson::ObjectId).into_iter().chain(uuid.map(bytes).map(Bson::Binary));
            Some([Bson::String(text.to_owned())].into_iter().chain(others).collect())
        }
        SqlType::Boolean => match value {
            ScalarValue::Boolean(Some(value)) => Some(vec![Bson::Boolean(*value)]),
            _ => None,
        },
        _ => ordered(value, sql_type).map(|value| vec![value]),
    }
}

fn ordered(value: &ScalarValue, sql_type: SqlType) -> Option<Bson> {
    match (sql_type, value) {
        (SqlType::Int8, ScalarValue::Int64(Some(value))) => Some(Bson::Int64(*value)),
        (SqlType::Int4, ScalarValue::Int32(Some(value))) => Some(Bson::Int64((*value).into())),
        // Beyond these, a whole number there may become this one here.
        (SqlType::Float8, ScalarValue::Float64(Some(value))) if value.abs() < EXACT => {
            Some(Bson::Double(*value))
        }
        // Dates have milliseconds.
        (SqlType::Timestamp, ScalarValue::TimestampMicrosecond(Some(us), _)) if us % 1_000 == 0 => {
            Some(Bson::DateTime(DateTime::from_millis(us / 1_000)))
        }
        _ => None,
    }
}

fn of<'c>(predicate: &Predicate, column: &impl Fn(usize) -> (&'c FieldPath, SqlType)) -> Option<Document> {
    match predicate {
        Predicate::Leaf(leaf) => {
            let (path, sql_type) = column(leaf.column);
            of_leaf(leaf, path, sql_type)
        }
        Predicate::All(parts) => joined("$and", parts, column),
        Predicate::Any(parts) => joined("$or", parts, column),
    }
}

fn joined<'c>(
    operator: &str,
    parts: &[Predicate],
    column: &impl Fn(usize) -> (&'c FieldPath, SqlType),
) -> Option<Document> {
    let all: Vec<Document> = parts.iter().map(|part| of(part, column)).collect::<Option<_>>()?;
    (!all.is_empty()).then(|| doc! { operator: all })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(test: Test) -> Leaf {
        Leaf { column: 0, test }
    }

    fn compare(comparison: Comparison, value: impl Into<ScalarValue>) -> Leaf {
        leaf(Test::Compare(comparison, value.into()))
    }

    fn path(text: &str) -> FieldPath {
        FieldPath::parse(text).unwrap_or_else(|| FieldPath::of_name(text))
    }

    #[test]
    fn conditions_are_filters() {
        let (id, uuid) = ("65f000000000000000000001", "11111111-1111-1111-1111-111111111111");
        let object = ObjectId::parse_str(id).unwrap();
        let binary = Binary { subtype: BinarySubtype::Uuid, bytes: vec![0x11; 16] };
        let time = ScalarValue::TimestampMicrosecond(Some(5_000), Some("+00:00".into()));
        for (leaf, sql_type, expected) in [
            (compare(Comparison::Eq, "a"), SqlType::Text, doc! { "a.b": { "$in": ["a"] } }),
            (compare(Comparison::Eq, id), SqlType::Text, doc! { "a.b": { "$in": [id, object] } }),
            (compare(Comparison::Eq, uuid), SqlType::Text, doc! { "a.b": { "$in": [uuid, binary] } }),
            (compare(Comparison::Eq, 7_i64), SqlType::Int8, doc! { "a.b": { "$in": [7_i64] } }),
            (compare(Comparison::Eq, true), SqlType::Boolean, doc! { "a.b": { "$in": [true] } }),
            (compare(Comparison::Gt, 7_i64), SqlType::Int8, doc! { "a.b": { "$gt": 7_i64 } }),
            (compare(Comparison::LtEq, 1.5), SqlType::Float8, doc! { "a.b": { "$lte": 1.5 } }),
            // NaN is among these for the engine, and not for the server.
            (compare(Comparison::Gt, 1.5), SqlType::Float8, doc! { "a.b": { "$not": { "$lte": 1.5 } } }),
            (compare(Comparison::GtEq, 1.5), SqlType::Float8, doc! { "a.b": { "$not": { "$lt": 1.5 } } }),
            (compare(Comparison::Eq, 0.0), SqlType::Float8, doc! { "a.b": { "$in": [0.0] } }),
            (
                compare(Comparison::Lt, time),
                SqlType::Timestamp,
                doc! { "a.b": { "$lt": DateTime::from_millis(5) } },
            ),
            (leaf(Test::Null { negated: true }), SqlType::Json, doc! { "a.b": { "$exists": true } }),
            (
                leaf(Test::In { values: vec![1_i64.into(), 2_i64.into()], negated: false }),
                SqlType::Int8,
                doc! { "a.b": { "$in": [1_i64, 2_i64] } },
            ),
        ] {
            assert_eq!(of_leaf(&leaf, &path("a.b"), sql_type), Some(expected));
        }
    }

    #[test]
    fn what_the_server_could_see_otherwise_is_left_to_the_engine() {
        let time = ScalarValue::TimestampMicrosecond(Some(5_001), Some("+00:00".into()));
        for (leaf, of, sql_type) in [
            (compare(Comparison::Gt, 0.0), "a", SqlType::Float8),
            (compare(Comparison::Lt, -0.0), "a", SqlType::Float8),
            (compare(Comparison::Lt, EXACT), "a", SqlType::Float8),
            (compare(Comparison::Eq, f64::NAN), "a", SqlType::Float8),
            (compare(Comparison::Eq, 1.5_f32), "a", SqlType::Float4),
            (compare(Comparison::Lt, "a"), "a", SqlType::Text),
            (compare(Comparison::Eq, "a"), "a", SqlType::Json),
            (compare(Comparison::Eq, time), "a", SqlType::Timestamp),
            (compare(Comparison::NotEq, 7_i64), "a", SqlType::Int8),
            (leaf(Test::In { values: vec![1_i64.into()], negated: true }), "a", SqlType::Int8),
            (leaf(Test::Null { negated: false }), "a", SqlType::Int8),
            (leaf(Test::Like { pattern: "a%".into(), negated: false }), "a", SqlType::Text),
            (compare(Comparison::Eq, 7_i64), "$where", SqlType::Int8),
            (compare(Comparison::Eq, 7_i64), "a.$b", SqlType::Int8),
            (compare(Comparison::Eq, 7_i64), "", SqlType::Int8),
        ] {
            assert_eq!(of_leaf(&leaf, &path(of), sql_type), None, "{leaf:?}");
        }
        let dotted = of_leaf(&compare(Comparison::Eq, 7_i64), &FieldPath::of_name("a.b"), SqlType::Int8);
        assert_eq!(dotted, None, "a name with a dot in it is a path there");
    }

    #[test]
    fn all_conditions_are_one_filter() {
        let path = path("a");
        let column = |_| (&path, SqlType::Int8);
        let eq = |n: i64| Predicate::Leaf(compare(Comparison::Eq, n));
        assert_eq!(all(&[], &column), Some(doc! {}));
        let both = all(&[eq(1), Predicate::Any(vec![eq(2), eq(3)])], &column);
        let is = |n: i64| doc! { "a": { "$in": [n] } };
        assert_eq!(both, Some(doc! { "$and": [is(1), { "$or": [is(2), is(3)] }] }));
    }
}
