//! The task that owns a group while anything can happen to it: it feeds the state machine, keeps its deadlines, and
//! carries out what it decides.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kafscale_core::group::{
    Effect, Event, Group, GroupError, GroupState, JoinReply, LeftMember, MemberIdentity, PersistError,
    PersistId, Synced, Token,
};
use kafscale_meta::ErrorKind;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use super::cell::Cell;
use super::command::{Command, DeletedOffsets};
use super::plan::Change;
use super::room::{Full, Reserved};
use super::sweep::{Expired, expired};
use super::writer::Written;
use super::{NamedPartition, PartitionCommit, Shared};
use crate::log_limit::Line;

/// Heartbeats that wait are read before sessions end, for after a pause of the broker; but a flood of requests must not
/// keep dead members alive.
const STREAK_MAX: usize = 256;

pub(super) struct GroupTask {
    shared: Arc<Shared>,
    cell: Arc<Cell>,
    group: Box<Group>,
    commands: mpsc::Receiver<Command>,
    waiting: HashMap<Token, Waiting>,
    next_token: u64,
    /// Commands since the deadlines were last looked at.
    streak: usize,
    /// Snapshots that are being written, in the order in which their outcomes come.
    snapshots: VecDeque<(PersistId, oneshot::Receiver<Written>)>,
}

/// Who waits for the answer to a token.
enum Waiting {
    Join(oneshot::Sender<JoinReply>),
    Sync(oneshot::Sender<Result<Synced, GroupError>>),
    Heartbeat(oneshot::Sender<Result<(), GroupError>>),
    Leave(oneshot::Sender<Result<Vec<LeftMember>, GroupError>>),
}

enum Next {
    Stop,
    Command(Command),
    Written(PersistId, Written),
    Deadline,
}

/// Whether the group is still there.
#[derive(PartialEq, Eq)]
enum Fate {
    Lives,
    Deleted,
}

impl GroupTask {
    pub fn new(
        shared: Arc<Shared>,
        cell: Arc<Cell>,
        group: Box<Group>,
        commands: mpsc::Receiver<Command>,
    ) -> GroupTask {
        let (waiting, snapshots) = (HashMap::new(), VecDeque::new());
        GroupTask { shared, cell, group, commands, waiting, next_token: 0, streak: 0, snapshots }
    }

    /// Runs until the group comes to rest, is deleted, or is not coordinated here any more.
    pub async fn run(mut self) {
        loop {
            let fate = match self.next().await {
                Next::Stop => break,
                Next::Command(command) => self.obey(command).await,
                Next::Written(id, outcome) => {
                    let outcome = outcome.map_err(|error| persist_error(&error));
                    self.step(Event::Persisted { id, outcome });
                    Fate::Lives
                }
                Next::Deadline => {
                    self.step(Event::Tick);
                    Fate::Lives
                }
            };
            if fate == Fate::Deleted {
                break;
            }
            let at_rest = self.group.is_idle() && self.waiting.is_empty() && self.snapshots.is_empty();
            if at_rest && self.commands.is_empty() {
                match self.cell.rest(self.group, &self.commands) {
                    Ok(()) => return,
                    Err(group) => self.group = group,
                }
            }
        }
        self.end().await;
    }

    async fn next(&mut self) -> Next {
        let deadline_ms = self.group.next_deadline_ms();
        if self.streak >= STREAK_MAX
            && deadline_ms.is_some_and(|at_ms| at_ms <= self.shared.timeline.now_ms())
        {
            self.streak = 0;
            return Next::Deadline;
        }
        let deadline = deadline_ms.map(|at_ms| self.shared.timeline.instant_of(at_ms));
        let at_deadline = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => pending().await,
            }
        };
        let written = async {
            match self.snapshots.front_mut() {
                Some((id, outcome)) => (*id, outcome.await),
                None => pending().await,
            }
        };
        let next = tokio::select! {
            biased;
            () = self.cell.tenure.ended.cancelled() => return Next::Stop,
            (id, outcome) = written => {
                let lost = || kafscale_meta::Error::new(ErrorKind::Retry, "the writer is gone");
                Next::Written(id, outcome.unwrap_or_else(|_| Err(lost())))
            }
            command = self.commands.recv() => match command {
                Some(command) => Next::Command(command),
                // The cell keeps a sender while the task is active.
                None => return Next::Stop,
            },
            () = at_deadline => Next::Deadline,
        };
        match next {
            Next::Written(..) => drop(self.snapshots.pop_front()),
            Next::Command(_) => self.streak += 1,
            Next::Deadline => self.streak = 0,
            Next::Stop => {}
        }
        next
    }

    async fn obey(&mut self, command: Command) -> Fate {
        match command {
            Command::Join(request, reply) => {
                let token = self.wait(Waiting::Join(reply));
                self.step(Event::Join { token, request: *request });
            }
            Command::Sync(request, reply) => {
                let token = self.wait(Waiting::Sync(reply));
                self.step(Event::Sync { token, request: *request });
            }
            Command::Heartbeat(identity, reply) => {
                let token = self.wait(Waiting::Heartbeat(reply));
                self.step(Event::Heartbeat { token, identity });
            }
            Command::Leave(members, reply) => {
                let token = self.wait(Waiting::Leave(reply));
                self.step(Event::Leave { token, members });
            }
            Command::Commit { identity, commits, reply } => self.commit(&identity, commits, reply),
            Command::DeleteOffsets { partitions, reply } => self.delete_offsets(partitions, reply),
            Command::Describe(reply) => answer(reply, Ok(self.group.view())),
            Command::Delete(reply) => {
                let result = self.delete().await;
                let deleted = result.is_ok();
                answer(reply, result);
                return if deleted { Fate::Deleted } else { Fate::Lives };
            }
            Command::Expire => return self.expire().await,
            #[cfg(test)]
            Command::Panic => panic!("asked to"),
        }
        Fate::Lives
    }

    fn wait(&mut self, waiting: Waiting) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.waiting.insert(token, waiting);
        token
    }

    fn step(&mut self, event: Event) {
        let effects = self.group.step(event, self.shared.timeline.now_ms());
        // Seen by lists before anybody learns of it from an answer.
        self.publish_status();
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn publish_status(&self) {
        let mut status = self.cell.status.lock();
        if status.protocol_type != self.group.protocol_type() {
            status.protocol_type = self.group.protocol_type().to_owned();
        }
        if status.state != self.group.state() {
            debug!(group = %self.cell.id, from = status.state.name(), to = self.group.state().name(), "group state");
        }
        status.state = self.group.state();
        status.generation = self.group.generation();
        status.members = self.group.member_count();
        self.shared.account(&mut status, self.group.weight_bytes());
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::ReplyJoin { token, reply } => {
                if let Some(Waiting::Join(to)) = self.waiting.remove(&token) {
                    answer(to, reply);
                }
            }
            Effect::ReplySync { token, result } => {
                if let Some(Waiting::Sync(to)) = self.waiting.remove(&token) {
                    answer(to, result);
                }
            }
            Effect::ReplyHeartbeat { token, result } => {
                if let Some(Waiting::Heartbeat(to)) = self.waiting.remove(&token) {
                    answer(to, result);
                }
            }
            Effect::ReplyLeave { token, result } => {
                if let Some(Waiting::Leave(to)) = self.waiting.remove(&token) {
                    answer(to, result);
                }
            }
            Effect::Persist { id, snapshot } => {
                let outcome = self.enqueue(vec![Change::PutGroup(snapshot)]);
                self.snapshots.push_back((id, outcome));
            }
            Effect::RebalanceStarted { generation, reason } => {
                if self.shared.lines.allow(Line::GroupRebalances) {
                    info!(group = %self.cell.id, %generation, reason, "the group rebalances");
                }
            }
        }
    }

    fn enqueue(&self, changes: Vec<Change>) -> oneshot::Receiver<Written> {
        let (done, outcome) = oneshot::channel();
        self.shared.writes.enqueue(&self.shared.keys, &self.cell, changes, Some(done));
        outcome
    }

    fn commit(
        &mut self,
        identity: &MemberIdentity,
        commits: Vec<PartitionCommit>,
        reply: oneshot::Sender<Result<(), GroupError>>,
    ) {
        let allowed = self.group.check_commit(identity, self.shared.timeline.now_ms());
        if allowed.is_err() || commits.is_empty() {
            return answer(reply, allowed);
        }
        let reserved = match self.reserve(&commits) {
            Ok(reserved) => reserved,
            Err(error) => return answer(reply, Err(error)),
        };
        let put = |c: PartitionCommit| Change::PutOffset {
            topic: c.topic,
            partition: c.partition,
            committed: c.committed,
        };
        let outcome = self.enqueue(commits.into_iter().map(put).collect());
        // The answer needs nothing of the group any more, and the group must not wait for it.
        self.shared.spawn(&self.cell.tenure, async move {
            let result = written(outcome).await;
            drop(reserved);
            answer(reply, result);
        });
    }

    /// Sets aside what a commit adds to the offsets.
    fn reserve(&self, commits: &[PartitionCommit]) -> Result<Reserved, GroupError> {
        let config = &self.shared.config;
        let all = commits.iter().map(|c| (&*c.topic, c.partition, &c.committed));
        let bytes = self.cell.offsets.read().growth_bytes(all);
        let (group_max, max) = (config.group_offsets_max_bytes, config.offsets_max_bytes);
        self.cell.reserve(bytes, group_max, max).map_err(|full| {
            self.shared.offsets_refused.fetch_add(1, Ordering::Relaxed);
            if self.shared.lines.allow(Line::OffsetsFull) {
                let group = &self.cell.id;
                match full {
                    Full::Group => {
                        warn!(%group, group_max, "a commit was refused: the offsets of its group take too much");
                    }
                    Full::All => {
                        warn!(%group, max, "a commit was refused: the offsets of all groups take too much");
                    }
                }
            }
            GroupError::OffsetsTooLarge
        })
    }

    fn delete_offsets(&mut self, partitions: Vec<NamedPartition>, reply: oneshot::Sender<DeletedOffsets>) {
        if let Err(error) = self.group.check_offset_delete() {
            return answer(reply, Err(error));
        }
        let allowed = |topic: &str| {
            if self.group.is_subscribed_to(topic) { Err(GroupError::SubscribedToTopic) } else { Ok(()) }
        };
        let results: Vec<Result<(), GroupError>> =
            partitions.iter().map(|(topic, _)| allowed(topic)).collect();
        let offsets = self.cell.offsets.read();
        let removals: Vec<Change> = partitions
            .into_iter()
            .zip(&results)
            .filter(|((topic, partition), result)| result.is_ok() && offsets.get(topic, *partition).is_some())
            .map(|((topic, partition), _)| Change::RemoveOffset { topic, partition, of: None })
            .collect();
        drop(offsets);
        if removals.is_empty() {
            return answer(reply, Ok(results));
        }
        let outcome = self.enqueue(removals);
        let answering = async move { answer(reply, written(outcome).await.map(|()| results)) };
        self.shared.spawn(&self.cell.tenure, answering);
    }

    async fn delete(&mut self) -> Result<(), GroupError> {
        self.group.check_delete()?;
        written(self.enqueue(vec![Change::RemoveGroup])).await?;
        if self.shared.lines.allow(Line::GroupDeleted) {
            info!(group = %self.cell.id, "the group was deleted");
        }
        Ok(())
    }

    async fn expire(&mut self) -> Fate {
        match expired(&self.shared, &self.cell, &self.group) {
            Expired::Nothing => Fate::Lives,
            Expired::Offsets(offsets) => {
                info!(group = %self.cell.id, offsets = offsets.len(), "committed offsets have expired");
                let remove = |(topic, partition)| Change::RemoveOffset { topic, partition, of: None };
                // Should this fail, the next sweep finds them again.
                drop(self.enqueue(offsets.into_iter().map(remove).collect()));
                Fate::Lives
            }
            Expired::Group => match self.delete().await {
                Ok(()) => Fate::Deleted,
                Err(error) => {
                    warn!(group = %self.cell.id, %error, "an unused group could not be deleted yet");
                    Fate::Lives
                }
            },
        }
    }

    /// Answers everyone who still waits or asks, and leaves nothing behind in the map.
    async fn end(mut self) {
        self.cell.forget();
        if self.group.state() != GroupState::Dead {
            self.step(Event::Unload);
        }
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            if self.cell.tenure.ended.is_cancelled() {
                command.refuse(GroupError::NotCoordinator);
            } else if let Command::Delete(reply) = command {
                answer(reply, Err(GroupError::NotFound));
            } else {
                self.obey(command).await;
            }
        }
    }
}

async fn written(outcome: oneshot::Receiver<Written>) -> Result<(), GroupError> {
    match outcome.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.kind() == ErrorKind::Fenced => Err(GroupError::NotCoordinator),
        Ok(Err(_)) | Err(_) => Err(GroupError::CoordinatorNotAvailable),
    }
}

fn persist_error(error: &kafscale_meta::Error) -> PersistError {
    match error.kind() {
        ErrorKind::Fenced => PersistError::Fenced,
        ErrorKind::Invalid => PersistError::TooLarge,
        _ => PersistError::Retry,
    }
}

/// An asker that is gone needs no answer.
fn answer<T>(to: oneshot::Sender<T>, answer: T) {
    let _ = to.send(answer);
}
