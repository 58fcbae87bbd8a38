//! The mark of an incarnation in the bucket, made before its first object and never deleted. Who has lost the metadata finds by it the
//! chains of all incarnations, also of those that have written nothing yet, and can seal them.
//!
//! The metadata has a note of the incarnation before there is the mark. Marks of earlier releases,
//! which made none, are empty.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::wal::chain_id::ChainId;

const DIRECTORY: &str = "incarnations";
const NOTED: &[u8] = br#"{"v":1,"noted":true}"#;

fn path(id: ChainId) -> Path {
    Path::from(format!("{DIRECTORY}/{:020}-{:020}", id.node_id, id.incarnation))
}

pub async fn mark(store: &dyn ObjectStore, id: ChainId) -> object_store::Result<()> {
    store.put(&path(id), Bytes::from_static(NOTED).into()).await.map(drop)
}

/// All incarnations that were marked, and whether the metadata had a note of each.
pub async fn list(store: &dyn ObjectStore) -> object_store::Result<BTreeMap<ChainId, bool>> {
    let listed: Vec<_> = store.list(Some(&Path::from(DIRECTORY))).try_collect().await?;
    Ok(listed.iter().filter_map(|object| Some((parse(&object.location)?, object.size > 0))).collect())
}

fn parse(marked: &Path) -> Option<ChainId> {
    let (node_id, incarnation) = marked.filename()?.split_once('-')?;
    let id = ChainId { node_id: node_id.parse().ok()?, incarnation: incarnation.parse().ok()? };
    (path(id) == *marked).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_back_and_nothing_else_is_a_mark() {
        let id = ChainId { node_id: 7, incarnation: u64::MAX };
        assert_eq!(path(id).as_ref(), "incarnations/00000000000000000007-18446744073709551615");
        assert_eq!(parse(&path(id)), Some(id));
        for other in ["incarnations/7-1", "incarnations/a", "wal/00000000000000000007-18446744073709551615"] {
            assert_eq!(parse(&Path::from(other)), None, "{other}");
        }
    }
}
