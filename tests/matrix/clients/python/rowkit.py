"""What the Python rows of the client matrix share: steps, the record rule and the group scenario.

A row prints one line per step, `PASS step` or `FAIL step: why`, and `INFO key value` for the table.
Step names are `area:detail`; the areas are produce, group, resume, admin and membership.

Every record is a function of its partition and offset, so a reader needs no copy of what was written:
a wrong byte, a lost, repeated or reordered record is seen at the record itself.
"""

import contextlib
import os
import sys
import threading
import time
import traceback

PARTITIONS = 6
RECORDS = int(os.environ.get("MATRIX_RECORDS", "200"))
WAIT_S = float(os.environ.get("MATRIX_WAIT_S", "45"))


class Row:
    """Runs steps, prints their verdicts and remembers whether one failed."""

    def __init__(self, name):
        self.name = name
        self.bootstrap, self.run_id = sys.argv[1], sys.argv[2]
        self.failed = 0

    def topic(self, suffix):
        return f"{self.name}-{self.run_id}-{suffix}"

    @contextlib.contextmanager
    def step(self, name):
        try:
            yield
        except Exception as error:  # every failure of a step is a result, not a crash of the row
            self.failed += 1
            why = " ".join(f"{type(error).__name__} {error}".split())
            print(f"FAIL {name}: {why[:500]}", flush=True)
            if os.environ.get("MATRIX_TRACE"):
                traceback.print_exc()
        else:
            print(f"PASS {name}", flush=True)

    def info(self, key, value):
        print(f"INFO {key} {value}", flush=True)

    def finish(self):
        sys.stdout.flush()
        # Clients that hang in a destructor must not hang the row: the verdict is already printed.
        os._exit(1 if self.failed else 0)


def key_of(partition, offset):
    return f"k-{partition}-{offset}".encode()


def value_of(partition, offset):
    return f"v-{partition}-{offset}-".encode() + b"x" * (offset * 7 % 211)


def headers_of(partition, offset):
    return [("at", f"{partition}/{offset}".encode()), ("empty", b""), ("at", b"again")]


def check_record(partition, offset, key, value, headers):
    got = (key, value, [(name, bytes(data or b"")) for name, data in headers or []])
    want = (key_of(partition, offset), value_of(partition, offset), headers_of(partition, offset))
    if got != want:
        raise AssertionError(f"record {partition}/{offset} is {got!r}"[:300])


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def wait_for(what, condition, wait_s=WAIT_S):
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError(f"timed out after {wait_s:.0f} s waiting for {what}")


class Ledger:
    """Accounts for every record of a topic, whoever consumed it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.next = [0] * PARTITIONS
        self.repeats = 0
        self.errors = []

    def see(self, partition, offset, key, value, headers):
        with self.lock:
            try:
                check_record(partition, offset, key, value, headers)
                check(offset <= self.next[partition], f"{partition}: {offset} after {self.next[partition] - 1}")
            except AssertionError as error:
                self.errors.append(str(error))
            if offset < self.next[partition]:
                self.repeats += 1
            else:
                self.next[partition] = offset + 1

    def verify(self, ends):
        check(not self.errors, "; ".join(self.errors[:3]))
        check(self.next == list(ends), f"consumed up to {self.next}, produced {list(ends)}")


class Load:
    """Produces to every partition in the background until it is stopped."""

    def __init__(self, producer, topic, ends):
        self.producer, self.topic, self.ends = producer, topic, list(ends)
        self.stopping = threading.Event()
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while not self.stopping.wait(0.02):
                for partition in range(PARTITIONS):
                    offset = self.ends[partition]
                    self.producer.send(self.topic, partition, offset)
                    self.ends[partition] = offset + 1
            self.producer.flush()
            self.producer.close()
        except Exception as error:
            self.error = error

    def stop(self):
        self.stopping.set()
        self.thread.join(WAIT_S)
        check(not self.thread.is_alive(), "the background producer hangs")
        if self.error:
            raise self.error
        return self.ends


class Member:
    """A consumer of a group in a thread of its own, as an application would run it."""

    def __init__(self, open_consumer, ledger):
        self.ledger = ledger
        self.assigned = []
        self.consumed = {}
        self.stopping = threading.Event()
        self.error = None
        self.open_consumer = open_consumer
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            consumer = self.open_consumer()
            while not self.stopping.is_set():
                for partition, offset, key, value, headers in consumer.poll(0.1):
                    self.ledger.see(partition, offset, key, value, headers)
                    self.consumed[partition] = self.consumed.get(partition, 0) + 1
                self.assigned = consumer.assigned()
            consumer.close()
        except Exception as error:
            self.error = error

    def healthy(self):
        if self.error:
            raise self.error
        return True

    def stop(self):
        self.stopping.set()
        self.thread.join(WAIT_S)
        check(not self.thread.is_alive(), "the consumer does not close")
        self.healthy()


def group_scenario(row, topic, ends, open_producer, open_consumer, prefix="group"):
    """A second member joins while the first one consumes a live load, then leaves again."""
    ledger = Ledger()
    load = Load(open_producer(), topic, ends)
    first = Member(lambda: open_consumer("first"), ledger)
    second = None
    with row.step(f"{prefix}:first-member"):
        wait_for("the first member to own all partitions",
                 lambda: first.healthy() and len(first.assigned) == PARTITIONS and len(first.consumed) == PARTITIONS)
    with row.step(f"{prefix}:second-joins"):
        second = Member(lambda: open_consumer("second"), ledger)
        wait_for("three partitions on each member",
                 lambda: first.healthy() and second.healthy()
                 and len(first.assigned) == len(second.assigned) == PARTITIONS // 2
                 and sorted(first.assigned + second.assigned) == list(range(PARTITIONS)))
        wait_for("records on the second member", lambda: second.healthy() and len(second.consumed) == 3)
    with row.step(f"{prefix}:second-leaves"):
        second.stop()
        wait_for("the first member to own all partitions again",
                 lambda: first.healthy() and len(first.assigned) == PARTITIONS)
    with row.step(f"{prefix}:all-accounted"):
        ends[:] = load.stop()
        wait_for(f"every record (got {ledger.next} of {ends})",
                 lambda: first.healthy() and (ledger.next == ends or ledger.errors))
        ledger.verify(ends)
        first.stop()
    row.info(f"{prefix}-repeats", ledger.repeats)
    return ends


def produce_codecs(row, topic, ends, open_producer, codecs):
    """One producer per codec; `none` is the client's own default configuration."""
    for codec in codecs:
        with row.step(f"produce:{codec}"):
            producer = open_producer(codec)
            for _ in range(RECORDS):
                for partition in range(PARTITIONS):
                    producer.send(topic, partition, ends[partition])
                    ends[partition] += 1
            producer.flush()
            producer.close()


def static_scenario(row, open_consumer):
    """A static member that comes back within its session timeout gets the same partitions again."""
    with row.step("membership:static"):
        ledger = Ledger()
        first = Member(lambda: open_consumer("one"), ledger)
        second = Member(lambda: open_consumer("two"), ledger)

        def split():
            return (first.healthy() and second.healthy()
                    and len(first.assigned) == len(second.assigned) == PARTITIONS // 2
                    and sorted(first.assigned + second.assigned) == list(range(PARTITIONS)))

        wait_for("three partitions on each member", split)
        before = sorted(second.assigned)
        second.stop()
        second = Member(lambda: open_consumer("two"), ledger)
        wait_for("three partitions on each member after the return", split)
        check(sorted(second.assigned) == before, f"owned {before}, then {sorted(second.assigned)}")
        check(not ledger.errors, "; ".join(ledger.errors[:3]))
        first.stop()
        second.stop()


def resume_scenario(row, ends, open_consumer):
    """What is committed explicitly is where the next consumer of the group begins, to the record."""
    committed = {}
    with row.step("resume:commit"):
        consumer = open_consumer()
        deadline = time.monotonic() + WAIT_S
        while sum(committed.values()) < sum(ends) // 3:
            check(time.monotonic() < deadline, f"timed out at {committed}")
            for partition, offset, *_ in consumer.poll(1):
                committed[partition] = offset + 1
        consumer.commit(committed)
        found = {p: consumer.committed(p) for p in committed}
        check(found == committed, f"committed {committed}, found {found}")
        consumer.close()
    with row.step("resume:exact"):
        consumer = open_consumer()
        position = [committed.get(p, 0) for p in range(PARTITIONS)]
        deadline = time.monotonic() + WAIT_S
        while position != list(ends):
            check(time.monotonic() < deadline, f"timed out at {position}, the ends are {ends}")
            for partition, offset, key, value, headers in consumer.poll(1):
                check(offset == position[partition], f"{partition} resumed at {offset}, not {position[partition]}")
                check_record(partition, offset, key, value, headers)
                position[partition] += 1
        consumer.close()
