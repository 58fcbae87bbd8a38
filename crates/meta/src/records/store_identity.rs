//! `store`: the identity of the store that this metadata belongs to. The store has the same id in an object of its own. Written once, by
//! the first broker that has probed the store; deleted when the cluster, still without topics, is given another store.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record};

/// Which store holds the records that this metadata describes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRecord {
    /// A random UUID with hyphens. It goes with the data: a copy of a bucket has the id of the original.
    pub store_id: String,
}

impl Record for StoreRecord {
    const KIND: &'static str = "store";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn store(&self) -> String {
        self.key(format_args!("store"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{any_name, check_bytes, check_encoding};

    proptest! {
        #[test]
        fn round_trip(store_id in any_name()) {
            check_encoding(&StoreRecord { store_id });
        }
    }

    #[test]
    fn bytes() {
        check_bytes(&StoreRecord { store_id: "a-b".into() }, r#"{"v":1,"store_id":"a-b"}"#);
    }
}
