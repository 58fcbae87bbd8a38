//! Arrays as parameters: `{1,2,NULL}`, or PostgreSQL's binary form. They have one dimension.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use pgwire::api::Type;
use postgres_types::Kind;

use super::parameters::{arrow_type, binary, text};

/// Of an array: the type of its items.
pub fn item_of(declared: &Type) -> Option<&Type> {
    match declared.kind() {
        Kind::Array(item) => Some(item),
        _ => None,
    }
}

pub fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

fn list(items: &[ScalarValue], item: &DataType) -> ScalarValue {
    ScalarValue::List(ScalarValue::new_list_nullable(items, item))
}

/// `{1,"a b",NULL}`
pub fn from_text(array: &str, item: &Field) -> Option<ScalarValue> {
    let inner = array.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut items = Vec::new();
    let mut rest = inner.trim();
    while !rest.is_empty() {
        let (value, quoted, behind) = item_text(rest)?;
        items.push(match quoted || !value.eq_ignore_ascii_case("null") {
            true => text(value.as_bytes(), item.data_type())?,
            false => ScalarValue::try_from(item.data_type()).ok()?,
        });
        rest = match behind.strip_prefix(',') {
            // Behind a comma, something follows.
            Some(behind) if !behind.trim().is_empty() => behind.trim_start(),
            None if behind.is_empty() => behind,
            _ => return None,
        };
    }
    Some(list(&items, item.data_type()))
}

/// The first item, whether it stood in quotes, and what stands behind it.
fn item_text(rest: &str) -> Option<(String, bool, &str)> {
    let quoted = rest.starts_with('"');
    let mut value = String::new();
    let mut chars = rest.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next()?.1),
            '"' if quoted => return Some((value, true, rest[at + 1..].trim_start())),
            '"' | '{' | '}' if !quoted => return None,
            ',' if !quoted => return Some((value.trim_end().to_owned(), false, &rest[at..])),
            other => value.push(other),
        }
    }
    (!quoted).then(|| (value.trim_end().to_owned(), false, ""))
}

/// Dimensions, whether there are NULLs, the items' oid, each dimension's length and first index, and the items with their lengths.
pub fn from_binary(bytes: &[u8], declared: &Type) -> Option<ScalarValue> {
    let item = item_of(declared)?;
    let target = arrow_type(item).unwrap_or(DataType::Utf8);
    let word = |at: usize| Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    match word(0)? {
        0 => return Some(list(&[], &target)),
        1 => {}
        _ => return None,
    }
    let count = usize::try_from(word(12)?).ok()?;
    let mut rest = bytes.get(20..)?;
    let mut items = Vec::new();
    for _ in 0..count {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        rest = behind;
        items.push(match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => ScalarValue::try_from(&target).ok()?,
            Ok(length) => {
                let (value, behind) = rest.split_at_checked(length)?;
                rest = behind;
                binary(item, value)?
            }
        });
    }
    Some(list(&items, &target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(items: &[Option<&str>]) -> ScalarValue {
        let item = |item: &Option<&str>| ScalarValue::Utf8(item.map(str::to_owned));
        list(&items.iter().map(item).collect::<Vec<_>>(), &DataType::Utf8)
    }

    #[test]
    fn arrays_are_read_from_text() {
        let field = Field::new_list_field(DataType::Utf8, true);
        for (text, expected) in [
            ("{}", Some(texts(&[]))),
            ("{a, b ,NULL}", Some(texts(&[Some("a"), Some("b"), None]))),
            (
                r#"{"a,b","NULL","x\"y\\",""}"#,
                Some(texts(&[Some("a,b"), Some("NULL"), Some("x\"y\\"), Some("")])),
            ),
            ("{a,}", None),
            ("{a", None),
            ("{\"a}", None),
            ("{{a},{b}}", None),
            ("a", None),
        ] {
            assert_eq!(from_text(text, &field), expected, "{text}");
        }
        let numbers = Field::new_list_field(DataType::Int64, true);
        let expected = list(&[ScalarValue::Int64(Some(1)), ScalarValue::Int64(None)], &DataType::Int64);
        assert_eq!(from_text("{1,NULL}", &numbers), Some(expected));
        assert_eq!(from_text("{x}", &numbers), None);
    }

    #[test]
    fn arrays_are_read_from_bytes() {
        let mut bytes = Vec::new();
        for word in [1_i32, 1, 23, 2, 1, 4, 7, -1] {
            bytes.extend(word.to_be_bytes());
        }
        let expected = list(&[ScalarValue::Int32(Some(7)), ScalarValue::Int32(None)], &DataType::Int32);
        assert_eq!(from_binary(&bytes, &Type::INT4_ARRAY), Some(expected));
        assert_eq!(from_binary(&bytes[..30], &Type::INT4_ARRAY), None);
        assert_eq!(from_binary(&[0; 12], &Type::INT4_ARRAY), Some(list(&[], &DataType::Int32)));
        // A count that the bytes do not have is no reason to set memory aside.
        bytes[12..16].copy_from_slice(&i32::MAX.to_be_bytes());
        assert_eq!(from_binary(&bytes, &Type::INT4_ARRAY), None);
    }
}
