"""A server of `kafscale-analytics` under test, and topics of each kind to ask it for."""

import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time

import psycopg
from analytics_program import program
from broker import free_port
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from rows import check, wait_for

ORDERS = 3_000
CODECS = ("gzip", "snappy", "lz4", "zstd")


def order(i):
    return {"id": i, "customer": f"c{i % 7}", "amount": i * 1.5, "paid": i % 2 == 0, "at": {"day": i % 30}, "tags": ["a", i]}


class Sql:
    """A server of `kafscale-analytics`, and answers of single calls of it."""

    def __init__(self, data_dir, args=()):
        self.data_dir, self.args = data_dir, list(args)
        self.port = free_port()
        self.log_path = pathlib.Path(tempfile.mkstemp(prefix="kafscale-sql-", suffix=".txt")[1])
        self.process = None

    def __enter__(self):
        log = open(self.log_path, "ab")
        command = [program(), "--data-dir", str(self.data_dir), "--listen", f"127.0.0.1:{self.port}", *self.args]
        began = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        wait_for("the SQL server", self.listens, 30, 0.01)
        self.start_s = time.monotonic() - began
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        self.log_path.unlink(missing_ok=True)

    def listens(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the SQL server ended with {self.process.returncode}: {self.log()[-800:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self):
        return self.log_path.read_text(errors="replace")

    def dsn(self, more=""):
        return f"host=127.0.0.1 port={self.port} dbname=kafscale user=ana {more}"

    def psql(self, *commands, env=None, ok=True, user="ana"):
        words = [word for command in commands for word in ("-c", command)]
        base = ["psql", "-X", "-A", "-t", "-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-d", "kafscale"]
        done = subprocess.run([*base, *words], capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})})
        if ok:
            check(done.returncode == 0, f"psql {commands}: {done.stderr}")
        return done

    def rows(self, sql, parameters=None):
        with psycopg.connect(self.dsn()) as connection:
            return connection.execute(sql, parameters).fetchall()

    def rss_mib(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) // 1024
        return 0


def once(data_dir, sql, *args, ok=True):
    done = subprocess.run([program(), "--data-dir", str(data_dir), *args, "-c", sql], capture_output=True, text=True, timeout=120)
    if ok:
        check(done.returncode == 0, f"{sql}: {done.stderr}")
    return done


def ndjson(data_dir, sql, *args):
    return [json.loads(line) for line in once(data_dir, sql, "--format", "ndjson", *args).stdout.splitlines()]


def fill(bootstrap):
    """Topics of each kind. Gives where the records of `orders` are, by id."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    schema = "id bigint, amount double, paid boolean, customer text, at json"
    topics = [
        NewTopic("orders", 3, 1, topic_configs={"retention.ms": "-1"}),
        NewTopic("declared", 1, 1, topic_configs={"kafscale.sql.schema": schema}),
        NewTopic("lines", 1, 1, topic_configs={"kafscale.sql.format": "csv", "kafscale.sql.schema": "n int, name text, day date"}),
        NewTopic("notes", 1, 1, topic_configs={"kafscale.sql.format": "text"}),
        NewTopic("bytes", 1, 1, topic_configs={"kafscale.sql.format": "raw"}),
        NewTopic("appended", 1, 1, topic_configs={"message.timestamp.type": "LogAppendTime"}),
        NewTopic("empty", 2, 1),
        NewTopic("With.Odd-name", 1, 1),
        *(NewTopic(codec, 1, 1) for codec in CODECS),
    ]
    admin.create_topics(topics)
    admin.close()
    places = {}
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20)
    sent = [producer.send("orders", json.dumps(order(i)).encode(), f"k{i}".encode(), partition=i % 3, timestamp_ms=1_700_000_000_000 + i * 1000)
            for i in range(ORDERS)]
    for i, future in enumerate(sent):
        meta = future.get(30)
        places[i] = (meta.partition, meta.offset)
    for value in (b'{"id":1,"amount":2.5,"paid":true,"customer":"x","at":{"day":1}}', b'{"id":"one","amount":2}', b"no json", None, b'{"id":5}'):
        producer.send("declared", value, b"k", headers=[("trace", b"t1"), ("n", b"\xff"), ("trace", b"t2")])
    for value in (b"1,one,2026-01-02", b'2,"two, too",', b"x,three,2026-01-03", b"4"):
        producer.send("lines", value)
    for value in (b"hello", b"", b"bad \xff", None):
        producer.send("notes", value, b"k" if value is None else None)
    producer.send("bytes", bytes(range(256)), b"\x00")
    producer.send("appended", b'{"a":1}', timestamp_ms=1)
    producer.send("With.Odd-name", b'{"camelCase":1,"select":2}')
    producer.flush()
    producer.close()
    for codec in CODECS:
        producer = KafkaProducer(bootstrap_servers=bootstrap, compression_type=codec, linger_ms=50, batch_size=200_000)
        for i in range(500):
            producer.send(codec, json.dumps({"i": i, "text": "x" * 50}).encode())
        producer.flush()
        producer.close()
    return places
