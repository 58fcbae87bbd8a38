//! Tables and views of a SQLite database.
//!
//! [`session`] is the connection, [`columns`] what tables there are and what is in them, [`filters`] what SQLite looks at.

pub mod columns;
pub mod filters;
pub mod session;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session as EngineSession, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};

use self::columns::{Found, quoted};
use self::filters::{Condition, Param};
use self::session::{Select, Session, SqliteError};
use super::exec::SourceExec;
use super::rows::{Rows, Tally, schema_of};
use super::{Collection, CollectionError, Provenance, SourceTable};
use crate::caller::Caller;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// The file of the database.
    pub path: PathBuf,
    /// Nobody writes to the file while the perimeter runs: it is read without locks, from a disk that takes none too.
    #[serde(default)]
    pub immutable: bool,
}

#[derive(Debug, Clone)]
pub struct Sqlite {
    collection: String,
    path: PathBuf,
    immutable: bool,
    /// Of the statement for which this is open.
    session: Option<Arc<Session>>,
}

impl Sqlite {
    pub fn new(collection: &str, config: &SqliteConfig, base: &Path) -> Sqlite {
        let path = base.join(&config.path);
        Sqlite { collection: collection.to_owned(), path, immutable: config.immutable, session: None }
    }

    fn told(&self, error: SqliteError) -> CollectionError {
        error.of_collection(&self.collection)
    }

    async fn session(&self) -> std::result::Result<Arc<Session>, CollectionError> {
        if let Some(session) = &self.session {
            return Ok(Arc::clone(session));
        }
        let begun = Session::begin(&self.path, self.immutable).await;
        begun.map(Arc::new).map_err(|e| self.told(e))
    }

    /// The state that a session sees, as far as SQLite has a name for it.
    async fn state(&self, session: &Session) -> std::result::Result<Value, SqliteError> {
        let asked = session.ask(|connection| {
            let number = |name: &str| {
                let sql = format!("SELECT {name} FROM pragma_{name}");
                connection.query_row(&sql, [], |row| row.get::<_, i64>(0))
            };
            Ok((number("data_version")?, number("schema_version")?))
        });
        let (data_version, schema_version) = asked.await?;
        let mut state = json!({
            "path": self.path.display().to_string(),
            "data_version": data_version,
            "schema_version": schema_version,
        });
        // Commits are in the log first, until somebody moves them into the file.
        for (key, path) in [("file", self.path.clone()), ("log", with_suffix(&self.path, "-wal"))] {
            if let Ok(found) = path.metadata() {
                let modified = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                state[key] = json!({
                    "bytes": found.len(),
                    "modified_us": modified.map(|since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX)),
                });
            }
        }
        Ok(state)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[async_trait]
impl Collection for Sqlite {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    async fn begin(&self, _: &Caller) -> std::result::Result<Option<Arc<dyn Collection>>, CollectionError> {
        let session = Some(self.session().await?);
        Ok(Some(Arc::new(Sqlite { session, ..self.clone() })))
    }

    async fn tables(&self) -> std::result::Result<Vec<String>, CollectionError> {
        let tables = self.session().await?.ask(columns::tables).await.map_err(|e| self.told(e))?;
        Ok(tables.into_iter().map(|(name, _)| name).collect())
    }

    async fn table(
        &self,
        name: &str,
        _: &Caller,
    ) -> std::result::Result<Option<SourceTable>, CollectionError> {
        let session = self.session().await?;
        let wanted = name.to_owned();
        let found = session.ask(move |connection| columns::find(connection, &wanted)).await;
        let Some(found) = found.map_err(|e| self.told(e))? else { return Ok(None) };
        let state = self.state(&session).await.map_err(|e| self.told(e))?;
        let tally = Arc::new(Tally::default());
        let counted = Arc::clone(&tally);
        let provenance = move || {
            let mut told = state.clone();
            if let (Some(told), Value::Object(counted)) = (told.as_object_mut(), counted.told()) {
                told.extend(counted);
            }
            told
        };
        let name = found.name.clone();
        let provider = SqliteTable {
            collection: self.collection.clone(),
            session,
            schema: schema_of(&found.columns.iter().map(|column| column.sql_column()).collect::<Vec<_>>()),
            found,
            tally,
        };
        Ok(Some(SourceTable::new(name, Arc::new(provider), Provenance(Arc::new(provenance)))))
    }

    async fn check(&self) -> std::result::Result<Vec<String>, CollectionError> {
        let session = self.session().await?;
        let tables = session.ask(columns::tables).await.map_err(|e| self.told(e))?;
        let views = tables.iter().filter(|(_, is_view)| *is_view).count();
        Ok(vec![
            format!(
                "SQLite {}, read-only{}",
                rusqlite::version(),
                if self.immutable { ", immutable" } else { "" }
            ),
            format!("{} tables and {views} views", tables.len() - views),
        ])
    }
}

/// A table or a view, as of one state.
#[derive(Debug)]
struct SqliteTable {
    collection: String,
    session: Arc<Session>,
    found: Found,
    schema: SchemaRef,
    tally: Arc<Tally>,
}

impl SqliteTable {
    fn select(&self, projection: &[usize], filters: &[Expr], limit: Option<usize>) -> Select {
        let columns: Vec<String> =
            projection.iter().map(|at| quoted(&self.found.columns[*at].name)).collect();
        let columns = if columns.is_empty() { "1".to_owned() } else { columns.join(", ") };
        let mut sql = format!("SELECT {columns} FROM main.{}", quoted(&self.found.name));
        let conditions: Vec<Condition> =
            filters.iter().filter_map(|filter| filters::condition(filter, &self.found)).collect();
        let mut params = Vec::new();
        for (at, condition) in conditions.iter().enumerate() {
            sql.push_str(if at == 0 { " WHERE " } else { " AND " });
            sql.push_str(&condition.sql);
            params.extend(condition.params.iter().cloned());
        }
        // The engine gives a limit where all that it has given is looked at exactly.
        if let Some(limit) = limit.filter(|_| conditions.len() == filters.len()) {
            sql.push_str(" LIMIT ?");
            params.push(Param::Int(i64::try_from(limit).unwrap_or(i64::MAX)));
        }
        let kinds = projection.iter().map(|at| self.found.columns[*at].kind).collect();
        Select { sql, params, kinds }
    }
}

#[async_trait]
impl TableProvider for SqliteTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let treated = |filter: &&Expr| match filters::condition(filter, &self.found) {
            Some(Condition { exact: true, .. }) => TableProviderFilterPushDown::Exact,
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(treated).collect())
    }

    async fn scan(
        &self,
        _: &dyn EngineSession,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.found.columns.len()).collect();
        let projection: Vec<usize> = projection.cloned().unwrap_or_else(all);
        let select = self.select(&projection, filters, limit);
        let told = format!("sqlite={}.{}, query={}", self.collection, self.found.name, select.sql);
        let columns: Vec<_> = projection.iter().map(|at| self.found.columns[*at].sql_column()).collect();
        let schema = schema_of(&columns);
        let (session, tally, collection) =
            (Arc::clone(&self.session), Arc::clone(&self.tally), self.collection.clone());
        let of = Arc::clone(&schema);
        let open = move |_, _| {
            let rows = Rows::new(&columns, Arc::clone(&tally));
            let (session, select) = (Arc::clone(&session), select.clone());
            Ok(stream_of(session, select, rows, Arc::clone(&of), collection.clone()))
        };
        Ok(Arc::new(SourceExec::new(told, schema, 1, Arc::new(open))))
    }
}

fn stream_of(
    session: Arc<Session>,
    select: Select,
    rows: Rows,
    schema: SchemaRef,
    collection: String,
) -> SendableRecordBatchStream {
    enum Step {
        Begin(Arc<Session>, Select, Box<Rows>),
        Go(session::Scan),
    }
    let batches = stream::try_unfold(Step::Begin(session, select, Box::new(rows)), move |step| {
        let collection = collection.clone();
        async move {
            let next = async {
                let scan = match step {
                    Step::Begin(session, select, rows) => session.select(select, *rows).await?,
                    Step::Go(scan) => scan,
                };
                Ok(scan.next().await?.map(|batch| (batch, Step::Go(scan))))
            };
            Ok(next.await.map_err(|e: SqliteError| e.of_collection(&collection))?)
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, batches))
}
