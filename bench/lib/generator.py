"""Runs the load generator, on a core of its own or anywhere, and reads its line of JSON."""

import json
import os
import pathlib
import subprocess
import sys

from systems import LOAD_CORE, ROOT, on_core


def binary():
    named = os.environ.get("KAFSCALE_BENCH_BIN")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    found = pathlib.Path(named) if named else target / "release" / "kafscale-bench"
    if not found.is_file():
        sys.exit(f"no load generator at {found}: `cargo build --release -p kafscale-bench`, or set KAFSCALE_BENCH_BIN")
    return str(found.resolve())


def flags(options):
    """`{"batch_bytes": 1, "create": True}` as `--batch-bytes 1 --create`."""
    words = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
    return words


def command(mode, pinned=True, after=(), core=LOAD_CORE, **options):
    return [*on_core(core, pinned), binary(), mode, *flags(options), *after]


def run(mode, pinned=True, limit_s=180, after=(), core=LOAD_CORE, system=None, **options):
    """The figures of one run; with a system, where and with what that is started."""
    words = command(mode, pinned, after, core, **options)
    place = {"cwd": system.dir, "env": {**os.environ, **system.env()}} if system else {}
    done = subprocess.run(words, capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL, **place)
    if done.returncode:
        raise AssertionError(f"{mode}: {' '.join(done.stderr.split())[-500:]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    figures["command"] = " ".join(["kafscale-bench", mode, *flags({k: v for k, v in options.items() if k not in ("pid", "broker", "batch_crcs", "dir", "to")})])
    return figures
