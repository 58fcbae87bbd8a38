//! Results that stay inside: a caller has a name for what it may combine further without seeing it, or look at page by page.
//!
//! Invariant: a handle is found by the principal that made it, for the purpose and on behalf of whom it was made, and by nobody else.
//! Whoever gives anything of it asks the rules again, each time: groups, claims, the tool and the hour may be others by then.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use parking_lot::Mutex;

use crate::caller::Caller;
use crate::catalog::{HANDLES, Used};
use crate::engine::Rows;
use crate::governed::lineage::{Labels, Lineage};
use crate::governed::table::GovernedTable;
use crate::shape::{ColumnShape, Shown, TableName, TableShape};

/// A result that was kept.
#[derive(Debug)]
pub struct Handle {
    pub name: String,
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
    pub rows: u64,
    pub bytes: u64,
    pub is_complete: bool,
    /// Of each column.
    pub labels: Vec<Labels>,
    /// Columns with something of columns without labels.
    unlabelled: BTreeSet<String>,
    /// What it was computed from, and under which rules. Of the sources it holds nothing: a connection would be in use, and a
    /// snapshot kept, for as long as the handle lives.
    pub used: Vec<Used>,
    purpose: String,
    on_behalf_of: Option<String>,
    made_at: Instant,
}

impl Handle {
    pub fn table(&self) -> Result<Arc<dyn TableProvider>> {
        let table = MemTable::try_new(Arc::clone(&self.schema), vec![self.batches.clone()])?;
        let table = GovernedTable::new(Arc::new(table), Arc::new(self.shape()), None);
        Ok(Arc::new(table.with_unlabelled(self.unlabelled.clone())))
    }

    /// Values are shaped already; their labels go on with them.
    fn shape(&self) -> TableShape {
        let columns = self.schema.fields().iter().zip(&self.labels).map(|(field, labels)| ColumnShape {
            name: field.name().clone(),
            labels: labels.iter().cloned().collect(),
            shown: Shown::AsIs,
            rules: Vec::new(),
        });
        TableShape {
            table: TableName::new(HANDLES, &self.name),
            columns: columns.collect(),
            row_filters: Vec::new(),
            min_group: None,
            counted: None,
            max_rows: None,
            max_bytes: None,
            patterns: Vec::new(),
        }
    }
}

/// All handles, bounded in number, bytes and age.
#[derive(Debug)]
pub struct Handles {
    of: Mutex<HashMap<String, Vec<Arc<Handle>>>>,
    limits: HandleLimits,
}

#[derive(Debug, Clone, Copy)]
pub struct HandleLimits {
    /// Of one principal.
    pub count: usize,
    /// Of one principal, together.
    pub bytes: u64,
    pub age: Duration,
}

impl Default for HandleLimits {
    fn default() -> Self {
        HandleLimits { count: 32, bytes: 256 << 20, age: Duration::from_secs(60 * 60) }
    }
}

impl Handles {
    pub fn new(limits: HandleLimits) -> Handles {
        Handles { of: Mutex::default(), limits }
    }

    /// Keeps a result, which is all there. The oldest of the same principal make room for it.
    pub fn keep(&self, caller: &Caller, rows: Rows, lineages: &[Lineage], used: Vec<Used>) -> Arc<Handle> {
        let name = format!("h_{}", uuid::Uuid::new_v4().simple());
        let fields = rows.schema.fields().iter().zip(lineages);
        let unlabelled = fields.filter(|(_, lineage)| lineage.has_unlabelled);
        let unlabelled = unlabelled.map(|(field, _)| field.name().clone()).collect();
        let handle = Arc::new(Handle {
            name,
            unlabelled,
            schema: rows.schema,
            batches: rows.batches,
            rows: rows.rows,
            bytes: rows.bytes,
            is_complete: rows.cut_by.is_none(),
            labels: lineages.iter().map(|lineage| lineage.labels.clone()).collect(),
            used: used.into_iter().map(Used::settled).collect(),
            purpose: caller.purpose.clone(),
            on_behalf_of: caller.on_behalf_of.clone(),
            made_at: Instant::now(),
        });
        let mut all = self.of.lock();
        let own = all.entry(caller.principal.clone()).or_default();
        own.push(Arc::clone(&handle));
        let too_old = |handle: &Handle| handle.made_at.elapsed() > self.limits.age;
        own.retain(|handle| !too_old(handle));
        while own.len() > self.limits.count
            || (own.len() > 1 && own.iter().map(|handle| handle.bytes).sum::<u64>() > self.limits.bytes)
        {
            own.remove(0);
        }
        handle
    }

    /// A handle of this caller, for the purpose that it was made for, and for whom.
    pub fn find(&self, caller: &Caller, name: &str) -> Option<Arc<Handle>> {
        let all = self.of.lock();
        let own = all.get(&caller.principal)?;
        let is_same = |handle: &&Arc<Handle>| {
            handle.name == name
                && handle.purpose == caller.purpose
                && handle.on_behalf_of == caller.on_behalf_of
        };
        let found = own.iter().find(is_same)?;
        (found.made_at.elapsed() <= self.limits.age).then(|| Arc::clone(found))
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;
    use serde_json::json;

    use super::*;
    use crate::collection::Provenance;
    use crate::rules::Limits;

    /// What says as of when a table was read may hold the transaction in which that was.
    #[test]
    fn a_handle_holds_nothing_of_its_sources() {
        let connection = Arc::new(());
        let held = Arc::clone(&connection);
        let table = TableName::new("clinic", "visits");
        let shape = Handle {
            name: "visits".to_owned(),
            schema: Arc::new(Schema::empty()),
            batches: Vec::new(),
            rows: 0,
            bytes: 0,
            is_complete: true,
            labels: Vec::new(),
            unlabelled: BTreeSet::new(),
            used: Vec::new(),
            purpose: String::new(),
            on_behalf_of: None,
            made_at: Instant::now(),
        }
        .shape();
        let used = Used {
            table,
            shape: Arc::new(shape),
            rules: Vec::new(),
            budgets: Limits::default(),
            record: None,
            columns: Vec::new(),
            provenance: Provenance(Arc::new(move || json!(Arc::strong_count(&held)))),
        };
        let rows =
            Rows { schema: Arc::new(Schema::empty()), batches: Vec::new(), rows: 0, bytes: 0, cut_by: None };
        let handles = Handles::new(HandleLimits::default());
        let handle = handles.keep(&Caller::default(), rows, &[], vec![used]);
        assert_eq!(Arc::strong_count(&connection), 1);
        assert_eq!((handle.used[0].provenance.0)(), json!(2), "as it was when it was made");
    }
}
