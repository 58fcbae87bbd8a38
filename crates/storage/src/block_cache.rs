//! Blocks of immutable objects in memory, within a budget of bytes.
//!
//! A block that several readers miss at once is loaded once: the others wait for it. Blocks are never changed, so that
//! nothing has to be invalidated; [`BlockCache::forget`] only frees memory early.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

/// Objects are read and cached in aligned blocks of this size.
pub(crate) const BLOCK_BYTES: u64 = 1 << 20;

/// Shards are locks; each should hold many blocks, or a large budget evicts like a small one.
const SHARD_MIN_BYTES: u64 = 64 << 20;

/// The part of the budget for blocks that were used more than once. The rest must hold what is read ahead until it is used: with less, a
/// third of the blocks of four partitions that are read in order were loaded twice.
const USED_AGAIN: f64 = 0.5;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct BlockKey {
    pub object: Arc<str>,
    /// The block's position divided by [`BLOCK_BYTES`].
    pub index: u64,
}

#[derive(Debug, Clone)]
struct ByLength;

impl Weighter<BlockKey, Bytes> for ByLength {
    fn weight(&self, key: &BlockKey, block: &Bytes) -> u64 {
        (size_of::<BlockKey>() + key.object.len() + block.len()) as u64
    }
}

pub(crate) struct BlockCache {
    blocks: Cache<BlockKey, Bytes, ByLength>,
    lookups: AtomicU64,
    loads: AtomicU64,
}

/// Counters since the start, and what is held now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    pub hits: u64,
    pub misses: u64,
    pub held_bytes: u64,
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stats().fmt(f)
    }
}

impl BlockCache {
    pub fn new(budget_bytes: u64) -> BlockCache {
        let shards = (budget_bytes / SHARD_MIN_BYTES).clamp(1, 8);
        let options = OptionsBuilder::new()
            .shards(shards as usize)
            .estimated_items_capacity((budget_bytes / BLOCK_BYTES).max(1) as usize)
            .weight_capacity(budget_bytes)
            .hot_allocation(USED_AGAIN)
            .build()
            .expect("capacity and weight are both given");
        let blocks = Cache::with_options(
            options,
            ByLength,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        );
        BlockCache { blocks, lookups: AtomicU64::new(0), loads: AtomicU64::new(0) }
    }

    /// The block, from memory or by `load`. When a load fails or is dropped, one of those who wait tries its own.
    pub async fn get_or_load<E>(
        &self,
        key: &BlockKey,
        load: impl Future<Output = Result<Bytes, E>>,
    ) -> Result<Bytes, E> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let counted = async {
            self.loads.fetch_add(1, Ordering::Relaxed);
            load.await
        };
        self.blocks.get_or_insert_async(key, counted).await
    }

    pub fn contains(&self, key: &BlockKey) -> bool {
        self.blocks.contains_key(key)
    }

    /// Drops the blocks of an object of `size_bytes` that was deleted.
    pub fn forget(&self, object: &Arc<str>, size_bytes: u64) {
        for index in 0..size_bytes.div_ceil(BLOCK_BYTES) {
            self.blocks.remove(&BlockKey { object: Arc::clone(object), index });
        }
    }

    pub fn stats(&self) -> CacheStats {
        let misses = self.loads.load(Ordering::Relaxed);
        let hits = self.lookups.load(Ordering::Relaxed).saturating_sub(misses);
        CacheStats { hits, misses, held_bytes: self.blocks.weight() }
    }
}
