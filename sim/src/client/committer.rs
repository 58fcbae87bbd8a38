//! Who commits offsets of a group without members, as jobs do that give themselves their partitions; it looks for the coordinator anew
//! as soon as one is slow.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest};
use tokio::time::{sleep, timeout};

use super::observer::find;
use super::{Client, text, topic_name};
use crate::history::{Event, TopicPartition};

/// How long it waits for any answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Commits greater and greater offsets until the end.
pub async fn commit(mut client: Client, group: Arc<str>, at: TopicPartition) {
    let closing = client.setting.closing.clone();
    let mut coordinator = None;
    for offset in 1.. {
        let pause = sleep(client.rng.ms(50, 300));
        if closing.run_until_cancelled(pause).await.is_none() {
            return;
        }
        let Some(node) = coordinator else {
            coordinator = timeout(ANSWER_TIMEOUT, find(&mut client, &group)).await.ok().flatten();
            continue;
        };
        let (id, group, at) = (client.id, Arc::clone(&group), at.clone());
        let request = request(&group, &at, offset);
        let call = client.history().begin(|call| Event::Commit {
            call,
            client: id,
            group,
            generation: -1,
            at,
            offset,
        });
        let answer = timeout(ANSWER_TIMEOUT, client.call(node, &request, 7)).await;
        let code = answer.ok().and_then(Result::ok).map(|answer| answer.topics[0].partitions[0].error_code);
        client.history().note(Event::CommitEnded { call, code });
        coordinator = coordinator.filter(|_| code == Some(0));
    }
}

fn request(group: &str, at: &TopicPartition, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(at.partition)
        .with_committed_offset(offset);
    let topic =
        OffsetCommitRequestTopic::default().with_name(topic_name(&at.topic)).with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}
