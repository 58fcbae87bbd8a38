//! `traces/{node_id}`: the highest incarnation of a broker that was let in to write to the store.
//! `traces/snapshots`: the newest snapshot of the metadata that was written there.
//!
//! Both are noted before the store has anything of them, and never deleted. So metadata that lacks
//! what the store has is an old copy, however far its revisions have counted since.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record, codec::decode_number};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRecord {
    pub number: u64,
}

impl Record for TraceRecord {
    const KIND: &'static str = "trace";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn traces_prefix(&self) -> String {
        self.key(format_args!("traces/"))
    }

    pub fn writer_trace(&self, node_id: i32) -> String {
        self.key(format_args!("traces/{node_id}"))
    }

    pub fn parse_writer_trace(&self, key: &str) -> Option<i32> {
        let [node_id] = self.components(key, "traces")?;
        decode_number(node_id)
    }

    pub fn snapshot_trace(&self) -> String {
        self.key(format_args!("traces/snapshots"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{check_bytes, check_encoding, keyspace};

    proptest! {
        #[test]
        fn round_trip(number: u64, node_id: i32) {
            check_encoding(&TraceRecord { number });
            let keys = keyspace();
            prop_assert_eq!(keys.parse_writer_trace(&keys.writer_trace(node_id)), Some(node_id));
            prop_assert_eq!(keys.parse_writer_trace(&keys.snapshot_trace()), None);
        }
    }

    #[test]
    fn bytes() {
        check_bytes(&TraceRecord { number: 7 }, r#"{"v":1,"number":7}"#);
    }
}
