//! `chains/{node_id}/{incarnation}`: a write-ahead chain in an object store that may hold what no segment holds. Written by its
//! owner when it registers, when it has freed objects, and when it stops as planned; by the controller when it seals the chain of a
//! broker that is gone; and deleted by the controller when nothing in it is needed (ADR 0007).

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record, codec::decode_number};

/// Where a chain begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRecord {
    /// Objects below were freed. Published before they are deleted.
    pub first_seq: u64,
    /// Where the SEAL is: objects from here on do not count. `None` while the chain may grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_at: Option<u64>,
    /// What is lost of it was given up: a person restored the metadata without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
}

impl Record for ChainRecord {
    const KIND: &'static str = "chain";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn chains_prefix(&self) -> String {
        self.key(format_args!("chains/"))
    }

    pub fn chain(&self, node_id: i32, incarnation: u64) -> String {
        self.key(format_args!("chains/{node_id}/{incarnation}"))
    }

    pub fn parse_chain(&self, key: &str) -> Option<(i32, u64)> {
        let [node_id, incarnation] = self.components(key, "chains")?;
        Some((decode_number(node_id)?, decode_number(incarnation)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{check_bytes, check_encoding, keyspace};

    proptest! {
        #[test]
        fn round_trip(first_seq: u64, sealed_at: Option<u64>, given_up: bool, node_id: i32, incarnation: u64) {
            check_encoding(&ChainRecord { first_seq, sealed_at, given_up });
            let key = keyspace().chain(node_id, incarnation);
            prop_assert_eq!(keyspace().parse_chain(&key), Some((node_id, incarnation)));
        }
    }

    #[test]
    fn bytes() {
        let open = ChainRecord { first_seq: 3, ..ChainRecord::default() };
        check_bytes(&open, r#"{"v":1,"first_seq":3}"#);
        let sealed = ChainRecord { first_seq: 3, sealed_at: Some(9), given_up: false };
        check_bytes(&sealed, r#"{"v":1,"first_seq":3,"sealed_at":9}"#);
        let given_up = ChainRecord { given_up: true, ..sealed };
        check_bytes(&given_up, r#"{"v":1,"first_seq":3,"sealed_at":9,"given_up":true}"#);
    }
}
