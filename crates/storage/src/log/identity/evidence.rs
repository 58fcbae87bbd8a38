//! What shows that metadata describes a store, where one of the two has no id: data of an earlier release, or an `identity.json` that was
//! lost. Ids of topics are random, so one that both know is proof.

use std::collections::HashSet;

use futures_util::TryStreamExt;
use kafscale_core::ids::{PartitionId, TopicId};
use kafscale_meta::MetaStore;
use kafscale_meta::records::{ChainRecord, ClusterRecord, Keyspace, PartitionRecord, Record, TopicRecord};
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};

use super::{Binding, IdentityError, is_anything, known_id, one, recorded};
use crate::disaster::chains::{self, Evidence};
use crate::disaster::snapshot;
use crate::log::manifest::directory;
use crate::log::objects::footers::{Absent, read_chain};
use crate::log::objects::seal::list;
use crate::wal::chain_id::ChainId;

/// So many segments that metadata names are looked for in the store.
const SEGMENTS_TRIED: usize = 64;
const TOPICS_TRIED: usize = 64;
const CHAINS_TRIED: usize = 16;

/// The topics that the metadata knows.
pub async fn topics(
    meta: &dyn MetaStore,
    keys: &Keyspace,
) -> Result<Vec<(String, TopicId)>, kafscale_meta::Error> {
    let mut topics = Vec::new();
    for kv in meta.range_all(&keys.topics_prefix()).await?.kvs {
        let Some(name) = keys.parse_topic(&kv.key) else { continue };
        topics.push((name, TopicId(TopicRecord::decode(&kv.key, &kv.value)?.topic_id)));
    }
    Ok(topics)
}

impl Binding<'_> {
    /// Whether there is anything in the store that deletes or overwrites could harm.
    pub(super) async fn holds_data(&self) -> Result<bool, IdentityError> {
        if self.recovered.iter().any(|file| !file.batches.is_empty()) {
            return Ok(true);
        }
        let shared = self.config.store.is_shared();
        let prefixes: &[&str] =
            if shared { &["topics", "snapshots", "wal", "incarnations"] } else { &["topics", "snapshots"] };
        for prefix in prefixes {
            if is_anything(self.store, prefix).await.map_err(|e| self.store_error(e))? {
                return Ok(true);
            }
        }
        Ok(!shared && self.has_other_nodes().await?)
    }

    /// Whether a broker with another node id has left a write-ahead log in this directory.
    async fn has_other_nodes(&self) -> Result<bool, IdentityError> {
        let listed = self.store.list_with_delimiter(Some(&Path::from("wal"))).await;
        let listed = listed.map_err(|e| self.store_error(e))?;
        let own = format!("wal/{}", self.config.node_id);
        Ok(listed.common_prefixes.iter().any(|directory| directory.as_ref() != own))
    }

    pub(super) async fn has_topics(&self) -> Result<bool, IdentityError> {
        let prefix = self.keys.topics_prefix();
        let page = self.meta.range(one(&prefix)).await?;
        Ok(!page.kvs.is_empty())
    }

    pub(super) async fn names_segments(&self) -> Result<bool, IdentityError> {
        let records = self.partitions().await?;
        Ok(records.iter().any(|(_, record)| !record.segments.is_empty()))
    }

    /// Whether the metadata describes this store.
    pub(super) async fn belongs(&self) -> Result<bool, IdentityError> {
        let topics = self.topics().await?;
        let ids: HashSet<TopicId> = topics.iter().map(|(_, id)| *id).collect();
        let known = |id: &PartitionId| ids.contains(&id.topic);
        if self.recovered.iter().flat_map(|file| &file.batches).any(|(_, entry)| known(&entry.partition)) {
            return Ok(true);
        }
        if self.has_named_segments(&topics).await? || self.has_topic_directories(&topics).await? {
            return Ok(true);
        }
        if let Some(same) = self.is_in_snapshot().await? {
            return Ok(same);
        }
        match (self.config.store.is_shared(), topics.is_empty()) {
            (true, _) => self.has_known_chains(&ids).await,
            (false, true) => self.is_older().await,
            (false, false) => Ok(false),
        }
    }

    pub(super) async fn partitions(&self) -> Result<Vec<(PartitionId, PartitionRecord)>, IdentityError> {
        let listed = self.meta.range_all(&self.keys.partitions_prefix()).await?;
        let mut records = Vec::new();
        for kv in listed.kvs {
            let Some((topic, index)) = self.keys.parse_partition(&kv.key) else { continue };
            let id = PartitionId { topic: TopicId(topic), index };
            records.push((id, PartitionRecord::decode(&kv.key, &kv.value)?));
        }
        Ok(records)
    }

    pub(super) async fn topics(&self) -> Result<Vec<(String, TopicId)>, IdentityError> {
        Ok(topics(self.meta, self.keys).await?)
    }

    async fn has_named_segments(&self, topics: &[(String, TopicId)]) -> Result<bool, IdentityError> {
        let name =
            |id: &PartitionId| topics.iter().find(|(_, topic)| *topic == id.topic).map(|(name, _)| name);
        let records = self.partitions().await?;
        // The newest of each: older ones are the first that retention deletes.
        let named = records.iter().filter_map(|(id, record)| {
            let segment = record.segments.last()?;
            Some(Path::from(format!("{}/{}", directory(name(id)?, *id), segment.object)))
        });
        for path in named.take(SEGMENTS_TRIED) {
            match self.store.head(&path).await {
                Ok(_) => return Ok(true),
                Err(Error::NotFound { .. }) => {}
                Err(e) => return Err(self.store_error(e)),
            }
        }
        Ok(false)
    }

    async fn has_topic_directories(&self, topics: &[(String, TopicId)]) -> Result<bool, IdentityError> {
        for (name, id) in topics.iter().take(TOPICS_TRIED) {
            let directory = format!("topics/{name}/{id}");
            if is_anything(self.store, &directory).await.map_err(|e| self.store_error(e))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the newest snapshot in the store is of this cluster; `None` where there is none.
    async fn is_in_snapshot(&self) -> Result<Option<bool>, IdentityError> {
        let key = self.keys.cluster();
        let Some(own) = self.meta.get(&key).await? else { return Ok(None) };
        let own = ClusterRecord::decode(&key, &own.value)?.cluster_id;
        let id = match recorded(self.meta, self.keys).await? {
            None => known_id(self.store).await.unwrap_or_default(),
            recorded => recorded,
        };
        let Ok(newest) = snapshot::newest(self.store, id.as_deref()).await else { return Ok(None) };
        let Some(snapshot) = newest.snapshot else { return Ok(None) };
        let theirs = snapshot.records.get("cluster").and_then(|value| {
            let cluster = ClusterRecord::decode("cluster", value.as_bytes()).ok()?;
            Some(cluster.cluster_id)
        });
        Ok(theirs.map(|theirs| theirs == own))
    }

    /// Whether a chain that the metadata names has records of topics that it knows.
    async fn has_known_chains(&self, topics: &HashSet<TopicId>) -> Result<bool, IdentityError> {
        let listed = self.meta.range_all(&self.keys.chains_prefix()).await?;
        for kv in listed.kvs.iter().take(CHAINS_TRIED) {
            let Some((node_id, incarnation)) = self.keys.parse_chain(&kv.key) else { continue };
            let id = ChainId { node_id, incarnation };
            let record = ChainRecord::decode(&kv.key, &kv.value)?;
            let Ok(objects) = list(self.store, id).await else { continue };
            let evidence = Evidence::of_record(Some(record));
            let Ok(record) = chains::look(self.store, id, &objects, evidence).await else { continue };
            let Ok(index) = read_chain(self.store, id, &record, Absent::IsLost).await else { continue };
            if index.by_partition.keys().any(|id| topics.contains(&id.topic)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the cluster was founded before everything in the directory was written: then its topics were deleted, and its metadata
    /// was not lost. Of earlier releases only, as later ones have an id.
    async fn is_older(&self) -> Result<bool, IdentityError> {
        let key = self.keys.cluster();
        let Some(cluster) = self.meta.get(&key).await? else { return Ok(false) };
        let founded_ms = ClusterRecord::decode(&key, &cluster.value)?.created_ms;
        let batches = self.recovered.iter().flat_map(|file| &file.batches);
        let oldest = batches.map(|(_, entry)| entry.appended_ms).min().unwrap_or(i64::MAX);
        if oldest < founded_ms {
            return Ok(false);
        }
        let mut listed = self.store.list(Some(&Path::from("topics")));
        while let Some(object) = listed.try_next().await.map_err(|e| self.store_error(e))? {
            if object.last_modified.timestamp_millis() < founded_ms {
                return Ok(false);
            }
        }
        Ok(!self.has_other_nodes().await?)
    }
}
