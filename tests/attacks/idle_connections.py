"""One address opens connections and does nothing with them; and sends garbage as fast as it can, of which the log must not fill up."""

import contextlib

from rows import check

ABOUT = "as many idle connections of one address as there may be in all, and a flood of garbage from another"
ARGS = ["--max-connections", "600"]
IDLE = 600
SECONDS = 6


def attack(arena):
    def refused():
        with arena.connect(2) as connection:
            connection.send(b"GET / HTTP/1.1\r\n\r\n")
            check(connection.closed_by_peer(), "garbage was answered")

    with contextlib.suppress(OSError):
        for _ in range(IDLE):
            arena.connect(1)
    before = arena.broker.log_path.stat().st_size
    arena.note("refused", arena.sustain(SECONDS, refused))
    grown = arena.broker.log_path.stat().st_size - before
    arena.note("log grew by", f"{grown} bytes")
    check(grown < 64 << 10, f"the log grew by {grown} bytes")


def after(arena):
    _, text = arena.get("/metrics")
    check("kafscale_connections_over_limit_total 0\n" not in text, "one address may have all connections")
