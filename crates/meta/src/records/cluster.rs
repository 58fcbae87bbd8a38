//! `cluster`: the identity of the cluster. Written once, by the first broker that starts, if absent;
//! never changed, but that a store is added to a record of an early release.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record};

/// The identity of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// As Kafka has it: a random UUID in 22 characters of URL-safe base64.
    pub cluster_id: String,
    pub created_ms: i64,
    /// Where all of its brokers keep the log: `s3://bucket/prefix`; or, where the log is on one broker's own disk, whose. A
    /// broker with another log would serve partitions that are empty. Absent in records of early releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
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
        fn round_trip(cluster_id in any_name(), created_ms: i64, store in proptest::option::of(any_name())) {
            check_encoding(&ClusterRecord { cluster_id, created_ms, store });
        }
    }

    #[test]
    fn bytes() {
        let record =
            ClusterRecord { cluster_id: "MkU3OEVBNTcwNTJENDM2Qg".into(), created_ms: 1, store: None };
        check_bytes(&record, r#"{"v":1,"cluster_id":"MkU3OEVBNTcwNTJENDM2Qg","created_ms":1}"#);
        let kept = ClusterRecord { store: Some("s3://b/p".into()), ..record };
        let bytes = r#"{"v":1,"cluster_id":"MkU3OEVBNTcwNTJENDM2Qg","created_ms":1,"store":"s3://b/p"}"#;
        check_bytes(&kept, bytes);
    }
}
