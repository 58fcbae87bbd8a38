"""The systems that are measured, as processes: KafScale, Apache Kafka, Tansu, each in the durability classes that it has.

    memory      nothing reaches a disk: KafScale and Tansu with stores in memory, Kafka with its log in tmpfs
    page-cache  acknowledged from the page cache, written back by the kernel: Kafka's default; Tansu over SQLite, which it sets to
                write-ahead mode with synchronous=normal, where a commit is not synced. KafScale has no such class
    fdatasync   on the disk before it is acknowledged: KafScale's default; Kafka with log.flush.interval.messages=1
    s3          in an S3 server before it is acknowledged, PUTs delayed by a proxy
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "lib"))
import wire  # noqa: E402
from broker import free_port  # noqa: E402
from cache import CACHE  # noqa: E402
from services import ACCESS_KEY, BUCKET, SECRET_KEY  # noqa: E402

BROKER_CORE, LOAD_CORE = 0, 1
KAFKA_LIBS = CACHE / "kafka-tools-libs"
TANSU = CACHE / "tansu" / "bin" / "tansu"
# As kafka-server-start.sh and kafka-run-class.sh have it.
KAFKA_JVM = ["-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
             "-XX:+ExplicitGCInvokesConcurrent", "-XX:MaxInlineLevel=15", "-Djava.awt.headless=true"]


class Missing(Exception):
    """This system is not there in this class, or not on this machine; the text says why."""


def on_core(core, pinned):
    return ["taskset", "-c", str(core)] if pinned else []


class System:
    """A broker with a directory of its own. `store` is the address of the S3 server in class s3."""

    name = ""
    classes = ()
    keeps_batches = True
    """Whether a consumer gets the batches that a producer has sent."""
    shows_all = True
    """Whether the log's end is behind every record that was acknowledged."""
    start_limit_s = 120

    def __init__(self, durability, pinned, work_dir, store=None):
        if durability not in self.classes:
            raise Missing(self.no_class(durability))
        self.durability, self.pinned, self.store = durability, pinned, store
        self.in_memory = pathlib.Path("/dev/shm") if durability == "memory" else work_dir
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"bench-{self.name}-", dir=self.in_memory))
        self.log_path = self.dir / "log.txt"
        self.port, self.process = free_port(), None
        self.prepare()

    def no_class(self, durability):
        return f"{self.name} has no class {durability}"

    def prepare(self):
        pass

    def env(self):
        return {}

    @property
    def bootstrap(self):
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    def shown(self):
        """The command line, with what differs from run to run left out."""
        text = " ".join(str(word) for word in self.command())
        return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text.replace(str(self.dir), "DIR").replace(str(CACHE), "CACHE"))

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([*on_core(BROKER_CORE, self.pinned), *map(str, self.command())], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env={**os.environ, **self.env()}, cwd=self.dir)
        deadline = time.monotonic() + self.start_limit_s
        while not self.ready():
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}: {self.log_tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} is not ready after {self.start_limit_s} s: {self.log_tail()}")
            time.sleep(0.05)
        return self

    def ready(self):
        try:
            return bool(wire.api_versions(self.bootstrap))
        except (OSError, AssertionError):
            return False

    def log_tail(self, size=800):
        return re.sub(r"\s+", " ", self.log_path.read_text(errors="replace")[-size:])

    def rss_mib(self):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return round(int(line.split()[1]) / 1024, 1)
        return None

    def segments_dir(self):
        """Where records stand in the end."""
        return self.dir / "data"

    def metrics(self):
        """Its own counters, where it has any."""
        return {}

    def stop(self, limit_s=60):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(limit_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
        # Where the file system discards what is freed, it does so in its next commit; not at the cost of whoever is measured next.
        os.sync()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Kafscale(System):
    name = "kafscale"
    classes = ("memory", "fdatasync", "s3")

    def no_class(self, durability):
        if durability == "page-cache":
            return "KafScale acknowledges only what is durable, or keeps nothing; there is nothing between"
        return super().no_class(durability)

    def prepare(self):
        self.metrics_port = free_port()

    def backends(self):
        if self.durability == "memory":
            return ["--store", "memory:", "--meta", "memory:"]
        if self.durability == "s3":
            # PUTs cost nothing here, so it is asked to write at once, as it does on a disk.
            return ["--store", f"s3://{BUCKET}/kafscale-{self.dir.name}", "--meta", f"file://{self.dir}/meta", "--wal-min-interval", "0ms"]
        return ["--data-dir", self.dir / "data"]

    def env(self):
        if self.durability != "s3":
            return {}
        return {"KAFSCALE_S3_ENDPOINT": f"http://{self.store}", "KAFSCALE_S3_ACCESS_KEY_ID": ACCESS_KEY,
                "KAFSCALE_S3_SECRET_ACCESS_KEY": SECRET_KEY}

    def command(self):
        return [kafscale_binary(), "broker", *self.backends(), "--listen", self.bootstrap, "--metrics-listen", f"127.0.0.1:{self.metrics_port}"]

    def shown(self):
        return super().shown().replace(kafscale_binary(), "kafscale")

    def metrics(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            found = re.findall(r"^(kafscale_\w+)(?:\{\})? ([0-9.e+]+)$", answer.read().decode(), re.M)
            return {name: float(value) for name, value in found}
        return {}

    def segments_dir(self):
        return self.dir / "data" / "topics"


def kafscale_binary():
    named = os.environ.get("KAFSCALE_BIN")
    binary = pathlib.Path(named or pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "kafscale")
    if not binary.is_file():
        sys.exit(f"no kafscale binary at {binary}: `make build`, or set KAFSCALE_BIN")
    return str(binary.resolve())


class Kafka(System):
    """Apache Kafka, one process for broker and controller, from the jars that tests/setup fetches for its tools."""

    name = "kafka"
    classes = ("memory", "page-cache", "fdatasync")

    def no_class(self, durability):
        return "Apache Kafka keeps its log on disks" if durability == "s3" else super().no_class(durability)

    def prepare(self):
        if not list(KAFKA_LIBS.glob("kafka-server-[0-9]*.jar")) or not shutil.which("java"):
            raise Missing("no Java or no jars of Apache Kafka: run bench/setup")
        self.properties = self.dir / "server.properties"
        controller = free_port()
        settings = {
            "process.roles": "broker,controller", "node.id": 1, "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}", "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT", "log.dirs": self.dir / "data",
            "offsets.topic.replication.factor": 1, "transaction.state.log.replication.factor": 1, "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1, "share.coordinator.state.topic.min.isr": 1,
            # As in the server.properties that it comes with.
            "num.network.threads": 3, "num.io.threads": 8, "socket.send.buffer.bytes": 102400, "socket.receive.buffer.bytes": 102400,
        }
        if self.durability == "fdatasync":
            settings["log.flush.interval.messages"] = 1
        self.properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        cluster_id = uuid.uuid4().hex[:22]
        done = subprocess.run(["java", "-cp", f"{KAFKA_LIBS}/*", "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c",
                               str(self.properties)], capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise AssertionError(f"formatting Kafka's storage: {done.stdout[-400:]} {done.stderr[-400:]}")

    def command(self):
        return ["java", *KAFKA_JVM, "-cp", f"{KAFKA_LIBS}/*", "kafka.Kafka", self.properties]

    def shown(self):
        extra = {"fdatasync": " (with log.flush.interval.messages=1)", "memory": " (with log.dirs in tmpfs)"}
        return super().shown() + extra.get(self.durability, "")


class Tansu(System):
    name = "tansu"
    classes = ("memory", "page-cache", "s3")
    keeps_batches = shows_all = False

    def no_class(self, durability):
        if durability == "fdatasync":
            return "Tansu's SQLite runs with synchronous=normal, so a commit is not on the disk when it is acknowledged; see class page-cache"
        return super().no_class(durability)

    def prepare(self):
        if not TANSU.is_file():
            raise Missing("Tansu is not installed: run bench/setup (its build takes long)")
        (self.dir / "data").mkdir()

    def storage(self):
        if self.durability == "memory":
            return "memory://tansu/"
        return f"s3://{BUCKET}/" if self.durability == "s3" else "sqlite://data/tansu.db"

    def env(self):
        if self.durability != "s3":
            return {}
        return {"AWS_ENDPOINT": f"http://{self.store}", "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": "us-east-1"}

    def command(self):
        return [TANSU, "broker", "--cluster-id", "bench", "--listener-url", f"tcp://{self.bootstrap}", "--advertised-listener-url",
                f"tcp://{self.bootstrap}", "--storage-engine", self.storage()]


SYSTEMS = {system.name: system for system in (Kafscale, Kafka, Tansu)}
