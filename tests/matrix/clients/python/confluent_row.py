"""confluent-kafka (librdkafka) against a broker: `confluent_row.py BOOTSTRAP RUN_ID`."""

import confluent_kafka
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourceType)

from rowkit import (
    PARTITIONS, Row, check, group_scenario, headers_of, key_of, produce_codecs, resume_scenario, static_scenario,
    value_of, wait_for)

row = Row("confluent-kafka")
ADMIN_S = 20


class ProducerAdapter:
    def __init__(self, **config):
        self.errors = []
        self.producer = Producer({"bootstrap.servers": row.bootstrap, **config})

    def send(self, topic, partition, offset):
        def delivered(error, message):
            if error:
                self.errors.append(str(error))
            elif message.offset() != offset:
                self.errors.append(f"{partition}/{offset} was acknowledged at {message.offset()}")
        self.producer.produce(topic, value_of(partition, offset), key_of(partition, offset), partition=partition,
                              headers=headers_of(partition, offset), on_delivery=delivered)
        self.producer.poll(0)

    def flush(self):
        left = self.producer.flush(30)
        check(left == 0, f"{left} records were not delivered")
        check(not self.errors, "; ".join(self.errors[:3]))

    def close(self):
        self.flush()


class ConsumerAdapter:
    def __init__(self, topic, group, **config):
        self.consumer = Consumer({"bootstrap.servers": row.bootstrap, "group.id": group,
                                  "auto.offset.reset": "earliest", **config})
        self.topic = topic
        self.consumer.subscribe([topic])

    def poll(self, timeout_s):
        records = []
        for message in self.consumer.consume(100, timeout_s):
            if message.error():
                raise KafkaException(message.error())
            records.append((message.partition(), message.offset(), message.key(), message.value(), message.headers()))
        return records

    def assigned(self):
        return [p.partition for p in self.consumer.assignment()]

    def commit(self, offsets):
        self.consumer.commit(offsets=[TopicPartition(self.topic, p, o) for p, o in offsets.items()], asynchronous=False)

    def committed(self, partition):
        return self.consumer.committed([TopicPartition(self.topic, partition)], ADMIN_S)[0].offset

    def close(self):
        self.consumer.close()


def open_producer(codec):
    if codec == "idempotent":
        return ProducerAdapter(**{"enable.idempotence": True})
    return ProducerAdapter(**({} if codec == "none" else {"compression.type": codec}))


def results(futures):
    return {key: future.result(ADMIN_S) for key, future in futures.items()}


def error_code(call):
    try:
        call()
    except KafkaException as error:
        return error.args[0].code()
    return KafkaError.NO_ERROR


def admin_topics(admin, topic):
    with row.step("admin:create-topic-exists"):
        code = error_code(lambda: results(admin.create_topics([NewTopic(topic, PARTITIONS)])))
        check(code == KafkaError.TOPIC_ALREADY_EXISTS, f"code {code}")
    with row.step("admin:list-topics"):
        metadata = admin.list_topics(timeout=ADMIN_S)
        check(topic in metadata.topics, "the topic is not listed")
        check(len(metadata.topics[topic].partitions) == PARTITIONS, "wrong partition count")
    with row.step("admin:describe-topic"):
        found = results(admin.describe_topics(confluent_kafka.TopicCollection([topic])))[topic]
        check(len(found.partitions) == PARTITIONS and all(p.leader for p in found.partitions), str(found))
    with row.step("admin:create-partitions"):
        other = row.topic("grow")
        results(admin.create_topics([NewTopic(other, 1)]))
        results(admin.create_partitions([NewPartitions(other, 4)]))
        wait_for("4 partitions", lambda: len(admin.list_topics(other, ADMIN_S).topics[other].partitions) == 4)
        code = error_code(lambda: results(admin.create_partitions([NewPartitions(other, 2)])))
        check(code == KafkaError.INVALID_PARTITIONS, f"fewer partitions: code {code}")
    with row.step("admin:delete-topic"):
        results(admin.delete_topics([other]))
        wait_for("the topic to go", lambda: other not in admin.list_topics(timeout=ADMIN_S).topics)


def admin_configs(admin, topic):
    resource = ConfigResource(ResourceType.TOPIC, topic)

    def describe():
        return results(admin.describe_configs([resource]))[resource]

    with row.step("admin:describe-configs"):
        configs = describe()
        check(configs["retention.ms"].value == "7200000", configs["retention.ms"].value)
        check(configs["cleanup.policy"].value == "delete" and configs["cleanup.policy"].is_default, "cleanup.policy")
    with row.step("admin:incremental-alter-configs"):
        resource.add_incremental_config(ConfigEntry("retention.ms", "3600000",
                                                    incremental_operation=AlterConfigOpType.SET))
        results(admin.incremental_alter_configs([resource]))
        wait_for("the new value", lambda: describe()["retention.ms"].value == "3600000")
    with row.step("admin:alter-configs"):
        legacy = ConfigResource(ResourceType.TOPIC, topic, set_config={"max.message.bytes": "500000"})
        results(admin.alter_configs([legacy]))
        wait_for("the new value", lambda: describe()["max.message.bytes"].value == "500000")
        check(describe()["retention.ms"].is_default, "alter configs keeps what it does not name")
    with row.step("admin:alter-configs-invalid"):
        bad = ConfigResource(ResourceType.TOPIC, topic, set_config={"max.message.bytes": "-7"})
        code = error_code(lambda: results(admin.alter_configs([bad])))
        check(code == KafkaError.INVALID_CONFIG, f"code {code}")
    with row.step("admin:describe-broker-configs"):
        node = str(next(iter(admin.list_topics(timeout=ADMIN_S).brokers)))
        broker = ConfigResource(ResourceType.BROKER, node)
        check("message.max.bytes" in results(admin.describe_configs([broker]))[broker], "no message.max.bytes")


def admin_groups(admin, topic, group, ends):
    with row.step("admin:list-groups"):
        found = admin.list_consumer_groups().result(ADMIN_S)
        check(not found.errors and group in [g.group_id for g in found.valid], "the group is not listed")
    with row.step("admin:describe-groups"):
        found = results(admin.describe_consumer_groups([group]))[group]
        check(found.state == confluent_kafka.ConsumerGroupState.EMPTY, str(found.state))
    with row.step("admin:list-group-offsets"):
        found = results(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]))[group]
        got = {p.partition: p.offset for p in found.topic_partitions}
        check(got == dict(enumerate(ends)), f"{got}, wanted {ends}")
    with row.step("admin:alter-group-offsets"):
        to = [TopicPartition(topic, p, 5) for p in range(PARTITIONS)]
        results(admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, to)]))
        found = results(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]))[group]
        check({p.offset for p in found.topic_partitions} == {5}, str(found.topic_partitions))
    with row.step("admin:delete-group"):
        results(admin.delete_consumer_groups([group]))
        found = admin.list_consumer_groups().result(ADMIN_S)
        check(group not in [g.group_id for g in found.valid], "the group is still listed")
    with row.step("admin:delete-group-unknown"):
        code = error_code(lambda: results(admin.delete_consumer_groups([group])))
        check(code == KafkaError.GROUP_ID_NOT_FOUND, f"code {code}")


def admin_records(admin, topic, ends):
    partition = TopicPartition(topic, 0)
    with row.step("admin:list-offsets"):
        for spec, want in ((OffsetSpec.earliest(), 0), (OffsetSpec.latest(), ends[0]),
                           (OffsetSpec.for_timestamp(1), 0), (OffsetSpec.max_timestamp(), None)):
            found = results(admin.list_offsets({partition: spec}))[partition]
            check(want is None or found.offset == want, f"{spec}: {found.offset}, wanted {want}")
    with row.step("admin:delete-records"):
        found = results(admin.delete_records([TopicPartition(topic, 0, 100)]))
        check([r.low_watermark for r in found.values()] == [100], str(found))
        consumer = Consumer({"bootstrap.servers": row.bootstrap, "group.id": row.topic("low"),
                             "auto.offset.reset": "earliest"})
        check(consumer.get_watermark_offsets(partition, 10) == (100, ends[0]), "watermarks")
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(20)
        check(message and message.offset() == 100, f"reads from {message and message.offset()}")
        consumer.close()
    with row.step("admin:describe-cluster"):
        found = admin.describe_cluster().result(ADMIN_S)
        check(found.cluster_id and found.controller and len(found.nodes) >= 1, str(found))


def membership(topic, ends):
    def opener(strategy, static):
        def open_consumer(name):
            config = {"partition.assignment.strategy": strategy}
            if static:
                config["group.instance.id"] = name
            return ConsumerAdapter(topic, row.topic("static" if static else "coop"), **config)
        return open_consumer

    group_scenario(row, topic, ends, ProducerAdapter, opener("cooperative-sticky", False), "membership:cooperative")
    static_scenario(row, opener("range", True))


def main():
    row.info("version", f"confluent-kafka {confluent_kafka.__version__}, librdkafka {confluent_kafka.libversion()[0]}")
    topic, ends = row.topic("t"), [0] * PARTITIONS
    admin = AdminClient({"bootstrap.servers": row.bootstrap})
    with row.step("admin:create-topic"):
        results(admin.create_topics([NewTopic(topic, PARTITIONS, config={"retention.ms": "7200000"})]))
    produce_codecs(row, topic, ends, open_producer, ("none", "gzip", "snappy", "lz4", "zstd", "idempotent"))
    group_scenario(row, topic, ends, ProducerAdapter, lambda _: ConsumerAdapter(topic, row.topic("group")))
    group = row.topic("resume")
    resume_scenario(row, ends, lambda: ConsumerAdapter(topic, group))
    admin_topics(admin, topic)
    admin_configs(admin, topic)
    admin_groups(admin, topic, group, ends)
    membership(topic, ends)
    admin_records(admin, topic, ends)
    row.finish()


main()
