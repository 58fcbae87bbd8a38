//! Chains in an object store: those of dead brokers up to their seals, those of live ones up to the first object that is not there.
//!
//! What the end of an object says is kept, as objects never change: the next look reads those that were added since.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use kafscale_core::ids::TopicId;
use kafscale_meta::Metadata;
use kafscale_meta::records::{ChainRecord, Record};
use object_store::ObjectStore;

use super::ScanError;
use super::error::Step;
use super::tail::{Medium, TailBatch};
use super::wal::Above;
use crate::log::objects::footers::{Damage, FootersError, Object, read_object};
use crate::log::objects::seal::{find_end, list};
use crate::store::StoreErrorKind;
use crate::wal::chain_id::ChainId;
use crate::wal::object::{HEADER_BYTES, IndexEntry};

const FOOTERS_AT_ONCE: usize = 64;

/// What the end of an object says.
#[derive(Debug)]
struct ObjectIndex {
    object: Arc<str>,
    size_bytes: u64,
    entries: Vec<IndexEntry>,
    /// Records that were in it are lost, and given up.
    is_lost: bool,
}

type ChainIndex = BTreeMap<u64, ObjectIndex>;

#[derive(Debug)]
pub(super) struct Chains {
    store: Arc<dyn ObjectStore>,
    /// Held while reading, so that what is wanted twice is read once.
    known: tokio::sync::Mutex<BTreeMap<ChainId, ChainIndex>>,
}

impl Chains {
    pub fn new(store: Arc<dyn ObjectStore>) -> Chains {
        Chains { store, known: tokio::sync::Mutex::default() }
    }

    pub async fn of_topic(&self, metadata: &Metadata, topic: TopicId) -> Result<Above, Step> {
        let mut known = self.known.lock().await;
        let keys = metadata.keys();
        let listed = metadata.store().range_all(&keys.chains_prefix()).await.map_err(ScanError::from)?;
        let mut chains = Vec::with_capacity(listed.kvs.len());
        for kv in listed.kvs {
            let Some((node_id, incarnation)) = keys.parse_chain(&kv.key) else { continue };
            let record = ChainRecord::decode(&kv.key, &kv.value).map_err(ScanError::from)?;
            chains.push((ChainId { node_id, incarnation }, record));
        }
        known.retain(|id, _| chains.iter().any(|(listed, _)| listed == id));
        for (id, record) in chains {
            self.catch_up(metadata, id, record, known.entry(id).or_default()).await?;
        }
        Ok(above(&known, topic))
    }

    /// Makes an index that of the chain as it is now.
    async fn catch_up(
        &self,
        metadata: &Metadata,
        id: ChainId,
        record: ChainRecord,
        index: &mut ChainIndex,
    ) -> Result<(), Step> {
        let ChainRecord { first_seq, sealed_at, given_up } = record;
        let wal = |why: String| Step::Failed(ScanError::Wal(why));
        let end = match sealed_at {
            Some(end) => end,
            None => {
                let objects = list(&*self.store, id).await.map_err(ScanError::Unavailable)?;
                let end = find_end(&*self.store, id, first_seq, &objects).await.map_err(wal)?.seq;
                if let Some(seq) = (first_seq..end).find(|seq| !objects.contains_key(seq)) {
                    let why = format!("{} is missing", id.object(seq));
                    return Err(match record_now(metadata, id).await? == Some(record) {
                        true => wal(why),
                        false => Step::Moved(why),
                    });
                }
                end
            }
        };
        index.retain(|seq, _| (first_seq..end).contains(seq));
        let missing: Vec<u64> = (first_seq..end).filter(|seq| !index.contains_key(seq)).collect();
        let reads = missing.into_iter().map(|seq| read_index(&*self.store, id, seq, given_up));
        let mut reads = stream::iter(reads).buffer_unordered(FOOTERS_AT_ONCE);
        loop {
            match reads.try_next().await {
                Ok(Some((seq, read))) => _ = index.insert(seq, read),
                Ok(None) => break,
                Err(Step::Moved(why)) if record_now(metadata, id).await? == Some(record) => {
                    return Err(wal(why));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

async fn record_now(metadata: &Metadata, id: ChainId) -> Result<Option<ChainRecord>, ScanError> {
    let key = metadata.keys().chain(id.node_id, id.incarnation);
    let Some(kv) = metadata.store().get(&key).await? else { return Ok(None) };
    Ok(Some(ChainRecord::decode(&key, &kv.value)?))
}

/// Fails where an object does not tell all of its batches, and was not given up: rows would be missing in silence.
async fn read_index(
    store: &dyn ObjectStore,
    id: ChainId,
    seq: u64,
    given_up: bool,
) -> Result<(u64, ObjectIndex), Step> {
    let object: Arc<str> = id.object(seq).to_string().into();
    let read = match read_object(store, id, seq).await {
        Err(FootersError::Missing { .. }) if given_up => {
            Object { bytes: 0, entries: Vec::new(), damage: Damage::GivenUp }
        }
        read => read.map_err(step)?,
    };
    let Object { bytes: size_bytes, entries, damage } = read;
    let lacks =
        |is_lost| Ok((seq, ObjectIndex { object: Arc::clone(&object), size_bytes, entries, is_lost }));
    match damage {
        Damage::None | Damage::Salvaged { lost_entries: 0, .. } => lacks(false),
        Damage::GivenUp => lacks(true),
        Damage::Unreadable(_) | Damage::Salvaged { .. } if given_up => lacks(true),
        Damage::Unreadable(why) | Damage::Salvaged { why, .. } => {
            Err(Step::Failed(ScanError::Wal(format!("{object} is damaged: {why}"))))
        }
    }
}

fn step(error: FootersError) -> Step {
    let why = error.to_string();
    match error {
        // Freed or collected since the record was read, where the record is another now.
        FootersError::Missing { .. } => Step::Moved(why),
        FootersError::Store { id, source } if source.kind() == StoreErrorKind::Retry => {
            Step::Failed(ScanError::Store { place: id.directory().to_string(), source })
        }
        FootersError::Meta(error) => Step::Failed(ScanError::Meta(error)),
        FootersError::Store { .. } => Step::Failed(ScanError::Wal(why)),
    }
}

fn above(chains: &BTreeMap<ChainId, ChainIndex>, topic: TopicId) -> Above {
    let mut above = Above::default();
    for index in chains.values().flat_map(BTreeMap::values) {
        if index.is_lost {
            above.given_up = Some(Arc::clone(&index.object));
        }
        for entry in index.entries.iter().filter(|entry| entry.partition.topic == topic) {
            let medium = Medium::Object { size_bytes: index.size_bytes };
            let position = HEADER_BYTES as u64 + entry.position;
            let batch = TailBatch::of(&index.object, position, entry, medium);
            above.by_partition.entry(entry.partition.index).or_default().push(batch);
        }
    }
    above
}
