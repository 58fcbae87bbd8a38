//! One pass of the controller: find out who is gone, give coordinator slots away, seal chains, give partitions away.
//!
//! Coordinator slots need no seal: a coordinator stops before its lease can have run out, and its writes are guarded by the slot's
//! record. So they do not wait for the object store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kafscale_core::backoff::Backoff;
use kafscale_core::ids::NodeId;
use kafscale_core::placement::{Incarnation, Members, Placement, Slot, place};
use kafscale_meta::records::{AssignmentRecord, COORDINATOR_SLOTS, CoordinatorRecord};
use kafscale_meta::{Metadata, Office, Result, Revision};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};
use uuid::Uuid;

use super::image::{Image, Seen, assignment_of};
use super::{Chains, Controller};

/// Slots that may be on their way between live brokers at a time.
const RELEASING_MAX: usize = 100;
/// The object store is given this long for one seal before the next attempt.
const SEAL_TIMEOUT: Duration = Duration::from_secs(10);
/// After this, what was written elsewhere has come in over the watches.
const RACE_RETRY: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Reconciler<'a> {
    controller: &'a Controller,
    office: Office,
    /// Incarnations whose chains are known to be sealed, or to be gone, of those that something is still assigned to.
    sealed: BTreeSet<Incarnation>,
    partitions: Balance,
    coordinators: Balance,
    backoff: Backoff,
}

/// Whether the load of one kind is being evened out. It begins when the load is clearly uneven, and ends when it is even, so that a
/// deleted topic does not move others.
#[derive(Debug, Default)]
struct Balance {
    active: bool,
}

impl Balance {
    fn place(&mut self, groups: &[&[Slot]], members: &Members) -> Placement {
        let placement = place(groups, members, 0);
        let slots: usize = groups.iter().map(|group| group.len()).sum();
        let tolerated = 1 + slots / members.live.len().max(1) / 10;
        self.active = placement.spread > if self.active { 1 } else { tolerated };
        if self.active { place(groups, members, RELEASING_MAX) } else { placement }
    }
}

/// A pass went through, but not everything could be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// A record was changed by somebody else at the same time.
    Raced,
    /// A chain could not be sealed.
    Unsealed,
}

impl<'a> Reconciler<'a> {
    pub fn new(controller: &'a Controller, office: Office) -> Self {
        Self {
            controller,
            office,
            sealed: BTreeSet::new(),
            partitions: Balance::default(),
            coordinators: Balance::default(),
            backoff: controller.waits(),
        }
    }

    /// Brings everything into agreement. Returns after which time to try again what could not be done.
    pub async fn run(&mut self, image: &mut Image) -> Result<Option<Duration>> {
        let from = Instant::now();
        let suspects = suspects(image);
        let absent = self.absent(image, suspects).await?;
        let mut left = self.coordinators(image, &absent).await?;
        if !self.seal(image, &absent).await {
            left = Left::Unsealed;
        }
        let wrote = self.partitions(image).await?;
        if left == Left::Nothing {
            left = wrote;
        }
        let micros = u64::try_from(from.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.controller.stats.last_reconcile_us.store(micros, Ordering::Relaxed);
        let again = match left {
            Left::Nothing => None,
            Left::Raced => Some(RACE_RETRY),
            Left::Unsealed => Some(self.backoff.pause()),
        };
        if left != Left::Unsealed {
            self.backoff.reset();
        }
        Ok(again)
    }

    /// Which of the suspects are certainly not registered, nor ever will be again.
    async fn absent(
        &self,
        image: &mut Image,
        suspects: BTreeSet<Incarnation>,
    ) -> Result<BTreeSet<Incarnation>> {
        if suspects.is_empty() {
            return Ok(suspects);
        }
        // The image may not have heard yet of an owner that has just registered; this list has, since it is read after the image.
        let listed = self.controller.metadata.list_brokers().await?.items;
        let registered: BTreeMap<NodeId, u64> =
            listed.iter().map(|(node_id, read)| (NodeId(*node_id), read.record.epoch)).collect();
        let absent = suspects.into_iter().filter(|s| registered.get(&s.node_id) != Some(&s.epoch)).collect();
        image.brokers = registered;
        Ok(absent)
    }

    /// Makes sure that whoever is absent can acknowledge nothing any more. Returns whether that is so for all.
    async fn seal(&mut self, image: &mut Image, absent: &BTreeSet<Incarnation>) -> bool {
        self.sealed.retain(|known| absent.contains(known));
        let mut seals = JoinSet::new();
        for &dead in absent.difference(&self.sealed) {
            let (metadata, chains) = (self.controller.metadata.clone(), Arc::clone(&self.controller.chains));
            seals.spawn(async move {
                let sealed = timeout(SEAL_TIMEOUT, seal_one(&metadata, chains.as_ref(), dead)).await;
                (dead, sealed.unwrap_or_else(|_| Err("the object store does not answer".to_owned())))
            });
        }
        let mut all = true;
        while let Some(joined) = seals.join_next().await {
            match joined {
                Ok((dead, Ok(newly))) => {
                    if newly {
                        self.controller.stats.seals.fetch_add(1, Ordering::Relaxed);
                        info!(
                            node_id = dead.node_id.0,
                            incarnation = dead.epoch,
                            "a broker is gone; its chain is sealed"
                        );
                        image.chains.insert(dead, true);
                    }
                    self.sealed.insert(dead);
                }
                Ok((dead, Err(error))) => {
                    let (node_id, incarnation) = (dead.node_id.0, dead.epoch);
                    warn!(node_id, incarnation, %error, "the chain of a broker that is gone was not sealed; trying again");
                    all = false;
                }
                Err(error) => {
                    warn!(%error, "sealing a chain ended early; trying again");
                    all = false;
                }
            }
        }
        all
    }

    async fn partitions(&mut self, image: &mut Image) -> Result<Left> {
        let sealed = image.chains.iter().filter(|(_, sealed)| **sealed).map(|(chain, _)| *chain);
        let members =
            Members { live: live(image), gone: self.sealed.iter().copied().chain(sealed).collect() };
        let topics: Vec<Uuid> = image.assignments.keys().copied().collect();
        let groups: Vec<&[Slot]> = image.assignments.values().map(|topic| topic.value.as_slice()).collect();
        let placement = self.partitions.place(&groups, &members);
        let mut changed: BTreeMap<usize, Vec<Slot>> = BTreeMap::new();
        for change in &placement.changes {
            let slots = changed.entry(change.group).or_insert_with(|| groups[change.group].to_vec());
            slots[change.index] = change.slot;
        }
        let changed: Vec<(Uuid, Vec<Slot>)> =
            changed.into_iter().map(|(at, slots)| (topics[at], slots)).collect();
        let writes: Vec<(Uuid, Revision, AssignmentRecord)> = changed
            .iter()
            .map(|(topic_id, slots)| {
                let record = AssignmentRecord { partitions: slots.iter().map(assignment_of).collect() };
                (*topic_id, image.assignments[topic_id].revision, record)
            })
            .collect();
        let written = self.controller.metadata.assign(self.office, &writes).await?;
        self.account("partitions", &placement);
        for ((topic_id, value), revision) in changed.into_iter().zip(&written) {
            if let Some(revision) = *revision {
                image.assignments.insert(topic_id, Seen { value, revision });
            }
        }
        Ok(left(&written))
    }

    async fn coordinators(&mut self, image: &mut Image, absent: &BTreeSet<Incarnation>) -> Result<Left> {
        let members = Members { live: live(image), gone: absent.clone() };
        let slots: Vec<Slot> = (0..COORDINATOR_SLOTS)
            .map(|slot| image.coordinators.get(&slot).map_or_else(Slot::default, |seen| seen.value))
            .collect();
        let placement = self.coordinators.place(&[&slots], &members);
        let writes: Vec<_> = placement
            .changes
            .iter()
            .map(|change| {
                let slot = i32::try_from(change.index).expect("there are few slots");
                let expected = image.coordinators.get(&slot).map(|seen| seen.revision);
                (slot, expected, CoordinatorRecord { slot: assignment_of(&change.slot) })
            })
            .collect();
        let written = self.controller.metadata.assign_coordinators(self.office, &writes).await?;
        self.account("coordinator slots", &placement);
        for ((slot, _, _), (change, revision)) in writes.iter().zip(placement.changes.iter().zip(&written)) {
            if let Some(revision) = *revision {
                image.coordinators.insert(*slot, Seen { value: change.slot, revision });
            }
        }
        Ok(left(&written))
    }

    fn account(&self, what: &'static str, placement: &Placement) {
        let asked = placement.changes.iter().filter(|change| change.slot.release).count();
        let given = placement.changes.len() - asked;
        let stats = &self.controller.stats;
        stats.reassignments.fetch_add(given as u64, Ordering::Relaxed);
        stats.releases.fetch_add(asked as u64, Ordering::Relaxed);
        if given + asked > 0 {
            info!(what, given, asked_for = asked, "assigned");
        }
    }
}

/// Whoever owns something, or has a chain that grows, and is not seen to be registered.
fn suspects(image: &Image) -> BTreeSet<Incarnation> {
    let partitions =
        image.assignments.values().flat_map(|topic| topic.value.iter().filter_map(|slot| slot.owner));
    let coordinators = image.coordinators.values().filter_map(|seen| seen.value.owner);
    let chains = image.chains.iter().filter(|(_, sealed)| !**sealed).map(|(chain, _)| *chain);
    let all = partitions.chain(coordinators).chain(chains);
    all.filter(|incarnation| !image.is_registered(*incarnation)).collect()
}

fn live(image: &Image) -> BTreeMap<NodeId, u64> {
    let incarnations = image.brokers.iter().map(|(&node_id, &epoch)| Incarnation { node_id, epoch });
    incarnations.filter(|i| image.is_live(*i)).map(|i| (i.node_id, i.epoch)).collect()
}

/// Returns whether there was something to seal. Without a chain there is nothing: an incarnation registers with its chain, and the
/// record goes only when nothing of the chain is needed.
async fn seal_one(metadata: &Metadata, chains: &dyn Chains, dead: Incarnation) -> Result<bool, String> {
    let chain = metadata.load_chain(dead.node_id.0, dead.epoch).await.map_err(|e| e.to_string())?;
    if chain.is_none_or(|chain| chain.record.sealed_at.is_some()) {
        return Ok(false);
    }
    chains.seal(dead).await?;
    Ok(true)
}

fn left(written: &[Option<Revision>]) -> Left {
    if written.iter().all(Option::is_some) { Left::Nothing } else { Left::Raced }
}
