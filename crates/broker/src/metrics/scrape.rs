//! What /metrics shows: the counters, and what is read when it is asked for (partitions, groups, memory, the log).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kafscale_core::ids::Offset;
use kafscale_storage::PartitionOffsets;
use prometheus::TextEncoder;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::process;
use super::store_health::StoreState;
use super::text::{Kind, Text};
use crate::coordinator::GroupStats;
use crate::node::Node;
use crate::topics::Topic;

/// Bounds of the lag distribution, in records.
const LAG_BOUNDS: &[f64] = &[0.0, 1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0, 1_000_000.0];

/// What can be read of every partition, by topic and number: its first offset, and the one after the last.
type Readable = HashMap<Arc<str>, HashMap<i32, (Offset, Offset)>>;

struct PartitionGauges {
    topic: Arc<str>,
    index: i32,
    offsets: PartitionOffsets,
    size_bytes: u64,
}

/// Everything in the text format: of the broker that lives now, if there is one, and of its lives: how many began, and how many were lost.
pub fn render(node: Option<&Node>, begun: u64, lost: u64) -> String {
    let mut out = String::new();
    let mut text = Text::default();
    let help = "Times that this process joined its cluster.";
    text.single("kafscale_broker_incarnations_total", Kind::Counter, help, begun as f64);
    let help = "Times that this process lost its place in the cluster, and joined anew.";
    text.single("kafscale_broker_fenced_total", Kind::Counter, help, lost as f64);
    process::render(&mut text);
    if let Some(node) = node {
        if let Err(error) = TextEncoder::new().encode_utf8(&node.metrics.registry.gather(), &mut out) {
            tracing::error!(%error, "the counters cannot be written as text");
        }
        broker(node, &mut text);
        cluster(node, &mut text);
        // Before the ends of logs, so that no group seems to be ahead of its log.
        let groups_then = node.coordinator.stats();
        let readable = partitions(node, &mut text);
        groups(node, &groups_then, &readable, &mut text);
        store(node, &mut text);
        damages(node, &mut text);
        log(node, &mut text);
    }
    out.push_str(&text.finish());
    out
}

/// The cluster as this broker sees it, and its work as the controller.
fn cluster(node: &Node, text: &mut Text) {
    let brokers = node.cluster.brokers();
    let help = "Brokers that are alive, as this one sees it.";
    text.single("kafscale_cluster_brokers", Kind::Gauge, help, brokers.all().count() as f64);
    let leaderless = |topic: &Arc<Topic>| {
        let is_led = |index: &i32| {
            brokers.owner(&topic.assigned(*index)).is_some_and(|owner| !node.reach.is_gone(owner.id))
        };
        (0..topic.partitions).filter(|index| !is_led(index)).count()
    };
    let leaderless: usize = node.topics.all().iter().map(leaderless).sum();
    let help = "Partitions of the cluster without a live owner, as this broker sees it.";
    text.single("kafscale_cluster_leaderless_partitions", Kind::Gauge, help, leaderless as f64);
    let held = f64::from(u8::from(node.cluster.lease_holds()));
    let help = "1 while this broker is surely a member of its cluster.";
    text.single("kafscale_broker_lease_held", Kind::Gauge, help, held);
    let stats = &node.controller;
    let active = f64::from(u8::from(stats.active.load(Ordering::Relaxed)));
    text.single("kafscale_controller_active", Kind::Gauge, "1 if this broker is the controller.", active);
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let counters = [
        ("kafscale_controller_elections_total", "Terms of office that began here.", &stats.elections),
        (
            "kafscale_controller_reassignments_total",
            "Partitions and coordinator slots given to another incarnation.",
            &stats.reassignments,
        ),
        (
            "kafscale_controller_releases_total",
            "Partitions and coordinator slots that live owners were asked to let go.",
            &stats.releases,
        ),
        ("kafscale_controller_seals_total", "Chains of brokers that were gone and sealed.", &stats.seals),
    ];
    for (name, help, counter) in counters {
        text.single(name, Kind::Counter, help, get(counter));
    }
    let name = "kafscale_controller_last_reconcile_seconds";
    let help = "How long the controller took the last time that it looked at everything, seals included.";
    text.single(name, Kind::Gauge, help, get(&stats.last_reconcile_us) / 1e6);
    if active > 0.0
        && let Some(at) = *stats.snapshot_at.lock()
    {
        let name = "kafscale_controller_snapshot_age_seconds";
        let help = "How old the copy of the metadata in the object store is; only on the controller.";
        text.single(name, Kind::Gauge, help, at.elapsed().as_secs_f64());
    }
}

fn broker(node: &Node, text: &mut Text) {
    let now = Instant::now();
    let uptime = now.duration_since(node.metrics.started).as_secs_f64();
    let (produce, fetch) = node.metrics.rates(now);
    let gauges = [
        ("kafscale_broker_uptime_seconds", "Seconds since broker start.", uptime),
        ("kafscale_produce_rps", "Produce requests per second over the last 30 seconds.", produce),
        ("kafscale_fetch_rps", "Fetch requests per second over the last 30 seconds.", fetch),
    ];
    for (name, help, value) in gauges {
        text.single(name, Kind::Gauge, help, value);
    }
    let requests = node.request_memory.used_bytes() as f64;
    text.single("kafscale_request_memory_bytes", Kind::Gauge, "Memory taken by requests.", requests);
    let budget = node.config.response_memory_bytes.min(Semaphore::MAX_PERMITS);
    let responses = budget.saturating_sub(node.response_memory.available_permits()) as f64;
    text.single(
        "kafscale_response_memory_bytes",
        Kind::Gauge,
        "Fetched records that clients have not taken yet.",
        responses,
    );
    let help = "Answers, other than fetched records, that are built or not taken yet.";
    let answers = node.answer_memory.used_bytes() as f64;
    text.single("kafscale_answer_memory_bytes", Kind::Gauge, help, answers);
    let (sessions, remembered) = node.fetch_sessions.usage();
    text.single("kafscale_fetch_sessions", Kind::Gauge, "Incremental fetch sessions.", sessions as f64);
    let help = "Partitions that fetch sessions remember.";
    text.single("kafscale_fetch_session_partitions", Kind::Gauge, help, remembered as f64);
    process::disks(&node.config.data_directories, text);
}

fn partitions(node: &Node, text: &mut Text) -> Readable {
    let mut all: Vec<_> = node
        .log
        .partitions()
        .into_iter()
        // A topic that is being deleted is not shown any more.
        .filter(|p| node.topics.get(p.topic_name()).is_some_and(|topic| topic.id == p.id().topic))
        .map(|p| PartitionGauges {
            topic: Arc::clone(p.topic_name()),
            index: p.id().index,
            offsets: p.offsets(),
            size_bytes: p.size_bytes(),
        })
        .collect();
    all.sort_unstable_by(|a, b| (&a.topic, a.index).cmp(&(&b.topic, b.index)));
    let mut family = |name, help, value: fn(&PartitionGauges) -> f64| {
        text.family(name, Kind::Gauge, help);
        for partition in &all {
            let index = partition.index.to_string();
            text.sample(name, &[("topic", &partition.topic), ("partition", &index)], value(partition));
        }
    };
    let help = "The offset after the last record that consumers can see.";
    family("kafscale_partition_log_end_offset", help, |p| p.offsets.high_watermark.0 as f64);
    let help = "The offset of the first record that is kept.";
    family("kafscale_partition_log_start_offset", help, |p| p.offsets.log_start.0 as f64);
    family("kafscale_partition_size_bytes", "Bytes of the records that are kept.", |p| p.size_bytes as f64);
    text.single("kafscale_topics", Kind::Gauge, "Topics.", node.topics.all().len() as f64);
    text.single("kafscale_partitions", Kind::Gauge, "Partitions served by this broker.", all.len() as f64);
    let mut readable = Readable::new();
    for partition in all {
        let PartitionOffsets { log_start, high_watermark, .. } = partition.offsets;
        readable.entry(partition.topic).or_default().insert(partition.index, (log_start, high_watermark));
    }
    readable
}

fn coordinator(node: &Node, text: &mut Text) {
    let stats = node.coordinator.slot_stats();
    let name = "kafscale_coordinator_slots";
    text.family(name, Kind::Gauge, "Coordinator slots of this broker: groups are served, or being read.");
    text.sample(name, &[("state", "serving")], stats.serving as f64);
    text.sample(name, &[("state", "loading")], stats.loading as f64);
    let name = "kafscale_coordinator_fenced_total";
    let help = "Slots that were found to be another broker's when something was to be written.";
    text.single(name, Kind::Counter, help, stats.fenced as f64);
    let offsets = node.coordinator.offsets_stats();
    let help = "What the committed offsets of this broker's groups take, commits under way included.";
    text.single("kafscale_committed_offsets_bytes", Kind::Gauge, help, offsets.bytes as f64);
    let help = "What the committed offsets of the group with the most take.";
    let largest = offsets.largest_group_bytes as f64;
    text.single("kafscale_committed_offsets_group_max_bytes", Kind::Gauge, help, largest);
    let help = "Commits refused because the offsets of the group, or of all groups, would take too much.";
    let refused = offsets.refused_commits as f64;
    text.single("kafscale_offset_commits_refused_total", Kind::Counter, help, refused);
}

/// The most that the lines about groups may take. Groups whose lines would take more are left out, and counted.
const GROUPS_TEXT_MAX_BYTES: usize = 48 << 20;

/// What the lines about a group take, about: up to three for each offset, with both names, and their numbers.
fn text_bytes(group: &GroupStats) -> usize {
    let of_offset = |topic: &Arc<str>| 3 * (group.group.len() + topic.len() + 100);
    group.group.len() + 100 + group.committed.iter().map(|(topic, ..)| of_offset(topic)).sum::<usize>()
}

/// The groups that are shown: small ones first where not all can be.
fn shown(groups: &[GroupStats], max_bytes: usize) -> Vec<&GroupStats> {
    let mut sizes: Vec<(usize, usize)> = groups.iter().map(text_bytes).zip(0..).collect();
    if sizes.iter().map(|(bytes, _)| bytes).sum::<usize>() <= max_bytes {
        return groups.iter().collect();
    }
    sizes.sort_unstable();
    let mut left = max_bytes;
    let fits = |(bytes, _): &&(usize, usize)| {
        left = left.saturating_sub(*bytes);
        left > 0
    };
    let mut places: Vec<usize> = sizes.iter().take_while(fits).map(|(_, place)| *place).collect();
    places.sort_unstable();
    places.into_iter().map(|place| &groups[place]).collect()
}

fn groups(node: &Node, all: &[GroupStats], readable: &Readable, text: &mut Text) {
    coordinator(node, text);
    let groups = shown(all, GROUPS_TEXT_MAX_BYTES);
    let help = "Groups of this broker without lines here: those of all would take too much.";
    let left_out = (all.len() - groups.len()) as f64;
    text.single("kafscale_consumer_groups_left_out", Kind::Gauge, help, left_out);
    let mut committed = Vec::new();
    // Whether another broker knows the end of a partition that a group of this one reads.
    let mut ends_elsewhere = false;
    for group in &groups {
        for (topic, partition, offset) in &group.committed {
            let known = readable.get(topic).and_then(|partitions| partitions.get(partition));
            // Nobody can read what was deleted.
            let lag = known.map(|(start, end)| offset.max(start).count_to(*end) as f64);
            let missed = known.map_or(0, |(start, _)| offset.count_to(*start)) as f64;
            let there =
                || node.topics.get(topic).is_some_and(|topic| topic.partition_id(*partition).is_some());
            ends_elsewhere |= known.is_none() && there();
            committed.push((&group.group, topic, partition.to_string(), offset.0 as f64, (lag, missed)));
        }
    }
    let name = "kafscale_consumer_group_committed_offset";
    text.family(name, Kind::Gauge, "The offset that a group goes on from.");
    for (group, topic, partition, offset, _) in &committed {
        text.sample(name, &[("group", group), ("topic", topic), ("partition", partition)], *offset);
    }
    let name = "kafscale_consumer_group_lag";
    let help = "Records that a group has still to read: from its committed offset, or the log start if that is later, to the log end, where this broker knows them.";
    text.family(name, Kind::Gauge, help);
    for (group, topic, partition, _, (lag, _)) in &committed {
        if let Some(lag) = lag {
            text.sample(name, &[("group", group), ("topic", topic), ("partition", partition)], *lag);
        }
    }
    let name = "kafscale_consumer_group_missed_records";
    let help = "Offsets between a group's commit and the log start: what was deleted before the group read it. Only where there are any.";
    text.family(name, Kind::Gauge, help);
    for (group, topic, partition, _, (_, missed)) in &committed {
        if *missed > 0.0 {
            text.sample(name, &[("group", group), ("topic", topic), ("partition", partition)], *missed);
        }
    }
    let name = "kafscale_consumer_group_members";
    text.family(name, Kind::Gauge, "Members of a group.");
    for group in &groups {
        text.sample(name, &[("group", &group.group)], group.members as f64);
    }
    if !ends_elsewhere && left_out == 0.0 {
        let lags: Vec<f64> = committed.iter().filter_map(|(.., (lag, _))| *lag).collect();
        distribution(&lags, text);
    }
}

/// The lags of all groups, where this broker knows all of them. A part of them would pass for all: see docs/metrics.md for how to get them
/// from all brokers.
fn distribution(lags: &[f64], text: &mut Text) {
    let below = |bound: f64| lags.iter().filter(|lag| **lag <= bound).count() as u64;
    let counts: Vec<_> = LAG_BOUNDS.iter().map(|bound| (*bound, below(*bound))).collect();
    let name = "kafscale_consumer_lag";
    text.family(name, Kind::Histogram, "Lags of all groups and partitions at this moment, in records.");
    text.histogram(name, &[], &counts, lags.len() as u64, lags.iter().fold(0.0, |sum, lag| sum + lag));
    let most = lags.iter().copied().fold(0.0, f64::max);
    text.single("kafscale_consumer_lag_max", Kind::Gauge, "The largest lag of any group, in records.", most);
}

fn store(node: &Node, text: &mut Text) {
    let accepts_writes = node.log.health().is_ok();
    let report = node.metrics.store_health.report(&node.log.stats(), accepts_writes, Instant::now());
    let name = "kafscale_store_info";
    text.family(
        name,
        Kind::Gauge,
        "1, with the kind of the store (s3, disk or memory) and where it is, without credentials.",
    );
    let url = node.config.store.as_str();
    let kind = match url.split(':').next() {
        Some("s3") => "s3",
        Some("memory") => "memory",
        _ => "disk",
    };
    text.sample(name, &[("kind", kind), ("url", url)], 1.0);
    let name = "kafscale_s3_health_state";
    text.family(name, Kind::Gauge, "1 for the state that the store is in: healthy, degraded or unavailable.");
    for state in StoreState::ALL {
        text.sample(name, &[("state", state.name())], f64::from(u8::from(state == report.state)));
    }
    let gauges = [
        (
            "kafscale_s3_latency_ms_avg",
            "Mean latency of store operations, last minute.",
            report.latency_ms_avg,
        ),
        ("kafscale_s3_error_rate", "Share of store operations that failed, last minute.", report.error_rate),
        ("kafscale_s3_state_duration_seconds", "Seconds in this state.", report.in_state.as_secs_f64()),
    ];
    for (name, help, value) in gauges {
        text.single(name, Kind::Gauge, help, value);
    }
}

/// What this broker has met of damaged data and of what cannot be read, in partitions that it serves.
fn damages(node: &Node, text: &mut Text) {
    let report = node.log.damages();
    let name = "kafscale_storage_damaged_places";
    let help = "Damaged places in stored data that are known and not deleted yet.";
    text.single(name, Kind::Gauge, help, (report.places.len() as u64 + report.unlisted) as f64);
    let mut by_partition: BTreeMap<(&str, i32), u64> = BTreeMap::new();
    for damage in &report.places {
        *by_partition.entry((&damage.topic, damage.partition)).or_default() += damage.unreadable_offsets();
    }
    let name = "kafscale_partitions_unserved";
    let help = "Partitions that this broker owns and cannot serve, or that take no records.";
    text.single(name, Kind::Gauge, help, node.cluster.unserved().partitions as f64);
    let name = "kafscale_partition_damaged_offsets";
    text.family(
        name,
        Kind::Gauge,
        "Offsets that cannot be read because of damage; only partitions that have some.",
    );
    for ((topic, partition), offsets) in by_partition {
        text.sample(name, &[("topic", topic), ("partition", &partition.to_string())], offsets as f64);
    }
    let unreadable = node.log.unreadable();
    let name = "kafscale_storage_unreadable_objects";
    let help = "Stored objects that were asked for in the last minute and could not be read. They may be readable later.";
    text.single(name, Kind::Gauge, help, unreadable.objects.len() as f64);
    let counters = [
        (
            "kafscale_storage_unreadable_reads_total",
            "Reads of stored objects that the store did not give.",
            unreadable.failed_reads,
        ),
        ("kafscale_storage_damage_found_total", "Damaged places that were found.", report.found),
        (
            "kafscale_storage_damaged_reads_total",
            "Reads that failed because the records are damaged.",
            report.failed_reads,
        ),
    ];
    for (name, help, value) in counters {
        text.single(name, Kind::Counter, help, value as f64);
    }
}

fn log(node: &Node, text: &mut Text) {
    let stats = node.log.stats();
    let name = "kafscale_wal_flush_duration_seconds";
    text.family(name, Kind::Histogram, "Time of a write to the write-ahead log, fdatasync included.");
    text.latency(name, &[], &stats.flush_latency);
    let name = "kafscale_store_operation_duration_seconds";
    text.family(name, Kind::Histogram, "Time of an operation on the object store.");
    let requests =
        [("put", &stats.puts), ("get", &stats.gets), ("list", &stats.lists), ("delete", &stats.deletes)];
    for (operation, requests) in requests {
        text.latency(name, &[("operation", operation)], &requests.latency);
    }
    let name = "kafscale_store_operation_failures_total";
    text.family(name, Kind::Counter, "Operations on the object store that failed.");
    for (operation, requests) in requests {
        text.sample(name, &[("operation", operation)], requests.failures as f64);
    }
    let counters = [
        ("kafscale_wal_flush_failures_total", "Writes that failed.", stats.flush_failures),
        ("kafscale_wal_flushed_bytes_total", "Bytes made durable.", stats.flushed_bytes),
        ("kafscale_wal_flushed_batches_total", "Batches made durable.", stats.flushed_batches),
        ("kafscale_tail_cache_hits_total", "Recent batches read from memory.", stats.tail_hits),
        ("kafscale_tail_cache_misses_total", "Recent batches read back from the disk.", stats.tail_misses),
        ("kafscale_segments_written_total", "Segments written.", stats.segments_written),
        ("kafscale_segments_deleted_total", "Segments deleted.", stats.segments_deleted),
        (
            "kafscale_segment_write_failures_total",
            "Attempts to write what is in the write-ahead log to segments that failed.",
            stats.segment_write_failures,
        ),
        (
            "kafscale_segment_delete_failures_total",
            "Attempts to delete a segment that failed.",
            stats.segment_delete_failures,
        ),
        (
            "kafscale_orphans_deleted_total",
            "Segments deleted after their quarantine because no metadata named them.",
            stats.orphans_deleted,
        ),
    ];
    for (name, help, value) in counters {
        text.single(name, Kind::Counter, help, value as f64);
    }
    let gauges = [
        ("kafscale_wal_bytes", "Bytes in the write-ahead log.", stats.wal_bytes),
        (
            "kafscale_wal_pending_bytes",
            "Appended and not durable yet, where the log is in an object store.",
            stats.wal_pending_bytes,
        ),
        (
            "kafscale_partitions_without_segments",
            "Partitions whose records cannot be written to segments at the moment.",
            stats.failing_partitions,
        ),
        ("kafscale_wal_files", "Files of the write-ahead log.", stats.wal_files),
        (
            "kafscale_producer_windows",
            "Idempotent producers that are remembered, in each partition for itself.",
            node.log.producer_windows() as u64,
        ),
        ("kafscale_tail_cache_bytes", "Recent batches kept in memory.", stats.tail_cache_bytes),
        ("kafscale_orphans", "Segments in quarantine: no metadata names them.", stats.orphans),
        ("kafscale_orphan_bytes", "Bytes of the segments in quarantine.", stats.orphan_bytes),
    ];
    for (name, help, value) in gauges {
        text.single(name, Kind::Gauge, help, value as f64);
    }
}
