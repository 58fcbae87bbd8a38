"""aiokafka against a broker: `aiokafka_row.py BOOTSTRAP RUN_ID`. One event loop serves all its clients."""

import asyncio
import threading

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from rowkit import (
    PARTITIONS, Row, check, group_scenario, headers_of, key_of, produce_codecs, resume_scenario, static_scenario,
    value_of, wait_for)

row = Row("aiokafka")
loop = asyncio.new_event_loop()


def wait(awaitable, wait_s=30):
    return asyncio.run_coroutine_threadsafe(awaitable, loop).result(wait_s)


async def constructed(make):
    """aiokafka wants its objects made inside of the running loop."""
    client = make()
    await client.start()
    return client


class ProducerAdapter:
    def __init__(self, codec="none"):
        config = {"idempotent": {"enable_idempotence": True}, "none": {}}.get(codec, {"compression_type": codec})
        self.producer = wait(constructed(lambda: AIOKafkaProducer(bootstrap_servers=row.bootstrap, **config)))
        self.sent = []

    def send(self, topic, partition, offset):
        future = wait(self.producer.send(topic, value_of(partition, offset), key_of(partition, offset), partition,
                                         headers=headers_of(partition, offset)))
        self.sent.append((partition, offset, future))

    def flush(self):
        async def drain():
            await self.producer.flush()
            return [(p, o, (await future).offset) for p, o, future in self.sent]
        for partition, offset, at in wait(drain()):
            check(at == offset, f"{partition}/{offset} was acknowledged at {at}")
        self.sent.clear()

    def close(self):
        wait(self.producer.stop())


class ConsumerAdapter:
    def __init__(self, topic, group, **config):
        self.topic = topic
        self.consumer = wait(constructed(lambda: AIOKafkaConsumer(
            topic, bootstrap_servers=row.bootstrap, group_id=group, auto_offset_reset="earliest", **config)))

    def poll(self, timeout_s):
        found = wait(self.consumer.getmany(timeout_ms=int(timeout_s * 1000)))
        return [(r.partition, r.offset, r.key, r.value, r.headers) for records in found.values() for r in records]

    def assigned(self):
        return [p.partition for p in self.consumer.assignment()]

    def commit(self, offsets):
        wait(self.consumer.commit({TopicPartition(self.topic, p): (o, "from the matrix") for p, o in offsets.items()}))

    def committed(self, partition):
        return wait(self.consumer.committed(TopicPartition(self.topic, partition)))

    def close(self):
        wait(self.consumer.stop())


def admin_topics(admin, topic):
    def partitions(name):
        return len(wait(admin.describe_topics([name]))[0]["partitions"])

    with row.step("admin:create-topic-exists"):
        errors = wait(admin.create_topics([NewTopic(topic, PARTITIONS, 1)])).topic_errors
        check([e[1] for e in errors] == [36], f"answered {errors}")
    with row.step("admin:list-topics"):
        check(topic in wait(admin.list_topics()), "the topic is not listed")
    with row.step("admin:describe-topic"):
        check(partitions(topic) == PARTITIONS, f"{partitions(topic)} partitions")
    with row.step("admin:create-partitions"):
        other = row.topic("grow")
        wait(admin.create_topics([NewTopic(other, 1, 1)]))
        wait(admin.create_partitions({other: NewPartitions(4)}))
        wait_for("4 partitions", lambda: partitions(other) == 4)
    with row.step("admin:delete-topic"):
        wait(admin.delete_topics([other]))
        wait_for("the topic to go", lambda: other not in wait(admin.list_topics()))
    with row.step("admin:describe-cluster"):
        found = wait(admin.describe_cluster())
        check(found["brokers"] and found["cluster_id"], str(found))


def admin_configs(admin, topic):
    def describe(name):
        answers = wait(admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)]))
        return {entry[0]: entry[1] for answer in answers for entry in answer.resources[0][4]}[name]

    with row.step("admin:describe-configs"):
        check(describe("retention.ms") == "7200000", describe("retention.ms"))
        check(describe("cleanup.policy") == "delete", describe("cleanup.policy"))
    with row.step("admin:alter-configs"):
        wait(admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": "3600000"})]))
        wait_for("the new value", lambda: describe("retention.ms") == "3600000")


def admin_groups(admin, topic, group, ends):
    with row.step("admin:list-groups"):
        found = [g[0] for g in wait(admin.list_consumer_groups())]
        check(group in found, f"the group is not listed: {found}")
    with row.step("admin:describe-groups"):
        found = wait(admin.describe_consumer_groups([group]))[0].groups[0]
        check(found[0] == 0 and found[1] == group and found[2] == "Empty", str(found))
    with row.step("admin:list-group-offsets"):
        found = wait(admin.list_consumer_group_offsets(group))
        got = [found[TopicPartition(topic, p)].offset for p in range(PARTITIONS)]
        check(got == list(ends), f"{got}, wanted {ends}")


def admin_records(admin, topic, ends):
    partition = TopicPartition(topic, 0)
    with row.step("admin:list-offsets"):
        reader = wait(constructed(lambda: AIOKafkaConsumer(bootstrap_servers=row.bootstrap)))
        first, last = (wait(call([partition]))[partition] for call in (reader.beginning_offsets, reader.end_offsets))
        check((first, last) == (0, ends[0]), f"{first} to {last}, wanted 0 to {ends[0]}")
        at = wait(reader.offsets_for_times({partition: 1}))[partition].offset
        check(at == 0, f"the first record after the epoch is at {at}")
    with row.step("admin:delete-records"):
        wait(admin.delete_records({partition: RecordsToDelete(100)}))
        first = wait(reader.beginning_offsets([partition]))[partition]
        check(first == 100, f"the log starts at {first}")
    wait(reader.stop())


def main():
    threading.Thread(target=loop.run_forever, daemon=True).start()
    row.info("version", f"aiokafka {aiokafka.__version__}")
    topic, ends, group = row.topic("t"), [0] * PARTITIONS, row.topic("resume")
    admin = wait(constructed(lambda: AIOKafkaAdminClient(bootstrap_servers=row.bootstrap)))
    with row.step("admin:create-topic"):
        errors = wait(admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs={"retention.ms": "7200000"})]))
        check([e[1] for e in errors.topic_errors] == [0], f"answered {errors}")
    produce_codecs(row, topic, ends, ProducerAdapter, ("none", "gzip", "snappy", "lz4", "zstd", "idempotent"))
    group_scenario(row, topic, ends, ProducerAdapter, lambda _: ConsumerAdapter(topic, row.topic("group")))
    resume_scenario(row, ends, lambda: ConsumerAdapter(topic, group))
    admin_topics(admin, topic)
    admin_configs(admin, topic)
    admin_groups(admin, topic, group, ends)
    static_scenario(row, lambda name: ConsumerAdapter(topic, row.topic("static"), group_instance_id=name))
    admin_records(admin, topic, ends)
    row.finish()


main()
