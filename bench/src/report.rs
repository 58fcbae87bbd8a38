//! What a run prints: one line of JSON. Every name ends with its unit.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// Linux counts CPU time for user space in hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// The line of a run.
#[derive(Debug, Default)]
pub struct Report(Map<String, Value>);

impl Report {
    pub fn of(mode: &str) -> Self {
        let mut report = Self::default();
        report.put("mode", mode);
        report
    }

    pub fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// A number, rounded to what can be measured.
    pub fn figure(&mut self, name: &str, value: f64) {
        self.put(name, json!((value * 1000.0).round() / 1000.0));
    }

    /// Percentiles of times in microseconds, as `<what>_p99_us` and so on.
    pub fn latency(&mut self, what: &str, times: &Histogram<u64>) {
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)] {
            self.put(&format!("{what}_{name}_us"), times.value_at_quantile(quantile));
        }
        self.put(&format!("{what}_max_us"), times.max());
        self.put(&format!("{what}_count"), times.len());
    }

    /// What a stretch of time moved, and what that cost.
    pub fn throughput(&mut self, payload_bytes: u64, records: u64, usage: &Usage) {
        let gigabytes = payload_bytes as f64 / 1e9;
        self.put("payload_bytes", payload_bytes);
        self.put("records", records);
        self.figure("seconds", usage.seconds);
        self.figure("throughput_mb_per_s", gigabytes * 1e3 / usage.seconds);
        self.figure("records_per_s", records as f64 / usage.seconds);
        self.usage(usage);
        if let Some(cpu_s) = usage.broker_cpu_s {
            self.figure("broker_cpu_s_per_gb", cpu_s / gigabytes);
            self.figure("broker_cpu_us_per_record", cpu_s * 1e6 / records as f64);
        }
    }

    pub fn usage(&mut self, usage: &Usage) {
        self.figure("client_cpu_s", usage.client_cpu_s);
        if let Some(cpu_s) = usage.broker_cpu_s {
            self.figure("broker_cpu_s", cpu_s);
            self.figure("broker_rss_mib", usage.broker_rss_mib);
        }
    }

    pub fn print(self) {
        println!("{}", Value::Object(self.0));
    }
}

/// The longest time that is told apart from longer ones: ten minutes.
const LONGEST_US: u64 = 600_000_000;

/// A histogram of microseconds, to three digits.
pub fn times() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("three digits are possible")
}

pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// CPU time from a moment on, of the broker and of this process.
#[derive(Debug)]
pub struct Meter {
    broker: Option<u32>,
    began: Instant,
    client_cpu_s: f64,
    broker_cpu_s: f64,
}

#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub seconds: f64,
    pub client_cpu_s: f64,
    pub broker_cpu_s: Option<f64>,
    pub broker_rss_mib: f64,
}

impl Meter {
    pub fn start(broker: Option<u32>) -> Result<Self> {
        let broker_cpu_s = broker.map_or(Ok(0.0), cpu_s)?;
        Ok(Self { broker, client_cpu_s: cpu_s(std::process::id())?, broker_cpu_s, began: Instant::now() })
    }

    pub fn began(&self) -> Instant {
        self.began
    }

    pub fn stop(self) -> Result<Usage> {
        let seconds = self.began.elapsed().as_secs_f64();
        let broker_cpu_s = self.broker.map(cpu_s).transpose()?.map(|now| now - self.broker_cpu_s);
        let broker_rss_mib = self.broker.map_or(Ok(0.0), rss_mib)?;
        let client_cpu_s = cpu_s(std::process::id())? - self.client_cpu_s;
        Ok(Usage { seconds, client_cpu_s, broker_cpu_s, broker_rss_mib })
    }
}

/// The CPU time of a process so far, user and system.
fn cpu_s(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program stands in brackets and may hold anything; 11 fields later are the times.
    let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let ticks = |at: usize| fields.split_whitespace().nth(at).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("no times in /proc/PID/stat")?;
    Ok((user + system) / TICKS_PER_SECOND)
}

fn rss_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().next().context("no number in VmRSS")?.parse()?;
    Ok(kib / 1024.0)
}
