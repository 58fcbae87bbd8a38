"""`kafscale-analytics` under test, and what it is compared with: what a consumer of Kafka reads up to the same offsets."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import time

import psycopg
from analytics_program import program
from broker import free_port
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from rows import check, wait_for

VENV = "sql-proofs-venv"
AS_OF = re.compile(r"^(.+) AS OF '([^']*)': read (\d+) records, (\d+) bytes$")


class Answer:
    """Rows, and what the notices say: by topic the ranges, the records and the bytes that were read; and how many values did not fit."""

    def __init__(self, rows, notices):
        self.rows, self.notices, self.ranges, self.read, self.misfits = rows, notices, {}, {}, 0
        for notice in notices:
            if found := AS_OF.match(notice):
                topic, ranges, records, size = found.groups()
                self.ranges[topic] = dict(parsed(part) for part in ranges.split(",") if part)
                self.read[topic] = (int(records), int(size))
            elif found := re.search(r": (\d+) values or fields do not fit", notice):
                self.misfits += int(found[1])


def parsed(part):
    partition, offsets = part.split(":")
    start, end = offsets.split("-")
    return int(partition), (int(start), int(end))


class Sql:
    """A server. `source` says what it reads, as arguments."""

    def __init__(self, source, args=(), env=None):
        self.source, self.args, self.env = [str(word) for word in source], [str(arg) for arg in args], dict(env or {})
        self.port, self.process, self.start_s = free_port(), None, None
        self.log_path = pathlib.Path(tempfile.mkstemp(prefix="kafscale-sql-", suffix=".txt")[1])

    def __enter__(self):
        command = [program(), *self.source, "--listen", f"127.0.0.1:{self.port}", *self.args]
        began = time.monotonic()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self.env})
        wait_for("the SQL server", self.listens, 30, 0.005)
        self.start_s = time.monotonic() - began
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        self.log_path.unlink(missing_ok=True)

    def listens(self):
        check(self.process.poll() is None, f"the SQL server ended with {self.process.returncode}: {self.log()[-800:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self):
        return self.log_path.read_text(errors="replace")

    def panics(self):
        return [line for line in self.log().splitlines() if "panicked at" in line]

    def rss_mib(self, what="VmRSS"):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) // 1024
        return 0

    def connect(self):
        return psycopg.connect(f"host=127.0.0.1 port={self.port} dbname=kafscale user=ana", autocommit=True)

    def ask(self, sql, parameters=None, binary=False):
        with self.connect() as connection:
            notices = []
            connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
            rows = connection.execute(sql, parameters, binary=binary).fetchall()
            return Answer(rows, notices)

    def rows(self, sql, parameters=None):
        return self.ask(sql, parameters).rows

    def error(self, sql):
        """Asks what must be refused, and gives the error."""
        try:
            rows = self.rows(sql)
        except psycopg.Error as error:
            return error
        raise AssertionError(f"{sql} was answered: {len(rows)} rows")


@contextlib.contextmanager
def spread(source, count):
    """Starts so many workers. Gives the arguments with which a server has large and small queries done by them."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Sql(source, ["--worker"])) for _ in range(count)]
        addresses = ",".join(f"127.0.0.1:{worker.port}" for worker in workers)
        yield ["--workers", addresses, "--workers-min-bytes", "1B"] if workers else []
        for worker in workers:
            check(not worker.panics(), worker.panics()[:3])


RECORD = "_partition, _offset, (extract(epoch FROM _ts) * 1000)::bigint, encode(_key, 'hex'), encode(_value, 'hex'), concat(_headers, '')"


def records(sql, topic, more=""):
    """{partition: {offset: (timestamp, key, value, headers)}} of a topic of format raw, and the answer."""
    answer = sql.ask(f'SELECT {RECORD} FROM "{topic}" {more}')
    return by_partition(answer.rows, answer.ranges[topic]), answer


def by_partition(rows, ranges):
    found = {partition: {} for partition in ranges}
    for partition, offset, timestamp, key, value, headers in rows:
        check(offset not in found[partition], f"{partition}:{offset} is there twice")
        headers = headers if isinstance(headers, str) or headers is None else json.dumps(headers)
        found[partition][offset] = (timestamp, *(None if text is None else bytes.fromhex(text) for text in (key, value)), headers)
    return found


def consume(bootstrap, topic, ranges, limit_s=120):
    """The same, as a consumer reads it: each partition from the start to the end of its range."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "truth", "enable.auto.commit": False, "log_level": 2,
                       "enable.partition.eof": True, "fetch.message.max.bytes": 4 << 20, "fetch.wait.max.ms": 50})
    open_ends = {partition: end for partition, (start, end) in ranges.items() if end > start}
    reader.assign([TopicPartition(topic, partition, ranges[partition][0]) for partition in open_ends])
    found = {partition: {} for partition in ranges}
    deadline = time.monotonic() + limit_s
    while open_ends:
        check(time.monotonic() < deadline, f"the consumer is not at {open_ends} of {topic} after {limit_s} s")
        for message in reader.consume(2000, 0.5):
            partition, offset = message.partition(), message.offset()
            end = open_ends.get(partition)
            if end is None:
                continue
            if not message.error() and offset < end:
                found[partition][offset] = (message.timestamp()[1], message.key(), message.value(), headers_text(message.headers()))
            # At the end of the partition, `offset` is the one behind the last.
            if offset >= (end if message.error() else end - 1):
                del open_ends[partition]
    reader.close()
    return found


def headers_text(headers):
    """As the column `_headers` has them."""
    def text(value):
        if value is None:
            return None
        try:
            return value.decode()
        except UnicodeDecodeError:
            return "\\x" + value.hex()
    return "{" + ", ".join(f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(text(value), ensure_ascii=False)}" for name, value in headers or []) + "}"


def check_same(found, expected, what):
    """Both by partition and offset; tells the first difference."""
    for partition, wanted in expected.items():
        there = found[partition]
        missing, more = wanted.keys() - there.keys(), there.keys() - wanted.keys()
        check(not missing, f"{what} {partition}: {len(missing)} of {len(wanted)} records are missing, the first at {min(missing, default=None)}")
        check(not more, f"{what} {partition}: {len(more)} rows are no records, the first at {min(more, default=None)}")
        for offset, record in wanted.items():
            for name, one, two in zip(("timestamp", "key", "value", "headers"), there[offset], record):
                check(one == two, f"{what} {partition}:{offset}: its {name} is {one!r:.200}, not {two!r:.200}")
    return sum(map(len, expected.values()))


def create_topic(bootstrap, topic, partitions=1, **config):
    """`config` with `_` for dots. Records stay: those of tests have old timestamps."""
    config = {"retention.ms": "-1"} | {name.replace("_", "."): str(value) for name, value in config.items()}
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    admin.create_topics([NewTopic(topic, partitions, config=config)], operation_timeout=30)[topic].result(60)
    return admin


def produce(bootstrap, topic, records, **config):
    """Writes (partition, timestamp, key, value, headers) and waits until all are acknowledged."""
    errors = []
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 2, "acks": "all", "linger.ms": 5, "queue.buffering.max.messages": 1_000_000,
                         "queue.buffering.max.kbytes": 1 << 20, **config})
    for partition, timestamp, key, value, headers in records:
        while True:
            try:
                producer.produce(topic, value, key, partition, timestamp=timestamp or 0, headers=headers,
                                 on_delivery=lambda e, _: errors.append(e) if e else None)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    check(producer.flush(300) == 0 and not errors, errors[:1])


def produce_json(bootstrap, topic, objects, partitions=1, timestamp=None, key=None, **config):
    """Writes objects as JSON, spread over the partitions in turn. `timestamp` and `key` give those of the object at a place."""
    stamp, keyed = timestamp or (lambda i, _: 1_700_000_000_000 + i), key or (lambda i, _: None)
    made = ((i % partitions, stamp(i, it), keyed(i, it), json.dumps(it, ensure_ascii=False).encode(), None) for i, it in enumerate(objects))
    produce(bootstrap, topic, made, **config)


def kafka_requests(brokers):
    """How many Kafka requests these brokers have handled."""
    total = 0
    for broker in brokers:
        _, text = broker.http("/metrics")
        total += sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("kafscale_requests_total{"))
    return int(total)
