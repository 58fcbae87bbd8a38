//! ElectLeaders (43), versions 0–2: asks for the preferred leaders (KIP-183, KIP-460).
//!
//! A partition has one owner, which is its preferred leader: an election is never needed where it is alive. Where it is not, the
//! controller is giving the partition away already.
//!
//! Differs from Apache Kafka: nothing is ever elected, and there is no unclean election, because whoever takes a partition
//! over has all of its acknowledged records.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::{RequestContext, answer_size, str_bytes};
use crate::cluster::Brokers;
use crate::node::Node;
use crate::topics::Topic;

const PREFERRED: i8 = 0;
/// Memory for one partition without a leader.
const RESULT_BYTES: usize = 100;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: ElectLeadersRequest,
) -> ElectLeadersResponse {
    let election = Election {
        node,
        ctx,
        brokers: node.cluster.brokers(),
        absent: match request.election_type {
            PREFERRED => ResponseError::PreferredLeaderNotAvailable,
            _ => ResponseError::EligibleLeadersNotAvailable,
        },
    };
    let all = if request.topic_partitions.is_none() { node.topics.all() } else { Vec::new() };
    let topic_bytes = |topic: &Arc<Topic>| {
        answer_size::STRUCTURE_BYTES + election.without_leader(topic).count() * RESULT_BYTES
    };
    if ctx.make_room(node, all.iter().map(topic_bytes).sum()).await.is_err() {
        return ElectLeadersResponse::default().with_error_code(ctx.fail(ResponseError::PolicyViolation));
    }
    let results = match request.topic_partitions {
        None => all.iter().filter_map(|topic| election.of_topic(topic)).collect(),
        Some(asked) => {
            let mut seen = HashSet::new();
            asked.into_iter().map(|asked| election.of_asked(asked, &mut seen)).collect()
        }
    };
    ElectLeadersResponse::default().with_replica_election_results(results)
}

struct Election<'a> {
    node: &'a Node,
    ctx: &'a RequestContext,
    brokers: Arc<Brokers>,
    /// The code where there is no leader.
    absent: ResponseError,
}

impl Election<'_> {
    fn is_led(&self, topic: &Topic, index: i32) -> bool {
        self.brokers.owner(&topic.assigned(index)).is_some()
    }

    fn without_leader<'a>(&'a self, topic: &'a Topic) -> impl Iterator<Item = i32> + 'a {
        (0..topic.partitions).filter(|index| !self.is_led(topic, *index))
    }

    /// Of all partitions only those are told of that have no leader, as by Apache Kafka.
    fn of_topic(&self, topic: &Topic) -> Option<ReplicaElectionResult> {
        let results: Vec<_> =
            self.without_leader(topic).map(|index| self.result(index, self.absent, None)).collect();
        let name = TopicName(str_bytes(&topic.name));
        (!results.is_empty())
            .then(|| ReplicaElectionResult::default().with_topic(name).with_partition_result(results))
    }

    fn of_asked(
        &self,
        asked: TopicPartitions,
        seen: &mut HashSet<(TopicName, i32)>,
    ) -> ReplicaElectionResult {
        let topic = self.node.topics.get(&asked.topic);
        let unknown = ResponseError::UnknownTopicOrPartition;
        let distinct =
            asked.partitions.into_iter().filter(|index| seen.insert((asked.topic.clone(), *index)));
        let partitions = distinct.map(|index| match &topic {
            None => self.result(index, unknown, Some("No such topic")),
            Some(topic) if topic.partition_id(index).is_none() => {
                self.result(index, unknown, Some("No such partition"))
            }
            Some(topic) if self.is_led(topic, index) => {
                self.result(index, ResponseError::ElectionNotNeeded, None)
            }
            Some(_) => self.result(index, self.absent, None),
        });
        let partitions = partitions.collect();
        ReplicaElectionResult::default().with_topic(asked.topic).with_partition_result(partitions)
    }

    fn result(&self, index: i32, error: ResponseError, message: Option<&'static str>) -> PartitionResult {
        PartitionResult::default()
            .with_partition_id(index)
            .with_error_code(self.ctx.fail(error))
            .with_error_message(message.map(StrBytes::from_static_str))
    }
}
