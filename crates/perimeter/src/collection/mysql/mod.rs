//! Tables and views of a database of MySQL or MariaDB.
//!
//! A scan is a statement of SQL with the conditions, the columns and the limit that the server can
//! apply ([`query`]), in a transaction of its own that only reads, with the caller's role and
//! variables ([`server`]).
//!
//! Invariant: the text of a statement has quoted names of the catalog and of the configuration, and
//! nothing of a caller but the comment ([`super::told`]).

mod catalog;
mod check;
mod config;
mod query;
mod server;
mod types;

#[cfg(all(test, feature = "real-servers"))]
mod real;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::error::{DataFusionError, Result};
use futures_util::{StreamExt as _, stream};
use kafscale_core::sql_schema::SqlColumn;
use parking_lot::Mutex;
use serde_json::{Value, json};

pub use self::config::MysqlConfig;

use self::catalog::{Catalog, Relation};
use self::server::{Beginning, Failed, Link, Server};
use self::types::Kind;
use super::predicate::{Leaf, Pushed};
use super::reach::{Known, TlsError};
use super::remote::{Memory, RemoteSource, RemoteTable, Request, Rows as RowStream};
use super::rows::{Rows, Tally};
use super::told::{comment, role_of, roles};
use super::{Collection, CollectionError, Provenance, SourceTable};
use crate::caller::Caller;

/// Memory is asked for in steps of this size.
const CHARGE_BYTES: usize = 64 << 10;

/// A database, as the configuration declares it.
#[derive(Debug)]
pub struct Mysql {
    /// Of the collection.
    name: String,
    server: Arc<Server>,
    /// What each role may read; without a mapping of roles there is one entry.
    catalogs: BTreeMap<Option<String>, Known<Arc<Catalog>>>,
}

impl Mysql {
    /// `base` is the directory of the configuration. Nothing is connected to yet.
    pub fn new(name: &str, config: MysqlConfig, base: &Path) -> Result<Mysql, TlsError> {
        let server = Arc::new(Server::new(config, base)?);
        let known = |role| (role, Known::new(server.limits.refresh));
        let catalogs = roles(&server.config.roles).into_iter().map(known).collect();
        Ok(Mysql { name: name.to_owned(), server, catalogs })
    }

    fn told(&self, failed: Failed) -> CollectionError {
        failed.told(&self.name, self.server.config.statement())
    }

    async fn catalog(&self, role: &Option<String>) -> Result<Arc<Catalog>, CollectionError> {
        let known = self.catalogs.get(role).expect("there is one for each role");
        let read = async {
            let beginning = Beginning { role: role.clone(), ..Beginning::default() };
            let mut link = self.server.begin(&beginning).await?;
            Ok(Arc::new(Catalog::read(&mut link, &self.server.config).await?))
        };
        known.get(read).await.map_err(|failed| self.told(failed))
    }

    fn beginning(&self, caller: &Caller) -> Result<Beginning, Failed> {
        let config = &self.server.config;
        let variables = config.session.iter().map(|(name, told)| (name.0.clone(), told.of(caller))).collect();
        Ok(Beginning { role: role_of(&config.roles, caller)?, variables, comment: comment(caller) })
    }
}

#[async_trait]
impl Collection for Mysql {
    fn kind(&self) -> &'static str {
        "mysql"
    }

    async fn tables(&self) -> Result<Vec<String>, CollectionError> {
        let mut names = BTreeSet::new();
        for role in self.catalogs.keys() {
            names.extend(self.catalog(role).await?.tables.keys().cloned());
        }
        Ok(names.into_iter().collect())
    }

    async fn table(&self, name: &str, caller: &Caller) -> Result<Option<SourceTable>, CollectionError> {
        let beginning = self.beginning(caller).map_err(|failed| self.told(failed))?;
        let catalog = self.catalog(&beginning.role).await?;
        let Some((name, relation)) = catalog.tables.get_key_value(name) else { return Ok(None) };
        let (tally, times) = (Arc::<Tally>::default(), Arc::<Mutex<Vec<String>>>::default());
        let table = MysqlTable {
            collection: self.name.clone(),
            server: Arc::clone(&self.server),
            schema: relation.arrow_schema(),
            relation: Arc::clone(relation),
            beginning,
            tally: Arc::clone(&tally),
            times: Arc::clone(&times),
        };
        let database = self.server.config.database.clone();
        let provenance = Provenance(Arc::new(move || {
            let mut told = tally.told();
            told["database"] = json!(database);
            told["snapshots"] = times.lock().iter().map(|time| json!({ "time": time })).collect::<Value>();
            told
        }));
        Ok(Some(SourceTable::new(name, Arc::new(RemoteTable::new(table)), provenance)))
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

/// A table for one statement. Each of its scans has a snapshot of its own.
#[derive(Debug)]
struct MysqlTable {
    collection: String,
    server: Arc<Server>,
    relation: Arc<Relation>,
    schema: SchemaRef,
    beginning: Beginning,
    tally: Arc<Tally>,
    /// When its snapshots were taken, as the server tells.
    times: Arc<Mutex<Vec<String>>>,
}

impl MysqlTable {
    fn told(&self, failed: Failed) -> DataFusionError {
        failed.told(&self.collection, self.server.config.statement()).into()
    }

    async fn open(&self, request: &Request) -> Result<Link, Failed> {
        let query = query::select(&self.server.config.database, &self.relation, request);
        let mut link = self.server.begin(&self.beginning).await?;
        let now: Vec<String> = link.rows("SELECT CAST(NOW(6) AS CHAR)", vec![]).await?;
        self.times.lock().extend(now.into_iter().map(|now| format!("{now}+00")));
        link.query(&query.text, query.parameters).await?;
        Ok(link)
    }
}

#[async_trait]
impl RemoteSource for MysqlTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn pushed(&self, leaf: &Leaf) -> Pushed {
        query::pushed(&self.relation.columns[leaf.column], &leaf.test)
    }

    async fn read(self: Arc<Self>, request: Arc<Request>, memory: Memory) -> Result<RowStream> {
        let columns = request.projection.iter().map(|at| &self.relation.columns[*at]);
        let (sql, kinds): (Vec<SqlColumn>, Vec<Kind>) = columns.map(|c| (c.as_sql(), c.kind)).unzip();
        let link = self.open(&request).await.map_err(|failed| self.told(failed))?;
        let rows = Rows::new(&sql, Arc::clone(&self.tally));
        let scan = Scan { table: self, link, kinds, rows, memory };
        let batches = stream::try_unfold(Some(scan), async |scan| {
            let Some(mut scan) = scan else { return Ok(None) };
            let is_last = scan.fill().await?;
            Ok(scan.rows.take()?.map(|batch| (batch, (!is_last).then_some(scan))))
        });
        Ok(batches.boxed())
    }
}

struct Scan {
    table: Arc<MysqlTable>,
    link: Link,
    kinds: Vec<Kind>,
    rows: Rows,
    memory: Memory,
}

impl Scan {
    /// Takes rows for a batch; true when there are no more.
    async fn fill(&mut self) -> Result<bool> {
        self.memory.release();
        let mut uncharged = 0;
        while !self.rows.is_full() {
            let Some(row) = self.link.next().await.map_err(|failed| self.table.told(failed))? else {
                return Ok(true);
            };
            for (at, kind) in self.kinds.iter().enumerate() {
                let (bytes, cell) = kind.cell(row.as_ref(at).unwrap_or(&mysql_async::Value::NULL));
                uncharged += bytes;
                self.rows.put(at, &cell);
            }
            self.rows.end_row();
            if uncharged > CHARGE_BYTES {
                self.memory.charge(std::mem::take(&mut uncharged))?;
            }
        }
        Ok(false)
    }
}
