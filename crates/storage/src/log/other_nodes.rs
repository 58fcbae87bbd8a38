//! Write-ahead logs that brokers with other node ids have left in a data directory. A broker reads its own only: records that are in
//! another one and in no segment would be missing, and their offsets would be given out again.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kafscale_core::ids::{Offset, PartitionId};
use kafscale_meta::MetaStore;
use kafscale_meta::records::Keyspace;

use super::load::load_records;
use crate::error::OpenError;
use crate::wal::recovery;

/// Where a log ends, by partition.
type Ends = HashMap<PartitionId, Offset>;

/// Refuses where another node's log has records of a topic that exists, above its segments.
pub async fn check(dir: &Path, node_id: i32, meta: &dyn MetaStore, keys: &Keyspace) -> Result<(), OpenError> {
    let wal = dir.join("wal");
    let found = tokio::task::spawn_blocking(move || ends(&wal, node_id));
    for (node, ends) in found.await.expect("recovery does not panic")? {
        let ids: HashSet<PartitionId> = ends.keys().copied().collect();
        let failed = |e: kafscale_meta::Error| OpenError::Meta(e.to_string());
        let records = load_records(meta, keys, &ids).await.map_err(failed)?;
        for (id, end) in ends {
            let record = records.get(&id).and_then(|r| r.partition.as_ref()).map(|(record, _)| record);
            let in_segments = record.map_or(0, |r| {
                r.segments.last().map_or(0, |s| s.last_offset.saturating_add(1)).max(r.log_start_offset)
            });
            let exists = meta.get(&keys.assignment(id.topic.0)).await.map_err(failed)?.is_some();
            if exists && end.0 > in_segments {
                return Err(OpenError::OtherNode { path: dir.to_owned(), node, node_id });
            }
        }
    }
    Ok(())
}

/// Where the logs of other nodes end.
fn ends(wal: &Path, node_id: i32) -> Result<Vec<(i32, Ends)>, OpenError> {
    let mut found = Vec::new();
    for (node, path) in nodes(wal)? {
        if node == node_id {
            continue;
        }
        found.push((node, recovery::ends(&recovery::read_all(&path)?)));
    }
    Ok(found)
}

/// The directories of all nodes that have written here.
fn nodes(wal: &Path) -> Result<Vec<(i32, PathBuf)>, OpenError> {
    let failed = |error| OpenError::Io { path: wal.to_owned(), error };
    let mut found = Vec::new();
    let listed = match std::fs::read_dir(wal) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(found),
        listed => listed.map_err(failed)?,
    };
    for entry in listed {
        let path = entry.map_err(failed)?.path();
        let node = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        if let Some(node) = node.filter(|_| path.is_dir()) {
            found.push((node, path));
        }
    }
    found.sort();
    Ok(found)
}
