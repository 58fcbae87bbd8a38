//! Rows in an answer of JSON: where they are, and where in each row the value of a column is, by JSON
//! pointers (RFC 6901).
//!
//! The answer is from a system that may be broken or hostile. It is checked as a whole before any row
//! is taken, nothing of it is built that no column wants, and of a name that is there twice the last
//! one counts.

use std::fmt;

use kafscale_core::sql_schema::{SqlColumn, SqlType};
use kafscale_sql::topic::json::Fields;
use serde::de::{self, DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Arrays and objects within each other, as deep as that.
pub const DEPTH_MAX: usize = 64;
const POINTER_BYTES_MAX: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    #[error("the answer is no JSON")]
    Syntax(#[source] serde_json::Error),
    #[error("the answer is no text in UTF-8")]
    Encoding,
    #[error("arrays and objects of the answer are within each other more than {DEPTH_MAX} deep")]
    Deep,
    #[error("there is nothing at `{0}` of the answer, where the rows should be (`rows`)")]
    NoRows(Pointer),
    #[error("at `{0}` of the answer is neither an array nor an object, and so there are no rows")]
    NotRows(Pointer),
}

/// The path to a value within a JSON value, as `/data/items`. Empty: the value itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// The field of that name.
    pub fn field(name: &str) -> Pointer {
        Pointer(vec![name.to_owned()])
    }

    /// Whether the value of `other` is a part of the value here, or the same.
    pub fn contains(&self, other: &Pointer) -> bool {
        other.0.starts_with(&self.0)
    }

    /// The first step, and the rest.
    fn split(&self) -> Option<(&str, &[String])> {
        let (first, rest) = self.0.split_first()?;
        Some((first, rest))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| write!(f, "/{}", step.replace('~', "~0").replace('/', "~1")))
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Pointer::default());
        }
        match text.strip_prefix('/') {
            Some(steps) if text.len() <= POINTER_BYTES_MAX => {
                Ok(Pointer(steps.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect()))
            }
            _ => Err(de::Error::custom("a JSON pointer begins with a slash, as in /data/items")),
        }
    }
}

/// The text of an answer that is JSON as a whole, and not too deep.
pub fn checked(bytes: &[u8]) -> Result<&str, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|_| JsonError::Encoding)?;
    if depth(bytes) > DEPTH_MAX {
        return Err(JsonError::Deep);
    }
    serde_json::from_str::<&RawValue>(text).map(RawValue::get).map_err(JsonError::Syntax)
}

fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut is_escaped) = (0_usize, 0_usize, false, false);
    for byte in json {
        match (in_string, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The value at a pointer within valid JSON.
pub fn at<'a>(json: &'a str, pointer: &Pointer) -> Option<&'a str> {
    descend(json, &pointer.0)
}

fn descend<'a>(json: &'a str, steps: &[String]) -> Option<&'a str> {
    steps.iter().try_fold(json, |value, step| child(value, step))
}

fn child<'a>(json: &'a str, step: &str) -> Option<&'a str> {
    match json.as_bytes().first()? {
        b'{' => {
            let fields = fields(std::iter::once(step));
            let mut found = [None];
            fields.read(json.as_bytes(), &mut found).then_some(())?;
            found[0]
        }
        b'[' => {
            // As RFC 6901 has it: no sign, and no zeros before it.
            let index: usize = step.parse().ok().filter(|index: &usize| index.to_string() == step)?;
            let mut found = None;
            let mut place = 0;
            elements(json, |element| {
                found = found.or((place == index).then_some(element));
                place += 1;
                Ok::<_, JsonError>(())
            })
            .ok()?;
            found
        }
        _ => None,
    }
}

fn fields<'n>(names: impl Iterator<Item = &'n str>) -> Fields {
    let columns: Vec<SqlColumn> =
        names.map(|name| SqlColumn { name: name.to_owned(), sql_type: SqlType::Json }).collect();
    Fields::new(columns.iter())
}

/// Gives each element of an array, until `each` fails.
fn elements<'a, E: From<JsonError>>(
    json: &'a str,
    each: impl FnMut(&'a str) -> Result<(), E>,
) -> Result<(), E> {
    let mut failed = None;
    let walk = Elements { each, failed: &mut failed };
    let walked = serde_json::Deserializer::from_str(json).deserialize_seq(walk);
    match failed {
        Some(error) => Err(error),
        None => walked.map_err(|error| JsonError::Syntax(error).into()),
    }
}

struct Elements<'f, F, E> {
    each: F,
    failed: &'f mut Option<E>,
}

impl<'a, E, F: FnMut(&'a str) -> Result<(), E>> Visitor<'a> for Elements<'_, F, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(element) = seq.next_element_seed(Raw)? {
            if let Err(error) = (self.each)(element) {
                *self.failed = Some(error);
                return Err(de::Error::custom("enough"));
            }
        }
        Ok(())
    }
}

struct Raw;

impl<'a> DeserializeSeed<'a> for Raw {
    type Value = &'a str;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<&'a str, D::Error> {
        <&'a RawValue>::deserialize(deserializer).map(RawValue::get)
    }
}

/// Gives each row of a checked answer. An object is one row, and `null` none.
pub fn rows<'a, E: From<JsonError>>(
    answer: &'a str,
    pointer: &Pointer,
    mut each: impl FnMut(&'a str) -> Result<(), E>,
) -> Result<(), E> {
    let found = at(answer, pointer).ok_or_else(|| JsonError::NoRows(pointer.clone()))?;
    match found.as_bytes().first() {
        Some(b'[') => elements(found, each),
        Some(b'{') => each(found),
        _ if found == "null" => Ok(()),
        _ => Err(JsonError::NotRows(pointer.clone()).into()),
    }
}

/// Finds the values of columns in a row.
#[derive(Debug)]
pub struct Columns {
    /// The first steps of the columns, each once.
    firsts: Fields,
    /// Of each column, which of them, and the pointer.
    places: Vec<(Option<usize>, Pointer)>,
}

impl Columns {
    pub fn new(pointers: impl Iterator<Item = Pointer>) -> Columns {
        let mut names: Vec<String> = Vec::new();
        let mut places = Vec::new();
        for pointer in pointers {
            let first = pointer.split().map(|(first, _)| {
                names.iter().position(|name| name == first).unwrap_or_else(|| {
                    names.push(first.to_owned());
                    names.len() - 1
                })
            });
            places.push((first, pointer));
        }
        Columns { firsts: fields(names.iter().map(String::as_str)), places }
    }

    /// Gives the value of each column, in their order. None of them: there is none. `false`: the row
    /// has no places for what is wanted of it.
    pub fn read<'a>(&self, row: &'a str, mut found: impl FnMut(usize, Option<&'a str>)) -> bool {
        let mut firsts = vec![None; self.firsts.len()];
        let is_object = row.starts_with('{') && self.firsts.read(row.as_bytes(), &mut firsts);
        let is_array = row.starts_with('[');
        let mut has_places = true;
        for (column, (first, pointer)) in self.places.iter().enumerate() {
            let value = match first {
                None => Some(row),
                Some(first) if is_object => firsts[*first].and_then(|value| descend(value, &pointer.0[1..])),
                Some(_) if is_array => at(row, pointer),
                Some(_) => {
                    has_places = false;
                    None
                }
            };
            found(column, value);
        }
        has_places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(text: &str) -> Result<Pointer, String> {
        serde_json::from_value(serde_json::json!(text)).map_err(|e| e.to_string())
    }

    fn found(json: &str, text: &str) -> Option<String> {
        at(checked(json.as_bytes()).unwrap(), &pointer(text).unwrap()).map(str::to_owned)
    }

    #[test]
    fn pointers_are_those_of_rfc_6901() {
        let json =
            r#"{"foo": ["bar", "baz"], "": 0, "a/b": 1, "m~n": 8, "o": {"p": [[], [7, {"q": null}]]}}"#;
        for (text, expected) in [
            ("", Some(json)),
            ("/foo/0", Some("\"bar\"")),
            ("/", Some("0")),
            ("/a~1b", Some("1")),
            ("/m~0n", Some("8")),
            ("/o/p/1/1/q", Some("null")),
            ("/foo/2", None),
            ("/foo/01", None),
            ("/foo/+1", None),
            ("/foo/-", None),
            ("/foo/0/x", None),
            ("/nothing", None),
        ] {
            assert_eq!(found(json, text).as_deref(), expected, "{text}");
            assert_eq!(pointer(text).unwrap().to_string(), text);
        }
        assert!(pointer("foo").is_err() && pointer(&"/a".repeat(1_000)).is_err());
    }

    #[test]
    fn of_a_name_that_is_there_twice_the_last_one_counts() {
        assert_eq!(found(r#"{"a":{"b":1},"a":{"b":2}}"#, "/a/b").as_deref(), Some("2"));
        assert_eq!(found(r#"{"a":1,"\u0061":2}"#, "/a").as_deref(), Some("2"));
    }

    #[test]
    fn half_an_answer_and_a_deep_one_are_refused() {
        for text in ["", "{", "[1,2", "[1,]", "{\"a\":1}x", "nul", "\"a", "[1]\0", "{\"a\":NaN}", "<html>"] {
            assert!(matches!(checked(text.as_bytes()), Err(JsonError::Syntax(_))), "{text}");
        }
        assert!(matches!(checked(b"\"\xff\""), Err(JsonError::Encoding)));
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(checked(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(matches!(checked(nested(DEPTH_MAX + 1).as_bytes()), Err(JsonError::Deep)));
        assert!(matches!(checked(nested(5_000_000).as_bytes()), Err(JsonError::Deep)));
        assert!(matches!(checked("{\"a\":".repeat(100_000).as_bytes()), Err(JsonError::Deep)));
        assert!(checked(format!("\"{}\\\"[\"", "[{".repeat(1_000)).as_bytes()).is_ok(), "in a text");
    }

    #[test]
    fn rows_are_elements_or_one_object() {
        let of = |json: &'static str, text: &str| {
            let mut found = Vec::new();
            rows(checked(json.as_bytes()).unwrap(), &pointer(text).unwrap(), |row| {
                found.push(row);
                Ok::<_, JsonError>(())
            })
            .map(|()| found)
            .map_err(|error| error.to_string())
        };
        assert_eq!(of(r#"{"d": [ {"a":1} , 2 ]}"#, "/d").unwrap(), ["{\"a\":1}", "2"]);
        assert_eq!(of(r#"{"a":1}"#, "").unwrap(), ["{\"a\":1}"]);
        assert!(of("null", "").unwrap().is_empty() && of("[]", "").unwrap().is_empty());
        assert!(of("{}", "/d").unwrap_err().contains("nothing at `/d`"));
        assert!(of(r#"{"d":"x"}"#, "/d").unwrap_err().contains("neither an array nor an object"));
        let mut seen = 0;
        let failed: Result<(), JsonError> = rows("[1,2,3]", &Pointer::default(), |_| {
            seen += 1;
            Err(JsonError::Encoding)
        });
        assert!(matches!(failed, Err(JsonError::Encoding)));
    }

    #[test]
    fn columns_are_found_in_objects_arrays_and_values() {
        let columns = |pointers: &[&str]| Columns::new(pointers.iter().map(|text| pointer(text).unwrap()));
        let of = |columns: &Columns, row: &str| {
            let mut found = Vec::new();
            let has_places = columns.read(row, |_, value| found.push(value.map(str::to_owned)));
            (found.into_iter().map(|value| value.unwrap_or_default()).collect::<Vec<_>>(), has_places)
        };
        let nested = columns(&["/id", "/who/name", "/who/tags/1", "", "/id"]);
        let row = r#"{"who":{"name":"Ann","tags":[1,2]},"id":7}"#;
        assert_eq!(
            of(&nested, row),
            (vec!["7".into(), "\"Ann\"".into(), "2".into(), row.into(), "7".into()], true)
        );
        assert_eq!(of(&nested, "{}").0, ["", "", "", "{}", ""]);
        assert_eq!(of(&columns(&["/1", "/0"]), "[1,\"a\"]"), (vec!["\"a\"".into(), "1".into()], true));
        assert_eq!(of(&columns(&[""]), "5"), (vec!["5".into()], true));
        assert!(!of(&nested, "5").1 && !of(&nested, "\"id\"").1);
    }
}
