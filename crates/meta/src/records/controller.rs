//! `controller`: the broker that assigns partitions. Written by whichever broker finds it absent, bound to that broker's
//! lease. Every write of a controller is guarded by the create revision of this key, so that a former holder is fenced.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record};

/// The holder of the controller's office.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerRecord {
    pub node_id: i32,
    /// The epoch of the holder's incarnation.
    pub epoch: u64,
}

impl Record for ControllerRecord {
    const KIND: &'static str = "controller";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn controller(&self) -> String {
        self.key(format_args!("controller"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{check_bytes, check_encoding};

    proptest! {
        #[test]
        fn round_trip(node_id: i32, epoch: u64) {
            check_encoding(&ControllerRecord { node_id, epoch });
        }
    }

    #[test]
    fn bytes() {
        let record = ControllerRecord { node_id: 1, epoch: 7 };
        check_bytes(&record, r#"{"v":1,"node_id":1,"epoch":7}"#);
    }
}
