//! Tables and views of a PostgreSQL database.
//!
//! A scan is a statement of SQL with the conditions, the columns and the limit that the server can
//! apply ([`query`]), in a transaction that only reads, with the caller's role and session
//! variables ([`session`]).
//!
//! Invariant: the text of a statement has quoted names of the catalog and of the configuration, and
//! nothing of a caller but the comment ([`super::told`]).

mod catalog;
mod check;
mod config;
mod query;
mod server;
mod session;
mod types;

#[cfg(all(test, feature = "real-servers"))]
mod real;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::error::{DataFusionError, Result};
use parking_lot::Mutex;
use serde_json::{Value, json};

pub use self::config::PostgresConfig;

use self::catalog::{Catalog, Relation};
use self::server::Server;
use self::session::{Beginning, Failed, Reading, Session, Snapshot};
use super::predicate::{Leaf, Pushed};
use super::reach::{Known, TlsError};
use super::remote::{Memory, RemoteSource, RemoteTable, Request, Rows};
use super::rows::Tally;
use super::told::{comment, role_of, roles};
use super::{Collection, CollectionError, Provenance, SourceTable};
use crate::caller::Caller;

/// A database, as the configuration declares it.
#[derive(Debug, Clone)]
pub struct Postgres(Arc<Database>);

#[derive(Debug)]
struct Database {
    /// Of the collection.
    name: String,
    server: Arc<Server>,
    /// What each role may read; without a mapping of roles there is one entry.
    catalogs: BTreeMap<Option<String>, Known<Arc<Catalog>>>,
}

impl Postgres {
    /// `base` is the directory of the configuration. Nothing is connected to yet.
    pub fn new(name: &str, config: PostgresConfig, base: &Path) -> Result<Postgres, TlsError> {
        let server = Arc::new(Server::new(config, base)?);
        let known = |role| (role, Known::new(server.limits.refresh));
        let catalogs = roles(&server.config.roles).into_iter().map(known).collect();
        Ok(Postgres(Arc::new(Database { name: name.to_owned(), server, catalogs })))
    }

    fn statement(&self, caller: &Caller) -> Result<Statement, CollectionError> {
        let database = Arc::clone(&self.0);
        let beginning = database.beginning(caller).map_err(|failed| database.told(failed))?;
        let session = tokio::sync::Mutex::default();
        Ok(Statement(Arc::new(Transaction { database, beginning, session, snapshots: Mutex::default() })))
    }
}

impl Database {
    fn told(&self, failed: Failed) -> CollectionError {
        failed.told(&self.name, self.server.limits.answer)
    }

    async fn catalog(&self, role: &Option<String>) -> Result<Arc<Catalog>, CollectionError> {
        let known = self.catalogs.get(role).expect("there is one for each role");
        let read = async {
            let beginning = Beginning { role: role.clone(), ..Beginning::default() };
            let session = Session::begin(Arc::clone(&self.server), &beginning).await?;
            Ok(Arc::new(Catalog::read(&session, &self.server.config).await?))
        };
        known.get(read).await.map_err(|failed| self.told(failed))
    }

    fn beginning(&self, caller: &Caller) -> Result<Beginning, Failed> {
        let config = &self.server.config;
        let variables = config.session.iter().map(|(name, told)| (name.0.clone(), told.of(caller))).collect();
        Ok(Beginning { role: role_of(&config.roles, caller)?, variables, comment: comment(caller) })
    }

    async fn tables(
        &self,
        roles: impl Iterator<Item = &Option<String>>,
    ) -> Result<Vec<String>, CollectionError> {
        let mut names = BTreeSet::new();
        for role in roles {
            names.extend(self.catalog(role).await?.tables.keys().cloned());
        }
        Ok(names.into_iter().collect())
    }

    async fn check(&self) -> Result<Vec<String>, CollectionError> {
        let mut found = Vec::new();
        for role in self.catalogs.keys() {
            let lines = check::check(&self.server, role.as_deref()).await;
            found.extend(lines.map_err(|failed| self.told(failed))?);
            let tables = self.catalog(role).await?.tables.len();
            let of = role.as_ref().map(|role| format!(" as {role}")).unwrap_or_default();
            found.push(format!("{tables} tables can be read{of}"));
        }
        Ok(found)
    }
}

#[async_trait]
impl Collection for Postgres {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn begin(&self, caller: &Caller) -> Result<Option<Arc<dyn Collection>>, CollectionError> {
        Ok(Some(Arc::new(self.statement(caller)?)))
    }

    async fn tables(&self) -> Result<Vec<String>, CollectionError> {
        self.0.tables(self.0.catalogs.keys()).await
    }

    async fn table(&self, name: &str, caller: &Caller) -> Result<Option<SourceTable>, CollectionError> {
        self.statement(caller)?.table(name, caller).await
    }

    async fn check(&self) -> Result<Vec<String>, CollectionError> {
        self.0.check().await
    }
}

/// The database as of one moment, for one statement of one caller.
#[derive(Debug)]
struct Statement(Arc<Transaction>);

#[derive(Debug)]
struct Transaction {
    database: Arc<Database>,
    beginning: Beginning,
    /// Begun with the first scan, for all scans of all tables.
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    /// One, unless the server ended it in between.
    snapshots: Mutex<Vec<Snapshot>>,
}

impl Transaction {
    async fn session(&self) -> Result<Arc<Session>, Failed> {
        let mut known = self.session.lock().await;
        if let Some(session) = known.as_ref().filter(|session| !session.is_over()) {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(Session::begin(Arc::clone(&self.database.server), &self.beginning).await?);
        self.snapshots.lock().push(session.snapshot.clone());
        *known = Some(Arc::clone(&session));
        Ok(session)
    }

    fn provenance(&self, tally: &Tally) -> Value {
        let of = |seen: &Snapshot| json!({ "snapshot": seen.snapshot, "time": seen.time });
        let mut told = tally.told();
        told["database"] = json!(self.database.server.config.database);
        told["snapshots"] = self.snapshots.lock().iter().map(of).collect();
        told
    }
}

#[async_trait]
impl Collection for Statement {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn tables(&self) -> Result<Vec<String>, CollectionError> {
        self.0.database.tables(std::iter::once(&self.0.beginning.role)).await
    }

    /// The caller is the one with whom the statement began.
    async fn table(&self, name: &str, _: &Caller) -> Result<Option<SourceTable>, CollectionError> {
        let catalog = self.0.database.catalog(&self.0.beginning.role).await?;
        let Some((name, relation)) = catalog.tables.get_key_value(name) else { return Ok(None) };
        let tally = Arc::<Tally>::default();
        let table = PostgresTable {
            transaction: Arc::clone(&self.0),
            schema: Arc::new(relation.arrow_schema()),
            relation: Arc::clone(relation),
            utf8: catalog.utf8,
            tally: Arc::clone(&tally),
        };
        let provider = Arc::new(RemoteTable::new(table));
        let transaction = Arc::clone(&self.0);
        let provenance = Provenance(Arc::new(move || transaction.provenance(&tally)));
        Ok(Some(SourceTable::new(name, provider, provenance)))
    }

    async fn check(&self) -> Result<Vec<String>, CollectionError> {
        self.0.database.check().await
    }
}

#[derive(Debug)]
struct PostgresTable {
    transaction: Arc<Transaction>,
    relation: Arc<Relation>,
    schema: SchemaRef,
    utf8: bool,
    tally: Arc<Tally>,
}

#[async_trait]
impl RemoteSource for PostgresTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn pushed(&self, leaf: &Leaf) -> Pushed {
        query::pushed(&self.relation.columns[leaf.column], &leaf.test, self.utf8)
    }

    async fn read(self: Arc<Self>, request: Arc<Request>, memory: Memory) -> Result<Rows> {
        let query = query::select(&self.relation, &request);
        let kinds = request.projection.iter().map(|at| self.relation.columns[*at].kind.clone()).collect();
        let reading = Reading { request, kinds, memory, tally: Arc::clone(&self.tally) };
        let database = Arc::clone(&self.transaction.database);
        let told = move |failed| match failed {
            Failed::Engine(error) => error,
            other => DataFusionError::from(database.told(other)),
        };
        let opened = async { self.transaction.session().await?.read(query, reading).await };
        Ok(opened.await.map_err(&told)?.rows(told))
    }
}
