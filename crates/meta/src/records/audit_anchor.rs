//! `audit-anchors/{name}`: where the audit log of an MCP server ended, kept where somebody who can shorten the log cannot reach. Written
//! by that server, about once a second while lines are added, and when it stops. The name tells host and file apart from others.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record};

/// A line of the log that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditAnchorRecord {
    /// The number of the line.
    pub seq: u64,
    /// Its SHA-256, in hex.
    pub hash: String,
    pub at_ms: i64,
    /// For people: where the log is.
    pub host: String,
    pub path: String,
}

impl Record for AuditAnchorRecord {
    const KIND: &'static str = "audit anchor";
    const VERSION: u32 = 1;
}

impl Keyspace {
    /// The name is of letters and digits.
    pub fn audit_anchor(&self, name: &str) -> String {
        self.key(format_args!("audit-anchors/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{any_name, check_bytes, check_encoding};

    proptest! {
        #[test]
        fn round_trip((hash, host, path) in (any_name(), any_name(), any_name()), seq: u64, at_ms: i64) {
            check_encoding(&AuditAnchorRecord { seq, hash, at_ms, host, path });
        }
    }

    #[test]
    fn bytes() {
        let record =
            AuditAnchorRecord { seq: 3, hash: "ab".into(), at_ms: 5, host: "h".into(), path: "/p".into() };
        check_bytes(&record, r#"{"v":1,"seq":3,"hash":"ab","at_ms":5,"host":"h","path":"/p"}"#);
    }
}
