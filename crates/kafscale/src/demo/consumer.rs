//! A group member that reads what it is assigned and commits how far it came.
//!
//! It looks at batch headers only: what the records hold does not matter to the demo, and other programs may have
//! written records into the topic that are compressed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{BrokerId, FetchRequest, OffsetCommitRequest, OffsetFetchRequest};
use kafscale_core::batch::batches;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::connection::{ClientError, check};
use super::group::Membership;
use super::topics::{EARLIEST, offsets_at, topic_name};

const FETCH_WAIT_MS: i32 = 500;
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);
const COMMIT_INTERVAL: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How many bytes of a partition one fetch may bring.
const PARTITION_MAX_BYTES: i32 = 1 << 20;
/// What a paused group has read before it stopped: some hundred records of a partition.
const FIRST_GLANCE_BYTES: i32 = 64 << 10;

/// What a fetch brought: anything, and the last record of every partition.
struct Polled {
    moved: bool,
    at_the_end: bool,
}

pub struct Consumer {
    broker: SocketAddr,
    membership: Membership,
    /// By partition: the next offset to read.
    positions: BTreeMap<i32, i64>,
    /// Until it has kept up for the first time.
    at_work: Option<mpsc::Sender<()>>,
}

impl Consumer {
    pub fn new(broker: SocketAddr, membership: Membership) -> Self {
        Self { broker, membership, positions: BTreeMap::new(), at_work: None }
    }

    /// Reads and commits until it is told to stop; then leaves its group. Drops `at_work` once it has committed
    /// the end of its partitions.
    pub async fn run(mut self, at_work: mpsc::Sender<()>, stop: CancellationToken) {
        self.at_work = Some(at_work);
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                ended = self.session() => {
                    let Err(error) = ended;
                    tracing::debug!(group = self.membership.group, %error, "demo consumer connects again");
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(RETRY_PAUSE) => {}
            }
        }
        if let Err(error) = self.membership.leave(self.broker).await {
            tracing::debug!(group = self.membership.group, %error, "demo consumer could not leave its group");
        }
    }

    /// Joins, reads the beginning of every partition, commits that, and leaves: a group that stands still from then on.
    /// Does nothing when the group has committed before.
    pub async fn glance_and_leave(mut self) -> Result<(), ClientError> {
        let mut cluster = Cluster::open(self.broker, self.membership.client_id).await?;
        self.membership.find_coordinator(&mut cluster).await?;
        let partitions = offsets_at(&mut cluster, self.membership.topic, EARLIEST).await?;
        let committed = self.committed(&mut cluster, partitions.keys().copied().collect()).await?;
        if !committed.is_empty() {
            return Ok(());
        }
        let assigned = self.membership.join(&mut cluster).await?;
        self.positions = assigned.iter().map(|index| (*index, partitions[index])).collect();
        self.poll(&mut cluster, FIRST_GLANCE_BYTES).await?;
        self.commit(&mut cluster).await?;
        self.membership.leave(self.broker).await
    }

    /// Works until an error that needs a new connection.
    async fn session(&mut self) -> Result<std::convert::Infallible, ClientError> {
        let mut cluster = Cluster::open(self.broker, self.membership.client_id).await?;
        self.membership.find_coordinator(&mut cluster).await?;
        loop {
            let error = match self.generation(&mut cluster).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            match error.code() {
                Some(ResponseError::RebalanceInProgress | ResponseError::IllegalGeneration) => {}
                Some(ResponseError::UnknownMemberId) => self.membership.forget(),
                Some(_) | None => return Err(error),
            }
        }
    }

    /// Works until the group rebalances.
    async fn generation(&mut self, cluster: &mut Cluster) -> Result<std::convert::Infallible, ClientError> {
        let assigned = self.membership.join(cluster).await?;
        self.positions = self.start_positions(cluster, assigned).await?;
        let mut heartbeat_due = Instant::now() + HEARTBEAT_INTERVAL;
        let mut commit_due = Instant::now() + COMMIT_INTERVAL;
        loop {
            let Polled { moved, at_the_end } = self.poll(cluster, PARTITION_MAX_BYTES).await?;
            let now = Instant::now();
            if moved && (now >= commit_due || at_the_end && self.at_work.is_some()) {
                self.commit(cluster).await?;
                commit_due = now + COMMIT_INTERVAL;
                if at_the_end {
                    self.at_work = None;
                }
            }
            if now >= heartbeat_due {
                heartbeat_due = now + HEARTBEAT_INTERVAL;
                if let Err(error) = self.membership.heartbeat(cluster).await {
                    if error.code() == Some(ResponseError::RebalanceInProgress) {
                        // The next owner goes on where this one stopped.
                        self.commit(cluster).await?;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Where the group stopped, or else the beginning.
    async fn start_positions(
        &self,
        cluster: &mut Cluster,
        assigned: Vec<i32>,
    ) -> Result<BTreeMap<i32, i64>, ClientError> {
        let earliest = offsets_at(cluster, self.membership.topic, EARLIEST).await?;
        let committed = self.committed(cluster, assigned.clone()).await?;
        let start = |index: &i32| committed.get(index).or(earliest.get(index)).copied();
        Ok(assigned.iter().filter_map(|index| Some((*index, start(index)?))).collect())
    }

    /// Offsets that the group has committed; partitions without one are left out.
    async fn committed(
        &self,
        cluster: &mut Cluster,
        partitions: Vec<i32>,
    ) -> Result<BTreeMap<i32, i64>, ClientError> {
        let topic = OffsetFetchRequestTopics::default()
            .with_name(topic_name(self.membership.topic))
            .with_partition_indexes(partitions);
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(self.membership.group_id())
            .with_topics(Some(vec![topic]));
        let request = OffsetFetchRequest::default().with_groups(vec![group]);
        let answer = self.membership.coordinator(cluster).await?.call("OffsetFetch", request, 8..=9).await?;
        let mut offsets = BTreeMap::new();
        for group in answer.groups {
            check("OffsetFetch", group.error_code)?;
            for partition in group.topics.iter().flat_map(|topic| &topic.partitions) {
                check("OffsetFetch", partition.error_code)?;
                if partition.committed_offset >= 0 {
                    offsets.insert(partition.partition_index, partition.committed_offset);
                }
            }
        }
        Ok(offsets)
    }

    /// One fetch from each leader of what is assigned.
    async fn poll(&mut self, cluster: &mut Cluster, max_bytes: i32) -> Result<Polled, ClientError> {
        if self.positions.is_empty() {
            // A member without partitions still has to live; there is nothing to wait for but its heartbeat.
            tokio::time::sleep(Duration::from_millis(FETCH_WAIT_MS as u64)).await;
            return Ok(Polled { moved: false, at_the_end: true });
        }
        let (mut moved, mut at_the_end) = (false, true);
        let by_leader = cluster.by_leader(self.membership.topic, self.positions.clone())?;
        let wait_ms = FETCH_WAIT_MS / i32::try_from(by_leader.len()).unwrap_or(i32::MAX).max(1);
        for (leader, positions) in by_leader {
            let request = self.fetch_request(positions, max_bytes, wait_ms);
            let answer = cluster.broker(leader).await?.call("Fetch", request, 7..=12).await?;
            check("Fetch", answer.error_code)?;
            for partition in answer.responses.iter().flat_map(|topic| &topic.partitions) {
                let index = partition.partition_index;
                if partition.error_code == ResponseError::OffsetOutOfRange.code() {
                    // Retention has removed what came next.
                    let earliest = offsets_at(cluster, self.membership.topic, EARLIEST).await?;
                    self.positions.insert(index, earliest.get(&index).copied().unwrap_or(0));
                    continue;
                }
                check("Fetch", partition.error_code)?;
                for batch in batches(partition.records.as_deref().unwrap_or_default()) {
                    let (_, header) = batch.map_err(|e| ClientError::Protocol(e.to_string()))?;
                    self.positions.insert(index, header.last_offset().0 + 1);
                    moved = true;
                }
                at_the_end &= self.positions.get(&index).is_some_and(|at| *at >= partition.high_watermark);
            }
        }
        Ok(Polled { moved, at_the_end })
    }

    fn fetch_request(&self, positions: Vec<(i32, i64)>, max_bytes: i32, wait_ms: i32) -> FetchRequest {
        let partitions = positions
            .into_iter()
            .map(|(index, offset)| {
                FetchPartition::default()
                    .with_partition(index)
                    .with_fetch_offset(offset)
                    .with_current_leader_epoch(-1)
                    .with_partition_max_bytes(max_bytes)
            })
            .collect();
        let topic =
            FetchTopic::default().with_topic(topic_name(self.membership.topic)).with_partitions(partitions);
        FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(max_bytes.saturating_mul(16))
            .with_session_epoch(-1)
            .with_topics(vec![topic])
    }

    async fn commit(&self, cluster: &mut Cluster) -> Result<(), ClientError> {
        let partitions = self
            .positions
            .iter()
            .map(|(index, offset)| {
                OffsetCommitRequestPartition::default()
                    .with_partition_index(*index)
                    .with_committed_offset(*offset)
            })
            .collect();
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name(self.membership.topic))
            .with_partitions(partitions);
        let request = OffsetCommitRequest::default()
            .with_group_id(self.membership.group_id())
            .with_generation_id_or_member_epoch(self.membership.generation())
            .with_member_id(self.membership.member_id())
            .with_topics(vec![topic]);
        let answer = self.membership.coordinator(cluster).await?.call("OffsetCommit", request, 7..=9).await?;
        for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            check("OffsetCommit", partition.error_code)?;
        }
        Ok(())
    }
}
