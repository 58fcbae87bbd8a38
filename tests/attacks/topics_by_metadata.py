"""One Metadata request names 100,000 topics that do not exist, and its client goes away: others must get their topics all the same."""

import struct
import time

import wire
from rows import check

ABOUT = "Metadata with 100,000 new names from a client that goes away again and again, while others create topics"
SECONDS = 8
made = iter(range(1_000_000))


def probes(arena):
    def create():
        name = f"honest-{next(made)}"
        error, text = wire.create_topics(arena.bootstrap, [(name, 1)], limit_s=10)[name]
        if error != "NONE":
            raise AssertionError(f"{error} {text}")

    return {"create": create}


def attack(arena):
    def flood(attacker, round_=[0]):
        round_[0] += 1
        names = [wire.string(f"flood-{attacker}-{round_[0]}-{i}") for i in range(100_000)]
        for half in (names[:50_000], names[50_000:]):
            connection = arena.connect(attacker)
            connection.send(wire.frame(wire.header(wire.METADATA, 1) + wire.array(half)))
            time.sleep(0.3)
            connection.socket.close()

    arena.together(SECONDS, [lambda: flood(1)])


def after(arena):
    counts = []
    for _ in range(2):
        _, text = arena.get("/metrics")
        counts.append(next(float(line.split()[1]) for line in text.splitlines() if line.startswith("kafscale_topics ")))
        time.sleep(1)
    arena.note("topics", int(counts[1]))
    # The bystander goes on creating five in a second.
    check(counts[1] - counts[0] <= 50, f"topics are created for clients that are gone: {counts}")
    check(counts[1] <= 30_000, f"{counts[1]} topics")
