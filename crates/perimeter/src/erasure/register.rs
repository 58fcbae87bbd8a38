//! The register of erasure requests: an audit log of its own beside that of the server, in the same form, with its own head and anchor.
//!
//! A running server holds its audit log, and nobody else writes to it. It follows the register, and names the register's last line in
//! each line of its own, so that lines that are taken out of the register show there.
//!
//! Invariant: no identifier of a subject is in it, and no value of a row.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kafscale_audit::{Anchor, AuditError, Event, Violation, hex, keep_anchored, open, verify_watched};
use kafscale_core::clock::Clock;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::hashes::SubjectHash;
use super::search::Found;

/// The method of its lines.
pub const METHOD: &str = "erasure";

#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("the register of erasure requests does not hold: {0}")]
    Violated(#[from] Violation),
    #[error("line {line} of the register of erasure requests is none: {source}")]
    Form { line: u64, source: serde_json::Error },
    #[error("the register of erasure requests cannot be written: {0}")]
    Unwritten(#[from] AuditError),
}

/// What a line says. The principal of the line is who did it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Entry {
    Open {
        request: String,
        subject: String,
        key_check: String,
        /// Hashes of identifiers in hex, by the label of their columns.
        hashes: BTreeMap<String, Vec<String>>,
        reason: String,
        found: Found,
    },
    Record {
        request: String,
        /// `collection.table`
        table: String,
        note: String,
    },
    Verify {
        request: String,
        found: Found,
    },
    Withdraw {
        request: String,
        reason: String,
    },
}

impl Entry {
    fn tool(&self) -> &'static str {
        match self {
            Entry::Open { .. } => "erasure.open",
            Entry::Record { .. } => "erasure.record",
            Entry::Verify { .. } => "erasure.verify",
            Entry::Withdraw { .. } => "erasure.withdraw",
        }
    }

    fn tables(&self) -> Vec<&str> {
        match self {
            Entry::Open { found, .. } | Entry::Verify { found, .. } => {
                let mut tables: Vec<&str> = found.places.iter().map(|place| place.table.as_str()).collect();
                tables.dedup();
                tables
            }
            Entry::Record { table, .. } => vec![table],
            Entry::Withdraw { .. } => Vec::new(),
        }
    }
}

/// Somebody did something at some time.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    pub time: String,
    pub by: String,
    pub what: String,
}

/// Where a request stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    Open,
    /// What remains has a stated end, which is the latest of them.
    ClosedUntil {
        until: String,
    },
    Closed,
    Withdrawn,
}

#[derive(Debug, Clone, Serialize)]
pub struct Request {
    pub id: String,
    pub subject: String,
    #[serde(skip)]
    pub key_check: String,
    #[serde(skip)]
    pub hashes: BTreeMap<String, Vec<String>>,
    #[serde(flatten)]
    pub state: State,
    pub opened: Done,
    /// As of when it was opened.
    pub found: Found,
    /// Who says to have erased what, by table.
    pub recorded: BTreeMap<String, Done>,
    /// When it was looked at again, and what was there.
    pub verified: Option<(Done, Found)>,
    pub withdrawn: Option<Done>,
}

impl Request {
    /// Whether rows of the subject are left out of answers: until nothing of it is there, also where what remains has an end.
    pub fn is_suppressed(&self) -> bool {
        matches!(self.state, State::Open | State::ClosedUntil { .. })
    }

    /// As they are compared.
    pub fn hashes(&self) -> impl Iterator<Item = (String, HashSet<SubjectHash>)> {
        self.hashes
            .iter()
            .map(|(label, hashes)| (label.clone(), hashes.iter().filter_map(|text| parse(text)).collect()))
    }
}

fn parse(text: &str) -> Option<SubjectHash> {
    let mut hash = SubjectHash::default();
    if text.len() != 2 * hash.len() || !text.is_ascii() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
}

/// All requests, by id.
#[derive(Debug, Default)]
pub struct Register {
    pub requests: BTreeMap<String, Request>,
    end: Option<(u64, String)>,
}

impl Register {
    /// The last line.
    pub fn end_told(&self) -> String {
        self.end.as_ref().map_or_else(String::new, |(line, hash)| format!("{line}:{hash}"))
    }

    fn take(&mut self, time: &str, by: &str, entry: Entry) {
        let done = |what: String| Done { time: time.to_owned(), by: by.to_owned(), what };
        match entry {
            Entry::Open { request: id, subject, key_check, hashes, reason, found } => {
                let opened = done(reason);
                let (recorded, verified, withdrawn) = (BTreeMap::new(), None, None);
                let state = State::Open;
                let request = Request {
                    id: id.clone(),
                    subject,
                    key_check,
                    hashes,
                    state,
                    opened,
                    found,
                    recorded,
                    verified,
                    withdrawn,
                };
                self.requests.insert(id, request);
            }
            Entry::Record { request, table, note } => {
                if let Some(request) = self.requests.get_mut(&request) {
                    request.recorded.insert(table, done(note));
                }
            }
            Entry::Verify { request, found } => {
                if let Some(request) = self.requests.get_mut(&request) {
                    request.state = found.state();
                    request.verified = Some((done(found.in_words()), found));
                }
            }
            Entry::Withdraw { request, reason } => {
                if let Some(request) = self.requests.get_mut(&request) {
                    (request.state, request.withdrawn) = (State::Withdrawn, Some(done(reason)));
                }
            }
        }
    }
}

/// Where the register of an audit log is, and its anchor.
pub fn beside(audit_log: &Path, audit_anchor: Option<&Path>) -> (PathBuf, PathBuf) {
    let with = |path: &Path, end: &str| {
        let mut path = path.to_owned().into_os_string();
        path.push(end);
        PathBuf::from(path)
    };
    let register = with(audit_log, ".erasures");
    let anchor = audit_anchor.map_or_else(|| with(&register, ".anchor"), |anchor| with(anchor, ".erasures"));
    (register, anchor)
}

/// Verifies and reads a register. One that is not there, and of which no anchor is, has no requests.
pub fn read(path: &Path, anchor: &Path) -> Result<Register, RegisterError> {
    let mut register = Register::default();
    let has_anchor = anchor.exists();
    if !path.exists() && !has_anchor {
        return Ok(register);
    }
    let verified = verify_watched(path, has_anchor.then_some(anchor), &mut |_| ())?;
    let mut wrong = None;
    kafscale_audit::read(path, verified.lines, |walked| {
        let event = walked.event;
        if event.method == METHOD {
            let details = event.details.clone().unwrap_or_default();
            match serde_json::from_value::<Entry>(details["entry"].clone()) {
                Ok(entry) => register.take(&event.time, &event.principal, entry),
                Err(source) => {
                    wrong = Some(RegisterError::Form { line: walked.seq(), source });
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    register.end = Some((verified.lines, verified.last_hash));
    wrong.map_or(Ok(register), Err)
}

/// Adds a line. It is on disk, and anchored, when this returns.
pub async fn append(
    path: &Path,
    anchor: &Path,
    clock: Arc<dyn Clock>,
    by: &str,
    entry: &Entry,
) -> Result<(), RegisterError> {
    let anchor = Anchor::File(anchor.to_owned());
    let (log, compared) = open(path, &anchor, clock.now_ms()).await?;
    let mut event = Event::new(clock.now_ms(), by, "command");
    event.method = METHOD.to_owned();
    event.tool = Some(entry.tool().to_owned());
    event.outcome = "ok".to_owned();
    event.details = Some(json!({ "tables": entry.tables(), "entry": entry }));
    log.append(event).await?;
    // It writes the anchor once more after it is told to stop.
    let stop = CancellationToken::new();
    stop.cancel();
    keep_anchored(log, path.to_owned(), anchor, compared, clock, stop).await;
    Ok(())
}

/// As the register has them.
pub fn told(hashes: &HashSet<SubjectHash>) -> Vec<String> {
    let mut told: Vec<String> = hashes.iter().map(|hash| hex(hash)).collect();
    told.sort();
    told
}
