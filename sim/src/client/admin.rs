//! What operators do: make and delete topics, delete records.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::{CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest};
use tokio::time::sleep;

use super::reader::{LATEST, end_offset};
use super::{Client, text, topic_name};
use crate::history::{Event, TopicPartition};

/// Makes a topic, and tries until it is there.
pub async fn create_topic(client: &mut Client, topic: &Arc<str>, partitions: i32, configs: &[(&str, &str)]) {
    let config = |(name, value): &(&str, &str)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let creatable = CreatableTopic::default()
        .with_name(topic_name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(-1)
        .with_configs(configs.iter().map(config).collect());
    let request = CreateTopicsRequest::default().with_topics(vec![creatable]).with_timeout_ms(4000);
    loop {
        let node = client.any();
        let code = client.call(node, &request, 5).await.ok().map(|answer| answer.topics[0].error_code);
        if code.is_some_and(|code| code == 0 || code == ResponseError::TopicAlreadyExists.code()) {
            client.history().note(Event::TopicCreated { topic: Arc::clone(topic), partitions });
            return;
        }
        client.back_off().await;
    }
}

/// Deletes a topic, and tries until it is gone.
pub async fn delete_topic(client: &mut Client, topic: &Arc<str>) {
    client.history().note(Event::TopicDeleting { topic: Arc::clone(topic) });
    let request =
        DeleteTopicsRequest::default().with_topic_names(vec![topic_name(topic)]).with_timeout_ms(4000);
    loop {
        let node = client.any();
        let code = client.call(node, &request, 4).await.ok().map(|answer| answer.responses[0].error_code);
        if code.is_some_and(|code| code == 0 || code == ResponseError::UnknownTopicOrPartition.code()) {
            client.history().note(Event::TopicDeleted { topic: Arc::clone(topic) });
            return;
        }
        client.back_off().await;
    }
}

/// Deletes a part of the records of a partition now and then.
pub async fn delete_records(mut client: Client, partitions: Vec<TopicPartition>) {
    let closing = client.setting.closing.clone();
    loop {
        let pause = sleep(client.rng.ms(1500, 6000));
        if closing.run_until_cancelled(pause).await.is_none() {
            return;
        }
        let at = client.rng.pick(&partitions).clone();
        let Some(end) = end_offset(&mut client, &at, LATEST).await.filter(|end| *end > 0) else { continue };
        let before = client.rng.between(0, end as u64) as i64;
        let Some(leader) = client.leader(&at).await else { continue };
        let call = client.history().begin(|call| Event::DeleteRecords { call, at: at.clone(), before });
        let partition =
            DeleteRecordsPartition::default().with_partition_index(at.partition).with_offset(before);
        let topic =
            DeleteRecordsTopic::default().with_name(topic_name(&at.topic)).with_partitions(vec![partition]);
        let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(4000);
        let Ok(answer) = client.call(leader, &request, 2).await else { continue };
        let partition =
            answer.topics.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
        match partition {
            Some(partition) if partition.error_code == 0 => {
                client.history().note(Event::RecordsDeleted { call, log_start: partition.low_watermark });
            }
            _ => client.forget_leader(&at),
        }
    }
}

/// Makes a topic, lets it be for a while, deletes it, and so on, under the names that `names` gives.
pub async fn come_and_go(mut client: Client, name: Arc<str>, partitions: i32, life: (u64, u64)) {
    let closing = client.setting.closing.clone();
    loop {
        create_topic(&mut client, &name, partitions, &[]).await;
        let life = sleep(client.rng.ms(life.0, life.1));
        if closing.run_until_cancelled(life).await.is_none() {
            return;
        }
        delete_topic(&mut client, &name).await;
        if closing.run_until_cancelled(sleep(Duration::from_millis(200))).await.is_none() {
            return;
        }
    }
}
