//! What the engine asks of rules: one ruling for each table of a statement, all under the same rules.

use std::fmt::Debug;
use std::sync::Arc;

use serde_json::Value;

use crate::caller::Caller;
use crate::governed::cover::EntityKey;
use crate::rules::record::{DecisionRecord, TableRecord};
use crate::rules::{Action, ColumnInfo, Decision, Limits, Outcome, Request, Rulebook};
use crate::shape::{TableName, TableShape};

#[derive(Debug, Clone, PartialEq)]
pub enum Ruling {
    Allowed(Box<Allowed>),
    Denied {
        /// Fit for the caller.
        why: String,
        rules: Vec<String>,
        /// For the audit log.
        record: Option<Box<TableRecord>>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Allowed {
    pub shape: TableShape,
    /// The ids of policies and obligations that had a part in it.
    pub rules: Vec<String>,
    pub budgets: Limits,
    /// For the audit log.
    pub record: Option<Box<TableRecord>>,
}

impl Allowed {
    /// The shape, by no rule in particular.
    #[cfg(test)]
    pub fn of(shape: TableShape) -> Ruling {
        Ruling::Allowed(Box::new(Allowed {
            shape,
            rules: Vec::new(),
            budgets: Limits::default(),
            record: None,
        }))
    }
}

/// The rules as one statement is decided by.
pub trait Decide: Debug + Send + Sync {
    /// SHA-256 of the rules, in hex.
    fn hash(&self) -> &str;

    /// What entities are hashed with today.
    fn entity_key(&self) -> EntityKey {
        EntityKey::of_process()
    }

    /// Whether the caller may know that there is such a collection.
    fn knows_collection(&self, caller: &Caller, collection: &str) -> bool;

    /// Whether the caller may know that there is such a table.
    fn knows(&self, caller: &Caller, table: &TableName) -> bool;

    fn decide(&self, caller: &Caller, action: Action, table: &TableName, columns: &[ColumnInfo]) -> Ruling;

    /// What the audit log gets of the decisions of a statement, so that they can be replayed under other rules.
    fn record(&self, _: &Caller, _: Vec<TableRecord>) -> Option<Value> {
        None
    }
}

/// Rules as they are at one moment, for one call of a tool.
#[derive(Debug, Clone)]
pub struct Ruled {
    pub rulebook: Arc<Rulebook>,
    pub tool: &'static str,
    pub time_ms: i64,
    pub entity_key: EntityKey,
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

    fn entity_key(&self) -> EntityKey {
        self.entity_key.clone()
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
        let decision = self.decided(caller, action, table, columns);
        let record = Some(Box::new(TableRecord::new(table, columns, &decision)));
        let Decision { outcome, reasons, budgets } = decision;
        let rules = reasons.rules;
        match outcome {
            Outcome::Allow(shape) => Ruling::Allowed(Box::new(Allowed { shape, rules, budgets, record })),
            Outcome::Deny => Ruling::Denied { why: reasons.for_caller.join(" "), rules, record },
        }
    }

    fn record(&self, caller: &Caller, tables: Vec<TableRecord>) -> Option<Value> {
        let request = Request { tool: self.tool, ..Request::new(caller, Action::Query, self.time_ms) };
        let record = DecisionRecord { tables, ..DecisionRecord::new(&self.rulebook, &request) };
        serde_json::to_value(record).ok()
    }
}
