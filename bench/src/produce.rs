//! Produces as fast as the broker takes it: so many requests under way on each connection, closed loop.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::batches::{Batch, check_produced};
use crate::report::{Meter, Report, micros, times};
use crate::topics;
use crate::wire::{Connection, Frames};

/// How long the rest of the answers may take after the last request.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(120);
/// Batches that differ, so that no cache sees always the same bytes.
const VARIANTS: usize = 4;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: crate::Target,
    #[command(flatten)]
    load: crate::Load,
    /// Requests under way on each connection
    #[arg(long, default_value_t = 5)]
    depth: usize,
    /// Partitions that each request writes to, with a batch for each
    #[arg(long, default_value_t = 1)]
    partitions_per_request: usize,
    /// How long requests are sent
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Send no more than this, even if time is left
    #[arg(long, default_value_t = u64::MAX)]
    max_bytes: u64,
    /// Do not fail where the log's end says that fewer records are there than were acknowledged, but report how many
    #[arg(long)]
    short_log: bool,
}

struct Request {
    frame: Bytes,
    records: u64,
    payload_bytes: u64,
}

#[derive(Default, Clone, Copy)]
struct Sum {
    requests: u64,
    records: u64,
    payload_bytes: u64,
}

impl Sum {
    fn add(&mut self, request: &Request) {
        self.requests += 1;
        self.records += request.records;
        self.payload_bytes += request.payload_bytes;
    }
}

pub async fn run(args: Args) -> Result<()> {
    let (load, target) = (&args.load, &args.target);
    let mut control = Connection::open(&target.broker).await?;
    topics::ensure_exists(&mut control, &target.topic, target.partitions).await?;
    let version = control.versions.of::<kafka_protocol::messages::ProduceRequest>()?;
    let batches = (0..VARIANTS)
        .map(|seed| Batch::encode(load.batch_bytes, load.record_bytes, seed as u64))
        .collect::<Result<Vec<_>>>()?;
    let mut lanes = Vec::with_capacity(load.connections);
    for number in 0..load.connections {
        let connection = Connection::open_as(&target.broker, control.versions.clone()).await?;
        lanes.push((connection, Arc::new(requests(&args, &batches, number, version)?)));
    }
    let before: i64 =
        topics::offsets(&mut control, &target.topic, target.partitions, topics::LATEST).await?.iter().sum();

    let meter = Meter::start(target.pid)?;
    let until = meter.began() + Duration::from_secs_f64(args.seconds);
    let latency = Arc::new(Mutex::new(times()));
    let limit_bytes = args.max_bytes / load.connections as u64;
    let mut tasks = JoinSet::new();
    for (connection, requests) in lanes {
        let lane =
            Lane { requests, depth: args.depth, until, limit_bytes, version, latency: latency.clone() };
        let unanswered = load.acks.0 == 0;
        tasks.spawn(async move {
            if unanswered { lane.fire(connection).await } else { lane.run(connection).await }
        });
    }
    let mut sum = Sum::default();
    while let Some(done) = tasks.join_next().await {
        let lane = done??;
        sum.requests += lane.requests;
        sum.records += lane.records;
        sum.payload_bytes += lane.payload_bytes;
    }
    if load.acks.0 == 0 {
        wait_for_records(&mut control, &args, before + i64::try_from(sum.records)?).await?;
    }
    let usage = meter.stop()?;

    let after: i64 =
        topics::offsets(&mut control, &target.topic, target.partitions, topics::LATEST).await?.iter().sum();
    let stored = u64::try_from(after - before)?;
    let is_right = stored == sum.records || (args.short_log && stored < sum.records);
    ensure!(is_right, "{} records were acknowledged, and the log grew by {stored}", sum.records);
    let mut report = Report::of("produce");
    if args.short_log {
        report.put("records_beyond_the_end", sum.records - stored);
    }
    load.describe(&mut report);
    report.put("partitions", target.partitions);
    report.put("depth", args.depth);
    report.put("requests", sum.requests);
    report.put("batch_bytes_actual", batches[0].bytes.len());
    report.put("batch_crcs", batches.iter().map(|batch| batch.crc).collect::<Vec<_>>());
    report.throughput(sum.payload_bytes, sum.records, &usage);
    report.latency("ack", &latency.lock().expect("nobody panics with it"));
    report.print();
    Ok(())
}

/// The requests of one connection: its share of the partitions, one after the other.
fn requests(args: &Args, batches: &[Batch], number: usize, version: i16) -> Result<Vec<Request>> {
    let (load, target) = (&args.load, &args.target);
    let partitions = usize::try_from(target.partitions)?;
    let mut mine: Vec<i32> = (0..target.partitions)
        .filter(|p| usize::try_from(*p).is_ok_and(|p| p % load.connections == number))
        .collect();
    if mine.is_empty() {
        mine.push(i32::try_from(number % partitions)?);
    }
    let each = args.partitions_per_request.max(1);
    let variants = if mine.len() == 1 { VARIANTS } else { 1 };
    let mut all = Vec::new();
    for (at, chunk) in mine.chunks(each).enumerate() {
        for variant in 0..variants {
            let batch = &batches[(number + at + variant) % batches.len()];
            let frame = batch.request(&target.topic, chunk, load.acks.0, version)?;
            let count = chunk.len() as u64;
            all.push(Request {
                frame,
                records: batch.records * count,
                payload_bytes: batch.payload_bytes * count,
            });
        }
    }
    Ok(all)
}

struct Lane {
    requests: Arc<Vec<Request>>,
    depth: usize,
    until: Instant,
    limit_bytes: u64,
    version: i16,
    latency: Arc<Mutex<Histogram<u64>>>,
}

impl Lane {
    /// Sends without waiting for answers, because there are none (acks=0).
    async fn fire(self, mut connection: Connection) -> Result<Sum> {
        let mut sum = Sum::default();
        for request in self.requests.iter().cycle() {
            if Instant::now() >= self.until || sum.payload_bytes >= self.limit_bytes {
                break;
            }
            connection.writer.write_all(&request.frame).await?;
            sum.add(request);
        }
        Ok(sum)
    }

    async fn run(self, connection: Connection) -> Result<Sum> {
        let Connection { mut writer, frames, .. } = connection;
        let permits = Arc::new(Semaphore::new(self.depth));
        // At most `depth` entries: each is sent with a permit that its answer gives back.
        let (sent, answers) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(
            frames,
            answers,
            permits.clone(),
            self.requests.clone(),
            self.version,
            self.latency,
        ));
        let mut sent_bytes = 0;
        for request in self.requests.iter().cycle() {
            let Ok(permit) = permits.acquire().await else { break };
            permit.forget();
            let now = Instant::now();
            if now >= self.until || sent_bytes >= self.limit_bytes || sent.send(now).is_err() {
                break;
            }
            writer.write_all(&request.frame).await?;
            sent_bytes += request.payload_bytes;
        }
        drop(sent);
        let drained =
            tokio::time::timeout(DRAIN_TIMEOUT, reader).await.context("answers are missing at the end")?;
        drained?
    }
}

/// Takes the answers; requests are answered in the order in which they were sent.
async fn read(
    mut frames: Frames,
    mut sent: mpsc::UnboundedReceiver<Instant>,
    permits: Arc<Semaphore>,
    requests: Arc<Vec<Request>>,
    version: i16,
    latency: Arc<Mutex<Histogram<u64>>>,
) -> Result<Sum> {
    let mut sum = Sum::default();
    for request in requests.iter().cycle() {
        let Some(sent_at) = sent.recv().await else { break };
        let frame = frames.next().await;
        if frame.is_err() {
            permits.close();
        }
        check_produced(frame?, version).inspect_err(|_| permits.close())?;
        latency.lock().expect("nobody panics with it").saturating_record(micros(sent_at.elapsed()));
        sum.add(request);
        permits.add_permits(1);
    }
    Ok(sum)
}

async fn wait_for_records(control: &mut Connection, args: &Args, wanted: i64) -> Result<()> {
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    loop {
        let target = &args.target;
        let ends = topics::offsets(control, &target.topic, target.partitions, topics::LATEST).await?;
        let stored: i64 = ends.iter().sum();
        if stored >= wanted {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "of the records without acknowledgement, {} are missing",
            wanted - stored
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
