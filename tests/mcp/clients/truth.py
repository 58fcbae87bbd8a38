"""What a Kafka client sees: topics, lag by group and partition, retention of payments, the sum of all log ends."""

import json
import sys

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource

servers = {"bootstrap.servers": sys.argv[1]}
admin = AdminClient(servers)
consumer = Consumer({**servers, "group.id": "truth"})
metadata = admin.list_topics(timeout=20)
topics = {name: len(topic.partitions) for name, topic in metadata.topics.items()}


def end_of(topic, partition):
    return consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)[1]


ends = {(topic, p): end_of(topic, p) for topic, count in topics.items() for p in range(count)}
lags = {}
for group in admin.list_consumer_groups().result().valid:
    name = group.group_id
    committed = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(name)])[name].result().topic_partitions
    rows = [[c.topic, c.partition, c.offset, ends[(c.topic, c.partition)] - c.offset] for c in committed if c.offset >= 0]
    lags[name] = sorted(rows)
resource = ConfigResource(ConfigResource.Type.TOPIC, "payments")
configs = admin.describe_configs([resource])[resource].result()
retention = {name: entry.value for name, entry in configs.items() if name in ("retention.ms", "retention.bytes")}
consumer.close()
print(json.dumps({"topics": topics, "lags": lags, "retention": retention, "end": sum(ends.values()),
                  "ends": [[topic, p, end] for (topic, p), end in ends.items()]}))
