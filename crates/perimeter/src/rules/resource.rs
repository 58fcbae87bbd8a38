//! Names of collections, tables and columns in policies: `hospital`, `hospital.patients`,
//! `hospital.patients.name`.
//!
//! Invariant: two things never have the same name. A part with other characters than letters,
//! digits, `_` and `-` stands in double quotes, a double quote in it doubled:
//! `hospital."public.orders"."first name"`.

use crate::shape::TableName;

/// What policies decide about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource<'a> {
    Collection(&'a str),
    Table(&'a TableName),
    /// None: any column that no policy names.
    Column(&'a TableName, Option<&'a str>),
}

/// The names in which a resource is, from the outermost inwards, its own being the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) collection: String,
    pub(super) table: Option<String>,
    pub(super) column: Option<String>,
}

impl Resource<'_> {
    pub(super) fn names(self) -> Names {
        match self {
            Resource::Collection(name) => Names { collection: part(name), table: None, column: None },
            Resource::Table(table) => {
                let collection = part(&table.collection);
                let table = Some(format!("{collection}.{}", part(&table.table)));
                Names { collection, table, column: None }
            }
            Resource::Column(table, column) => {
                let names = Resource::Table(table).names();
                let column = column.map_or_else(|| "*".to_owned(), part);
                Names { column: names.table.as_ref().map(|table| format!("{table}.{column}")), ..names }
            }
        }
    }
}

impl Names {
    /// The type, and the name.
    pub(super) fn own(&self) -> (&'static str, &str) {
        match (&self.column, &self.table) {
            (Some(column), _) => ("Column", column),
            (None, Some(table)) => ("Table", table),
            (None, None) => ("Collection", &self.collection),
        }
    }

    /// Whether this is, or is in, what a policy names.
    pub(super) fn is_in(&self, kind: &str, name: &str) -> bool {
        let found = match kind {
            "Collection" => Some(&self.collection),
            "Table" => self.table.as_ref(),
            "Column" => self.column.as_ref(),
            _ => None,
        };
        found.is_some_and(|found| found == name)
    }
}

fn part(text: &str) -> String {
    match is_plain(text) {
        true => text.to_owned(),
        false => format!("\"{}\"", text.replace('"', "\"\"")),
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}

/// The parts of a name as policies write it. None: nothing can have this name.
pub(super) fn parts(mut name: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    loop {
        let (text, rest) = match name.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = name.find('.').unwrap_or(name.len());
                (name[..end].to_owned(), &name[end..])
            }
        };
        found.push(text);
        match rest.strip_prefix('.') {
            Some(rest) => name = rest,
            None if rest.is_empty() => break,
            None => return None,
        }
    }
    Some(found)
}

fn unquote(mut rest: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    loop {
        let end = rest.find('"')?;
        text.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                text.push('"');
                rest = more;
            }
            None => return Some((text, rest)),
        }
    }
}

/// What a name of this type in a policy has to be written as. None: it is right.
pub(super) fn expected_name(kind: &str, name: &str) -> Option<String> {
    let count = match kind {
        "Collection" => 1,
        "Table" => 2,
        "Column" => 3,
        _ => return None,
    };
    let form = ["COLLECTION", "COLLECTION.TABLE", "COLLECTION.TABLE.COLUMN"][count - 1].to_owned();
    let Some(found) = parts(name).filter(|found| found.len() == count) else { return Some(form) };
    let written = found.iter().map(|text| part(text)).collect::<Vec<_>>().join(".");
    (written != name).then_some(written)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_written_in_one_way() {
        let table = TableName::new("hospital", "public.orders");
        let names = Resource::Column(&table, Some("first \"name\"")).names();
        assert_eq!(names.own(), ("Column", "hospital.\"public.orders\".\"first \"\"name\"\"\""));
        for (kind, name, expected) in [
            ("Table", "hospital.patients", None),
            ("Table", "hospital", Some("COLLECTION.TABLE")),
            ("Table", "hospital.public.orders", Some("COLLECTION.TABLE")),
            ("Table", "hospital.\"patients\"", Some("hospital.patients")),
            ("Column", "hospital.patients.*", Some("hospital.patients.\"*\"")),
            ("Collection", "hospital\"", Some("\"hospital\"\"\"")),
            ("Collection", "\"hospital", Some("COLLECTION")),
        ] {
            assert_eq!(expected_name(kind, name).as_deref(), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_two_things_have_the_same_name(
            one in prop::collection::vec("[a.\"* ]{1,4}", 3),
            other in prop::collection::vec("[a.\"* ]{1,4}", 3),
        ) {
            let name = |parts: &[String]| {
                let table = TableName::new(parts[0].clone(), parts[1].clone());
                let names = Resource::Column(&table, Some(&parts[2])).names();
                names.own().1.to_owned()
            };
            prop_assert_eq!(name(&one) == name(&other), one == other);
            prop_assert_eq!(parts(&name(&one)), Some(one.clone()));
            prop_assert_eq!(expected_name("Column", &name(&one)), None);
            let table = TableName::new(one[0].clone(), one[1].clone());
            prop_assert_ne!(Resource::Column(&table, None).names(), Resource::Column(&table, Some(&one[2])).names());
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}|[a.\"]{0,8}") {
            let _ = (parts(&text), expected_name("Column", &text));
        }
    }
}
