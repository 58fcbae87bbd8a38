#!/usr/bin/env python3
"""Reads a segment of version 1 or 2, checks everything in it, and prints what it holds as JSON.

Written from ../format.md alone, with nothing but the standard library: an example of reading a bucket without a broker.
"""

import json
import struct
import sys
import uuid


def make_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = make_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def check(fits, what):
    if not fits:
        sys.exit(f"damaged: {what}")


def read_uvarint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def read_varint(data, at):
    value, at = read_uvarint(data, at)
    return value >> 1 ^ -(value & 1), at


def read_batch_header(data, at):
    base, length, epoch, magic, crc, _attributes, last_delta = struct.unpack_from(">qiibIhi", data, at)
    _base_timestamp, max_timestamp = struct.unpack_from(">qq", data, at + 27)
    (count,) = struct.unpack_from(">i", data, at + 57)
    size = length + 12
    check(magic == 2, f"magic {magic} of the batch at {at}")
    check(crc32c(data[at + 21 : at + size]) == crc, f"CRC32C of the batch at {at}")
    return {
        "base_offset": base,
        "last_offset": base + last_delta,
        "position": at,
        "size_bytes": size,
        "max_timestamp_ms": max_timestamp,
        "records_count": count,
        "leader_epoch": epoch,
        "crc": crc,
    }


def read_batches(data, at, end):
    batches = []
    while at < end:
        batches.append(read_batch_header(data, at))
        at += batches[-1]["size_bytes"]
    check(at == end, "the last batch")
    return batches


def read_table(statistics, index, statistics_position):
    """The table's entries, group by group."""
    batches = []
    for number, group in enumerate(index):
        last_group = number + 1 == len(index)
        end = len(statistics) if last_group else index[number + 1]["table_position"]
        at, position = group["table_position"], group["position"]
        expected, epoch = group["base_offset"], 0
        while at < end:
            gap, at = read_uvarint(statistics, at)
            span, at = read_uvarint(statistics, at)
            size, at = read_uvarint(statistics, at)
            below_max, at = read_varint(statistics, at)
            count, at = read_uvarint(statistics, at)
            epoch_step, at = read_varint(statistics, at)
            (crc,) = struct.unpack_from(">I", statistics, at)
            at += 4
            base = expected + gap
            epoch += epoch_step
            batches.append(
                {
                    "base_offset": base,
                    "last_offset": base + span,
                    "position": position,
                    "size_bytes": size,
                    "max_timestamp_ms": group["max_timestamp_ms"] - below_max,
                    "records_count": count,
                    "leader_epoch": epoch,
                    "crc": crc,
                }
            )
            expected = base + span + 1
            position += size
        group_end = statistics_position if last_group else index[number + 1]["position"]
        check(position == group_end, "the sizes in the table")
    return batches


def read_version_2(data):
    footer = data[-64:]
    (statistics_at, statistics_size, statistics_crc, index_at, index_size, index_crc, size, last_offset, body_crc,
     version, flags, footer_crc) = struct.unpack(">QIIQIIQqIHHI", footer[:60])
    check(footer_crc == crc32c(footer[:56]), "CRC32C of the footer")
    check(version == 2 and flags < 0x100 and size == len(data), "the footer")
    magic, version, flags, topic_id, partition, base_offset, created = struct.unpack_from(">4sHH16siqq", data)
    (header_crc,) = struct.unpack_from(">I", data, 60)
    check(header_crc == crc32c(data[:60]), "CRC32C of the header")
    check(magic == b"KAFS" and version == 2 and flags < 0x100, "the header")
    statistics = data[statistics_at : statistics_at + statistics_size]
    check(statistics_crc == crc32c(statistics), "CRC32C of the statistics")
    index_bytes = data[index_at : index_at + index_size]
    check(index_crc == crc32c(index_bytes), "CRC32C of the index")
    check(body_crc == crc32c(data[64:statistics_at]), "CRC32C of the batches")
    names = ("base_offset", "position", "max_timestamp_ms", "crc", "table_position")
    index = [dict(zip(names, entry)) for entry in struct.iter_unpack(">qQqII", index_bytes)]
    ends = [entry["position"] for entry in index[1:]] + [statistics_at]
    for entry, end in zip(index, ends):
        check(entry["crc"] == crc32c(data[entry["position"] : end]), f"CRC32C of the group at {entry['position']}")
    records, count, _reserved, min_timestamp, max_timestamp = struct.unpack_from(">QIIqq", statistics)
    batches = read_table(statistics, index, statistics_at)
    check(batches == read_batches(data, 64, statistics_at), "the table is not that of the batches")
    check(count == len(batches) and records == sum(b["records_count"] for b in batches), "the summary")
    return {
        "version": 2,
        "topic_id": str(uuid.UUID(bytes=topic_id)),
        "partition": partition,
        "base_offset": base_offset,
        "last_offset": last_offset,
        "created_ms": created,
        "size_bytes": size,
        "body_crc": body_crc,
        "records": records,
        "min_timestamp_ms": min_timestamp,
        "max_timestamp_ms": max_timestamp,
        "index": index,
        "batches": batches,
    }


def read_version_1(data):
    magic, version, _flags, base_offset, records, created, _zero = struct.unpack_from(">4sHHqiqI", data)
    check(magic == b"KAFS" and version == 1, "the header")
    body_crc, last_offset = struct.unpack(">Iq", data[-16:-4])
    check(body_crc == crc32c(data[32:-16]), "CRC32C of the batches")
    return {
        "version": 1,
        "base_offset": base_offset,
        "last_offset": last_offset,
        "created_ms": created,
        "size_bytes": len(data),
        "body_crc": body_crc,
        "records": records,
        "batches": read_batches(data, 32, len(data) - 16),
    }


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: read_segment.py FILE")
    with open(sys.argv[1], "rb") as file:
        data = file.read()
    readers = {b"KAF2": read_version_2, b"END!": read_version_1}
    check(data[-4:] in readers, "it does not end as a segment does")
    json.dump(readers[data[-4:]](data), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
