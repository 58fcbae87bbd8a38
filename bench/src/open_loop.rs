//! Requests at a fixed rate, whether earlier ones are answered or not. Each answer is timed from the moment at which its
//! request was due, so a broker that stalls is charged for all that had to wait (no coordinated omission).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinSet;

use crate::pace::{Schedule, Timer};
use crate::report::{Report, micros, times};
use crate::wire::{Connection, Frames};

/// How long answers may take after the last request.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// From opening the lanes to the first request.
const LEAD: Duration = Duration::from_millis(50);

/// A connection, and the requests that go over it in turn.
pub struct Lane {
    pub connection: Connection,
    pub requests: Vec<Bytes>,
}

/// Looks into an answer.
pub type Check = fn(Bytes, i16) -> Result<()>;

pub struct Outcome {
    pub answered: Histogram<u64>,
    /// How much later than due requests were sent: the load generator's own share of the times.
    pub send_lag: Histogram<u64>,
}

impl Outcome {
    pub fn describe(&self, report: &mut Report, what: &str) {
        report.latency(what, &self.answered);
        report.latency("send_lag", &self.send_lag);
    }
}

/// The schedule for so many lanes, from in a moment on.
pub fn schedule(lanes: usize, per_second: f64, seconds: f64) -> Schedule {
    let requests = (per_second * seconds).max(1.0) as u64;
    Schedule { start: Instant::now() + LEAD, per_second, lanes: lanes as u64, requests }
}

/// Sends everything as scheduled and waits for all answers.
pub async fn run(lanes: Vec<Lane>, schedule: Schedule, version: i16, check: Check) -> Result<Outcome> {
    let answered = Arc::new(Mutex::new(times()));
    let mut readers = JoinSet::new();
    let mut writers = Vec::with_capacity(lanes.len());
    for (number, lane) in lanes.into_iter().enumerate() {
        let Connection { writer, frames, .. } = lane.connection;
        writers.push((writer, lane.requests));
        readers.spawn(read(frames, schedule, number as u64, version, check, answered.clone()));
    }
    let sender = tokio::spawn(send(writers, schedule));
    let drain = async {
        while let Some(reader) = readers.join_next().await {
            reader??;
        }
        anyhow::Ok(())
    };
    let limit = Duration::from_secs_f64(schedule.requests as f64 / schedule.per_second) + DRAIN_TIMEOUT;
    tokio::time::timeout(limit, drain).await.context("answers are missing at the end")??;
    let (_open, send_lag) = sender.await??;
    let answered = answered.lock().expect("nobody panics with it").clone();
    Ok(Outcome { answered, send_lag })
}

type Writers = Vec<(OwnedWriteHalf, Vec<Bytes>)>;

/// Gives the writers back: a connection that is closed for writing would lose its answers.
async fn send(mut writers: Writers, schedule: Schedule) -> Result<(Writers, Histogram<u64>)> {
    let timer = Timer::new()?;
    let mut send_lag = times();
    for request in 0..schedule.requests {
        let due = schedule.due(request);
        timer.wait_until(due).await?;
        let (lane, nth) = (request % schedule.lanes, request / schedule.lanes);
        let (writer, requests) = &mut writers[usize::try_from(lane)?];
        let frame = &requests[usize::try_from(nth)? % requests.len()];
        writer.write_all(frame).await?;
        send_lag.saturating_record(micros(due.elapsed()));
    }
    Ok((writers, send_lag))
}

async fn read(
    mut frames: Frames,
    schedule: Schedule,
    lane: u64,
    version: i16,
    check: Check,
    answered: Arc<Mutex<Histogram<u64>>>,
) -> Result<()> {
    for nth in 0..schedule.in_lane(lane) {
        let frame = frames.next().await?;
        let waited = schedule.due_in_lane(lane, nth).elapsed();
        check(frame, version)?;
        answered.lock().expect("nobody panics with it").saturating_record(micros(waited));
    }
    Ok(())
}
