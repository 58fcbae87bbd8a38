"""The goals, each a row of the table: what, how much, from which scenario; and the table itself."""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Callable

CAUSES = pathlib.Path(__file__).resolve().parents[1] / "causes.json"
RIVALS = ("kafka", "tansu")
# Beside figures of a system whose log ends before the last records that it acknowledged.
SHORT_LOG = " †"


class Figures:
    """Medians over the rounds of all that was recorded."""

    def __init__(self, rows):
        self.rows = [row for row in rows if row.get("scenario")]
        self.machine = next((row for row in rows if row["system"] == "machine"), {})

    def having(self, system, scenario, durability=None, placement="pinned"):
        return [row for row in self.rows if row["system"] == system and row["scenario"] == scenario
                and durability in (None, row.get("class")) and placement == row.get("placement")]

    def values(self, system, scenario, metric, durability=None, placement="pinned"):
        return [row[metric] for row in self.having(system, scenario, durability, placement) if row.get(metric) is not None]

    def median(self, *which, **where):
        values = self.values(*which, **where)
        return statistics.median(values) if values else None

    def why_not(self, system, scenario, durability, placement="pinned"):
        """Why there is no figure, or None."""
        for row in [*self.having(system, scenario, durability, placement), *self.having(system, "session", durability, placement)]:
            if row.get("missing") or row.get("error"):
                return row.get("missing") or row.get("error")
        return None

    def disk_mb_per_s(self, placement="pinned"):
        """The best that the disk sustains with any size of groups."""
        rates = [self.median("hardware", f"disk-{size}", "throughput_mb_per_s", placement=placement) for size in ("64k", "1m", "4m", "8m")]
        return max((rate for rate in rates if rate), default=None)

    def record_floor_us(self, placement="pinned"):
        """What one durable record costs at least: an fdatasync and a way over loopback and back."""
        parts = (self.median("hardware", "disk-record", "fdatasync_p50_us", placement=placement),
                 self.median("hardware", "loopback", "round_trip_p50_us", placement=placement))
        return sum(parts) if all(parts) else None

    def of_kafscale(self, scenario, metric, durability):
        return lambda placement: self.median("kafscale", scenario, metric, durability=durability, placement=placement)


@dataclasses.dataclass
class Goal:
    id: str
    what: str
    durability: str
    scenario: str
    metric: str
    unit: str
    at_least: bool
    """Whether more is better."""
    bound: Callable | float | None
    """The number, or how it comes from the figures of the run; None where the figure is only stated."""
    bound_text: str = ""
    scale: float = 1

    def limit(self, figures):
        return self.bound(figures) if callable(self.bound) else self.bound

    def meets(self, value, limit):
        return value >= limit if self.at_least else value <= limit

    def better(self, one, other):
        return one > other if self.at_least else one < other


def times(factor, part):
    return lambda figures: factor * part(figures) if part(figures) else None


def few_p99(figures):
    value = figures.median("kafscale", "few_connections", "ack_p99_us", durability="fdatasync")
    return value / 1000 if value else None


MB, S_PER_GB, MS, US, MIB = "MB/s", "CPU s/GB", "ms", "µs", "MiB"
GOALS = [
    Goal("memory-64k", "produce in memory, 64 KiB batches", "memory", "produce_64k", "throughput_mb_per_s", MB, True, 650),
    Goal("memory-64k-cpu", "… broker's CPU", "memory", "produce_64k", "broker_cpu_s_per_gb", S_PER_GB, False, 0.55),
    Goal("memory-1m", "produce in memory, 1 MiB batches", "memory", "produce_1m", "throughput_mb_per_s", MB, True, 650),
    Goal("memory-1m-cpu", "… broker's CPU", "memory", "produce_1m", "broker_cpu_s_per_gb", S_PER_GB, False, 0.55),
    Goal("durable-1m", "produce durable, 1 MiB batches", "fdatasync", "produce_1m", "throughput_mb_per_s", MB, True,
         times(0.9, Figures.disk_mb_per_s), "90% of the disk, {:,.0f}"),
    Goal("durable-64k", "produce durable, 64 KiB batches", "fdatasync", "produce_64k", "throughput_mb_per_s", MB, True,
         times(0.9, Figures.disk_mb_per_s), "90% of the disk, {:,.0f}"),
    Goal("durable-sustained", "… 1 MiB batches, for 20 s", "fdatasync", "produce_sustained", "throughput_mb_per_s", MB, True, None),
    Goal("durable-cpu", "… broker's CPU", "fdatasync", "produce_1m", "broker_cpu_s_per_gb", S_PER_GB, False, None),
    Goal("hot", "consume, hot", "fdatasync", "consume_hot", "throughput_mb_per_s", MB, True, 1000),
    Goal("hot-cpu", "… broker's CPU", "fdatasync", "consume_hot", "broker_cpu_s_per_gb", S_PER_GB, False, None),
    Goal("cold", "consume, cold: share of the store's own rate", "fdatasync", "consume_cold", "share_of_store_read", "", True, 0.8),
    Goal("cold-rate", "consume, cold", "fdatasync", "consume_cold", "throughput_mb_per_s", MB, True, None),
    Goal("single", "acknowledgement, one record at a time, p50", "fdatasync", "ack_single", "ack_p50_us", US, False,
         times(1.3, Figures.record_floor_us), "1.3 × (fdatasync + loopback), {:,.0f}"),
    Goal("single-p99", "acknowledgement, one record at a time, p99", "fdatasync", "ack_single", "ack_p99_us", US, False, None),
    Goal("e2e-p50", "end to end, 500 records/s, p50", "fdatasync", "end_to_end", "end_to_end_p50_us", MS, False, 1, scale=1000),
    Goal("e2e-p99", "end to end, 500 records/s, p99", "fdatasync", "end_to_end", "end_to_end_p99_us", MS, False, 5, scale=1000),
    Goal("e2e-p999", "end to end, 500 records/s, p99.9", "fdatasync", "end_to_end", "end_to_end_p999_us", MS, False, None, scale=1000),
    Goal("s3-p99", "S3 with 30 ms per PUT, acknowledgement p99", "s3", "s3_latency", "ack_p99_us", MS, False, 75, "2.5 × PUT, 75", scale=1000),
    Goal("s3-rate", "S3 with 30 ms per PUT, produce", "s3", "s3_produce", "throughput_mb_per_s", MB, True,
         times(0.8, lambda f: f.median("kafscale", "s3_produce_undelayed", "throughput_mb_per_s", durability="s3")),
         "80% of that without delay, {:,.0f}"),
    Goal("few-p99", "2,000 records/s of 100 B: 10 connections, p99", "fdatasync", "few_connections", "ack_p99_us", MS, False, None, scale=1000),
    Goal("connections-p99", "… 1,000 connections, p99", "fdatasync", "many_connections", "ack_p99_us", MS, False, times(2, few_p99),
         "2 × that of 10, {:.1f}", scale=1000),
    Goal("partitions-p99", "… 10,000 partitions, p99", "fdatasync", "many_partitions", "ack_p99_us", MS, False, times(2, few_p99),
         "2 × that of 10, {:.1f}", scale=1000),
    Goal("connections-rate", "1,000 clients that wait for each acknowledgement", "fdatasync", "many_connections_closed", "records_per_s",
         "records/s", True, None),
    Goal("partitions-created", "10,000 partitions created and led", "fdatasync", "many_partitions", "created_s", "s", False, None),
    Goal("start", "cold start to first produce, on what earlier load left", "fdatasync", "start", "first_ack_ms", MS, False, 20),
    Goal("start-fresh", "… in an empty directory, topic made", "fdatasync", "start_fresh", "first_ack_ms", MS, False, 20),
    Goal("idle", "idle memory", "fdatasync", "idle", "broker_rss_mib", "MB", False, 25, scale=1 / 1.048576),
    Goal("loaded", "memory after all of this load", "fdatasync", "loaded_memory", "broker_rss_mib", "MB", False, None, scale=1 / 1.048576),
    Goal("commits", "1,000 groups commit each second, p99", "fdatasync", "commits", "commit_p99_us", MS, False, 100, "no queue: 100", scale=1000),
    Goal("formed", "100 members join, beyond the delay", "fdatasync", "rebalance", "formed_beyond_delay_ms", MS, False, 1000),
    Goal("rebalanced", "100 members rebalance", "fdatasync", "rebalance", "rebalanced_ms", MS, False, 1000),
    Goal("rdkafka-produce", "rdkafka_performance, produce", "fdatasync", "rdkafka_produce", "throughput_mb_per_s", MB, True, None),
    Goal("rdkafka-consume", "rdkafka_performance, consume", "fdatasync", "rdkafka_consume", "throughput_mb_per_s", MB, True, None),
    Goal("java-produce", "kafka-producer-perf-test", "fdatasync", "java_produce", "throughput_mb_per_s", MB, True, None),
    Goal("java-consume", "kafka-consumer-perf-test", "fdatasync", "java_consume", "throughput_mb_per_s", MB, True, None),
]


def number(value):
    if value is None:
        return ""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


@dataclasses.dataclass
class Row:
    goal: Goal
    bound: str
    own: str
    rivals: dict
    page_cache: dict
    verdict: str
    ahead: str
    spread: str


def rows_of(figures, placement="pinned"):
    """The rows for which this run has anything."""
    return [row for goal in GOALS if (row := row_of(goal, figures, placement))]


def row_of(goal, figures, placement):
    def cell(system, durability):
        value = figures.median(system, goal.scenario, goal.metric, durability=durability, placement=placement)
        if value is not None:
            short = any(row.get("records_beyond_the_end") for row in figures.having(system, goal.scenario, durability, placement))
            return number(value / goal.scale) + (SHORT_LOG if short else ""), value / goal.scale
        return ("no figure" if figures.why_not(system, goal.scenario, durability, placement) else ""), None

    own, own_value = cell("kafscale", goal.durability)
    rivals = {rival: cell(rival, goal.durability) for rival in RIVALS}
    page_cache = {rival: cell(rival, "page-cache")[0] for rival in RIVALS}
    if not own and not any(text for text, _ in rivals.values()):
        return None
    limit = goal.limit(figures)
    bound = ""
    if limit is not None:
        bound = ("≥ " if goal.at_least else "≤ ") + (goal.bound_text.format(limit) if goal.bound_text else number(limit))
    verdict = ""
    if limit is not None and own_value is not None:
        verdict = "met" if goal.meets(own_value, limit) else "SHORT"
    values = [value for _, value in rivals.values() if value is not None]
    ahead = ""
    if own_value is not None and values:
        ahead = "yes" if all(goal.better(own_value, value) for value in values) else "NO"
    all_own = figures.values("kafscale", goal.scenario, goal.metric, durability=goal.durability, placement=placement)
    spread = f"{number(min(all_own) / goal.scale)} – {number(max(all_own) / goal.scale)}" if len(all_own) > 1 else ""
    return Row(goal, bound, own, {name: text for name, (text, _) in rivals.items()}, page_cache,
               verdict, ahead, spread)


HEADINGS = ["what", "class", "unit", "goal", "KafScale", "Kafka", "Tansu", "Kafka, page cache", "Tansu, page cache", "goal met", "ahead"]


def cells(row):
    return [row.goal.what, row.goal.durability, row.goal.unit, row.bound, row.own, row.rivals["kafka"], row.rivals["tansu"],
            row.page_cache["kafka"], row.page_cache["tansu"], row.verdict, row.ahead]


def table(rows):
    """For a terminal."""
    figures = Figures(rows)
    body = [HEADINGS, *(cells(row) for row in rows_of(figures))]
    if len(body) == 1:
        return "nothing was measured"
    widths = [max(len(line[column]) for line in body) for column in range(len(HEADINGS))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in body]
    lines.insert(1, "  ".join("-" * width for width in widths))
    hardware = [f"{row['scenario']} {headline(row)}" for row in figures.rows
                if row["system"] == "hardware" and row.get("placement") == "pinned" and row.get("round") == 1]
    return "\n".join([*lines, "", "hardware in this run (round 1): " + "; ".join(hardware), *short_falls(figures)])


def short_falls(figures):
    """A line for each goal that is not met, with its cause as far as it is known."""
    causes = json.loads(CAUSES.read_text()) if CAUSES.is_file() else {}
    return [f"short: {row.goal.what}: {row.own} {row.goal.unit}, goal {row.bound}. {causes.get(row.goal.id, 'Cause not known yet.')}"
            for row in rows_of(figures) if row.verdict == "SHORT"]


def headline(figures):
    """The figures of one run in a few words, for the progress line."""
    shown = []
    for name, unit in (("throughput_mb_per_s", "MB/s"), ("broker_cpu_s_per_gb", "CPU s/GB"), ("ack_p50_us", "µs p50"), ("ack_p99_us", "µs p99"),
                       ("end_to_end_p50_us", "µs e2e p50"), ("end_to_end_p99_us", "µs e2e p99"), ("fdatasync_p50_us", "µs fdatasync p50"),
                       ("round_trip_p50_us", "µs round trip p50"), ("commit_p99_us", "µs commit p99"), ("formed_beyond_delay_ms", "ms to form"),
                       ("rebalanced_ms", "ms to rebalance"), ("first_ack_ms", "ms to first ack"), ("share_of_store_read", "of the store's rate"),
                       ("created_s", "s to create"), ("broker_rss_mib", "MiB")):
        if figures.get(name) is not None:
            shown.append(f"{number(figures[name])} {unit}")
    return ", ".join(shown)
