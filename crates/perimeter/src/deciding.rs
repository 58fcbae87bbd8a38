//! What the engine asks of rules: one ruling for each table of a statement, all under the same rules.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::Schema;

use crate::caller::Caller;
use crate::rules::{Action, ColumnInfo, Decision, Limits, Outcome, Request, Rulebook};
use crate::shape::{TableName, TableShape};

/// The columns of a source.
pub fn columns_of(schema: &Schema) -> Vec<ColumnInfo> {
    let of = |field: &Arc<arrow::datatypes::Field>| ColumnInfo {
        name: field.name().clone(),
        data_type: field.data_type().clone(),
    };
    schema.fields().iter().map(of).collect()
}

#[derive(Debug, Clone, PartialEq)]
pub enum Ruling {
    Allowed(Box<Allowed>),
    Denied {
        /// Fit for the caller.
        why: String,
        rules: Vec<String>,
        for_auditor: Vec<String>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Allowed {
    pub shape: TableShape,
    /// The ids of policies and obligations that had a part in it.
    pub rules: Vec<String>,
    pub budgets: Limits,
}

impl Allowed {
    /// The shape, by no rule in particular.
    #[cfg(test)]
    pub fn of(shape: TableShape) -> Ruling {
        Ruling::Allowed(Box::new(Allowed { shape, rules: Vec::new(), budgets: Limits::default() }))
    }
}

/// The rules as one statement is decided by.
pub trait Decide: Debug + Send + Sync {
    /// SHA-256 of the rules, in hex.
    fn hash(&self) -> &str;

    /// Whether the caller may know that there is such a collection.
    fn knows_collection(&self, caller: &Caller, collection: &str) -> bool;

    /// Whether the caller may know that there is such a table.
    fn knows(&self, caller: &Caller, table: &TableName) -> bool;

    fn decide(&self, caller: &Caller, action: Action, table: &TableName, columns: &[ColumnInfo]) -> Ruling;
}

/// The rules as they change.
pub trait Rules: Debug + Send + Sync {
    fn now(&self, tool: &'static str, time_ms: i64) -> Arc<dyn Decide>;

    /// Charges a query to the budgets of its caller. An error is fit for the caller.
    fn charge(&self, caller: &Caller, budgets: Limits, time_ms: i64) -> Result<(), String>;
}

/// Rules as they are at one moment, for one call of a tool.
#[derive(Debug, Clone)]
pub struct Ruled {
    pub rulebook: Arc<Rulebook>,
    pub tool: &'static str,
    pub time_ms: i64,
}

impl Ruled {
    fn decided(
        &self,
        caller: &Caller,
        action: Action,
        table: &TableName,
        columns: &[ColumnInfo],
    ) -> Decision {
        let request = Request { tool: self.tool, ..Request::new(caller, action, self.time_ms) };
        self.rulebook.decide(&request, table, columns)
    }
}

impl Decide for Ruled {
    fn hash(&self) -> &str {
        self.rulebook.hash()
    }

    fn knows_collection(&self, caller: &Caller, collection: &str) -> bool {
        let request = Request { tool: self.tool, ..Request::new(caller, Action::Describe, self.time_ms) };
        self.rulebook.sees_collection(&request, collection)
    }

    fn knows(&self, caller: &Caller, table: &TableName) -> bool {
        let request = Request { tool: self.tool, ..Request::new(caller, Action::Describe, self.time_ms) };
        self.rulebook.sees_table(&request, table)
    }

    fn decide(&self, caller: &Caller, action: Action, table: &TableName, columns: &[ColumnInfo]) -> Ruling {
        let Decision { outcome, reasons, budgets } = self.decided(caller, action, table, columns);
        match outcome {
            Outcome::Allow(shape) => {
                Ruling::Allowed(Box::new(Allowed { shape, rules: reasons.rules, budgets }))
            }
            Outcome::Deny => {
                let why = reasons.for_caller.join(" ");
                Ruling::Denied { why, rules: reasons.rules, for_auditor: reasons.for_auditor }
            }
        }
    }
}
