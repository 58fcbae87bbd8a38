//! Rules: what a caller gets of a table, by policies in Cedar and by obligations in `rules.toml`
//! (docs/perimeter-rules.md).
//!
//! [`Rulebook`] is what both say, checked, with a hash that stands in each line of the audit log. A
//! decision is a denial, or a [`crate::shape::TableShape`], for one caller, one action and one
//! table.
//!
//! Invariants: what nothing permits is denied; of obligations that meet, the strictest holds,
//! whatever their order; an obligation that cannot be carried out on a table denies the table.

pub mod budgets;
mod cache;
pub mod cases;
mod check;
mod data_subject;
mod decide;
pub mod diff;
mod error;
pub mod explain;
mod file;
mod filter;
mod glob;
mod guard;
pub mod ledger;
mod load;
mod losses;
mod obligations;
mod one_or_more;
mod policies;
mod prepared;
mod raw;
pub mod record;
mod resource;
mod seen;
mod strictness;
mod subject;
mod watch;
mod words;

use serde::{Deserialize, Serialize};

use crate::caller::Caller;
use crate::shape::TableShape;

pub use check::Inventory;
pub use data_subject::{DataSubject, folded};
pub use error::{Place, RulesError, Source, Warning};
pub use file::{KeySource, Link};
pub use filter::FilterError;
pub use load::Rulebook;
pub use obligations::ReadKey;
pub use policies::SCHEMA;
pub use subject::{SubjectError, checked_purpose};
pub use watch::{KeyReader, Rules, RulesState};
pub use words::not_there;

/// What a caller wants to do with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Describe,
    Query,
    Retrieve,
    RunPlan,
    Export,
}

impl Action {
    pub const ALL: [Action; 5] =
        [Action::Describe, Action::Query, Action::Retrieve, Action::RunPlan, Action::Export];

    /// As policies write it.
    pub fn name(self) -> &'static str {
        match self {
            Action::Describe => "describe",
            Action::Query => "query",
            Action::Retrieve => "retrieve",
            Action::RunPlan => "run_plan",
            Action::Export => "export",
        }
    }
}

/// What is decided about.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub caller: &'a Caller,
    pub action: Action,
    /// The tool by which it came.
    pub tool: &'a str,
    /// Milliseconds since 1970. Policies see whole minutes.
    pub time_ms: i64,
    /// What the request says that was consented to.
    pub consent: &'a [String],
}

impl<'a> Request<'a> {
    /// Of a tool of the action's name, without consents.
    pub fn new(caller: &'a Caller, action: Action, time_ms: i64) -> Request<'a> {
        Request { caller, action, tool: action.name(), time_ms, consent: &[] }
    }
}

/// A column of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnInfo {
    pub name: String,
    pub data_type: arrow::datatypes::DataType,
    /// Those that stick to it, besides those of the rules ([`crate::labelled`]).
    pub labels: Vec<String>,
    pub holds: Holds,
}

impl ColumnInfo {
    /// Without labels of its own, and one of which no other can be had.
    pub fn new(name: impl Into<String>, data_type: arrow::datatypes::DataType) -> ColumnInfo {
        ColumnInfo { name: name.into(), data_type, labels: Vec::new(), holds: Holds::Nothing }
    }
}

/// What can be had from a column beside what it is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holds {
    #[default]
    Nothing,
    /// These columns of the same table.
    Columns(Vec<String>),
    /// Fields that are columns of the table, and perhaps others.
    Everything,
}

/// What the rules say of one request and one table.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub outcome: Outcome,
    pub reasons: Reasons,
    /// What the principal may take in a day, of this table.
    pub budgets: Limits,
}

#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "most decisions allow")]
pub enum Outcome {
    Allow(TableShape),
    Deny,
}

impl Decision {
    /// The shape, of what is allowed.
    pub fn shape(&self) -> Option<&TableShape> {
        match &self.outcome {
            Outcome::Allow(shape) => Some(shape),
            Outcome::Deny => None,
        }
    }
}

/// Why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reasons {
    /// Fit for the caller: nothing that is hidden can be told from it.
    pub for_caller: Vec<String>,
    /// For the auditor and the operator.
    pub for_auditor: Vec<String>,
    /// The ids of the policies and obligations that had a part in it.
    pub rules: Vec<String>,
    /// What rules in shadow would have done.
    pub shadow: Vec<String>,
}

/// What a principal may take in a day. None: without a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub queries_per_day: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rows_per_day: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub entities_per_day: Option<u64>,
}

impl Limits {
    /// Whether an answer may be refused for what is in it.
    pub fn is_of_answers(&self) -> bool {
        self.rows_per_day.is_some() || self.entities_per_day.is_some()
    }

    /// The lower of each.
    #[must_use]
    pub fn strictest(self, other: Limits) -> Limits {
        Limits {
            queries_per_day: least(self.queries_per_day, other.queries_per_day),
            rows_per_day: least(self.rows_per_day, other.rows_per_day),
            entities_per_day: least(self.entities_per_day, other.entities_per_day),
        }
    }
}

/// The lower of two limits, where there are any.
fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (limit, None) | (None, limit) => limit,
    }
}

#[cfg(test)]
mod tests;
