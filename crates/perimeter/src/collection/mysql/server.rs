//! A server, the connections to it, and transactions that only read.
//!
//! Invariants: each scan has a connection of its own, since the protocol knows one query at a time,
//! with a consistent snapshot of its own; rows are taken from the network only while somebody waits
//! for them; what nobody waits for any more is killed on the server; a connection goes back to the
//! pool only reset, with nothing of a caller on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{BinaryProtocol, Conn, Error, OptsBuilder, Params, QueryResult, Row, SslOpts, Value};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use super::config::MysqlConfig;
use super::query::quoted;
use crate::collection::CollectionError;
use crate::collection::reach::{Limits, Place, Pool, Security, TlsError};
use crate::collection::told::NoRole;
use crate::secret::{Secret, SecretError, SecretSlot};

/// For ending a statement on the server.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// No row is larger.
const ROW_BYTES_MAX: usize = 64 << 20;
/// The server answers first, where it can.
const GRACE: Duration = Duration::from_secs(2);

/// Why a statement ended without its rows.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("all connections are in use")]
    Full,
    #[error("there was no answer within {0:?}")]
    Late(Duration),
    #[error("the password cannot be read")]
    Secret(#[from] SecretError),
    #[error("the server refused a statement")]
    Driver(#[from] Error),
    #[error("there are more than {most} {what}")]
    TooMany { what: &'static str, most: usize },
    #[error("an answer does not have the form that it should have")]
    Form,
    #[error(transparent)]
    NoRole(#[from] NoRole),
}

/// What a transaction is begun with.
#[derive(Debug, Clone, Default)]
pub struct Beginning {
    pub role: Option<String>,
    /// Variables of the session, by names of the configuration.
    pub variables: Vec<(String, String)>,
    /// At the head of each statement.
    pub comment: String,
}

/// A database, as the configuration describes it.
#[derive(Debug)]
pub struct Server {
    pub config: MysqlConfig,
    pub limits: Limits,
    is_encrypted: bool,
    ca_file: Option<PathBuf>,
    password: Option<SecretSlot>,
    pool: Pool<Conn>,
}

impl Server {
    /// `base` is the directory of the configuration.
    pub fn new(config: MysqlConfig, base: &Path) -> Result<Server, TlsError> {
        let limits = config.limits();
        let security = Security::of(&config.host, config.tls, config.tls_ca_file.as_deref(), base)?;
        Ok(Server {
            limits,
            is_encrypted: matches!(security, Security::Tls(_)),
            ca_file: config.tls_ca_file.as_ref().map(|path| base.join(path)),
            password: config.password.clone().map(|source| SecretSlot::new(source, base)),
            pool: Pool::new(limits.connections),
            config,
        })
    }

    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// A transaction on a connection that waited, or on a new one.
    pub async fn begin(self: &Arc<Self>, beginning: &Beginning) -> Result<Link, Failed> {
        let place = self.pool.place(self.limits.answer).await.ok_or(Failed::Full)?;
        let Place { permit, idle } = place;
        let (conn, was_idle) = match idle {
            Some(conn) => (conn, true),
            None => (self.connect().await?, false),
        };
        let mut link = Link::new(Arc::clone(self), conn, permit, beginning.comment.clone());
        match link.begin(beginning).await {
            // It was closed while it waited.
            Err(Failed::Driver(error)) if was_idle && error.is_fatal() => {
                let permit = link.give_up();
                let conn = self.connect().await?;
                let mut link = Link::new(Arc::clone(self), conn, permit, beginning.comment.clone());
                link.begin(beginning).await.map(|()| link)
            }
            other => other.map(|()| link),
        }
    }

    async fn connect(&self) -> Result<Conn, Failed> {
        let limit = self.limits.connect;
        tokio::time::timeout(limit, self.connect_in_time()).await.map_err(|_| Failed::Late(limit))?
    }

    async fn connect_in_time(&self) -> Result<Conn, Failed> {
        let Some(slot) = &self.password else { return self.login(None).await };
        let password = slot.get().await?;
        match self.login(Some(&password)).await {
            Err(Failed::Driver(Error::Server(error))) if error.code == ACCESS_DENIED => {
                match slot.after_refusal(&password).await? {
                    Some(newer) => self.login(Some(&newer)).await,
                    None => Err(Failed::Driver(Error::Server(error))),
                }
            }
            other => other,
        }
    }

    async fn login(&self, password: Option<&Secret>) -> Result<Conn, Failed> {
        let tls = self.is_encrypted.then(|| match &self.ca_file {
            Some(path) => SslOpts::default()
                .with_root_certs(vec![path.clone().into()])
                .with_disable_built_in_roots(true),
            None => SslOpts::default(),
        });
        // Without a database, which a role may be needed for: statements name it.
        let options = OptsBuilder::default()
            .ip_or_hostname(&self.config.host)
            .tcp_port(self.config.port)
            .user(Some(&self.config.user))
            .pass(password.map(Secret::expose))
            .prefer_socket(false)
            .stmt_cache_size(0)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            .max_allowed_packet(Some(ROW_BYTES_MAX))
            .ssl_opts(tls);
        Ok(Conn::new(options).await?)
    }

    /// Ends what the server does on another connection.
    async fn kill(&self, id: u32) {
        let kill = async {
            self.connect_in_time().await?.query_drop(format!("KILL QUERY {id}")).await.map_err(Failed::from)
        };
        match tokio::time::timeout(KILL_TIMEOUT, kill).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => tracing::warn!(
                host = %self.config.host,
                "a statement could not be ended on the server; its own timeout will"
            ),
        }
    }

    async fn put_back(self: Arc<Self>, mut conn: Conn, permit: OwnedSemaphorePermit) {
        let reset =
            async { conn.query_drop("ROLLBACK").await.is_ok() && conn.reset().await.unwrap_or(false) };
        if tokio::time::timeout(KILL_TIMEOUT, reset).await.unwrap_or(false) {
            self.pool.put_back(conn, permit);
        }
    }
}

/// A connection with a transaction, and its place in the pool.
#[derive(Debug)]
pub struct Link {
    server: Arc<Server>,
    /// Until it is dropped.
    held: Option<(Conn, OwnedSemaphorePermit)>,
    comment: String,
    /// Something was sent, and its answer has not come as a whole.
    is_unanswered: bool,
    runtime: Handle,
}

impl Link {
    fn new(server: Arc<Server>, conn: Conn, permit: OwnedSemaphorePermit, comment: String) -> Link {
        Link { server, held: Some((conn, permit)), comment, is_unanswered: false, runtime: Handle::current() }
    }

    fn conn(&mut self) -> &mut Conn {
        &mut self.held.as_mut().expect("until it is dropped").0
    }

    /// The connection is of no use any more.
    fn give_up(mut self) -> OwnedSemaphorePermit {
        self.held.take().expect("until it is dropped").1
    }

    async fn begin(&mut self, beginning: &Beginning) -> Result<(), Failed> {
        let version: Vec<String> = self.rows("SELECT CAST(VERSION() AS CHAR)", vec![]).await?;
        let statement = self.server.config.statement();
        let limit = match version.iter().any(|version| version.contains("MariaDB")) {
            true => format!("max_statement_time = {}", statement.as_secs_f64()),
            false => format!("max_execution_time = {}", statement.as_millis()),
        };
        // Without modes, texts and names are written as the standard of the server itself says.
        self.send(&format!(
            "SET SESSION sql_mode = '', time_zone = '+00:00', net_write_timeout = 600, sql_select_limit = DEFAULT, {limit}"
        ))
        .await?;
        self.send("SET NAMES utf8mb4").await?;
        self.send("SET SESSION TRANSACTION READ ONLY").await?;
        if let Some(role) = &beginning.role {
            self.send(&format!("SET ROLE {}", quoted(role))).await?;
        }
        if !beginning.variables.is_empty() {
            let names: Vec<String> =
                beginning.variables.iter().map(|(name, _)| format!("@{name} = ?")).collect();
            let values = beginning.variables.iter().map(|(_, value)| Value::from(value)).collect();
            let text = format!("{}SET {}", self.comment, names.join(", "));
            self.answered(async |conn| conn.exec_drop(text, Params::Positional(values)).await).await?;
        }
        self.send("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await
    }

    async fn send(&mut self, text: &str) -> Result<(), Failed> {
        let text = format!("{}{text}", self.comment);
        self.answered(async |conn| conn.query_drop(text).await).await
    }

    /// All rows of a statement that has few.
    pub async fn rows<T: FromRow + Send + 'static>(
        &mut self,
        text: &str,
        parameters: Vec<Value>,
    ) -> Result<Vec<T>, Failed> {
        let text = format!("{}{text}", self.comment);
        let parameters = if parameters.is_empty() { Params::Empty } else { Params::Positional(parameters) };
        let rows: Vec<Row> = self.answered(async |conn| conn.exec(text, parameters).await).await?;
        rows.into_iter().map(|row| T::from_row_opt(row).map_err(|_| Failed::Form)).collect()
    }

    /// Sends a query, whose rows [`Link::next`] gives.
    pub async fn query(&mut self, text: &str, parameters: Vec<Value>) -> Result<(), Failed> {
        let text = format!("{}{text}", self.comment);
        let parameters = if parameters.is_empty() { Params::Empty } else { Params::Positional(parameters) };
        self.answered(async |conn| conn.exec_iter(text, parameters).await.map(drop)).await?;
        self.is_unanswered = true;
        Ok(())
    }

    /// A row of the query. Each has to come in time.
    pub async fn next(&mut self) -> Result<Option<Row>, Failed> {
        let limit = self.server.limits.answer;
        let mut result = QueryResult::<'_, 'static, BinaryProtocol>::new(self.conn());
        let row =
            tokio::time::timeout(limit + GRACE, result.next()).await.map_err(|_| Failed::Late(limit))??;
        self.is_unanswered = row.is_some();
        Ok(row)
    }

    async fn answered<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut Conn) -> Result<T, Error>,
    ) -> Result<T, Failed> {
        let limit = self.server.limits.answer;
        self.is_unanswered = true;
        let answer = tokio::time::timeout(limit + GRACE, ask(self.conn()))
            .await
            .map_err(|_| Failed::Late(limit))??;
        self.is_unanswered = false;
        Ok(answer)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let Some((conn, permit)) = self.held.take() else { return };
        let server = Arc::clone(&self.server);
        if self.is_unanswered {
            // The place in the pool is free when the server has been told.
            self.runtime.spawn(async move {
                server.kill(conn.id()).await;
                drop((conn, permit));
            });
        } else {
            self.runtime.spawn(server.put_back(conn, permit));
        }
    }
}

const ACCESS_DENIED: u16 = 1045;

impl Failed {
    /// What callers are told, and what the operator's log says. Messages of the server may hold
    /// values of rows: of most, only the code is kept.
    pub fn told(self, collection: &str, limit: Duration) -> CollectionError {
        let collection = collection.to_owned();
        match self {
            Failed::Late(limit) => CollectionError::TimedOut { collection, limit },
            Failed::Full => CollectionError::Unreachable { collection, source: self.into() },
            Failed::Secret(_) | Failed::NoRole(_) => {
                CollectionError::Refused { collection, source: self.into() }
            }
            Failed::TooMany { .. } | Failed::Form => {
                CollectionError::Unusable { collection, source: self.into() }
            }
            Failed::Driver(Error::Server(error)) => of_server(collection, limit, &error),
            Failed::Driver(error @ Error::Io(_)) => {
                CollectionError::Unreachable { collection, source: Told { what: error.to_string() }.into() }
            }
            // What the driver says of values that it cannot convert has them.
            Failed::Driver(Error::Driver(_) | Error::Other(_) | Error::Url(_)) => {
                let what = "the driver cannot use the answer of the server".to_owned();
                CollectionError::Unreachable { collection, source: Told { what }.into() }
            }
        }
    }
}

/// What the operator is told of the server's own error.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Told {
    what: String,
}

fn of_server(collection: String, limit: Duration, error: &mysql_async::ServerError) -> CollectionError {
    let named = || Told { what: format!("{} ({})", error.message, error.code) }.into();
    match error.code {
        // No such account, right, database, table or role; names are all that these tell.
        1044 | 1045 | 1049 | 1130 | 1142 | 1143 | 1227 | 1370 | 1410 | 1698 | 1959 | 3530 | 3159 => {
            CollectionError::Refused { collection, source: named() }
        }
        // Too many connections, an end of the server, a lock.
        1040 | 1053 | 1152 | 1203 | 1205 | 1226 | 1927 => {
            CollectionError::Unreachable { collection, source: named() }
        }
        // Ended by a limit, or by us.
        1317 | 1969 | 3024 => CollectionError::TimedOut { collection, limit },
        code => {
            let what = format!("the server answered with the error {code} ({})", error.state);
            CollectionError::Unusable { collection, source: Told { what }.into() }
        }
    }
}
