//! One call of a tool: who calls, what the request says about itself, and the line that the audit log gets.
//!
//! Invariant: a tool that has to write a decision down before it acts cannot go on without it: [`AuditLine::decide`] fails where the log
//! does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kafscale_audit::{AuditLog, DECIDED, Decision, Event, hex};
use kafscale_core::clock::Clock;
use kafscale_core::utc;
use kafscale_identity::Principal;
use parking_lot::Mutex;
use rmcp::model::JsonObject;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::answer::ToolError;

/// Of longer details a line has a digest, and those of them that are short.
const MAX_DETAILS_BYTES: usize = 64 << 10;
/// Such as these, and no more of them than [`MAX_DETAILS_BYTES`].
const SHORT_DETAIL_BYTES: usize = 1 << 10;

/// Where lines are written.
#[derive(Clone, Debug)]
pub(crate) struct Auditor {
    /// None: calls are not written down.
    pub log: Option<AuditLog>,
    pub clock: Arc<dyn Clock>,
}

impl Auditor {
    /// An error means that the log does not hold the line. The log says for itself that it cannot be written.
    pub async fn write(&self, event: Event) -> Result<(), Unwritten> {
        let Some(log) = &self.log else { return Ok(()) };
        log.append(event).await.map_err(|_| Unwritten)
    }
}

/// A line is not in the audit log: what it is about must not be done, or not be told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unwritten;

impl Unwritten {
    /// For the client.
    pub const WHY: &str = "refused: the audit log cannot be written; tell the operator of this server";
}

/// One call, as its tool sees it.
#[derive(Clone, Debug)]
pub struct Call {
    pub principal: Principal,
    /// What the request says about itself (`_meta`).
    pub meta: Arc<JsonObject>,
    /// The client wants no answer any more, or the server stops. What a tool awaits is dropped then; this is for what it left to
    /// others.
    pub cancelled: CancellationToken,
    pub line: Arc<AuditLine>,
}

/// The line of a call. It is written when the call ends; what a tool adds is in it.
#[derive(Debug)]
pub struct AuditLine {
    auditor: Auditor,
    event: Mutex<Event>,
}

impl AuditLine {
    pub(crate) fn new(auditor: Auditor, event: Event) -> Arc<Self> {
        Arc::new(Self { auditor, event: Mutex::new(event) })
    }

    /// Writes what was decided about the call in a line of its own, with the outcome `decided`. Nothing may be done before this, and
    /// nothing at all if it fails.
    pub async fn decide(&self, decision: Decision, details: JsonObject) -> Result<(), ToolError> {
        let mut event = {
            let mut event = self.event.lock();
            // The outcome is a line of its own.
            event.call.get_or_insert_with(|| call_id(self.auditor.clock.now_ms()));
            event.clone()
        };
        event.time = utc::seconds(self.auditor.clock.now_ms());
        (event.decision, event.outcome) = (decision, DECIDED.to_owned());
        event.details = bounded(details);
        self.auditor.write(event).await.map_err(|_| ToolError::Unavailable(Unwritten::WHY.to_owned()))
    }

    /// Adds details to the line that is written when the call ends, such as what it was shaped by.
    pub fn add(&self, details: JsonObject) {
        let mut event = self.event.lock();
        let mut all = match event.details.take() {
            Some(Value::Object(all)) => all,
            Some(_) | None => JsonObject::new(),
        };
        all.extend(details);
        event.details = bounded(all);
    }

    /// The line, as it stands now.
    pub(crate) fn event(&self) -> Event {
        self.event.lock().clone()
    }

    pub(crate) async fn write(&self, event: Event) -> Result<(), Unwritten> {
        self.auditor.write(event).await
    }
}

/// A name that no other call has, of this run of the server or another.
fn call_id(now_ms: i64) -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    format!("{now_ms:x}-{:x}-{:x}", std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed))
}

fn bounded(details: JsonObject) -> Option<Value> {
    if details.is_empty() {
        return None;
    }
    let text = json!(details).to_string();
    if text.len() <= MAX_DETAILS_BYTES {
        return Some(Value::Object(details));
    }
    let mut kept: JsonObject =
        details.into_iter().filter(|(_, value)| value.to_string().len() <= SHORT_DETAIL_BYTES).collect();
    if json!(kept).to_string().len() > MAX_DETAILS_BYTES {
        kept.clear();
    }
    kept.insert("bytes".to_owned(), json!(text.len()));
    kept.insert("sha256".to_owned(), json!(hex(&Sha256::digest(text.as_bytes()))));
    Some(Value::Object(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_details_keep_what_is_short_of_them() {
        let details = |long: usize| {
            let details = json!({ "charged": { "rows": 5 }, "tables": "x".repeat(long) });
            bounded(details.as_object().cloned().unwrap_or_default()).unwrap()
        };
        assert_eq!(details(10)["tables"].as_str().map(str::len), Some(10));
        let long = details(MAX_DETAILS_BYTES);
        assert_eq!((&long["charged"]["rows"], &long["tables"]), (&json!(5), &Value::Null));
        assert!(long["sha256"].is_string() && long["bytes"].as_u64() > Some(MAX_DETAILS_BYTES as u64));
    }
}
