"""Requests of some kilobytes ask for gigabytes: the offsets of one group as often as a request can name it, all topics, all producers, from
peers that do not take their answers."""

import struct

import wire
from rows import check, wait_for

ABOUT = "OffsetFetch and DescribeGroups that name one group 5,000 times, and Metadata for all topics, from peers that do not read"
SECONDS = 8
PARTITIONS = 1000
NOTE = "n" * 4000
OFFSET_COMMIT, OFFSET_FETCH, DESCRIBE_GROUPS = 8, 9, 15
COORDINATOR_LOADING, NOT_COORDINATOR = 14, 16


def compact(text):
    data = text.encode()
    return unsigned(len(data) + 1) + data


def unsigned(number):
    out = b""
    while number & ~0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def flexible(api, version, body):
    return wire.frame(wire.header(api, version) + b"\0" + body)


def prepare(arena):
    arena.topic("many", PARTITIONS)
    for first in range(0, PARTITIONS, 250):
        parts = [struct.pack(">iqi", first + i, 5, -1) + wire.string(NOTE) for i in range(250)]
        body = (wire.string("big") + struct.pack(">i", -1) + wire.string("") + struct.pack(">h", -1)
                + wire.array([wire.string("many") + wire.array(parts)]))
        codes = wait_for("the group's coordinator", lambda body=body: commit(arena, body), 20)
        check(codes == {0}, f"commits were answered {codes}")


def commit(arena, body):
    """The error codes, or None where a client would try again."""
    with wire.Connection(arena.bootstrap) as connection:
        answer = connection.call(OFFSET_COMMIT, 7, body)
        answer.unpack("i")
        codes = {code for _, parts in answer.array(lambda: (answer.string(), answer.array(lambda: answer.unpack("ih"))))
                 for _, code in parts}
    return None if codes & {NOT_COORDINATOR, COORDINATOR_LOADING} else codes


def offset_fetch(times):
    # Group, all of its topics, no tagged fields.
    groups = (compact("big") + b"\0" + b"\0") * times
    return flexible(OFFSET_FETCH, 8, unsigned(times + 1) + groups + b"\0" + b"\0")


def describe_groups(times):
    return flexible(DESCRIBE_GROUPS, 5, unsigned(times + 1) + compact("big") * times + b"\0" + b"\0")


def all_topics():
    return wire.frame(wire.header(wire.METADATA, 1) + struct.pack(">i", -1))


def attack(arena):
    with arena.connect() as connection:
        connection.send(offset_fetch(5000))
        size = struct.unpack(">i", connection.receive(4))[0]
        arena.note("OffsetFetch of one group, named 5,000 times", f"{size / 1e6:.1f} MB")
        check(size < 3 * PARTITIONS * len(NOTE), f"one request was answered with {size} bytes")

    def unread(attacker):
        connection = arena.connect(attacker)
        connection.send((offset_fetch(5000) + describe_groups(5000) + all_topics()) * 3)

    arena.note("requests", arena.sustain(SECONDS, lambda: unread(1 + len(arena.notes)), pause_s=0.2))


def after(arena):
    _, text = arena.get("/metrics")
    used = next(float(line.split()[1]) for line in text.splitlines() if line.startswith("kafscale_answer_memory_bytes "))
    check(used <= 256 << 20, f"{used} bytes of answers")
