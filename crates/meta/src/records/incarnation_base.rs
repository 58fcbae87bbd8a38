//! `incarnation-base`: what is added to revisions to make epochs of incarnations. Written when metadata is restored into a store
//! whose revisions begin anew: epochs of before must never come again, for objects in the bucket carry them.
//!
//! `restoring`: there from the first write of a restore to the last. Brokers do not join meanwhile.

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncarnationBaseRecord {
    pub base: u64,
}

impl Record for IncarnationBaseRecord {
    const KIND: &'static str = "incarnation base";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn incarnation_base(&self) -> String {
        self.key(format_args!("incarnation-base"))
    }

    pub fn restoring(&self) -> String {
        self.key(format_args!("restoring"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::codec::tests::check_bytes;

    #[test]
    fn bytes() {
        check_bytes(&IncarnationBaseRecord { base: 7 }, r#"{"v":1,"base":7}"#);
    }
}
