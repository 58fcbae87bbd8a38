"""Load from the perf tools of others: librdkafka's rdkafka_performance, and Java's producer and consumer performance tests."""

import os
import re
import shutil
import subprocess

from systems import CACHE, KAFKA_LIBS, LOAD_CORE, Missing, on_core

RDKAFKA = CACHE / "bin" / "rdkafka_performance"
RECORD_BYTES = 1024


def records(session):
    """As many as a run of about the right length takes; tools count records, not time, and send smaller batches than we do."""
    per_second = (session.produced_mb_per_s or 10) * 1e6 / RECORD_BYTES
    return max(20_000, int(0.25 * per_second * session.seconds))


def run(session, command):
    done = subprocess.run([*on_core(LOAD_CORE, session.system.pinned), *map(str, command)], capture_output=True, text=True, timeout=240,
                          stdin=subprocess.DEVNULL, env={**os.environ, "KAFKA_HEAP_OPTS": "-Xmx512M"})
    if done.returncode:
        raise AssertionError(f"{command[0]} ended with {done.returncode}: {' '.join((done.stdout + done.stderr).split())[-400:]}")
    return done.stdout + done.stderr


def figures(mode, command, mb_per_s, session, **more):
    shown = " ".join(map(str, command)).replace(session.system.bootstrap, "127.0.0.1:PORT").replace(str(CACHE), "CACHE")
    return {"mode": mode, "throughput_mb_per_s": round(mb_per_s, 1), "command": shown, **more}


def rdkafka(session, mode, *words):
    if not RDKAFKA.is_file():
        raise Missing("rdkafka_performance is not installed: run bench/setup")
    command = [RDKAFKA, mode, "-t", "rdkafka", "-b", session.system.bootstrap, "-c", records(session), "-q", *words]
    text = run(session, command)
    # `% 750000 messages produced (768000000 bytes), 0 delivered (offset 0, 0 failed) in 3456ms: 217013 msgs/s and 222.22 MB/s, …`
    found = re.findall(r"([0-9.]+) MB/s", text)
    if not found:
        raise AssertionError(f"rdkafka_performance says {' '.join(text.split())[-300:]}")
    return figures(f"rdkafka{mode}", command, float(found[-1]), session)


def rdkafka_produce(session):
    """1 KiB records, acks=all, with its own way of making batches."""
    session.bench("produce", topic="rdkafka", partitions=4, batch_bytes=0, seconds=0)
    return rdkafka(session, "-P", "-s", RECORD_BYTES, "-a", "-1")


def rdkafka_consume(session):
    return rdkafka(session, "-C", "-p", "0", "-p", "1", "-p", "2", "-p", "3", "-o", "beginning")


def java(session, main, *words):
    if not shutil.which("java") or not KAFKA_LIBS.is_dir():
        raise Missing("no Java or no jars of Apache Kafka: run bench/setup")
    command = ["java", "-Xmx512M", "-cp", f"{KAFKA_LIBS}/*", f"org.apache.kafka.tools.{main}", *words]
    return command, run(session, command)


def java_produce(session):
    """1 KiB records, acks=all, its default batches of 16 KiB."""
    session.bench("produce", topic="java", partitions=4, batch_bytes=0, seconds=0)
    command, text = java(session, "ProducerPerformance", "--topic", "java", "--num-records", records(session), "--record-size", RECORD_BYTES,
                         "--throughput", -1, "--producer-props", f"bootstrap.servers={session.system.bootstrap}", "acks=all")
    # `750000 records sent, 181000.1 records/sec (176.76 MB/sec), 120.00 ms avg latency, 300.00 ms max latency, 50 ms 50th, …`
    total = re.findall(r"([0-9.]+) records/sec \(([0-9.]+) MB/sec\), ([0-9.]+) ms avg latency.*?(\d+) ms 99th", text)
    if not total:
        raise AssertionError(f"ProducerPerformance says {' '.join(text.split())[-300:]}")
    rate, _mib, _average, p99 = total[-1]
    return figures("java-produce", command, float(rate) * RECORD_BYTES / 1e6, session, ack_p99_us=int(p99) * 1000)


def java_consume(session):
    command, text = java(session, "ConsumerPerformance", "--topic", "java", "--num-records", records(session), "--bootstrap-server",
                         session.system.bootstrap, "--group", f"perf-{os.urandom(4).hex()}", "--timeout", 30_000)
    # start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, rebalance.time.ms, fetch.time.ms, …
    rows = [line.split(", ") for line in text.splitlines() if re.match(r"\d{4}-\d\d-\d\d .*, ", line)]
    if not rows:
        raise AssertionError(f"ConsumerPerformance says {' '.join(text.split())[-300:]}")
    consumed_mib, fetch_ms = float(rows[-1][2]), float(rows[-1][7])
    return figures("java-consume", command, consumed_mib * 1.048576 / (fetch_ms / 1000), session)
