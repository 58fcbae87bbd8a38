//! Consumer groups and their committed offsets.

use std::collections::BTreeMap;

use super::{Metadata, Records, Versioned};
use crate::{
    Op, Result, Revision, Txn,
    records::{GroupRecord, OffsetKey, OffsetRecord, Record},
};

impl Metadata {
    pub async fn list_groups(&self) -> Result<Records<String, GroupRecord>> {
        self.list(&self.keys.groups_prefix(), |key| self.keys.parse_group(key)).await
    }

    pub async fn load_group(&self, group: &str) -> Result<Option<Versioned<GroupRecord>>> {
        self.load(&self.keys.group(group)).await
    }

    /// Writes the outcome of a rebalance.
    pub async fn save_group(&self, group: &str, record: &GroupRecord) -> Result<Revision> {
        self.save(&self.keys.group(group), record).await
    }

    /// Removes a group and all of its offsets at once.
    pub async fn delete_group(&self, group: &str) -> Result<Revision> {
        let txn = Txn::new()
            .and_then(Op::delete(self.keys.group(group)))
            .and_then(Op::delete_prefix(self.keys.offsets_of_group_prefix(group)));
        Ok(self.store.txn(txn).await?.revision)
    }

    /// Writes committed offsets, of any groups, in as few transactions as possible. Of several for one key the last
    /// counts. When this fails, some of them may have been written.
    pub async fn commit_offsets(
        &self,
        offsets: impl IntoIterator<Item = (OffsetKey, OffsetRecord)>,
    ) -> Result<()> {
        let last: BTreeMap<String, OffsetRecord> =
            offsets.into_iter().map(|(key, record)| (self.keys.offset(&key), record)).collect();
        self.apply_all(last.into_iter().map(|(key, record)| Op::put(key, record.encode())).collect()).await
    }

    /// Removes committed offsets, of any groups.
    pub async fn delete_offsets(&self, offsets: impl IntoIterator<Item = OffsetKey>) -> Result<()> {
        self.apply_all(offsets.into_iter().map(|key| Op::delete(self.keys.offset(&key))).collect()).await
    }

    /// The committed offsets of one group.
    pub async fn load_offsets(&self, group: &str) -> Result<Records<OffsetKey, OffsetRecord>> {
        self.list(&self.keys.offsets_of_group_prefix(group), |key| self.keys.parse_offset(key)).await
    }

    /// The committed offsets of all groups.
    pub async fn load_all_offsets(&self) -> Result<Records<OffsetKey, OffsetRecord>> {
        self.list(&self.keys.offsets_prefix(), |key| self.keys.parse_offset(key)).await
    }
}
