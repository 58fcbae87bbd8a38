//! The rdkafka crate against a broker: `matrix-rdkafka BOOTSTRAP RUN_ID`.
//! Steps, record rule and group scenario are those of clients/python/rowkit.py.

mod scenario;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use scenario::{Failure, PARTITIONS, Row, check, check_record, config, consumer, produce_round, wait_for};

const ANSWER_LIMIT: Duration = Duration::from_secs(20);

struct Admin {
    client: AdminClient<DefaultClientContext>,
    options: AdminOptions,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    fn new(row: &Row) -> Result<Admin, Failure> {
        Ok(Admin {
            client: config(row).create()?,
            options: AdminOptions::new().request_timeout(Some(ANSWER_LIMIT)),
            runtime: tokio::runtime::Runtime::new()?,
        })
    }

    fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), Failure> {
        let topic =
            NewTopic::new(topic, partitions, TopicReplication::Fixed(1)).set("retention.ms", "7200000");
        accepted(self.runtime.block_on(self.client.create_topics([&topic], &self.options))?)
    }

    fn topic_config(&self, topic: &str, key: &str) -> Result<Option<String>, Failure> {
        let resource = ResourceSpecifier::Topic(topic);
        let answers = self.runtime.block_on(self.client.describe_configs([&resource], &self.options))?;
        let found = answers.into_iter().next().ok_or("an empty answer")?.map_err(|code| code.to_string())?;
        Ok(found.get(key).and_then(|entry| entry.value.clone()))
    }

    fn partitions(&self, topic: &str) -> Result<usize, Failure> {
        let metadata = self.client.inner().fetch_metadata(None, ANSWER_LIMIT)?;
        Ok(metadata
            .topics()
            .iter()
            .find(|found| found.name() == topic)
            .map_or(0, |found| found.partitions().len()))
    }
}

fn accepted<T>(answers: Vec<Result<T, (String, RDKafkaErrorCode)>>) -> Result<(), Failure> {
    check(!answers.is_empty(), "an empty answer")?;
    for answer in answers {
        answer.map_err(|(name, code)| format!("{name}: {code}"))?;
    }
    Ok(())
}

fn resume(row: &mut Row, topic: &str, group: &str, ends: &[i64]) {
    let mut committed: BTreeMap<i32, i64> = BTreeMap::new();
    row.step("resume:commit", |row| {
        let member = consumer(row, topic, group, &[("enable.auto.commit", "false".into())])?;
        let deadline = Instant::now() + ANSWER_LIMIT * 2;
        while committed.values().sum::<i64>() < ends.iter().sum::<i64>() / 3 {
            check(Instant::now() < deadline, "no records within the limit")?;
            if let Some(message) = member.poll(Duration::from_millis(500)) {
                let (partition, offset) = check_record(&message?)?;
                committed.insert(partition, offset + 1);
            }
        }
        let mut to = TopicPartitionList::new();
        for (partition, offset) in &committed {
            to.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        member.commit(&to, CommitMode::Sync)?;
        let found = member.committed(ANSWER_LIMIT)?;
        for (partition, offset) in &committed {
            let at = found.find_partition(topic, *partition).map(|p| p.offset());
            check(
                at == Some(Offset::Offset(*offset)),
                &format!("{partition}: {offset} committed, found {at:?}"),
            )?;
        }
        Ok(())
    });
    row.step("resume:exact", |row| {
        let member = consumer(row, topic, group, &[])?;
        let mut position: Vec<i64> =
            (0..PARTITIONS).map(|p| committed.get(&p).copied().unwrap_or(0)).collect();
        let deadline = Instant::now() + ANSWER_LIMIT * 2;
        while position != ends {
            check(Instant::now() < deadline, &format!("stopped at {position:?} of {ends:?}"))?;
            if let Some(message) = member.poll(Duration::from_millis(500)) {
                let (partition, offset) = check_record(&message?)?;
                let expected = &mut position[partition as usize];
                check(offset == *expected, &format!("{partition} resumed at {offset}, not {expected}"))?;
                *expected += 1;
            }
        }
        Ok(())
    });
}

fn admin_topics(row: &mut Row, admin: &Admin, topic: &str) {
    row.step("admin:create-topic-exists", |_| {
        let error = admin.create_topic(topic, PARTITIONS).err().map(|e| e.to_string()).unwrap_or_default();
        check(error.contains("Topic already exists"), &format!("answered '{error}'"))
    });
    row.step("admin:describe-topic", |_| {
        let found = admin.partitions(topic)?;
        check(found == PARTITIONS as usize, &format!("{found} partitions"))
    });
    let other = row.topic("grow");
    row.step("admin:create-partitions", |_| {
        admin.create_topic(&other, 1)?;
        let to = NewPartitions::new(&other, 4);
        accepted(admin.runtime.block_on(admin.client.create_partitions([&to], &admin.options))?)?;
        wait_for("4 partitions", || Ok(admin.partitions(&other)? == 4))
    });
    row.step("admin:delete-topic", |_| {
        accepted(admin.runtime.block_on(admin.client.delete_topics(&[&other], &admin.options))?)?;
        wait_for("the topic to go", || Ok(admin.partitions(&other)? == 0))
    });
    row.step("admin:describe-cluster", |_| {
        let metadata = admin.client.inner().fetch_metadata(None, ANSWER_LIMIT)?;
        let cluster = admin.client.inner().fetch_cluster_id(ANSWER_LIMIT);
        check(!metadata.brokers().is_empty() && cluster.is_some(), "no brokers or no cluster id")
    });
}

fn admin_configs(row: &mut Row, admin: &Admin, topic: &str) {
    row.step("admin:describe-configs", |_| {
        let found =
            (admin.topic_config(topic, "retention.ms")?, admin.topic_config(topic, "cleanup.policy")?);
        check(found == (Some("7200000".into()), Some("delete".into())), &format!("{found:?}"))
    });
    row.step("admin:alter-configs", |_| {
        let alter = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", "500000");
        let answers = admin.runtime.block_on(admin.client.alter_configs([&alter], &admin.options))?;
        for answer in answers {
            answer.map_err(|(_, code)| code.to_string())?;
        }
        wait_for("the new value", || {
            Ok(admin.topic_config(topic, "max.message.bytes")?.as_deref() == Some("500000"))
        })
    });
}

fn admin_groups(row: &mut Row, admin: &Admin, group: &str) {
    row.step("admin:describe-groups", |_| {
        let found = admin.client.inner().fetch_group_list(Some(group), ANSWER_LIMIT)?;
        let states: Vec<_> = found.groups().iter().map(|g| (g.name(), g.state())).collect();
        check(states == [(group, "Empty")], &format!("{states:?}"))
    });
    row.step("admin:list-groups", |_| {
        let found = admin.client.inner().fetch_group_list(None, ANSWER_LIMIT)?;
        check(found.groups().iter().any(|g| g.name() == group), "the group is not listed")
    });
    row.step("admin:delete-group", |_| {
        accepted(admin.runtime.block_on(admin.client.delete_groups(&[group], &admin.options))?)?;
        let found = admin.client.inner().fetch_group_list(None, ANSWER_LIMIT)?;
        check(!found.groups().iter().any(|g| g.name() == group), "the group is still listed")
    });
}

fn admin_records(row: &mut Row, admin: &Admin, topic: &str, ends: &[i64]) {
    let client = admin.client.inner();
    row.step("admin:list-offsets", |row| {
        let found = client.fetch_watermarks(topic, 0, ANSWER_LIMIT)?;
        check(found == (0, ends[0]), &format!("watermarks {found:?}"))?;
        let reader = consumer(row, topic, &row.topic("times"), &[])?;
        let mut since = TopicPartitionList::new();
        since.add_partition_offset(topic, 0, Offset::Offset(1))?;
        let at = reader.offsets_for_times(since, ANSWER_LIMIT)?.elements()[0].offset();
        check(at == Offset::Offset(0), &format!("the first record after the epoch is at {at:?}"))
    });
    row.step("admin:delete-records", |_| {
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(topic, 0, Offset::Offset(100))?;
        let answer = admin.runtime.block_on(admin.client.delete_records(&before, &admin.options))?;
        answer.elements()[0].error()?;
        let found = client.fetch_watermarks(topic, 0, ANSWER_LIMIT)?;
        check(found == (100, ends[0]), &format!("watermarks {found:?}"))
    });
}

fn main() -> Result<(), Failure> {
    let mut row = Row::from_args("rdkafka-rs")?;
    row.info(
        "version",
        &format!("rdkafka crate 0.39.0, librdkafka {}", rdkafka::util::get_rdkafka_version().1),
    );
    let (topic, group, mut ends) = (row.topic("t"), row.topic("resume"), vec![0; PARTITIONS as usize]);
    let admin = Admin::new(&row)?;
    row.step("admin:create-topic", |_| admin.create_topic(&topic, PARTITIONS));
    for codec in ["none", "gzip", "snappy", "lz4", "zstd", "idempotent"] {
        row.step(&format!("produce:{codec}"), |row| {
            let setting = match codec {
                "none" => vec![],
                "idempotent" => vec![("enable.idempotence", "true")],
                codec => vec![("compression.type", codec)],
            };
            produce_round(row, &topic, &mut ends, &setting)
        });
    }
    scenario::group(&mut row, "group", &topic, &mut ends, &[]);
    resume(&mut row, &topic, &group, &ends);
    admin_topics(&mut row, &admin, &topic);
    admin_configs(&mut row, &admin, &topic);
    admin_groups(&mut row, &admin, &group);
    scenario::group(
        &mut row,
        "membership:cooperative",
        &topic,
        &mut ends,
        &[("partition.assignment.strategy", "cooperative-sticky".into())],
    );
    scenario::static_members(&mut row, &topic);
    admin_records(&mut row, &admin, &topic, &ends);
    std::process::exit(row.exit_code());
}
