//! Reading the log without a broker: topics, their partitions as of one moment, and the batches in them.
//!
//! What a partition holds is said by its manifest in the metadata and by the write-ahead log behind it: objects of chains in an
//! object store ([`chains`]), files on a local disk ([`local`]). [`Scanner::snapshot`] pins both for each partition of a topic, up to
//! what was durable at that moment; [`Snapshot::read`] gives the stored batches.
//!
//! Invariant: nothing is created, written or deleted, in the store, in the metadata and on the disk.
//!
//! Invariant: what a snapshot names is given, or an error says from which offset on it is not. An object that went away meanwhile is
//! looked for under its new name, in a new manifest; a scan never goes on behind records that it did not find.
//!
//! Left to others: decompression and records, which offsets of a batch are wanted, and which store and metadata belong to an address.

mod batches;
mod chains;
mod error;
mod local;
mod partition;
mod pieces;
mod read;
mod snapshot;
mod tail;
mod wal;

use std::collections::BTreeMap;
use std::sync::Arc;

use kafscale_core::ids::TopicId;
use kafscale_meta::Metadata;
use kafscale_meta::records::TopicRecord;
use object_store::ObjectStore;
use uuid::Uuid;

pub use error::{ScanError, ScanErrorKind};
pub use pieces::{Piece, PieceSource};
pub use read::ScannedBatch;
pub use snapshot::{Bounds, Range, Snapshot};

use crate::StoreUrl;
use crate::log::identity;
use crate::segment::{ReadLimits, SegmentReader};
use crate::store::patient::Patient;
use crate::store::{LookingLocal, s3};
use wal::Wal;

/// Settings of a [`Scanner`].
#[derive(Debug, Clone, Copy)]
pub struct ScanOptions {
    /// For blocks and indexes of segments that were read, in all scans together.
    pub cache_bytes: usize,
}

impl Default for ScanOptions {
    fn default() -> ScanOptions {
        ScanOptions { cache_bytes: 64 << 20 }
    }
}

/// A topic as the metadata has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    pub name: String,
    /// Tells it from an earlier topic of the same name.
    pub id: Uuid,
    pub partitions: u32,
    /// What was set for this topic, by Kafka's names; what is not here has the brokers' defaults.
    pub configs: BTreeMap<String, String>,
    pub created_ms: i64,
    /// It belongs to the brokers.
    pub internal: bool,
}

/// Reads the log of one cluster. Cheap to clone; clones share what they have cached.
#[derive(Debug, Clone)]
pub struct Scanner {
    source: Arc<Source>,
}

/// Where everything comes from.
#[derive(Debug)]
struct Source {
    metadata: Metadata,
    store: Arc<dyn ObjectStore>,
    segments: SegmentReader,
    wal: Wal,
}

impl Scanner {
    /// Opens the store for reading. It must be that of the metadata's cluster. Must be called within a tokio runtime.
    pub async fn open(
        url: &StoreUrl,
        metadata: Metadata,
        options: ScanOptions,
    ) -> Result<Scanner, ScanError> {
        let place = url.describe();
        let failed =
            |source: object_store::Error| ScanError::Store { place: place.clone(), source: source.into() };
        let store: Arc<dyn ObjectStore> = match url {
            StoreUrl::Memory => return Err(ScanError::Memory),
            StoreUrl::File(dir) => Arc::new(LookingLocal::open(dir).map_err(failed)?),
            StoreUrl::S3(config) => s3::open(config).map_err(failed)?,
            StoreUrl::Shared(store) => Arc::clone(store),
        };
        let store = Patient::where_shared(url, store, u64::from(std::process::id()));
        let wal = match url {
            StoreUrl::File(dir) => Wal::local(dir),
            StoreUrl::Memory | StoreUrl::S3(_) | StoreUrl::Shared(_) => Wal::chains(Arc::clone(&store)),
        };
        let limits = ReadLimits::with_cache_bytes(options.cache_bytes);
        let segments = SegmentReader::new(Arc::clone(&store), limits);
        // Records of another cluster would be missing, or be another's.
        identity::check_same(&*store, &**metadata.store(), metadata.keys(), &place).await?;
        let source = Source { metadata, store, segments, wal };
        Ok(Scanner { source: Arc::new(source) })
    }

    /// The metadata that says what the log consists of.
    pub fn metadata(&self) -> &Metadata {
        &self.source.metadata
    }

    /// All topics, by name.
    pub async fn topics(&self) -> Result<Vec<TopicInfo>, ScanError> {
        let listed = self.source.metadata.list_topics().await?;
        Ok(listed.items.into_iter().map(|(name, topic)| TopicInfo::of(name, topic.record)).collect())
    }

    /// The topic of this name as of now: each partition from its log start to what was durable when this was called, or a little later.
    pub async fn snapshot(&self, topic: &str) -> Result<Snapshot, ScanError> {
        let found = self.source.metadata.load_topic(topic).await?;
        let record = found.ok_or_else(|| ScanError::NoTopic(topic.to_owned()))?.record;
        Snapshot::take(Arc::clone(&self.source), TopicInfo::of(topic.to_owned(), record)).await
    }

    /// Ends the reading ahead.
    pub async fn shutdown(&self) {
        self.source.segments.shutdown().await;
    }
}

impl TopicInfo {
    fn of(name: String, record: TopicRecord) -> TopicInfo {
        TopicInfo {
            name,
            id: record.topic_id,
            partitions: u32::try_from(record.partitions).unwrap_or_default(),
            configs: record.configs,
            created_ms: record.created_ms,
            internal: record.internal,
        }
    }

    fn topic_id(&self) -> TopicId {
        TopicId(self.id)
    }
}
