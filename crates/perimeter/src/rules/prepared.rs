//! What rules say of a table before anybody asks for it: the labels of its columns, and which
//! obligations are of which.

use arrow::datatypes::DataType;
use sha2::{Digest as _, Sha256};

use super::glob::fold;
use super::load::Rulebook;
use super::obligations::Obligation;
use super::resource::Resource;
use super::{ColumnInfo, Holds};
use crate::shape::{Mask, Shown, TableName};

/// A table with these columns.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) collection_labels: Vec<String>,
    /// With those of the collection.
    pub(super) table_labels: Vec<String>,
    pub(super) columns: Vec<PreparedColumn>,
    /// Sets of columns that no policy tells apart.
    pub(super) classes: Vec<ColumnClass>,
    /// Obligations of the whole table, by their number.
    pub(super) of_table: Vec<usize>,
    /// Obligations that are of the table and cannot be carried out on it, and why.
    pub(super) impossible: Vec<(usize, String)>,
}

#[derive(Debug)]
pub(super) struct PreparedColumn {
    pub(super) class: usize,
    /// The table is closed, and no rule is about this column.
    pub(super) is_unknown: bool,
    /// It holds other columns that rules are about.
    pub(super) is_held_back: bool,
    /// Of its own, and not of the table alone.
    pub(super) has_labels: bool,
    /// Obligations that mask or hide it, by their number, and to what.
    pub(super) owed: Vec<(usize, Shown)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ColumnClass {
    /// With those of the table.
    pub(super) labels: Vec<String>,
    /// Where a policy names the column.
    pub(super) name: Option<String>,
}

impl Rulebook {
    pub(super) fn prepared(&self, table: &TableName, columns: &[ColumnInfo]) -> std::sync::Arc<Prepared> {
        let mut key = Sha256::new();
        let mut add = |text: &str| {
            key.update((text.len() as u64).to_le_bytes());
            key.update(text);
        };
        add(&table.collection);
        add(&table.table);
        for column in columns {
            add(&column.name);
            match simple_name(&column.data_type) {
                Some(name) => add(name),
                None => add(&column.data_type.to_string()),
            }
            // A label is never empty.
            column.labels.iter().for_each(|label| add(label));
            add("");
            add_held(&column.holds, &mut add);
        }
        self.tables.get(key.finalize().into(), || self.prepare(table, columns))
    }

    fn prepare(&self, table: &TableName, columns: &[ColumnInfo]) -> Prepared {
        let folded = fold(&table.to_string());
        let folded_table = folded.as_slice();
        let collection_labels = self.labels_of_collection(&table.collection);
        let of_table = |column: bool| {
            let rules = self.obligations.labels.iter().map(|(_, rule)| rule);
            rules.filter(move |rule| {
                !rule.table.0.is_empty()
                    && rule.column.0.is_empty() != column
                    && rule.table.all_or_any(folded_table)
            })
        };
        let mut table_labels = collection_labels.clone();
        table_labels.extend(of_table(false).flat_map(|rule| rule.labels.0.iter().cloned()));
        sort(&mut table_labels);
        let of_columns: Vec<_> = of_table(true).collect();
        let is_closed = self.obligations.is_closed(table);
        let obligations: Vec<(usize, &Obligation)> = {
            let all = self.obligations.list.iter().enumerate();
            all.filter(|(_, obligation)| obligation.is_of_table(folded_table)).collect()
        };
        let mut prepared = Prepared {
            collection_labels,
            table_labels,
            columns: Vec::with_capacity(columns.len()),
            classes: Vec::new(),
            of_table: Vec::new(),
            impossible: Vec::new(),
        };
        let mut of_whole = vec![false; obligations.len()];
        for column in columns {
            let folded = fold(&column.name);
            let own = of_columns.iter().filter(|rule| rule.column.all_or_any(&folded));
            let own: Vec<String> = own.flat_map(|rule| rule.labels.0.iter().cloned()).collect();
            let has_labels = !own.is_empty();
            let mut labels = prepared.table_labels.clone();
            labels.extend(own);
            labels.extend(column.labels.iter().cloned());
            sort(&mut labels);
            let mut owed = Vec::new();
            for (at, (index, obligation)) in obligations.iter().enumerate() {
                if obligation.is_of_column(&folded, &labels) {
                    of_whole[at] |= obligation.owed.is_of_table();
                    owed.extend(shown(obligation, &column.data_type).map(|shown| (*index, shown)));
                }
            }
            let class = self.class_of(&mut prepared, table, &column.name, labels);
            let is_unknown = is_closed && !has_labels;
            let column = PreparedColumn { class, is_unknown, is_held_back: false, has_labels, owed };
            prepared.columns.push(column);
        }
        self.hold_back(table, columns, &mut prepared);
        for ((index, obligation), has_column) in obligations.into_iter().zip(of_whole) {
            let of_table = obligation.labels.is_empty() || has_column;
            if obligation.owed.is_of_table() && of_table {
                let why = impossible(obligation, columns);
                prepared.impossible.extend(why.map(|why| (index, why)));
                prepared.of_table.push(index);
            }
        }
        prepared
    }

    pub(super) fn labels_of_collection(&self, collection: &str) -> Vec<String> {
        let folded = fold(collection);
        let rules = self.obligations.labels.iter().map(|(_, rule)| rule);
        let rules = rules.filter(|rule| !rule.collection.0.is_empty() && rule.collection.all_or_any(&folded));
        let mut labels: Vec<String> = rules.flat_map(|rule| rule.labels.0.iter().cloned()).collect();
        sort(&mut labels);
        labels
    }

    fn class_of(
        &self,
        prepared: &mut Prepared,
        table: &TableName,
        column: &str,
        labels: Vec<String>,
    ) -> usize {
        let names = Resource::Column(table, Some(column)).names();
        let name = self.policies.names_column(names.own().1).then(|| column.to_owned());
        let class = ColumnClass { labels, name };
        let known = prepared.classes.iter().position(|known| *known == class);
        known.unwrap_or_else(|| {
            prepared.classes.push(class);
            prepared.classes.len() - 1
        })
    }
}

fn add_held(holds: &Holds, add: &mut impl FnMut(&str)) {
    match holds {
        Holds::Nothing => add("nothing"),
        Holds::Everything => add("everything"),
        Holds::Columns(names) => {
            add(&names.len().to_string());
            names.iter().for_each(|name| add(name));
        }
    }
}

fn sort(labels: &mut Vec<String>) {
    labels.sort();
    labels.dedup();
}

/// Of types that most columns have: writing the others takes longer.
fn simple_name(data_type: &DataType) -> Option<&'static str> {
    match data_type {
        DataType::Utf8 => Some("Utf8"),
        DataType::Utf8View => Some("Utf8View"),
        DataType::Int32 => Some("Int32"),
        DataType::Int64 => Some("Int64"),
        DataType::Float64 => Some("Float64"),
        DataType::Boolean => Some("Boolean"),
        DataType::Date32 => Some("Date32"),
        _ => None,
    }
}

/// What an obligation makes of a column of a type.
fn shown(obligation: &Obligation, data_type: &DataType) -> Option<Shown> {
    if obligation.owed.hide {
        return Some(Shown::Hidden);
    }
    let mask = obligation.owed.mask.clone()?;
    Some(Shown::Masked(if fits(&mask, data_type) { mask } else { Mask::Null }))
}

/// Whether a mask leaves anything of values of a type. Dates may be texts, in sources that have no
/// type for them.
fn fits(mask: &Mask, data_type: &DataType) -> bool {
    let is_text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match mask {
        Mask::Null | Mask::Fixed(_) | Mask::Hash(_) | Mask::Tokenise(_) | Mask::KeepLast(_) => true,
        Mask::Date(_) => {
            is_text || matches!(data_type, DataType::Date32 | DataType::Date64 | DataType::Timestamp(..))
        }
        Mask::Bucket(_) => data_type.is_numeric(),
    }
}

/// Why an obligation cannot be carried out on a table with these columns.
fn impossible(obligation: &Obligation, columns: &[ColumnInfo]) -> Option<String> {
    let known = |name: &str| columns.iter().any(|column| column.name == name);
    let filter = obligation.owed.row_filter.as_ref();
    if let Some(missing) = filter.and_then(|filter| filter.missing(known)) {
        return Some(format!("its filter needs the column `{missing}`, which the table does not have"));
    }
    let group = obligation.owed.min_group.as_ref().map(|(entity, _)| ("groups are", entity.as_str()));
    let counted = obligation.owed.counted().map(|(entity, _)| ("budget is", entity));
    let missing = [group, counted].into_iter().flatten();
    let mut missing = missing.filter(|(_, entity)| entity_column(entity, columns).is_none());
    let (what, entity) = missing.next()?;
    Some(format!("its {what} of the column `{entity}`, which the table does not have"))
}

/// The column of an entity: of just this name, or the one that differs by case alone.
pub(super) fn entity_column<'a>(entity: &str, columns: &'a [ColumnInfo]) -> Option<&'a str> {
    if let Some(column) = columns.iter().find(|column| column.name == entity) {
        return Some(&column.name);
    }
    let folded = fold(entity);
    let mut alike = columns.iter().filter(|column| fold(&column.name) == folded);
    match (alike.next(), alike.next()) {
        (Some(column), None) => Some(&column.name),
        _ => None,
    }
}
