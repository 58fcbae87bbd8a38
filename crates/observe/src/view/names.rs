//! The metric names that are read, in one place. They are the broker's, listed in docs/metrics.md.

pub const RECORDS_IN: &str = "kafscale_topic_received_records_total";
pub const BYTES_IN: &str = "kafscale_topic_received_bytes_total";
pub const RECORDS_OUT: &str = "kafscale_topic_sent_records_total";
pub const BYTES_OUT: &str = "kafscale_topic_sent_bytes_total";
pub const REQUESTS: &str = "kafscale_requests_total";
pub const REQUEST_ERRORS: &str = "kafscale_request_errors_total";
pub const CONNECTIONS: &str = "kafscale_connections";
pub const CONNECTIONS_LIMIT: &str = "kafscale_connections_limit";
pub const CONNECTIONS_RESERVED: &str = "kafscale_connections_reserved";
pub const UPTIME_SECONDS: &str = "kafscale_broker_uptime_seconds";
pub const S3_HEALTH: &str = "kafscale_s3_health_state";
pub const S3_LATENCY_MS: &str = "kafscale_s3_latency_ms_avg";
pub const S3_ERROR_RATE: &str = "kafscale_s3_error_rate";
/// Labels: `kind` (`s3`, `disk`, `memory`) and `url`.
pub const STORE_INFO: &str = "kafscale_store_info";
pub const PRODUCE_LATENCY_SUM_MS: &str = "kafscale_produce_latency_ms_sum";
pub const PRODUCE_LATENCY_COUNT: &str = "kafscale_produce_latency_ms_count";
pub const WAL_FLUSHES: &str = "kafscale_wal_flush_duration_seconds_count";
pub const DAMAGED_PLACES: &str = "kafscale_storage_damaged_places";
pub const DAMAGED_OFFSETS: &str = "kafscale_partition_damaged_offsets";
pub const UNREADABLE_OBJECTS: &str = "kafscale_storage_unreadable_objects";
pub const PARTITIONS_WITHOUT_SEGMENTS: &str = "kafscale_partitions_without_segments";
pub const UNSERVED_PARTITIONS: &str = "kafscale_partitions_unserved";
pub const LEADERLESS_PARTITIONS: &str = "kafscale_cluster_leaderless_partitions";
pub const STORE_OPERATIONS: &str = "kafscale_store_operation_duration_seconds_count";

/// The series that a scrape keeps, besides the gauges of partitions.
pub const KEPT: &[&str] = &[
    RECORDS_IN,
    BYTES_IN,
    RECORDS_OUT,
    BYTES_OUT,
    REQUESTS,
    REQUEST_ERRORS,
    CONNECTIONS,
    CONNECTIONS_LIMIT,
    CONNECTIONS_RESERVED,
    UPTIME_SECONDS,
    S3_HEALTH,
    S3_LATENCY_MS,
    S3_ERROR_RATE,
    STORE_INFO,
    PRODUCE_LATENCY_SUM_MS,
    PRODUCE_LATENCY_COUNT,
    WAL_FLUSHES,
    DAMAGED_PLACES,
    UNREADABLE_OBJECTS,
    PARTITIONS_WITHOUT_SEGMENTS,
    DAMAGED_OFFSETS,
    UNSERVED_PARTITIONS,
    LEADERLESS_PARTITIONS,
    STORE_OPERATIONS,
];

/// Those whose first label is a topic.
pub const OF_TOPICS: &[&str] = &[RECORDS_IN, BYTES_IN, RECORDS_OUT, BYTES_OUT, DAMAGED_OFFSETS];

/// Those that do not depend on what topics and groups there are.
pub const OF_BROKERS: &[&str] = &[UPTIME_SECONDS, S3_HEALTH, STORE_INFO];

/// The counters whose history is kept, so that their rates can be told.
pub const RATED: &[&str] = &[
    RECORDS_IN,
    BYTES_IN,
    RECORDS_OUT,
    BYTES_OUT,
    REQUESTS,
    REQUEST_ERRORS,
    PRODUCE_LATENCY_SUM_MS,
    PRODUCE_LATENCY_COUNT,
    WAL_FLUSHES,
    STORE_OPERATIONS,
];

/// A gauge of each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionGauge {
    Start,
    End,
    Size,
}

pub fn partition_gauge(name: &str) -> Option<PartitionGauge> {
    match name {
        "kafscale_partition_log_start_offset" => Some(PartitionGauge::Start),
        "kafscale_partition_log_end_offset" => Some(PartitionGauge::End),
        "kafscale_partition_size_bytes" => Some(PartitionGauge::Size),
        _ => None,
    }
}

/// Counters of which a broker that counted nothing yet has no series, and whose absence therefore means 0.
pub const COUNTED_BY_EVERY_BROKER: &[&str] =
    &[RECORDS_IN, BYTES_IN, RECORDS_OUT, BYTES_OUT, REQUESTS, REQUEST_ERRORS];
