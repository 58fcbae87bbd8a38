"""What the machine itself does, measured in the same run; and the disk's burst credit, which is used up first."""

import contextlib
import os
import pathlib
import platform
import subprocess

import generator
from systems import BROKER_CORE

GROUPS = {"4k": 4 << 10, "64k": 64 << 10, "1m": 1 << 20, "4m": 4 << 20, "8m": 8 << 20}
MESSAGE_BYTES = 1200
"""One record of 1 KiB with all that is around it, as it goes over the network and to the disk."""


def baselines(work_dir, pinned, seconds):
    """[(scenario, figures)] of the disk and the loopback."""
    found = [(f"disk-{name}", generator.run("disk", pinned, dir=work_dir, group_bytes=size, seconds=seconds)) for name, size in GROUPS.items()]
    found.append(("disk-record", generator.run("disk", pinned, dir=work_dir, group_bytes=MESSAGE_BYTES, seconds=seconds)))
    with echo(pinned) as (address, pid):
        found.append(("loopback", generator.run("round-trip", pinned, to=address, pid=pid, message_bytes=MESSAGE_BYTES, seconds=seconds)))
    return found


@contextlib.contextmanager
def echo(pinned):
    server = subprocess.Popen(generator.command("echo", pinned, core=BROKER_CORE), stdout=subprocess.PIPE, text=True)
    try:
        yield server.stdout.readline().strip(), server.pid
    finally:
        server.kill()
        server.wait()


def burn(work_dir, limit_s, say):
    """Writes until the disk is no slower than before: then what it may do in bursts is used up."""
    rates, step_s = [], 5
    for step in range(max(1, int(limit_s / step_s))):
        rates.append(generator.run("disk", pinned=False, dir=work_dir, group_bytes=8 << 20, seconds=step_s)["throughput_mb_per_s"])
        say(f"burst credit of the disk: {rates[-1]:.0f} MB/s")
        if step >= 3 and min(rates[-3:]) > 0.9 * max(rates[-3:]) and rates[-1] < 0.95 * rates[0]:
            break
    return rates


def machine(work_dir):
    """{what: value} of the machine, for the document."""
    cpu = next((line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    memory_kib = int(pathlib.Path("/proc/meminfo").read_text().split()[1])
    kind = subprocess.run(["stat", "-f", "-c", "%T", work_dir], capture_output=True, text=True).stdout.strip()
    return {"cpu": f"{os.cpu_count()} × {cpu}", "memory": f"{memory_kib / (1 << 20):.0f} GiB", "kernel": f"Linux {platform.release()}",
            "file system": kind}
