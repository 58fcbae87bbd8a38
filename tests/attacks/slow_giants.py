"""Requests of 99 MiB arrive as slowly as is allowed, while somebody sends 5 MiB at once."""

import struct
import threading
import time

import wire
from lib import produce, produce_many
from rows import check

ABOUT = "12 requests of 99 MiB of 3 addresses arrive at 100 KiB/s, half of each at once; a bystander sends 5 MiB"
GIANTS = 12
ATTACKERS = 3
SECONDS = 10
PROBE_EVERY_S = 1
LIMITS = {"rss_growth_mib": 600, "p99_floor_s": 0.1}
BODY = []


def prepare(arena):
    arena.topic("large", 6)
    batch = wire.batch([wire.record(0, bytes(900_000))])
    BODY.append(produce_many("large", [(partition, batch) for partition in range(6)]))


def probes(arena):
    def five_mib():
        with wire.Connection(arena.bootstrap) as connection:
            errors = produce(connection, BODY[0])
            check(set(errors) == {"NONE"}, errors)

    return {"5 MiB": five_mib}


def trickle(connection, deadline):
    connection.send(struct.pack(">ihhi", 99 << 20, wire.PRODUCE, 9, 1))
    connection.socket.settimeout(1)
    part, sent = bytes(1 << 20), 0
    while time.monotonic() < deadline:
        try:
            if sent < 50 << 20:
                sent += connection.socket.send(part)
            else:
                sent += connection.socket.send(part[:10 << 10])
                time.sleep(0.1)
        except TimeoutError:
            pass
        except OSError:
            return


def attack(arena):
    deadline = time.monotonic() + SECONDS
    threads = [threading.Thread(target=trickle, args=(arena.connect(1 + n % ATTACKERS), deadline)) for n in range(GIANTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
