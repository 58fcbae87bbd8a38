//! The log: one write-ahead chain for all partitions, immutable segments, a read cache, retention.
//!
//! Invariant: this is the only crate that names `object_store`.

mod api;
mod block_cache;
pub mod segment;
pub mod store;

pub use api::*;
pub use block_cache::CacheStats;
