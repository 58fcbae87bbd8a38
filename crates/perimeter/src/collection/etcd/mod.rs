//! Keys of an etcd cluster that begin alike, as a table: `key`, `value`, `version`, `create_revision`,
//! `mod_revision`, `lease`.
//!
//! All tables of a statement are as of one revision, and reads are linearizable. A key or a value that
//! is no text is NULL, and counted. Only ranges are read; nothing is ever written or watched.

mod config;
mod keys;

#[cfg(all(test, feature = "real-servers"))]
mod real;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::error::Result;
use futures_util::{StreamExt as _, stream};
use kafscale_core::sql_schema::{SqlColumn, SqlType};
use kafscale_meta::{
    Credentials, Error, ErrorKind, EtcdOptions, EtcdReader, EtcdUrl, MetaUrl, RawKey, RawPage, Revision,
    Span, TlsOptions,
};
use kafscale_sql::topic::cell::Cell;
use serde_json::json;
use tokio::sync::Mutex;

pub use self::config::EtcdConfig;

use self::keys::{KEY, Keys};
use super::predicate::{Leaf, Pushed};
use super::reach::{Tls, is_local};
use super::remote::{Memory, RemoteSource, RemoteTable, Request, Rows as RowStream};
use super::rows::{Rows, Tally, schema_of};
use super::{Collection, CollectionError, Provenance, SourceTable};
use crate::caller::Caller;
use crate::secret::{Secret, SecretError, SecretSlot};

const PAGE_KEYS: usize = 1_000;
/// The place of the column `value`.
const VALUE: usize = 1;
const COLUMNS: [(&str, SqlType); 6] = [
    ("key", SqlType::Text),
    ("value", SqlType::Text),
    ("version", SqlType::Int8),
    ("create_revision", SqlType::Int8),
    ("mod_revision", SqlType::Int8),
    ("lease", SqlType::Int8),
];

#[derive(Debug, thiserror::Error)]
pub enum EtcdConfigError {
    #[error("endpoints: each is a host with its port, as etcd.example:2379")]
    Endpoints,
    #[error("user and password belong together")]
    Login,
    #[error("tls_cert_file and tls_key_file belong together")]
    Identity,
    #[error("tls = \"off\" and files for TLS contradict each other")]
    Contradiction,
}

/// Why there is no answer. For the operator.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the password cannot be read")]
    Secret(#[from] SecretError),
    #[error("etcd refused, or cannot be reached")]
    Etcd(#[from] Error),
    #[error("there are more than {0} keys (max_keys)")]
    TooMany(usize),
    #[error("etcd answered with keys that are none of those that it was asked for")]
    Form,
}

#[derive(Debug)]
struct Server {
    config: EtcdConfig,
    url: EtcdUrl,
    tls: TlsOptions,
    password: Option<SecretSlot>,
    /// One for all; made when it is first needed, and again when the password was refused.
    reader: Mutex<Option<(EtcdReader, Option<Secret>)>>,
}

/// See the file's comment.
#[derive(Debug, Clone)]
pub struct Etcd {
    name: String,
    server: Arc<Server>,
    /// Of the statement for which this is open.
    revision: Option<Revision>,
}

impl Etcd {
    /// `base` is the directory of the configuration. Nothing is connected to yet.
    pub fn new(name: &str, config: EtcdConfig, base: &Path) -> Result<Etcd, EtcdConfigError> {
        if config.user.is_some() != config.password.is_some() {
            return Err(EtcdConfigError::Login);
        }
        let path = |file: &Option<PathBuf>| file.as_ref().map(|file| base.join(file));
        let identity = match (path(&config.tls_cert_file), path(&config.tls_key_file)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(EtcdConfigError::Identity),
        };
        let tls = TlsOptions { ca_file: path(&config.tls_ca_file), identity };
        let host = |endpoint: &String| endpoint.rsplit_once(':').is_some_and(|(host, _)| is_local(host));
        let with_tls = match config.tls {
            Some(Tls::Off) if tls != TlsOptions::default() => return Err(EtcdConfigError::Contradiction),
            Some(Tls::Off) => false,
            Some(Tls::VerifyFull) => true,
            None => tls != TlsOptions::default() || !config.endpoints.iter().all(host),
        };
        let address = format!("{}://{}", if with_tls { "etcds" } else { "etcd" }, config.endpoints.join(","));
        let url = match address.parse() {
            Ok(MetaUrl::Etcd(url)) if url.prefix.is_empty() => url,
            _ => return Err(EtcdConfigError::Endpoints),
        };
        let password = config.password.clone().map(|source| SecretSlot::new(source, base));
        let server = Server { config, url, tls, password, reader: Mutex::default() };
        Ok(Etcd { name: name.to_owned(), server: Arc::new(server), revision: None })
    }

    /// The store's revision now, asked for with a key that may be read.
    async fn now(&self, prefix: &str) -> Result<Revision, Failed> {
        let Keys::Range(from, until) = Keys::of(prefix, &[]) else { return Err(Failed::Form) };
        let (from, until) = range(from, until);
        let span = Span { from, until, limit: 1, revision: None, with_values: false };
        Ok(self.server.read(&span).await?.revision)
    }
}

/// As etcd writes a range: the first key is one zero byte, and so is an end that is none.
fn range(from: Bytes, until: Option<Bytes>) -> (Bytes, Option<Bytes>) {
    let zero = || Bytes::from_static(b"\0");
    (if from.is_empty() { zero() } else { from }, Some(until.unwrap_or_else(zero)))
}

impl Server {
    async fn reader(&self) -> Result<(EtcdReader, Option<Secret>), Failed> {
        let mut known = self.reader.lock().await;
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let password = match &self.password {
            Some(slot) => Some(slot.get().await?),
            None => None,
        };
        let credentials = self.config.user.clone().zip(password.clone());
        let options = EtcdOptions {
            credentials: credentials
                .map(|(username, password)| Credentials { username, password: password.expose().to_owned() }),
            tls: self.tls.clone(),
            connect_timeout: self.config.connect(),
            request_timeout: self.config.answer(),
        };
        let made = (EtcdReader::new(&self.url, &options).await?, password);
        *known = Some(made.clone());
        Ok(made)
    }

    /// Asks; once more with the new password where the old one was refused.
    async fn read(&self, span: &Span) -> Result<RawPage, Failed> {
        let (reader, password) = self.reader().await?;
        let refused = match reader.read(span).await {
            Err(error) if error.kind() == ErrorKind::Denied => error,
            other => return Ok(other?),
        };
        let renewed = match self.password.as_ref().zip(password) {
            Some((slot, password)) => slot.after_refusal(&password).await?.is_some(),
            None => false,
        };
        // Whatever it was, the next statement logs in anew.
        *self.reader.lock().await = None;
        if !renewed {
            return Err(refused.into());
        }
        let (reader, _) = self.reader().await?;
        Ok(reader.read(span).await?)
    }
}

impl Failed {
    fn told(self, collection: &str) -> CollectionError {
        let name = collection.to_owned();
        match &self {
            Failed::Secret(_) => CollectionError::Refused { collection: name, source: self.into() },
            Failed::TooMany(_) | Failed::Form => {
                CollectionError::Unusable { collection: name, source: self.into() }
            }
            Failed::Etcd(error) => match error.kind() {
                ErrorKind::Denied | ErrorKind::Invalid => {
                    CollectionError::Refused { collection: name, source: self.into() }
                }
                ErrorKind::Compacted => CollectionError::Changed { collection: name, source: self.into() },
                ErrorKind::Unsupported | ErrorKind::Corrupt | ErrorKind::NewerVersion => {
                    CollectionError::Unusable { collection: name, source: self.into() }
                }
                ErrorKind::Retry
                | ErrorKind::Full
                | ErrorKind::Fenced
                | ErrorKind::InUse
                | ErrorKind::Internal => {
                    CollectionError::Unreachable { collection: name, source: self.into() }
                }
            },
        }
    }
}

#[async_trait]
impl Collection for Etcd {
    fn kind(&self) -> &'static str {
        "etcd"
    }

    async fn begin(&self, _: &Caller) -> Result<Option<Arc<dyn Collection>>, CollectionError> {
        let Some(table) = self.server.config.tables.values().next() else { return Ok(None) };
        let revision = self.now(&table.prefix).await.map_err(|failed| failed.told(&self.name))?;
        Ok(Some(Arc::new(Etcd { revision: Some(revision), ..self.clone() })))
    }

    async fn tables(&self) -> Result<Vec<String>, CollectionError> {
        Ok(self.server.config.tables.keys().cloned().collect())
    }

    async fn table(&self, name: &str, _: &Caller) -> Result<Option<SourceTable>, CollectionError> {
        let Some((name, declared)) = self.server.config.tables.get_key_value(name) else { return Ok(None) };
        let revision = match self.revision {
            Some(revision) => revision,
            None => self.now(&declared.prefix).await.map_err(|failed| failed.told(&self.name))?,
        };
        let columns: Vec<SqlColumn> =
            COLUMNS.map(|(name, sql_type)| SqlColumn { name: name.to_owned(), sql_type }).into();
        let tally = Arc::<Tally>::default();
        let table = EtcdTable {
            collection: self.name.clone(),
            server: Arc::clone(&self.server),
            prefix: declared.prefix.clone(),
            revision,
            schema: schema_of(&columns),
            columns,
            tally: Arc::clone(&tally),
        };
        let provenance = Provenance(Arc::new(move || {
            let mut told = tally.told();
            told["revision"] = json!(revision.0);
            told
        }));
        Ok(Some(SourceTable::new(name, Arc::new(RemoteTable::new(table)), provenance)))
    }

    async fn check(&self) -> Result<Vec<String>, CollectionError> {
        let tls = if self.server.url.tls { "TLS, verified" } else { "no TLS" };
        let user = self.server.config.user.as_deref().unwrap_or("nobody");
        let mut revision = Revision(0);
        for table in self.server.config.tables.values() {
            revision = self.now(&table.prefix).await.map_err(|failed| failed.told(&self.name))?;
        }
        let tables = self.server.config.tables.len();
        Ok(vec![format!(
            "etcd at revision {}, {tls}, as {user}; {tables} tables; only ranges are read",
            revision.0
        )])
    }
}

#[derive(Debug)]
struct EtcdTable {
    collection: String,
    server: Arc<Server>,
    prefix: String,
    revision: Revision,
    columns: Vec<SqlColumn>,
    schema: SchemaRef,
    tally: Arc<Tally>,
}

#[async_trait]
impl RemoteSource for EtcdTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Keys are narrowed, and the engine decides: a key that is no text is NULL.
    fn pushed(&self, leaf: &Leaf) -> Pushed {
        if leaf.column == KEY && keys::narrows(leaf) { Pushed::Partly } else { Pushed::No }
    }

    async fn read(self: Arc<Self>, request: Arc<Request>, memory: Memory) -> Result<RowStream> {
        let left = request.limit.unwrap_or(usize::MAX);
        let with_values = request.projection.contains(&VALUE);
        let span = |from, until| Span { from, until, limit: 0, revision: Some(self.revision), with_values };
        let spans: VecDeque<Span> = match Keys::of(&self.prefix, &request.predicates) {
            // etcd knows no empty key.
            Keys::Named(names) => {
                names.into_iter().filter(|name| !name.is_empty()).map(|name| span(name, None)).collect()
            }
            Keys::Range(from, Some(until)) if from >= until => VecDeque::new(),
            Keys::Range(from, until) => {
                let (from, until) = range(from, until);
                [span(from, until)].into()
            }
        };
        let sql: Vec<SqlColumn> = request.projection.iter().map(|at| self.columns[*at].clone()).collect();
        let scan = Scan {
            rows: Rows::new(&sql, Arc::clone(&self.tally)),
            projection: request.projection.clone(),
            table: self,
            spans,
            seen: 0,
            left,
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
    table: Arc<EtcdTable>,
    /// What is still to be read.
    spans: VecDeque<Span>,
    projection: Vec<usize>,
    rows: Rows,
    seen: usize,
    /// Rows until the limit.
    left: usize,
    memory: Memory,
}

impl Scan {
    /// Takes rows for a batch; true when there are no more.
    async fn fill(&mut self) -> Result<bool> {
        self.memory.release();
        while !self.rows.is_full() && self.left > 0 {
            let Some(mut span) = self.spans.pop_front() else { return Ok(true) };
            span.limit = PAGE_KEYS.min(self.left);
            let page = self.page(&span).await.map_err(|failed| failed.told(&self.table.collection))?;
            let bytes = page.keys.iter().map(|key| key.key.len() + key.value.len() + 64).sum();
            self.memory.charge(bytes)?;
            page.keys.iter().for_each(|key| self.put(key));
            self.left = self.left.saturating_sub(page.keys.len());
            if let Some(last) = page.keys.last().filter(|_| page.more) {
                span.from = Bytes::from([last.key.as_ref(), b"\0"].concat());
                self.spans.push_front(span);
            }
        }
        Ok(self.left == 0)
    }

    async fn page(&mut self, span: &Span) -> Result<RawPage, Failed> {
        let page = self.table.server.read(span).await?;
        // Keys that were not asked for would be read again and again.
        let is_asked = |key: &RawKey| match &span.until {
            None => key.key == span.from,
            Some(_) => key.key >= span.from,
        };
        let is_sorted = page.keys.windows(2).all(|pair| pair[0].key < pair[1].key);
        if !is_sorted || !page.keys.iter().all(is_asked) || (page.more && page.keys.is_empty()) {
            return Err(Failed::Form);
        }
        self.seen += page.keys.len();
        let most = self.table.server.config.keys_max();
        if self.seen > most { Err(Failed::TooMany(most)) } else { Ok(page) }
    }

    fn put(&mut self, key: &RawKey) {
        let text = |bytes: &'_ Bytes| std::str::from_utf8(bytes).map(str::to_owned).ok();
        for (at, column) in self.projection.iter().enumerate() {
            let cell = match column {
                0 | 1 => {
                    let found = text(if *column == KEY { &key.key } else { &key.value });
                    found.map_or(Cell::Misfit, |text| Cell::Text(text.into()))
                }
                2 => Cell::Int(key.version),
                3 => Cell::Int(key.create_revision),
                4 => Cell::Int(key.mod_revision),
                _ if key.lease == 0 => Cell::Null,
                _ => Cell::Int(key.lease),
            };
            self.rows.put(at, &cell);
        }
        self.rows.end_row();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(lines: &str) -> std::result::Result<Etcd, String> {
        let config: EtcdConfig = basic_toml::from_str(&format!("{lines}\n[tables.t]\nprefix = \"/t/\""))
            .map_err(|error| error.to_string())?;
        Etcd::new("settings", config, Path::new("/")).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_checked() {
        assert!(!opened("endpoints = [\"127.0.0.1:2379\"]").unwrap().server.url.tls);
        assert!(opened("endpoints = [\"127.0.0.1:2379\", \"etcd.example:2379\"]").unwrap().server.url.tls);
        assert!(!opened("endpoints = [\"etcd.example:2379\"]\ntls = \"off\"").unwrap().server.url.tls);
        for (lines, why) in [
            ("endpoints = []", "one member is needed"),
            ("endpoints = [\"etcd.example\"]", "each is a host with its port"),
            ("endpoints = [\"etcd.example:2379/prefix\"]", "each is a host with its port"),
            ("endpoints = [\"me:secret@etcd.example:2379\"]", "each is a host with its port"),
            ("endpoints = [\"a:1\"]\nuser = \"me\"", "belong together"),
            ("endpoints = [\"a:1\"]\nuser = \"me\"\npassword = \"hunter2\"", "{ env = \"NAME\" }"),
            ("endpoints = [\"a:1\"]\ntls_cert_file = \"c\"", "belong together"),
            ("endpoints = [\"a:1\"]\ntls = \"off\"\ntls_ca_file = \"c\"", "contradict"),
        ] {
            let error = opened(lines).map(|_| ()).unwrap_err();
            assert!(
                error.contains(why) && !error.contains("hunter2") && !error.contains("me:secret"),
                "{lines}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn a_cluster_that_is_not_there_is_unreachable() {
        let etcd = opened("endpoints = [\"127.0.0.1:1\"]\nconnect_timeout = \"1s\"\nanswer_timeout = \"2s\"")
            .unwrap();
        let error = etcd.check().await.unwrap_err();
        assert!(matches!(error, CollectionError::Unreachable { .. }), "{error:?}");
    }
}
