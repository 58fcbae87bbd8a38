//! What the chains of others hold, by partition: read from the ends of their objects, once for all partitions.
//!
//! Of an object whose end is damaged, what its front says is read; one that is missing or says nothing hides no other. What was lost with
//! it, each partition finds out for itself ([`crate::log::acquire`]).
//!
//! Only sealed chains are read: what an unsealed one holds is not settled. A chain is remembered for a while after it was read, as
//! partitions are assigned in several steps; then its partitions are with their owners, and a later one reads it again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use kafscale_core::ids::PartitionId;
use kafscale_meta::records::{ChainRecord, Record};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use tokio::time::Instant;

use crate::log::shared::Shared;
use crate::log::superseded::Written;
use crate::store::backoff::persist;
use crate::store::{StoreError, StoreErrorKind, kind_of};
use crate::wal::chain_id::ChainId;
use crate::wal::object::{IndexEntry, Suffix, decode_suffix};
use crate::wal::salvage::{Salvaged, salvage};

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

impl Found {
    pub fn written(&self) -> Written {
        Written { leader_epoch: self.entry.leader_epoch, base_offset: self.entry.base_offset }
    }
}

/// The batches of one sealed chain.
#[derive(Debug)]
pub struct ChainIndex {
    pub id: ChainId,
    pub by_partition: HashMap<PartitionId, Vec<Found>>,
    /// Objects that nothing tells all batches of, in the order of the chain.
    pub lost: Vec<LostObject>,
    /// Why objects whose batches are known are damaged.
    pub damaged: HashMap<u64, String>,
}

/// An object with batches that nobody knows of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostObject {
    pub seq: u64,
    pub why: String,
    /// A person put an empty one in its place, or restored without it: the records are given up.
    pub given_up: bool,
}

impl ChainIndex {
    /// The batches of a partition, in the order of the chain.
    pub fn batches(&self, id: PartitionId) -> &[Found] {
        self.by_partition.get(&id).map_or(&[][..], Vec::as_slice)
    }

    /// The objects that may be put back still.
    pub fn missed(&self) -> impl Iterator<Item = &LostObject> {
        self.lost.iter().filter(|lost| !lost.given_up)
    }
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
    /// The chain was sealed behind it, so that it was there once; or the chain was collected just now.
    #[error("{} is missing", id.object(*seq))]
    Missing { id: ChainId, seq: u64 },
}

impl FootersError {
    pub fn is_missing(&self) -> bool {
        matches!(self, FootersError::Missing { .. })
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
            // What was lost may have been put back.
            read.retain(|_, (index, _)| index.missed().next().is_none());
            let absent = if attempt < ATTEMPTS { Absent::Fails } else { Absent::IsLost };
            match read_missing(shared, &mut read, &sealed, absent).await {
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
    absent: Absent,
) -> Result<(), FootersError> {
    for (id, record) in sealed {
        if !read.contains_key(id) {
            let index = Arc::new(read_chain(&*shared.store, *id, record, absent).await?);
            read.insert(*id, (index, Instant::now()));
        }
    }
    Ok(())
}

/// What an object that is not there means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// That the chain may have been collected just now: the reader looks at its record again.
    Fails,
    /// That it is lost: the record was looked at again.
    IsLost,
}

/// Reads the footers of a sealed chain.
pub async fn read_chain(
    store: &dyn ObjectStore,
    id: ChainId,
    record: &ChainRecord,
    absent: Absent,
) -> Result<ChainIndex, FootersError> {
    let from = Instant::now();
    let end = record.sealed_at.unwrap_or(record.first_seq);
    let mut chain =
        ChainIndex { id, by_partition: HashMap::new(), lost: Vec::new(), damaged: HashMap::new() };
    let given_up = record.given_up;
    // In the order of the chain.
    let (mut left, mut reads) = (record.first_seq..end, FuturesOrdered::new());
    loop {
        while reads.len() < OBJECTS_AT_ONCE
            && let Some(seq) = left.next()
        {
            reads.push_back(async move { (seq, read_object(store, id, seq).await) });
        }
        let Some((seq, read)) = reads.next().await else { break };
        match read {
            Err(FootersError::Missing { .. }) if absent == Absent::IsLost => {
                chain.lose(seq, "it is missing".to_owned(), given_up);
            }
            read => chain.add(seq, read?, given_up),
        }
    }
    tracing::info!(
        node_id = id.node_id,
        incarnation = id.incarnation,
        objects = end.saturating_sub(record.first_seq),
        partitions = chain.by_partition.len(),
        lost = chain.lost.len(),
        ms = from.elapsed().as_millis() as u64,
        "read a sealed chain"
    );
    Ok(chain)
}

impl ChainIndex {
    /// What is lost of it is `given_up`, where the chain's record says so.
    fn add(&mut self, seq: u64, object: Object, given_up: bool) {
        let Object { bytes: object_bytes, entries, damage } = object;
        match damage {
            Damage::None => {}
            Damage::GivenUp => self.lose(seq, "its records were given up".to_owned(), true),
            Damage::Unreadable(why) => self.lose(seq, why, given_up),
            Damage::Salvaged { why, lost_entries } => {
                tracing::warn!(
                    object = %self.id.object(seq), why, batches = entries.len(), lost_entries,
                    "an object of the write-ahead log is damaged; what the rest of it says of its batches is served"
                );
                if lost_entries > 0 {
                    self.lose(seq, why.clone(), given_up);
                }
                self.damaged.insert(seq, why);
            }
        }
        for entry in entries {
            let found = Found { seq, object_bytes, entry };
            self.by_partition.entry(entry.partition).or_default().push(found);
        }
    }

    fn lose(&mut self, seq: u64, why: String, given_up: bool) {
        tracing::error!(object = %self.id.object(seq), why, given_up, "an object of the write-ahead log is lost");
        self.lost.push(LostObject { seq, why, given_up });
    }
}

/// What an object says of itself.
pub struct Object {
    /// 0 for one in the place of a lost one.
    pub bytes: u64,
    pub entries: Vec<IndexEntry>,
    pub damage: Damage,
}

pub enum Damage {
    None,
    /// A person put an empty object there.
    GivenUp,
    /// The object says nothing of what is in it.
    Unreadable(String),
    /// Its end is damaged, and its front tells of all but so many batches.
    Salvaged {
        why: String,
        lost_entries: u32,
    },
}

/// The index of one object. A seal holds nothing: the chain is being collected, and manifests cover it.
pub async fn read_object(store: &dyn ObjectStore, id: ChainId, seq: u64) -> Result<Object, FootersError> {
    let whole = |bytes, entries| Ok(Object { bytes, entries, damage: Damage::None });
    let mut wanted = SUFFIX_BYTES;
    loop {
        let path = id.object(seq);
        let read = || Box::pin(read_end(store, path.clone(), wanted)) as BoxFuture<'_, _>;
        let (size, end): (u64, Bytes) = patiently(id, seq, read).await?;
        if size == 0 {
            return Ok(Object { bytes: 0, entries: Vec::new(), damage: Damage::GivenUp });
        }
        match decode_suffix(&end, size, seq) {
            Ok(Suffix::Index(entries)) => return whole(size, entries),
            Ok(Suffix::Seal) => return whole(size, Vec::new()),
            Ok(Suffix::More(needed)) if needed > wanted && needed <= size => wanted = needed,
            Ok(Suffix::More(_)) => {
                return read_front(store, id, seq, "the store gave less than it has").await;
            }
            Err(why) => return read_front(store, id, seq, &why.to_string()).await,
        }
    }
}

/// The whole of an object whose end is damaged.
async fn read_front(
    store: &dyn ObjectStore,
    id: ChainId,
    seq: u64,
    why: &str,
) -> Result<Object, FootersError> {
    let path = id.object(seq);
    let read = || Box::pin(async { store.get(&path).await?.bytes().await }) as BoxFuture<'_, _>;
    let bytes: Bytes = patiently(id, seq, read).await?;
    let why = why.to_owned();
    Ok(match salvage(&bytes, id, seq) {
        Some(Salvaged { entries, lost_entries, object_bytes }) => {
            Object { bytes: object_bytes, entries, damage: Damage::Salvaged { why, lost_entries } }
        }
        None => Object { bytes: bytes.len() as u64, entries: Vec::new(), damage: Damage::Unreadable(why) },
    })
}

async fn patiently<'a, T>(
    id: ChainId,
    seq: u64,
    read: impl FnMut() -> BoxFuture<'a, Result<T, Error>>,
) -> Result<T, FootersError> {
    persist(PATIENCE, id.incarnation ^ seq, read).await.map_err(|source| match source.kind() {
        StoreErrorKind::NotFound => FootersError::Missing { id, seq },
        _ => FootersError::Store { id, source },
    })
}

async fn read_end(store: &dyn ObjectStore, path: Path, wanted: u64) -> Result<(u64, Bytes), Error> {
    let options = GetOptions { range: Some(GetRange::Suffix(wanted)), ..GetOptions::default() };
    let result = match store.get_opts(&path, options).await {
        // Some stores have no range of an empty object.
        Err(e)
            if kind_of(&e) == StoreErrorKind::Internal
                && store.head(&path).await.is_ok_and(|meta| meta.size == 0) =>
        {
            return Ok((0, Bytes::new()));
        }
        result => result?,
    };
    let size = result.meta.size;
    Ok((size, result.bytes().await?))
}
