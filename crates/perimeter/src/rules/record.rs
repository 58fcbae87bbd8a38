//! A decision as the audit log holds it, and as [`super::diff`] takes it up again: below the key
//! `perimeter` of a line's `read`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::load::Rulebook;
use super::{Action, ColumnInfo, Decision, Holds, Limits, Request, strictness};
use crate::caller::Caller;
use crate::shape::{TableName, TableShape};

/// Columns of one table in a line, which has an end.
const MAX_COLUMNS: usize = 500;
/// The key of a line's `details` that holds it.
pub const KEY: &str = "perimeter";

/// What was decided about one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// The hash of the rules.
    pub rules: String,
    /// With the claims that rules name, and no others.
    pub caller: Caller,
    pub action: Action,
    pub tool: String,
    pub time_ms: i64,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub consent: Vec<String>,
    pub tables: Vec<TableRecord>,
}

/// What was decided about one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableRecord {
    pub table: TableName,
    pub allowed: bool,
    /// In the order of the source: the name, the type, and what was shown.
    pub columns: Vec<ColumnRecord>,
    #[serde(skip_serializing_if = "is_zero", default)]
    pub columns_left_out: usize,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub row_filters: Vec<String>,
    /// The column, and the size.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub min_group: Option<(String, u32)>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_bytes: Option<u64>,
    #[serde(skip_serializing_if = "is_unlimited", default)]
    pub budgets: Limits,
    /// What texts are looked for, and what is done then.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub validate: Vec<String>,
    /// The ids of policies and obligations.
    pub by: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub shadow: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnRecord {
    pub name: String,
    /// As Arrow writes it.
    #[serde(rename = "type")]
    pub data_type: String,
    /// `shown`, `hidden`, `masked:hash(KEY)` and so on.
    pub shown: String,
    /// Those that stick to it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub labels: Vec<String>,
    #[serde(skip_serializing_if = "holds_nothing", default)]
    pub holds: Holds,
}

fn holds_nothing(holds: &Holds) -> bool {
    *holds == Holds::Nothing
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn is_unlimited(limits: &Limits) -> bool {
    *limits == Limits::default()
}

fn patterns_in_words(shape: &TableShape) -> Vec<String> {
    shape.patterns.iter().map(|pattern| pattern.in_words()).collect()
}

impl DecisionRecord {
    /// Of a request, before anything is decided about it.
    pub fn new(book: &Rulebook, request: &Request<'_>) -> DecisionRecord {
        let claims = book.claims();
        let mut caller = request.caller.clone();
        caller.claims.retain(|name, _| claims.contains(name.as_str()));
        DecisionRecord {
            rules: book.hash().to_owned(),
            caller,
            action: request.action,
            tool: request.tool.to_owned(),
            time_ms: request.time_ms,
            consent: request.consent.to_vec(),
            tables: Vec::new(),
        }
    }

    pub fn add(&mut self, table: &TableName, columns: &[ColumnInfo], decision: &Decision) {
        self.tables.push(TableRecord::new(table, columns, decision));
    }

    /// Of a line of an audit log. None: it has none.
    pub fn of_line(line: &Value) -> Option<DecisionRecord> {
        serde_json::from_value(line.get("details")?.get(KEY)?.clone()).ok()
    }
}

impl TableRecord {
    pub fn new(table: &TableName, columns: &[ColumnInfo], decision: &Decision) -> TableRecord {
        let shape = decision.shape();
        let shown: BTreeMap<&str, String> = shape
            .iter()
            .flat_map(|shape| &shape.columns)
            .map(|column| (column.name.as_str(), strictness::describe(&column.shown)))
            .collect();
        let kept = columns.iter().take(MAX_COLUMNS).map(|column| ColumnRecord {
            name: column.name.clone(),
            data_type: column.data_type.to_string(),
            shown: shown.get(column.name.as_str()).cloned().unwrap_or_else(|| "hidden".to_owned()),
            labels: column.labels.clone(),
            holds: column.holds.clone(),
        });
        TableRecord {
            table: table.clone(),
            allowed: shape.is_some(),
            columns: kept.collect(),
            columns_left_out: columns.len().saturating_sub(MAX_COLUMNS),
            row_filters: shape.map(|shape| shape.row_filters.clone()).unwrap_or_default(),
            min_group: shape.and_then(|shape| shape.min_group.as_ref().map(|g| (g.entity.clone(), g.size))),
            max_rows: shape.and_then(|shape| shape.max_rows),
            max_bytes: shape.and_then(|shape| shape.max_bytes),
            budgets: decision.budgets,
            validate: shape.map(patterns_in_words).unwrap_or_default(),
            by: decision.reasons.rules.clone(),
            shadow: decision.reasons.shadow.clone(),
        }
    }

    /// What differs in another decision about the same table, in words: first here, then there.
    pub fn differences(&self, other: &TableRecord) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, one: String, two: String| {
            if one != two {
                found.push(format!("{what}: {one} -> {two}"));
            }
        };
        let word = |allowed: bool| if allowed { "allow" } else { "deny" }.to_owned();
        compare("decision", word(self.allowed), word(other.allowed));
        if !(self.allowed && other.allowed) {
            return found;
        }
        for (one, two) in self.columns.iter().zip(&other.columns) {
            compare(&one.name, one.shown.clone(), two.shown.clone());
        }
        let none = || "none".to_owned();
        let number = |limit: Option<u64>| limit.map_or_else(none, |limit| limit.to_string());
        let filters = |filters: &[String]| if filters.is_empty() { none() } else { filters.join(" AND ") };
        let group = |group: &Option<(String, u32)>| {
            group.as_ref().map_or_else(none, |(entity, size)| format!("{size} {entity}"))
        };
        compare("row_filter", filters(&self.row_filters), filters(&other.row_filters));
        compare("min_group", group(&self.min_group), group(&other.min_group));
        compare("max_rows", number(self.max_rows), number(other.max_rows));
        compare("max_bytes", number(self.max_bytes), number(other.max_bytes));
        let (one, two) = (self.budgets, other.budgets);
        compare("queries_per_day", number(one.queries_per_day), number(two.queries_per_day));
        compare("rows_per_day", number(one.rows_per_day), number(two.rows_per_day));
        compare("entities_per_day", number(one.entities_per_day), number(two.entities_per_day));
        let validate = |patterns: &[String]| if patterns.is_empty() { none() } else { patterns.join(", ") };
        compare("validate", validate(&self.validate), validate(&other.validate));
        found
    }
}
