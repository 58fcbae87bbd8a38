//! The counters, and the places that bump them.

use std::collections::HashMap;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use parking_lot::RwLock;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};
use tokio::time::Instant;

use super::rate::Rate;
use super::store_health::StoreHealth;
use crate::api::SUPPORTED;

/// Half a millisecond to half a minute.
const LATENCY_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const LATENCY_MS: &[f64] =
    &[0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0];

#[derive(Debug)]
struct ApiSeries {
    requests: IntCounter,
    durations: Histogram,
}

/// Partitions that come and go.
#[derive(Debug)]
pub struct PartitionCounters {
    pub acquired: IntCounter,
    pub released: IntCounter,
    pub abandoned: IntCounter,
    pub failures: IntCounter,
    pub acquire_seconds: Histogram,
}

impl PartitionCounters {
    fn new(made: &Maker<'_>) -> PartitionCounters {
        PartitionCounters {
            acquired: made
                .counter("kafscale_partitions_acquired_total", "Partitions that this broker began to serve."),
            released: made
                .counter("kafscale_partitions_released_total", "Partitions handed over to other brokers."),
            abandoned: made.counter(
                "kafscale_partitions_abandoned_total",
                "Partitions no longer served because they were found to belong to another broker.",
            ),
            failures: made.counter(
                "kafscale_partition_failures_total",
                "Partitions that could not be served or handed over at an attempt.",
            ),
            acquire_seconds: made.histogram(
                "kafscale_partition_acquire_duration_seconds",
                "Time from a partition's assignment to this broker to its being served.",
                LATENCY_SECONDS,
            ),
        }
    }
}

/// All counters of a broker.
#[derive(Debug)]
pub struct Metrics {
    pub registry: Registry,
    pub started: Instant,
    pub store_health: StoreHealth,
    /// The series of each API that is served, by its key: formatting names for every request would cost more than counting.
    apis: Vec<Option<ApiSeries>>,
    errors: IntCounterVec,
    /// Those that were counted before, by API and code: an answer may hold a hundred thousand errors.
    known_errors: RwLock<HashMap<(i16, i16), IntCounter>>,
    produce_latency_ms: Histogram,
    produce_timeouts: IntCounter,
    produce_rate: Rate,
    fetch_rate: Rate,
    pub places: Places,
    pub connections_accepted: IntCounter,
    pub connections_refused: IntCounter,
    pub connections_over_limit: IntCounter,
    pub answers_refused: IntCounter,
    pub received_bytes: IntCounter,
    pub sent_bytes: IntCounter,
    pub partitions: PartitionCounters,
    topic_received_bytes: IntCounterVec,
    topic_received_records: IntCounterVec,
    topic_sent_bytes: IntCounterVec,
    topic_sent_records: IntCounterVec,
}

/// What there is for connections.
#[derive(Debug)]
pub struct Places {
    pub open: IntGauge,
    pub limit: IntGauge,
    pub reserved: IntGauge,
    pub listeners_full: IntGauge,
}

impl Places {
    fn new(made: &Maker<'_>) -> Places {
        let reserved = "How many of them, the last that are free, are for addresses that have none.";
        let full = "Listeners that wait for a connection to end before they accept another.";
        Places {
            open: made.gauge("kafscale_connections", "Open Kafka connections."),
            limit: made.gauge("kafscale_connections_limit", "The most Kafka connections at a time."),
            reserved: made.gauge("kafscale_connections_reserved", reserved),
            listeners_full: made.gauge("kafscale_listeners_full", full),
        }
    }
}

impl Metrics {
    pub fn new(now: Instant) -> Metrics {
        let registry = Registry::new();
        let made = Maker { registry: &registry };
        let requests = made.counters("kafscale_requests_total", "Kafka requests handled.", &["api"]);
        let durations = made.histograms(
            "kafscale_request_duration_seconds",
            "Time from a request's turn to its answer, waits of long polls included.",
            LATENCY_SECONDS,
            &["api"],
        );
        Metrics {
            started: now,
            store_health: StoreHealth::new(now),
            apis: api_series(&requests, &durations),
            errors: made.counters(
                "kafscale_request_errors_total",
                "Kafka error codes answered, by API and code.",
                &["api", "error"],
            ),
            known_errors: RwLock::default(),
            produce_latency_ms: made.histogram(
                "kafscale_produce_latency_ms",
                "Produce request latency in milliseconds.",
                LATENCY_MS,
            ),
            produce_timeouts: made.counter(
                "kafscale_produce_timeouts_total",
                "Appends not durable within the request's timeout.",
            ),
            produce_rate: Rate::new(now),
            fetch_rate: Rate::new(now),
            places: Places::new(&made),
            connections_accepted: made
                .counter("kafscale_connections_accepted_total", "Kafka connections accepted."),
            connections_refused: made.counter(
                "kafscale_connections_refused_total",
                "Kafka connections closed by the broker for what they sent.",
            ),
            connections_over_limit: made.counter(
                "kafscale_connections_over_limit_total",
                "Kafka connections closed because their address had too many, or one already when few were left.",
            ),
            answers_refused: made.counter(
                "kafscale_answers_refused_total",
                "Kafka requests refused, in whole or in part, because their answer would take too much memory.",
            ),
            received_bytes: made.counter("kafscale_received_bytes_total", "Bytes of Kafka requests."),
            sent_bytes: made.counter("kafscale_sent_bytes_total", "Bytes of Kafka responses."),
            partitions: PartitionCounters::new(&made),
            topic_received_bytes: made.counters(
                "kafscale_topic_received_bytes_total",
                "Bytes of batches appended.",
                &["topic"],
            ),
            topic_received_records: made.counters(
                "kafscale_topic_received_records_total",
                "Records appended.",
                &["topic"],
            ),
            topic_sent_bytes: made.counters(
                "kafscale_topic_sent_bytes_total",
                "Bytes of batches fetched.",
                &["topic"],
            ),
            topic_sent_records: made.counters(
                "kafscale_topic_sent_records_total",
                "Records of batches fetched.",
                &["topic"],
            ),
            registry,
        }
    }

    /// A request was handled.
    pub fn handled(&self, api: ApiKey, took: Duration) {
        if let Some(Some(series)) = self.apis.get(api as usize) {
            series.requests.inc();
            series.durations.observe(took.as_secs_f64());
        }
    }

    /// An error code is answered.
    pub fn failed(&self, api: ApiKey, error: ResponseError) {
        let key = (api as i16, error.code());
        if let Some(counter) = self.known_errors.read().get(&key) {
            return counter.inc();
        }
        let counter = self.errors.with_label_values(&[&api_name(api), &format!("{error:?}")]);
        counter.inc();
        self.known_errors.write().insert(key, counter);
    }

    /// A Produce request was answered.
    pub fn produced(&self, took: Duration) {
        self.produce_rate.count(Instant::now());
        self.produce_latency_ms.observe(took.as_secs_f64() * 1000.0);
    }

    pub fn produce_timed_out(&self) {
        self.produce_timeouts.inc();
    }

    /// A batch was appended.
    pub fn appended(&self, topic: &str, records: i32, size_bytes: usize) {
        self.topic_received_bytes.with_label_values(&[topic]).inc_by(size_bytes as u64);
        self.topic_received_records.with_label_values(&[topic]).inc_by(u64::from(records.unsigned_abs()));
    }

    /// A Fetch request was answered.
    pub fn fetched(&self) {
        self.fetch_rate.count(Instant::now());
    }

    /// Batches go out.
    pub fn sent(&self, topic: &str, records: u64, size_bytes: usize) {
        self.topic_sent_bytes.with_label_values(&[topic]).inc_by(size_bytes as u64);
        self.topic_sent_records.with_label_values(&[topic]).inc_by(records);
    }

    /// A topic is gone, and so are its series.
    pub fn forget_topic(&self, topic: &str) {
        for series in [
            &self.topic_received_bytes,
            &self.topic_received_records,
            &self.topic_sent_bytes,
            &self.topic_sent_records,
        ] {
            // An error says that there was no such series.
            let _ = series.remove_label_values(&[topic]);
        }
    }

    /// Produce and Fetch requests per second.
    pub fn rates(&self, now: Instant) -> (f64, f64) {
        (self.produce_rate.per_second(now), self.fetch_rate.per_second(now))
    }
}

fn api_series(requests: &IntCounterVec, durations: &HistogramVec) -> Vec<Option<ApiSeries>> {
    let mut series = Vec::new();
    for (api, _) in SUPPORTED {
        let (name, place) = (api_name(*api), *api as usize);
        if series.len() <= place {
            series.resize_with(place + 1, || None);
        }
        let requests = requests.with_label_values(&[&name]);
        series[place] = Some(ApiSeries { requests, durations: durations.with_label_values(&[&name]) });
    }
    series
}

fn api_name(api: ApiKey) -> String {
    format!("{api:?}")
}

struct Maker<'a> {
    registry: &'a Registry,
}

impl Maker<'_> {
    fn register<C: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("the names above are valid");
        self.registry.register(Box::new(collector.clone())).expect("the names above are distinct");
        collector
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    fn histograms(&self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}
