"""What each attack of this directory gets: a broker of its own, a bystander beside it, and the means to attack.

An attack is a file NAME.py beside this one. It has

    ABOUT = "one line that says what is attacked, and how"
    def attack(arena): ...           # attacks for some seconds, and checks what only it can check

and may have

    ARGS = ["--request-memory", "64MiB"]        # flags of the broker
    def prepare(arena): ...                     # before the bystander's quiet time: topics, records
    def probes(arena): return {"name": call}    # called now and then by the bystander; raises if it was not served
    PROBE_EVERY_S = 0.2
    def after(arena): ...                       # after the recovery: what must hold again
    LIMITS = {"rss_growth_mib": 512}            # other limits than those of `Limits`

`arena.note("what", "figure")` shows a figure in the table. Whatever `attack` returns from without closing is closed by
`arena.open`. An attacker's connections come from other loopback addresses than the bystander's, so that shares per address take hold;
`arena.connect(attacker=n)` is the n-th address, `arena.connect(None)` the bystander's own.
"""

import contextlib
import multiprocessing
import pathlib
import resource
import socket
import struct
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import wire  # noqa: E402
from broker import Broker  # noqa: E402
from rows import check  # noqa: E402

from bystander import PATIENCE_S, TOPIC, Bystander  # noqa: E402

# The first that takes zstd.
PRODUCE_VERSION = 7
QUIET_S = 3
# A processor that is busy with something else slows everybody: the bystander's figures beside one count as quiet ones.
BUSY_S = 2
RECOVERY_MAX_S = 10
LIMITS = {
    # How many times its quiet p99 the bystander's p99 may be, and what is never too much.
    "p99_factor": 3,
    "p99_floor_s": 0.030,
    "rss_growth_mib": 512,
    "recovery_s": 5,
    "stop_s": 10,
}


class Arena:
    """One broker under one attack."""

    def __init__(self, broker):
        self.broker, self.bootstrap = broker, broker.bootstrap
        self.open = contextlib.ExitStack()
        self.notes = {}

    def note(self, what, figure):
        self.notes[what] = figure

    def topic(self, name, partitions=1, configs=()):
        error, text = wire.create_topics(self.bootstrap, [(name, partitions)], configs=configs)[name]
        check(error in ("NONE", "TOPIC_ALREADY_EXISTS"), f"{name}: {error} {text}")
        return name

    def connect(self, attacker=1, limit_s=20, port=None):
        """A connection of the n-th attacker, closed when the attack is over."""
        connection = wire.Connection.__new__(wire.Connection)
        connection.socket = socket.create_connection(
            (self.broker.host, port or self.broker.port), limit_s,
            source_address=None if attacker is None else (address(attacker), 0))
        connection.correlation = 0
        self.open.callback(connection.socket.close)
        return connection

    def get(self, path, limit_s=10):
        """GET from the broker's metrics port."""
        return self.broker.http(path, limit_s)

    def sustain(self, seconds, act, pause_s=0.0):
        """Does `act` over and over for some seconds; a connection that the broker closes ends nothing."""
        times, deadline = 0, time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                act()
            times += 1
            time.sleep(pause_s)
        return times

    def together(self, seconds, acts):
        """`sustain` for several at once, in threads."""
        threads = [threading.Thread(target=self.sustain, args=(seconds, act)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + PATIENCE_S)


def raise_file_limit():
    """Thousands of connections, here and in the broker, which inherits the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def address(attacker):
    return f"127.0.{1 + attacker // 250}.{1 + attacker % 250}"


def zeros(size):
    """A zstd frame of a record whose value is `size` zero bytes: a few bytes for each 128 KiB."""
    # A record: length, attributes, deltas of time and offset, no key, the value, no headers.
    inner = b"\0" + wire.varint(0) + wire.varint(0) + wire.varint(-1) + wire.varint(size)
    head = wire.varint(len(inner) + size + 1) + inner
    blocks, left = [struct.pack("<I", len(head) << 3)[:3] + head], size + 1
    while left > 0:
        n = min(left, 128 << 10)
        left -= n
        blocks.append(struct.pack("<I", n << 3 | 1 << 1 | (left == 0))[:3] + b"\0")
    # No content size, a window of 1 MiB.
    return b"\x28\xb5\x2f\xfd\x00\x50" + b"".join(blocks)


def zeros_batch(size, **fields):
    """A batch of one record that inflates to a little more than `size` bytes."""
    return wire.batch([zeros(size)], attributes=4, **fields)


def produce_many(topic, batches, acks=-1, timeout_ms=10_000):
    """The body of a Produce with [(partition, batch)], for `PRODUCE_VERSION`."""
    parts = [struct.pack(">ii", partition, len(batch)) + batch for partition, batch in batches]
    return struct.pack(">hhi", -1, acks, timeout_ms) + wire.array([wire.string(topic) + wire.array(parts)])


def produced(answer):
    """The error of each partition of the answer."""
    topics = answer.array(lambda: (answer.string(), answer.array(lambda: answer.unpack("ihqqq"))))
    return [wire.error_name(code) for _, parts in topics for _, code, *_ in parts]


def produce(connection, body):
    """The error of each partition after a Produce with the body of `produce_many`."""
    return produced(connection.call(wire.PRODUCE, PRODUCE_VERSION, body))


def spin(stop):
    while not stop.is_set():
        sum(range(10_000))


@contextlib.contextmanager
def busy_processor():
    """Keeps one processor busy, as an attacker does that does not wait."""
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    process = context.Process(target=spin, args=(stop,), daemon=True)
    process.start()
    try:
        yield
    finally:
        stop.set()
        process.join(2)


class Memory(threading.Thread):
    """The most memory that the broker was seen to take."""

    def __init__(self, broker):
        super().__init__(daemon=True)
        self.broker, self.peak_mib, self.ended = broker, 0, threading.Event()

    def run(self):
        while not self.ended.wait(0.05):
            with contextlib.suppress(OSError):
                self.peak_mib = max(self.peak_mib, self.broker.rss_mib())


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


class Figures:
    """What happened to the bystander between two times."""

    def __init__(self, samples, began, ended):
        within = [s for s in samples if began <= s[1] < ended]
        self.failed = sum(not ok for _, _, _, ok in within)
        self.latencies = {}
        for kind, _, latency, _ in within:
            self.latencies.setdefault(kind, []).append(latency)

    def p50(self, kind="produce"):
        return percentile(self.latencies.get(kind, []), 0.50)

    def p99(self, kind="produce"):
        return percentile(self.latencies.get(kind, []), 0.99)

    def worst(self, kind):
        return max(self.latencies.get(kind, []), default=0.0)


def recovered_s(samples, ended, limit_s):
    """Seconds from the end of the attack until a whole second of operations were fast; None if that never came."""
    after = sorted((due, latency, ok) for kind, due, latency, ok in samples if kind == "produce" and due >= ended)
    good_since = None
    for due, latency, ok in after:
        if not ok or latency > limit_s:
            good_since = None
        elif good_since is None:
            good_since = due
        elif due - good_since >= 0.9:
            return good_since - ended
    return None


class Fight:
    """The phases of one attack, and the verdict."""

    def __init__(self, module):
        raise_file_limit()
        self.module, self.limits = module, {**LIMITS, **getattr(module, "LIMITS", {})}
        # What was slow is kept apart: the machine may have been busy with something else.
        self.row, self.faults, self.slow = {}, [], []

    def run(self):
        broker = Broker(args=getattr(self.module, "ARGS", []))
        with tempfile.TemporaryDirectory(prefix="kafscale-attack-") as directory, contextlib.closing(broker):
            broker.start()
            arena = Arena(broker)
            try:
                self.fight(arena, directory)
            finally:
                arena.open.close()
            self.stop(broker)
            self.row["notes"] = arena.notes
            if broker.panics():
                self.faults.append(f"panic: {broker.panics()[0]:.200}")

    def fight(self, arena, directory):
        call(self.module, "prepare", arena)
        arena.topic(TOPIC)
        bystander = Bystander(arena.bootstrap, call(self.module, "probes", arena) or {}, directory,
                              getattr(self.module, "PROBE_EVERY_S", 0.2))
        time.sleep(0.5)
        quiet = self.phase(lambda: time.sleep(QUIET_S))
        with busy_processor():
            busy = self.phase(lambda: time.sleep(BUSY_S))
        memory = Memory(arena.broker)
        rss_mib = arena.broker.rss_mib()
        memory.start()
        during = self.phase(lambda: self.guarded(arena, "attack"))
        arena.open.close()
        samples = self.recovery(bystander, during[1])
        memory.ended.set()
        self.guarded(arena, "after")
        result = bystander.finish(3 * PATIENCE_S)
        self.judge(*(Figures(samples, *times) for times in (quiet, busy, during)))
        self.judge_result(result, rss_mib, memory.peak_mib)

    def phase(self, body):
        began = time.monotonic()
        body()
        return began, time.monotonic()

    def guarded(self, arena, what):
        try:
            call(self.module, what, arena)
        except Exception as error:  # a failure is the result of an attack, whatever raised it
            self.faults.append(f"{what}: {type(error).__name__} {error}"[:400])

    def recovery(self, bystander, ended):
        deadline = time.monotonic() + max(RECOVERY_MAX_S, self.limits["recovery_s"])
        while time.monotonic() < deadline:
            time.sleep(0.2)
            found = recovered_s(bystander.samples(), ended, 0.25)
            if found is not None:
                break
        else:
            found = None
        self.row["recovery_s"] = found
        if found is None or found > self.limits["recovery_s"]:
            self.faults.append(f"the bystander was not served well {self.limits['recovery_s']} s after the attack")
        return bystander.samples()

    def judge(self, quiet, busy, during):
        self.row.update(quiet_p50=quiet.p50(), quiet_p99=quiet.p99(), busy_p99=busy.p99(), p50=during.p50(), p99=during.p99(),
                        connect_max=during.worst("connect"), failed=during.failed)
        for kind, latencies in during.latencies.items():
            base = max(quiet.p99(kind), busy.p99(kind))
            limit_s = max(self.limits["p99_factor"] * base, self.limits["p99_floor_s"])
            if kind != "produce" and kind != "consume":
                # Few samples: their worst is a percentile of nothing.
                limit_s = max(limit_s, 1.0)
            if during.p99(kind) > limit_s:
                self.slow.append(f"{kind}: p99 {during.p99(kind) * 1e3:.0f} ms, the limit is {limit_s * 1e3:.0f} ms")
        if not during.latencies.get("produce"):
            self.faults.append("the bystander produced nothing during the attack")
        if during.failed:
            self.faults.append(f"{during.failed} operations of the bystander failed")

    def judge_result(self, result, rss_mib, peak_mib):
        self.row.update(rss_mib=rss_mib, peak_mib=peak_mib, **result)
        if result["lost"] or result["wrong"]:
            self.faults.append(f"{result['lost']} records lost, {result['wrong']} wrong, of {result['acked']}")
        if peak_mib - rss_mib > self.limits["rss_growth_mib"]:
            self.faults.append(f"memory grew from {rss_mib} to {peak_mib} MiB")

    def stop(self, broker):
        if not broker.alive():
            self.faults.append(f"the broker ended with {broker.process.returncode}: {broker.log_tail(500)}")
            return
        began = time.monotonic()
        try:
            code = broker.stop(self.limits["stop_s"])
            if code != 0:
                self.faults.append(f"the broker ended with {code}")
        except AssertionError:
            self.faults.append(f"SIGTERM had no effect for {self.limits['stop_s']} s")
        self.row["stop_s"] = time.monotonic() - began


def call(module, name, arena):
    found = getattr(module, name, None)
    return found(arena) if found else None
