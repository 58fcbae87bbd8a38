"""Groups without end commit offsets with long notes: 7.8 MB in each request, kept in memory and on the disk."""

import struct

import wire
from group_answers import OFFSET_COMMIT, compact, flexible, unsigned
from rows import check

ABOUT = "commits of 4,000 bytes for 1,900 partitions each, in 145 groups, of which 1.1 GB would be kept"
GROUPS, PARTITIONS = 145, 1900
NOTE = "n" * 4000
# 128 MiB of offsets are held by the coordinator and by the embedded store, and copied on their way into it; without limits it was 3.5 GB.
LIMITS = {"rss_growth_mib": 1024}
INVALID_COMMIT_OFFSET_SIZE = 28


def prepare(arena):
    arena.topic("many", PARTITIONS)
    arena.topic("own")


def commit(group, topic, partitions, note):
    parts = b"".join(struct.pack(">iqi", partition, 5, -1) + compact(note) + b"\0" for partition in partitions)
    topics = unsigned(2) + compact(topic) + unsigned(len(partitions) + 1) + parts + b"\0"
    # No generation, no member, no instance: from outside of the group protocol.
    return flexible(OFFSET_COMMIT, 8, compact(group) + struct.pack(">i", -1) + compact("") + b"\0" + topics + b"\0")


def committed(connection, group, topic="many", partitions=range(PARTITIONS), note=NOTE):
    """The error codes of the answer."""
    connection.send(commit(group, topic, partitions, note))
    answer = wire.Reader(connection.receive_frame())
    answer.take(4 + 1 + 4)  # correlation id, tagged fields, throttle time
    answer.take(1)          # one topic
    answer.take(1 + len(topic))
    size, shift = 0, 0
    while True:
        byte = answer.unpack("B")
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return {answer.unpack("ihB")[1] for _ in range(size - 1)}


def attack(arena):
    refused = 0
    with arena.connect() as connection:
        for n in range(GROUPS):
            codes = committed(connection, f"group-{n}")
            check(codes in ({0}, {INVALID_COMMIT_OFFSET_SIZE}), f"commits were answered {codes}")
            refused += codes != {0}
            if refused > 10:
                break
    check(refused > 0, "everything was kept")
    arena.note("groups until the first was refused", n + 1 - refused)
    # Who commits little has no place either, but who is there already goes on.
    with arena.connect(2) as connection:
        check(committed(connection, "group-0", partitions=range(100)) == {0}, "a group that takes no more was refused")
    used = sum(path.stat().st_size for path in arena.broker.data_dir.rglob("*.redb*"))
    arena.note("metadata on the disk", f"{used >> 20} MiB")
    check(used < 768 << 20, f"{used >> 20} MiB of metadata")
