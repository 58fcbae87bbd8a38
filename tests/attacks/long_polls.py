"""Fetches of 112 KB wait for ten minutes, and each holds the memory of its request."""

import struct
import time

import wire

ABOUT = "400 connections of 8 addresses wait in a Fetch of 112 KB with a max.wait of 10 minutes"
CONNECTIONS = 400
ATTACKERS = 8
PARTITIONS = 500
LIMITS = {"rss_growth_mib": 200}


def prepare(arena):
    arena.topic("idle", PARTITIONS)


def attack(arena):
    wanted = [struct.pack(">iqi", n % PARTITIONS, 0, 1 << 20) for n in range(7000)]
    body = struct.pack(">iiiib", -1, 600_000, 1 << 30, 1 << 20, 0) + wire.array([wire.string("idle") + wire.array(wanted)])
    request = wire.frame(wire.header(wire.FETCH, 4) + body)
    for n in range(CONNECTIONS):
        arena.connect(1 + n % ATTACKERS).send(request)
    time.sleep(4)
    used = [line for line in arena.get("/metrics")[1].splitlines() if line.startswith("kafscale_request_memory_bytes ")]
    arena.note("request memory", f"{float(used[0].split()[1]) / (1 << 20):.1f} MiB")
