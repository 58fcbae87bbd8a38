//! `kafscale perimeter classify`: looks at the names of columns and at a sample of their values, and proposes labels, with the
//! evidence, as lines for `rules.toml`. A person decides on them.
//!
//! Invariant: no value is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::SessionContext;

use crate::caller::Caller;
use crate::collection::Collection;
use crate::detect::{Column, Filtered, Kind, filtered};
use crate::shape::TableName;

/// Rows of a table that are looked at.
const SAMPLE_ROWS: usize = 1_000;
/// Tables of a collection that are looked at.
const TABLES_MAX: usize = 1_000;
/// For one table.
const LONGEST: Duration = Duration::from_secs(30);
/// Of the values, that have to be of a kind as a whole, in percent.
const MOST_PERCENT: usize = 80;
/// Values longer than this are texts, in which something personal may stand.
const TEXT_CHARS: usize = 40;

/// A proposal for one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    pub table: TableName,
    pub column: String,
    pub label: &'static str,
    /// Without values.
    pub evidence: String,
}

/// What was found, and which tables could not be looked at, with the reason.
#[derive(Debug, Default)]
pub struct Classified {
    pub proposals: Vec<Proposal>,
    pub failed: Vec<(TableName, String)>,
}

/// Looks at the tables of a collection.
pub async fn classify(name: &str, collection: &dyn Collection, found: &mut Classified) {
    let operator = Caller::operator();
    let tables = match collection.tables().await {
        Ok(tables) => tables,
        Err(error) => {
            found.failed.push((TableName::new(name, "*"), error.to_string()));
            return;
        }
    };
    for table in tables.into_iter().take(TABLES_MAX) {
        let of = TableName::new(name, &table);
        let sampled = tokio::time::timeout(LONGEST, sample(collection, &table, &operator)).await;
        match sampled {
            Ok(Ok(batches)) => found.proposals.extend(proposals(&of, &batches)),
            Ok(Err(error)) => found.failed.push((of, error)),
            Err(_) => found.failed.push((of, format!("it took longer than {LONGEST:?}"))),
        }
    }
}

async fn sample(
    collection: &dyn Collection,
    table: &str,
    caller: &Caller,
) -> Result<Vec<RecordBatch>, String> {
    let opened = collection.table(table, caller).await.map_err(|e| e.to_string())?;
    let source = opened.ok_or_else(|| "it is not there any more".to_owned())?;
    let frame = SessionContext::new().read_table(source.provider).map_err(|e| e.to_string())?;
    let limited = frame.limit(0, Some(SAMPLE_ROWS)).map_err(|e| e.to_string())?;
    limited.collect().await.map_err(|e| e.to_string())
}

fn proposals(table: &TableName, batches: &[RecordBatch]) -> Vec<Proposal> {
    let Some(first) = batches.first() else { return Vec::new() };
    let schema = first.schema();
    let mut proposals = Vec::new();
    for (at, field) in schema.fields().iter().enumerate() {
        let values = Values::of(batches, at);
        let mut labels: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for (label, evidence) in values.evidence() {
            labels.entry(label).or_default().push(evidence);
        }
        if let Some((label, word)) = by_name(field.name(), field.data_type()) {
            labels.entry(label).or_default().push(format!("its name has `{word}` in it"));
        }
        proposals.extend(labels.into_iter().map(|(label, evidence)| Proposal {
            table: table.clone(),
            column: field.name().clone(),
            label,
            evidence: evidence.join("; "),
        }));
    }
    proposals
}

/// What the values of a column look like.
#[derive(Debug, Default)]
struct Values {
    count: usize,
    whole: BTreeMap<Kind, usize>,
    /// Long ones, and those with something personal in them.
    texts: usize,
    with_personal: usize,
}

impl Values {
    fn of(batches: &[RecordBatch], at: usize) -> Values {
        let mut values = Values::default();
        for batch in batches {
            let column = batch.column(at);
            let Ok(shown) = ArrayFormatter::try_new(column.as_ref(), &FormatOptions::default()) else {
                continue;
            };
            for row in (0..column.len()).filter(|row| column.is_valid(*row)) {
                values.add(&shown.value(row).to_string());
            }
        }
        values
    }

    fn add(&mut self, text: &str) {
        self.count += 1;
        let kinds = Kind::of_whole(text.trim());
        if !kinds.is_empty() {
            kinds.into_iter().for_each(|kind| *self.whole.entry(kind).or_default() += 1);
        } else if text.chars().count() > TEXT_CHARS {
            self.texts += 1;
            self.with_personal +=
                usize::from(filtered(text, &Column::default(), &mut Filtered::default()).is_some());
        }
    }

    fn evidence(&self) -> Vec<(&'static str, String)> {
        let most = |count: &usize| *count > 0 && count * 100 >= self.count * MOST_PERCENT;
        let whole = self.whole.iter().filter(|(_, count)| most(count));
        let mut found: Vec<_> = whole
            .map(|(kind, count)| {
                (label(*kind), format!("{count} of {} values are each a whole {}", self.count, kind.name()))
            })
            .collect();
        if self.with_personal > 0 {
            let (with, texts) = (self.with_personal, self.texts);
            found.push(("pii.free_text", format!("{with} of {texts} long texts have personal data in them")));
        }
        found
    }
}

fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Email => "pii.email",
        Kind::Iban => "pii.iban",
        Kind::Card => "pii.card",
        Kind::Phone => "pii.phone",
        Kind::SocialSecurityNumber => "pii.ssn",
        Kind::Identifier(_) => "pii.national_id",
        Kind::BirthDate => "pii.birth",
    }
}

/// Words in names of columns. Several words stand one after the other.
const WORDS: [(&str, &str); 46] = [
    ("email", "pii.email"),
    ("e mail", "pii.email"),
    ("mail", "pii.email"),
    ("phone", "pii.phone"),
    ("telephone", "pii.phone"),
    ("tel", "pii.phone"),
    ("mobile", "pii.phone"),
    ("fax", "pii.phone"),
    ("iban", "pii.iban"),
    ("card number", "pii.card"),
    ("pan", "pii.card"),
    ("ssn", "pii.ssn"),
    ("social security", "pii.ssn"),
    ("first name", "pii.name"),
    ("firstname", "pii.name"),
    ("last name", "pii.name"),
    ("lastname", "pii.name"),
    ("given name", "pii.name"),
    ("family name", "pii.name"),
    ("full name", "pii.name"),
    ("maiden name", "pii.name"),
    ("middle name", "pii.name"),
    ("patient name", "pii.name"),
    ("customer name", "pii.name"),
    ("person name", "pii.name"),
    ("surname", "pii.name"),
    ("birth", "pii.birth"),
    ("birthdate", "pii.birth"),
    ("birthday", "pii.birth"),
    ("dob", "pii.birth"),
    ("born", "pii.birth"),
    ("street", "pii.address"),
    ("address", "pii.address"),
    ("zip", "pii.address"),
    ("postcode", "pii.address"),
    ("postal code", "pii.address"),
    ("passport", "pii.passport"),
    ("diagnosis", "phi.diagnosis"),
    ("icd", "phi.diagnosis"),
    ("icd10", "phi.diagnosis"),
    ("medication", "phi.medication"),
    ("mrn", "phi.patient_id"),
    ("patient id", "phi.patient_id"),
    ("password", "secret.credential"),
    ("api key", "secret.credential"),
    ("secret", "secret.credential"),
];

/// A label, and the word that says so.
fn by_name(name: &str, data_type: &DataType) -> Option<(&'static str, &'static str)> {
    let words = words(name);
    if words == ["name"] && is_text(data_type) {
        return Some(("pii.name", "name"));
    }
    let is_there = |wanted: &str| {
        let wanted: Vec<&str> = wanted.split(' ').collect();
        words.windows(wanted.len()).any(|found| found == wanted)
    };
    WORDS.iter().find(|(word, _)| is_there(word)).map(|(word, label)| (*label, *word))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// `dateOfBirth` and `date_of_birth` have the same words.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && was_lower) {
            words.push(String::new());
        }
        was_lower = c.is_lowercase();
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// As lines for `rules.toml`.
pub fn print(classified: &Classified) -> String {
    let mut text = String::new();
    for Proposal { table, column, label, evidence } in &classified.proposals {
        let (of, named) = (quoted(&table.to_string()), quoted(column));
        let _ = write!(
            text,
            "# {evidence}\n[[label]]\ntable = {of}\ncolumn = {named}\nlabels = [\"{label}\"]\n\n"
        );
    }
    for (table, why) in &classified.failed {
        let _ = writeln!(text, "# {} was not looked at: {}", one_line(&table.to_string()), one_line(why));
    }
    let columns: BTreeSet<_> = classified.proposals.iter().map(|p| (&p.table, &p.column)).collect();
    let _ = writeln!(
        text,
        "# Labels are proposed for {} columns, by names and up to {SAMPLE_ROWS} rows of each table.",
        columns.len()
    );
    text
}

/// A text of TOML. Names of tables and columns come from the sources.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default().replace('\u{7f}', "\\u007f")
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    use super::*;

    fn proposed(columns: &[(&str, &[&str])]) -> Vec<(String, &'static str)> {
        let column = |(name, values): &(&str, &[&str])| {
            ((*name).to_owned(), Arc::new(StringArray::from(values.to_vec())) as ArrayRef)
        };
        let batch = RecordBatch::try_from_iter(columns.iter().map(column)).unwrap();
        let found = proposals(&TableName::new("clinic", "people"), &[batch]);
        found.into_iter().map(|proposal| (proposal.column, proposal.label)).collect()
    }

    #[test]
    fn labels_are_proposed_by_values_and_by_names() {
        let found = proposed(&[
            ("contact", &["ann@example.org", "bob@example.org", "c@example.org", "d@example.org", "-"]),
            ("account", &["DE89370400440532013000"; 5]),
            ("number", &["4111111111111111"; 5]),
            ("order", &["4111111111111112"; 5]),
            ("dateOfBirth", &["x"; 5]),
            ("file_name", &["x"; 5]),
            ("name", &["x"; 5]),
            ("note", &["the patient asks for an answer to ann@example.org by Monday, please"; 5]),
        ]);
        let expected = [
            ("contact", "pii.email"),
            ("account", "pii.iban"),
            ("number", "pii.card"),
            ("dateOfBirth", "pii.birth"),
            ("name", "pii.name"),
            ("note", "pii.free_text"),
        ];
        assert_eq!(found, expected.map(|(column, label)| (column.to_owned(), label)));
    }

    #[test]
    fn what_is_printed_is_toml_without_values() {
        let proposal = Proposal {
            table: TableName::new("clinic", "odd\"\nname"),
            column: "e-mail\\".to_owned(),
            label: "pii.email",
            evidence: "its name has `e mail` in it".to_owned(),
        };
        let failed = vec![(TableName::new("clinic", "x"), "line\n[[label]]".to_owned())];
        let text = print(&Classified { proposals: vec![proposal], failed });
        let read: serde_json::Value = basic_toml::from_str(&text).unwrap();
        assert_eq!(read["label"].as_array().unwrap().len(), 1);
        assert_eq!(read["label"][0]["table"], "clinic.odd\"\nname");
        assert_eq!(read["label"][0]["column"], "e-mail\\");
    }
}
