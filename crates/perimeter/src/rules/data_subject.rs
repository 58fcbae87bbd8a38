//! Kinds of data subjects, and what identifies one: for requests that they be erased (docs/erasure.md).

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray};

use super::ColumnInfo;
use super::error::{Place, RulesError};
use super::file::{Link, SubjectRule};
use super::glob::{Glob, fold};
use super::load::Rulebook;
use super::one_or_more::OneOrMore;
use crate::governed::masks;
use crate::shape::{Mask, MaskKey, TableName};

/// See the file's comment.
#[derive(Debug)]
pub struct DataSubject {
    pub name: String,
    /// Of columns that identify one, as [`folded`] writes them. The first is that of the identifier that people give.
    pub labels: Vec<String>,
    /// What requests are hashed with.
    pub key: MaskKey,
    pub links: Vec<Link>,
    without: OneOrMore<Glob>,
}

impl DataSubject {
    /// Whether the rules say that a table holds nothing of such subjects.
    pub fn is_not_in(&self, table: &TableName) -> bool {
        !self.without.0.is_empty() && self.without.all_or_any(&fold(&table.to_string()))
    }

    /// Whether one pattern says that of every table of a collection, however it is called.
    pub fn is_in_none_of(&self, collection: &str) -> bool {
        // Names that nothing but `*` and `?` matches, and of different lengths.
        let names = ["\u{1}", "\u{1}\u{1}"].map(|name| fold(&format!("{collection}.{name}")));
        self.without.0.iter().any(|glob| names.iter().all(|name| glob.matches_any_case(name)))
    }
}

/// A label, of which the case does not matter.
pub fn folded(label: &str) -> String {
    fold(label).into_iter().collect()
}

pub(super) fn of_rules(
    rules: impl Iterator<Item = (Place, SubjectRule)>,
    keys: &BTreeMap<String, MaskKey>,
) -> Result<Vec<DataSubject>, RulesError> {
    let mut subjects: Vec<DataSubject> = Vec::new();
    for (place, rule) in rules {
        let wrong = |why: String| RulesError::Rule { place: place.clone(), why };
        let SubjectRule { name, labels, key, links, without } = rule;
        if super::subject::check_name(&name).is_err() || subjects.iter().any(|known| known.name == name) {
            return Err(wrong(format!("a data subject has a short name of its own: `{name}`")));
        }
        let key = keys.get(&key).cloned().ok_or_else(|| wrong(format!("there is no key `{key}`")))?;
        let labels = labels.0.iter().map(|label| folded(label)).collect();
        subjects.push(DataSubject { name, labels, key, links: links.0, without });
    }
    Ok(subjects)
}

impl Rulebook {
    pub fn data_subjects(&self) -> &[DataSubject] {
        &self.obligations.subjects
    }

    /// The labels of each column of a table.
    pub fn labels_of(&self, table: &TableName, columns: &[ColumnInfo]) -> Vec<Vec<String>> {
        let prepared = self.prepared(table, columns);
        prepared.columns.iter().map(|column| prepared.classes[column.class].labels.clone()).collect()
    }

    /// What masks make of a value that name its subject still, where answers were written to topics: those `written_to` have keys
    /// of their own, and may have been read and written elsewhere.
    pub fn pseudonyms(&self, value: &str, written_to: &[TableName]) -> Vec<String> {
        let values: ArrayRef = Arc::new(StringArray::from(vec![value]));
        let masks = self.obligations.list.iter().filter_map(|obligation| obligation.owed.mask.as_ref());
        let masks = masks.filter(|mask| matches!(mask, Mask::Hash(_) | Mask::Tokenise(_)));
        let masked = masks.flat_map(|mask| {
            let of_topics = written_to.iter().map(|table| mask.clone().with_key_of(table));
            std::iter::once(mask.clone()).chain(of_topics).map(|mask| masks::apply(&mask, &values))
        });
        let texts = masked.filter_map(|made| {
            let made = made.as_string_opt::<i32>()?;
            made.is_valid(0).then(|| made.value(0).to_owned())
        });
        let mut all: Vec<String> = texts.collect();
        all.sort();
        all.dedup();
        all
    }
}
