//! A transaction that only reads, and sees one snapshot: all scans of a table in one statement
//! share it, each by a cursor of its own.
//!
//! Invariants: rows are fetched in batches of bounded size, and only while somebody waits for them;
//! when nobody does any more, what the server is still doing is cancelled. A connection goes back
//! to the pool only with its transaction ended.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::error::DataFusionError;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::Handle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::query::{Parameter, Query, quoted};
use super::server::{Link, NoConnection, Server};
use super::types::{Kind, Misfit, Raw, Values};
use crate::collection::CollectionError;
use crate::collection::remote::{Memory, Request, Rows};
use crate::collection::rows::Tally;
use crate::collection::told::NoRole;

/// A batch is about as large, unless the first rows are.
const BATCH_BYTES: usize = 1 << 20;
const FIRST_ROWS: usize = 32;
/// From one batch to the next, while rows are small.
const GROWTH: usize = 16;
/// Memory is asked for in steps of this size.
const CHARGE_BYTES: usize = 64 << 10;
/// The server answers first, where it can.
const GRACE: Duration = Duration::from_secs(2);

/// Why a statement ended without its rows.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error(transparent)]
    NoConnection(#[from] NoConnection),
    #[error("the server refused a statement")]
    Driver(#[from] tokio_postgres::Error),
    #[error("there was no answer within {0:?}")]
    Late(Duration),
    #[error(transparent)]
    Misfit(#[from] Misfit),
    #[error("there are more than {most} {what}")]
    TooMany { what: &'static str, most: usize },
    #[error(transparent)]
    NoRole(#[from] NoRole),
    /// Of the engine itself: no memory.
    #[error(transparent)]
    Engine(DataFusionError),
}

/// What a transaction is begun with.
#[derive(Debug, Clone, Default)]
pub struct Beginning {
    pub role: Option<String>,
    /// Variables of the session.
    pub variables: Vec<(String, String)>,
    /// At the head of each statement.
    pub comment: String,
}

/// When it was, as the server tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub snapshot: String,
    pub time: String,
}

#[derive(Debug)]
pub struct Session {
    server: Arc<Server>,
    /// Until it is dropped.
    link: Option<Link>,
    comment: String,
    pub snapshot: Snapshot,
    cursors: AtomicUsize,
    /// Streams that are open.
    reading: AtomicUsize,
    /// Statements that were sent, and whose answer has not come as a whole.
    unanswered: AtomicUsize,
    /// Something went wrong or was cancelled, so that nothing more can be asked.
    over: AtomicBool,
    runtime: Handle,
}

impl Session {
    pub async fn begin(server: Arc<Server>, beginning: &Beginning) -> Result<Session, Failed> {
        let link = server.link().await?;
        let was_idle = link.was_idle;
        match Session::begin_on(Arc::clone(&server), link, beginning).await {
            // It was closed while it waited.
            Err(Failed::Driver(error)) if was_idle && error.as_db_error().is_none() => {
                let link = server.link().await?;
                Session::begin_on(server, link, beginning).await
            }
            other => other,
        }
    }

    async fn begin_on(server: Arc<Server>, link: Link, beginning: &Beginning) -> Result<Session, Failed> {
        let runtime = Handle::current();
        let mut session = Session {
            server,
            link: Some(link),
            comment: beginning.comment.clone(),
            snapshot: Snapshot { snapshot: String::new(), time: String::new() },
            cursors: AtomicUsize::new(0),
            reading: AtomicUsize::new(0),
            unanswered: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            runtime,
        };
        let text = begin_text(&session.comment, beginning.role.as_deref(), session.server.limits.answer);
        session.answered(session.client().batch_execute(&text)).await?;
        session.snapshot = session.take_snapshot(&beginning.variables).await?;
        Ok(session)
    }

    /// The first statement, which makes the snapshot, sets the variables too.
    async fn take_snapshot(&self, variables: &[(String, String)]) -> Result<Snapshot, Failed> {
        let mut text =
            "SELECT pg_catalog.pg_current_snapshot()::text, pg_catalog.clock_timestamp()::text".to_owned();
        let mut parameters = Vec::new();
        for (name, value) in variables {
            let at = parameters.len();
            text.push_str(&format!(", pg_catalog.set_config(${}, ${}, true)", at + 1, at + 2));
            let parameter =
                |text: &str| Parameter { text: text.replace('\0', "\u{fffd}"), data_type: Type::TEXT };
            parameters.extend([parameter(name), parameter(value)]);
        }
        let rows = self.rows(&text, &parameters).await?;
        let row = rows.first().ok_or(Misfit("snapshot"))?;
        Ok(Snapshot { snapshot: row.try_get(0)?, time: row.try_get(1)? })
    }

    fn client(&self) -> &Client {
        &self.link.as_ref().expect("until it is dropped").connection.client
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) || self.client().is_closed()
    }

    /// All rows of a statement that has few.
    pub async fn rows(&self, text: &str, parameters: &[Parameter]) -> Result<Vec<Row>, Failed> {
        let text = format!("{}{text}", self.comment);
        let typed: Vec<(&(dyn ToSql + Sync), Type)> =
            parameters.iter().map(|p| (p as &(dyn ToSql + Sync), p.data_type.clone())).collect();
        self.answered(self.client().query_typed(&text, &typed)).await
    }

    /// A statement that is given up, or that fails, is the last one of its transaction.
    async fn answered<T, E>(&self, answer: impl Future<Output = Result<T, E>>) -> Result<T, Failed>
    where
        Failed: From<E>,
    {
        self.unanswered.fetch_add(1, Ordering::AcqRel);
        let limit = self.server.limits.answer;
        let answer = tokio::time::timeout(limit + GRACE, answer).await;
        match answer {
            Ok(Ok(answer)) => {
                self.unanswered.fetch_sub(1, Ordering::AcqRel);
                Ok(answer)
            }
            Ok(Err(error)) => {
                self.over.store(true, Ordering::Release);
                Err(error.into())
            }
            Err(_) => {
                self.over.store(true, Ordering::Release);
                Err(Failed::Late(limit))
            }
        }
    }

    /// A cursor over a query. It keeps the session.
    pub async fn read(self: Arc<Self>, query: Query, reading: Reading) -> Result<Cursor, Failed> {
        let name = format!("c{}", self.cursors.fetch_add(1, Ordering::Relaxed));
        self.reading.fetch_add(1, Ordering::AcqRel);
        let size = FIRST_ROWS.min(reading.request.batch_rows).max(1);
        let cursor = Cursor { name, reading, size, session: self };
        let text = format!("DECLARE {} NO SCROLL CURSOR FOR {}", cursor.name, query.text);
        cursor.session.rows(&text, &query.parameters).await?;
        Ok(cursor)
    }

    /// In the background: the answer that nobody waits for any more is not waited for either.
    fn cancel(&self) {
        self.over.store(true, Ordering::Release);
        let (server, token) = (Arc::clone(&self.server), self.client().cancel_token());
        self.runtime.spawn(async move { server.cancel(token).await });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(link) = self.link.take() else { return };
        let server = Arc::clone(&self.server);
        let is_idle = self.unanswered.load(Ordering::Acquire) == 0;
        if is_idle && !self.over.load(Ordering::Acquire) {
            self.runtime.spawn(server.put_back(link));
        } else {
            let token = link.connection.client.cancel_token();
            // The place in the pool is free when the server has been told.
            self.runtime.spawn(async move {
                server.cancel(token).await;
                drop(link);
            });
        }
    }
}

/// `SET LOCAL` ends with the transaction, and so nothing of a caller stays on the connection.
fn begin_text(comment: &str, role: Option<&str>, answer: Duration) -> String {
    let ms = answer.as_millis();
    let mut text = format!(
        "{comment}BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
         SET LOCAL statement_timeout = {ms}; SET LOCAL lock_timeout = {ms}; \
         SET LOCAL idle_in_transaction_session_timeout = 600000; SET LOCAL client_min_messages = 'error'; \
         SET LOCAL cursor_tuple_fraction = 1; SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD'; \
         SET LOCAL IntervalStyle = 'iso_8601'; SET LOCAL bytea_output = 'hex'; SET LOCAL xmloption = 'content'"
    );
    if let Some(role) = role {
        text.push_str("; SET LOCAL ROLE ");
        text.push_str(&quoted(role));
    }
    text
}

/// What becomes of the rows of a query.
#[derive(Debug)]
pub struct Reading {
    pub request: Arc<Request>,
    /// Of the columns that are selected.
    pub kinds: Vec<Kind>,
    pub memory: Memory,
    pub tally: Arc<Tally>,
}

/// A query whose rows are fetched when they are asked for.
#[derive(Debug)]
pub struct Cursor {
    session: Arc<Session>,
    name: String,
    reading: Reading,
    /// Rows of the next batch.
    size: usize,
}

impl Cursor {
    pub fn rows(self, told: impl Fn(Failed) -> DataFusionError + Send + 'static) -> Rows {
        let batches = stream::try_unfold(Some(self), |cursor| async move {
            let Some(mut cursor) = cursor else { return Ok(None) };
            let (batch, is_last) = cursor.fetch().await?;
            Ok::<_, Failed>(Some((batch, (!is_last).then_some(cursor))))
        });
        let some = batches.try_filter(|batch| std::future::ready(batch.num_rows() > 0));
        some.map_err(told).boxed()
    }

    /// The next rows, and whether they are the last ones.
    async fn fetch(&mut self) -> Result<(RecordBatch, bool), Failed> {
        let asked = self.size;
        self.reading.memory.release();
        let (batch, bytes) = self.session.answered(self.fetched()).await?;
        let rows = batch.num_rows();
        let fitting = BATCH_BYTES / (bytes / rows.max(1)).max(1);
        let most = self.reading.request.batch_rows.min(asked.saturating_mul(GROWTH));
        self.size = fitting.min(most).max(1);
        Ok((batch, rows < asked))
    }

    async fn fetched(&self) -> Result<(RecordBatch, usize), Failed> {
        let text = format!("{}FETCH {} FROM {}", self.session.comment, self.size, self.name);
        let none: [(&(dyn ToSql + Sync), Type); 0] = [];
        let mut rows = pin!(self.session.client().query_typed_raw(&text, none).await?);
        let Reading { request, kinds, memory, tally } = &self.reading;
        let mut columns: Vec<Values> = kinds.iter().map(Values::new).collect();
        let (mut count, mut bytes, mut charged) = (0, 0, 0);
        while let Some(row) = rows.try_next().await? {
            for (at, column) in columns.iter_mut().enumerate() {
                let Raw(raw) = row.try_get(at)?;
                bytes += raw.map_or(0, <[u8]>::len) + size_of::<u64>();
                if column.push(raw).is_err() {
                    column.push(None)?;
                    tally.add_misfits(request.schema.field(at).name(), 1);
                }
            }
            count += 1;
            if bytes - charged > CHARGE_BYTES {
                memory.charge(bytes - charged).map_err(Failed::Engine)?;
                charged = bytes;
            }
        }
        tally.add_rows(count as u64);
        let arrays = columns.into_iter().map(Values::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&request.schema), arrays, &options);
        Ok((batch.map_err(|e| Failed::Engine(e.into()))?, bytes))
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        let is_last = self.session.reading.fetch_sub(1, Ordering::AcqRel) == 1;
        // Others read in the same transaction, and would lose it.
        if is_last && self.session.unanswered.load(Ordering::Acquire) > 0 {
            self.session.cancel();
        }
    }
}

impl Failed {
    /// What callers are told, and what the operator's log says. Messages of the server may hold
    /// values of rows: of most, only the code is kept.
    pub fn told(self, collection: &str, answer: Duration) -> CollectionError {
        let collection = collection.to_owned();
        match self {
            Failed::Late(limit) | Failed::NoConnection(NoConnection::Late(limit)) => {
                CollectionError::TimedOut { collection, limit }
            }
            Failed::NoConnection(NoConnection::Driver(error)) | Failed::Driver(error) => {
                of_driver(collection, answer, &error)
            }
            full @ Failed::NoConnection(NoConnection::Full) => {
                CollectionError::Unreachable { collection, source: full.into() }
            }
            other @ (Failed::NoConnection(NoConnection::Secret(_)) | Failed::NoRole(_)) => {
                CollectionError::Refused { collection, source: other.into() }
            }
            other @ (Failed::Misfit(_) | Failed::TooMany { .. } | Failed::Engine(_)) => {
                CollectionError::Unusable { collection, source: other.into() }
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

fn of_driver(collection: String, limit: Duration, error: &tokio_postgres::Error) -> CollectionError {
    let Some(told) = error.as_db_error() else {
        // No answer of the server: the network, TLS, or something that is no such server.
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        let text = std::iter::once(error.to_string()).chain(causes.map(ToString::to_string));
        let source = Told { what: text.collect::<Vec<_>>().join(": ") }.into();
        return CollectionError::Unreachable { collection, source };
    };
    let code = told.code().code();
    // Connections, resources, the operator's own doing: names of roles and objects at most are in
    // these.
    let what = match code.get(..2) {
        Some("08" | "28" | "3D" | "53" | "57") => format!("{} ({code})", told.message()),
        _ if code == "42501" => format!("{} ({code})", told.message()),
        _ => format!("the server answered with the error {code}"),
    };
    let source = Told { what }.into();
    match (code, code.get(..2)) {
        // Its own limit for a statement, or a cancellation.
        ("57014", _) => CollectionError::TimedOut { collection, limit },
        (_, Some("08" | "40" | "53" | "55" | "57")) => CollectionError::Unreachable { collection, source },
        // No right, no such login, database or role.
        ("42501" | "22023", _) | (_, Some("28" | "3D")) => CollectionError::Refused { collection, source },
        _ => CollectionError::Unusable { collection, source },
    }
}
