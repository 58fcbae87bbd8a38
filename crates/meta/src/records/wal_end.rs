//! `wal-ends/{node_id}`: how far the write-ahead log of a broker on a local disk reaches at least. Written when a process begins its
//! first file, before a start takes a file without records away, and at a clean stop; never for a produce. A start that finds less
//! misses acknowledged records.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WalEndRecord {
    /// The newest file.
    pub file_no: u64,
    /// Where its objects ended.
    pub position: u64,
}

impl Record for WalEndRecord {
    const KIND: &'static str = "end of a write-ahead log";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn wal_end(&self, node_id: i32) -> String {
        self.key(format_args!("wal-ends/{node_id}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{check_bytes, check_encoding};

    proptest! {
        #[test]
        fn round_trip(file_no: u64, position: u64) {
            check_encoding(&WalEndRecord { file_no, position });
        }
    }

    #[test]
    fn bytes() {
        check_bytes(&WalEndRecord { file_no: 3, position: 4096 }, r#"{"v":1,"file_no":3,"position":4096}"#);
    }
}
