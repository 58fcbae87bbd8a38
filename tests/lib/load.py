"""Load from several kinds of client that remembers what was acknowledged, and checks of what is there afterwards.

`Load` is librdkafka's producer, `JavaLoad` the Java client's, `PlainLoad` one that repeats itself; `Resumer` is a consumer that commits. `read_all` reads everything
back; the checks compare it with what was acknowledged.
"""

import pathlib
import subprocess
import tempfile
import threading
import time

from cache import CACHE, python
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from rows import check, wait_for

PARTITIONS = 4
GROUP = "resumes"
# What a coordinator may say just after a start: ask again.
RETRIED = {KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE,
           KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}


class Load(threading.Thread):
    """Produces numbered records to every partition and keeps what was acknowledged, and where."""

    def __init__(self, bootstrap, topic, partitions=PARTITIONS, pause_s=0.002, **config):
        super().__init__(daemon=True)
        self.topic, self.partitions, self.pause_s = topic, partitions, pause_s
        self.errors, self.sent = [], [0] * partitions
        self.acknowledged = [{} for _ in range(partitions)]
        # When each partition last acknowledged something, and the longest wait for that since `forget_gaps`.
        self.last_s, self.gap_s = [time.monotonic()] * partitions, [0.0] * partitions
        self.stopping = threading.Event()
        self.producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "error_cb": self.failed, "log_level": 2,
                                  "reconnect.backoff.max.ms": 200, "retry.backoff.max.ms": 200, "linger.ms": 2, **config})
        self.start()

    def failed(self, error):
        if error.fatal():
            self.errors.append(f"fatal: {error}")

    def delivered(self, error, message):
        if error:
            self.errors.append(str(error))
            return
        partition, now_s = message.partition(), time.monotonic()
        self.acknowledged[partition][int(message.key())] = message.offset()
        self.gap_s[partition] = max(self.gap_s[partition], now_s - self.last_s[partition])
        self.last_s[partition] = now_s

    def forget_gaps(self):
        now_s = time.monotonic()
        self.last_s, self.gap_s = [now_s] * self.partitions, [0.0] * self.partitions

    def gaps_s(self):
        """The longest time without an acknowledgement, of each partition."""
        now_s = time.monotonic()
        return [max(gap_s, now_s - last_s) for gap_s, last_s in zip(self.gap_s, self.last_s)]

    def longest_gap_s(self):
        return max(self.gaps_s())

    def run(self):
        while not self.stopping.is_set():
            for partition in range(self.partitions):
                number = self.sent[partition]
                try:
                    self.producer.produce(self.topic, f"{number}:" + "p" * (number % 300), str(number),
                                          partition=partition, on_delivery=self.delivered)
                except BufferError:
                    self.producer.poll(0.1)
                    continue
                self.sent[partition] = number + 1
            self.producer.poll(self.pause_s)

    def finish(self):
        self.stopping.set()
        self.join()
        left = self.producer.flush(60)
        check(left == 0, f"{left} records were neither acknowledged nor refused within a minute")
        check(not self.errors, f"{len(self.errors)} errors, the first: {self.errors[0] if self.errors else ''}")

    def acknowledged_count(self):
        return sum(map(len, self.acknowledged))


class ProcessLoad:
    """A producer in a process of its own, which sends until its standard input ends and then tells all its acknowledgements."""

    def __init__(self, command, partitions):
        self.partitions = partitions
        self.sent, self.acknowledged, self.errors = [0] * partitions, [{} for _ in range(partitions)], []
        self.output = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self.output)

    def finish(self):
        self.process.stdin.close()
        check(self.process.wait(150) == 0, f"the producer {self.process.args[0]} failed")
        self.output.seek(0)
        for line in self.output:
            kind, partition, *rest = line.split(maxsplit=3)
            if kind == "ACK":
                self.acknowledged[int(partition)][int(rest[0])] = int(rest[1])
            elif kind == "SENT":
                self.sent[int(partition)] = int(rest[0])
            else:
                self.errors.append(line.strip())
        check(not self.errors, f"{len(self.errors)} errors, the first: {self.errors[:1]}")

    def acknowledged_count(self):
        return sum(map(len, self.acknowledged))


class JavaLoad(ProcessLoad):
    """The Java client's default producer: idempotent, acks=all."""

    def __init__(self, bootstrap, topic, partitions=PARTITIONS, pause_ms=1):
        path = f"{CACHE / 'java-classes'}:{CACHE / 'java-libs'}/*"
        super().__init__(["java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=off", "-cp", path, "matrix.Hammer",
                          bootstrap, topic, str(partitions), str(pause_ms)], partitions)


class PlainLoad(ProcessLoad):
    """kafka-python without idempotence, acks=all, one request at a time."""

    def __init__(self, bootstrap, topic, partitions=PARTITIONS, pause_ms=10):
        super().__init__([python(), str(pathlib.Path(__file__).with_name("plain_load.py")), bootstrap, topic, str(partitions),
                          str(pause_ms)], partitions)


class Resumer(threading.Thread):
    """Consumes and commits; knows the last commit that was acknowledged and the last one that was tried."""

    def __init__(self, bootstrap, topic, partitions=PARTITIONS):
        super().__init__(daemon=True)
        self.bootstrap, self.topic, self.partitions = bootstrap, topic, partitions
        self.acknowledged, self.tried = {}, {}
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.error, self.commits, self.resumed = None, 0, 0
        self.start()

    def run(self):
        try:
            while not self.stopping.is_set():
                self.one_life()
        except Exception as error:
            self.error = error

    def one_life(self):
        """One consumer, from joining the group to leaving it, as if the application was restarted now and then."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": GROUP, "enable.auto.commit": False,
                             "auto.offset.reset": "earliest", "log_level": 2, "session.timeout.ms": 6000,
                             "heartbeat.interval.ms": 500, "reconnect.backoff.max.ms": 200})
        position, until = {}, time.monotonic() + 4
        consumer.subscribe([self.topic], on_assign=lambda *_: position.clear())
        while not self.stopping.is_set() and time.monotonic() < until:
            for message in consumer.consume(200, 0.2):
                if not message.error():
                    self.see(position, message)
            if position:
                self.commit(consumer, position)
        consumer.close()

    def see(self, position, message):
        partition, offset = message.partition(), message.offset()
        if partition not in position:
            with self.lock:
                low, high = self.acknowledged.get(partition, 0), self.tried.get(partition, 0)
            check(low <= offset <= max(low, high), f"{partition} resumed at {offset}, committed {low}, tried {high}")
            self.resumed += 1
        else:
            check(offset == position[partition], f"{partition}: {offset} instead of {position[partition]}")
        position[partition] = offset + 1

    def commit(self, consumer, position):
        with self.lock:
            self.tried.update(position)
        try:
            consumer.commit(offsets=[TopicPartition(self.topic, p, o) for p, o in position.items()], asynchronous=False)
        except KafkaException:
            return  # a kill cut it off, or the group is being rebalanced: it may or may not have happened
        with self.lock:
            self.acknowledged.update(position)
            self.commits += 1

    def committed(self, reader):
        try:
            return reader.committed([TopicPartition(self.topic, p) for p in range(self.partitions)], 5)
        except KafkaException as error:
            check(error.args[0].retriable() or error.args[0].code() in RETRIED, error)
            return None

    def check_against(self, bootstrap):
        """What the broker has after a restart is what it said it has."""
        with self.lock:
            before = dict(self.acknowledged)
        reader = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP, "log_level": 2})
        found = wait_for("the committed offsets", lambda: self.committed(reader))
        reader.close()
        with self.lock:
            tried = dict(self.tried)
        for partition in found:
            low, high = before.get(partition.partition, -1001), tried.get(partition.partition, -1001)
            check(low <= partition.offset <= max(low, high),
                  f"partition {partition.partition} is committed at {partition.offset}, acknowledged {low}, tried {high}")


def read_all(bootstrap, topic, count=PARTITIONS):
    """The numbers of all records, by partition and in order of their offsets."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False, "log_level": 2,
                       "fetch.message.max.bytes": 4 << 20})
    partitions = [TopicPartition(topic, p, 0) for p in range(count)]
    ends = [reader.get_watermark_offsets(p, 20)[1] for p in partitions]
    reader.assign(partitions)
    found = [[] for _ in partitions]
    deadline = time.monotonic() + 120
    while any(len(found[p]) < ends[p] for p in range(count)):
        check(time.monotonic() < deadline, f"read {[len(f) for f in found]} of {ends} records in two minutes")
        for message in reader.consume(5000, 1):
            check(not message.error(), message.error())
            p = message.partition()
            check(message.offset() == len(found[p]), f"{topic} {p}: offset {message.offset()} after {len(found[p]) - 1}")
            check(message.value().split(b":")[0] == message.key(), f"{topic} {p} {message.offset()}: torn record")
            found[p].append(int(message.key()))
    reader.close()
    return found


def check_acknowledged(load, found):
    for partition, acknowledged in enumerate(load.acknowledged):
        check(len(acknowledged) == load.sent[partition], f"{len(acknowledged)} of {load.sent[partition]} acknowledged")
        for number, offset in acknowledged.items():
            there = found[partition][offset] if 0 <= offset < len(found[partition]) else None
            if offset < 0:  # an acknowledgement of a duplicate whose place the broker no longer knew
                check(number in found[partition], f"{partition}: acknowledged record {number} is nowhere")
            else:
                check(there == number, f"{partition}: {number} was acknowledged at {offset}, where there is {there}")


def exactly_once(bootstrap, topic, load):
    found = read_all(bootstrap, topic, load.partitions)
    check_acknowledged(load, found)
    for partition in range(load.partitions):
        check(found[partition] == list(range(load.sent[partition])), f"partition {partition} is not 0, 1, 2, …")
    return found


def at_least_once(bootstrap, topic, load):
    """All records are there, first seen in the order in which they were sent; gives them and the number of repeats."""
    found = read_all(bootstrap, topic, load.partitions)
    check_acknowledged(load, found)
    for partition in range(load.partitions):
        check(firsts_in_order(found[partition]) == load.sent[partition], f"partition {partition} has not all")
    return found, sum(map(len, found)) - sum(load.sent)


def firsts_in_order(numbers):
    """The first occurrences of all records are in order; repeats of an earlier stretch are allowed."""
    highest = -1
    for number in numbers:
        if number > highest:
            check(number == highest + 1, f"{number} follows {highest}")
            highest = number
    return highest + 1
