//! Keys of a Redis server that begin alike, as a table: `key`, `type`, `value`, `ttl` in seconds,
//! and fields of hashes that are declared.
//!
//! Keys are found by SCAN, or looked up where a statement names them; KEYS is never sent. Redis has
//! no snapshot: a key is read as it is when its turn comes, and one that is gone by then is left
//! out.

mod config;
mod keys;
mod read;
mod server;

#[cfg(all(test, feature = "real-servers"))]
mod real;

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use chrono::Utc;
use datafusion::error::Result;
use futures_util::{StreamExt as _, stream};
use kafscale_core::sql_schema::{SqlColumn, SqlType};
use redis::Value;
use serde_json::json;

pub use self::config::RedisConfig;

use self::config::COLUMNS;
use self::keys::{KEY, Keys};
use self::read::{Cursor, Wanted};
use self::server::{Failed, Read, Server};
use super::predicate::{Leaf, Pushed};
use super::reach::TlsError;
use super::remote::{Memory, RemoteSource, RemoteTable, Request, Rows as RowStream};
use super::rows::{Rows, Tally, schema_of};
use super::{Collection, CollectionError, Provenance, SourceTable};
use crate::caller::Caller;
use crate::rules::Holds;

/// The column with the whole of what a key has.
const VALUE: &str = COLUMNS[2];

#[derive(Debug)]
pub struct Redis {
    name: String,
    server: Arc<Server>,
}

impl Redis {
    /// `base` is the directory of the configuration. Nothing is connected to yet.
    pub fn new(name: &str, config: RedisConfig, base: &Path) -> Result<Redis, TlsError> {
        Ok(Redis { name: name.to_owned(), server: Arc::new(Server::new(config, base)?) })
    }

    fn told(&self, failed: Failed) -> CollectionError {
        failed.told(&self.name)
    }
}

#[async_trait]
impl Collection for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    async fn tables(&self) -> Result<Vec<String>, CollectionError> {
        Ok(self.server.config.tables.keys().cloned().collect())
    }

    async fn table(&self, name: &str, _: &Caller) -> Result<Option<SourceTable>, CollectionError> {
        let Some((name, declared)) = self.server.config.tables.get_key_value(name) else { return Ok(None) };
        let types = [SqlType::Text, SqlType::Text, SqlType::Text, SqlType::Int8];
        let wanted = [Wanted::Key, Wanted::Type, Wanted::Value, Wanted::Ttl];
        let named = COLUMNS
            .iter()
            .zip(types)
            .map(|(name, sql_type)| SqlColumn { name: (*name).to_owned(), sql_type });
        let fields = declared.fields.0.iter().map(|field| (field.clone(), Wanted::Field(field.name.clone())));
        let columns: Vec<(SqlColumn, Wanted)> = named.zip(wanted).chain(fields).collect();
        // What a hash has in it is its value, too.
        let fields = declared.fields.0.iter().map(|field| field.name.clone()).collect();
        let tally = Arc::<Tally>::default();
        let table = RedisTable {
            collection: self.name.clone(),
            server: Arc::clone(&self.server),
            prefix: declared.pattern.0.clone(),
            schema: schema_of(columns.iter().map(|(column, _)| column)),
            columns,
            tally: Arc::clone(&tally),
        };
        let taken = Utc::now().to_rfc3339();
        let provenance = Provenance(Arc::new(move || {
            let mut told = tally.told();
            told["from"] = json!(taken);
            told["to"] = json!(Utc::now().to_rfc3339());
            told
        }));
        let table = SourceTable::new(name, Arc::new(RemoteTable::new(table)), provenance);
        Ok(Some(table.holding(VALUE, Holds::Columns(fields))))
    }

    async fn check(&self) -> Result<Vec<String>, CollectionError> {
        let commands = vec![Read::Info.cmd(), Read::WhoAmI.cmd()];
        let answers = self.server.ask(commands).await.map_err(|failed| self.told(failed))?;
        let text = |value: &Value| match value {
            Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Value::VerbatimString { text, .. } | Value::SimpleString(text) => text.clone(),
            _ => String::new(),
        };
        let info = text(&answers[0]);
        let version =
            info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("of some version");
        let user = match text(&answers[1]) {
            none if none.is_empty() => "default".to_owned(),
            user => user,
        };
        let tls = if self.server.is_encrypted() { "TLS, verified" } else { "no TLS" };
        let mut lines =
            vec![format!("Redis {}, {tls}, as {user}; only commands that read are sent", version.trim())];
        let mut dry_run = Read::DryRun.cmd();
        dry_run.arg(&user).arg("SET").arg("kafscale").arg("1");
        let could = self.server.ask(vec![dry_run]).await.map_err(|failed| self.told(failed))?;
        if matches!(could.first(), Some(Value::Okay)) {
            lines.push(format!("warning: {user} could write; use an account with +@read -@write"));
        }
        Ok(lines)
    }
}

#[derive(Debug)]
struct RedisTable {
    collection: String,
    server: Arc<Server>,
    prefix: String,
    columns: Vec<(SqlColumn, Wanted)>,
    schema: SchemaRef,
    tally: Arc<Tally>,
}

#[async_trait]
impl RemoteSource for RedisTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Keys are narrowed, and the engine decides: a key need not be text.
    fn pushed(&self, leaf: &Leaf) -> Pushed {
        if leaf.column == KEY && keys::narrows(leaf) { Pushed::Partly } else { Pushed::No }
    }

    async fn read(self: Arc<Self>, request: Arc<Request>, memory: Memory) -> Result<RowStream> {
        let (sql, wanted): (Vec<SqlColumn>, Vec<Wanted>) =
            request.projection.iter().map(|at| self.columns[*at].clone()).unzip();
        let keys = Keys::of(&self.prefix, &request.predicates);
        let scan = Scan {
            cursor: Cursor::new(Arc::clone(&self.server), keys),
            rows: Rows::new(&sql, Arc::clone(&self.tally)),
            left: request.limit.unwrap_or(usize::MAX),
            table: self,
            wanted,
            memory,
        };
        let batches = stream::try_unfold(Some(scan), async |scan| {
            let Some(mut scan) = scan else { return Ok(None) };
            let is_last = scan.fill().await?;
            Ok(scan.rows.take()?.map(|batch| (batch, (!is_last).then_some(scan))))
        });
        Ok(batches.boxed())
    }
}

struct Scan {
    table: Arc<RedisTable>,
    cursor: Cursor,
    wanted: Vec<Wanted>,
    rows: Rows,
    /// Rows until the limit.
    left: usize,
    memory: Memory,
}

impl Scan {
    /// Takes rows for a batch; true when there are no more.
    async fn fill(&mut self) -> Result<bool> {
        self.memory.release();
        while !self.rows.is_full() && self.left > 0 {
            let round = self.cursor.round(&self.wanted, self.left, &mut self.rows).await;
            let Some(kept) = round.map_err(|failed| failed.told(&self.table.collection))? else {
                return Ok(true);
            };
            self.left = self.left.saturating_sub(kept.rows);
            self.memory.charge(kept.bytes)?;
        }
        Ok(self.left == 0)
    }
}
