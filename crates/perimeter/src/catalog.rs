//! What names mean in a statement: collections are schemas, and each of their tables is the part of it that the rules give to the
//! caller. One catalog is made for each statement, so that a statement sees each table as of one moment and one decision.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use kafscale_sql::catalog::DATABASE;
use tokio::sync::Mutex;

use crate::caller::Caller;
use crate::collection::{Collection, Provenance, find};
use crate::deciding::{Allowed, Decide, Ruling};
use crate::detect::is_personal;
use crate::governed::Refused;
use crate::governed::table::GovernedTable;
use crate::handles::{Handle, Handles};
use crate::labelled::Labelled;
use crate::rules::record::TableRecord;
use crate::rules::{Action, ColumnInfo, Limits, not_there};
use crate::shape::{TableName, TableShape};

/// All collections, by name.
pub type Collections = BTreeMap<String, Arc<dyn Collection>>;

/// Tables with the results that a caller has kept, as a schema of their own.
pub const HANDLES: &str = "handles";

/// Of a result that was kept.
pub const NO_LONGER_GIVEN: &str =
    "the rules do not give you now what they gave when the result was made; query again";

/// What a statement has used of a table.
#[derive(Debug, Clone)]
pub struct Used {
    pub table: TableName,
    pub shape: Arc<TableShape>,
    /// The ids of policies and obligations that had a part in it.
    pub rules: Vec<String>,
    pub budgets: Limits,
    pub record: Option<Box<TableRecord>>,
    /// Of the source, with the labels that stick to it: what was decided on.
    pub columns: Vec<ColumnInfo>,
    pub provenance: Provenance,
}

impl Used {
    /// The same once the statement has run, without what it was read through.
    pub fn settled(self) -> Used {
        let told = (self.provenance.0)();
        Used { provenance: Provenance(Arc::new(move || told.clone())), ..self }
    }
}

/// One statement's view of the collections.
#[derive(Debug)]
pub struct View {
    pub collections: Arc<Collections>,
    pub decide: Arc<dyn Decide>,
    pub caller: Caller,
    /// For row filters; it has no catalog.
    pub state: SessionState,
    /// Labels that stick to topics.
    pub labelled: Arc<Labelled>,
    /// Results that were kept.
    pub handles: Arc<Handles>,
    /// Those that the statement reads.
    pub kept: Mutex<BTreeMap<String, Arc<Handle>>>,
    pub found: Mutex<BTreeMap<TableName, Found>>,
    /// Collections as of when they were first named.
    pub begun: Mutex<BTreeMap<String, Arc<dyn Collection>>>,
}

/// What became of a name.
#[derive(Debug, Clone)]
pub enum Found {
    Nothing,
    Denied(Denied),
    Table { table: Arc<GovernedTable>, used: Used },
}

/// The caller may know of the table, and not read it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub struct Denied {
    pub table: TableName,
    pub why: String,
    /// For the auditor.
    pub rules: Vec<String>,
    pub record: Option<Box<TableRecord>>,
    /// For the auditor alone: a caller is told the same in both cases.
    pub is_there: bool,
}

impl Denied {
    /// Of a table that is not there: in the words of one that is there and denied.
    pub fn missing(decide: &dyn Decide, caller: &Caller, table: TableName) -> Denied {
        let (why, rules, record) = match decide.decide(caller, Action::Query, &table, &[]) {
            Ruling::Denied { why, rules, record } => (why, rules, record),
            Ruling::Allowed(_) => (not_there(&table, Action::Query.name()), Vec::new(), None),
        };
        Denied { table, why, rules, record, is_there: false }
    }
}

/// Whether the rules give a caller of these tables what they gave then.
pub fn still_holds(caller: &Caller, decide: &dyn Decide, used: &[Used]) -> bool {
    used.iter().all(|used| holds_for(caller, decide, Action::Query, used))
}

/// Whether the rules give a caller just what it was given of a table, for an action.
pub fn holds_for(caller: &Caller, decide: &dyn Decide, action: Action, used: &Used) -> bool {
    match decide.decide(caller, action, &used.table, &used.columns) {
        Ruling::Allowed(allowed) => allowed.shape == *used.shape,
        Ruling::Denied { .. } => false,
    }
}

impl View {
    /// The tables that were named, or that results that were named came from, and what the rules gave of them.
    pub async fn used(&self) -> Vec<Used> {
        let found = self.found.lock().await;
        let named = found.values().filter_map(|found| match found {
            Found::Table { used, .. } => Some(used.clone()),
            Found::Nothing | Found::Denied(_) => None,
        });
        let mut used: Vec<Used> = named.collect();
        for handle in self.kept.lock().await.values() {
            for of in &handle.used {
                if !used.iter().any(|known| known.table == of.table) {
                    // Its rows were charged when it was made.
                    used.push(Used { budgets: Limits::default(), record: None, ..of.clone() });
                }
            }
        }
        used
    }

    /// A result that the caller has kept, if the rules give it now what it was made of.
    async fn kept(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(handle) = self.handles.find(&self.caller, name) else { return Ok(None) };
        if !still_holds(&self.caller, &*self.decide, &handle.used) {
            let why = NO_LONGER_GIVEN.to_owned();
            let table = TableName::new(HANDLES, name);
            let denied = Denied { table, why, rules: Vec::new(), record: None, is_there: true };
            return Err(DataFusionError::External(Box::new(denied)));
        }
        let table = handle.table()?;
        self.kept.lock().await.insert(name.to_owned(), handle);
        Ok(Some(table))
    }

    pub async fn denied(&self) -> Vec<Denied> {
        let found = self.found.lock().await;
        let denied = found.values().filter_map(|found| match found {
            Found::Denied(denied) => Some(denied.clone()),
            Found::Nothing | Found::Table { .. } => None,
        });
        denied.collect()
    }

    async fn table(&self, collection: &str, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let named = TableName::new(collection, name);
        let mut found = self.found.lock().await;
        if !found.contains_key(&named) {
            found.insert(named.clone(), self.find(&named).await?);
        }
        match &found[&named] {
            Found::Nothing => Ok(None),
            Found::Denied(denied) => Err(DataFusionError::External(Box::new(denied.clone()))),
            Found::Table { table, .. } => Ok(Some(Arc::clone(table) as Arc<dyn TableProvider>)),
        }
    }

    /// The collection as of when the statement first named it.
    async fn begun(&self, name: &str, collection: &Arc<dyn Collection>) -> Result<Arc<dyn Collection>> {
        let mut begun = self.begun.lock().await;
        if let Some(known) = begun.get(name) {
            return Ok(Arc::clone(known));
        }
        let now = collection.begin(&self.caller).await?.unwrap_or_else(|| Arc::clone(collection));
        begun.insert(name.to_owned(), Arc::clone(&now));
        Ok(now)
    }

    async fn find(&self, named: &TableName) -> Result<Found> {
        let Some(collection) = self.collections.get(&named.collection) else { return Ok(Found::Nothing) };
        // Nothing is asked of a source for somebody who may not know of the collection.
        if !self.decide.knows_collection(&self.caller, &named.collection) {
            return Ok(Found::Nothing);
        }
        let decided_on = TableName::new(&named.collection, collection.table_named(&named.table));
        let missing = |table| Found::Denied(Denied::missing(&*self.decide, &self.caller, table));
        let begun = self.begun(&named.collection, collection).await?;
        let source = match find(begun.as_ref(), &named.table, &self.caller).await {
            Ok(Some(source)) => source,
            Ok(None) => return Ok(missing(decided_on)),
            // That it fails would tell that it is there.
            Err(_) if !self.decide.knows(&self.caller, &decided_on) => return Ok(missing(decided_on)),
            Err(error) => return Err(error.into()),
        };
        let kind = collection.kind();
        let columns = self.labelled.columns(kind, &decided_on.table, with_names(source.columns));
        match self.decide.decide(&self.caller, Action::Query, &decided_on, &columns) {
            Ruling::Denied { why, rules, record } => {
                Ok(Found::Denied(Denied { table: decided_on, why, rules, record, is_there: true }))
            }
            Ruling::Allowed(allowed) => {
                let Allowed { shape, rules, budgets, record } = *allowed;
                if decided_on.table != named.table && shape.keeps_rows_back() {
                    return Err(counts_what_is_kept_back(&decided_on).into());
                }
                let shape = Arc::new(shape);
                // Values of the caller's choice may be in it, and must not have the pseudonyms of the tables that they are of.
                let carried_out = match self.labelled.is_written_to(kind, &decided_on.table) {
                    true => Arc::new(shape.with_keys_of_its_own()),
                    false => Arc::clone(&shape),
                };
                let table = GovernedTable::try_new(&self.state, source.provider, carried_out)?;
                let provenance = source.provenance;
                let used = Used { table: decided_on, shape, rules, budgets, record, columns, provenance };
                Ok(Found::Table { table: Arc::new(table), used })
            }
        }
    }
}

/// Of a name, in characters.
const NAME_CHARS_MAX: usize = 128;

/// Columns whose names are names. Where a collection takes them from what is in it (keys of records, the first line of a file), they
/// may be data, and names leave with every description.
pub fn with_names(mut columns: Vec<ColumnInfo>) -> Vec<ColumnInfo> {
    columns.retain(|column| {
        let name = &column.name;
        name.chars().count() <= NAME_CHARS_MAX && !name.contains(char::is_control) && !is_personal(name)
    });
    columns
}

/// The last records of a topic, or its state at some offsets, are counted before the rules take rows away.
fn counts_what_is_kept_back(table: &TableName) -> Refused {
    let why = format!("{table}: rows of it are kept back, and TAIL and AS OF would count them");
    Refused::new(why, "write conditions on _ts or _offset instead".to_owned())
}

/// The one database.
#[derive(Debug, Clone)]
pub struct Database(pub Arc<View>);

impl CatalogProviderList for Database {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![DATABASE.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == DATABASE).then(|| Arc::new(self.clone()) as Arc<dyn CatalogProvider>)
    }
}

impl CatalogProvider for Database {
    /// Nothing that the engine does with this needs the names.
    fn schema_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == HANDLES {
            return Some(Arc::new(KeptResults(Arc::clone(&self.0))));
        }
        let schema = CollectionSchema { name: name.to_owned(), view: Arc::clone(&self.0) };
        self.0.collections.contains_key(name).then(|| Arc::new(schema) as Arc<dyn SchemaProvider>)
    }
}

#[derive(Debug)]
struct CollectionSchema {
    name: String,
    view: Arc<View>,
}

#[async_trait]
impl SchemaProvider for CollectionSchema {
    fn table_names(&self) -> Vec<String> {
        Vec::new()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        self.view.table(&self.name, name).await
    }

    fn table_exist(&self, _: &str) -> bool {
        false
    }
}

/// Results that the caller has kept, as tables.
#[derive(Debug)]
struct KeptResults(Arc<View>);

#[async_trait]
impl SchemaProvider for KeptResults {
    fn table_names(&self) -> Vec<String> {
        Vec::new()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        self.0.kept(name).await
    }

    fn table_exist(&self, _: &str) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;

    #[test]
    fn names_that_are_data_are_no_names() {
        let long = "x".repeat(NAME_CHARS_MAX + 1);
        let names = [
            "id",
            "Date of birth",
            "Amount (EUR)",
            "c20261130",
            "/who/name",
            "_value",
            "ada.lovelace@mail.example",
            "4111111111111111",
            "a\nb",
            &long,
        ];
        let columns = names.map(|name| ColumnInfo::new(name, DataType::Utf8)).to_vec();
        let left: Vec<String> = with_names(columns).into_iter().map(|column| column.name).collect();
        assert_eq!(left, names[..6]);
    }
}
