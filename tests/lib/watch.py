"""Consumers that only watch, all the time, and hold what they saw against what they see later."""

import threading
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition
from rows import check


class Observer(threading.Thread):
    """Reads every partition of a topic from its beginning, and remembers what was at each offset."""

    def __init__(self, bootstrap, topic, partitions):
        super().__init__(daemon=True)
        self.topic, self.seen, self.error = topic, [[] for _ in range(partitions)], None
        # When each partition last gave something.
        self.last_s = [time.monotonic()] * partitions
        self.stopping = threading.Event()
        self.consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"observes-{topic}", "enable.auto.commit": False,
                                  "log_level": 2, "reconnect.backoff.max.ms": 200, "auto.offset.reset": "error"})
        self.consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
        self.start()

    def run(self):
        try:
            while not self.stopping.is_set():
                for message in self.consumer.consume(1000, 0.2):
                    check(not message.error(), message.error())
                    self.see(message)
        except Exception as error:
            self.error = error
        self.consumer.close()

    def see(self, message):
        partition, offset, number = message.partition(), message.offset(), int(message.key())
        seen = self.seen[partition]
        check(offset <= len(seen), f"{self.topic} {partition}: offset {offset} follows {len(seen) - 1}")
        if offset < len(seen):
            check(seen[offset] == number, f"{self.topic} {partition} {offset} had {seen[offset]} and has {number}")
        else:
            seen.append(number)
        self.last_s[partition] = time.monotonic()

    def finish(self, found):
        """Compares with what a reader found at the end; gives the number of records that were seen."""
        self.stopping.set()
        self.join(30)
        check(self.error is None, f"{self.topic}: {self.error}")
        for partition, (seen, there) in enumerate(zip(self.seen, found)):
            check(seen == there[:len(seen)], f"{self.topic} {partition}: what was read before is not what is there")
        return sum(map(len, self.seen))


class CommitWatch(threading.Thread):
    """Asks for the committed offsets of a group again and again; they never go backwards."""

    def __init__(self, bootstrap, group, topic, partitions):
        super().__init__(daemon=True)
        self.group, self.highest, self.answers, self.error = group, {}, 0, None
        self.places = [TopicPartition(topic, p) for p in range(partitions)]
        self.consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 2, "reconnect.backoff.max.ms": 200})
        self.stopping = threading.Event()
        self.start()

    def run(self):
        try:
            while not self.stopping.wait(0.3):
                self.look()
        except Exception as error:
            self.error = error
        self.consumer.close()

    def look(self):
        try:
            found = self.consumer.committed(self.places, 5)
        except KafkaException:
            return  # a coordinator that is not there just now
        for place in found:
            if place.error:
                continue
            before = self.highest.get(place.partition, -1001)
            check(place.offset >= before, f"{self.group} {place.partition} was committed at {before}, now at {place.offset}")
            self.highest[place.partition] = place.offset
        self.answers += 1

    def finish(self):
        self.stopping.set()
        self.join(20)
        check(self.error is None, self.error)
        return self.answers
