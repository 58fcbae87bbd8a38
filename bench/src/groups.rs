//! Consumer groups: many that commit all the time, and one with many members that rebalances.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, OffsetCommitRequest,
    OffsetCommitResponse, SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::open_loop::{self, Lane};
use crate::report::{Meter, Report};
use crate::topics;
use crate::wire::{self, Connection, check};

const COORDINATOR_TIMEOUT: Duration = Duration::from_secs(60);
const SESSION_TIMEOUT_MS: i32 = 30_000;
/// How often a member asks whether there is a rebalance.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, clap::Args)]
pub struct CommitArgs {
    #[command(flatten)]
    target: crate::Target,
    /// Groups, each of which commits one offset each second
    #[arg(long, default_value_t = 1000)]
    groups: usize,
    /// Connections that the groups share
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// How long
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

pub async fn commits(args: CommitArgs) -> Result<()> {
    let target = &args.target;
    let mut control = Connection::open(&target.broker).await?;
    topics::ensure_exists(&mut control, &target.topic, target.partitions).await?;
    let version = control.versions.of::<OffsetCommitRequest>()?;
    let mut lanes = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        let connection = Connection::open_as(&target.broker, control.versions.clone()).await?;
        lanes.push(Lane { connection, requests: Vec::new() });
    }
    for group in 0..args.groups {
        let name = format!("bench-{group}");
        find_coordinator(&mut control, &name).await?;
        let request = commit(&name, &target.topic);
        ready(&mut control, &request).await?;
        lanes[group % args.connections].requests.push(wire::encode(&request, version)?);
    }
    let meter = Meter::start(target.pid)?;
    let schedule = open_loop::schedule(lanes.len(), args.groups as f64, args.seconds);
    let outcome = open_loop::run(lanes, schedule, version, check_committed).await?;
    let usage = meter.stop()?;
    let mut report = Report::of("commits");
    report.put("groups", args.groups);
    report.put("connections", args.connections);
    report.figure("rate_per_s", args.groups as f64);
    report.usage(&usage);
    outcome.describe(&mut report, "commit");
    report.print();
    Ok(())
}

fn group_id(name: &str) -> GroupId {
    GroupId(StrBytes::from_string(name.to_owned()))
}

/// What a consumer without a membership commits.
fn commit(group: &str, topic: &str) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(1)
        .with_committed_leader_epoch(-1)
        .with_committed_metadata(Some(StrBytes::from_static_str("")));
    let topic =
        OffsetCommitRequestTopic::default().with_name(topics::name(topic)).with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

fn check_committed(frame: Bytes, version: i16) -> Result<()> {
    let answer: OffsetCommitResponse = wire::decode(frame, version)?;
    let mut partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.try_for_each(|partition| check(partition.error_code)).context("OffsetCommit")
}

async fn find_coordinator(connection: &mut Connection, group: &str) -> Result<()> {
    let request = FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned()));
    let deadline = Instant::now() + COORDINATOR_TIMEOUT;
    loop {
        let answer = connection.call(&request).await.context("FindCoordinator")?;
        if answer.error_code == 0 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "no coordinator: {:?}",
            ResponseError::try_from_code(answer.error_code)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Commits until the coordinator has loaded what it needs.
async fn ready(connection: &mut Connection, request: &OffsetCommitRequest) -> Result<()> {
    let deadline = Instant::now() + COORDINATOR_TIMEOUT;
    loop {
        let answer = connection.call(request).await.context("OffsetCommit")?;
        let code =
            answer.topics.first().and_then(|topic| topic.partitions.first()).map_or(0, |p| p.error_code);
        if code == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "commits are refused: {:?}", ResponseError::try_from_code(code));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Debug, Clone, clap::Args)]
pub struct RebalanceArgs {
    #[command(flatten)]
    target: crate::Target,
    /// Members of the group, each on a connection of its own
    #[arg(long, default_value_t = 100)]
    members: usize,
    /// The delay that the broker gives a new group to gather members, and once more when members came meanwhile (KIP-134). It is taken off
    /// the time of the first assignment
    #[arg(long, default_value_t = 3.0)]
    initial_delay_s: f64,
    /// Name of the group
    #[arg(long, default_value = "bench-rebalance")]
    group: String,
}

/// Times two things: from the first join until the last member has its assignment, without the delay; and the same after the leader
/// joins again, which the others learn from their heartbeats.
pub async fn rebalance(args: RebalanceArgs) -> Result<()> {
    let target = &args.target;
    let mut control = Connection::open(&target.broker).await?;
    topics::ensure_exists(&mut control, &target.topic, target.partitions).await?;
    find_coordinator(&mut control, &args.group).await?;
    let mut members = Vec::with_capacity(args.members);
    for _ in 0..args.members {
        let connection = Connection::open_as(&target.broker, control.versions.clone()).await?;
        members.push(Member {
            connection,
            group: group_id(&args.group),
            id: StrBytes::new(),
            generation: -1,
        });
    }
    let meter = Meter::start(target.pid)?;
    let began = Instant::now();
    let settled = Arc::new(Barrier::new(args.members));
    let mut tasks = JoinSet::new();
    for member in members {
        tasks.spawn(member.live(settled.clone()));
    }
    let (mut formed, mut again) = (Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (first, from, second) = done??;
        formed.push(first);
        again.push((from, second));
    }
    let usage = meter.stop()?;
    let formed_s = formed.iter().max().context("no members")?.duration_since(began).as_secs_f64();
    let from = again.iter().map(|(from, _)| *from).min().context("no members")?;
    let again_s =
        again.iter().map(|(_, at)| *at).max().context("no members")?.duration_since(from).as_secs_f64();
    let mut report = Report::of("rebalance");
    report.put("members", args.members);
    report.figure("formed_s", formed_s);
    let delays = if formed_s < 2.0 * args.initial_delay_s { 1.0 } else { 2.0 };
    report.figure("delays", delays);
    report.figure("formed_beyond_delay_ms", (formed_s - delays * args.initial_delay_s).max(0.0) * 1e3);
    report.figure("rebalanced_ms", again_s * 1e3);
    report.put("heartbeat_interval_ms", u64::try_from(HEARTBEAT_INTERVAL.as_millis())?);
    report.usage(&usage);
    report.print();
    Ok(())
}

struct Member {
    connection: Connection,
    group: GroupId,
    id: StrBytes,
    generation: i32,
}

impl Member {
    /// Joins, waits until all have an assignment, and goes through another rebalance. Gives when it was assigned first, from when the second
    /// rebalance counts, and when it was assigned again.
    async fn live(mut self, settled: Arc<Barrier>) -> Result<(Instant, Instant, Instant)> {
        let leader = self.settle().await?;
        let first = Instant::now();
        settled.wait().await;
        let from = Instant::now();
        if !leader {
            self.wait_for_rebalance().await?;
        }
        self.settle().await?;
        let second = Instant::now();
        // The group must not lose members while others still join.
        settled.wait().await;
        Ok((first, from, second))
    }

    /// Joins and syncs until this member is part of a stable generation; tells whether it leads.
    async fn settle(&mut self) -> Result<bool> {
        loop {
            let joined = self.join().await?;
            let leader = joined.leader == self.id;
            let request = SyncGroupRequest::default()
                .with_group_id(self.group.clone())
                .with_generation_id(self.generation)
                .with_member_id(self.id.clone())
                .with_assignments(assignments(&joined, leader));
            let answer = self.connection.call(&request).await.context("SyncGroup")?;
            if answer.error_code != ResponseError::RebalanceInProgress.code() {
                check(answer.error_code).context("SyncGroup")?;
                return Ok(leader);
            }
        }
    }

    async fn join(&mut self) -> Result<JoinGroupResponse> {
        loop {
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(StrBytes::from_static_str("range"))
                .with_metadata(Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
            let request = JoinGroupRequest::default()
                .with_group_id(self.group.clone())
                .with_session_timeout_ms(SESSION_TIMEOUT_MS)
                .with_rebalance_timeout_ms(60_000)
                .with_member_id(self.id.clone())
                .with_protocol_type(StrBytes::from_static_str("consumer"))
                .with_protocols(vec![protocol]);
            let answer = self.connection.call(&request).await.context("JoinGroup")?;
            self.id = answer.member_id.clone();
            if answer.error_code != ResponseError::MemberIdRequired.code() {
                check(answer.error_code).context("JoinGroup")?;
                self.generation = answer.generation_id;
                return Ok(answer);
            }
        }
    }

    async fn wait_for_rebalance(&mut self) -> Result<()> {
        loop {
            let request = HeartbeatRequest::default()
                .with_group_id(self.group.clone())
                .with_generation_id(self.generation)
                .with_member_id(self.id.clone());
            let answer = self.connection.call(&request).await.context("Heartbeat")?;
            if answer.error_code == ResponseError::RebalanceInProgress.code() {
                return Ok(());
            }
            check(answer.error_code).context("Heartbeat")?;
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        }
    }
}

/// The leader gives every member something; what it is does not matter here.
fn assignments(joined: &JoinGroupResponse, leader: bool) -> Vec<SyncGroupRequestAssignment> {
    let members = joined.members.iter().filter(|_| leader);
    members
        .map(|member| {
            SyncGroupRequestAssignment::default()
                .with_member_id(member.member_id.clone())
                .with_assignment(Bytes::from_static(&[0; 10]))
        })
        .collect()
}
