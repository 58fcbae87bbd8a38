//! `producer-ids`: the first producer id that nobody has taken. Written by a broker that takes the next block, by
//! compare-and-swap; a broker that dies loses the rest of its block.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record};

/// How many producer ids a broker takes at a time, as Kafka does.
pub const PRODUCER_ID_BLOCK: i64 = 1000;

/// The state of the allocation of producer ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerIdsRecord {
    /// Where the next block starts.
    pub next: i64,
}

impl Record for ProducerIdsRecord {
    const KIND: &'static str = "producer ids";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn producer_ids(&self) -> String {
        self.key(format_args!("producer-ids"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{check_bytes, check_encoding};

    proptest! {
        #[test]
        fn round_trip(next: i64) {
            check_encoding(&ProducerIdsRecord { next });
        }
    }

    #[test]
    fn bytes() {
        let record = ProducerIdsRecord { next: 2000 };
        check_bytes(&record, r#"{"v":1,"next":2000}"#);
    }
}
