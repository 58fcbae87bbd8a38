//! What a caller gets of a table: the outcome of all rules, combined to the strictest, in the form in which [`crate::governed`]
//! carries it out.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash as _, Hasher};
use std::sync::Arc;

use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::validate::Pattern;

/// A table by its collection and its name in it, written `collection.table`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    pub collection: String,
    pub table: String,
}

impl TableName {
    pub fn new(collection: impl Into<String>, table: impl Into<String>) -> TableName {
        TableName { collection: collection.into(), table: table.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.collection, self.table)
    }
}

/// What a caller gets of a table that it may read.
#[derive(Debug, Clone, PartialEq)]
pub struct TableShape {
    pub table: TableName,
    /// One for each column of the source, in its order.
    pub columns: Vec<ColumnShape>,
    /// Conditions in SQL over the columns of the source, all of which a row must fulfil. Values of the caller are in them as
    /// literals already.
    pub row_filters: Vec<String>,
    /// Rows leave only in groups of so many different entities.
    pub min_group: Option<MinGroup>,
    /// Different entities are counted against a budget of the day, unless rows leave in groups alone.
    pub counted: Option<Counted>,
    /// The most rows of one answer that this table is a part of.
    pub max_rows: Option<u64>,
    /// The most bytes of one answer.
    pub max_bytes: Option<u64>,
    /// What texts of an answer are looked for.
    pub patterns: Vec<Arc<Pattern>>,
}

impl TableShape {
    /// The entity of groups as its caller may know it: the column may be hidden.
    pub fn entity_told(&self) -> &str {
        let entity = self.min_group.as_ref().map_or("", |group| group.entity.as_str());
        let is_shown = |column: &ColumnShape| column.name == entity && column.shown != Shown::Hidden;
        if self.columns.iter().any(is_shown) { entity } else { "entities" }
    }

    /// Whether there may be rows of which the caller gets nothing: how many are read must not be told either.
    pub fn keeps_rows_back(&self) -> bool {
        !self.row_filters.is_empty() || self.min_group.is_some()
    }

    /// Of what decides which rows there are and what is in them.
    pub fn hash_what_is_given(&self, state: &mut impl Hasher) {
        self.table.hash(state);
        for column in &self.columns {
            column.name.hash(state);
            format!("{:?}", column.shown).hash(state);
            if let Shown::Masked(Mask::Hash(key) | Mask::Tokenise(key)) = &column.shown {
                key.secret.hash(state);
            }
        }
        self.row_filters.hash(state);
        self.min_group.as_ref().map(|group| (&group.entity, group.size)).hash(state);
    }

    /// The same, with keys of masks that no other table has: equal values have other pseudonyms in it. Whoever can write to it
    /// could have a text of its own hashed or encrypted otherwise, and look for the result in the tables that such texts are of.
    pub fn with_keys_of_its_own(&self) -> TableShape {
        let columns = self.columns.iter().cloned().map(|column| ColumnShape {
            shown: match column.shown {
                Shown::Masked(mask) => Shown::Masked(mask.with_key_of(&self.table)),
                shown @ (Shown::Hidden | Shown::AsIs) => shown,
            },
            ..column
        });
        TableShape { columns: columns.collect(), ..self.clone() }
    }

    /// The ids of rules that shaped what is shown. Those that hide something may say by their names what that is.
    pub fn rules_told(&self) -> Vec<String> {
        let shown = self.columns.iter().filter(|column| column.shown != Shown::Hidden);
        let rules = shown.flat_map(|column| &column.rules);
        let groups = self.min_group.iter().flat_map(|group| &group.rules);
        let told: BTreeSet<&String> = rules.chain(groups).collect();
        told.into_iter().cloned().collect()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ColumnShape {
    pub name: String,
    pub labels: Vec<String>,
    pub shown: Shown,
    /// What made it so, for `why_denied` and the audit log: the ids of rules.
    pub rules: Vec<String>,
}

/// From the strictest to the least strict.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// The column is not there.
    Hidden,
    Masked(Mask),
    AsIs,
}

/// From the strictest to the least strict. NULL stays NULL under each.
#[derive(Debug, Clone, PartialEq)]
pub enum Mask {
    /// NULL, of the column's type.
    Null,
    /// Always the same text.
    Fixed(String),
    /// HMAC-SHA-256 of the value as text, the first 16 bytes in hex: equal values stay equal, and no value can be had back.
    Hash(MaskKey),
    /// Encrypted, equal values equally: who has the key gets the value back.
    Tokenise(MaskKey),
    /// Asterisks, and the last so many characters of the text. A text that is not longer is asterisks alone.
    KeepLast(u32),
    /// A date or a timestamp, at the beginning of its year, quarter, month or day.
    Date(DatePart),
    /// A number, rounded down to a multiple of this.
    Bucket(f64),
}

impl Mask {
    /// The same, with a key that no other table has.
    pub fn with_key_of(self, table: &TableName) -> Mask {
        match self {
            Mask::Hash(key) => Mask::Hash(key.of_table(table)),
            Mask::Tokenise(key) => Mask::Tokenise(key.of_table(table)),
            mask @ (Mask::Null | Mask::Fixed(_) | Mask::KeepLast(_) | Mask::Date(_) | Mask::Bucket(_)) => {
                mask
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatePart {
    Year,
    Quarter,
    Month,
    Day,
}

/// The key of a mask. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct MaskKey {
    /// Its name in the rules.
    pub name: String,
    pub secret: Arc<[u8]>,
}

impl MaskKey {
    /// A key that is made of this one, for one table.
    fn of_table(&self, table: &TableName) -> MaskKey {
        let root = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        let mut context = hmac::Context::with_key(&root);
        context.update(b"table\0");
        context.update(table.collection.as_bytes());
        context.update(b"\0");
        context.update(table.table.as_bytes());
        MaskKey { name: self.name.clone(), secret: Arc::from(context.sign().as_ref()) }
    }
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MaskKey({})", self.name)
    }
}

/// Values of a column of which so many different ones leave in a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// A column of the source, which the caller need not see.
    pub entity: String,
    pub per_day: u64,
}

/// Rows of a table leave only in groups of at least `size` different values of the column `entity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinGroup {
    /// A column of the source, which the caller need not see.
    pub entity: String,
    pub size: u32,
    /// The ids of the rules.
    pub rules: Vec<String>,
}
