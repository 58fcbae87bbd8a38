//! Whether the write-ahead log of a local disk reaches as far as the metadata knows. A log that is gone, or was put back from an older
//! copy, has nothing in itself that shows it.

use kafscale_meta::records::{Keyspace, Record, WalEndRecord};
use kafscale_meta::{Error, MetaStore, MetaStoreExt};

use super::{Binding, IdentityError};
use crate::wal::recovery::RecoveredFile;

impl Binding<'_> {
    /// Refuses a log that ends earlier than it did. Without topics, nothing can be missing.
    pub(super) async fn check_wal_end(&self) -> Result<(), IdentityError> {
        let key = self.keys.wal_end(self.config.node_id);
        let Some(kv) = self.meta.get(&key).await? else { return Ok(()) };
        let known = WalEndRecord::decode(&key, &kv.value)?;
        let found = self.recovered.last().map(end_of);
        if found >= Some(known) || !self.has_topics().await? {
            return Ok(());
        }
        let found = match found {
            Some(WalEndRecord { file_no, position }) => {
                format!("what is there ends in file {file_no} at byte {position}")
            }
            None => "there is no file".to_owned(),
        };
        let place = format!("{}/wal/{}", self.place(), self.config.node_id);
        Err(IdentityError::ShortLog { place, file_no: known.file_no, position: known.position, found })
    }
}

pub fn end_of(file: &RecoveredFile) -> WalEndRecord {
    WalEndRecord { file_no: file.header.file_no, position: file.end }
}

/// Remembers how far the log of a node reaches, for its next start.
pub async fn note_wal_end(
    meta: &dyn MetaStore,
    keys: &Keyspace,
    node_id: i32,
    end: Option<WalEndRecord>,
) -> Result<(), Error> {
    let key = keys.wal_end(node_id);
    match end {
        Some(end) => meta.put(&key, end.encode()).await?,
        None => meta.delete(&key).await?,
    };
    Ok(())
}
