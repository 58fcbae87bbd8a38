//! The audit log: one line of JSON for each call of an agent (`kafscale-agent`) and each statement of a client of SQL
//! (`kafscale-analytics`), in one format, so that `kafscale audit verify` reads both.
//!
//! Each line carries the SHA-256 of the line before, so that a line that was changed, removed or moved breaks the chain.
//! What a chain cannot show, a missing end, shows in `FILE.head`, which holds the number and the hash of the last line; and in the
//! anchor, which holds the same outside the log's directory ([`anchor`], ADR 0019).

mod anchor;
mod log;
mod verify;

use std::fmt::Write as _;

use kafscale_core::utc;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use anchor::{Anchor, append_once, keep_anchored, look, open};
pub use log::{AuditError, AuditLog};
pub use verify::{
    Verified, Violation, Walked, read, verify, verify_anchored, verify_watched, verify_whole_lines,
};

/// What a line says, besides its place in the chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// RFC 3339, UTC.
    pub time: String,
    pub principal: String,
    /// `http`, `stdio` or `postgres`.
    pub transport: String,
    /// What the client calls itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client: Option<String>,
    /// The program that acts for the principal, as the issuer of its token says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub oauth_client: Option<String>,
    /// The address that the request came from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peer: Option<String>,
    /// As the client numbers its requests.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
    /// The beginning of the SHA-256 of the session's id: the id itself is as good as a key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<String>,
    /// Empty for a request that was turned away before it was read.
    pub method: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tool: Option<String>,
    /// Left out where they are none that the tool knows: a client may have sent anything.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub arguments: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub arguments_sha256: Option<String>,
    pub decision: Decision,
    pub outcome: String,
    pub duration_ms: f64,
    pub result_bytes: usize,
    /// Rows of the answer, of a statement of SQL.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub result_rows: Option<u64>,
    /// What a statement of SQL has read, by topic: ranges of offsets as `AS OF` takes them, records, bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub read: Option<Value>,
    /// What a server's own rules have to say about the call.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub details: Option<Value>,
    /// SQLSTATE, of a statement of SQL that failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error_code: Option<String>,
    /// What a decision and its outcome, which are two lines, have in common.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub call: Option<String>,
    /// Requests that were turned away since the last line of one, and have none.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub refusals_left_out: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Event {
    /// A line about something that `principal` did, to be filled in.
    pub fn new(now_ms: i64, principal: &str, transport: &str) -> Self {
        Self {
            time: utc::seconds(now_ms),
            principal: principal.to_owned(),
            transport: transport.to_owned(),
            client: None,
            oauth_client: None,
            peer: None,
            request_id: None,
            session: None,
            method: String::new(),
            tool: None,
            arguments: None,
            arguments_sha256: None,
            decision: Decision::Allow,
            outcome: String::new(),
            duration_ms: 0.0,
            result_bytes: 0,
            result_rows: None,
            read: None,
            details: None,
            error_code: None,
            call: None,
            refusals_left_out: 0,
        }
    }
}

/// Bytes as digits, two each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The outcome of a line that has a decision, and is written before anything is done.
pub const DECIDED: &str = "decided";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    Allow,
    Deny,
}

/// A line.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    v: u32,
    seq: u64,
    /// SHA-256 of the line before without its line break, in hex; 64 zeros in the first.
    prev: String,
    #[serde(flatten)]
    event: Event,
}

const VERSION: u32 = 1;
/// The longest line, without its line break: no longer one is written, and none is read.
pub const MAX_LINE_BYTES: usize = 256 << 10;

/// A place in the chain: a line's number, and its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    seq: u64,
    hash: String,
}

impl Link {
    /// None: that is no hash.
    fn new(seq: u64, hash: &str) -> Option<Self> {
        let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        is_hash.then(|| Self { seq, hash: hash.to_owned() })
    }

    /// As files hold it: always of the same length, so that it is written in place.
    fn line(&self) -> String {
        format!("{:020} {}\n", self.seq, self.hash)
    }

    /// What [`Link::line`] says.
    fn parse(text: &str) -> Option<Self> {
        let (seq, hash) = text.trim_end().split_once(' ')?;
        Self::new(seq.parse().ok()?, hash)
    }

    /// Before the first line, whose number is 1.
    fn genesis() -> Self {
        Self { seq: 0, hash: "0".repeat(64) }
    }
}
