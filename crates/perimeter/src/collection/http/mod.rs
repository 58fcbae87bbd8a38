//! A JSON API as tables, of which the configuration says where the rows are. Only GET is sent.
//!
//! An equality of a column may become a parameter of the request, and an argument a part of its path;
//! the engine evaluates the condition again. Pages follow each other until the source says that there
//! are no more; what would be more than `max_pages` is an error, and never an answer that is cut. A
//! source of this kind has no moment: each page is as of when it is asked for.

mod config;
mod openapi;
mod pages;

#[cfg(all(test, feature = "real-servers"))]
mod real;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::error::Result;
use reqwest::Url;

pub use self::config::HttpConfig;

use self::config::{HttpTable, Pages};
use self::pages::Cursor;
use super::declared::{
    self, Answers as _, AskError, Call, Declaration, Declared, DeclaredError, Decoder, Given, Taken, stream,
};
use super::predicate::{Leaf, Pushed};
use super::remote::{Memory, RemoteSource, RemoteTable, Request, Rows as RowStream};
use super::rows::schema_of;
use super::web::{Failed, Site, SiteError};
use super::{Collection, CollectionError, SourceTable};
use crate::caller::Caller;

/// Names of parameters whose values are secrets.
const SECRETIVE: [&str; 7] =
    ["api_key", "apikey", "api-key", "access_token", "client_secret", "password", "secret"];

#[derive(Debug, thiserror::Error)]
pub enum HttpConfigError {
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error(transparent)]
    Declared(#[from] DeclaredError),
    #[error(
        "tables.{table}.path: a path begins with a slash, and has no `?`, `#`, `%`, `.` or `..` as a step"
    )]
    Path { table: String },
    #[error("tables.{table}.path: {{{name}}} is no argument: declare it, as in arguments = \"{name} text\"")]
    NoArgument { table: String, name: String },
    #[error("tables.{table}: the parameter {parameter} is there twice")]
    Parameter { table: String, parameter: String },
    #[error(
        "tables.{table}.parameters: {parameter} looks like a secret, which must not stand in the file itself; \
         use `bearer` or `headers`"
    )]
    LiteralSecret { table: String, parameter: String },
    #[error("openapi: {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("openapi: {}: {source}", path.display())]
    OpenApi { path: PathBuf, source: openapi::OpenApiError },
}

#[derive(Debug)]
pub struct Http {
    name: String,
    site: Arc<Site>,
    tables: BTreeMap<String, Arc<Table>>,
}

/// What is asked for a table.
#[derive(Debug)]
struct Table {
    declared: Arc<Declared>,
    path: Vec<Step>,
    parameters: Vec<(String, String)>,
    pages: Option<Pages>,
    max_pages: usize,
}

/// Of a path, between two slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Plain(String),
    /// The value of this column.
    Argument(usize),
}

impl Http {
    /// `base` is the directory of the configuration. Nothing is connected to yet.
    pub fn new(name: &str, config: &HttpConfig, base: &Path) -> Result<Http, HttpConfigError> {
        let mut tables = config.tables.clone();
        if let Some(file) = &config.openapi {
            let path = base.join(file);
            let text = kafscale_meta::files::read_small_text(&path, openapi::MAX_BYTES);
            let text = text.map_err(|source| HttpConfigError::Unreadable { path: path.clone(), source })?;
            openapi::complete(&mut tables, &text)
                .map_err(|source| HttpConfigError::OpenApi { path, source })?;
        }
        let table =
            |(name, table): (&String, &HttpTable)| Ok((name.clone(), Arc::new(Table::new(name, table)?)));
        Ok(Http {
            name: name.to_owned(),
            site: Arc::new(Site::new(&config.site(), base)?),
            tables: tables.iter().map(table).collect::<Result<_, HttpConfigError>>()?,
        })
    }

    /// Asks for the first page of a table, to see whether its settings are right.
    async fn try_table(&self, table: &Arc<Table>) -> Result<Vec<String>, Failed> {
        let memory = Memory::unbounded();
        let operator = Caller::operator();
        let call = Call::default();
        let Ok(url) = table.url(self.site.url(), &call) else { return Ok(Vec::new()) };
        let mut cursor = Cursor::new(Arc::clone(table), Arc::clone(&self.site), operator, vec![(url, call)]);
        let Some((answer, call)) = cursor.next(0, &memory).await? else { return Ok(Vec::new()) };
        declared::told(&table.declared, &answer, &call, &memory)
    }
}

#[async_trait]
impl Collection for Http {
    fn kind(&self) -> &'static str {
        "http"
    }

    async fn tables(&self) -> Result<Vec<String>, CollectionError> {
        Ok(self.tables.keys().cloned().collect())
    }

    async fn table(&self, name: &str, caller: &Caller) -> Result<Option<SourceTable>, CollectionError> {
        let Some((name, table)) = self.tables.get_key_value(name) else { return Ok(None) };
        let taken = Arc::<Taken>::default();
        let source = HttpTableSource {
            collection: self.name.clone(),
            site: Arc::clone(&self.site),
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
        let mut lines = vec![format!("{}; only GET is sent", self.site.security())];
        for (name, table) in &self.tables {
            if table.declared.has_arguments() {
                let arguments: Vec<&str> = table.declared.arguments().collect();
                lines.push(format!("{name}: not tried, it is asked for each {}", arguments.join(", ")));
                continue;
            }
            let at = |source| Failed::At { table: name.clone(), source: Box::new(source) };
            lines.extend(self.try_table(table).await.map_err(|failed| at(failed).told(&self.name))?);
        }
        Ok(lines)
    }
}

impl Table {
    fn new(name: &str, config: &HttpTable) -> Result<Table, HttpConfigError> {
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
        let path = steps(name, &config.path, &declared)?;
        let is_secret = |parameter: &&String| SECRETIVE.contains(&parameter.to_ascii_lowercase().as_str());
        if let Some(parameter) = config.parameters.keys().find(is_secret) {
            let (table, parameter) = (name.to_owned(), parameter.clone());
            return Err(HttpConfigError::LiteralSecret { table, parameter });
        }
        let of_pages = match &config.pages {
            Some(
                Pages::Cursor { parameter, .. }
                | Pages::Offset { parameter }
                | Pages::Number { parameter, .. },
            ) => Some(parameter.as_str()),
            Some(Pages::Link { .. }) | None => None,
        };
        let fixed = config.parameters.keys().map(String::as_str);
        let mut all: Vec<&str> = declared.parameters().chain(fixed).chain(of_pages).collect();
        all.sort_unstable();
        if let Some(twice) = all.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(HttpConfigError::Parameter {
                table: name.to_owned(),
                parameter: twice[0].to_owned(),
            });
        }
        Ok(Table {
            path,
            parameters: config.parameters.clone().into_iter().collect(),
            pages: config.pages.clone(),
            max_pages: config.max_pages,
            declared: Arc::new(declared),
        })
    }

    /// The address of a question, below that of the collection.
    fn url(&self, base: &Url, call: &Call) -> Result<Url, AskError> {
        let mut url = base.clone();
        let mut in_path = Vec::new();
        if let Ok(mut steps) = url.path_segments_mut() {
            steps.pop_if_empty();
            for step in &self.path {
                match step {
                    Step::Plain(text) => steps.push(text),
                    Step::Argument(column) => {
                        in_path.push(*column);
                        steps.push(&self.in_path(*column, call.0.get(column))?)
                    }
                };
            }
        }
        let of_call = call.0.iter().filter(|(column, _)| !in_path.contains(column));
        let mut pairs: Vec<(String, String)> = self.parameters.clone();
        pairs.extend(
            of_call.map(|(column, given)| (self.declared.parameter(*column).to_owned(), given.text())),
        );
        if !pairs.is_empty() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        Ok(url)
    }

    /// Whatever a source makes of a path, a value never leads to another one.
    fn in_path(&self, column: usize, given: Option<&Given>) -> Result<String, AskError> {
        let text = given.map(Given::text).unwrap_or_default();
        let leads = |c: char| c.is_control() || matches!(c, '/' | '\\' | '%' | '?' | '#' | ';');
        let is_bad = text.is_empty() || text == "." || text == ".." || text.contains(leads);
        match is_bad {
            true => Err(AskError::Path { column: self.declared.columns[column].name.clone() }),
            false => Ok(text),
        }
    }

    /// Something that may not be there is asked for: then there are no rows.
    fn is_of_one_thing(&self) -> bool {
        self.path.iter().any(|step| matches!(step, Step::Argument(_)))
    }
}

fn steps(table: &str, path: &str, declared: &Declared) -> Result<Vec<Step>, HttpConfigError> {
    let bad = || HttpConfigError::Path { table: table.to_owned() };
    let below = path.strip_prefix('/').ok_or_else(bad)?;
    let first = declared.columns.len() - declared.arguments().count();
    let step = |text: &str| {
        if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let place = declared.columns[first..].iter().position(|column| column.name == name);
            let no_argument =
                || HttpConfigError::NoArgument { table: table.to_owned(), name: name.to_owned() };
            return place.map(|place| Step::Argument(first + place)).ok_or_else(no_argument);
        }
        let is_bad = text == "." || text == ".." || text.contains(['?', '#', '%', '{', '}', '\\']);
        if is_bad { Err(bad()) } else { Ok(Step::Plain(text.to_owned())) }
    };
    match below {
        "" => Ok(Vec::new()),
        below => below.split('/').map(step).collect(),
    }
}

#[derive(Debug)]
struct HttpTableSource {
    collection: String,
    site: Arc<Site>,
    table: Arc<Table>,
    schema: SchemaRef,
    caller: Caller,
    taken: Arc<Taken>,
}

#[async_trait]
impl RemoteSource for HttpTableSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn pushed(&self, leaf: &Leaf) -> Pushed {
        self.table.declared.pushed(leaf)
    }

    async fn read(self: Arc<Self>, request: Arc<Request>, memory: Memory) -> Result<RowStream> {
        let question =
            |source: AskError| CollectionError::Question { collection: self.collection.clone(), source };
        let calls = self.table.declared.calls(&request.predicates).map_err(question)?;
        let with_url = |call: Call| Ok((self.table.url(self.site.url(), &call).map_err(question)?, call));
        let calls = calls.into_iter().map(with_url).collect::<Result<Vec<_>, CollectionError>>()?;
        let (table, site) = (Arc::clone(&self.table), Arc::clone(&self.site));
        let cursor = Cursor::new(table, site, self.caller.clone(), calls).counted(Arc::clone(&self.taken));
        let decoder = Decoder::new(&self.table.declared, &request.projection, &self.taken.tally);
        Ok(stream(self.collection.clone(), decoder, &request, memory, cursor))
    }
}
