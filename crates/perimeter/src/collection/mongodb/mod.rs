//! Collections of a MongoDB database as tables: documents as rows, fields as columns.
//!
//! Columns are declared, or inferred from the first documents, which the provenance says. Nested
//! documents and arrays are JSON, or columns by their path. Documents are those that a majority of
//! the members have; there is no snapshot, each is read when its turn comes.

mod check;
mod columns;
mod config;
mod fields;
mod filter;
mod infer;
mod server;
mod values;

#[cfg(all(test, feature = "real-servers"))]
mod real;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use chrono::Utc;
use datafusion::error::Result;
use futures_util::{StreamExt as _, stream};
use kafscale_core::sql_schema::SqlColumn;
use mongodb::bson::RawBsonRef;
use mongodb::raw_batch_cursor::RawBatch;
use parking_lot::Mutex;
use serde_json::json;

pub use self::config::MongoConfig;
pub use self::server::MongoConfigError;

use self::columns::Columns;
use self::fields::{FieldPath, Fields};
use self::server::{Answers, Failed, Question, Server};
use self::values::cell;
use super::predicate::{Leaf, Pushed};
use super::reach::Known;
use super::remote::{Memory, RemoteSource, RemoteTable, Request, Rows as RowStream};
use super::rows::{Rows, Tally, schema_of};
use super::told::named;
use super::{Collection, CollectionError, Provenance, SourceTable};
use crate::caller::Caller;
use crate::rules::Holds;

/// See the file's comment.
#[derive(Debug)]
pub struct Mongo {
    name: String,
    server: Arc<Server>,
    names: Known<Arc<BTreeSet<String>>>,
    /// Columns that were inferred, by table.
    inferred: Mutex<BTreeMap<String, Arc<Known<Arc<Columns>>>>>,
}

impl Mongo {
    /// `base` is the directory of the configuration. Nothing is connected to yet.
    pub fn new(name: &str, config: MongoConfig, base: &Path) -> Result<Mongo, MongoConfigError> {
        let server = Arc::new(Server::new(config, base)?);
        let names = Known::new(server.limits.refresh);
        Ok(Mongo { name: name.to_owned(), server, names, inferred: Mutex::default() })
    }

    fn told(&self, failed: Failed) -> CollectionError {
        failed.told(&self.name, self.server.config.statement())
    }

    /// The tables, of which the database is asked where none is declared.
    async fn names(&self) -> Result<Arc<BTreeSet<String>>, CollectionError> {
        let declared = &self.server.config.tables;
        if !declared.is_empty() {
            return Ok(Arc::new(declared.keys().cloned().collect()));
        }
        let comment = named(&Caller::operator());
        let find =
            async { Ok::<_, Failed>(Arc::new(self.server.names(&comment).await?.into_iter().collect())) };
        let names: Arc<BTreeSet<String>> = self.names.get(find).await.map_err(|failed| self.told(failed))?;
        self.inferred.lock().retain(|table, _| names.contains(table));
        Ok(names)
    }

    async fn columns(&self, table: &str, collection: &str) -> Result<Arc<Columns>, CollectionError> {
        if let Some(columns) = self.server.config.tables.get(table).and_then(Columns::declared) {
            return Ok(Arc::new(columns));
        }
        let known = Arc::clone(
            self.inferred
                .lock()
                .entry(table.to_owned())
                .or_insert_with(|| Arc::new(Known::new(self.server.limits.refresh))),
        );
        let comment = named(&Caller::operator());
        let find =
            async { Ok::<_, Failed>(Arc::new(Columns::inferred(&self.server, collection, &comment).await?)) };
        known.get(find).await.map_err(|failed| self.told(failed))
    }
}

#[async_trait]
impl Collection for Mongo {
    fn kind(&self) -> &'static str {
        "mongodb"
    }

    async fn tables(&self) -> Result<Vec<String>, CollectionError> {
        Ok(self.names().await?.iter().cloned().collect())
    }

    async fn table(&self, name: &str, caller: &Caller) -> Result<Option<SourceTable>, CollectionError> {
        let names = self.names().await?;
        let Some(name) = names.get(name) else { return Ok(None) };
        let declared = self.server.config.tables.get(name);
        let collection = declared.and_then(|table| table.collection.as_deref()).unwrap_or(name).to_owned();
        let columns = self.columns(name, &collection).await?;
        let tally = Arc::<Tally>::default();
        let inferred_from = columns.inferred_from;
        let holding = columns.holding();
        let table = MongoTable {
            name: self.name.clone(),
            server: Arc::clone(&self.server),
            collection,
            schema: schema_of(&columns.sql),
            columns,
            comment: named(caller),
            tally: Arc::clone(&tally),
        };
        let taken = Utc::now().to_rfc3339();
        let provenance = Provenance(Arc::new(move || {
            let mut told = tally.told();
            if let Some(documents) = inferred_from {
                told["columns"] = json!(format!("inferred from the first {documents} documents"));
            }
            told["from"] = json!(taken);
            told["to"] = json!(Utc::now().to_rfc3339());
            told
        }));
        let table = SourceTable::new(name, Arc::new(RemoteTable::new(table)), provenance);
        let with = |table: SourceTable, (column, parts): (String, Vec<String>)| {
            table.holding(&column, Holds::Columns(parts))
        };
        Ok(Some(holding.into_iter().fold(table, with)))
    }

    async fn check(&self) -> Result<Vec<String>, CollectionError> {
        check::check(&self.server, &named(&Caller::operator())).await.map_err(|failed| self.told(failed))
    }
}

#[derive(Debug)]
struct MongoTable {
    /// Of the perimeter's collection.
    name: String,
    server: Arc<Server>,
    collection: String,
    columns: Arc<Columns>,
    schema: SchemaRef,
    comment: String,
    tally: Arc<Tally>,
}

#[async_trait]
impl RemoteSource for MongoTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The engine decides: a value need not be of the column's type there.
    fn pushed(&self, leaf: &Leaf) -> Pushed {
        let (path, sql) = (&self.columns.paths[leaf.column], &self.columns.sql[leaf.column]);
        match filter::of_leaf(leaf, path, sql.sql_type) {
            Some(_) => Pushed::Partly,
            None => Pushed::No,
        }
    }

    async fn read(self: Arc<Self>, request: Arc<Request>, memory: Memory) -> Result<RowStream> {
        let column = |at: usize| (&self.columns.paths[at], self.columns.sql[at].sql_type);
        let paths: Vec<&FieldPath> = request.projection.iter().map(|at| &self.columns.paths[*at]).collect();
        let fields = Fields::new(&paths);
        let question = Question {
            // Those that have no form here were never given.
            filter: filter::all(&request.predicates, &column).unwrap_or_default(),
            projection: fields.projection(),
            limit: request.limit,
            comment: self.comment.clone(),
        };
        let left = request.limit.unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(stream::empty().boxed());
        }
        let answers = self.server.find(&self.collection, question).await;
        let answers = answers.map_err(|failed| self.told(failed))?;
        let sql: Vec<SqlColumn> = request.projection.iter().map(|at| self.columns.sql[*at].clone()).collect();
        let scan = Scan {
            rows: Rows::new(&sql, Arc::clone(&self.tally)),
            table: self,
            answers,
            fields,
            sql,
            left,
            memory,
            ready: VecDeque::new(),
        };
        let batches =
            stream::try_unfold(scan, async |mut scan| Ok(scan.next().await?.map(|batch| (batch, scan))));
        Ok(batches.boxed())
    }
}

impl MongoTable {
    fn told(&self, failed: Failed) -> CollectionError {
        failed.told(&self.name, self.server.config.statement())
    }
}

struct Scan {
    table: Arc<MongoTable>,
    answers: Answers,
    fields: Fields,
    sql: Vec<SqlColumn>,
    rows: Rows,
    /// Of the last answer.
    ready: VecDeque<RecordBatch>,
    /// Rows until the limit.
    left: usize,
    memory: Memory,
}

impl Scan {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.ready.is_empty() && self.left > 0 {
            self.memory.release();
            let answer = self.answers.next().await.map_err(|failed| self.table.told(failed))?;
            let Some(answer) = answer else { return Ok(None) };
            self.memory.charge(answer.as_raw_document().as_bytes().len())?;
            self.take(&answer)?;
        }
        Ok(self.ready.pop_front())
    }

    /// Makes rows of the documents of an answer.
    fn take(&mut self, answer: &RawBatch) -> Result<()> {
        let no_answer = |table: &MongoTable| table.told(Failed::Form);
        for document in answer.doc_slices().map_err(|_| no_answer(&self.table))? {
            let Ok(RawBsonRef::Document(document)) = document else {
                return Err(no_answer(&self.table).into());
            };
            for (at, found) in self.fields.read(document).into_iter().enumerate() {
                self.rows.put(at, &cell(found, self.sql[at].sql_type));
            }
            self.rows.end_row();
            self.left -= 1;
            if self.left == 0 {
                break;
            }
            if self.rows.is_full() {
                self.finish()?;
            }
        }
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(batch) = self.rows.take()? {
            self.memory.charge(batch.get_array_memory_size())?;
            self.ready.push_back(batch);
        }
        Ok(())
    }
}
