"""kcat as Debian ships it against a broker: `row.py BOOTSTRAP RUN_ID`."""

import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "lib"))
import wire  # noqa: E402
from rows import Steps, check, run, wait_for  # noqa: E402

PARTITIONS = 6
BULK_RECORDS = 100_000
bootstrap, run_id = sys.argv[1], sys.argv[2]
steps = Steps()
FORMAT = "%p\\t%o\\t%k\\t%h\\t%s\\n"


def named(suffix):
    return f"kcat-{run_id}-{suffix}"


def kcat(*args, stdin=None, limit_s=60):
    return run(["kcat", "-b", bootstrap, *args], stdin, limit_s).stdout


def digest(lines):
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def bulk(topic):
    """100,000 records with keys and headers have the same checksum on both sides."""
    lines = [f"key-{i % 4999}\torder {i} {'y' * (i % 97)}" for i in range(BULK_RECORDS)]
    with steps.step("produce:100000-with-keys-and-headers"):
        kcat("-P", "-t", topic, "-K", "\t", "-H", "source=matrix", "-H", "trace=abc", stdin="\n".join(lines) + "\n")
    with steps.step("produce:100000-equal-checksum"):
        out = kcat("-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", FORMAT)
        rows = [line.split("\t", 4) for line in out.splitlines()]
        check(len(rows) == BULK_RECORDS, f"{len(rows)} records came back")
        check({row[3] for row in rows} == {"source=matrix,trace=abc"}, "headers differ")
        check(digest(f"{row[2]}\t{row[4]}" for row in rows) == digest(lines), "checksums differ")
        places = {}
        for row in rows:
            check(places.setdefault(row[2], row[0]) == row[0], f"key {row[2]} is in two partitions")
        order = {}
        for partition, offset, *_ in rows:
            check(int(offset) == order.get(partition, 0), f"partition {partition}: offset {offset} out of order")
            order[partition] = int(offset) + 1


def codecs(topic):
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        with steps.step(f"produce:{codec}"):
            lines = [f"{codec}-{i} {'z' * 50}" for i in range(2000)]
            kcat("-P", "-t", topic, "-z", codec, "-p", "0", stdin="\n".join(lines) + "\n")
            found = kcat("-C", "-t", topic, "-p", "0", "-o", "-2000", "-e", "-q").splitlines()
            check(found == lines, f"{len(found)} records, the first is {found[:1]}")
    with steps.step("produce:idempotent"):
        lines = [f"idempotent-{i}" for i in range(2000)]
        kcat("-P", "-t", topic, "-X", "enable.idempotence=true", "-p", "1", stdin="\n".join(lines) + "\n")
        check(kcat("-C", "-t", topic, "-p", "1", "-o", "-2000", "-e", "-q").splitlines() == lines, "not what was sent")


class Member:
    """`kcat -G` in the background; standard output is what it consumed, standard error tells its assignments."""

    def __init__(self, group, topic):
        self.files = [tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")]
        self.process = subprocess.Popen(
            ["kcat", "-b", bootstrap, "-G", group, "-X", "auto.offset.reset=earliest", "-u", "-f", FORMAT, topic],
            stdout=self.files[0], stderr=self.files[1], text=True)

    def text(self, which):
        # Not by seeking: the position is the child's as well, which would write over what it has written.
        file = self.files[which].fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode()

    def owned(self):
        changes = re.findall(r"rebalanced \(memberid [^)]*\): (assigned|revoked): (.*)", self.text(1))
        if not changes or changes[-1][0] == "revoked":
            return set()
        return set(map(int, re.findall(r"\[(\d+)\]", changes[-1][1])))

    def rows(self):
        text = self.text(0)
        return [line.split("\t", 4) for line in text[:text.rfind("\n") + 1].splitlines()]

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)


class Load(threading.Thread):
    """Feeds one kcat producer until it is stopped."""

    def __init__(self, topic):
        super().__init__(daemon=True)
        self.process = subprocess.Popen(["kcat", "-b", bootstrap, "-P", "-t", topic, "-K", ":", "-X", "linger.ms=5"],
                                        stdin=subprocess.PIPE, text=True)
        self.sent, self.stopping, self.paused = 0, threading.Event(), False
        self.start()

    def run(self):
        while not self.stopping.wait(0.01):
            if self.paused:
                continue
            for _ in range(10):
                self.process.stdin.write(f"k{self.sent}:live {self.sent}\n")
                self.sent += 1
            self.process.stdin.flush()

    def stop(self):
        self.stopping.set()
        self.join()
        self.process.stdin.close()
        check(self.process.wait(30) == 0, "the producer failed")


def group(topic):
    name, members, load = named("group"), [], Load(topic)

    def halves():
        owned = [m.owned() for m in members]
        return [len(o) for o in owned] == [3, 3] and len(set.union(*owned)) == PARTITIONS

    with steps.step("group:first-member"):
        members.append(Member(name, topic))
        wait_for("records of all partitions", lambda: len({row[0] for row in members[0].rows()}) == PARTITIONS)
    with steps.step("group:second-joins"):
        members.append(Member(name, topic))
        wait_for("three partitions on each member", halves)
        wait_for("records on the second member", lambda: len({row[0] for row in members[1].rows()}) == 3)
    with steps.step("group:second-leaves"):
        # kcat 1.7.1 commits but does not print a record that arrives while it ends, so it ends between records.
        load.paused = True
        # Its producer reads standard input in blocks, so the count settles below what was written to it.
        seen = []
        wait_for("the members to be at the end", lambda: seen.append(sum(len(m.rows()) for m in members)) or (
            len(seen) > 8 and len(set(seen[-8:])) == 1), every_s=0.2)
        members[1].stop()
        load.paused = False
        wait_for("all partitions on the first member", lambda: len(members[0].owned()) == PARTITIONS)
    with steps.step("group:all-accounted"):
        load.stop()
        wanted = {f"live {i}" for i in range(load.sent)}
        wait_for(f"all {load.sent} records",
                 lambda: {row[4] for m in members for row in m.rows()} >= wanted)
        members[0].stop()
        rows = [row for m in members for row in m.rows()]
        for partition in range(PARTITIONS):
            offsets = sorted({int(row[1]) for row in rows if row[0] == str(partition)})
            check(offsets == list(range(len(offsets))), f"partition {partition} has gaps")
        check(len({row[4] for row in rows}) == load.sent, "not every record was seen")
        steps.info("group-repeats", len(rows) - load.sent)


def resume(topic):
    name, total = named("resume"), sum(wire.list_offset(bootstrap, topic, p, -1) for p in range(PARTITIONS))
    base = ["-G", name, "-X", "auto.offset.reset=earliest", "-f", "%p %o\\n"]
    with steps.step("resume:commit"):
        first = kcat(*base, "-c", str(total // 3), topic).splitlines()
        check(len(first) == total // 3, f"{len(first)} records")
    with steps.step("resume:exact"):
        second = kcat(*base, "-c", str(total - total // 3), topic).splitlines()
        check(len(set(first) | set(second)) == total, f"{len(first)} + {len(second)} records are not all {total}")
        check(not set(first) & set(second), f"{len(set(first) & set(second))} records came twice")


def admin(topic):
    with steps.step("admin:metadata"):
        found = json.loads(kcat("-L", "-J"))
        check(len(found["brokers"]) >= 1 and topic in [t["topic"] for t in found["topics"]], str(found)[:300])
        one = json.loads(kcat("-L", "-J", "-t", topic))["topics"][0]
        check(len(one["partitions"]) == PARTITIONS and all(p["leader"] >= 0 for p in one["partitions"]), str(one))
    with steps.step("admin:list-offsets"):
        end = wire.list_offset(bootstrap, topic, 0, -1)
        out = kcat("-Q", "-t", f"{topic}:0:-1", "-t", f"{topic}:1:-2", "-t", f"{topic}:2:1")
        for line in (f"{topic} [0] offset {end}", f"{topic} [1] offset 0", f"{topic} [2] offset 0"):
            check(line in out, f"no '{line}' in {out}")
    with steps.step("admin:offset-by-time"):
        out = kcat("-Q", "-t", f"{topic}:0:{int(time.time() * 1000) + 86_400_000}")
        check("offset -1" in out, out)
    with steps.step("produce:auto-create"):
        fresh = named("auto")
        kcat("-P", "-t", fresh, "-k", "k", stdin="made by producing\n")
        check(kcat("-C", "-t", fresh, "-e", "-q").splitlines() == ["made by producing"], "not what was sent")


def main():
    found = re.search(r"Version (\S+).*(librdkafka \S+)", run(["kcat", "-V"]).stdout)
    steps.info("version", f"kcat {found.group(1)}, {found.group(2)}")
    topics = [named("bulk"), named("t"), named("live")]
    answers = wire.create_topics(bootstrap, [(topic, PARTITIONS) for topic in topics])
    check({error for error, _ in answers.values()} == {"NONE"}, answers)
    bulk(topics[0])
    codecs(topics[1])
    group(topics[2])
    resume(topics[2])
    admin(topics[0])
    sys.exit(1 if steps.failed else 0)


main()
