//! `members/{node_id}`: a broker that the cluster has had, alive or not. Written by the broker when it registers, and when it leaves as
//! planned, and now and then while it lives; by the controller when it is gone without that. Not bound to a lease, so that a broker that vanished is remembered: whoever
//! has a record that does not say `left`, and is not registered under that epoch, is missing.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record, codec::decode_number};

/// A broker, and how it was last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Where clients reached it.
    pub host: String,
    pub port: u16,
    /// Of the incarnation that this is about.
    pub epoch: u64,
    pub started_ms: i64,
    /// The release that it runs. Earlier ones did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When it last noted that it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alive_ms: Option<i64>,
    /// When it left as planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<i64>,
    /// It left before it served anybody: its start failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// What the controller found when it was gone without leaving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostRecord>,
    /// The incarnation before this one, whose end there may have been nobody to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousRecord>,
}

/// An earlier incarnation of a broker, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousRecord {
    pub started_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alive_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<i64>,
    /// When the controller found that it was gone without leaving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_ms: Option<i64>,
}

impl MemberRecord {
    /// What the next incarnation keeps of this one. A start that failed does not hide how the one before it ended.
    pub fn as_previous(self) -> PreviousRecord {
        match self.previous {
            Some(previous) if self.failed => previous,
            _ => PreviousRecord {
                started_ms: self.started_ms,
                version: self.version,
                alive_ms: self.alive_ms,
                left_ms: self.left_ms,
                lost_ms: self.lost.map(|lost| lost.at_ms),
            },
        }
    }
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
            let member = MemberRecord { host, port, epoch, started_ms, left_ms, lost, ..MemberRecord::default() };
            let previous = Some(member.clone().as_previous());
            check_encoding(&MemberRecord { version: Some("1".into()), alive_ms: left_ms, previous, failed: true, ..member });
            prop_assert_eq!(keyspace().parse_member(&keyspace().member(node_id)), Some(node_id));
        }
    }

    #[test]
    fn bytes() {
        let record =
            MemberRecord { host: "b".into(), port: 9, epoch: 7, started_ms: 1, ..MemberRecord::default() };
        check_bytes(&record, r#"{"v":1,"host":"b","port":9,"epoch":7,"started_ms":1}"#);
        let lost = LostRecord { at_ms: 5, partitions: 3, topic: Some("t".into()) };
        check_bytes(
            &MemberRecord { left_ms: Some(4), lost: Some(lost), ..record.clone() },
            concat!(
                r#"{"v":1,"host":"b","port":9,"epoch":7,"started_ms":1,"left_ms":4,"#,
                r#""lost":{"at_ms":5,"partitions":3,"topic":"t"}}"#
            ),
        );
        let version = Some("0.2.0".to_owned());
        let previous =
            MemberRecord { version: version.clone(), alive_ms: Some(3), ..record.clone() }.as_previous();
        check_bytes(
            &MemberRecord { version, alive_ms: Some(9), previous: Some(previous), ..record },
            concat!(
                r#"{"v":1,"host":"b","port":9,"epoch":7,"started_ms":1,"version":"0.2.0","alive_ms":9,"#,
                r#""previous":{"started_ms":1,"version":"0.2.0","alive_ms":3}}"#
            ),
        );
    }

    #[test]
    fn an_attempt_that_failed_does_not_hide_how_the_one_before_it_ended() {
        let served = MemberRecord { started_ms: 1, alive_ms: Some(5), ..MemberRecord::default() };
        let crashed = served.as_previous();
        let failed = MemberRecord {
            started_ms: 7,
            left_ms: Some(8),
            failed: true,
            previous: Some(crashed.clone()),
            ..MemberRecord::default()
        };
        assert_eq!(failed.clone().as_previous(), crashed);
        let served = MemberRecord { failed: false, ..failed };
        assert_eq!(served.as_previous().left_ms, Some(8));
    }
}
