//! The audit log of the server: a line for each query, each statement that was refused, and each
//! login that was, with what was read.
//!
//! A query's line is written when its rows are at their end, before its client is told so. Where
//! the last line could not be written, nothing is answered before one can. The format is that of
//! the MCP server (`kafscale-audit`).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use kafscale_audit::{Anchor, AuditError, AuditLog, Decision, Event, hex, keep_anchored};
use kafscale_core::clock::Clock;
use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::SqlError;
use crate::query::{Query, ranges_text};

/// Of a statement's text; its SHA-256 is that of the whole.
const STATEMENT_BYTES: usize = 4 << 10;
const MESSAGE_BYTES: usize = 1 << 10;
/// Refused logins that get a line of their own: so many at once, and then one each second. The
/// others are counted.
const LOGIN_LINES: f64 = 20.0;

#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// A log that is open, of the whole server.
#[derive(Debug)]
pub struct Audit {
    log: AuditLog,
    anchoring: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
    logins: Mutex<Logins>,
}

/// How many refused logins may have lines.
#[derive(Debug)]
struct Logins {
    allowed: f64,
    counted: Instant,
    left_out: u64,
}

impl Audit {
    /// Opens the log, and says in it that the server begins.
    pub async fn open(path: &Path, anchor: Option<&Path>) -> Result<Audit, AuditError> {
        let stop = CancellationToken::new();
        let (log, anchoring) = match anchor {
            None => (AuditLog::open(path)?, None),
            Some(file) => {
                let (anchor, clock) = (Anchor::File(file.to_owned()), Arc::new(SystemClock));
                let (log, compared) = kafscale_audit::open(path, &anchor, clock.now_ms()).await?;
                let keeping =
                    keep_anchored(log.clone(), path.to_owned(), anchor, compared, clock, stop.clone());
                (log, Some(tokio::spawn(keeping)))
            }
        };
        let logins = Logins { allowed: LOGIN_LINES, counted: Instant::now(), left_out: 0 };
        let anchoring = Mutex::new(anchoring);
        let audit = Audit { log, anchoring, stop, logins: Mutex::new(logins) };
        audit.log.append(event("server", "server/start", "ok")).await?;
        Ok(audit)
    }

    /// Returns when all lines are on disk, and the anchor holds the last one.
    pub async fn close(&self) -> Result<(), AuditError> {
        let closed = self.log.append(event("server", "server/stop", "ok")).await;
        self.stop.cancel();
        let anchoring = self.anchoring.lock().take();
        if let Some(anchoring) = anchoring {
            let _ = anchoring.await;
        }
        closed
    }
}

fn event(principal: &str, method: &str, outcome: &str) -> Event {
    let mut event = Event::new(SystemClock.now_ms(), principal, "postgres");
    method.clone_into(&mut event.method);
    event.outcome = bounded(outcome, MESSAGE_BYTES);
    event
}

fn bounded(text: &str, bytes: usize) -> String {
    match text.len() > bytes {
        true => format!("{}…", &text[..text.floor_char_boundary(bytes)]),
        false => text.to_owned(),
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Asker {
    pub user: String,
    pub application: String,
    pub peer: SocketAddr,
}

/// What the statements of one connection are noted with; without a log, nothing is.
#[derive(Debug, Clone)]
pub struct Auditor {
    audit: Option<Arc<Audit>>,
    /// Why the statement that runs is ended from outside.
    stopped: Arc<Mutex<Option<(String, String)>>>,
}

impl Auditor {
    pub fn new(audit: Option<Arc<Audit>>) -> Auditor {
        Auditor { audit, stopped: Arc::default() }
    }

    /// Says why what runs is about to be dropped.
    pub fn stopping(&self, code: &str, why: &str) {
        *self.stopped.lock() = Some((code.to_owned(), why.to_owned()));
    }

    /// Begins the line of a query.
    pub async fn begin(&self, asker: Asker, statement: &str, query: &Arc<Query>) -> Result<Record, SqlError> {
        *self.stopped.lock() = None;
        let Some(audit) = &self.audit else { return Ok(Record(None)) };
        if !audit.log.is_writable() {
            let event =
                about(&asker, statement, event(&asker.user, "query", "not begun: lines were missing"));
            audit.log.append(event).await?;
        }
        Ok(Record(Some(Line {
            event: about(&asker, statement, event(&asker.user, "query", "")),
            log: audit.log.clone(),
            began: Instant::now(),
            query: Arc::clone(query),
            rows: 0,
            bytes: 0,
            stopped: Arc::clone(&self.stopped),
        })))
    }

    /// Notes a statement that was not begun. Gives the error that its client is told of.
    pub async fn refused(&self, asker: Asker, statement: &str, error: SqlError) -> SqlError {
        let Some(audit) = &self.audit else { return error };
        let mut event = about(&asker, statement, event(&asker.user, "query", &error.to_string()));
        event.decision = Decision::Deny;
        event.error_code = Some(error.code().to_owned());
        audit.log.append(event).await.err().map_or(error, SqlError::from)
    }

    /// Notes a login that was refused.
    pub async fn login_refused(&self, user: &str, peer: SocketAddr, why: &str) {
        let Some(audit) = &self.audit else { return };
        let Some(left_out) = audit.logins.lock().take() else { return };
        let mut event = event(&bounded(user, 128), "login", why);
        event.peer = Some(peer.to_string());
        event.decision = Decision::Deny;
        event.error_code = Some("28P01".to_owned());
        event.refusals_left_out = left_out;
        let _ = audit.log.append(event).await;
    }
}

impl Logins {
    /// How many lines were left out before this one; `None`: this one is, too.
    fn take(&mut self) -> Option<u64> {
        let passed = self.counted.elapsed().as_secs_f64();
        self.counted = Instant::now();
        self.allowed = (self.allowed + passed).min(LOGIN_LINES);
        if self.allowed < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.allowed -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

fn about(asker: &Asker, statement: &str, mut event: Event) -> Event {
    event.peer = Some(asker.peer.to_string());
    event.client = Some(bounded(&asker.application, 128)).filter(|name| !name.is_empty());
    event.arguments = Some(json!({ "statement": bounded(statement.trim(), STATEMENT_BYTES) }));
    event.arguments_sha256 = Some(hex(&Sha256::digest(statement.trim())));
    event
}

/// The line of a query that runs. Where it is dropped before its end, the line says so.
#[derive(Debug)]
pub struct Record(Option<Line>);

#[derive(Debug)]
struct Line {
    event: Event,
    log: AuditLog,
    began: Instant,
    query: Arc<Query>,
    rows: u64,
    bytes: u64,
    stopped: Arc<Mutex<Option<(String, String)>>>,
}

impl Record {
    /// Of a statement that nobody notes.
    pub fn none() -> Record {
        Record(None)
    }

    pub fn count(&mut self, rows: u64, bytes: u64) {
        if let Some(line) = &mut self.0 {
            line.rows += rows;
            line.bytes += bytes;
        }
    }

    /// Writes the line. Where that does not work, the query has failed.
    pub fn end(&mut self, failed: Option<&SqlError>) -> BoxFuture<'static, Result<(), SqlError>> {
        let Some(line) = self.0.take() else { return std::future::ready(Ok(())).boxed() };
        let log = line.log.clone();
        let event = match failed {
            Some(error) => line.finish(Some((error.code().to_owned(), error.to_string()))),
            None => line.finish(None),
        };
        async move { Ok(log.append(event).await?) }.boxed()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(line) = self.0.take() {
            let why = line.stopped.lock().take();
            let why =
                why.unwrap_or_else(|| ("57014".to_owned(), "its rows were not read to their end".to_owned()));
            let log = line.log.clone();
            log.note(line.finish(Some(why)));
        }
    }
}

impl Line {
    fn finish(self, failed: Option<(String, String)>) -> Event {
        let mut event = self.event;
        event.duration_ms = self.began.elapsed().as_secs_f64() * 1e3;
        event.result_rows = Some(self.rows);
        event.result_bytes = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        let used = self.query.used().into_iter().map(|(topic, used)| {
            let counted =
                |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
            let read = json!({
                "as_of": bounded(&ranges_text(&used.ranges), STATEMENT_BYTES),
                "records": counted(&used.counters.rows),
                "bytes": counted(&used.counters.bytes),
            });
            (topic, read)
        });
        event.read = Some(serde_json::Value::Object(used.take(TOPICS_MAX).collect()));
        match failed {
            Some((code, why)) => {
                event.outcome = bounded(&why, MESSAGE_BYTES);
                event.error_code = Some(code);
            }
            None => "ok".clone_into(&mut event.outcome),
        }
        event
    }
}

/// A line names no more.
const TOPICS_MAX: usize = 20;

impl From<AuditError> for SqlError {
    fn from(error: AuditError) -> SqlError {
        SqlError::Audit(Arc::new(error))
    }
}
