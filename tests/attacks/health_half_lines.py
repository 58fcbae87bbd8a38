"""Connections that send half a line, or take no answer, hold the metrics port, so that an orchestrator kills a broker that is well."""

import contextlib
import socket

from rows import check

ABOUT = "600 connections to the metrics port that send half a line, half a head, nothing, or take no answer to a scrape"
SECONDS = 8
SENT = [b"GET /hea", b"GET /healthz HTTP/1.1\r\nHost: a\r\n", b"", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"]


def healthy(arena):
    status, text = arena.get("/healthz", limit_s=2)
    check((status, text) == (200, "ok\n"), f"{status} {text}")


def probes(arena):
    return {"healthz": lambda: healthy(arena), "readyz": lambda: check(arena.get("/readyz", limit_s=2)[0] == 200, "not ready")}


def attack(arena):
    held = []

    def hold():
        # Each is let go in its turn, so that the attacker's own limits are not what holds it up.
        with contextlib.suppress(OSError):
            stream = socket.create_connection((arena.broker.host, arena.broker.metrics_port), 2)
            stream.sendall(SENT[len(held) % len(SENT)])
            held.append(stream)
        if len(held) > 600:
            held.pop(0).close()

    times = arena.sustain(SECONDS, hold, 0.002)
    arena.note("connections", times)
    healthy(arena)
    for stream in held:
        stream.close()
