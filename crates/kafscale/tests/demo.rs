//! `kafscale demo` as a user meets it: the banner, the sample groups, and a restart that goes on with the same data.

#![expect(clippy::unwrap_used, reason = "a test ends where its world is not as expected")]

mod common;

use std::time::{Duration, Instant};

use common::{Process, output};
use rustix::process::Signal;

/// Lags are seen in metrics a moment after the members have committed.
const SETTLED: Duration = Duration::from_secs(60);

/// Sum of the samples of a metric whose labels contain `labels`.
fn sum(metrics: &str, name: &str, labels: &str) -> f64 {
    metrics
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Scrapes until the condition holds.
fn scrape_until(process: &Process, what: &str, holds: impl Fn(&str) -> bool) -> String {
    let from = Instant::now();
    loop {
        let metrics = process.get("/metrics").1;
        if holds(&metrics) {
            return metrics;
        }
        assert!(from.elapsed() < SETTLED, "{what} did not come true:\n{metrics}");
        // A metric is a thing to poll; there is no event to wait for.
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Every metric has its row in docs/metrics.md.
fn check_documented(metrics: &str) {
    let document = std::fs::read_to_string("../../docs/metrics.md").unwrap();
    for name in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(document.contains(&format!("`{name}`")), "docs/metrics.md does not have {name}");
    }
}

fn lag(metrics: &str, group: &str) -> f64 {
    sum(metrics, "kafscale_consumer_group_lag", &format!("group=\"{group}\""))
}

fn orders(metrics: &str) -> f64 {
    sum(metrics, "kafscale_partition_log_end_offset", "topic=\"orders\"")
}

#[test]
fn the_sample_groups_are_as_the_banner_says_and_stay_so_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let mut demo = Process::start(&["demo"], data.path());
    demo.wait_for("the sample workload is running");
    let before = scrape_until(&demo, "groups that keep up", |metrics| {
        let committed = |group: &str| {
            sum(metrics, "kafscale_consumer_group_committed_offset", &format!("group=\"{group}\""))
        };
        committed("orders") > 40_000.0
            && committed("payments-worker") > 40_000.0
            && lag(metrics, "orders") < 1_000.0
            && lag(metrics, "payments-worker") < 1_000.0
    });
    let worst = before
        .lines()
        .filter(|line| {
            line.starts_with("kafscale_consumer_group_lag{") && line.contains("group=\"analytics\"")
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .fold(0.0, f64::max);
    assert!(worst > 10_000.0, "the largest lag of analytics is {worst}:\n{before}");
    check_documented(&before);
    assert_eq!(demo.stop(Signal::INT), Some(0));

    let mut demo = Process::start(&["demo"], data.path());
    demo.wait_for("the sample workload is running");
    let after = scrape_until(&demo, "new orders", |metrics| orders(metrics) > orders(&before));
    assert!(orders(&after) < 60_000.0, "the backlog was made twice:\n{after}");
    assert!(lag(&after, "analytics") >= lag(&before, "analytics"), "analytics moved:\n{after}");
    assert_eq!(demo.stop(Signal::TERM), Some(0));
}

#[test]
fn without_a_workload_there_are_no_topics() {
    let data = tempfile::tempdir().unwrap();
    let demo = Process::start(&["demo", "--no-workload"], data.path());
    assert_eq!(orders(&demo.get("/metrics").1), 0.0);
    assert_eq!(demo.stop(Signal::INT), Some(0));
}

#[test]
fn the_workload_runs_against_a_broker_elsewhere_until_it_is_told_to_stop() {
    let data = tempfile::tempdir().unwrap();
    let broker = Process::start(&["broker"], data.path());
    let mut workload = Process::spawn_beside(&["workload", "--bootstrap", &broker.kafka]);
    workload.wait_for("the sample workload is running");
    assert!(orders(&broker.get("/metrics").1) >= 50_000.0);
    assert_eq!(workload.stop(Signal::TERM), Some(0));
    let kafka = broker.kafka.clone();
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    let (without, _, err) = output(&["workload", "--bootstrap", &kafka]);
    assert_eq!(without.status.code(), Some(1), "{err}");
    assert!(err.contains(&kafka), "{err}");
}
