"""What a data directory of an earlier release holds: made by tests/upgrade/make, looked at by tests/upgrade/run."""

import hashlib

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

import wire
from rows import check

# Nothing goes by age, however old the fixture is; small files, so that there are segments and several of the write-ahead log.
SETTINGS = ["--offsets-retention", "36500d", "--log-retention-time", "unlimited", "--wal-file-bytes", "1MiB", "--wal-max-bytes", "2MiB",
            "--log-retention-check-interval", "1s"]

TOPICS = {
    "orders": (3, {"retention.ms": "-1", "segment.bytes": str(1 << 20)}),
    "table": (1, {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"}),
    "codecs": (1, {"retention.ms": "-1", "max.message.bytes": "2000000"}),
    "cut": (1, {"retention.ms": "-1"}),
    "stamped": (1, {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"}),
    "deleted": (1, {}),
    "empty": (2, {}),
}
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
GROUPS = {"billing": {("orders", 0): 10, ("orders", 1): 20, ("orders", 2): 0}, "audit": {("codecs", 0): 7}}
METADATA = "by the fixture"


def send(bootstrap, topic, records, **settings):
    """`records` are (partition, key, value)."""
    errors = []
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 2, **settings})
    for partition, key, value in records:
        producer.produce(topic, value, key, partition=partition, headers=[("h", b"v")],
                         on_delivery=lambda e, _: errors.append(e) if e else None)
        producer.poll(0)
    check(producer.flush(60) == 0 and not errors, errors[:1])


def fill(bootstrap):
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    created = admin.create_topics([NewTopic(name, partitions, config=config) for name, (partitions, config) in TOPICS.items()])
    for future in created.values():
        future.result(30)
    value = b"an order of the fixture " * 80
    orders = [(n % 3, f"order-{n}".encode(), value + str(n).encode()) for n in range(3000)]
    send(bootstrap, "orders", orders, **{"enable.idempotence": True})
    send(bootstrap, "table", [(0, f"key-{n % 7}".encode(), str(n).encode() * 20) for n in range(700)])
    for codec in CODECS:
        send(bootstrap, "codecs", [(0, None, f"{codec} {n}".encode() * 30) for n in range(40)], **{"compression.type": codec, "linger.ms": 50})
    send(bootstrap, "cut", [(0, b"k", str(n).encode()) for n in range(100)])
    for future in admin.delete_records([TopicPartition("cut", 0, 42)]).values():
        future.result(30)
    send(bootstrap, "stamped", [(0, None, b"stamped")])
    send(bootstrap, "deleted", [(0, None, b"gone")] * 10)
    admin.delete_topics(["deleted"])["deleted"].result(30)
    for group, offsets in GROUPS.items():
        committer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 2})
        committer.commit(offsets=[TopicPartition(topic, partition, offset, METADATA) for (topic, partition), offset in offsets.items()],
                         asynchronous=False)
        committer.close()


def to_the_end(reader):
    """The records of the one partition that is assigned."""
    while True:
        message = reader.poll(20)
        check(message is not None, "nothing for 20 s")
        if message.error():
            check(message.error().code() == KafkaError._PARTITION_EOF, message.error())
            return
        yield message


def records(bootstrap, topic, partition):
    """Every record: offset, timestamp, key, value and headers, as one digest; with their number and the ends of the log."""
    low, high = (wire.list_offset(bootstrap, topic, partition, at) for at in (-2, -1))
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "log_level": 2, "enable.auto.commit": False,
                       "enable.partition.eof": True})
    reader.assign([TopicPartition(topic, partition, low)])
    digest, count = hashlib.sha256(), 0
    for message in to_the_end(reader):
        digest.update(repr((message.offset(), message.timestamp(), message.key(), message.value(), message.headers())).encode())
        count += 1
    reader.close()
    return {"start": low, "end": high, "records": count, "sha256": digest.hexdigest()}


def last_of_keys(bootstrap, topic):
    """Of a compacted topic: the last value of each key, whatever else is still there."""
    high = wire.list_offset(bootstrap, topic, 0, -1)
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "log_level": 2, "enable.auto.commit": False,
                       "enable.partition.eof": True})
    reader.assign([TopicPartition(topic, 0, 0)])
    found = {m.key().decode(): [m.offset(), m.value().decode()] for m in to_the_end(reader)}
    reader.close()
    return {"end": high, "last": found}


def contents(bootstrap):
    """Everything that a client sees, as what JSON can hold."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    listed = admin.list_topics(timeout=30).topics
    seen = {"topics": {}, "groups": {}}
    for topic in sorted(listed):
        asked = ConfigResource(ConfigResource.Type.TOPIC, topic)
        entries = admin.describe_configs([asked])[asked].result(30)
        own = {name: entries[name].value for name in TOPICS.get(topic, (0, {}))[1]}
        partitions = [records(bootstrap, topic, p) for p in sorted(listed[topic].partitions)] if topic != "table" else None
        seen["topics"][topic] = {"partitions": partitions or last_of_keys(bootstrap, topic), "config": own}
    for group, offsets in GROUPS.items():
        reader = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 2})
        committed = reader.committed([TopicPartition(topic, partition) for topic, partition in offsets], 30)
        seen["groups"][group] = {f"{c.topic}-{c.partition}": [c.offset, c.metadata] for c in committed}
        reader.close()
    return seen
