"""Just enough of the Kafka protocol to say wrong things on purpose, and to see the exact answer.

Only old, fixed versions are spoken: Metadata v1, CreateTopics v2, Produce v3, Fetch v4, ListOffsets v1,
ApiVersions v0. Record batches are built by hand so that any field of them can be broken.
"""

import socket
import struct
import time

PRODUCE, FETCH, LIST_OFFSETS, METADATA, API_VERSIONS, CREATE_TOPICS = 0, 1, 2, 3, 18, 19

ERRORS = {
    -1: "UNKNOWN_SERVER_ERROR", 0: "NONE", 1: "OFFSET_OUT_OF_RANGE", 2: "CORRUPT_MESSAGE",
    3: "UNKNOWN_TOPIC_OR_PARTITION", 7: "REQUEST_TIMED_OUT", 10: "MESSAGE_TOO_LARGE", 17: "INVALID_TOPIC_EXCEPTION",
    18: "RECORD_LIST_TOO_LARGE", 35: "UNSUPPORTED_VERSION", 36: "TOPIC_ALREADY_EXISTS", 37: "INVALID_PARTITIONS",
    42: "INVALID_REQUEST", 43: "UNSUPPORTED_FOR_MESSAGE_FORMAT", 44: "POLICY_VIOLATION", 56: "KAFKA_STORAGE_ERROR",
    74: "FENCED_LEADER_EPOCH", 76: "UNSUPPORTED_COMPRESSION_TYPE", 87: "INVALID_RECORD", 89: "THROTTLING_QUOTA_EXCEEDED",
}


def error_name(code):
    return ERRORS.get(code, str(code))


def string(text):
    data = text.encode()
    return struct.pack(">h", len(data)) + data


def array(items):
    return struct.pack(">i", len(items)) + b"".join(items)


def header(api, version, correlation=1, client="wire"):
    return struct.pack(">hhi", api, version, correlation) + string(client)


def frame(payload):
    return struct.pack(">i", len(payload)) + payload


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        if self.at + size > len(self.data):
            raise AssertionError(f"the answer ends after {len(self.data)} bytes")
        piece = self.data[self.at:self.at + size]
        self.at += size
        return piece

    def unpack(self, form):
        values = struct.unpack(">" + form, self.take(struct.calcsize(">" + form)))
        return values[0] if len(values) == 1 else values

    def string(self):
        size = self.unpack("h")
        return None if size < 0 else self.take(size).decode()

    def array(self, read):
        return [read() for _ in range(max(self.unpack("i"), 0))]


class Connection:
    def __init__(self, bootstrap, limit_s=20):
        host, port = bootstrap.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), limit_s)
        self.socket.settimeout(limit_s)
        self.correlation = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def receive(self, size):
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise ConnectionError(f"closed after {len(data)} of {size} bytes")
            data += piece
        return data

    def receive_frame(self):
        return self.receive(struct.unpack(">i", self.receive(4))[0])

    def closed_by_peer(self):
        """Whether the other side ends the connection, without having sent anything first."""
        try:
            return self.socket.recv(1) == b""
        except (ConnectionError, BrokenPipeError):
            return True

    def call(self, api, version, body):
        self.correlation += 1
        self.send(frame(header(api, version, self.correlation) + body))
        answer = Reader(self.receive_frame())
        found = answer.unpack("i")
        if found != self.correlation:
            raise AssertionError(f"correlation id {found} instead of {self.correlation}")
        return answer


def api_versions(bootstrap):
    """{api key: (lowest, highest version)} as the broker tells it."""
    with Connection(bootstrap) as connection:
        answer = connection.call(API_VERSIONS, 0, b"")
        code = answer.unpack("h")
        if code:
            raise AssertionError(f"ApiVersions answers {error_name(code)}")
        return {key: (low, high) for key, low, high in answer.array(lambda: answer.unpack("hhh"))}


def cluster(bootstrap, topics):
    """({node id: address}, {topic: (error, {partition: leader})}), all topics for None. Version 1 may create what it does not know."""
    with Connection(bootstrap) as connection:
        body = struct.pack(">i", -1) if topics is None else array([string(t) for t in topics])
        answer = connection.call(METADATA, 1, body)

        def broker():
            node, host, port, _rack = answer.unpack("i"), answer.string(), answer.unpack("i"), answer.string()
            return node, f"{host}:{port}"

        def partition():
            _code, index, leader = answer.unpack("hii")
            answer.array(lambda: answer.unpack("i"))
            answer.array(lambda: answer.unpack("i"))
            return index, leader

        def topic():
            code, name, _internal = answer.unpack("h"), answer.string(), answer.unpack("b")
            return name, (error_name(code), dict(answer.array(partition)))

        brokers = dict(answer.array(broker))
        answer.unpack("i")
        return brokers, dict(answer.array(topic))


def metadata(bootstrap, topics):
    """{topic: (error, partition count)}."""
    return {name: (error, len(leaders)) for name, (error, leaders) in cluster(bootstrap, topics)[1].items()}


def brokers(bootstrap):
    """{node id: address} of the live brokers."""
    return cluster(bootstrap, [])[0]


def leaders(bootstrap, topic):
    """{partition: node id of its leader, -1 without one}."""
    return cluster(bootstrap, [topic])[1][topic][1]


def create_topics(bootstrap, topics, limit_s=60, replication=1, configs=()):
    """{topic: (error, message)} for [(name, partitions)]."""
    settings = array([string(key) + string(value) for key, value in configs])
    body = array([string(name) + struct.pack(">ih", count, replication) + array([]) + settings
                  for name, count in topics]) + struct.pack(">ib", limit_s * 1000, 0)
    with Connection(bootstrap, limit_s) as connection:
        answer = connection.call(CREATE_TOPICS, 2, body)
        answer.unpack("i")
        return {name: (error, text) for name, error, text in answer.array(
            lambda: (answer.string(), error_name(answer.unpack("h")), answer.string()))}


def list_offset(bootstrap, topic, partition, timestamp):
    with Connection(bootstrap) as connection:
        body = struct.pack(">i", -1) + array([string(topic) + array([struct.pack(">iq", partition, timestamp)])])
        answer = connection.call(LIST_OFFSETS, 1, body)
        _, found = answer.array(lambda: (answer.string(), answer.array(lambda: answer.unpack("ihqq"))))[0]
        _, code, _, offset = found[0]
        return offset if code == 0 else error_name(code)


def produce_body(topic, partition, batch, acks=-1):
    return (struct.pack(">hhi", -1, acks, 10_000)
            + array([string(topic) + array([struct.pack(">i", partition) + struct.pack(">i", len(batch)) + batch])]))


def produce(bootstrap, topic, partition, batch):
    """(error, base offset) of one raw batch."""
    with Connection(bootstrap) as connection:
        answer = connection.call(PRODUCE, 3, produce_body(topic, partition, batch))
        _, found = answer.array(lambda: (answer.string(), answer.array(lambda: answer.unpack("ihqq"))))[0]
        _, code, base, _ = found[0]
        return error_name(code), base


def fetch(bootstrap, topic, partition, offset, max_bytes=1 << 20):
    """(error, high watermark, raw batches)."""
    body = (struct.pack(">iiiib", -1, 500, 1, max_bytes, 0)
            + array([string(topic) + array([struct.pack(">iqi", partition, offset, max_bytes)])]))
    with Connection(bootstrap) as connection:
        answer = connection.call(FETCH, 4, body)
        answer.unpack("i")

        def part():
            _, code, high, _stable = answer.unpack("ihqq")
            answer.array(lambda: answer.unpack("qq"))
            size = answer.unpack("i")
            return error_name(code), high, answer.take(max(size, 0))

        return answer.array(lambda: (answer.string(), answer.array(part)))[0][1][0]


def varint(number):
    number = (number << 1) ^ (number >> 63)
    out = b""
    while number & ~0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


CRC_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x82F63B78 if _byte & 1 else 0)
    CRC_TABLE.append(_byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def record(offset_delta, value=b"value", timestamp_delta=0, key=b"key"):
    body = (b"\0" + varint(timestamp_delta) + varint(offset_delta) + varint(len(key)) + key
            + varint(len(value)) + value + varint(0))
    return varint(len(body)) + body


def batch(records=None, count=None, last_delta=None, magic=2, crc=None, attributes=0, first_time=None, max_time=None,
          producer=(-1, -1, -1), length=None):
    """A record batch of now; every field can be given a wrong value."""
    first_time, max_time = (int(time.time() * 1000) if at is None else at for at in (first_time, max_time))
    records = [record(i) for i in range(3)] if records is None else records
    count = len(records) if count is None else count
    last_delta = count - 1 if last_delta is None else last_delta
    body = (struct.pack(">hiqqqhii", attributes, last_delta, first_time, max_time, *producer, count)
            + b"".join(records))
    crc = crc32c(body) if crc is None else crc
    length = 9 + len(body) if length is None else length
    return struct.pack(">qiibI", 0, length, -1, magic, crc) + body
