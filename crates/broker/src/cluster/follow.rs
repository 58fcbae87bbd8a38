//! Following the metadata store: topics, assignments, brokers, the controller's office and dynamic settings, each by a watch of its own.
//!
//! The watches run at their own pace, so a topic may come in before its assignment or after it; until both are there its partitions have
//! no leader. A watch that is too far behind ends, and everything is listed anew and compared with what is known.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kafscale_core::backoff::Backoff;
use kafscale_core::ids::{NodeId, TopicId};
use kafscale_core::topic_config::{ConfigError, TopicConfig};
use kafscale_meta::records::{
    AssignmentRecord, BrokerConfigRecord, BrokerRecord, ConfigScope, ControllerRecord, Keyspace,
    PartitionAssignment, Record, TopicRecord,
};
use kafscale_meta::{ErrorKind, Event, KeyValue, Metadata, Result, Revision, Versioned, Watch, WatchBatch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::{Cluster, LiveBroker};
use crate::broker::StartError;
use crate::settings::Settings;
use crate::topics::{Topic, Topics};

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// What the follower keeps up to date. Nobody else writes to it.
#[derive(Debug, Clone)]
pub struct Image {
    pub topics: Arc<Topics>,
    pub settings: Arc<Settings>,
    pub cluster: Arc<Cluster>,
}

/// The image, and where its changes come from.
#[derive(Debug)]
pub struct Follower {
    metadata: Metadata,
    keys: Keyspace,
    image: Image,
    /// Of all topics, those included that have not come in yet.
    assignments: HashMap<Uuid, Arc<[PartitionAssignment]>>,
}

#[derive(Debug)]
struct Watches {
    topics: Box<dyn Watch>,
    assignments: Box<dyn Watch>,
    brokers: Box<dyn Watch>,
    office: Box<dyn Watch>,
    configs: Box<dyn Watch>,
}

/// A follower that has everything, from the moment at which its watches begin.
#[derive(Debug)]
pub struct Following {
    follower: Follower,
    watches: Watches,
}

impl Following {
    /// Reads everything. A topic whose settings are not valid stops the start.
    pub async fn begin(metadata: Metadata, image: Image) -> Result<Following, StartError> {
        let keys = metadata.keys().clone();
        let mut follower = Follower { metadata, keys, image, assignments: HashMap::new() };
        let (watches, invalid) = follower.load().await?;
        match invalid {
            Some((name, error)) => Err(StartError::StoredTopic { name, error }),
            None => Ok(Following { follower, watches }),
        }
    }

    /// Follows until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        let seed = self.follower.image.cluster.identity().seed();
        let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX, seed);
        loop {
            let Err(error) = self.watches.next(&mut self.follower).await else {
                backoff.reset();
                continue;
            };
            match error.kind() {
                ErrorKind::Compacted => debug!(%error, "reading the metadata anew"),
                _ => warn!(%error, "the metadata cannot be followed at the moment; reading it anew"),
            }
            loop {
                sleep(backoff.pause()).await;
                match self.follower.load().await {
                    Ok((watches, _)) => {
                        self.watches = watches;
                        break;
                    }
                    Err(error) => warn!(%error, "the metadata cannot be read at the moment; trying again"),
                }
            }
        }
    }
}

impl Watches {
    /// Waits for changes, and applies them.
    async fn next(&mut self, follower: &mut Follower) -> Result<()> {
        tokio::select! {
            batch = self.assignments.next() => follower.follow_assignments(&batch?),
            batch = self.topics.next() => follower.follow_topics(&batch?),
            batch = self.brokers.next() => follower.follow_brokers(&batch?),
            batch = self.office.next() => follower.follow_office(&batch?),
            batch = self.configs.next() => follower.follow_configs(&batch?),
        }
        follower.image.cluster.announce();
        Ok(())
    }
}

/// A topic that cannot be served as it is stored.
type Invalid = (String, ConfigError);

impl Follower {
    /// Lists everything, applies it, and gives the watches that go on from there. Also the first topic that cannot be made out.
    async fn load(&mut self) -> Result<(Watches, Option<Invalid>)> {
        let (metadata, keys) = (self.metadata.clone(), self.keys.clone());
        let store = metadata.store();
        let listed = metadata.list_broker_configs().await?;
        let configs = store.watch(&keys.broker_configs_prefix(), listed.revision.next()).await?;
        self.replace_configs(listed.items);
        let listed = metadata.list_brokers().await?;
        let brokers = store.watch(&keys.brokers_prefix(), listed.revision.next()).await?;
        let live = |(id, read): (i32, Versioned<BrokerRecord>)| {
            (NodeId(id), LiveBroker::new(NodeId(id), &read.record))
        };
        let by_id = listed.items.into_iter().map(live).collect();
        let office = store.watch(&keys.controller(), Revision(0)).await?;
        let controller = metadata.load_controller().await?.map(|read| NodeId(read.record.node_id));
        self.image.cluster.update_brokers(|brokers| {
            brokers.by_id = by_id;
            brokers.controller = controller;
        });
        let listed = metadata.list_assignments().await?;
        let assignments = store.watch(&keys.assignments_prefix(), listed.revision.next()).await?;
        self.assignments = listed.items.into_iter().map(|(id, read)| (id, partitions_of(&read))).collect();
        let listed = metadata.list_topics().await?;
        let topics = store.watch(&keys.topics_prefix(), listed.revision.next()).await?;
        let invalid = self.replace_topics(listed.items);
        self.image.cluster.announce();
        Ok((Watches { topics, assignments, brokers, office, configs }, invalid))
    }

    fn replace_topics(&mut self, listed: Vec<(String, Versioned<TopicRecord>)>) -> Option<Invalid> {
        let names: HashSet<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
        for known in self.image.topics.all() {
            if !names.contains(&*known.name) {
                self.forget_topic(&known);
            }
        }
        let mut first = None;
        for (name, read) in &listed {
            if let Err(error) = self.put_topic(name, read) {
                error!(topic = name, %error, "the stored settings of a topic are not valid");
                first.get_or_insert((name.clone(), error));
            }
        }
        first
    }

    fn replace_configs(&mut self, listed: Vec<(ConfigScope, Versioned<BrokerConfigRecord>)>) {
        let own = ConfigScope::Broker(self.image.cluster.identity().node_id.0);
        let mut found: HashMap<ConfigScope, _> = listed.into_iter().collect();
        for scope in [own, ConfigScope::Default] {
            let (configs, revision) = found
                .remove(&scope)
                .map_or_else(Default::default, |read| (read.record.configs, read.mod_revision));
            self.image.settings.set_dynamic(scope, configs, revision);
        }
        self.refresh_defaults();
    }

    fn follow_topics(&mut self, batch: &WatchBatch) {
        for event in &batch.events {
            let Some(name) = self.keys.parse_topic(event.key()) else { continue };
            match event {
                Event::Put(kv) => {
                    let Some(read) = decode::<TopicRecord>(kv) else { continue };
                    if let Err(error) = self.put_topic(&name, &read) {
                        error!(topic = name, %error, "the stored settings of a topic are not valid");
                    }
                }
                Event::Delete { .. } => {
                    if let Some(topic) = self.image.topics.get(&name) {
                        self.forget_topic(&topic);
                    }
                }
            }
        }
    }

    fn follow_assignments(&mut self, batch: &WatchBatch) {
        for event in &batch.events {
            let Some(topic_id) = self.keys.parse_assignment(event.key()) else { continue };
            match event {
                Event::Put(kv) => {
                    let Some(read) = decode::<AssignmentRecord>(kv) else { continue };
                    let assignment = partitions_of(&read);
                    self.assignments.insert(topic_id, Arc::clone(&assignment));
                    if let Some(topic) = self.image.topics.get_by_id(TopicId(topic_id)) {
                        self.image.topics.put(Topic { assignment, ..Topic::clone(&topic) });
                        self.image.cluster.touch(topic.id);
                    }
                }
                // The topic goes as well; until that has come in, it stays what it was.
                Event::Delete { .. } => drop(self.assignments.remove(&topic_id)),
            }
        }
    }

    fn follow_brokers(&mut self, batch: &WatchBatch) {
        for event in &batch.events {
            let Some(node_id) = self.keys.parse_broker(event.key()).map(NodeId) else { continue };
            let broker = match event {
                Event::Put(kv) => {
                    decode::<BrokerRecord>(kv).map(|read| LiveBroker::new(node_id, &read.record))
                }
                Event::Delete { .. } => None,
            };
            self.image.cluster.update_brokers(|brokers| match broker {
                Some(broker) => drop(brokers.by_id.insert(node_id, broker)),
                None => drop(brokers.by_id.remove(&node_id)),
            });
        }
    }

    fn follow_office(&mut self, batch: &WatchBatch) {
        for event in batch.events.iter().filter(|event| event.key() == self.keys.controller()) {
            let holder = match event {
                Event::Put(kv) => decode::<ControllerRecord>(kv).map(|read| NodeId(read.record.node_id)),
                Event::Delete { .. } => None,
            };
            self.image.cluster.update_brokers(|brokers| brokers.controller = holder);
        }
    }

    fn follow_configs(&mut self, batch: &WatchBatch) {
        let own = self.image.cluster.identity().node_id.0;
        for event in &batch.events {
            let scope = match self.keys.parse_broker_config(event.key()) {
                Some(ConfigScope::Broker(node_id)) if node_id != own => continue,
                Some(scope) => scope,
                None => continue,
            };
            let configs = match event {
                Event::Put(kv) => match decode::<BrokerConfigRecord>(kv) {
                    Some(read) => read.record.configs,
                    None => continue,
                },
                Event::Delete { .. } => BTreeMap::new(),
            };
            self.image.settings.set_dynamic(scope, configs, event.revision());
        }
        self.refresh_defaults();
    }

    fn put_topic(&mut self, name: &str, read: &Versioned<TopicRecord>) -> Result<(), ConfigError> {
        let assignment = self.assignments.get(&read.record.topic_id).cloned().unwrap_or_default();
        let topic = Topic::resolve(name, read, assignment, &self.image.settings.topic_defaults())?;
        if let Some(former) = self.image.topics.get(name).filter(|former| former.id != topic.id) {
            self.forget_topic(&former);
        }
        self.image.cluster.touch(topic.id);
        self.image.topics.put(topic);
        Ok(())
    }

    fn forget_topic(&mut self, topic: &Topic) {
        self.image.topics.remove(&topic.name, topic.id);
        self.image.cluster.topic_gone(Arc::clone(&topic.name), topic.id);
    }

    /// Resolves the settings of all topics anew, after the defaults may have changed.
    fn refresh_defaults(&mut self) {
        let defaults = self.image.settings.topic_defaults();
        for topic in self.image.topics.all() {
            match TopicConfig::resolve(&topic.overrides, &defaults) {
                Ok(config) if config != *topic.config => {
                    let config = Arc::new(config);
                    self.image.topics.put(Topic { config, ..Topic::clone(&topic) });
                    self.image.cluster.touch(topic.id);
                }
                Ok(_) => {}
                Err(error) => error!(topic = %topic.name, %error, "settings cannot be resolved"),
            }
        }
    }
}

fn partitions_of(read: &Versioned<AssignmentRecord>) -> Arc<[PartitionAssignment]> {
    read.record.partitions.as_slice().into()
}

/// One record that cannot be made out, of a newer release perhaps, must not stop the others: what was known of it stays.
fn decode<R: Record>(kv: &KeyValue) -> Option<Versioned<R>> {
    match Versioned::decode(kv) {
        Ok(read) => Some(read),
        Err(error) => {
            error!(%error, "a change in the metadata is not followed");
            None
        }
    }
}
