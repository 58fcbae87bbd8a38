//! Batches of the write-ahead log: where they stand, and reading them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use kafscale_core::batch::BatchHeader;
use kafscale_core::ids::{LeaderEpoch, Offset};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};

use super::ScanError;
use super::error::Step;
use super::local::OpenFile;
use crate::store::StoreError;
use crate::wal::object::IndexEntry;

/// Objects that are read at a time.
const OBJECTS_AT_ONCE: usize = 16;

/// Where batches stand.
#[derive(Debug, Clone)]
pub(super) enum Medium {
    /// In an object of this size.
    Object { size_bytes: u64 },
    /// In a file of a local disk.
    File(Arc<OpenFile>),
    /// Nowhere: a person has put an empty object in the place of a lost one.
    GivenUp,
}

/// A batch of the write-ahead log.
#[derive(Debug, Clone)]
pub(super) struct TailBatch {
    /// The path of the object or the file.
    pub object: Arc<str>,
    pub position: u64,
    pub size_bytes: u32,
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub max_timestamp_ms: i64,
    /// A time that no record is before.
    pub min_timestamp_ms: Option<i64>,
    pub records: u64,
    pub medium: Medium,
}

impl TailBatch {
    pub fn of(object: &Arc<str>, position: u64, entry: &IndexEntry, medium: Medium) -> TailBatch {
        TailBatch {
            object: Arc::clone(object),
            position,
            size_bytes: entry.size_bytes,
            base_offset: entry.base_offset,
            last_offset: entry.last_offset,
            leader_epoch: entry.leader_epoch,
            max_timestamp_ms: entry.max_timestamp_ms,
            min_timestamp_ms: entry.min_timestamp_ms(),
            records: u64::try_from(entry.records_count).unwrap_or_default(),
            medium,
        }
    }

    fn range(&self) -> Range<u64> {
        self.position..self.position + u64::from(self.size_bytes)
    }

    /// Whether the bytes are those of this batch.
    fn is_sound(&self, bytes: &[u8]) -> bool {
        BatchHeader::parse(bytes).is_ok_and(|header| {
            header.size_bytes == bytes.len()
                && header.base_offset == self.base_offset
                && header.last_offset() == self.last_offset
                && header.leader_epoch == self.leader_epoch
                && header.crc_matches(bytes)
        })
    }

    fn damaged(&self, why: impl Into<String>) -> ScanError {
        ScanError::Damaged {
            object: Arc::clone(&self.object),
            position: self.position,
            first: self.base_offset,
            last: self.last_offset,
            why: why.into(),
        }
    }
}

/// Batches in the order in which they were asked for, each by itself.
pub(super) type Read = Vec<Result<Bytes, Step>>;

/// Reads batches that follow each other.
pub(super) async fn read(store: &Arc<dyn ObjectStore>, wanted: &[TailBatch]) -> Read {
    let mut by_object: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, batch) in wanted.iter().enumerate() {
        by_object.entry(&batch.object).or_default().push(i);
    }
    let reads = by_object.into_values().map(|at| {
        let batches: Vec<TailBatch> = at.iter().map(|i| wanted[*i].clone()).collect();
        let store = Arc::clone(store);
        async move { (at, read_one(&store, batches).await) }
    });
    let mut found: Vec<_> = wanted.iter().map(|_| None).collect();
    let mut reads = stream::iter(reads).buffer_unordered(OBJECTS_AT_ONCE);
    while let Some((at, bytes)) = reads.next().await {
        at.into_iter().zip(bytes).for_each(|(i, bytes)| found[i] = Some(bytes));
    }
    found.into_iter().map(|bytes| bytes.expect("each is of one object")).collect()
}

/// Reads batches of one object.
async fn read_one(store: &Arc<dyn ObjectStore>, batches: Vec<TailBatch>) -> Read {
    let Some(first) = batches.first() else { return Vec::new() };
    match &first.medium {
        Medium::GivenUp => {
            batches.iter().map(|b| Err(b.damaged("it was lost, and its records given up").into())).collect()
        }
        Medium::File(file) => {
            let file = Arc::clone(file);
            let read = tokio::task::spawn_blocking(move || read_file(&file, &batches)).await;
            read.expect("reading does not panic")
        }
        Medium::Object { size_bytes } => {
            let size_bytes = *size_bytes;
            read_object(store, &batches, size_bytes).await
        }
    }
}

async fn read_object(store: &Arc<dyn ObjectStore>, batches: &[TailBatch], size_bytes: u64) -> Read {
    let path = Path::from(&*batches[0].object);
    let ranges: Vec<_> = batches.iter().map(TailBatch::range).collect();
    let all = |step: &dyn Fn() -> Step| batches.iter().map(|_| Err(step())).collect();
    let moved = || Step::Moved(format!("{path} was freed"));
    let error = match store.get_ranges(&path, &ranges).await {
        Ok(read) => {
            let read = batches.iter().zip(read);
            let checked = read.map(|(batch, bytes)| match batch.is_sound(&bytes) {
                true => Ok(bytes),
                false => Err(batch.damaged("the batch does not match its index entry and its CRC32C").into()),
            });
            return checked.collect();
        }
        Err(Error::NotFound { .. }) => return all(&moved),
        Err(error) => error,
    };
    // What a store says of a range beyond the end differs; the size does not. A dead chain is overwritten with seals.
    match store.head(&path).await {
        Ok(meta) if meta.size == size_bytes => {}
        Ok(_) | Err(Error::NotFound { .. }) => return all(&moved),
        Err(_) => {}
    }
    let source = StoreError::from(error);
    let place = path.to_string();
    all(&|| ScanError::Store { place: place.clone(), source: source.clone() }.into())
}

fn read_file(file: &OpenFile, batches: &[TailBatch]) -> Read {
    let read = |batch: &TailBatch| {
        let bytes = file.read(batch.position, batch.size_bytes as usize);
        match bytes {
            Ok(bytes) if batch.is_sound(&bytes) => Ok(bytes),
            Ok(_) => Err(batch.damaged("the batch does not match its index entry and its CRC32C").into()),
            Err(e) => Err(batch.damaged(e.to_string()).into()),
        }
    };
    let read: Read = batches.iter().map(read).collect();
    // Asked for afterwards: the header of another use is written before anything else of it.
    match file.is_still_that() && (read.iter().all(Result::is_ok) || !file.is_unlinked()) {
        true => read,
        false => batches.iter().map(|b| Err(Step::Moved(format!("{} was freed", b.object)))).collect(),
    }
}
