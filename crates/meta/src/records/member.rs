//! `members/{node_id}`: a broker that the cluster has had, alive or not. Written by the broker when it registers, and when it leaves as
//! planned; by the controller when it is gone without that. Not bound to a lease, so that a broker that vanished is remembered: whoever
//! has a record that does not say `left`, and is not registered under that epoch, is missing.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record, codec::decode_number};

/// A broker, and how it was last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Where clients reached it.
    pub host: String,
    pub port: u16,
    /// Of the incarnation that this is about.
    pub epoch: u64,
    pub started_ms: i64,
    /// When it left as planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<i64>,
    /// What the controller found when it was gone without leaving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostRecord>,
}

/// The end of a broker that nobody had planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRecord {
    pub at_ms: i64,
    /// Partitions that it led.
    pub partitions: u64,
    /// A topic of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

impl Record for MemberRecord {
    const KIND: &'static str = "member";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn members_prefix(&self) -> String {
        self.key(format_args!("members/"))
    }

    pub fn member(&self, node_id: i32) -> String {
        self.key(format_args!("members/{node_id}"))
    }

    pub fn parse_member(&self, key: &str) -> Option<i32> {
        let [node_id] = self.components(key, "members")?;
        decode_number(node_id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{any_name, check_bytes, check_encoding, keyspace};

    proptest! {
        #[test]
        fn round_trip(
            (host, topic) in (any_name(), proptest::option::of(any_name())),
            (port, epoch, started_ms) in any::<(u16, u64, i64)>(),
            (left_ms, lost) in any::<(Option<i64>, Option<(i64, u64)>)>(),
            node_id: i32,
        ) {
            let lost = lost.map(|(at_ms, partitions)| LostRecord { at_ms, partitions, topic });
            check_encoding(&MemberRecord { host, port, epoch, started_ms, left_ms, lost });
            prop_assert_eq!(keyspace().parse_member(&keyspace().member(node_id)), Some(node_id));
        }
    }

    #[test]
    fn bytes() {
        let record =
            MemberRecord { host: "b".into(), port: 9, epoch: 7, started_ms: 1, left_ms: None, lost: None };
        check_bytes(&record, r#"{"v":1,"host":"b","port":9,"epoch":7,"started_ms":1}"#);
        let lost = LostRecord { at_ms: 5, partitions: 3, topic: Some("t".into()) };
        check_bytes(
            &MemberRecord { left_ms: Some(4), lost: Some(lost), ..record },
            concat!(
                r#"{"v":1,"host":"b","port":9,"epoch":7,"started_ms":1,"left_ms":4,"#,
                r#""lost":{"at_ms":5,"partitions":3,"topic":"t"}}"#
            ),
        );
    }
}
