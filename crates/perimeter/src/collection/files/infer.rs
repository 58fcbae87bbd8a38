//! The columns of files that do not state them: by a bounded sample, so that what comes behind it may not fit.

use std::collections::BTreeMap;

use indexmap::{IndexMap, IndexSet};
use kafscale_core::sql_schema::{SqlColumn, SqlType};
use serde_json::value::RawValue;

use super::records::fields;

/// More columns than anybody reads.
pub const MAX_COLUMNS: usize = 1_000;

/// What the values of a column have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seen {
    #[default]
    Nothing,
    Boolean,
    Whole,
    Number,
    Date,
    Timestamp,
    Text,
    /// Objects and arrays, or values of different kinds, in JSON.
    Json,
}

impl Seen {
    /// Of a field in CSV, which is not empty.
    pub fn of_text(text: &str) -> Seen {
        match text {
            "true" | "false" => Seen::Boolean,
            _ if is_whole(text) => Seen::Whole,
            _ if is_number(text) => Seen::Number,
            _ => Seen::of_moment(text),
        }
    }

    /// Of a value in JSON.
    pub fn of_json(raw: &str) -> Seen {
        match raw.as_bytes().first() {
            Some(b'n') => Seen::Nothing,
            Some(b't' | b'f') => Seen::Boolean,
            Some(b'"') => Seen::of_moment(raw.trim_matches('"')),
            Some(b'{' | b'[') => Seen::Json,
            _ if raw.parse::<i64>().is_ok() => Seen::Whole,
            _ => Seen::Number,
        }
    }

    fn of_moment(text: &str) -> Seen {
        let bytes = text.as_bytes();
        let is_day = |bytes: &[u8]| {
            bytes
                .iter()
                .enumerate()
                .all(|(at, b)| if at == 4 || at == 7 { *b == b'-' } else { b.is_ascii_digit() })
        };
        match bytes.len() {
            10 if is_day(bytes) => match chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d") {
                Ok(_) => Seen::Date,
                Err(_) => Seen::Text,
            },
            19..=35 if is_day(&bytes[..10]) && matches!(bytes[10], b'T' | b' ') => Seen::Timestamp,
            _ => Seen::Text,
        }
    }

    /// `of_json`: values of different kinds stay what they are. Otherwise they are text.
    pub fn and(self, other: Seen, of_json: bool) -> Seen {
        match (self, other) {
            (Seen::Nothing, seen) | (seen, Seen::Nothing) => seen,
            (one, two) if one == two => one,
            (Seen::Whole, Seen::Number) | (Seen::Number, Seen::Whole) => Seen::Number,
            (Seen::Text | Seen::Date | Seen::Timestamp, Seen::Text | Seen::Date | Seen::Timestamp) => {
                Seen::Text
            }
            _ if of_json => Seen::Json,
            _ => Seen::Text,
        }
    }

    pub fn sql_type(self) -> SqlType {
        match self {
            Seen::Boolean => SqlType::Boolean,
            Seen::Whole => SqlType::Int8,
            Seen::Number => SqlType::Float8,
            Seen::Date => SqlType::Date,
            Seen::Timestamp => SqlType::Timestamp,
            Seen::Nothing | Seen::Text => SqlType::Text,
            Seen::Json => SqlType::Json,
        }
    }
}

/// A code with zeros before it is no number: they count.
fn is_whole(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_plain = digits == "0" || !digits.starts_with(['0', '+']);
    is_plain && text.parse::<i64>().is_ok()
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_plain = digits.starts_with("0.") || !digits.starts_with(['0', '+', '.']);
    let is_decimal =
        digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'-' | b'+'));
    // Longer than a float can keep: an identifier, as long as it is whole.
    let is_kept = digits.len() <= 15 || digits.contains(['.', 'e', 'E']);
    is_plain && is_decimal && is_kept && text.parse::<f64>().is_ok()
}

/// Columns by their names, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Found {
    columns: IndexMap<String, Seen>,
    pub records: usize,
    /// Columns that got another name since theirs was taken, and the name that they have in the file.
    pub renamed: BTreeMap<String, String>,
}

impl Found {
    /// The names of the columns in a file of CSV. One that is empty or there twice gets another.
    pub fn name_header(&mut self, names: impl Iterator<Item = String>) -> Vec<String> {
        let mut unique: IndexSet<String> = IndexSet::new();
        for (at, name) in names.take(MAX_COLUMNS).enumerate() {
            let base = if name.trim().is_empty() { format!("c{}", at + 1) } else { name.trim().to_owned() };
            let others = (2..).map(|count| format!("{base}_{count}"));
            let free = std::iter::once(base.clone()).chain(others).find(|name| !unique.contains(name));
            if let Some(free) = free {
                if free != base {
                    self.renamed.insert(free.clone(), base);
                }
                unique.insert(free);
            }
        }
        for name in &unique {
            if self.columns.len() < MAX_COLUMNS {
                self.columns.entry(name.clone()).or_default();
            }
        }
        unique.into_iter().collect()
    }

    /// A record of a file whose columns have these names.
    pub fn add_record(&mut self, names: &[String], record: &[u8], delimiter: u8) {
        self.records += 1;
        for (name, field) in names.iter().zip(fields(record, delimiter)) {
            let text = std::str::from_utf8(&field.bytes).ok().filter(|text| !text.is_empty());
            if let (Some(text), Some(seen)) = (text, self.columns.get_mut(name)) {
                *seen = seen.and(Seen::of_text(text), false);
            }
        }
    }

    /// `false`: it is no object.
    pub fn add_object(&mut self, record: &[u8]) -> bool {
        let Ok(object) = serde_json::from_slice::<IndexMap<String, &RawValue>>(record) else { return false };
        self.records += 1;
        for (name, raw) in object {
            let of = Seen::of_json(raw.get());
            let is_full = self.columns.len() >= MAX_COLUMNS;
            match self.columns.get_mut(&name) {
                Some(seen) => *seen = seen.and(of, true),
                None if !is_full && !name.is_empty() => {
                    self.columns.insert(name, of);
                }
                None => {}
            }
        }
        true
    }

    pub fn columns(self) -> Vec<SqlColumn> {
        let column = |(name, seen): (String, Seen)| SqlColumn { name, sql_type: seen.sql_type() };
        self.columns.into_iter().map(column).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_no_numbers() {
        for (text, seen) in [
            ("0", Seen::Whole),
            ("-12", Seen::Whole),
            ("007", Seen::Text),
            ("+4930", Seen::Text),
            ("0.5", Seen::Number),
            ("1e3", Seen::Number),
            ("12345678901234567890", Seen::Text),
            ("NaN", Seen::Text),
            ("2024-02-29", Seen::Date),
            ("2023-02-29", Seen::Text),
            ("2024-02-29T10:00:00Z", Seen::Timestamp),
            ("2024-02-29 10:00:00", Seen::Timestamp),
            ("true", Seen::Boolean),
            ("1.2.3", Seen::Text),
        ] {
            assert_eq!(Seen::of_text(text), seen, "{text}");
        }
    }

    #[test]
    fn columns_have_names_of_their_own() {
        let mut found = Found::default();
        let names = found.name_header(["id", "", "id", "id_2", " a "].map(str::to_owned).into_iter());
        found.add_record(&names, b"1,,,x", b',');
        found.add_record(&names, b"1.5,,true,1", b',');
        let renamed: Vec<_> =
            found.renamed.iter().map(|(name, base)| (name.as_str(), base.as_str())).collect();
        assert_eq!(renamed, [("id_2", "id"), ("id_2_2", "id_2")], "c2 has no name in the file");
        // Another file, in another order.
        let names = found.name_header(["a", "id"].map(str::to_owned).into_iter());
        found.add_record(&names, b"2024-01-01,2", b',');
        let columns: Vec<_> = found.columns().into_iter().map(|c| (c.name, c.sql_type)).collect();
        let expected = [
            ("id", SqlType::Float8),
            ("c2", SqlType::Text),
            ("id_2", SqlType::Boolean),
            ("id_2_2", SqlType::Text),
            ("a", SqlType::Date),
        ];
        assert_eq!(columns, expected.map(|(name, sql_type)| (name.to_owned(), sql_type)));
    }
}
