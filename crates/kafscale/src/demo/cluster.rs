//! The brokers of a cluster as a client finds them from one address: who leads each partition, who coordinates a group, and one
//! connection to each broker that is needed.
//!
//! In a cluster of one, everything goes over the address that was given: what the broker advertises may be meant for others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest};
use kafka_protocol::protocol::StrBytes;

use super::connection::{ClientError, Connection, check};
use super::topics::topic_name;

/// A topic that has just been made has its leaders soon.
const LEADERS_ATTEMPTS: u32 = 50;
const LEADERS_PAUSE: Duration = Duration::from_millis(200);

/// See the file's comment.
pub struct Cluster {
    client_id: &'static str,
    /// To the address that was given.
    first: Connection,
    addresses: BTreeMap<i32, (String, u16)>,
    leaders: BTreeMap<(&'static str, i32), i32>,
    connections: BTreeMap<i32, Connection>,
}

impl Cluster {
    pub async fn open(bootstrap: SocketAddr, client_id: &'static str) -> Result<Self, ClientError> {
        let first = Connection::open(bootstrap, client_id).await?;
        let (addresses, leaders, connections) = Default::default();
        Ok(Self { client_id, first, addresses, leaders, connections })
    }

    /// Any broker, for what each of them can do.
    pub fn any(&mut self) -> &mut Connection {
        &mut self.first
    }

    /// Finds the leaders of a topic that exists. Gives the number of its partitions.
    pub async fn learn(&mut self, name: &'static str) -> Result<i32, ClientError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.leaders_of(name).await {
                Err(e) if attempts < LEADERS_ATTEMPTS && e.code().is_some_and(|code| code.is_retriable()) => {
                    tokio::time::sleep(LEADERS_PAUSE).await;
                }
                other => return other,
            }
        }
    }

    async fn leaders_of(&mut self, name: &'static str) -> Result<i32, ClientError> {
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        let answer = self.first.call("Metadata", request, 4..=12).await?;
        for broker in answer.brokers {
            let port = u16::try_from(broker.port).map_err(|e| ClientError::Protocol(e.to_string()))?;
            self.addresses.insert(broker.node_id.0, (broker.host.to_string(), port));
        }
        let topic =
            answer.topics.first().ok_or_else(|| ClientError::Protocol("metadata without a topic".into()))?;
        check("Metadata", topic.error_code)?;
        for partition in &topic.partitions {
            check("Metadata", partition.error_code)?;
            self.leaders.insert((name, partition.partition_index), partition.leader_id.0);
        }
        i32::try_from(topic.partitions.len()).map_err(|e| ClientError::Protocol(e.to_string()))
    }

    /// The broker that leads a partition of a topic that was learnt.
    pub fn leader(&self, topic: &'static str, partition: i32) -> Result<i32, ClientError> {
        let leader = self.leaders.get(&(topic, partition)).copied();
        leader.ok_or_else(|| ClientError::Protocol(format!("{topic}-{partition} has no leader")))
    }

    /// The partitions by their leaders.
    pub fn by_leader<T>(
        &self,
        topic: &'static str,
        partitions: impl IntoIterator<Item = (i32, T)>,
    ) -> Result<BTreeMap<i32, Vec<(i32, T)>>, ClientError> {
        let mut by_leader: BTreeMap<i32, Vec<(i32, T)>> = BTreeMap::new();
        for (partition, value) in partitions {
            by_leader.entry(self.leader(topic, partition)?).or_default().push((partition, value));
        }
        Ok(by_leader)
    }

    /// The broker that coordinates a group.
    pub async fn coordinator(&mut self, group: &'static str) -> Result<i32, ClientError> {
        let request =
            FindCoordinatorRequest::default().with_coordinator_keys(vec![StrBytes::from_static_str(group)]);
        let answer = self.first.call("FindCoordinator", request, 4..=6).await?;
        let coordinator = answer.coordinators.into_iter().next();
        let coordinator =
            coordinator.ok_or_else(|| ClientError::Protocol("an answer without a coordinator".into()))?;
        check("FindCoordinator", coordinator.error_code)?;
        let port = u16::try_from(coordinator.port).map_err(|e| ClientError::Protocol(e.to_string()))?;
        self.addresses.insert(coordinator.node_id.0, (coordinator.host.to_string(), port));
        Ok(coordinator.node_id.0)
    }

    /// The connection to a broker that was learnt of.
    pub async fn broker(&mut self, node_id: i32) -> Result<&mut Connection, ClientError> {
        if self.addresses.len() <= 1 {
            return Ok(&mut self.first);
        }
        if !self.connections.contains_key(&node_id) {
            let (host, port) = self
                .addresses
                .get(&node_id)
                .ok_or_else(|| ClientError::Protocol(format!("broker {node_id} is not known")))?;
            let connection = Connection::open((host.as_str(), *port), self.client_id).await?;
            self.connections.insert(node_id, connection);
        }
        Ok(self.connections.get_mut(&node_id).expect("it was put there"))
    }
}
