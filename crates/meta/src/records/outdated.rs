//! `outdated`: this metadata was restored from a copy that is older than the store it describes.
//! Written by the first start that finds it, and there until the metadata is rebuilt: what shows it
//! is that the store has an incarnation or a snapshot that this metadata does not know, and each
//! further start takes a number.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutdatedRecord {
    /// The incarnation that has written to the store. In another store, which does not know it, the metadata may be in its place.
    pub node_id: i32,
    pub incarnation: u64,
    /// The highest number that the metadata knew when this was found.
    pub known: u64,
    /// The snapshot in the store that shows it, where no incarnation does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<u64>,
}

impl Record for OutdatedRecord {
    const KIND: &'static str = "outdated metadata";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn outdated(&self) -> String {
        self.key(format_args!("outdated"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{check_bytes, check_encoding};

    proptest! {
        #[test]
        fn round_trip(node_id: i32, incarnation: u64, known: u64, snapshot: Option<u64>) {
            check_encoding(&OutdatedRecord { node_id, incarnation, known, snapshot });
        }
    }

    #[test]
    fn bytes() {
        let record = OutdatedRecord { node_id: 1, incarnation: 9, known: 7, snapshot: None };
        check_bytes(&record, r#"{"v":1,"node_id":1,"incarnation":9,"known":7}"#);
        let record = OutdatedRecord { snapshot: Some(8), ..record };
        check_bytes(&record, r#"{"v":1,"node_id":1,"incarnation":9,"known":7,"snapshot":8}"#);
    }
}
