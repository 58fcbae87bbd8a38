"""Produce requests of half a megabyte inflate to 15 GiB each."""

import time

import wire
from lib import produce, produce_many, zeros_batch
from rows import check

ABOUT = "4 connections of 3 addresses, one of them the bystander's, produce 64 batches a request that inflate to 240 MiB each"
PARTITIONS = 64
SECONDS = 7
LIMITS = {"rss_growth_mib": 400}
BODY = []


def prepare(arena):
    arena.topic("bombs", PARTITIONS)
    arena.topic("small-zstd", 1)
    batch = zeros_batch(240 << 20, first_time=int(time.time() * 1000))
    BODY.append(produce_many("bombs", [(partition, batch) for partition in range(PARTITIONS)]))


def probes(arena):
    def one_mib():
        with wire.Connection(arena.bootstrap) as connection:
            errors = produce(connection, produce_many("small-zstd", [(0, zeros_batch(1 << 20))]))
            check(errors == ["NONE"], errors)

    return {"zstd of 1 MiB": one_mib}


def attack(arena):
    def send(attacker):
        with arena.connect(attacker, limit_s=SECONDS) as connection:
            errors = produce(connection, BODY[0])
            arena.note("answers", " ".join(sorted(set(errors))))

    arena.together(SECONDS, [lambda n=n: send(n) for n in (1, 1, 2, None)])
    with wire.Connection(arena.bootstrap) as connection:
        twice = produce(connection, produce_many("small-zstd", [(0, wire.batch()), (0, wire.batch())]))
        arena.note("a partition twice", " ".join(set(twice)))
