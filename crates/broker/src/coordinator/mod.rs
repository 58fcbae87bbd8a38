//! The group coordinator: finds each group its task, keeps committed offsets, and writes both to the metadata store.
//!
//! Groups belong to slots, and each slot is coordinated by one incarnation of one broker ([`slots`], ADR 0007). [`follow`] loads the
//! groups of the slots that this one is given, for a [`tenure`] that ends when the slot is taken or asked for.
//!
//! A group's state machine ([`kafscale_core::group::Group`]) is owned by one task while anything can happen to it, and
//! rests in its [`cell::Cell`] otherwise. All writes go through one [`writer`], in order, many in one transaction.
//!
//! Invariants:
//! - nothing is answered for a group of another broker's slot, nor when the lease may have run out;
//! - a commit is visible, and answered, only after the transaction that holds it succeeded;
//! - the metadata store sees the writes of a group in the order in which the group decided them, and those of one coordinator
//!   only while it is the group's;
//! - committed offsets take no more than they may ([`room`]);
//! - a group that is neither stored nor has members is forgotten, so that probing for groups leaves nothing behind.
//!
//! Left to others: Kafka messages and error codes (the `api` files), whether a topic exists (their callers), who gets which
//! slot (the controller).

mod cell;
mod command;
mod follow;
mod gone;
mod guard;
mod plan;
mod record;
mod room;
mod slots;
mod stats;
mod sweep;
mod task;
mod tenure;
mod timeline;
mod writer;

#[cfg(test)]
mod tests;

pub use stats::GroupStats;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_core::group::offsets::{CommittedOffset, CommittedOffsets};
use kafscale_core::group::{
    Group, GroupConfig, GroupError, GroupView, JoinReply, JoinRequest, LeavingMember, LeftMember,
    MemberIdentity, SyncRequest, Synced,
};
use kafscale_core::ids::TopicId;
use kafscale_core::names::TOPIC_NAME_MAX_BYTES;
use kafscale_core::placement::Incarnation;
use kafscale_meta::records::{Keyspace, OffsetKey};
use kafscale_meta::{LeaseState, MAX_KEY_BYTES, Metadata};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use cell::{Cell, Delivery, Status};
use command::Command;
use follow::Follower;
use slots::Slots;
use tenure::Tenure;
use timeline::Timeline;
use writer::WriteQueue;

use crate::log_limit::{Line, LogLimits};

/// The broker's `group.*` and `offsets.*` settings.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    pub group: GroupConfig,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`
    pub offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check_interval: Duration,
    /// What all protocols of one member may weigh. All members must fit into one record.
    pub member_metadata_max_bytes: usize,
    /// What the members of all groups may take in memory. New ones are told to try again later beyond that.
    pub members_memory_bytes: usize,
    /// What the committed offsets of one group may take.
    pub group_offsets_max_bytes: usize,
    /// What the committed offsets of all groups of this broker may take.
    pub offsets_max_bytes: usize,
    /// The most groups. Apache Kafka has no limit.
    pub max_groups: usize,
}

impl Default for CoordinatorConfig {
    fn default() -> CoordinatorConfig {
        CoordinatorConfig {
            group: GroupConfig::default(),
            offset_metadata_max_bytes: 4096,
            offsets_retention: Duration::from_secs(7 * 24 * 3600),
            offsets_retention_check_interval: Duration::from_secs(600),
            member_metadata_max_bytes: 1 << 20,
            members_memory_bytes: 512 << 20,
            group_offsets_max_bytes: 32 << 20,
            offsets_max_bytes: 128 << 20,
            max_groups: 100_000,
        }
    }
}

/// One partition's part of a commit.
#[derive(Debug, Clone)]
pub struct PartitionCommit {
    pub topic: Arc<str>,
    pub partition: i32,
    pub committed: CommittedOffset,
}

/// A partition by the name of its topic, as commits name it.
pub type NamedPartition = (Arc<str>, i32);

/// Coordinates the groups of this broker's slots.
#[derive(Debug)]
pub struct Coordinator {
    shared: Arc<Shared>,
    writing: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// What the tasks of all groups share.
#[derive(Debug)]
struct Shared {
    config: CoordinatorConfig,
    keys: Keyspace,
    clock: Arc<dyn Clock>,
    timeline: Timeline,
    slots: Arc<Slots>,
    writes: WriteQueue,
    /// What the members of all groups take in memory.
    members_bytes: AtomicUsize,
    /// Commits that were refused because offsets take too much.
    offsets_refused: AtomicU64,
    lines: Arc<LogLimits>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// Whether a request brings its group into being.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Refuse,
}

/// Why a group was not asked.
enum NotAsked {
    NoSuchGroup,
    Error(GroupError),
}

impl Coordinator {
    /// Coordinates whatever slots this incarnation is given, as long as its lease holds. Must be called within a tokio runtime.
    pub fn start(
        config: CoordinatorConfig,
        metadata: Metadata,
        clock: Arc<dyn Clock>,
        own: Incarnation,
        lease: watch::Receiver<LeaseState>,
    ) -> Coordinator {
        let timeline = Timeline::starting_at(clock.now_ms());
        let slots = Arc::new(Slots::new(own, lease));
        let lines = Arc::new(LogLimits::default());
        let (writes, writing) = writer::start(metadata.clone(), Arc::clone(&slots), Arc::clone(&lines));
        let shared = Arc::new(Shared {
            config,
            keys: metadata.keys().clone(),
            clock,
            timeline,
            slots,
            writes,
            members_bytes: AtomicUsize::new(0),
            offsets_refused: AtomicU64::new(0),
            lines,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        });
        shared.tasks.spawn(sweep::run(Arc::clone(&shared), metadata.clone()));
        shared.tasks.spawn(Follower::new(Arc::clone(&shared), metadata).run());
        Coordinator { shared, writing: Mutex::new(Some(writing)) }
    }

    /// Sends all waiting members away and finishes the writes. Groups go on where they were after the next start.
    pub async fn shutdown(&self) {
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.writes.close();
        let writing = self.writing.lock().take();
        if let Some(writing) = writing
            && let Err(error) = writing.await
        {
            tracing::error!(%error, "the task that writes groups and offsets failed");
        }
    }

    /// Who coordinates a group, as far as this broker knows.
    pub fn coordinator_of(&self, group: &str) -> Option<Incarnation> {
        self.shared.slots.owner_of(group)
    }

    /// Returns when every slot has a coordinator, and the groups of this broker's are served.
    pub async fn ready(&self) {
        self.shared.slots.ready().await;
    }

    pub fn config(&self) -> &CoordinatorConfig {
        &self.shared.config
    }

    /// Lines of the log that members cause.
    pub fn lines(&self) -> Arc<LogLimits> {
        Arc::clone(&self.shared.lines)
    }

    pub async fn join(&self, group: &str, request: JoinRequest) -> JoinReply {
        let member_id = request.member_id.clone();
        let missing = if member_id.is_unknown() { Missing::Create } else { Missing::Refuse };
        let refused = |error| JoinReply { member_id, result: Err(error) };
        if let Err(error) = self.check_group_id(group).and_then(|()| self.shared.check_room(&request)) {
            return refused(error);
        }
        match self.ask(group, missing, |reply| Command::Join(Box::new(request), reply)).await {
            Ok(reply) => reply,
            Err(NotAsked::NoSuchGroup) => refused(GroupError::UnknownMember),
            Err(NotAsked::Error(error)) => refused(error),
        }
    }

    pub async fn sync(&self, group: &str, request: SyncRequest) -> Result<Synced, GroupError> {
        self.check_group_id(group)?;
        self.ask_member(group, |reply| Command::Sync(Box::new(request), reply)).await?
    }

    pub async fn heartbeat(&self, group: &str, identity: MemberIdentity) -> Result<(), GroupError> {
        self.check_group_id(group)?;
        self.ask_member(group, |reply| Command::Heartbeat(identity, reply)).await?
    }

    /// [`GroupError::UnknownMember`] when there is no such group.
    pub async fn leave(
        &self,
        group: &str,
        members: Vec<LeavingMember>,
    ) -> Result<Vec<LeftMember>, GroupError> {
        self.check_group_id(group)?;
        self.ask_member(group, |reply| Command::Leave(members, reply)).await?
    }

    /// Commits offsets of partitions that exist. [`GroupError::NotFound`] when a member of an unknown group commits.
    pub async fn commit(
        &self,
        group: &str,
        identity: MemberIdentity,
        commits: Vec<PartitionCommit>,
    ) -> Result<(), GroupError> {
        self.check_length(group)?;
        let outside = identity.generation.0 < 0;
        let missing = if outside { Missing::Create } else { Missing::Refuse };
        let command = |reply| Command::Commit { identity, commits, reply };
        match self.ask(group, missing, command).await {
            Ok(result) => result,
            Err(NotAsked::NoSuchGroup) => Err(GroupError::NotFound),
            Err(NotAsked::Error(error)) => Err(error),
        }
    }

    /// Looks at the committed offsets of a group; those of an unknown group are empty.
    pub fn offsets<T>(
        &self,
        group: &str,
        look: impl FnOnce(&CommittedOffsets) -> T,
    ) -> Result<T, GroupError> {
        let tenure = self.shared.slots.serving(group)?;
        let cell = tenure.cells.lock().get(group).cloned();
        Ok(match cell {
            Some(cell) => look(&cell.offsets.read()),
            None => look(&CommittedOffsets::default()),
        })
    }

    /// Deletes committed offsets (KIP-496); the results are in the order of the partitions.
    pub async fn delete_offsets(
        &self,
        group: &str,
        partitions: Vec<NamedPartition>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.check_group_id(group)?;
        let command = |reply| Command::DeleteOffsets { partitions, reply };
        match self.ask(group, Missing::Refuse, command).await {
            Ok(result) => result,
            Err(NotAsked::NoSuchGroup) => Err(GroupError::NotFound),
            Err(NotAsked::Error(error)) => Err(error),
        }
    }

    /// [`GroupError::NotFound`] when there is no such group.
    pub async fn describe(&self, group: &str) -> Result<GroupView, GroupError> {
        match self.ask(group, Missing::Refuse, Command::Describe).await {
            Ok(view) => view,
            Err(NotAsked::NoSuchGroup) => Err(GroupError::NotFound),
            Err(NotAsked::Error(error)) => Err(error),
        }
    }

    pub async fn delete(&self, group: &str) -> Result<(), GroupError> {
        match self.ask(group, Missing::Refuse, Command::Delete).await {
            Ok(result) => result,
            Err(NotAsked::NoSuchGroup) => Err(GroupError::NotFound),
            Err(NotAsked::Error(error)) => Err(error),
        }
    }

    /// Forgets the offsets that were committed for a topic, which is gone, in the groups of this broker. Returns once that is
    /// written. (Other coordinators see by themselves that it is gone.)
    pub async fn topic_deleted(&self, topic: &str, id: TopicId) {
        let cells = gone::cells(&self.shared.slots.tenures());
        let gone = HashSet::from([(topic.into(), id)]);
        for (group, outcome) in gone::remove(&self.shared, &cells, &gone) {
            if !matches!(outcome.await, Ok(Ok(()))) {
                // They are not served for a new topic of that name, and are found again by a later look.
                warn!(%group, topic, "offsets of a deleted topic could not be removed yet");
            }
        }
    }

    fn check_group_id(&self, group: &str) -> Result<(), GroupError> {
        if group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        self.check_length(group)
    }

    /// The longest key of the group must fit into the store. Apache Kafka allows 32,767 bytes.
    fn check_length(&self, group: &str) -> Result<(), GroupError> {
        let key = OffsetKey { group: group.to_owned(), topic: String::new(), partition: i32::MIN };
        let longest = self.shared.keys.offset(&key).len() + TOPIC_NAME_MAX_BYTES;
        if longest > MAX_KEY_BYTES { Err(GroupError::InvalidGroupId) } else { Ok(()) }
    }

    /// Asks a group that must exist, as every member's does.
    async fn ask_member<T>(
        &self,
        group: &str,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, GroupError> {
        match self.ask(group, Missing::Refuse, command).await {
            Ok(answer) => Ok(answer),
            Err(NotAsked::NoSuchGroup) => Err(GroupError::UnknownMember),
            Err(NotAsked::Error(error)) => Err(error),
        }
    }

    async fn ask<T>(
        &self,
        group: &str,
        missing: Missing,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, NotAsked> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(group, missing, command(reply)).await?;
        // A group that ends answers what it has, so that only a failed task leaves this unanswered.
        let answer = answer.await.map_err(|_| NotAsked::Error(GroupError::CoordinatorNotAvailable))?;
        // The process may have been stopped meanwhile, and somebody else may be the coordinator.
        if self.shared.slots.holds_lease() {
            Ok(answer)
        } else {
            Err(NotAsked::Error(GroupError::NotCoordinator))
        }
    }
}

impl Shared {
    /// Spawns what has to come to its end before a tenure's slot is let go.
    fn spawn(&self, tenure: &Tenure, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(tenure.tasks.track_future(task));
    }

    /// Notes what a group takes in memory now.
    fn account(&self, status: &mut Status, weight_bytes: usize) {
        let before = std::mem::replace(&mut status.weight_bytes, weight_bytes);
        self.members_bytes.fetch_add(weight_bytes, Ordering::AcqRel);
        self.members_bytes.fetch_sub(before, Ordering::AcqRel);
    }

    fn check_room(&self, request: &JoinRequest) -> Result<(), GroupError> {
        let weight_bytes = request.weight_bytes();
        if weight_bytes > self.config.member_metadata_max_bytes {
            return Err(GroupError::TooLarge);
        }
        let limit = self.config.members_memory_bytes;
        let crowded = self.members_bytes.load(Ordering::Acquire).saturating_add(weight_bytes) > limit;
        if crowded && self.lines.allow(Line::MembersFull) {
            warn!(limit, "the members of all groups take too much memory, new ones are refused");
        }
        if crowded { Err(GroupError::CoordinatorNotAvailable) } else { Ok(()) }
    }

    async fn send(
        self: &Arc<Self>,
        group: &str,
        missing: Missing,
        mut command: Command,
    ) -> Result<(), NotAsked> {
        loop {
            if self.stopping.is_cancelled() {
                return Err(NotAsked::Error(GroupError::NotCoordinator));
            }
            let tenure = self.slots.serving(group).map_err(NotAsked::Error)?;
            let cell = match missing {
                Missing::Create => self.cell_or_new(&tenure, group).map_err(NotAsked::Error)?,
                Missing::Refuse => {
                    let cell = tenure.cells.lock().get(group).cloned();
                    match cell {
                        Some(cell) => cell,
                        // A tenure that ends forgets its groups: then it is somebody else who knows.
                        None if tenure.ended.is_cancelled() => continue,
                        None => return Err(NotAsked::NoSuchGroup),
                    }
                }
            };
            match cell.deliver(self, command) {
                Delivery::Done => return Ok(()),
                Delivery::Forgotten(unsent) => command = unsent,
                Delivery::Full(unsent, mailbox) => {
                    command = unsent;
                    // Room, or the end of the task. Either way the group is looked for again.
                    drop(mailbox.reserve().await);
                }
            }
        }
    }

    fn cell_or_new(&self, tenure: &Arc<Tenure>, group: &str) -> Result<Arc<Cell>, GroupError> {
        if let Some(cell) = tenure.cells.lock().get(group) {
            return Ok(Arc::clone(cell));
        }
        let groups: usize = self.slots.tenures().iter().map(|tenure| tenure.cells.lock().len()).sum();
        if groups >= self.config.max_groups {
            if self.lines.allow(Line::TooManyGroups) {
                let max_groups = self.config.max_groups;
                warn!(group, max_groups, "there are too many groups to create another");
            }
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let mut cells = tenure.cells.lock();
        if tenure.ended.is_cancelled() {
            return Err(GroupError::NotCoordinator);
        }
        if let Some(cell) = cells.get(group) {
            return Ok(Arc::clone(cell));
        }
        let id: Arc<str> = group.into();
        let machine = Group::new(self.config.group, self.timeline.now_ms());
        let offsets = CommittedOffsets::of_group(&id);
        let cell = Cell::new(tenure, Arc::clone(&id), machine, offsets, false);
        let cell = Arc::new(cell);
        cells.insert(id, Arc::clone(&cell));
        Ok(cell)
    }
}
