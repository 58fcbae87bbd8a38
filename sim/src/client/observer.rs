//! Who looks at how far groups have come without being a member, as monitors and tools do. It stays with the coordinator that it found
//! for as long as that answers, and hears of nothing else.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, GroupId, OffsetFetchRequest};
use tokio::time::{Instant, sleep, timeout};

use super::{Client, text, topic_name};
use crate::history::{Event, TopicPartition};

/// Reads the committed offsets of a group until the end.
pub async fn observe(mut client: Client, group: Arc<str>, partitions: Vec<TopicPartition>) {
    let closing = client.setting.closing.clone();
    let mut coordinator = None;
    loop {
        let pause = sleep(client.rng.ms(50, 400));
        if closing.run_until_cancelled(pause).await.is_none() {
            return;
        }
        coordinator = match coordinator {
            None => find(&mut client, &group).await,
            Some(node) => look(&mut client, node, &group, &partitions).await.then_some(node),
        };
    }
}

/// How long a stubborn observer waits for an answer.
const STUBBORN_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads the committed offsets of a group until the end, and goes on to ask a coordinator that does not answer, until that says that it
/// is none, or its process is gone.
pub async fn insist(mut client: Client, group: Arc<str>, partitions: Vec<TopicPartition>) {
    let closing = client.setting.closing.clone();
    let mut coordinator = None;
    loop {
        let pause = sleep(client.rng.ms(50, 400));
        if closing.run_until_cancelled(pause).await.is_none() {
            return;
        }
        coordinator = match coordinator {
            None => timeout(STUBBORN_TIMEOUT, find(&mut client, &group)).await.ok().flatten(),
            Some(node) => {
                let looking = look(&mut client, node, &group, &partitions);
                let answered = timeout(STUBBORN_TIMEOUT, looking).await;
                answered.unwrap_or(true).then_some(node)
            }
        };
    }
}

/// Asks some broker who coordinates a group.
pub async fn find(client: &mut Client, group: &str) -> Option<i32> {
    let request = FindCoordinatorRequest::default().with_key(text(group)).with_key_type(0);
    let node = client.any();
    let answer = client.call(node, &request, 3).await.ok()?;
    let found = Some(answer.node_id.0).filter(|node| answer.error_code == 0 && *node > 0)?;
    client.locate(found, &answer.host);
    Some(found)
}

/// Reads the committed offsets of a group once, from whoever coordinates it. Returns whether that succeeded in time.
pub async fn look_once(
    client: &mut Client,
    group: &Arc<str>,
    partitions: &[TopicPartition],
    patience: Duration,
) -> bool {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(node) = find(client, group).await
            && look(client, node, group, partitions).await
        {
            return true;
        }
        client.back_off().await;
    }
    false
}

/// Whether the coordinator answered.
async fn look(client: &mut Client, node: i32, group: &Arc<str>, partitions: &[TopicPartition]) -> bool {
    let Some(first) = partitions.first() else { return true };
    let topic = OffsetFetchRequestTopic::default()
        .with_name(topic_name(&first.topic))
        .with_partition_indexes(partitions.iter().map(|at| at.partition).collect());
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_topics(Some(vec![topic]))
        .with_require_stable(false);
    let call = client.history().begin(|call| Event::ReadCommitted { call, group: Arc::clone(group) });
    let Ok(answer) = client.call(node, &request, 7).await else { return false };
    let found: Vec<_> = answer.topics.iter().flat_map(|topic| &topic.partitions).collect();
    if answer.error_code != 0 || found.iter().any(|partition| partition.error_code != 0) {
        return false;
    }
    for partition in found {
        let at = TopicPartition { topic: Arc::clone(&first.topic), partition: partition.partition_index };
        client.history().note(Event::Committed { call, at, offset: partition.committed_offset });
    }
    true
}
