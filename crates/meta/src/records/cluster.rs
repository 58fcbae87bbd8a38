//! `cluster`: the identity of the cluster. Written once, by the first broker that starts, if absent; never changed.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record};

/// The identity of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// As Kafka has it: a random UUID in 22 characters of URL-safe base64.
    pub cluster_id: String,
    pub created_ms: i64,
}

impl Record for ClusterRecord {
    const KIND: &'static str = "cluster";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn cluster(&self) -> String {
        self.key(format_args!("cluster"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{any_name, check_bytes, check_encoding};

    proptest! {
        #[test]
        fn round_trip(cluster_id in any_name(), created_ms: i64) {
            check_encoding(&ClusterRecord { cluster_id, created_ms });
        }
    }

    #[test]
    fn bytes() {
        let record = ClusterRecord { cluster_id: "MkU3OEVBNTcwNTJENDM2Qg".into(), created_ms: 1 };
        check_bytes(&record, r#"{"v":1,"cluster_id":"MkU3OEVBNTcwNTJENDM2Qg","created_ms":1}"#);
    }
}
