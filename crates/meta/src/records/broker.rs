//! `brokers/{node_id}`: a live broker. Written by the broker when it starts, bound to its lease, so that it vanishes
//! when the broker is gone. Never changed afterwards.
//!
//! `incarnations/{node_id}`: written before that, not bound to a lease. The revision of this write is the epoch of the
//! incarnation, which is therefore never used twice.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record, codec::decode_number};

/// Where a further listener of a broker is reached, for clients that come in by a listener of that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerRecord {
    pub name: String,
    pub host: String,
    pub port: u16,
}

/// A live broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRecord {
    /// Where clients reach it by its main listener.
    pub host: String,
    pub port: u16,
    /// The others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerRecord>,
    pub rack: Option<String>,
    /// The release that it runs.
    pub version: String,
    /// `host:port` of its metrics, if it serves them.
    pub metrics_address: Option<String>,
    /// The epoch of its incarnation: see the file's comment.
    pub epoch: u64,
    pub started_ms: i64,
}

impl Record for BrokerRecord {
    const KIND: &'static str = "broker";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn brokers_prefix(&self) -> String {
        self.key(format_args!("brokers/"))
    }

    pub fn broker(&self, node_id: i32) -> String {
        self.key(format_args!("brokers/{node_id}"))
    }

    pub fn parse_broker(&self, key: &str) -> Option<i32> {
        let [node_id] = self.components(key, "brokers")?;
        decode_number(node_id)
    }

    pub fn incarnation(&self, node_id: i32) -> String {
        self.key(format_args!("incarnations/{node_id}"))
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
            (host, version) in (any_name(), any_name()),
            (rack, metrics_address) in (proptest::option::of(any_name()), proptest::option::of(any_name())),
            port: u16, epoch: u64, started_ms: i64, node_id: i32,
            listeners in proptest::collection::vec((any_name(), any_name(), any::<u16>()), 0..3),
        ) {
            let listener = |(name, host, port)| ListenerRecord { name, host, port };
            let listeners = listeners.into_iter().map(listener).collect();
            check_encoding(&BrokerRecord {
                host, port, listeners, rack, version, metrics_address, epoch, started_ms,
            });
            prop_assert_eq!(keyspace().parse_broker(&keyspace().broker(node_id)), Some(node_id));
        }
    }

    #[test]
    fn a_number_has_one_key() {
        for key in ["01", "+1", "", "x", "-0"] {
            assert_eq!(keyspace().parse_broker(&format!("/kafscale/test/brokers/{key}")), None);
        }
    }

    #[test]
    fn bytes() {
        let record = BrokerRecord {
            host: "broker-1".into(),
            port: 9092,
            listeners: Vec::new(),
            rack: None,
            version: "0.1.0".into(),
            metrics_address: Some("broker-1:9093".into()),
            epoch: 7,
            started_ms: 1,
        };
        check_bytes(
            &record,
            concat!(
                r#"{"v":1,"host":"broker-1","port":9092,"rack":null,"version":"0.1.0","#,
                r#""metrics_address":"broker-1:9093","epoch":7,"started_ms":1}"#
            ),
        );
        let internal = ListenerRecord { name: "INTERNAL".into(), host: "b".into(), port: 9 };
        check_bytes(
            &BrokerRecord { listeners: vec![internal], metrics_address: None, ..record },
            concat!(
                r#"{"v":1,"host":"broker-1","port":9092,"listeners":[{"name":"INTERNAL","host":"b","port":9}],"#,
                r#""rack":null,"version":"0.1.0","metrics_address":null,"epoch":7,"started_ms":1}"#
            ),
        );
    }
}
