"""The services that a cluster stands on, as real processes: etcd, and an S3 server (SeaweedFS)."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request

from cache import CACHE
from rows import wait_for

WEED = CACHE / "seaweedfs" / "bin" / "weed"
BUCKET = "kafscale"
ACCESS_KEY, SECRET_KEY = "kafscale-test", "kafscale-test-secret"


def free_ports(count, host="127.0.0.1"):
    """Ports that are free now, all different."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in probes]


class Service:
    """A process with a directory of its own that can be killed, paused, and started again on what it kept."""

    def __init__(self, name, host):
        self.name, self.host, self.process = name, host, None
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"kafscale-{name}-"))
        self.log_path = self.dir / "log.txt"

    def start(self, limit_s=60):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, **self.env()}, cwd=self.dir)
        wait_for(f"{self.name} to be ready", self.ready_or_ended, limit_s)
        return self

    def ready_or_ended(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}: {self.log_path.read_text()[-1000:]}")
        return self.ready()

    def env(self):
        return {}

    def send(self, sign):
        self.process.send_signal(sign)

    def pause(self):
        self.send(signal.SIGSTOP)

    def resume(self):
        self.send(signal.SIGCONT)

    def stop(self, sign=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.resume()
            self.send(sign)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def close(self):
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.dir, ignore_errors=True)

    def http_ok(self, url):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except urllib.error.HTTPError as error:
            return error.code < 500
        except OSError:
            return False


class Etcd(Service):
    def __init__(self, host="127.0.0.1"):
        super().__init__("etcd", host)
        self.port, self.peer_port = free_ports(2, host)

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    def command(self):
        client, peer = f"http://{self.address}", f"http://{self.host}:{self.peer_port}"
        return ["etcd", "--name", "etcd", "--data-dir", str(self.dir / "data"), "--listen-client-urls", client,
                "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", f"etcd={peer}", "--log-level", "warn"]

    def ready(self):
        return self.http_ok(f"http://{self.address}/health")


class S3Server(Service):
    """SeaweedFS in one process, with one bucket. Ports of its own for all that it opens; what it would tell its makers is off."""

    def __init__(self, host="127.0.0.1"):
        super().__init__("s3", host)
        names = ("s3", "s3.grpc", "s3.iceberg", "s3.lance", "master", "master.grpc", "filer", "filer.grpc", "volume", "volume.grpc",
                 "admin", "admin.grpc")
        self.ports = dict(zip(names, free_ports(len(names), host)))
        self.port = self.ports["s3"]

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    def env(self):
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def command(self):
        ports = [f"-{name if '.' in name else name + '.port'}={port}" for name, port in self.ports.items() if "." not in name]
        ports += [f"-{name.split('.')[0]}.port.{name.split('.')[1]}={port}" for name, port in self.ports.items() if "." in name]
        data = self.dir / "data"
        data.mkdir(exist_ok=True)
        return [str(WEED), "mini", f"-dir={data}", f"-ip={self.host}", f"-ip.bind={self.host}", "-master.telemetry=false",
                "-webdav=false", "-admin.ui=false", f"-bucket={BUCKET}", f"-filer.localSocket={self.dir / 'filer.sock'}", *ports]

    def ready(self):
        # The buckets are made last.
        return self.http_ok(f"http://{self.address}/") and "ready to use" in self.log_path.read_text(errors="replace")[-6000:]

    def objects(self, prefix=""):
        """(key, size) of everything below a prefix of the bucket, from the server's own file view."""
        found = []
        pending = [f"/buckets/{BUCKET}/{prefix}"]
        while pending:
            path = pending.pop()
            for entry in self.listing(path):
                if entry.get("Mode", 0) & 1 << 31:
                    pending.append(entry["FullPath"] + "/")
                else:
                    found.append((entry["FullPath"].removeprefix(f"/buckets/{BUCKET}/"), entry.get("FileSize", 0)))
        return found

    def listing(self, path):
        last = ""
        while True:
            url = f"http://{self.host}:{self.ports['filer']}{path.rstrip('/')}/?limit=1000&lastFileName={last}"
            request = urllib.request.Request(url, headers={"Accept": "application/json"})
            with urllib.request.urlopen(request, timeout=20) as answer:
                page = json.load(answer)
            entries = page.get("Entries") or []
            yield from entries
            if len(entries) < 1000:
                return
            last = page["LastFileName"]

