"""A client that does nothing wrong, in a process of its own: what an attack does to it is what the attack does.

It produces one small record every 10 ms to a partition of its own, reads the records back on a second connection, opens a new
connection twice a second, and calls the probes of the attack. Each latency counts from the time at which the operation was due, so that
one that hangs also delays those behind it. Samples are lines `kind due latency ok` in a file, on the clock of time.monotonic().
"""

import multiprocessing
import os
import pathlib
import signal
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import wire  # noqa: E402

TOPIC = "bystander"
PRODUCE_EVERY_S = 0.01
CONNECT_EVERY_S = 0.5
# A client that waits for longer gives up, as librdkafka does after a minute.
PATIENCE_S = 20


class Bystander:
    """The process, seen from the suite."""

    def __init__(self, bootstrap, probes, directory, probe_every_s):
        self.path = pathlib.Path(directory) / "bystander.txt"
        self.path.touch()
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=run, args=(bootstrap, probes, probe_every_s, str(self.path), theirs), daemon=True)
        self.process.start()

    def samples(self):
        """[(kind, due, latency in seconds, whether it succeeded)] of everything so far."""
        lines = self.path.read_text().splitlines()
        fields = (line.split() for line in lines)
        return [(kind, float(due), float(latency), ok == "1") for kind, due, latency, ok in fields]

    def finish(self, limit_s):
        """{acked, lost, wrong}: what became of its records, once it has read all of them."""
        self.pipe.send("finish")
        if not self.pipe.poll(limit_s):
            self.process.kill()
            return {"acked": 0, "lost": -1, "wrong": 0}
        result = self.pipe.recv()
        self.process.join(5)
        return result


class State:
    def __init__(self, bootstrap, path):
        self.bootstrap = bootstrap
        self.file = open(path, "a", buffering=1)
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.acked, self.read = {}, {}

    def sample(self, kind, due, ok):
        with self.lock:
            self.file.write(f"{kind} {due:.6f} {time.monotonic() - due:.6f} {int(ok)}\n")


def run(bootstrap, probes, probe_every_s, path, pipe):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    state = State(bootstrap, path)
    workers = [threading.Thread(target=produce, args=(state,)), threading.Thread(target=newcomers, args=(state,))]
    workers += [threading.Thread(target=call, args=(state, f"probe:{name}".replace(" ", "-"), probe, probe_every_s)) for name, probe in probes.items()]
    reader = threading.Thread(target=consume, args=(state,), daemon=True)
    for thread in [*workers, reader]:
        thread.start()
    pipe.recv()
    state.stopping.set()
    for thread in workers:
        thread.join(2 * PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while len(state.read) < len(state.acked) and time.monotonic() < deadline:
        time.sleep(0.05)
    lost = [offset for offset in state.acked if offset not in state.read]
    wrong = [offset for offset, number in state.acked.items() if state.read.get(offset, number) != number]
    pipe.send({"acked": len(state.acked), "lost": len(lost), "wrong": len(wrong)})
    os._exit(0)


class Session:
    """A connection that is made anew after an error."""

    def __init__(self, bootstrap):
        self.bootstrap, self.connection = bootstrap, None

    def call(self, api, version, body):
        try:
            if self.connection is None:
                self.connection = wire.Connection(self.bootstrap, PATIENCE_S)
            return self.connection.call(api, version, body)
        except (OSError, AssertionError):
            self.close()
            raise

    def close(self):
        if self.connection:
            self.connection.socket.close()
        self.connection = None


def every(state, interval_s):
    """The times at which something is due."""
    due = time.monotonic()
    while not state.stopping.is_set():
        left = due - time.monotonic()
        if left > 0:
            time.sleep(left)
        yield due
        due += interval_s


def produce(state):
    session = Session(state.bootstrap)
    for number, due in enumerate(every(state, PRODUCE_EVERY_S)):
        value = struct.pack(">qd", number, due)
        try:
            body = wire.produce_body(TOPIC, 0, wire.batch([wire.record(0, value)]))
            answer = session.call(wire.PRODUCE, 3, body)
            _, parts = answer.array(lambda: (answer.string(), answer.array(lambda: answer.unpack("ihqq"))))[0]
            _, code, base, _ = parts[0]
            if code == 0:
                state.acked[base] = number
            state.sample("produce", due, code == 0)
        except (OSError, AssertionError):
            state.sample("produce", due, False)


def consume(state):
    session, offset = Session(state.bootstrap), 0
    while True:
        body = (struct.pack(">iiiib", -1, 500, 1, 1 << 20, 0)
                + wire.array([wire.string(TOPIC) + wire.array([struct.pack(">iqi", 0, offset, 1 << 20)])]))
        try:
            answer = session.call(wire.FETCH, 4, body)
            answer.unpack("i")

            def part():
                answer.unpack("ihqq")
                answer.array(lambda: answer.unpack("qq"))
                return answer.take(max(answer.unpack("i"), 0))

            data = answer.array(lambda: (answer.string(), answer.array(part)))[0][1][0]
        except (OSError, AssertionError):
            state.sample("consume", time.monotonic(), False)
            time.sleep(0.2)
            continue
        # Each batch holds one record: 61 bytes of header, the key "key", and the value in the last 17 bytes but one.
        while len(data) >= 61:
            base, length = struct.unpack(">qi", data[:12])
            if len(data) < 12 + length:
                break
            number, due = struct.unpack(">qd", data[12 + length - 17:12 + length - 1])
            state.read[base] = number
            state.sample("consume", due, True)
            data, offset = data[12 + length:], base + 1


def newcomers(state):
    for due in every(state, CONNECT_EVERY_S):
        try:
            wire.metadata(state.bootstrap, [TOPIC])
            state.sample("connect", due, True)
        except (OSError, AssertionError):
            state.sample("connect", due, False)


def call(state, kind, probe, every_s):
    for due in every(state, every_s):
        try:
            probe()
            state.sample(kind, due, True)
        except Exception:  # whatever a probe raises, it did not get what it asked for
            state.sample(kind, due, False)
