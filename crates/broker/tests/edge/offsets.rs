//! Committed offsets over real sockets.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{
    DeleteTopicsRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
};

use crate::client::{Client, name, text};
use crate::groups::{broker, group_id};

fn commit_request(group: &str, topic: &str, partitions: &[(i32, i64)]) -> OffsetCommitRequest {
    let partition = |(index, offset): &(i32, i64)| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(*index)
            .with_committed_offset(*offset)
            .with_committed_metadata(Some(text("note")))
    };
    let topic = OffsetCommitRequestTopic::default()
        .with_name(name(topic))
        .with_partitions(partitions.iter().map(partition).collect());
    OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

impl Client {
    /// Commits from outside of the group and returns the error codes.
    async fn commit(&mut self, group: &str, topic: &str, partitions: &[(i32, i64)]) -> Vec<i16> {
        self.commit_with(9, commit_request(group, topic, partitions)).await
    }

    async fn commit_with(&mut self, version: i16, request: OffsetCommitRequest) -> Vec<i16> {
        let topic = self.call(version, &request).await.topics.remove(0);
        topic.partitions.iter().map(|p| p.error_code).collect()
    }

    /// The committed offsets of these partitions of `orders`.
    async fn committed(&mut self, version: i16, group: &str, partitions: Vec<i32>) -> Vec<i64> {
        if version >= 8 {
            let topic = OffsetFetchRequestTopics::default()
                .with_name(name("orders"))
                .with_partition_indexes(partitions);
            let group = OffsetFetchRequestGroup::default()
                .with_group_id(group_id(group))
                .with_topics(Some(vec![topic]));
            let request = OffsetFetchRequest::default().with_groups(vec![group]).with_require_stable(true);
            let mut group = self.call(version, &request).await.groups.remove(0);
            return group.topics.remove(0).partitions.iter().map(|p| p.committed_offset).collect();
        }
        let topic =
            OffsetFetchRequestTopic::default().with_name(name("orders")).with_partition_indexes(partitions);
        let request =
            OffsetFetchRequest::default().with_group_id(group_id(group)).with_topics(Some(vec![topic]));
        let topic = self.call(version, &request).await.topics.remove(0);
        topic.partitions.iter().map(|p| p.committed_offset).collect()
    }
}

#[tokio::test]
async fn offsets_are_committed_and_fetched_in_any_version() {
    let broker = broker().await;
    let mut client = broker.client().await;
    client.create_topic("orders", 3, &[]).await;
    for version in 2..=9 {
        let group = format!("v{version}");
        let request = commit_request(&group, "orders", &[(0, 5), (2, 7)]);
        assert_eq!(client.commit_with(version, request).await, [0, 0], "version {version}");
        for fetch_version in 1..=9 {
            let committed = client.committed(fetch_version, &group, vec![0, 1, 2]).await;
            assert_eq!(committed, [5, -1, 7], "fetched with version {fetch_version}");
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn all_offsets_of_several_groups_are_fetched_at_once() {
    let broker = broker().await;
    let mut client = broker.client().await;
    client.create_topic("orders", 2, &[]).await;
    client.create_topic("payments", 1, &[]).await;
    client.commit("a", "orders", &[(1, 5)]).await;
    client.commit("a", "payments", &[(0, 6)]).await;
    client.commit("b", "orders", &[(0, 7)]).await;
    let all = |group| OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(None);
    let request = OffsetFetchRequest::default().with_groups(vec![all("a"), all("b"), all("none")]);
    let groups = client.call(9, &request).await.groups;
    let found: Vec<Vec<(String, i64, String)>> = groups
        .iter()
        .map(|group| {
            let topics = group.topics.iter();
            topics
                .flat_map(|t| t.partitions.iter().map(|p| (t.name.to_string(), p)))
                .map(|(topic, p)| (topic, p.committed_offset, p.metadata.clone().unwrap().to_string()))
                .collect()
        })
        .collect();
    let entry = |topic: &str, offset| (topic.to_owned(), offset, "note".to_owned());
    assert_eq!(found, [vec![entry("orders", 5), entry("payments", 6)], vec![entry("orders", 7)], vec![]]);
    let request = OffsetFetchRequest::default().with_group_id(group_id("a")).with_topics(None);
    assert_eq!(client.call(7, &request).await.topics.len(), 2);
    broker.stop().await;
}

#[tokio::test]
async fn partitions_of_a_commit_fail_one_by_one() {
    let broker = broker().await;
    let mut client = broker.client().await;
    client.create_topic("orders", 2, &[]).await;
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    assert_eq!(client.commit("g", "orders", &[(0, 5), (2, 6), (-1, 7)]).await, [0, unknown, unknown]);
    assert_eq!(client.commit("g", "nothing", &[(0, 5)]).await, [unknown]);
    let mut request = commit_request("g", "orders", &[(0, 9), (1, 9)]);
    request.topics[0].partitions[0].committed_metadata = Some(text(&"x".repeat(4097)));
    request.topics[0].partitions[1].committed_metadata = Some(text(&"x".repeat(4096)));
    let too_large = ResponseError::OffsetMetadataTooLarge.code();
    assert_eq!(client.commit_with(9, request).await, [too_large, 0]);
    assert_eq!(client.committed(9, "g", vec![0, 1]).await, [5, 9]);
    broker.stop().await;
}

#[tokio::test]
async fn commits_of_a_group_with_members_are_theirs_alone() {
    let broker = broker().await;
    let mut client = broker.client().await;
    client.create_topic("orders", 1, &[]).await;
    let joined = client.become_only_member("g").await;
    let request = commit_request("g", "orders", &[(0, 5)]);
    let member = request.clone().with_member_id(joined.member_id.clone());
    for (request, error) in [
        (request.clone(), Some(ResponseError::UnknownMemberId)),
        (member.clone().with_generation_id_or_member_epoch(7), Some(ResponseError::IllegalGeneration)),
        (member.clone().with_generation_id_or_member_epoch(1), None),
    ] {
        assert_eq!(client.commit_with(9, request).await, [error.map_or(0, |e| e.code())]);
    }
    let elsewhere = member.with_group_id(group_id("unknown")).with_generation_id_or_member_epoch(1);
    let not_found = ResponseError::GroupIdNotFound.code();
    assert_eq!(client.commit_with(9, elsewhere.clone()).await, [not_found]);
    assert_eq!(client.commit_with(8, elsewhere).await, [ResponseError::IllegalGeneration.code()]);
    broker.stop().await;
}

#[tokio::test]
async fn offsets_can_be_deleted_unless_they_are_in_use() {
    let broker = broker().await;
    let mut client = broker.client().await;
    client.create_topic("orders", 1, &[]).await;
    client.create_topic("payments", 1, &[]).await;
    client.commit("g", "orders", &[(0, 5)]).await;
    client.commit("g", "payments", &[(0, 6)]).await;
    client.become_only_member("g").await;
    let topic = |topic: &str| {
        OffsetDeleteRequestTopic::default()
            .with_name(name(topic))
            .with_partitions(vec![OffsetDeleteRequestPartition::default().with_partition_index(0)])
    };
    let request = OffsetDeleteRequest::default().with_group_id(group_id("g")).with_topics(vec![
        topic("nothing"),
        topic("orders"),
        topic("payments"),
    ]);
    let response = client.call(0, &request).await;
    let codes: Vec<i16> = response.topics.iter().map(|t| t.partitions[0].error_code).collect();
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    assert_eq!(codes, [unknown, ResponseError::GroupSubscribedToTopic.code(), 0]);
    let all = OffsetFetchRequestGroup::default().with_group_id(group_id("g")).with_topics(None);
    let left = client.call(9, &OffsetFetchRequest::default().with_groups(vec![all])).await;
    assert_eq!(left.groups[0].topics.len(), 1);
    let missing = client.call(0, &request.with_group_id(group_id("none"))).await;
    assert_eq!(missing.error_code, ResponseError::GroupIdNotFound.code());
    broker.stop().await;
}

#[tokio::test]
async fn a_topic_of_the_same_name_does_not_inherit_offsets() {
    let broker = broker().await;
    let mut client = broker.client().await;
    client.create_topic("orders", 1, &[]).await;
    client.commit("g", "orders", &[(0, 5)]).await;
    let request = DeleteTopicsRequest::default().with_topic_names(vec![name("orders")]).with_timeout_ms(5000);
    assert_eq!(client.call(5, &request).await.responses[0].error_code, 0);
    assert_eq!(client.committed(9, "g", vec![0]).await, [-1]);
    client.create_topic("orders", 1, &[]).await;
    assert_eq!(client.committed(9, "g", vec![0]).await, [-1]);
    broker.stop().await;
}
