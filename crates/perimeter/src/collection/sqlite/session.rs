//! A connection to the database for one statement, which sees one state: a read transaction, held until nobody has it any more.
//!
//! The connection is on a thread of its own. Its scans take turns, a batch each, so that none of them waits for another to end, which
//! a join may never let happen.
//!
//! Invariant: nothing is written, and nothing but reading is allowed: the file is opened read-only, `query_only` is set, and the
//! authorizer denies whatever is not named in [`authorize`], in views too. What nobody waits for any more ends within
//! [`OPS_BETWEEN_LOOKS`] steps of SQLite's machine.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization, TransactionOperation};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement};
use tokio::sync::oneshot;

use super::columns::Kind;
use super::filters::Param;
use crate::collection::CollectionError;
use crate::collection::rows::Rows;

/// Another process may hold the lock of a database without a write-ahead log for so long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A question about tables and columns takes no longer.
const ASK_TIME: Duration = Duration::from_secs(2);
/// Of a cell, and of a row.
pub const MAX_VALUE_BYTES: i32 = 16 << 20;
const MAX_SQL_BYTES: i32 = 1 << 20;
const MAX_DEPTH: i32 = 200;
const CACHE_KIB: i32 = 8 << 10;
const OPS_BETWEEN_LOOKS: i32 = 1_000;
/// What may be asked of the database beside its tables.
const PRAGMAS: [&str; 5] = ["data_version", "encoding", "schema_version", "table_list", "table_xinfo"];
/// Functions that do something beside giving a value. Views may name them.
const FUNCTIONS_DENIED: [&str; 4] = ["load_extension", "fts3_tokenizer", "writefile", "readfile"];

/// Why the database cannot be read. For the operator.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    #[error("{} is not a file", .0.display())]
    NoFile(PathBuf),
    #[error("{}: {source}", path.display())]
    NotOpened { path: PathBuf, source: rusqlite::Error },
    #[error("SQLite: {0}")]
    Failed(#[from] rusqlite::Error),
    #[error("a value or a row is larger than {MAX_VALUE_BYTES} bytes")]
    TooLarge,
    #[error("rows could not be put together: {0}")]
    Rows(#[from] ArrowError),
    #[error("the connection ended")]
    Ended,
}

impl SqliteError {
    pub fn of_collection(self, collection: &str) -> CollectionError {
        let collection = collection.to_owned();
        let code = match &self {
            SqliteError::NotOpened { source, .. } | SqliteError::Failed(source) => source.sqlite_error_code(),
            _ => None,
        };
        let source = match code {
            // It may have been a value: SQLite's words would tell no more.
            Some(ErrorCode::TooBig) => Box::new(SqliteError::TooLarge),
            _ => Box::new(self),
        };
        match (code, &*source) {
            (
                Some(
                    ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::FileLockingProtocolFailed
                    | ErrorCode::OperationInterrupted,
                ),
                _,
            )
            | (_, SqliteError::Ended) => CollectionError::Unreachable { collection, source },
            (
                Some(
                    ErrorCode::CannotOpen
                    | ErrorCode::PermissionDenied
                    | ErrorCode::AuthorizationForStatementDenied
                    | ErrorCode::ReadOnly,
                ),
                _,
            )
            | (_, SqliteError::NoFile(_)) => CollectionError::Refused { collection, source },
            _ => CollectionError::Unusable { collection, source },
        }
    }
}

/// What a scan asks for.
#[derive(Debug, Clone)]
pub struct Select {
    pub sql: String,
    pub params: Vec<Param>,
    /// Of its columns.
    pub kinds: Vec<Kind>,
}

type Work = Box<dyn for<'c> FnOnce(&'c Connection) + Send>;

enum Command {
    Do { work: Work, stop: Arc<AtomicBool> },
    Start { id: u64, select: Select, rows: Rows, stop: Arc<AtomicBool>, reply: Reply<()> },
    Next { id: u64, reply: Reply<Option<RecordBatch>> },
    End { id: u64 },
}

type Reply<T> = oneshot::Sender<Result<T, SqliteError>>;

/// See the file's comment.
pub struct Session {
    commands: mpsc::Sender<Command>,
    next_id: AtomicU64,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

/// Stops what it belongs to when it is dropped.
struct StopGuard(Arc<AtomicBool>);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Session {
    /// Opens the database, and begins to read it as of now.
    pub async fn begin(path: &Path, immutable: bool) -> Result<Session, SqliteError> {
        let (commands, received) = mpsc::channel();
        let (ready, opened) = oneshot::channel();
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || {
            let running = Running::default();
            match open(&path, immutable, &running) {
                Ok(connection) => {
                    if ready.send(Ok(())).is_ok() {
                        serve(&connection, &received, &running);
                    }
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        });
        opened.await.map_err(|_| SqliteError::Ended)??;
        Ok(Session { commands, next_id: AtomicU64::new(0) })
    }

    /// Does something with the connection, for a short time. It is stopped where this is dropped.
    pub async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Connection) -> Result<T, SqliteError> + Send + 'static,
    ) -> Result<T, SqliteError> {
        let (reply, answer) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let guard = StopGuard(Arc::clone(&stop));
        let work: Work = Box::new(move |connection| {
            let _ = reply.send(ask(connection));
        });
        self.commands.send(Command::Do { work, stop }).map_err(|_| SqliteError::Ended)?;
        let answer = answer.await.map_err(|_| SqliteError::Ended)?;
        drop(guard);
        answer
    }

    /// Starts to read rows.
    pub async fn select(self: Arc<Self>, select: Select, rows: Rows) -> Result<Scan, SqliteError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        let (reply, answer) = oneshot::channel();
        let start = Command::Start { id, select, rows, stop: Arc::clone(&stop), reply };
        let scan = Scan { session: self, id, _stop: StopGuard(stop) };
        scan.session.commands.send(start).map_err(|_| SqliteError::Ended)?;
        answer.await.map_err(|_| SqliteError::Ended)??;
        Ok(scan)
    }
}

/// Rows of one scan. Dropping it ends the scan, in the middle of a step too.
#[derive(Debug)]
pub struct Scan {
    session: Arc<Session>,
    id: u64,
    _stop: StopGuard,
}

impl fmt::Debug for StopGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StopGuard")
    }
}

impl Scan {
    /// None: these were all.
    pub async fn next(&self) -> Result<Option<RecordBatch>, SqliteError> {
        let (reply, answer) = oneshot::channel();
        self.session.commands.send(Command::Next { id: self.id, reply }).map_err(|_| SqliteError::Ended)?;
        answer.await.map_err(|_| SqliteError::Ended)?
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        let _ = self.session.commands.send(Command::End { id: self.id });
    }
}

/// Whether what runs at the moment is to be stopped.
#[derive(Debug, Clone, Default)]
struct Running(Arc<Mutex<(Arc<AtomicBool>, Option<Instant>)>>);

impl Running {
    fn set(&self, stop: &Arc<AtomicBool>, until: Option<Instant>) {
        *self.0.lock() = (Arc::clone(stop), until);
    }

    fn is_stopped(&self) -> bool {
        let running = self.0.lock();
        running.0.load(Ordering::Relaxed) || running.1.is_some_and(|until| Instant::now() > until)
    }
}

fn open(path: &Path, immutable: bool, running: &Running) -> Result<Connection, SqliteError> {
    // Or opening a pipe waits for who writes. It is not opened here: closing it would take SQLite's locks away.
    if !path.metadata().is_ok_and(|found| found.is_file()) {
        return Err(SqliteError::NoFile(path.to_owned()));
    }
    let not_opened = |source| SqliteError::NotOpened { path: path.to_owned(), source };
    connect(path, immutable, running).map_err(not_opened)
}

fn connect(path: &Path, immutable: bool, running: &Running) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri(path, immutable), flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
        (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
        // A name in double quotes is never a text.
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
        (DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
    ] {
        connection.set_db_config(setting, on)?;
    }
    for (limit, most) in [
        (Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_SQL_BYTES),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, MAX_DEPTH),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1 << 10),
    ] {
        connection.set_limit(limit, most)?;
    }
    // A file that is cut while it is mapped ends the process.
    connection.execute_batch(&format!(
        "PRAGMA query_only = ON; PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON; \
         PRAGMA cache_size = -{CACHE_KIB}; BEGIN"
    ))?;
    // The transaction begins with the first look.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let looks = running.clone();
    connection.progress_handler(OPS_BETWEEN_LOOKS, Some(move || looks.is_stopped()))?;
    connection.authorizer(Some(authorize))?;
    Ok(connection)
}

/// A path may have any character in it.
fn uri(path: &Path, immutable: bool) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(char::from(*byte))
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri.push_str(if immutable { "?mode=ro&immutable=1" } else { "?mode=ro" });
    uri
}

fn authorize(context: AuthContext<'_>) -> Authorization {
    let allowed = match context.action {
        AuthAction::Select | AuthAction::Recursive | AuthAction::Read { .. } => true,
        AuthAction::Function { function_name } => {
            !FUNCTIONS_DENIED.iter().any(|denied| function_name.eq_ignore_ascii_case(denied))
        }
        AuthAction::Pragma { pragma_name, .. } => {
            PRAGMAS.iter().any(|known| pragma_name.eq_ignore_ascii_case(known))
        }
        AuthAction::Transaction { operation } => operation == TransactionOperation::Rollback,
        _ => false,
    };
    if allowed { Authorization::Allow } else { Authorization::Deny }
}

/// One scan on the thread of its connection.
struct Reading<'c> {
    statement: Statement<'c>,
    kinds: Vec<Kind>,
    rows: Rows,
    stop: Arc<AtomicBool>,
    at_end: bool,
}

/// Until nobody has the session any more.
fn serve(connection: &Connection, commands: &mpsc::Receiver<Command>, running: &Running) {
    let mut readings: HashMap<u64, Reading<'_>> = HashMap::new();
    for command in commands {
        match command {
            Command::Do { work, stop } => {
                running.set(&stop, Some(Instant::now() + ASK_TIME));
                work(connection);
            }
            Command::Start { id, select, rows, stop, reply } => {
                running.set(&stop, None);
                let started = start(connection, select, rows, stop).map(|reading| {
                    readings.insert(id, reading);
                });
                let _ = reply.send(started);
            }
            Command::Next { id, reply } => {
                let next = readings.get_mut(&id).map_or(Err(SqliteError::Ended), |reading| {
                    running.set(&reading.stop, None);
                    reading.next()
                });
                let _ = reply.send(next);
            }
            Command::End { id } => {
                readings.remove(&id);
            }
        }
    }
}

fn start(
    connection: &Connection,
    select: Select,
    rows: Rows,
    stop: Arc<AtomicBool>,
) -> Result<Reading<'_>, SqliteError> {
    let mut statement = connection.prepare(&select.sql)?;
    for (at, param) in select.params.iter().enumerate() {
        match param {
            Param::Int(value) => statement.raw_bind_parameter(at + 1, value)?,
            Param::Real(value) => statement.raw_bind_parameter(at + 1, value)?,
            Param::Text(value) => statement.raw_bind_parameter(at + 1, value)?,
        }
    }
    Ok(Reading { statement, kinds: select.kinds, rows, stop, at_end: false })
}

impl Reading<'_> {
    fn next(&mut self) -> Result<Option<RecordBatch>, SqliteError> {
        if self.at_end {
            return Ok(None);
        }
        // Also where this fails.
        self.at_end = true;
        let mut found = self.statement.raw_query();
        while !self.rows.is_full() {
            let Some(row) = found.next()? else { return Ok(self.rows.take()?) };
            for (at, kind) in self.kinds.iter().enumerate() {
                self.rows.put(at, &kind.cell(row.get_ref(at)?));
            }
            self.rows.end_row();
        }
        // Dropping them would begin the statement anew; they go on with the next batch. There is nothing to free in them.
        std::mem::forget(found);
        self.at_end = false;
        Ok(self.rows.take()?)
    }
}
