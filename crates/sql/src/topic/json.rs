//! Values in JSON: the wanted fields of an object, without building the others.

use std::fmt;

use kafscale_core::sql_schema::SqlColumn;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Finds wanted fields by their names. Objects of a topic mostly have their fields in the same order, so the next one is tried first.
#[derive(Debug)]
pub struct Fields {
    names: Vec<String>,
}

impl Fields {
    pub fn new<'a>(columns: impl Iterator<Item = &'a SqlColumn>) -> Fields {
        Fields { names: columns.map(|column| column.name.clone()).collect() }
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Puts the text of each wanted field into `found`, which has a place for each. Of a field that is there twice, the last one
    /// counts. `false`: this is no JSON object.
    pub fn read<'a>(&self, value: &'a [u8], found: &mut [Option<&'a str>]) -> bool {
        self.each(value, |place, raw| found[place] = Some(raw))
    }

    /// Gives the place and the text of each wanted field.
    pub fn each<'a>(&self, value: &'a [u8], found: impl FnMut(usize, &'a str)) -> bool {
        let mut deserializer = serde_json::Deserializer::from_slice(value);
        let object = Object { fields: self, found };
        deserializer.deserialize_map(object).is_ok() && deserializer.end().is_ok()
    }
}

struct Object<'f, F> {
    fields: &'f Fields,
    found: F,
}

impl<'a, F: FnMut(usize, &'a str)> Visitor<'a> for Object<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut next = 0;
        while let Some(place) = map.next_key_seed(Name { names: &self.fields.names, next })? {
            match place {
                Some(place) => {
                    let raw: &'a RawValue = map.next_value()?;
                    (self.found)(place, raw.get());
                    next = place + 1;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Name<'f> {
    names: &'f [String],
    next: usize,
}

impl<'a> DeserializeSeed<'a> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        if self.names.get(self.next).is_some_and(|expected| expected == name) {
            return Ok(Some(self.next));
        }
        Ok(self.names.iter().position(|other| other == name))
    }
}

#[cfg(test)]
mod tests {
    use kafscale_core::sql_schema::parse;

    use super::*;

    fn read<'a>(columns: &str, value: &'a str) -> Option<Vec<Option<&'a str>>> {
        let columns = parse(columns).unwrap();
        let fields = Fields::new(columns.iter());
        let mut found = vec![None; fields.len()];
        fields.read(value.as_bytes(), &mut found).then_some(found)
    }

    #[test]
    fn wanted_fields_are_found_in_any_order() {
        let value = r#" {"x":[1,{"a":9}],"b":"t\"","a":1.50, "c" : null} "#;
        assert_eq!(
            read("a int, b text, c text, d int", value).unwrap(),
            [Some("1.50"), Some(r#""t\"""#), Some("null"), None]
        );
        assert_eq!(read("a int", r#"{"a":1,"a":{"b":2}}"#).unwrap(), [Some(r#"{"b":2}"#)]);
        assert_eq!(read("ä int", r#"{"\u00e4":1}"#).unwrap(), [Some("1")]);
    }

    #[test]
    fn what_is_no_object_is_told() {
        for value in
            ["", "1", "[]", "{", r#"{"a":}"#, r#"{"a":1}x"#, r#"{"a":1,}"#, "null", "{\"a\":\"\u{1}\"}"]
        {
            assert_eq!(read("a int", value), None, "{value}");
        }
    }
}
