//! What the chains of others hold, by partition: read from the ends of their objects, once for all partitions.
//!
//! Only sealed chains are read: what an unsealed one holds is not settled. A chain is remembered for a while after it was read, as
//! partitions are assigned in several steps; then its partitions are with their owners, and a later one reads it again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use kafscale_core::ids::PartitionId;
use kafscale_meta::records::{ChainRecord, Record};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore};
use tokio::time::Instant;

use crate::log::shared::Shared;
use crate::store::backoff::persist;
use crate::store::{StoreError, StoreErrorKind};
use crate::wal::chain_id::ChainId;
use crate::wal::object::{IndexEntry, Suffix, decode_suffix};

/// The end of most objects, index included.
const SUFFIX_BYTES: u64 = 16 << 10;
const OBJECTS_AT_ONCE: usize = 64;
/// A store that fails is asked again for this long before the acquisition fails, which is then tried again as a whole.
const PATIENCE: Duration = Duration::from_secs(20);
/// A chain is forgotten so long after it was last wanted.
const REMEMBERED: Duration = Duration::from_secs(60);
/// A chain may be collected while it is read; then the records are looked at anew.
const ATTEMPTS: usize = 5;

/// A batch in a chain.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    pub seq: u64,
    pub object_bytes: u64,
    pub entry: IndexEntry,
}

/// The batches of one sealed chain.
#[derive(Debug)]
pub struct ChainIndex {
    pub id: ChainId,
    pub by_partition: HashMap<PartitionId, Vec<Found>>,
}

/// The chains that were read.
#[derive(Debug, Default)]
pub struct Footers {
    read: tokio::sync::Mutex<BTreeMap<ChainId, (Arc<ChainIndex>, Instant)>>,
}

/// Why chains were not read; worth another try.
#[derive(Debug, thiserror::Error)]
pub enum FootersError {
    #[error(transparent)]
    Meta(#[from] kafscale_meta::Error),
    #[error("the chain of broker {} (incarnation {}): {source}", id.node_id, id.incarnation)]
    Store { id: ChainId, source: StoreError },
    #[error("object {seq} of the chain of broker {} (incarnation {}): {why}", id.node_id, id.incarnation)]
    Object { id: ChainId, seq: u64, why: String },
}

impl FootersError {
    pub fn is_missing(&self) -> bool {
        matches!(self, FootersError::Store { source, .. } if source.kind() == StoreErrorKind::NotFound)
    }
}

impl Footers {
    /// All sealed chains that may hold what no manifest names. Manifests are to be read after this: a chain that is collected
    /// meanwhile is covered by them.
    pub async fn all(&self, shared: &Shared) -> Result<Vec<Arc<ChainIndex>>, FootersError> {
        // Held while reading, so that what is wanted twice is read once.
        let mut read = self.read.lock().await;
        let mut attempt = 1;
        let wanted = loop {
            let sealed = sealed_chains(shared).await?;
            match read_missing(shared, &mut read, &sealed).await {
                Ok(()) => break sealed,
                Err(e) if e.is_missing() && attempt < ATTEMPTS => attempt += 1,
                Err(e) => return Err(e),
            }
        };
        read.retain(|id, _| wanted.iter().any(|(wanted, _)| wanted == id));
        let now = Instant::now();
        let used = |(index, used): &mut (Arc<ChainIndex>, Instant)| {
            *used = now;
            Arc::clone(index)
        };
        Ok(read.values_mut().map(used).collect())
    }

    /// Lets go of what nobody has asked for in a while.
    pub fn forget_old(&self) {
        // Somebody is reading: there will be another time.
        let Ok(mut read) = self.read.try_lock() else { return };
        read.retain(|_, (_, used)| used.elapsed() < REMEMBERED);
    }
}

/// The sealed chains of others, with their records.
pub async fn sealed_chains(shared: &Shared) -> kafscale_meta::Result<Vec<(ChainId, ChainRecord)>> {
    let listed = shared.meta.range_all(&shared.keys.chains_prefix()).await?;
    let mut sealed = Vec::new();
    for kv in listed.kvs {
        let Some((node_id, incarnation)) = shared.keys.parse_chain(&kv.key) else { continue };
        let record = ChainRecord::decode(&kv.key, &kv.value)?;
        if record.sealed_at.is_some() {
            sealed.push((ChainId { node_id, incarnation }, record));
        }
    }
    Ok(sealed)
}

async fn read_missing(
    shared: &Shared,
    read: &mut BTreeMap<ChainId, (Arc<ChainIndex>, Instant)>,
    sealed: &[(ChainId, ChainRecord)],
) -> Result<(), FootersError> {
    for (id, record) in sealed {
        if !read.contains_key(id) {
            let index = Arc::new(read_chain(&*shared.store, *id, record).await?);
            read.insert(*id, (index, Instant::now()));
        }
    }
    Ok(())
}

/// Reads the footers of a sealed chain.
pub async fn read_chain(
    store: &dyn ObjectStore,
    id: ChainId,
    record: &ChainRecord,
) -> Result<ChainIndex, FootersError> {
    let from = Instant::now();
    let end = record.sealed_at.unwrap_or(record.first_seq);
    let mut by_partition: HashMap<PartitionId, Vec<Found>> = HashMap::new();
    // In the order of the chain.
    let (mut left, mut reads) = (record.first_seq..end, FuturesOrdered::new());
    loop {
        while reads.len() < OBJECTS_AT_ONCE
            && let Some(seq) = left.next()
        {
            reads.push_back(read_footer(store, id, seq));
        }
        let Some(read) = reads.next().await else { break };
        let (seq, object_bytes, entries) = read?;
        for entry in entries {
            let found = Found { seq, object_bytes, entry };
            by_partition.entry(entry.partition).or_default().push(found);
        }
    }
    tracing::info!(
        node_id = id.node_id,
        incarnation = id.incarnation,
        objects = end.saturating_sub(record.first_seq),
        partitions = by_partition.len(),
        ms = from.elapsed().as_millis() as u64,
        "read a sealed chain"
    );
    Ok(ChainIndex { id, by_partition })
}

/// The number, the size and the index of one object. A seal holds nothing: the chain is being collected, and manifests cover it.
async fn read_footer(
    store: &dyn ObjectStore,
    id: ChainId,
    seq: u64,
) -> Result<(u64, u64, Vec<IndexEntry>), FootersError> {
    let mut wanted = SUFFIX_BYTES;
    loop {
        let path = id.object(seq);
        let (size, end) =
            persist(PATIENCE, id.incarnation ^ seq, || Box::pin(read_end(store, path.clone(), wanted)))
                .await
                .map_err(|source| FootersError::Store { id, source })?;
        let damaged = |why: String| FootersError::Object { id, seq, why };
        match decode_suffix(&end, size, seq).map_err(|why| damaged(why.to_string()))? {
            Suffix::Index(entries) => return Ok((seq, size, entries)),
            Suffix::Seal => return Ok((seq, size, Vec::new())),
            Suffix::More(needed) if needed > wanted && needed <= size => wanted = needed,
            Suffix::More(_) => return Err(damaged("the store gave less than it has".into())),
        }
    }
}

async fn read_end(store: &dyn ObjectStore, path: Path, wanted: u64) -> Result<(u64, Bytes), Error> {
    let options = GetOptions { range: Some(GetRange::Suffix(wanted)), ..GetOptions::default() };
    let result = store.get_opts(&path, options).await?;
    let size = result.meta.size;
    Ok((size, result.bytes().await?))
}
