//! Waiting for what a process stands on: the metadata store, the object store, a broker's place in the cluster.
//!
//! A start that gave up while a store is throttled or away would be started again, and again, and add to the load that it suffers from.
//! So it waits, says in /readyz and in the log what for, and gives up only on what waiting cannot mend.

use std::time::{Duration, Instant};

use kafscale_broker::MetricsServer;
use kafscale_core::backoff::Backoff;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);
/// The log says once more what is waited for after so long.
const SAID_EVERY: Duration = Duration::from_secs(30);

/// The attempts of one step.
pub struct Waiting<'a> {
    /// Where /readyz is answered, in a process that has it already.
    metrics: Option<&'a MetricsServer>,
    /// What is waited for.
    what: &'static str,
    backoff: Backoff,
    since: Instant,
    said: Option<Instant>,
}

impl<'a> Waiting<'a> {
    /// `seed` tells this process from others that wait for the same.
    pub fn new(metrics: Option<&'a MetricsServer>, what: &'static str, seed: u64) -> Waiting<'a> {
        let backoff = Backoff::new(FIRST, LONGEST, seed);
        Waiting { metrics, what, backoff, since: Instant::now(), said: None }
    }

    /// An attempt failed: says so, and returns when it is time for the next one.
    pub async fn again(&mut self, why: &str) {
        let waited_s = self.since.elapsed().as_secs();
        self.tell(format!("waiting for {} since {waited_s} s: {why}", self.what));
        if self.said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            self.said = Some(Instant::now());
            tracing::warn!(why, waited_s, "waiting for {}; trying again until it is there", self.what);
        }
        tokio::time::sleep(self.backoff.pause()).await;
    }

    fn tell(&self, text: String) {
        if let Some(metrics) = self.metrics {
            metrics.waits_for(text);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.said.is_some() {
            let waited_ms = self.since.elapsed().as_millis();
            tracing::info!(waited_ms, "no longer waiting for {}", self.what);
            self.tell(String::new());
        }
    }
}
