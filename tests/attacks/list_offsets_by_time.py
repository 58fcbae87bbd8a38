"""A batch of a few kilobytes inflates to 240 MiB, and one request asks for an offset by time in it a thousand times."""

import struct
import time

import wire
from lib import produce, produce_many, zeros_batch
from rows import check

ABOUT = "ListOffsets by time in a batch that inflates to 240 MiB, 1,000 times in a request, from 4 addresses"
SECONDS = 6
ATTACKERS = 4
NOW_MS = int(time.time() * 1000)


def prepare(arena):
    arena.topic("bomb", 50)
    batch = zeros_batch(240 << 20, first_time=NOW_MS)
    with arena.connect() as connection:
        for partition in range(50):
            errors = produce(connection, produce_many("bomb", [(partition, batch)]))
            check(errors == ["NONE"], f"the batch was not taken: {errors}")


def request(partitions):
    # The only record is the first one at this time, and is known when all of it was inflated.
    asked = [struct.pack(">iq", partition, NOW_MS) for partition in partitions]
    return struct.pack(">i", -1) + wire.array([wire.string("bomb") + wire.array(asked)])


def attack(arena):
    def same(attacker):
        with arena.connect(attacker, limit_s=SECONDS) as connection:
            answer = connection.call(wire.LIST_OFFSETS, 1, request([0] * 1000))
            parts = answer.array(lambda: (answer.string(), answer.array(lambda: answer.unpack("ihqq"))))[0][1]
            arena.note("asked 1,000 times", wire.error_name(parts[0][1]))

    def many(attacker):
        with arena.connect(attacker, limit_s=SECONDS) as connection:
            connection.call(wire.LIST_OFFSETS, 1, request(range(50)))

    arena.together(SECONDS, [lambda n=n: (same if n == 0 else many)(n) for n in range(ATTACKERS)])
