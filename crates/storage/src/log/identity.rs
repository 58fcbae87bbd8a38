//! Which metadata belongs to which store (ADR 0012).
//!
//! Metadata decides what is deleted, so a broker must never work on a store with metadata that does not describe it. The store has an
//! id in the object `identity.json`, and the metadata has the same id in the record `store`. [`bind`] compares the two before anything
//! is written to the store, and gives both an id when the store is empty. It refuses everything else, unless [`evidence`] shows that
//! the two belong together: so data of earlier releases, which have no id, are taken over.
//!
//! Invariant: nothing is deleted by a process that was not bound ([`still_bound`] confirms it again before each deletion that rests on
//! what metadata does not name).

mod age;
mod evidence;
mod set_store;
pub mod trace;
mod wal_end;

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use kafscale_core::crc;
use kafscale_core::ids::Offset;
use kafscale_meta::records::{ClusterRecord, Keyspace, Record, StoreRecord};
use kafscale_meta::{Compare, KeyValue, MetaStore, Op, RangeRequest, Txn};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use evidence::topics;
pub use set_store::set_store;
pub use trace::Trace;
pub use wal_end::{end_of, note_wal_end};

use super::shared::Shared;
use super::{LogConfig, StoreUrl};
use crate::store::backoff::persist;
use crate::store::{StoreError, StoreErrorKind};
use crate::wal::recovery::RecoveredFile;

/// Where the store says which one it is.
const OBJECT: &str = "identity.json";
const VERSION: u32 = 1;
const PATIENCE: Duration = Duration::from_secs(15);

/// Why the store and the metadata are not used together. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "the store {place} holds records, and the metadata is new or belongs to another store: it does not know them. If the \
         metadata was lost, rebuild it with `kafscale restore`. If --store or --meta is mistyped, correct it. To begin anew, \
         give an empty store. Nothing was changed"
    )]
    NewMetadata { place: String },
    #[error(
        "the metadata belongs to the store with the id {recorded}, and {place} has the id {found}: --store, --meta or \
         --cluster-name names another cluster, or identity.json was put there from another store. Correct the former; take away the \
         latter, and the next start writes it anew, if the metadata describes what is there. If the metadata of this store was lost, \
         rebuild it with `kafscale restore`. Nothing was changed"
    )]
    OtherStore { place: String, recorded: String, found: String },
    #[error(
        "the metadata knows topics with records, and {place} does not have them: the store is empty, or another one. Check that \
         the disk is mounted, and that --store, --meta and --cluster-name belong together. Nothing was changed"
    )]
    OtherData { place: String },
    #[error(
        "the metadata is older than the store {place}: {found}, and the metadata knows none above {known}. It was restored from an \
         old copy, or brokers with another --cluster-name or --meta work on this store, which is for one cluster only: then stop them, or \
         give each cluster a store of its own. `kafscale restore --replace` rebuilds the metadata from the store. Nothing was changed"
    )]
    OldMetadata { place: String, found: Trace, known: u64 },
    #[error(
        "the metadata is older than the store {place}: {segment} holds records from offset {first} on, and as the metadata and the write-ahead \
         log say, partition {partition} of that topic ends at {end}. It was restored from an old copy, or brokers with \
         another --cluster-name or --meta work on this store, which is for one cluster only: then stop them, or give each cluster a store of \
         its own. `kafscale restore --replace` rebuilds the metadata from the store. Nothing was changed"
    )]
    OldEnds { place: String, segment: String, first: Offset, partition: i32, end: Offset },
    #[error(
        "the write-ahead file {file} belongs to the store with the id {found}, and not to this one, which has the id {id}. The files, \
         identity.json or the metadata were put here from another store: put those of one store together. If it is identity.json, take it \
         away: it is written anew, with the id that the files have. Nothing was changed"
    )]
    OtherFile { file: String, found: Uuid, id: String },
    #[error(
        "the write-ahead log in {place} is gone, or is an older copy: it reached to byte {position} of file {file_no} at least, and {found}. \
         Acknowledged records are missing. Put the directory back as it was when the broker stopped last. If these records are to be \
         given up, `kafscale restore --replace` makes metadata of what is left: the log then ends before them, and consumers may have \
         seen what is gone. Nothing was changed"
    )]
    ShortLog { place: String, file_no: u64, position: u64, found: String },
    #[error(
        "the brokers of this cluster keep the log in {theirs}, this one would keep it in {own}: its partitions would be empty"
    )]
    OtherPlace { theirs: String, own: String },
    #[error(
        "{OBJECT} in {place} is a directory: take it away, and the next start writes the file anew. Nothing was changed"
    )]
    NotAFile { place: String },
    #[error("{OBJECT} in {place} was written by a newer release (version {version}): use that one")]
    NewerVersion { place: String, version: u32 },
    /// Worth another try.
    #[error("the store {place}: {source}")]
    Store { place: String, source: StoreError },
    /// Worth another try, unless the record is damaged.
    #[error("the metadata: {0}")]
    Meta(#[from] kafscale_meta::Error),
}

impl IdentityError {
    /// Whether waiting may mend it.
    pub fn may_pass(&self) -> bool {
        match self {
            IdentityError::Store { source, .. } => source.kind() == StoreErrorKind::Retry,
            IdentityError::Meta(source) => source.kind() == kafscale_meta::ErrorKind::Retry,
            final_one => !final_one.is_final(),
        }
    }

    /// Whether trying again does not help: a person must decide.
    pub fn is_final(&self) -> bool {
        !matches!(self, IdentityError::Store { .. } | IdentityError::Meta(_))
    }
}

/// Why it is not known which store it is.
#[derive(Debug, thiserror::Error)]
pub enum IdError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{OBJECT} was written by a newer release (version {0}): use that one")]
    NewerVersion(u32),
}

/// `identity.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct IdentityObject {
    v: u32,
    store_id: String,
    created_ms: i64,
    /// CRC32C of `store_id`, so that damage is not taken for another store.
    crc32c: u32,
}

/// What the store says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Nothing,
    Damaged,
    Id(String),
}

/// A store and metadata that are to be used together.
pub struct Binding<'a> {
    pub config: &'a LogConfig,
    pub store: &'a dyn ObjectStore,
    pub meta: &'a dyn MetaStore,
    pub keys: &'a Keyspace,
    /// What the write-ahead files of a local disk hold.
    pub recovered: &'a [RecoveredFile],
    pub now_ms: i64,
}

/// The id that a store and its metadata are to have, and which one the metadata had.
#[derive(Debug)]
pub struct Decided {
    recorded: Option<String>,
    id: String,
}

/// Makes sure that the store and the metadata belong together, and gives both an id where they have none. Gives the id. What was
/// decided by a look is not decided again, if nobody can have changed anything since.
pub async fn bind(binding: &Binding<'_>, mut looked: Option<Decided>) -> Result<String, IdentityError> {
    // Another broker of the cluster may do the same at the same moment.
    loop {
        let recorded = recorded(binding.meta, binding.keys).await?;
        let known = looked.take().filter(|looked| looked.recorded == recorded);
        let decided = match known {
            Some(looked) => Ok(looked.id),
            None => binding.decide(recorded.clone()).await,
        };
        let id = match decided {
            Ok(id) => id,
            Err(error) if error.is_final() && binding.changed_since(recorded.as_ref(), &error).await? => {
                continue;
            }
            Err(error) => return Err(error),
        };
        if binding.record(&id).await? && binding.mark(&id).await? {
            let LogConfig { node_id, incarnation, .. } = *binding.config;
            trace::note(binding.meta, &binding.keys.writer_trace(node_id), incarnation).await?;
            return Ok(id);
        }
    }
}

/// The id of the store that metadata belongs to.
pub async fn recorded(meta: &dyn MetaStore, keys: &Keyspace) -> Result<Option<String>, kafscale_meta::Error> {
    let key = keys.store();
    let Some(kv) = meta.get(&key).await? else { return Ok(None) };
    Ok(Some(StoreRecord::decode(&key, &kv.value)?.store_id))
}

impl Binding<'_> {
    /// Fails as [`bind`] would.
    pub async fn check(&self) -> Result<Decided, IdentityError> {
        let recorded = recorded(self.meta, self.keys).await?;
        let id = self.decide(recorded.clone()).await?;
        let cluster_key = self.keys.cluster();
        let cluster = self.meta.get(&cluster_key).await?;
        self.with_place(&cluster_key, cluster.as_ref())?;
        Ok(Decided { recorded, id })
    }

    fn place(&self) -> String {
        self.config.store.describe()
    }

    /// Whether another broker has given an id meanwhile: to the metadata, or to the store, which gets it after the metadata.
    async fn changed_since(
        &self,
        looked_at: Option<&String>,
        refused: &IdentityError,
    ) -> Result<bool, IdentityError> {
        let now = recorded(self.meta, self.keys).await?;
        if now.as_ref() != looked_at {
            return Ok(true);
        }
        // Between the two, the store has no id yet, and objects of the broker that gives it one already.
        let Found::Id(found) = self.found().await? else { return Ok(false) };
        Ok(matches!(refused, IdentityError::OtherData { .. }) && now == Some(found))
    }

    fn store_error(&self, error: impl Into<StoreError>) -> IdentityError {
        IdentityError::Store { place: self.place(), source: error.into() }
    }

    /// The id that both are to have.
    async fn decide(&self, recorded: Option<String>) -> Result<String, IdentityError> {
        let is_new = recorded.is_none();
        let id = match (recorded, self.found().await?) {
            (Some(recorded), Found::Id(found)) if recorded == found => found,
            (Some(recorded), Found::Id(found)) => {
                return Err(IdentityError::OtherStore { place: self.place(), recorded, found });
            }
            (Some(recorded), Found::Nothing | Found::Damaged) => {
                self.check_recorded().await?;
                recorded
            }
            (None, Found::Id(found)) => {
                self.check_unrecorded(true).await?;
                found
            }
            (None, Found::Nothing | Found::Damaged) => {
                self.check_unrecorded(false).await?;
                id_in(self.recovered).unwrap_or_else(Uuid::new_v4).to_string()
            }
        };
        check_files(self.recovered, &id)?;
        if !is_new || self.holds_data().await? {
            self.check_age(&id).await?;
        }
        self.check_wal_end().await?;
        self.check_log_ends().await?;
        Ok(id)
    }

    async fn found(&self) -> Result<Found, IdentityError> {
        if let StoreUrl::File(dir) = &self.config.store
            && std::fs::symlink_metadata(dir.join(OBJECT)).is_ok_and(|found| found.is_dir())
        {
            return Err(IdentityError::NotAFile { place: self.place() });
        }
        let found = find(self.store).await.map_err(|e| self.store_error(e))?;
        found.map_err(|version| IdentityError::NewerVersion { place: self.place(), version })
    }

    /// The metadata has an id, the store has none: a first start was cut off between the two, or `identity.json` was lost.
    async fn check_recorded(&self) -> Result<(), IdentityError> {
        let fresh = !self.has_topics().await? && !self.holds_data().await?;
        if fresh || self.belongs().await? {
            return Ok(());
        }
        Err(IdentityError::OtherData { place: self.place() })
    }

    /// The metadata has no id: it is new, or of an earlier release.
    async fn check_unrecorded(&self, store_has_id: bool) -> Result<(), IdentityError> {
        let empty = !self.holds_data().await?;
        // Somebody else may be about to use an empty bucket that has an id. Nobody else uses a local directory.
        if empty && !(store_has_id && self.config.store.is_shared()) {
            return match self.names_segments().await? {
                true => Err(IdentityError::OtherData { place: self.place() }),
                false => Ok(()),
            };
        }
        match self.belongs().await? {
            true => Ok(()),
            false => Err(IdentityError::NewMetadata { place: self.place() }),
        }
    }

    /// Writes the id into the metadata, and where the store is. `false` when somebody else was faster.
    async fn record(&self, id: &str) -> Result<bool, IdentityError> {
        let (key, cluster_key) = (self.keys.store(), self.keys.cluster());
        let record = StoreRecord { store_id: id.to_owned() }.encode();
        let now = self.meta.get(&key).await?;
        let cluster = self.meta.get(&cluster_key).await?;
        let with_place = self.with_place(&cluster_key, cluster.as_ref())?;
        let recorded = now.as_ref().is_some_and(|kv| kv.value == record);
        if recorded && with_place.is_none() {
            return Ok(true);
        }
        let guard = match &now {
            None => Compare::absent(&key),
            Some(kv) if recorded => Compare::mod_revision(&key, kv.mod_revision),
            Some(_) => return Ok(false),
        };
        let mut txn = Txn::new().when(guard).and_then(Op::put(&key, record));
        if let (Some(cluster), Some(with_place)) = (cluster, with_place) {
            let unchanged = Compare::mod_revision(&cluster_key, cluster.mod_revision);
            txn = txn.when(unchanged).and_then(Op::put(&cluster_key, with_place));
        }
        Ok(self.meta.txn(txn).await?.succeeded)
    }

    /// The cluster's record with this store, where it names none yet.
    fn with_place(&self, key: &str, cluster: Option<&KeyValue>) -> Result<Option<Bytes>, IdentityError> {
        let (Some(cluster), Some(own)) = (cluster, &self.config.place) else { return Ok(None) };
        let cluster = ClusterRecord::decode(key, &cluster.value)?;
        match cluster.store {
            Some(theirs) if theirs != *own => Err(IdentityError::OtherPlace { theirs, own: own.clone() }),
            Some(_) => Ok(None),
            None => Ok(Some(ClusterRecord { store: Some(own.clone()), ..cluster }.encode())),
        }
    }

    /// Writes the id into the store. `false` when somebody else wrote something meanwhile.
    async fn mark(&self, id: &str) -> Result<bool, IdentityError> {
        let replace = match self.found().await? {
            Found::Id(found) => return Ok(found == id),
            Found::Nothing => false,
            Found::Damaged => {
                tracing::warn!(place = self.place(), "{OBJECT} was damaged; it is written anew");
                true
            }
        };
        mark(self.store, id, self.now_ms, replace).await.map_err(|e| self.store_error(e))
    }
}

/// The store that write-ahead files say they belong to, where any says so.
pub fn id_in(files: &[RecoveredFile]) -> Option<Uuid> {
    files.iter().rev().find_map(|file| file.header.store_id)
}

/// Refuses write-ahead files of another store. Files of earlier releases do not say whose they are.
pub fn check_files(files: &[RecoveredFile], id: &str) -> Result<(), IdentityError> {
    let own = Uuid::parse_str(id).ok();
    for file in files {
        if let Some(found) = file.header.store_id.filter(|found| Some(*found) != own) {
            let (file, id) = (file.path.display().to_string(), id.to_owned());
            return Err(IdentityError::OtherFile { file, found, id });
        }
    }
    Ok(())
}

/// Reads `identity.json`. The inner error is a version that this release does not know.
async fn find(store: &dyn ObjectStore) -> Result<Result<Found, u32>, StoreError> {
    let path = Path::from(OBJECT);
    let read = || {
        let path = &path;
        Box::pin(async move {
            match store.get(path).await {
                Ok(found) => found.bytes().await.map(Some),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(e) => Err(e),
            }
        }) as BoxFuture<'_, object_store::Result<Option<Bytes>>>
    };
    let Some(bytes) = persist(PATIENCE, 0, read).await? else { return Ok(Ok(Found::Nothing)) };
    let Ok(object) = serde_json::from_slice::<IdentityObject>(&bytes) else { return Ok(Ok(Found::Damaged)) };
    let sound = crc::crc32c(object.store_id.as_bytes()) == object.crc32c;
    Ok(match sound {
        true if object.v > VERSION => Err(object.v),
        true => Ok(Found::Id(object.store_id)),
        false => Ok(Found::Damaged),
    })
}

/// Creates `identity.json`; `false` when it is there already.
async fn mark(store: &dyn ObjectStore, id: &str, now_ms: i64, replace: bool) -> Result<bool, StoreError> {
    let crc32c = crc::crc32c(id.as_bytes());
    let object = IdentityObject { v: VERSION, store_id: id.to_owned(), created_ms: now_ms, crc32c };
    let bytes = Bytes::from(serde_json::to_vec(&object).expect("it is a map with string keys"));
    let path = Path::from(OBJECT);
    let mode = || if replace { PutMode::Overwrite } else { PutMode::Create };
    let put = || {
        let options = PutOptions { mode: mode(), ..PutOptions::default() };
        let (path, bytes) = (&path, bytes.clone());
        Box::pin(async move {
            match store.put_opts(path, bytes.into(), options).await {
                Ok(_) => Ok(true),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
                Err(e) => Err(e),
            }
        }) as BoxFuture<'_, object_store::Result<bool>>
    };
    persist(PATIENCE, 0, put).await
}

/// The id of a store whose metadata is rebuilt; gives it one if it has none: the one that it is known to have had, if there is any.
pub async fn id_of(store: &dyn ObjectStore, known: Option<String>, now_ms: i64) -> Result<String, IdError> {
    let id = known.unwrap_or_else(|| Uuid::new_v4().to_string());
    loop {
        let found = find(store).await?.map_err(IdError::NewerVersion)?;
        let replace = match found {
            Found::Id(id) => return Ok(id),
            Found::Damaged => true,
            Found::Nothing => false,
        };
        mark(store, &id, now_ms, replace).await?;
    }
}

/// Whether a store has an identity, readable or not.
pub async fn is_there(store: &dyn ObjectStore) -> object_store::Result<bool> {
    match store.head(&Path::from(OBJECT)).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The id that a store says it has, if any.
pub async fn known_id(store: &dyn ObjectStore) -> Result<Option<String>, IdError> {
    match find(store).await?.map_err(IdError::NewerVersion)? {
        Found::Id(id) => Ok(Some(id)),
        Found::Damaged | Found::Nothing => Ok(None),
    }
}

/// For one who only reads: refuses a store and metadata that say themselves that they belong to different clusters.
pub async fn check_same(
    store: &dyn ObjectStore,
    meta: &dyn MetaStore,
    keys: &Keyspace,
    place: &str,
) -> Result<(), IdentityError> {
    let place = || place.to_owned();
    let recorded = recorded(meta, keys).await?;
    let found = find(store).await.map_err(|source| IdentityError::Store { place: place(), source })?;
    match (recorded, found.map_err(|version| IdentityError::NewerVersion { place: place(), version })?) {
        (Some(recorded), Found::Id(found)) if recorded != found => {
            Err(IdentityError::OtherStore { place: place(), recorded, found })
        }
        (None | Some(_), Found::Id(_) | Found::Nothing | Found::Damaged) => Ok(()),
    }
}

/// The highest epoch that metadata can have given to an incarnation by now.
pub async fn last_epoch(meta: &dyn MetaStore, keys: &Keyspace) -> Result<u64, kafscale_meta::Error> {
    let base = trace::base(meta, keys).await?;
    let page = meta.range(one(keys.root())).await?;
    Ok(base + page.revision.0)
}

/// Whether the metadata is still what this process was bound to, and nobody has taken its place: to be asked before anything is deleted
/// because metadata does not name it. The metadata store may have been emptied, or restored from an old copy, below a running broker.
pub async fn still_bound(shared: &Shared) -> Result<bool, kafscale_meta::Error> {
    if matches!(shared.config.store, StoreUrl::Memory) {
        return Ok(true);
    }
    let (meta, keys) = (&*shared.meta, &shared.keys);
    if recorded(meta, keys).await?.as_ref() != shared.store_id.as_ref() {
        return Ok(false);
    }
    let unsealed = match &shared.chain {
        Some(chain) => chain.refresh(meta, keys).await?.is_ok(),
        None => true,
    };
    Ok(unsealed && meta.get(&keys.restoring()).await?.is_none())
}

/// A request for one key at most.
fn one(prefix: &str) -> RangeRequest {
    RangeRequest { prefix: prefix.to_owned(), start_after: None, limit: 1 }
}

/// Whether anything is below a prefix.
async fn is_anything(store: &dyn ObjectStore, prefix: &str) -> Result<bool, StoreError> {
    let prefix = Path::from(prefix);
    let look = || {
        let prefix = &prefix;
        Box::pin(async move { Ok(store.list(Some(prefix)).try_next().await?.is_some()) })
            as BoxFuture<'_, object_store::Result<bool>>
    };
    persist(PATIENCE, 0, look).await
}
