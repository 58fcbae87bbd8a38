//! Tools of an upstream MCP server that only read, as tables.
//!
//! A tool is a table when the configuration declares it. Its arguments are columns that a statement
//! gives, and its structured content has the rows, as in an answer of `http`. Everything that the server
//! says is data: its descriptions and its messages reach nobody.
//!
//! Invariant: a tool that is not declared is never called, nor one that has changed since somebody
//! confirmed it (`tools`).

mod config;
mod server;
mod tools;

#[cfg(all(test, feature = "real-servers"))]
mod real;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::error::Result;
use serde_json::{Map, Value};

pub use self::config::McpConfig;
pub use self::tools::ToolError;

use self::config::ToolTable;
use self::server::Server;
use super::declared::{self, Answers, Call, Declaration, Declared, DeclaredError, Decoder, Taken, stream};
use super::predicate::{Leaf, Pushed};
use super::remote::{Memory, RemoteSource, RemoteTable, Request, Rows as RowStream};
use super::rows::schema_of;
use super::web::{Failed, Site, SiteError};
use super::{Collection, CollectionError, SourceTable};
use crate::caller::Caller;

#[derive(Debug, thiserror::Error)]
pub enum McpConfigError {
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error(transparent)]
    Declared(#[from] DeclaredError),
    #[error("tables.{table}: the argument {argument} is in `fixed` too")]
    Fixed { table: String, argument: String },
    #[error("tables.{table}.input_schema: a hash is needed, as `kafscale perimeter check` says it: sha256:…")]
    Hash { table: String },
}

#[derive(Debug)]
pub struct Mcp {
    name: String,
    server: Arc<Server>,
    tables: BTreeMap<String, Arc<Table>>,
}

#[derive(Debug)]
struct Table {
    declared: Arc<Declared>,
    tool: String,
    confirmed: Option<String>,
    fixed: Map<String, Value>,
}

impl Mcp {
    /// `base` is the directory of the configuration. Nothing is connected to yet.
    pub fn new(name: &str, config: &McpConfig, base: &Path) -> Result<Mcp, McpConfigError> {
        let site = Site::new(&config.site(), base)?;
        let table =
            |(name, table): (&String, &ToolTable)| Ok((name.clone(), Arc::new(Table::new(name, table)?)));
        Ok(Mcp {
            name: name.to_owned(),
            server: Arc::new(Server::new(site, config.refresh())),
            tables: config.tables.iter().map(table).collect::<Result<_, McpConfigError>>()?,
        })
    }

    async fn checked(&self) -> Result<Vec<String>, Failed> {
        let operator = Caller::operator();
        let tools = self.server.list(&operator).await?;
        let (security, version) = (self.server.site.security(), self.server.version(&operator).await?);
        let mut lines = vec![format!(
            "MCP {version}, {security}, {} tools; only those that are declared are called",
            tools.len()
        )];
        for (name, table) in &self.tables {
            let at = |source| Failed::At { table: name.clone(), source: Box::new(source) };
            tools.confirm(&table.tool, table.confirmed.as_deref()).map_err(|error| at(error.into()))?;
            if table.declared.has_arguments() {
                let arguments: Vec<&str> = table.declared.arguments().collect();
                lines.push(format!("{name}: confirmed, not called: it takes {}", arguments.join(", ")));
                continue;
            }
            let call = Call::default();
            let memory = Memory::unbounded();
            let answer = self.server.call(&table.tool, table.arguments(&call), &operator, &memory).await;
            let told = answer.and_then(|answer| declared::told(&table.declared, &answer, &call, &memory));
            lines.extend(told.map_err(at)?);
        }
        Ok(lines)
    }
}

#[async_trait]
impl Collection for Mcp {
    fn kind(&self) -> &'static str {
        "mcp"
    }

    async fn tables(&self) -> Result<Vec<String>, CollectionError> {
        Ok(self.tables.keys().cloned().collect())
    }

    async fn table(&self, name: &str, caller: &Caller) -> Result<Option<SourceTable>, CollectionError> {
        let Some((name, table)) = self.tables.get_key_value(name) else { return Ok(None) };
        let taken = Arc::<Taken>::default();
        let source = McpTable {
            collection: self.name.clone(),
            server: Arc::clone(&self.server),
            table: Arc::clone(table),
            schema: schema_of(&table.declared.columns),
            caller: caller.clone(),
            taken: Arc::clone(&taken),
        };
        let provenance = taken.provenance();
        let found = SourceTable::new(name, Arc::new(RemoteTable::new(source)), provenance);
        Ok(Some(table.declared.with_what_columns_hold(found)))
    }

    async fn check(&self) -> Result<Vec<String>, CollectionError> {
        self.checked().await.map_err(|failed| failed.told(&self.name))
    }
}

impl Table {
    fn new(name: &str, config: &ToolTable) -> Result<Table, McpConfigError> {
        let declared = Declared::new(
            name,
            Declaration {
                rows: &config.rows,
                columns: &config.columns,
                pointers: &config.pointers,
                filters: &config.filters,
                arguments: &config.arguments,
            },
        )?;
        if let Some(argument) = declared.parameters().find(|name| config.fixed.contains_key(*name)) {
            return Err(McpConfigError::Fixed { table: name.to_owned(), argument: argument.to_owned() });
        }
        if config.input_schema.as_ref().is_some_and(|hash| !hash.starts_with("sha256:")) {
            return Err(McpConfigError::Hash { table: name.to_owned() });
        }
        Ok(Table {
            tool: config.tool.clone(),
            confirmed: config.input_schema.clone(),
            fixed: config.fixed.clone(),
            declared: Arc::new(declared),
        })
    }

    fn arguments(&self, call: &Call) -> Value {
        let mut arguments = self.fixed.clone();
        let given =
            call.0.iter().map(|(column, given)| (self.declared.parameter(*column).to_owned(), given.json()));
        arguments.extend(given);
        Value::Object(arguments)
    }
}

#[derive(Debug)]
struct McpTable {
    collection: String,
    server: Arc<Server>,
    table: Arc<Table>,
    schema: SchemaRef,
    caller: Caller,
    taken: Arc<Taken>,
}

#[async_trait]
impl RemoteSource for McpTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn pushed(&self, leaf: &Leaf) -> Pushed {
        self.table.declared.pushed(leaf)
    }

    async fn read(self: Arc<Self>, request: Arc<Request>, memory: Memory) -> Result<RowStream> {
        let question = |source| CollectionError::Question { collection: self.collection.clone(), source };
        let calls = self.table.declared.calls(&request.predicates).map_err(question)?;
        let decoder = Decoder::new(&self.table.declared, &request.projection, &self.taken.tally);
        let calls = Calls { source: Arc::clone(&self), calls: calls.into() };
        Ok(stream(self.collection.clone(), decoder, &request, memory, calls))
    }
}

struct Calls {
    source: Arc<McpTable>,
    calls: VecDeque<Call>,
}

#[async_trait]
impl Answers for Calls {
    async fn next(&mut self, _: usize, memory: &Memory) -> Result<Option<(Vec<u8>, Call)>, Failed> {
        let Some(call) = self.calls.pop_front() else { return Ok(None) };
        let McpTable { server, table, caller, taken, .. } = self.source.as_ref();
        server.tools(caller).await?.confirm(&table.tool, table.confirmed.as_deref())?;
        taken.asked();
        let answer = server.call(&table.tool, table.arguments(&call), caller, memory).await?;
        Ok(Some((answer, call)))
    }
}
