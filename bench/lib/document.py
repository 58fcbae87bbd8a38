"""docs/benchmarks.md and its plots, written from the figures of a run; nothing in it is written by hand but what stands here."""

import re

import goals
import plots
from scenarios import SETS
from systems import ROOT, SYSTEMS

CHANGES = ROOT / "bench" / "changes.md"
DOCUMENT, PLOTS = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks"

INTRODUCTION = """# Benchmarks

This page is written by `bench/run --docs` from the figures of one run; nothing in it is typed by hand.

```sh
make bench-quick      # KafScale and what the hardware can do, under two minutes
make bench-micro      # the hot functions one by one: time, throughput, allocations
make bench            # everything on this page, about an hour; needs what bench/setup installs
```

`bench/run --help` has the rest: single scenarios, systems, durability classes.

## How it is measured

- **One machine, one run, in turns.** Each round starts every system once in each durability class, afresh in an empty directory, warms it up and takes it
  through the same scenarios. Tables have the median of the rounds. Before each scenario of producing to a disk a system finishes what it does in the background,
  until it uses less than a tenth of a core; what it does when there is no such pause says the row of 20 seconds.
- **The same load for all.** `kafscale-bench` (in `bench/`) speaks Kafka's protocol with requests that are encoded before the clock starts, so that it costs
  little: 1 KiB records, values of noise, two connections, four partitions, five requests under way on each, acks=all, if nothing else is said.
  MB are 10⁶ bytes; of produced records only values count, of consumed ones whole batches.
- **Verified.** After producing, the log must have grown by exactly what was acknowledged. When consuming, offsets must follow without a gap, each batch's CRC32C
  must be right, and where the scenario has produced the data itself it must be one of the batches that were sent.
- **Pinned.** The broker has core 0, the load core 1 (and what it needs else, such as the S3 server). Figures with both on all cores are in a table of their own.
- **Latency is open loop.** Requests go out at their time whether earlier ones are answered or not, and are timed from when they were due, so a stall is
  charged to all that it held up. `send_lag` in the raw figures says what the generator itself added.
- **Durability classes are not mixed.** *memory*: nothing reaches a disk (Kafka: log in tmpfs). *page-cache*: acknowledged before it is on the
  disk, as Kafka does by default; KafScale has no such mode; Tansu over SQLite belongs here, since it runs SQLite with `synchronous=normal`, where a commit is
  not synced. *fdatasync*: on the disk before the acknowledgement, as KafScale does by default (Kafka: `log.flush.interval.messages=1`;
  Tansu: none). *s3*: in the same S3 server (SeaweedFS) behind the same proxy, which holds each PUT for {put_ms:.0f} ms.
- **The disk's burst credit** is used up first, and the disk is measured in every round, with several sizes of groups; the best of them is what goals are held against.
"""


def write(rows):
    figures = goals.Figures(rows)
    PLOTS.mkdir(parents=True, exist_ok=True)
    parts = [INTRODUCTION.format(put_ms=1000 * figures.machine.get("put_delay_s", 0)), machine(figures), goal_section(figures), plot_section(figures),
             unpinned(figures), every_figure(figures), hardware(figures), of_sql(), changes(), commands(figures), missing(figures)]
    DOCUMENT.write_text("\n".join(part for part in parts if part))
    return DOCUMENT


def of_sql():
    """The section that `bench/sql --docs` has written stays."""
    text = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    found = re.search(r"^## SQL over topics\n.*?(?=^## |\Z)", text, re.M | re.S)
    return found and found[0]


def table(headings, lines):
    return "\n".join(["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings), *("| " + " | ".join(line) + " |" for line in lines), ""])


def machine(figures):
    about = figures.machine
    facts = [(name, about[name]) for name in ("cpu", "memory", "kernel", "file system") if name in about]
    facts += [("KafScale", f"revision {about.get('revision', '?')}"), ("when", about.get("at", "?")),
              ("rounds", f"{about.get('rounds', '?')} of {about.get('seconds', '?')} s for each scenario; those without a spread, and all unpinned ones, "
                         f"{about.get('wide_rounds', '?')}")]
    note = f"\n**{about['note']}**\n" if about.get("note") else ""
    return f"{note}\n## The machine\n\n" + table(["", ""], [[name, str(value)] for name, value in facts])


def goal_section(figures):
    headings = [*goals.HEADINGS, "spread of KafScale"]
    lines = [[*goals.cells(row), row.spread] for row in goals.rows_of(figures)]
    text = "## Goals\n\n*ahead* says whether KafScale is better than every rival in the same class.\n\n" + table(headings, lines) + short_logs(figures)
    falls = goals.short_falls(figures)
    if falls:
        text += "\nWhat falls short:\n\n" + "\n".join(f"- {line.removeprefix('short: ')}" for line in falls) + "\n"
    return text


def short_logs(figures):
    found = {}
    for row in figures.rows:
        if row.get("records_beyond_the_end"):
            found.setdefault((row["system"], row["class"]), []).append(row["records_beyond_the_end"] / row["records"])
    lines = [f"{name} ({durability}): up to {max(shares):.1%}" for (name, durability), shares in found.items()]
    if not lines:
        return ""
    return ("\n† After this scenario the end of the log, as `ListOffsets` has it, was below what had been acknowledged, by this share of the records. "
            f"Whether they are there was not looked at: {'; '.join(lines)}.\n")


def plot_section(figures):
    names = list(SYSTEMS)

    def group(label, durability, scenario, metric, scale=1):
        values = [(name, figures.median(name, scenario, metric, durability=durability)) for name in names]
        return label, [(name, value / scale if value else None) for name, value in values]

    disk = [("hardware", figures.disk_mb_per_s())]
    durable = group("fdatasync, 1 MiB", "fdatasync", "produce_1m", "throughput_mb_per_s")
    percentiles = [("p50", "p50"), ("p99", "p99"), ("p99.9", "p999")]
    charts = {
        "produce": plots.bars("Produce", "MB/s", [group("memory, 64 KiB", "memory", "produce_64k", "throughput_mb_per_s"),
                                                  group("memory, 1 MiB", "memory", "produce_1m", "throughput_mb_per_s"),
                                                  (durable[0], [*durable[1], *disk])]),
        "cpu": plots.bars("CPU of the broker", "seconds per GB", [group("produce, memory, 1 MiB", "memory", "produce_1m", "broker_cpu_s_per_gb"),
                                                                  group("produce, fdatasync, 1 MiB", "fdatasync", "produce_1m", "broker_cpu_s_per_gb"),
                                                                  group("consume, hot", "fdatasync", "consume_hot", "broker_cpu_s_per_gb")]),
        "consume": plots.bars("Consume", "MB/s", [group("hot", "fdatasync", "consume_hot", "throughput_mb_per_s"),
                                                  group("cold", "fdatasync", "consume_cold", "throughput_mb_per_s")]),
        "acknowledgement": plots.bars("One record at a time, durable", "µs", [group(label, "fdatasync", "ack_single", f"ack_{name}_us")
                                                                              for label, name in percentiles], log=True),
        "end-to-end": plots.bars("End to end, 500 records/s, durable", "ms", [group(label, "fdatasync", "end_to_end", f"end_to_end_{name}_us", 1000)
                                                                              for label, name in percentiles], log=True),
        "start-and-memory": plots.bars("Start and memory", "ms, MiB", [group("start to first record, ms", "fdatasync", "start_fresh", "first_ack_ms"),
                                                                       group("idle memory, MiB", "fdatasync", "idle", "broker_rss_mib")], log=True),
    }
    lines = []
    for name, chart in charts.items():
        if chart:
            (PLOTS / f"{name}.svg").write_text(chart)
            lines.append(f"![{name}](benchmarks/{name}.svg)\n")
    return "## Plots\n\n" + "\n".join(lines)


def unpinned(figures):
    rows = goals.rows_of(figures, "unpinned")
    if not rows:
        return ""
    headings = ["what", "class", "unit", "KafScale", "Kafka", "Tansu", "Kafka, page cache", "Tansu, page cache", "spread of KafScale"]
    lines = [[row.goal.what, row.goal.durability, row.goal.unit, row.own, row.rivals["kafka"], row.rivals["tansu"], *row.page_cache.values(), row.spread]
             for row in rows]
    return "\n## Without pinning\n\n" + table(headings, lines)


METRICS = [("throughput_mb_per_s", "MB/s"), ("records_per_s", "records/s"), ("broker_cpu_s_per_gb", "CPU s/GB"), ("ack_p50_us", "ack p50 µs"),
           ("ack_p99_us", "ack p99 µs"), ("ack_p999_us", "ack p99.9 µs"), ("ack_max_us", "ack max µs"), ("broker_rss_mib", "RSS MiB")]


def every_figure(figures):
    """A line for each scenario and system: medians, with the spread of the first figure."""
    lines = []
    for durability, scenarios in SETS.items():
        for scenario in scenarios:
            for name in SYSTEMS:
                line = [figures.median(name, scenario.__name__, metric, durability=durability) for metric, _ in METRICS]
                if any(value is not None for value in line):
                    lines.append([f"`{scenario.__name__}`", durability, name, *map(goals.number, line), spread(figures, name, scenario, durability)])
    if not lines:
        return ""
    headings = ["scenario", "class", "system", *(text for _, text in METRICS), "spread of MB/s or ack p99"]
    return "\n## Every scenario, pinned\n\n" + table(headings, lines)


def spread(figures, name, scenario, durability):
    for metric in ("throughput_mb_per_s", "ack_p99_us"):
        values = figures.values(name, scenario.__name__, metric, durability=durability)
        if len(values) > 1:
            return f"{goals.number(min(values))} – {goals.number(max(values))}"
    return ""


def hardware(figures):
    lines = []
    for placement in ("pinned", "unpinned"):
        names = dict.fromkeys(row["scenario"] for row in figures.rows if row["system"] == "hardware" and row.get("placement") == placement)
        for name in names:
            def median(metric, name=name, placement=placement):
                return goals.number(figures.median("hardware", name, metric, placement=placement))
            latency = "round_trip" if name == "loopback" else "fdatasync"
            lines.append([name, placement, median("throughput_mb_per_s"), median(f"{latency}_p50_us"), median(f"{latency}_p99_us"), median(f"{latency}_max_us")])
    return "\n## The hardware, in the same run\n\n" + table(["what", "placement", "MB/s", "p50 µs", "p99 µs", "max µs"], lines)


def commands(figures):
    """One command line of each kind, as it was run."""
    systems = {(row["system"], row["class"]): row["command"] for row in figures.rows if row["scenario"] == "session" and row.get("command")}
    load = {(row["scenario"]): row["command"] for row in figures.rows if row.get("command") and row["scenario"] != "session"}
    lines = [f"# {name}, {durability}\n{command}" for (name, durability), command in systems.items()]
    lines += [f"# {scenario}\n{command}" for scenario, command in load.items()]
    return "\n## Command lines\n\nPinned runs have `taskset -c 0` before a broker and `taskset -c 1` before the load.\n\n```text\n" + "\n".join(lines) + "\n```\n"


def changes():
    return "\n## What changes gave\n\n" + CHANGES.read_text()


def missing(figures):
    found = {}
    for row in figures.rows:
        why = row.get("missing") or row.get("error")
        if why:
            found.setdefault((row["system"], row["class"], row["scenario"], why), []).append(row["round"])
    if not found:
        return ""
    lines = [[name, durability, scenario, f"{why} (rounds {', '.join(map(str, sorted(set(rounds))))})".replace("|", "\\|").replace("\n", " ")]
             for (name, durability, scenario, why), rounds in found.items()]
    return "\n## What has no figure\n\n" + table(["system", "class", "scenario", "why"], lines)
