//! Where data is: one file for each kind of collection. A collection gives tables of the query engine, which push down what the
//! source can do, and reads only.
//!
//! Invariant: a secret of a collection is in no error, log line or answer; errors of drivers are told by [`CollectionError`],
//! whose `Display` is fit for a caller, and whose source is for the operator's log alone.

#[cfg(test)]
pub mod conformance;
mod declared;
pub mod etcd;
pub mod exec;
pub mod files;
pub mod http;
mod json_rows;
pub mod mcp;
pub mod mongodb;
pub mod mysql;
pub mod postgres;
mod predicate;
mod reach;
pub mod redis;
mod remote;
pub mod rows;
pub mod sqlite;
#[cfg(test)]
mod test_server;
mod told;
pub mod topics;
mod web;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Field;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::declared::AskError;
use crate::caller::Caller;
use crate::deliver::Brokers;
use crate::rules::{ColumnInfo, Holds};

/// What is open of a collection that the configuration declares.
#[async_trait]
pub trait Collection: Debug + Send + Sync {
    /// As the configuration writes it, such as `postgres`.
    fn kind(&self) -> &'static str;

    /// The collection as of now, for one statement of `caller`: all tables that are taken from it are seen as of the same moment,
    /// as long as any of them is held. None: the source has no such moment, and each table is seen as of when it is taken.
    async fn begin(&self, _caller: &Caller) -> Result<Option<Arc<dyn Collection>>, CollectionError> {
        Ok(None)
    }

    /// The table that a name in a statement is about. More stands in a name for topics alone.
    fn table_named<'n>(&self, name: &'n str) -> &'n str {
        name
    }

    /// The names of its tables, as of now.
    async fn tables(&self) -> Result<Vec<String>, CollectionError>;

    /// A table as of now, for one statement of `caller`; None where there is none of that name. Who decides by the name takes it
    /// from [`find`].
    async fn table(&self, name: &str, caller: &Caller) -> Result<Option<SourceTable>, CollectionError>;

    /// Where its tables are written to, if that is declared: only answers that are delivered are.
    fn brokers(&self) -> Option<&Brokers> {
        None
    }

    /// The table in parts that are erased one by one, such as files, with what they are called. Empty: it is one.
    async fn parts(&self, _name: &str) -> Result<Vec<(String, SourceTable)>, CollectionError> {
        Ok(Vec::new())
    }

    /// What the collection holds, and has in none of its tables, as far as it can tell: names of files.
    async fn left_out(&self) -> Result<Vec<String>, CollectionError> {
        Ok(Vec::new())
    }

    /// How long a table keeps records by itself. None: for as long as its owner likes.
    async fn keeping(&self, _name: &str) -> Result<Option<Keeping>, CollectionError> {
        Ok(None)
    }

    /// Connects, and says what was found, such as the server's version, the role, and that it is read-only.
    async fn check(&self) -> Result<Vec<String>, CollectionError>;
}

/// How a topic gets rid of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeping {
    /// Keys are compacted.
    pub compacts: bool,
    /// Records are deleted so long after they were written, where the topic itself says so: what brokers have as their default is
    /// not known here.
    pub retention_ms: Option<i64>,
}

/// A table of a collection, with everything in it.
#[derive(Debug, Clone)]
pub struct SourceTable {
    /// As the source writes it. By this name rules decide, releases are remembered, and the audit log tells.
    pub name: String,
    /// What rules decide about. A column of the provider that is none of these is shown to nobody.
    pub columns: Vec<ColumnInfo>,
    pub provider: Arc<dyn TableProvider>,
    /// As of when it is read, for the answer: ranges of offsets, a snapshot of the database, versions of files with hashes.
    pub provenance: Provenance,
}

impl SourceTable {
    /// With the columns of the provider, none of which holds another one.
    pub fn new(
        name: impl Into<String>,
        provider: Arc<dyn TableProvider>,
        provenance: Provenance,
    ) -> SourceTable {
        let schema = provider.schema();
        let of = |field: &Arc<Field>| ColumnInfo::new(field.name(), field.data_type().clone());
        let columns = schema.fields().iter().map(of).collect();
        SourceTable { name: name.into(), columns, provider, provenance }
    }

    /// A column of which others can be had.
    #[must_use]
    pub fn holding(mut self, column: &str, holds: Holds) -> SourceTable {
        for known in self.columns.iter_mut().filter(|known| known.name == column) {
            known.holds = holds.clone();
        }
        self
    }

    /// A column that is shown to nobody, whatever the rules say.
    #[must_use]
    pub fn without(mut self, column: &str) -> SourceTable {
        self.columns.retain(|known| known.name != column);
        self
    }
}

/// The table of exactly this name.
///
/// Invariant: what is decided by a name is read by it. A source that finds a table by another spelling of its name gives a table
/// that is not found here.
pub async fn find(
    collection: &dyn Collection,
    name: &str,
    caller: &Caller,
) -> Result<Option<SourceTable>, CollectionError> {
    let found = collection.table(name, caller).await?;
    Ok(found.filter(|table| table.name == collection.table_named(name)))
}

/// Asked once the statement has run.
#[derive(Clone)]
pub struct Provenance(pub Arc<dyn Fn() -> Value + Send + Sync>);

impl fmt::Debug for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provenance({})", (self.0)())
    }
}

/// Why a collection cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CollectionError {
    /// Worth another try: it is down, slow, or overloaded.
    #[error("the collection {collection} cannot be reached now; try again later")]
    Unreachable { collection: String, source: Source },
    #[error("the collection {collection} did not answer within {limit:?}")]
    TimedOut { collection: String, limit: Duration },
    /// Worth another try: what was read is not what was listed.
    #[error("the collection {collection} changed while it was read; try again")]
    Changed { collection: String, source: Source },
    /// The operator has to mend something: `kafscale perimeter check` says what.
    #[error("the collection {collection} refuses the perimeter; its operator has to look at it")]
    Refused { collection: String, source: Source },
    /// The caller has to ask otherwise, and is told how.
    #[error("the collection {collection} cannot be asked this: {source}")]
    Question { collection: String, source: AskError },
    /// What came does not have the form that it should have.
    #[error("the collection {collection} answered something that cannot be used")]
    Unusable { collection: String, source: Source },
}

/// The cause, for the operator.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

impl From<CollectionError> for datafusion::error::DataFusionError {
    fn from(error: CollectionError) -> Self {
        datafusion::error::DataFusionError::External(Box::new(error))
    }
}
