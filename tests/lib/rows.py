"""For rows and suites written in Python around other programs: steps with a verdict each, and bounded commands."""

import contextlib
import subprocess
import sys
import threading
import time


class Skip(Exception):
    """Raised within a step that cannot be taken."""


class Steps:
    """Prints `PASS step` or `FAIL step: why` for each step and counts them. Threads may share it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.passed = 0
        self.failed = 0
        self.skipped = 0

    @contextlib.contextmanager
    def step(self, name):
        try:
            yield
        except Skip as why:
            self.skip(name, why)
        except Exception as error:  # a failure is the result of a step, whatever raised it
            why = " ".join(f"{type(error).__name__ if not isinstance(error, AssertionError) else ''} {error}".split())
            with self.lock:
                self.failed += 1
                print(f"FAIL {name}: {why[:1200]}", flush=True)
        else:
            with self.lock:
                self.passed += 1
                print(f"PASS {name}", flush=True)

    def skip(self, name, why):
        self.skipped += 1
        print(f"SKIP {name}: {why}", flush=True)

    def info(self, key, value):
        print(f"INFO {key} {value}", flush=True)

    def close(self):
        """Prints the closing line of a suite and leaves with its exit code."""
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        print(f"{self.passed} passed, {self.failed} failed{skipped}", flush=True)
        sys.exit(1 if self.failed else 0)


def check(holds, otherwise):
    if not holds:
        raise AssertionError(otherwise)


def wait_for(what, condition, wait_s=30, every_s=0.1):
    deadline = time.monotonic() + wait_s
    while True:
        result = condition()
        if result:
            return result
        check(time.monotonic() < deadline, f"timed out after {wait_s} s waiting for {what}")
        time.sleep(every_s)


def run(command, stdin=None, limit_s=60, ok=True):
    """The output of a command, standard error joined to it unless it prints its result there too."""
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=limit_s, text=isinstance(stdin, str) or stdin is None)
    if ok and done.returncode != 0:
        raise AssertionError(f"{command[0]} ended with {done.returncode}: {done.stderr!s:.400} {done.stdout!s:.400}")
    return done
