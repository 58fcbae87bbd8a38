"""Everything that clients do to a cluster while a test hurts it, and the verdict at the end."""

import shutil
import time

from confluent_kafka.admin import AdminClient, NewTopic
from load import GROUP, JavaLoad, Load, PlainLoad, Resumer, at_least_once, exactly_once
from rows import check, wait_for
from watch import CommitWatch, Observer


class Workloads:
    """Idempotent producers of two makes, one that repeats itself, a group that commits, and watchers of all of it."""

    def __init__(self, bootstrap, partitions=6, kafka_python=True):
        """`kafka_python` repeats itself by that client, or else by librdkafka without idempotence."""
        self.bootstrap, self.partitions = bootstrap, partitions
        admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
        self.topics = ["once", "once-java", "plain"]
        for future in admin.create_topics([NewTopic(topic, partitions) for topic in self.topics], operation_timeout=30).values():
            future.result(60)
        self.once = Load(bootstrap, "once", partitions, pause_s=0.01, **{"enable.idempotence": True})
        self.java = JavaLoad(bootstrap, "once-java", partitions, pause_ms=10) if shutil.which("java") else None
        if kafka_python:
            self.plain = PlainLoad(bootstrap, "plain", partitions, pause_ms=20)
        else:
            self.plain = Load(bootstrap, "plain", partitions, pause_s=0.02, **{"max.in.flight.requests.per.connection": 1})
        self.plain_name = "kafka-python" if kafka_python else "librdkafka-without-idempotence"
        self.resumer = Resumer(bootstrap, "once", partitions)
        self.observers = {topic: Observer(bootstrap, topic, partitions) for topic in self.topics}
        self.commits = CommitWatch(bootstrap, GROUP, "once", partitions)
        wait_for("the first commit", lambda: self.resumer.commits or self.resumer.error, 60)

    def look(self):
        """Fails as soon as something is wrong that time does not heal."""
        for watcher in (self.resumer, self.commits, *self.observers.values()):
            check(watcher.error is None, f"{type(watcher).__name__}: {watcher.error}")
        check(not self.once.errors, f"{len(self.once.errors)} errors of the producer, the first: {self.once.errors[:1]}")

    def wait_for_service(self, since_s, limit_s=60):
        """Until every partition has acknowledged, and every group partition was read, after this moment; gives the seconds."""
        wait_for("every partition to acknowledge again", lambda: min(self.once.last_s) > since_s or self.once.errors, limit_s)
        for observer in self.observers.values():
            wait_for(f"every partition of {observer.topic} to be read again",
                     lambda o=observer: min(o.last_s) > since_s or o.error, limit_s)
        commits = self.resumer.commits
        wait_for("one more commit", lambda: self.resumer.commits > commits or self.resumer.error, limit_s)
        self.look()
        return time.monotonic() - since_s

    def stop_producers(self, steps):
        for name, load in (("librdkafka", self.once), (self.plain_name, self.plain), ("java", self.java)):
            if load is None:
                steps.skip(f"end:{name}-producer", "there is no Java on this machine")
                continue
            with steps.step(f"end:{name}-producer"):
                load.finish()

    def verdict(self, steps):
        """Ends everything and checks every record."""
        self.stop_producers(steps)
        with steps.step("end:group"):
            self.resumer.stopping.set()
            self.resumer.join(60)
            check(self.resumer.error is None, self.resumer.error)
            self.resumer.check_against(self.bootstrap)
        with steps.step("end:committed-offsets-never-went-backwards"):
            steps.info("committed-offsets", f"asked {self.commits.finish()} times, {self.resumer.commits} commits, "
                       f"{self.resumer.resumed} resumed partitions")
        found = {}
        with steps.step("end:librdkafka-exactly-once-in-order"):
            found["once"] = exactly_once(self.bootstrap, "once", self.once)
        if self.java:
            with steps.step("end:java-exactly-once-in-order"):
                found["once-java"] = exactly_once(self.bootstrap, "once-java", self.java)
        with steps.step(f"end:{self.plain_name}-at-least-once-in-order"):
            found["plain"], repeats = at_least_once(self.bootstrap, "plain", self.plain)
            steps.info("repeats-without-idempotence", repeats)
        for topic, records in found.items():
            with steps.step(f"end:no-offset-of-{topic}-had-two-values"):
                steps.info(f"records-of-{topic}", f"{sum(map(len, records))}, {self.observers[topic].finish(records)} of them seen live")

    def close(self):
        """After a failure: nothing is left running."""
        self.once.stopping.set()
        self.resumer.stopping.set()
        self.commits.stopping.set()
        for observer in self.observers.values():
            observer.stopping.set()
        for load in (self.java, self.plain):
            if isinstance(load, Load):
                load.stopping.set()
            elif load and load.process.poll() is None:
                load.process.kill()
                load.process.wait()
