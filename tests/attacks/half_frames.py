"""Connections state a large request, send twelve bytes of it and wait."""

import struct
import time

import wire
from rows import check

ABOUT = "600 connections of 8 addresses state requests of 99 MiB and 8 MiB, and send 12 bytes of them"
CONNECTIONS = 600
ATTACKERS = 8
LIMITS = {"rss_growth_mib": 100}


def attack(arena):
    for n in range(CONNECTIONS):
        connection = arena.connect(1 + n % ATTACKERS)
        if n % 2:
            connection.send(struct.pack(">ihhi", 99 << 20, wire.PRODUCE, 9, 1))
        else:
            connection.send(struct.pack(">ihhi", 8 << 20, wire.METADATA, 9, 1))
    time.sleep(4)
    used = [line for line in arena.get("/metrics")[1].splitlines() if line.startswith("kafscale_request_memory_bytes ")]
    arena.note("request memory", f"{float(used[0].split()[1]) / (1 << 20):.1f} MiB")
    check(float(used[0].split()[1]) < 1 << 20, f"twelve bytes each take memory: {used}")
