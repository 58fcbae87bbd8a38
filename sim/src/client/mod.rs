//! Clients that speak the Kafka protocol, as strict as Apache Kafka's own about what they may rely on, and that write down what they saw.

pub mod admin;
pub mod committer;
pub mod connection;
pub mod consumer;
pub mod member;
pub mod observer;
pub mod producer;
pub mod reader;
pub mod records;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::connection::Connection;
use crate::history::{History, TopicPartition};
use crate::net::{CONNECT_TIMEOUT, Network, host_name};
use crate::rng::Rng;

/// How long a client waits for any answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// Why a call brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    /// It surely did nothing: there was no connection.
    NotSent,
    /// It may have done what was asked.
    Unknown,
}

/// What all clients of one simulation share.
#[derive(Debug, Clone)]
pub struct Setting {
    pub network: Network,
    pub history: History,
    pub nodes: i32,
    /// Cancelled when everything is well and clients are to come to an end.
    pub closing: CancellationToken,
}

/// One client: its connections, and what it knows of the cluster.
#[derive(Debug)]
pub struct Client {
    pub id: u32,
    pub rng: Rng,
    pub setting: Setting,
    connections: BTreeMap<i32, Connection>,
    /// By broker: where it was last said to be, if not where it usually is.
    moved: BTreeMap<i32, String>,
    /// By partition: who serves it.
    leaders: BTreeMap<TopicPartition, i32>,
}

pub fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Whether a code of a data request says to look for the leader again.
pub fn is_retriable(code: i16) -> bool {
    ResponseError::try_from_code(code).is_some_and(|error| error.is_retriable())
}

impl Client {
    pub fn new(id: u32, rng: Rng, setting: Setting) -> Client {
        Client {
            id,
            rng,
            setting,
            connections: BTreeMap::new(),
            moved: BTreeMap::new(),
            leaders: BTreeMap::new(),
        }
    }

    pub fn history(&self) -> &History {
        &self.setting.history
    }

    /// The connection to a broker; a new one if there is none.
    pub async fn connection(&mut self, node: i32) -> Result<&mut Connection, CallError> {
        if self.connections.get(&node).is_none_or(Connection::is_broken) {
            let name = self.moved.get(&node).cloned().unwrap_or_else(|| host_name(node));
            let connecting = timeout(CONNECT_TIMEOUT, self.setting.network.connect(&name, self.id));
            let Ok(Ok(stream)) = connecting.await else {
                self.moved.remove(&node);
                return Err(CallError::NotSent);
            };
            self.connections.insert(node, Connection::new(stream, self.id));
        }
        Ok(self.connections.get_mut(&node).expect("it was just put there"))
    }

    /// Asks a broker.
    pub async fn call<R: Request>(
        &mut self,
        node: i32,
        request: &R,
        version: i16,
    ) -> Result<R::Response, CallError> {
        let connection = self.connection(node).await?;
        let exchange = connection.call(request, version);
        let outcome = timeout(ANSWER_TIMEOUT, exchange).await.unwrap_or(Err(CallError::Unknown));
        if outcome.is_err() {
            self.connections.remove(&node);
        }
        outcome
    }

    pub fn disconnect(&mut self, node: i32) {
        self.connections.remove(&node);
    }

    /// Any broker.
    pub fn any(&mut self) -> i32 {
        1 + self.rng.below(self.setting.nodes as u64) as i32
    }

    /// Takes note of where a broker is. A connection that there is stays, until it breaks.
    pub fn locate(&mut self, node: i32, name: &str) {
        if name == host_name(node) {
            self.moved.remove(&node);
        } else {
            self.moved.insert(node, name.to_owned());
        }
    }

    /// A pause before the next attempt.
    pub async fn back_off(&mut self) {
        sleep(self.rng.ms(40, 160)).await;
    }

    /// Who serves a partition, if anybody knows. Asks the cluster if this client does not.
    pub async fn leader(&mut self, at: &TopicPartition) -> Option<i32> {
        if let Some(leader) = self.leaders.get(at) {
            return Some(*leader);
        }
        self.learn(&at.topic).await;
        self.leaders.get(at).copied()
    }

    /// What this client knew of a partition was wrong.
    pub fn forget_leader(&mut self, at: &TopicPartition) {
        self.leaders.remove(at);
    }

    /// Asks some broker about a topic. Returns the number of its partitions.
    pub async fn learn(&mut self, topic: &Arc<str>) -> Option<i32> {
        let node = self.any();
        let wanted = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![wanted])).with_allow_auto_topic_creation(false);
        let answer = self.call(node, &request, 9).await.ok()?;
        for broker in &answer.brokers {
            self.locate(broker.node_id.0, &broker.host);
        }
        let described = answer.topics.into_iter().next()?;
        if described.error_code != 0 {
            return None;
        }
        let mut count = 0;
        for partition in described.partitions {
            count += 1;
            let at = TopicPartition { topic: Arc::clone(topic), partition: partition.partition_index };
            if partition.error_code == 0 && partition.leader_id.0 > 0 {
                self.leaders.insert(at, partition.leader_id.0);
            } else {
                self.leaders.remove(&at);
            }
        }
        Some(count)
    }
}
