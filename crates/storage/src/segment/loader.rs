//! Fetches and keeps what readers need of segments: their indexes, and blocks of their batches.
//!
//! Cold reads have a pool of their own: a reader that lags waits here and nowhere else. Read-ahead has another, and does
//! without when it is busy.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use bytes::{BufMut, Bytes, BytesMut};
use kafscale_core::ids::Offset;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::format::{FOOTER_BYTES, FOOTER_MAGIC, Footer, HEADER_BYTES, Header, IndexEntry};
use super::{ReadLimits, SegmentError, SegmentRef, salvage, v1};
use crate::block_cache::{BLOCK_BYTES, BlockCache, BlockKey};
use crate::damages::Damages;
use crate::store::{StoreError, StoreErrorKind};
use crate::unreadable::Unreadable;

/// The first guess at how much of an object's end holds its footer and index.
const TAIL_BYTES: u64 = 64 << 10;

/// What a disk reads or cannot read as a whole.
const SECTOR_BYTES: u64 = 4096;
const SECTOR_ATTEMPTS: usize = 2;
/// So many sectors of an object are tried before the disk counts as away.
const SECTORS_PROBED: u64 = 16;

/// What is known of a segment without its batches.
#[derive(Debug)]
pub(super) struct SegmentIndex {
    pub entries: Vec<IndexEntry>,
    /// Where the batches begin and end in the object.
    pub body: Range<u64>,
    /// Absent in version 1.
    pub footer: Option<Footer>,
    /// Where the last read ended: one that goes on from there is sequential, and worth reading ahead for.
    pub next_position: AtomicU64,
    /// How many reads went on where the one before ended.
    pub reads_in_order: AtomicU32,
}

impl SegmentIndex {
    pub fn group_end(&self, group: usize) -> u64 {
        self.entries.get(group + 1).map_or(self.body.end, |next| next.position)
    }

    /// The group that holds `offset`, where the segment has it.
    pub fn group_of(&self, offset: Offset) -> usize {
        self.entries.partition_point(|e| e.base_offset <= offset).saturating_sub(1)
    }
}

#[derive(Debug, Clone)]
struct ByEntries;

impl Weighter<Arc<str>, Arc<SegmentIndex>> for ByEntries {
    fn weight(&self, path: &Arc<str>, index: &Arc<SegmentIndex>) -> u64 {
        (size_of::<SegmentIndex>() + path.len() + index.entries.len() * size_of::<IndexEntry>()) as u64
    }
}

pub(super) struct Loader {
    store: Arc<dyn ObjectStore>,
    pub(super) blocks: BlockCache,
    pub(super) damages: Arc<Damages>,
    pub(super) unreadable: Unreadable,
    indexes: Cache<Arc<str>, Arc<SegmentIndex>, ByEntries>,
    cold_reads: Semaphore,
    read_ahead: Arc<Semaphore>,
    tasks: TaskTracker,
    cancelled: CancellationToken,
}

impl Loader {
    pub fn new(store: Arc<dyn ObjectStore>, limits: ReadLimits) -> Loader {
        // An index has 32 bytes for 4 KiB of batches at the usual interval: an eighth of the budget covers far more
        // segments than the blocks do.
        let index_bytes = limits.cache_bytes / 8;
        let index_options = quick_cache::OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(1024)
            .weight_capacity(index_bytes as u64)
            .build()
            .expect("capacity and weight are both given");
        Loader {
            store,
            damages: Arc::default(),
            unreadable: Unreadable::default(),
            blocks: BlockCache::new((limits.cache_bytes - index_bytes) as u64),
            indexes: Cache::with_options(index_options, ByEntries, Default::default(), Default::default()),
            cold_reads: Semaphore::new(limits.cold_reads.max(1)),
            read_ahead: Arc::new(Semaphore::new(limits.read_ahead)),
            tasks: TaskTracker::new(),
            cancelled: CancellationToken::new(),
        }
    }

    pub async fn index(&self, segment: &SegmentRef) -> Result<Arc<SegmentIndex>, SegmentError> {
        // In memory of its own when it is needed: else every read would move what only a miss needs. So below.
        let load = async { Box::pin(self.load_index(segment)).await };
        self.indexes.get_or_insert_async(&segment.path, load).await
    }

    pub fn forget(&self, segment: &SegmentRef) {
        self.indexes.remove(&segment.path);
        self.damages.forget(&segment.path);
        self.unreadable.forget(&segment.path);
        self.blocks.forget(&segment.path, segment.size_bytes);
    }

    pub async fn shutdown(&self) {
        self.cancelled.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The block around `position`, and where it begins. It ends where the batches do.
    pub async fn block_at(
        &self,
        segment: &SegmentRef,
        position: u64,
        body_end: u64,
    ) -> Result<(Bytes, u64), SegmentError> {
        let key = BlockKey { object: Arc::clone(&segment.path), index: position / BLOCK_BYTES };
        let range = block_range(key.index, body_end);
        let start = range.start;
        let load = async { Box::pin(self.fetch_cold(segment, range)).await };
        let block = self.blocks.get_or_load(&key, load).await?;
        Ok((block, start))
    }

    /// Begins to load blocks that a reader will want next, as far as the pool for that allows.
    pub fn read_ahead(self: &Arc<Self>, segment: &SegmentRef, blocks: Range<u64>, body_end: u64) {
        for index in blocks {
            let key = BlockKey { object: Arc::clone(&segment.path), index };
            if index * BLOCK_BYTES >= body_end || self.blocks.contains(&key) {
                continue;
            }
            let Ok(permit) = Arc::clone(&self.read_ahead).try_acquire_owned() else { return };
            let (loader, segment) = (Arc::clone(self), segment.clone());
            self.tasks.spawn(async move {
                let _permit = permit;
                let range = block_range(index, body_end);
                let load = loader.blocks.get_or_load(&key, loader.fetch(&segment, range));
                // A failure is met again by the reader that comes here, who reports it.
                let _ = loader.cancelled.run_until_cancelled(load).await;
            });
        }
    }

    /// Begins to load a segment's index and its first blocks.
    pub fn prepare(self: &Arc<Self>, segment: &SegmentRef, blocks: u64) {
        if let Some(index) = self.indexes.get(&segment.path) {
            return self.read_ahead(segment, 0..blocks, index.body.end);
        }
        let Ok(permit) = Arc::clone(&self.read_ahead).try_acquire_owned() else { return };
        let (loader, segment) = (Arc::clone(self), segment.clone());
        self.tasks.spawn(async move {
            let index = loader.cancelled.run_until_cancelled(loader.index(&segment)).await;
            drop(permit);
            if let Some(Ok(index)) = index {
                loader.read_ahead(&segment, 0..blocks, index.body.end);
            }
        });
    }

    /// A damaged index or footer does not hide the batches.
    async fn load_index(&self, segment: &SegmentRef) -> Result<Arc<SegmentIndex>, SegmentError> {
        let error = match self.load_stored_index(segment).await {
            Err(error) if error.is_corrupt() => error,
            loaded => return loaded.map(Arc::new),
        };
        salvage::index(self, segment, &error).await?.map(Arc::new).ok_or(error)
    }

    /// Where the object's own index is held, and not one that was made from its batches, it is looked for anew at the next read.
    pub fn forget_stored_index(&self, segment: &SegmentRef) {
        if self.indexes.get(&segment.path).is_some_and(|index| index.footer.is_some()) {
            self.indexes.remove(&segment.path);
        }
    }

    /// What the object has now, whatever the metadata says.
    pub async fn size_of(&self, segment: &SegmentRef) -> Result<u64, SegmentError> {
        let location = segment.location()?;
        Ok(self.store.head(&location).await.map_err(StoreError::from)?.size)
    }

    async fn load_stored_index(&self, segment: &SegmentRef) -> Result<SegmentIndex, SegmentError> {
        let size_bytes = segment.size_bytes;
        let tail_start = size_bytes.saturating_sub(TAIL_BYTES);
        if size_bytes - tail_start < v1::FOOTER_BYTES + v1::HEADER_BYTES {
            return Err(SegmentError::corrupt(segment, 0, "it is too short to be a segment"));
        }
        // Side by side, so that a store that is far away is waited for once.
        let front = async {
            let is_in_tail = tail_start == 0;
            if is_in_tail { Ok(None) } else { self.fetch_cold(segment, 0..HEADER_BYTES).await.map(Some) }
        };
        let tail = self.fetch_cold(segment, tail_start..size_bytes);
        let (front, tail) = tokio::try_join!(front, tail)?;
        match tail.last_chunk() {
            Some(&FOOTER_MAGIC) => {
                // A damaged header hides nothing: each batch has checksums of its own.
                if let Ok(header) = Header::decode(front.as_ref().unwrap_or(&tail)) {
                    segment.check_owner(&header)?;
                }
                self.load_v2(segment, &tail).await
            }
            Some(&v1::FOOTER_MAGIC) => v1::scan(self, segment, &tail).await,
            Some(_) | None => {
                Err(SegmentError::corrupt(segment, size_bytes - 4, "it does not end as a segment does"))
            }
        }
    }

    async fn load_v2(&self, segment: &SegmentRef, tail: &Bytes) -> Result<SegmentIndex, SegmentError> {
        let footer = tail
            .last_chunk()
            .ok_or_else(|| SegmentError::corrupt(segment, 0, "it is too short to be a segment"))?;
        let footer =
            Footer::decode(footer, segment.size_bytes).map_err(|e| SegmentError::format(segment, e))?;
        if footer.last_offset != segment.last_offset {
            let why = format!("it ends at offset {}, not {}", footer.last_offset, segment.last_offset);
            return Err(SegmentError::corrupt(segment, segment.size_bytes - FOOTER_BYTES, why));
        }
        let range = footer.index_position..footer.index_position + u64::from(footer.index_bytes);
        let tail_start = segment.size_bytes - tail.len() as u64;
        let bytes = match range.start.checked_sub(tail_start) {
            Some(at) => tail.slice(at as usize..at as usize + footer.index_bytes as usize),
            None => self.fetch_cold(segment, range).await?,
        };
        let entries = footer.decode_index(&bytes).map_err(|e| SegmentError::format(segment, e))?;
        if entries.first().is_some_and(|e| e.base_offset < segment.base_offset) {
            let why = format!("it begins before offset {}", segment.base_offset);
            return Err(SegmentError::corrupt(segment, footer.index_position, why));
        }
        let body = HEADER_BYTES..footer.statistics_position;
        let (next_position, reads_in_order) = (AtomicU64::new(body.start), AtomicU32::new(0));
        Ok(SegmentIndex { entries, body, footer: Some(footer), next_position, reads_in_order })
    }

    pub async fn fetch_cold(&self, segment: &SegmentRef, range: Range<u64>) -> Result<Bytes, SegmentError> {
        let _permit = self.cold_reads.acquire().await.expect("the pool is never closed");
        self.fetch(segment, range).await
    }

    /// Everything that is read of segments passes here, so that the list of those that cannot be read is kept here.
    async fn fetch(&self, segment: &SegmentRef, range: Range<u64>) -> Result<Bytes, SegmentError> {
        if let Some(error) = self.unreadable.failed_just_now(&segment.path) {
            return Err(error.into());
        }
        let fetched = self.try_fetch(segment, range).await;
        match &fetched {
            Err(SegmentError::Store(error)) if error.kind() != StoreErrorKind::NotFound => {
                self.unreadable.note(&segment.path, error);
            }
            // The store answers, and has another object than was written, or none: that is damage.
            Ok(_) | Err(_) => self.unreadable.forget(&segment.path),
        }
        fetched
    }

    async fn try_fetch(&self, segment: &SegmentRef, range: Range<u64>) -> Result<Bytes, SegmentError> {
        let location = segment.location()?;
        let wanted = range.end - range.start;
        // A list of one range costs the local store one trip to its threads, a single range two.
        let error = match self.store.get_ranges(&location, std::slice::from_ref(&range)).await {
            Ok(mut parts) => match parts.pop() {
                Some(part) if part.len() as u64 == wanted => return Ok(part),
                Some(_) | None => None,
            },
            Err(e) => Some(StoreError::from(e)),
        };
        if let Some(error) = error.as_ref().filter(|e| e.is_bad_sector()) {
            return Box::pin(self.fetch_around(segment, &location, range, error)).await;
        }
        if let Some(error) = error.as_ref().filter(|e| e.kind() != StoreErrorKind::Internal) {
            return Err(error.clone().into());
        }
        // A store says in its own way that an object is shorter than we think; its size says it plainly.
        let size_bytes = self.store.head(&location).await.map_err(StoreError::from)?.size;
        match error {
            Some(error) if size_bytes == segment.size_bytes => Err(error.into()),
            Some(_) | None => {
                let why = format!("it has {size_bytes} bytes, expected {}", segment.size_bytes);
                Err(SegmentError::corrupt(segment, size_bytes, why))
            }
        }
    }

    /// A range that the disk cannot read as a whole, with zeros for what it cannot read at all: checksums then tell which batches are lost,
    /// and the others are served. An object of which nothing can be read is not damaged but away.
    async fn fetch_around(
        &self,
        segment: &SegmentRef,
        location: &Path,
        range: Range<u64>,
        error: &StoreError,
    ) -> Result<Bytes, SegmentError> {
        let mut bytes = BytesMut::with_capacity((range.end - range.start) as usize);
        let (mut at, mut unreadable) = (range.start, Vec::new());
        while at < range.end {
            let end = range.end.min((at / SECTOR_BYTES + 1) * SECTOR_BYTES);
            match self.read_sector(location, at..end).await? {
                Some(sector) => bytes.extend_from_slice(&sector),
                None => {
                    bytes.put_bytes(0, (end - at) as usize);
                    unreadable.push(at);
                }
            }
            at = end;
        }
        let is_away = bytes.iter().all(|b| *b == 0) && !self.has_readable(segment, location).await?;
        if is_away {
            return Err(error.clone().into());
        }
        tracing::warn!(
            object = %segment.path, positions = ?unreadable, %error,
            "the disk cannot read parts of a segment: they count as damaged"
        );
        Ok(bytes.into())
    }

    /// `None` when the disk cannot read it, and cannot when asked again.
    async fn read_sector(&self, location: &Path, range: Range<u64>) -> Result<Option<Bytes>, SegmentError> {
        for _ in 0..SECTOR_ATTEMPTS {
            let wanted = range.end - range.start;
            match self.store.get_range(location, range.clone()).await.map_err(StoreError::from) {
                Ok(sector) if sector.len() as u64 == wanted => return Ok(Some(sector)),
                // It was cut off meanwhile.
                Ok(_) => return Ok(None),
                Err(e) if e.is_bad_sector() => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(None)
    }

    /// Whether the disk can read anything of an object.
    async fn has_readable(&self, segment: &SegmentRef, location: &Path) -> Result<bool, SegmentError> {
        let sectors = segment.size_bytes.div_ceil(SECTOR_BYTES);
        let step = sectors.div_ceil(SECTORS_PROBED).max(1);
        for at in (0..sectors).step_by(step as usize).map(|sector| sector * SECTOR_BYTES) {
            let end = segment.size_bytes.min(at + SECTOR_BYTES);
            if self.read_sector(location, at..end).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn block_range(index: u64, body_end: u64) -> Range<u64> {
    let start = index * BLOCK_BYTES;
    start..body_end.min(start + BLOCK_BYTES)
}
