//! `history`: what changed in the cluster lately, for people and agents who ask. Written by the controller, which sees every change of
//! topics, configs, brokers and leaders; changes that come together are gathered before. The newest entries are last, and there is a
//! limit to them.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record};

/// See the file's comment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRecord {
    pub entries: Vec<HistoryEntry>,
    /// The newest of the entries that were left out for want of room: what is later is all there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out_ms: Option<i64>,
}

/// A change, or several of one kind that came together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When it was, or when the controller saw it.
    pub at_ms: i64,
    pub kind: HistoryKind,
    /// The topic or the broker; of several, one.
    pub name: String,
    /// How many changes this is.
    pub count: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryKind {
    TopicCreated,
    TopicDeleted,
    PartitionsAdded,
    TopicConfig,
    BrokerConfig,
    BrokerStarted,
    BrokerStopped,
    BrokerVanished,
    LeadersMoved,
    ControllerElected,
    /// Its last member is gone.
    GroupEmptied,
    GroupDeleted,
    /// Of a later release.
    #[serde(other)]
    Other,
}

impl Record for HistoryRecord {
    const KIND: &'static str = "history";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn history(&self) -> String {
        self.key(format_args!("history"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{any_name, check_bytes, check_encoding};

    proptest! {
        #[test]
        fn round_trip(entries in proptest::collection::vec((any::<i64>(), any_name(), any::<u64>(), any_name()), 0..5)) {
            let entry = |(at_ms, name, count, detail)| {
                HistoryEntry { at_ms, kind: HistoryKind::TopicConfig, name, count, detail }
            };
            let left_out_ms = entries.first().map(|(at_ms, ..)| *at_ms);
            check_encoding(&HistoryRecord { entries: entries.into_iter().map(entry).collect(), left_out_ms });
        }
    }

    #[test]
    fn bytes() {
        let entry = HistoryEntry {
            at_ms: 5,
            kind: HistoryKind::LeadersMoved,
            name: "t".into(),
            count: 2,
            detail: "from 1 to 2".into(),
        };
        check_bytes(
            &HistoryRecord { entries: vec![entry], left_out_ms: None },
            r#"{"v":1,"entries":[{"at_ms":5,"kind":"leaders_moved","name":"t","count":2,"detail":"from 1 to 2"}]}"#,
        );
        check_bytes(
            &HistoryRecord { entries: Vec::new(), left_out_ms: Some(3) },
            r#"{"v":1,"entries":[],"left_out_ms":3}"#,
        );
    }
}
