//! What the engine asks of rules: one ruling for each table of a statement, all under the same rules.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::Schema;

use crate::caller::Caller;
use crate::rules::{Action, ColumnInfo};
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
    Allowed(TableShape),
    Denied {
        /// Fit for the caller.
        why: String,
        rules: Vec<String>,
    },
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
    fn now(&self) -> Arc<dyn Decide>;

    /// Charges a query to the budget of its caller. An error is fit for the caller.
    fn charge(&self, caller: &Caller, now_ms: i64) -> Result<(), String>;
}
