"""Enough of Kafka's protocol to make a topic and to write records, so that the demo needs nothing but Python."""

import socket
import struct
import time

PRODUCE, LIST_OFFSETS, CREATE_TOPICS = 0, 2, 19
NONE, ALREADY_EXISTS = 0, 36
# Where a partition is new, its broker may not know it yet, or not know that it leads it.
NOT_YET = (3, 5, 6)
NOT_YET_S = 30


def string(text):
    return struct.pack(">h", len(text)) + text.encode()


def array(items):
    return struct.pack(">i", len(items)) + b"".join(items)


def call(address, api, version, body):
    """The answer behind its correlation id."""
    request = struct.pack(">hhi", api, version, 1) + string("demo-perimeter") + body
    with socket.create_connection(address, 30) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as answers:
            (size,) = struct.unpack(">i", answers.read(4))
            return answers.read(size)[4:]


def create_topic(address, name, partitions):
    """Its records stay: the demo goes on with them next year."""
    settings = array([string("retention.ms") + string("-1")])
    topic = string(name) + struct.pack(">ih", partitions, 1) + array([]) + settings
    answer = call(address, CREATE_TOPICS, 2, array([topic]) + struct.pack(">ib", 30_000, 0))
    # throttle, length of the list, name, error
    (code,) = struct.unpack_from(">h", answer, 4 + 4 + 2 + len(name))
    if code not in (NONE, ALREADY_EXISTS):
        raise OSError(f"the topic {name} could not be made: error {code}")


def end(address, topic, partition):
    """The offset that the next record of a partition gets."""
    latest = -1
    body = struct.pack(">i", -1) + array([string(topic) + array([struct.pack(">iq", partition, latest)])])
    deadline = time.monotonic() + NOT_YET_S
    while True:
        answer = call(address, LIST_OFFSETS, 1, body)
        # length of the list, topic, length of the list, partition, error, timestamp, offset
        code, _, offset = struct.unpack_from(">hqq", answer, 4 + 2 + len(topic) + 4 + 4)
        if code == NONE:
            return offset
        if code not in NOT_YET or time.monotonic() > deadline:
            raise OSError(f"the end of {topic} could not be read: error {code}")
        time.sleep(0.2)


def produce(address, topic, partition, values):
    """Writes values to a partition, acknowledged when they are on disk."""
    data = batch(values)
    body = struct.pack(">hhi", -1, -1, 30_000) + array([string(topic) + array([struct.pack(">ii", partition, len(data)) + data])])
    answer = call(address, PRODUCE, 3, body)
    # length of the list, topic, length of the list, partition, error
    (code,) = struct.unpack_from(">h", answer, 4 + 2 + len(topic) + 4 + 4)
    if code != NONE:
        raise OSError(f"records of {topic} could not be written: error {code}")


def batch(values):
    """A record batch of the format 2, of now."""
    now = int(time.time() * 1000)
    records = b"".join(record(n, value) for n, value in enumerate(values))
    body = struct.pack(">hiqqqhii", 0, len(values) - 1, now, now, -1, -1, -1, len(values)) + records
    return struct.pack(">qiibI", 0, 9 + len(body), -1, 2, crc32c(body)) + body


def record(offset_delta, value):
    body = b"\0" + varint(0) + varint(offset_delta) + varint(-1) + varint(len(value)) + value + varint(0)
    return varint(len(body)) + body


def varint(number):
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def castagnoli(byte):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


TABLE = [castagnoli(byte) for byte in range(256)]
