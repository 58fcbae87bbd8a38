//! How much memory an answer takes: the decoded request, the response and its encoded form, compared with the bytes of the request.
//!
//! Arrays can be dense: an element of one byte, say an empty name, makes a structure of two hundred. What grows with the request is charged by
//! its length; what depends on the state of the broker (the partitions of a topic, the members of a group) the handlers work out before they
//! build anything. docs/security-testing.md has the largest answer to a request of 1 KiB for each API.

use kafka_protocol::messages::ApiKey;

/// Memory for one partition in an answer that describes topics.
pub const DESCRIBED_PARTITION_BYTES: usize = 300;
/// Memory for one structure in an answer with some short fields, its texts aside.
pub const STRUCTURE_BYTES: usize = 250;
/// Memory for one partition that is committed: decoded, checked, written and answered, its texts aside.
pub const COMMITTED_PARTITION_BYTES: usize = 600;

/// Bytes of memory for each byte of a request, when all of its elements are as short as they can be: decoded, and answered where the handler
/// does not count them.
pub fn per_request_byte(api: ApiKey) -> usize {
    match api {
        // Names that may be empty, each answered with a structure.
        ApiKey::DeleteGroups | ApiKey::DescribeUserScramCredentials | ApiKey::DescribeTransactions => 100,
        ApiKey::AlterConfigs | ApiKey::IncrementalAlterConfigs => 80,
        ApiKey::LeaveGroup
        | ApiKey::DeleteRecords
        | ApiKey::OffsetDelete
        | ApiKey::ElectLeaders
        | ApiKey::AlterPartitionReassignments
        | ApiKey::AlterReplicaLogDirs => 60,
        ApiKey::CreateTopics
        | ApiKey::CreatePartitions
        | ApiKey::DescribeConfigs
        | ApiKey::DescribeLogDirs
        | ApiKey::DescribeProducers
        | ApiKey::ListGroups
        | ApiKey::ListTransactions
        | ApiKey::ListPartitionReassignments
        | ApiKey::DescribeClientQuotas
        | ApiKey::DescribeQuorum
        | ApiKey::CreateAcls
        | ApiKey::DeleteAcls
        | ApiKey::UpdateFeatures => 40,
        // Decoded; the handler counts what it answers.
        ApiKey::FindCoordinator
        | ApiKey::DeleteTopics
        | ApiKey::DescribeGroups
        | ApiKey::DescribeTopicPartitions => 32,
        ApiKey::ListOffsets | ApiKey::OffsetForLeaderEpoch => 20,
        ApiKey::Metadata | ApiKey::OffsetFetch => 8,
        // Copies of the texts on their way into the store.
        ApiKey::OffsetCommit => 4,
        // Produce and Fetch count for themselves. Members wait long for their group, whose memory is bounded by settings of its own.
        _ => 0,
    }
}

/// Whether the handler makes room for the answer, because it depends on more than the length of the request.
pub fn depends_on_state(api: ApiKey) -> bool {
    matches!(
        api,
        ApiKey::Metadata
            | ApiKey::FindCoordinator
            | ApiKey::DeleteTopics
            | ApiKey::DescribeGroups
            | ApiKey::OffsetFetch
            | ApiKey::OffsetCommit
            | ApiKey::ListGroups
            | ApiKey::JoinGroup
            | ApiKey::CreateTopics
            | ApiKey::DescribeConfigs
            | ApiKey::DescribeTopicPartitions
            | ApiKey::DescribeProducers
            | ApiKey::DescribeLogDirs
            | ApiKey::ElectLeaders
            | ApiKey::ListConfigResources
    )
}
