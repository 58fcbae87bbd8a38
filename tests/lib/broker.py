"""Starts, kills and watches a kafscale process. The binary is $KAFSCALE_BIN or the workspace's own debug build."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import wire

ROOT = pathlib.Path(__file__).resolve().parents[2]


def binary():
    """The path of the program under test; it is built by whoever calls the tests."""
    named = os.environ.get("KAFSCALE_BIN")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    candidates = [pathlib.Path(named)] if named else [target / "debug" / "kafscale", target / "release" / "kafscale"]
    for candidate in candidates:
        if candidate.is_file():
            return str(candidate.resolve())
    sys.exit(f"no kafscale binary at {', '.join(map(str, candidates))}: build it or set KAFSCALE_BIN")


def free_port(host="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


class Broker:
    """One kafscale process on ports and in a directory of its own, with what it prints kept in a file."""

    def __init__(self, data_dir=None, role="broker", args=(), env=None, link=None):
        """`link` is the network namespace that it lives in, if not ours."""
        self.role, self.args, self.env = role, list(args), dict(env or {})
        self.prefix = link.prefix if link else ()
        self.own_dir = None if data_dir else tempfile.mkdtemp(prefix="kafscale-test-")
        self.data_dir = pathlib.Path(data_dir or os.path.join(self.own_dir, "data"))
        self.host, self.port, self.metrics_port = (link.host, 9092, 9093) if link else ("127.0.0.1", free_port(), free_port())
        self.log_path = pathlib.Path(tempfile.mkstemp(prefix="kafscale-log-", suffix=".txt")[1])
        self.process = None

    @property
    def bootstrap(self):
        return f"{self.host}:{self.port}"

    def command(self):
        # Both backends named: nothing of it is on this disk.
        places = [] if {"--store", "--meta"} <= set(self.args) else ["--data-dir", str(self.data_dir)]
        return [*self.prefix, binary(), self.role, *places, "--listen", self.bootstrap, "--metrics-listen", f"{self.host}:{self.metrics_port}",
                *self.args]

    def spawn(self):
        log = open(self.log_path, "ab")
        env = {**os.environ, "RUST_BACKTRACE": "1", **self.env}
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        log.close()
        return self

    def start(self, limit_s=30):
        """Starts it and returns the seconds until it is ready for clients."""
        began = time.monotonic()
        self.spawn()
        while not self.ready():
            if self.process.poll() is not None:
                raise AssertionError(f"the broker ended with {self.process.returncode}: {self.log_tail()}")
            if time.monotonic() - began > limit_s:
                raise AssertionError(f"the broker is not ready after {limit_s} s: {self.log_tail()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def ready(self):
        try:
            return bool(wire.api_versions(self.bootstrap))
        except OSError:
            return False

    def http(self, path, limit_s=10):
        with urllib.request.urlopen(f"http://{self.host}:{self.metrics_port}{path}", timeout=limit_s) as answer:
            return answer.status, answer.read().decode()

    def kill9(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self, limit_s=30, sign=signal.SIGTERM):
        """Asks it to end and returns its exit code."""
        self.process.send_signal(sign)
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(f"the broker did not end within {limit_s} s of a signal: {self.log_tail()}") from None

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def log(self):
        return self.log_path.read_text(errors="replace")

    def log_tail(self, size=1500):
        return re.sub(r"\s+", " ", self.log()[-size:])

    def panics(self):
        return [line for line in self.log().splitlines() if "panicked at" in line]

    def rss_mib(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) // 1024
        return 0

    def close(self):
        if self.alive():
            try:
                self.stop()
            except AssertionError as error:
                print(f"INFO stop {error}", flush=True)
        if self.own_dir:
            shutil.rmtree(self.own_dir, ignore_errors=True)
        self.log_path.unlink(missing_ok=True)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.close()
