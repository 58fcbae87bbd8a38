"""What is measured, one function for each scenario. Each gets a `Session` and gives figures, or raises; then its cell says why.

The scenarios of one session run on the same process, one after the other, after it has been warmed up.
"""

import dataclasses
import time

import generator
import perf_tools
import wire

MB = 1_000_000


@dataclasses.dataclass
class Session:
    system: object
    seconds: float
    """The same for every system: the load of scenarios is given by time."""
    warmup_s: float
    work_dir: object
    delay_puts: object = None
    """In class s3: tells the proxy how long a PUT is to wait, in seconds."""

    produced_mb_per_s: float = 0
    """How fast this system took batches of 64 KiB, by which the work of others' tools is measured out."""

    def rest(self):
        """Nobody is measured while they still do what was asked before: those on a disk finish that first."""
        if self.system.durability in ("page-cache", "fdatasync"):
            settle(self.system)

    def bench(self, mode, **options):
        if mode == "produce" and not self.system.shows_all:
            options["short_log"] = True
        return generator.run(mode, pinned=self.system.pinned, broker=self.system.bootstrap, pid=self.system.pid, **options)


def idle(session):
    """Memory before any client came."""
    time.sleep(2)
    return {"broker_rss_mib": session.system.rss_mib()}


def warm_up(session):
    session.bench("produce", topic="warm", partitions=2, connections=2, seconds=session.warmup_s / 2, max_bytes=1000 * MB)
    session.bench("consume", topic="warm", partitions=2, seconds=session.warmup_s / 2)
    return session.bench("latency", topic="warm", partitions=2, connections=2, rate=500, batch_bytes=0, seconds=session.warmup_s / 4)


def produce(session, batch_bytes, topic, **options):
    """With the size of the groups that KafScale made durable, so that the disk can be measured with the same."""
    session.rest()
    before = session.system.metrics()
    figures = session.bench("produce", topic=topic, partitions=4, connections=2, batch_bytes=batch_bytes, record_bytes=1024,
                            seconds=session.seconds, max_bytes=3000 * MB, **options)
    after = session.system.metrics()
    flushes = after.get("kafscale_wal_flush_duration_seconds_count", 0) - before.get("kafscale_wal_flush_duration_seconds_count", 0)
    if flushes:
        flushed = after.get("kafscale_wal_flushed_bytes_total", 0) - before.get("kafscale_wal_flushed_bytes_total", 0)
        figures["wal_group_bytes"] = int(flushed / flushes)
    return figures


def produce_64k(session):
    figures = produce(session, 64 << 10, "p64k")
    session.produced_mb_per_s = figures["throughput_mb_per_s"]
    return figures


def produce_1m(session):
    return produce(session, 1 << 20, "p1m")


def produce_sustained(session):
    """Longer than any buffer lasts: what is written twice is written twice meanwhile. On a process of its own, as the one before was stopped."""
    with type(session.system)(session.system.durability, session.system.pinned, session.work_dir) as system:
        return dataclasses.replace(session, system=system.start()).bench(
            "produce", topic="p1m", partitions=4, connections=2, batch_bytes=1 << 20, record_bytes=1024, seconds=20, max_bytes=20_000 * MB)


def produce_64k_acks_0(session):
    return produce(session, 64 << 10, "p64k-acks0", acks=0)


def consume_hot(session):
    """96 MB that were just written, over and over: they are in everybody's memory."""
    sent = session.bench("produce", topic="hot", partitions=4, connections=2, batch_bytes=256 << 10, seconds=30, max_bytes=96 * MB)
    known = sent["batch_crcs"] if session.system.keeps_batches else None
    return session.bench("consume", topic="hot", partitions=4, connections=2, seconds=session.seconds, batch_crcs=known)


def ack_single(session):
    """One record at a time, the next when the one before is acknowledged."""
    session.rest()
    return session.bench("produce", topic="single", depth=1, batch_bytes=0, record_bytes=1024, seconds=session.seconds)


def end_to_end(session):
    return session.bench("latency", topic="e2e", partitions=2, connections=2, rate=500, batch_bytes=0, record_bytes=1024,
                         seconds=session.seconds, end_to_end=True)


def few_connections(session):
    """What many connections and many partitions are compared with: the same records at the same rate."""
    return session.bench("latency", topic="few", partitions=10, connections=10, rate=2000, batch_bytes=0, record_bytes=100,
                         seconds=session.seconds)


def many_connections(session):
    return session.bench("latency", topic="few", partitions=10, connections=1000, rate=2000, batch_bytes=0, record_bytes=100,
                         seconds=session.seconds)


def many_connections_closed(session):
    """As fast as a thousand clients go that wait for each acknowledgement."""
    return session.bench("produce", topic="few", partitions=10, connections=1000, depth=1, batch_bytes=0, record_bytes=100,
                         seconds=session.seconds)


def many_partitions(session):
    """On a process of its own: what so many partitions cost later is not to be charged to other scenarios."""
    with type(session.system)(session.system.durability, session.system.pinned, session.work_dir) as system:
        return with_many_partitions(dataclasses.replace(session, system=system.start()))


def with_many_partitions(session):
    began = time.monotonic()
    session.bench("produce", topic="many", partitions=10_000, connections=1, depth=1, batch_bytes=0, record_bytes=100, seconds=0, limit_s=400)
    made_s = time.monotonic() - began
    figures = session.bench("latency", topic="many", partitions=10_000, connections=10, rate=2000, batch_bytes=0, record_bytes=100,
                            seconds=max(session.seconds, 5))
    return {**figures, "created_s": round(made_s, 2), "broker_rss_with_partitions_mib": session.system.rss_mib()}


def commits(session):
    return session.bench("commits", topic="commits", groups=1000, connections=50, seconds=session.seconds)


def rebalance(session):
    return session.bench("rebalance", topic="commits", members=100)


def loaded_memory(session):
    return {"broker_rss_mib": session.system.rss_mib()}


def consume_cold(session):
    """Reads once what a restarted broker finds on a disk that the page cache has forgotten, beside the same files read by themselves. Half
    a minute of writing, or 1.5 GB."""
    system = session.system
    size = 1500 * MB
    session.bench("produce", topic="cold", partitions=4, connections=2, batch_bytes=256 << 10, seconds=30, max_bytes=size)
    session.rest()
    system.stop()
    alone = generator.run("read", pinned=system.pinned, dir=system.segments_dir())
    generator.run("read", pinned=system.pinned, dir=system.dir / "data", only_forget=True)
    system.start()
    wait_for_leaders(system, "cold", 4)
    figures = session.bench("consume", topic="cold", partitions=4, connections=2)
    return {**figures, "store_read_mb_per_s": alone["throughput_mb_per_s"],
            "share_of_store_read": round(figures["throughput_mb_per_s"] / alone["throughput_mb_per_s"], 3)}


def wait_for_leaders(system, topic, partitions, limit_s=60):
    """Until a restarted broker serves them: Kafka answers before it does."""
    deadline = time.monotonic() + limit_s
    while not all(isinstance(wire.list_offset(system.bootstrap, topic, partition, -1), int) for partition in range(partitions)):
        if time.monotonic() > deadline:
            raise AssertionError(f"{system.name} does not serve {topic} within {limit_s} s of its start")
        time.sleep(0.1)


def settle(system, quiet_s=2, limit_s=60):
    """Until the broker has done what it does in the background: it uses no more CPU."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        before = cpu_ticks(system.pid)
        time.sleep(quiet_s)
        if cpu_ticks(system.pid) - before < quiet_s * 10:
            return


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def start(session):
    """Starts on what earlier scenarios left, each time after a clean stop; the median of three."""
    session.bench("produce", topic="single", depth=1, batch_bytes=0, record_bytes=100, seconds=0.1)
    session.system.stop()
    return median_start(session.system, [cold_start(session.system) for _ in range(3)])


def cold_start(system, **options):
    command = generator.on_core(0, system.pinned) + [str(word) for word in system.command()]
    return generator.run("start", pinned=system.pinned, system=system, broker=system.bootstrap, topic="single", after=["--", *command],
                         **options)


def median_start(system, runs):
    figures = sorted(runs, key=lambda run: run["first_ack_ms"])[len(runs) // 2]
    return {**figures, "command": figures["command"].replace(str(system.dir), "DIR") + f" -- {system.shown()}"}


def start_fresh(session):
    """In an empty directory, with a topic to be made before the first record."""
    with type(session.system)(session.system.durability, session.system.pinned, session.work_dir) as fresh:
        return median_start(fresh, [cold_start(fresh, create=True)])


def s3_latency(session):
    return session.bench("latency", topic="s3", partitions=4, connections=2, rate=200, batch_bytes=0, record_bytes=1024,
                         seconds=session.seconds)


def s3_produce(session):
    return produce(session, 256 << 10, "s3p", depth=64)


def s3_produce_undelayed(session):
    """The same without the delay: what is left is what the S3 server takes on this machine."""
    session.delay_puts(0)
    return produce(session, 256 << 10, "s3u", depth=64)


CORE = [idle, warm_up, produce_64k, produce_1m, consume_hot, ack_single, end_to_end]
WIDE = [few_connections, many_connections, many_connections_closed, commits, rebalance, loaded_memory]
TOOLS = [perf_tools.rdkafka_produce, perf_tools.rdkafka_consume, perf_tools.java_produce, perf_tools.java_consume]

SETS = {
    "memory": [*CORE, produce_64k_acks_0],
    "page-cache": [*CORE, *TOOLS, start_fresh],
    "fdatasync": [*CORE, *WIDE, *TOOLS, consume_cold, start, start_fresh, many_partitions, produce_sustained],
    "s3": [warm_up, s3_latency, s3_produce, s3_produce_undelayed],
}
# What every round has: what rivals are compared by. The others take most of the time.
EVERY_ROUND = {durability: scenarios if durability == "s3" else [s for s in scenarios if s in CORE] for durability, scenarios in SETS.items()}
# Without pinning, only what is most told apart by it.
UNPINNED = {durability: scenarios for durability, scenarios in EVERY_ROUND.items() if durability != "s3"}
QUICK = {
    "memory": [warm_up, produce_64k, produce_1m, consume_hot],
    "fdatasync": [idle, warm_up, produce_1m, consume_hot, ack_single, end_to_end, few_connections, many_connections, commits, rebalance, start, start_fresh],
}
