//! What the controller knows of the cluster: brokers, chains, assignments, coordinators; and the watches that keep it so.
//!
//! Each kind of record has a watch of its own, and they run at their own pace. So the image may show an owner before it shows that
//! this owner is registered: what cannot be undone is decided after a look at the store itself (see [`super::reconcile`]).

use std::collections::BTreeMap;

use kafscale_core::ids::{LeaderEpoch, NodeId};
use kafscale_core::placement::{Incarnation, Slot};
use kafscale_meta::records::{
    AssignmentRecord, BrokerRecord, ChainRecord, CoordinatorRecord, Keyspace, PartitionAssignment,
};
use kafscale_meta::{Event, Metadata, Result, Revision, Versioned, Watch, WatchBatch};
use uuid::Uuid;

/// The image, and where its changes come from.
#[derive(Debug)]
pub struct Followed {
    pub image: Image,
    keys: Keyspace,
    brokers: Box<dyn Watch>,
    chains: Box<dyn Watch>,
    assignments: Box<dyn Watch>,
    coordinators: Box<dyn Watch>,
    office: Box<dyn Watch>,
}

/// What kind of change came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The controller's office.
    Office,
    /// A broker registered.
    Joined,
    /// A topic was created, changed or deleted, or a partition was assigned.
    Topics,
    Other,
}

/// Records as of some moment, those that matter to the controller.
#[derive(Debug, Default)]
pub struct Image {
    /// The registered incarnation of each broker.
    pub brokers: BTreeMap<NodeId, u64>,
    /// Whether each chain is sealed. None where the log is on a local disk.
    pub chains: BTreeMap<Incarnation, bool>,
    pub assignments: BTreeMap<Uuid, Seen<Vec<Slot>>>,
    pub coordinators: BTreeMap<i32, Seen<Slot>>,
}

/// A value with the revision that guards a write that replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<T> {
    pub value: T,
    pub revision: Revision,
}

impl Followed {
    /// Lists everything, and watches from there on. Owners are listed before those that they could be, so that who is seen
    /// as an owner, and is alive, is mostly seen as a broker too.
    pub async fn begin(metadata: &Metadata) -> Result<Self> {
        let mut image = Image::default();
        let (store, keys) = (metadata.store(), metadata.keys());
        let listed = metadata.list_assignments().await?;
        let assignments = store.watch(&keys.assignments_prefix(), listed.revision.next()).await?;
        for (topic_id, read) in listed.items {
            image.put_assignment(topic_id, &read);
        }
        let listed = metadata.list_coordinators().await?;
        let coordinators = store.watch(&keys.coordinators_prefix(), listed.revision.next()).await?;
        for (slot, read) in listed.items {
            image.put_coordinator(slot, &read);
        }
        let listed = metadata.list_chains().await?;
        let chains = store.watch(&keys.chains_prefix(), listed.revision.next()).await?;
        for ((node_id, epoch), read) in listed.items {
            image.put_chain(node_id, epoch, &read);
        }
        let listed = metadata.list_brokers().await?;
        let brokers = store.watch(&keys.brokers_prefix(), listed.revision.next()).await?;
        for (node_id, read) in listed.items {
            image.brokers.insert(NodeId(node_id), read.record.epoch);
        }
        let office = store.watch(&keys.controller(), Revision(0)).await?;
        Ok(Self { image, keys: keys.clone(), brokers, chains, assignments, coordinators, office })
    }

    /// Waits for changes, and applies them. Cancel-safe.
    pub async fn next(&mut self) -> Result<Change> {
        tokio::select! {
            batch = self.office.next() => batch.map(|_| Change::Office),
            batch = self.brokers.next() => self.image.follow_brokers(&self.keys, &batch?),
            batch = self.chains.next() => self.image.follow_chains(&self.keys, &batch?),
            batch = self.assignments.next() => self.image.follow_assignments(&self.keys, &batch?),
            batch = self.coordinators.next() => self.image.follow_coordinators(&self.keys, &batch?),
        }
    }
}

impl Image {
    /// A broker that can be given something: registered, and its chain not sealed, as it is in the last moments of a planned stop.
    pub fn is_live(&self, incarnation: Incarnation) -> bool {
        self.is_registered(incarnation) && self.chains.get(&incarnation) != Some(&true)
    }

    pub fn is_registered(&self, incarnation: Incarnation) -> bool {
        self.brokers.get(&incarnation.node_id) == Some(&incarnation.epoch)
    }

    /// Whether there are chains that nobody adds to.
    pub fn has_dead_chains(&self) -> bool {
        self.chains.keys().any(|chain| !self.is_registered(*chain))
    }

    /// Whether everything that has an owner belongs to somebody who is gone, in a cluster that may have several brokers: those with
    /// chains in a shared store.
    pub fn is_cold_start(&self, own: Incarnation) -> bool {
        let mut owners =
            self.assignments.values().flat_map(|topic| topic.value.iter().filter_map(|slot| slot.owner));
        let mut any = false;
        let all_gone = owners.all(|owner| {
            any = true;
            !self.is_registered(owner)
        });
        any && all_gone && self.chains.contains_key(&own)
    }

    pub fn put_assignment(&mut self, topic_id: Uuid, read: &Versioned<AssignmentRecord>) {
        let value = read.record.partitions.iter().map(slot_of).collect();
        self.assignments.insert(topic_id, Seen { value, revision: read.mod_revision });
    }

    pub fn put_coordinator(&mut self, slot: i32, read: &Versioned<CoordinatorRecord>) {
        let seen = Seen { value: slot_of(&read.record.slot), revision: read.mod_revision };
        self.coordinators.insert(slot, seen);
    }

    fn put_chain(&mut self, node_id: i32, epoch: u64, read: &Versioned<ChainRecord>) {
        let sealed = read.record.sealed_at.is_some();
        self.chains.insert(Incarnation { node_id: NodeId(node_id), epoch }, sealed);
    }

    fn follow_brokers(&mut self, keys: &Keyspace, batch: &WatchBatch) -> Result<Change> {
        let mut change = Change::Other;
        for event in &batch.events {
            let Some(node_id) = keys.parse_broker(event.key()).map(NodeId) else { continue };
            match event {
                Event::Put(kv) => {
                    let broker = Versioned::<BrokerRecord>::decode(kv)?.record;
                    self.brokers.insert(node_id, broker.epoch);
                    change = Change::Joined;
                }
                Event::Delete { .. } => drop(self.brokers.remove(&node_id)),
            }
        }
        Ok(change)
    }

    fn follow_chains(&mut self, keys: &Keyspace, batch: &WatchBatch) -> Result<Change> {
        for event in &batch.events {
            let Some((node_id, epoch)) = keys.parse_chain(event.key()) else { continue };
            match event {
                Event::Put(kv) => self.put_chain(node_id, epoch, &Versioned::decode(kv)?),
                Event::Delete { .. } => {
                    self.chains.remove(&Incarnation { node_id: NodeId(node_id), epoch });
                }
            }
        }
        Ok(Change::Other)
    }

    /// What the controller wrote itself is in the image already, and comes once more.
    fn follow_assignments(&mut self, keys: &Keyspace, batch: &WatchBatch) -> Result<Change> {
        for event in &batch.events {
            let Some(topic_id) = keys.parse_assignment(event.key()) else { continue };
            let known = self.assignments.get(&topic_id).map_or(Revision(0), |seen| seen.revision);
            match event {
                Event::Put(kv) if kv.mod_revision > known => {
                    self.put_assignment(topic_id, &Versioned::decode(kv)?);
                }
                Event::Put(_) => {}
                Event::Delete { .. } => drop(self.assignments.remove(&topic_id)),
            }
        }
        Ok(Change::Topics)
    }

    fn follow_coordinators(&mut self, keys: &Keyspace, batch: &WatchBatch) -> Result<Change> {
        for event in &batch.events {
            let Some(slot) = keys.parse_coordinator(event.key()) else { continue };
            let known = self.coordinators.get(&slot).map_or(Revision(0), |seen| seen.revision);
            match event {
                Event::Put(kv) if kv.mod_revision > known => {
                    self.put_coordinator(slot, &Versioned::decode(kv)?);
                }
                Event::Put(_) => {}
                Event::Delete { .. } => drop(self.coordinators.remove(&slot)),
            }
        }
        Ok(Change::Other)
    }
}

/// As placement sees it.
pub fn slot_of(assignment: &PartitionAssignment) -> Slot {
    let PartitionAssignment { owner, leader_epoch, incarnation, release } = *assignment;
    let owner = owner.map(|node_id| Incarnation { node_id: NodeId(node_id), epoch: incarnation });
    Slot { owner, leader_epoch: LeaderEpoch(leader_epoch), release }
}

/// As it is stored.
pub fn assignment_of(slot: &Slot) -> PartitionAssignment {
    PartitionAssignment {
        owner: slot.owner.map(|owner| owner.node_id.0),
        leader_epoch: slot.leader_epoch.0,
        incarnation: slot.owner.map_or(0, |owner| owner.epoch),
        release: slot.release,
    }
}
