"""kafka-python against a broker: `kafka_python_row.py BOOTSTRAP RUN_ID`."""

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, OffsetSpec
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import TopicAlreadyExistsError
from kafka.structs import OffsetAndMetadata

from rowkit import (
    PARTITIONS, Row, check, group_scenario, headers_of, key_of, produce_codecs, resume_scenario, static_scenario,
    value_of, wait_for)

row = Row("kafka-python")


class ProducerAdapter:
    def __init__(self, codec="none"):
        config = {} if codec == "none" else {"compression_type": codec}
        self.producer = KafkaProducer(bootstrap_servers=row.bootstrap, **config)
        self.sent = []

    def send(self, topic, partition, offset):
        future = self.producer.send(topic, value_of(partition, offset), key_of(partition, offset),
                                    headers_of(partition, offset), partition)
        self.sent.append((partition, offset, future))

    def flush(self):
        self.producer.flush(30)
        for partition, offset, future in self.sent:
            at = future.get(30).offset
            check(at == offset, f"{partition}/{offset} was acknowledged at {at}")
        self.sent.clear()

    def close(self):
        self.producer.close(10)


class ConsumerAdapter:
    def __init__(self, topic, group, **config):
        self.topic = topic
        self.consumer = KafkaConsumer(topic, bootstrap_servers=row.bootstrap, group_id=group,
                                      auto_offset_reset="earliest", **config)

    def poll(self, timeout_s):
        return [(r.partition, r.offset, r.key, r.value, r.headers)
                for records in self.consumer.poll(timeout_s * 1000).values() for r in records]

    def assigned(self):
        return [p.partition for p in self.consumer.assignment()]

    def commit(self, offsets):
        self.consumer.commit({TopicPartition(self.topic, p): OffsetAndMetadata(o, "from the matrix", -1)
                              for p, o in offsets.items()})

    def committed(self, partition):
        return self.consumer.committed(TopicPartition(self.topic, partition))

    def close(self):
        self.consumer.close()


def admin_topics(admin, topic):
    with row.step("admin:create-topic-exists"):
        try:
            admin.create_topics({topic: {"num_partitions": PARTITIONS}})
        except TopicAlreadyExistsError:
            pass
        else:
            raise AssertionError("created twice")
    with row.step("admin:list-topics"):
        check(topic in admin.list_topics(), "the topic is not listed")
    with row.step("admin:describe-topic"):
        found = admin.describe_topics([topic])[0]
        check(len(found["partitions"]) == PARTITIONS, str(found))
    with row.step("admin:describe-topic-partitions"):
        found = admin.describe_topic_partitions([topic])
        check(topic in str(found), str(found))
    with row.step("admin:create-partitions"):
        other = row.topic("grow")
        admin.create_topics({other: {"num_partitions": 1}})
        admin.create_partitions({other: 4})
        wait_for("4 partitions", lambda: len(admin.describe_topics([other])[0]["partitions"]) == 4)
    with row.step("admin:delete-topic"):
        admin.delete_topics([other])
        wait_for("the topic to go", lambda: other not in admin.list_topics())


def admin_configs(admin, topic):
    def describe(name):
        found = admin.describe_configs([ConfigResource("TOPIC", topic)], config_filter="all")
        return found["topic"][topic][name]["value"]

    with row.step("admin:describe-configs"):
        check(describe("retention.ms") == "7200000", describe("retention.ms"))
        check(describe("cleanup.policy") == "delete", describe("cleanup.policy"))
    with row.step("admin:incremental-alter-configs"):
        admin.alter_configs([ConfigResource("TOPIC", topic, {"retention.ms": "3600000"})])
        wait_for("the new value", lambda: describe("retention.ms") == "3600000")
    with row.step("admin:alter-configs"):
        admin.alter_configs([ConfigResource("TOPIC", topic, {"max.message.bytes": "500000"})], incremental=False)
        wait_for("the new value", lambda: describe("max.message.bytes") == "500000")
    with row.step("admin:reset-configs"):
        admin.reset_configs([ConfigResource("TOPIC", topic, ["max.message.bytes"])])
        wait_for("the default value", lambda: describe("max.message.bytes") == "1048588")


def admin_groups(admin, topic, group, ends):
    partitions = [TopicPartition(topic, p) for p in range(PARTITIONS)]

    def offsets():
        return [o.offset for _, o in sorted(admin.list_group_offsets(group)[group].items())]

    with row.step("admin:list-groups"):
        check(group in [g["group_id"] for g in admin.list_groups()], "the group is not listed")
    with row.step("admin:describe-groups"):
        found = admin.describe_groups([group])[group]
        check(found["group_state"] == "Empty", str(found))
    with row.step("admin:list-group-offsets"):
        check(offsets() == list(ends), f"{offsets()}, wanted {ends}")
    with row.step("admin:alter-group-offsets"):
        admin.alter_group_offsets(group, {p: OffsetAndMetadata(5, "", -1) for p in partitions})
        check(set(offsets()) == {5}, str(offsets()))
    with row.step("admin:reset-group-offsets"):
        admin.reset_group_offsets(group, {p: OffsetSpec.LATEST for p in partitions})
        check(offsets() == list(ends), f"{offsets()}, wanted {ends}")
    with row.step("admin:delete-group-offsets"):
        admin.delete_group_offsets(group, partitions[:2])
        check(len(offsets()) == PARTITIONS - 2, str(offsets()))
    with row.step("admin:delete-group"):
        check(admin.delete_groups([group])[group] == "OK", "not deleted")
        check(group not in [g["group_id"] for g in admin.list_groups()], "the group is still listed")


def admin_records(admin, topic, ends):
    partition = TopicPartition(topic, 0)
    with row.step("admin:list-offsets"):
        for spec, want in ((OffsetSpec.EARLIEST, 0), (OffsetSpec.LATEST, ends[0]), (1, 0)):
            found = admin.list_partition_offsets({partition: spec})[partition].offset
            check(found == want, f"{spec}: {found}, wanted {want}")
    with row.step("admin:delete-records"):
        found = admin.delete_records({partition: 100})
        check(admin.list_partition_offsets({partition: OffsetSpec.EARLIEST})[partition].offset == 100, str(found))
    with row.step("admin:describe-producers"):
        found = admin.describe_producers([partition])
        check(partition in found or topic in str(found), str(found))
    with row.step("admin:describe-log-dirs"):
        check(topic in str(admin.describe_log_dirs()), "the topic is in no log directory")
    with row.step("admin:describe-cluster"):
        found = admin.describe_cluster()
        check(found["cluster_id"] and found["brokers"], str(found))


def main():
    row.info("version", f"kafka-python {kafka.__version__}")
    topic, ends, group = row.topic("t"), [0] * PARTITIONS, row.topic("resume")
    admin = KafkaAdminClient(bootstrap_servers=row.bootstrap)
    with row.step("admin:create-topic"):
        admin.create_topics({topic: {"num_partitions": PARTITIONS, "configs": {"retention.ms": "7200000"}}},
                            wait_for_metadata=True)
    produce_codecs(row, topic, ends, ProducerAdapter, ("none", "gzip", "snappy", "lz4", "zstd"))
    group_scenario(row, topic, ends, ProducerAdapter, lambda _: ConsumerAdapter(topic, row.topic("group")))
    resume_scenario(row, ends, lambda: ConsumerAdapter(topic, group))
    admin_topics(admin, topic)
    admin_configs(admin, topic)
    admin_groups(admin, topic, group, ends)
    group_scenario(row, topic, ends, ProducerAdapter, lambda _: ConsumerAdapter(
        topic, row.topic("coop"), partition_assignment_strategy=[CooperativeStickyAssignor]),
        "membership:cooperative")
    static_scenario(row, lambda name: ConsumerAdapter(topic, row.topic("static"), group_instance_id=name))
    admin_records(admin, topic, ends)
    row.finish()


main()
