//! What is in a bucket: the segments of each partition, the chains, and the incarnations that there were.

use std::collections::{BTreeMap, HashMap};
use std::io;

use futures_util::TryStreamExt;
use kafscale_core::ids::{Offset, PartitionId, TopicId};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use crate::log::objects::birth;
use crate::wal::chain_id::{CHAINS, ChainId};

/// A segment's object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub path: Path,
    pub size_bytes: u64,
    pub base_offset: Offset,
    /// The incarnation that wrote it, times 2^32, plus a count.
    pub number: u64,
    /// When it was put, by the store's clock.
    pub modified_ms: i64,
}

/// The segments that were found.
#[derive(Debug, Default)]
pub struct Segments {
    pub topics: HashMap<TopicId, String>,
    pub by_partition: BTreeMap<PartitionId, Vec<Object>>,
}

impl Segments {
    pub async fn of(store: &dyn ObjectStore) -> object_store::Result<Segments> {
        let mut found = Segments::default();
        let mut listed = store.list(Some(&Path::from("topics")));
        while let Some(object) = listed.try_next().await? {
            if let Some((topic, id, segment)) = segment(&object) {
                found.topics.insert(id.topic, topic);
                found.by_partition.entry(id).or_default().push(segment);
            }
        }
        Ok(found)
    }

    /// One that is not among `later`.
    pub fn gone_in(&self, later: &Segments) -> Option<&Path> {
        self.by_partition.iter().find_map(|(id, objects)| {
            let there = later.by_partition.get(id).map_or(&[][..], Vec::as_slice);
            objects.iter().map(|o| &o.path).find(|path| !there.iter().any(|o| o.path == **path))
        })
    }

    /// The highest incarnation that wrote one.
    pub fn last_incarnation(&self) -> u64 {
        self.by_partition.values().flatten().map(|object| object.number >> 32).max().unwrap_or(0)
    }
}

/// `topics/{topic}/{topic id}/{partition}/segment-{base offset}-{number}.kfs`
pub fn segment(object: &ObjectMeta) -> Option<(String, PartitionId, Object)> {
    let Named { topic, id, base_offset, number } = Named::parse(object.location.as_ref())?;
    let segment = Object {
        path: object.location.clone(),
        size_bytes: object.size,
        base_offset,
        number,
        modified_ms: object.last_modified.timestamp_millis(),
    };
    Some((topic.to_owned(), id, segment))
}

/// What the path of a segment says.
struct Named<'a> {
    topic: &'a str,
    id: PartitionId,
    base_offset: Offset,
    number: u64,
}

impl<'a> Named<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let mut parts = path.split('/').skip(1);
        let topic = parts.next()?;
        let (topic_id, index) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let name = parts.next()?.strip_prefix("segment-")?.strip_suffix(".kfs")?;
        let (base, number) = name.split_once('-').unwrap_or((name, "0"));
        let id = PartitionId { topic: TopicId(topic_id), index };
        Some(Named { topic, id, base_offset: Offset(base.parse().ok()?), number: number.parse().ok()? })
    }
}

/// The newest segment of each partition in a directory, by its base offset. Only names are read: to ask the system about each file, as a
/// listing of the store does, takes ten times as long.
pub fn newest_in(directory: &std::path::Path) -> io::Result<BTreeMap<PartitionId, (Offset, String)>> {
    let mut newest: BTreeMap<PartitionId, (Offset, String)> = BTreeMap::new();
    let mut below = vec![("topics".to_owned(), 0)];
    while let Some((path, depth)) = below.pop() {
        let listed = match std::fs::read_dir(directory.join(&path)) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            // A link that leads to itself is left alone, as in a listing.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => continue,
            listed => listed?,
        };
        for entry in listed {
            // No segment has a name that is not UTF-8.
            let Ok(name) = entry?.file_name().into_string() else { continue };
            let path = format!("{path}/{name}");
            if depth < PARTITION_DEPTH {
                below.push((path, depth + 1));
            } else if let Some(Named { id, base_offset, .. }) = Named::parse(&path)
                && newest.get(&id).is_none_or(|(known, _)| *known < base_offset)
            {
                newest.insert(id, (base_offset, path));
            }
        }
    }
    Ok(newest)
}

/// How far below `topics` the directory of a partition is.
const PARTITION_DEPTH: u32 = 3;

/// The objects of a chain, with their sizes.
pub type ChainObjects = BTreeMap<u64, u64>;

/// All chains of which there is anything, and those of incarnations that were born and wrote nothing yet.
pub async fn chains(store: &dyn ObjectStore) -> object_store::Result<BTreeMap<ChainId, ChainObjects>> {
    let born = birth::list(store).await?;
    let mut found: BTreeMap<_, _> = born.into_keys().map(|id| (id, ChainObjects::new())).collect();
    let mut listed = store.list(Some(&Path::from(CHAINS)));
    while let Some(object) = listed.try_next().await? {
        if let Some((id, seq)) = ChainId::parse(&object.location) {
            found.entry(id).or_default().insert(seq, object.size);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_known_by_their_names() {
        let id = PartitionId { topic: TopicId(uuid::Uuid::from_u128(5)), index: 3 };
        let object = |path: &str| ObjectMeta {
            location: Path::from(path),
            last_modified: Default::default(),
            size: 12,
            e_tag: None,
            version: None,
        };
        for number in [0, (9 << 32) | 4] {
            let path = crate::segment::segment_path("a.b", id, Offset(70), number);
            let (topic, of, found) = segment(&object(&path)).unwrap();
            assert_eq!(
                (topic.as_str(), of, found.base_offset, found.number),
                ("a.b", id, Offset(70), number)
            );
        }
        assert_eq!(segment(&object("topics/a/b/c")), None);
    }
}
