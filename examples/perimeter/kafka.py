"""Enough of Kafka's protocol to make a topic and to write records, so that the demo needs nothing but Python."""

import socket
import struct
import time

PRODUCE, CREATE_TOPICS = 0, 19
NONE, ALREADY_EXISTS = 0, 36


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
