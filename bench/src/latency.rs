//! Acknowledgements at a fixed rate, and with `--end-to-end` also when a consumer has the record.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use kafka_protocol::messages::{FetchRequest, FetchResponse, ProduceRequest};
use kafscale_core::batch::batches;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use crate::batches::{Batch, check_produced};
use crate::consume::{fetch, fetch_partition};
use crate::open_loop::{self, Lane};
use crate::pace::Schedule;
use crate::report::{Meter, Report, micros, times};
use crate::topics;
use crate::wire::{self, Connection, check};

const FETCH_BYTES: i32 = 1 << 20;
/// How long the last records may take to a consumer.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: crate::Target,
    #[command(flatten)]
    load: crate::Load,
    /// Requests per second, over all connections
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// How long requests are sent
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Consume as well, a consumer for each partition, and time records from when they were due to be sent until they arrive; there must
    /// be as many partitions as connections
    #[arg(long)]
    end_to_end: bool,
}

pub async fn run(args: Args) -> Result<()> {
    let (load, target) = (&args.load, &args.target);
    ensure!(load.acks.0 != 0, "without acknowledgements there is nothing to time");
    ensure!(
        !args.end_to_end || usize::try_from(target.partitions)? == load.connections,
        "--end-to-end needs as many partitions as connections"
    );
    let mut control = Connection::open(&target.broker).await?;
    topics::ensure_exists(&mut control, &target.topic, target.partitions).await?;
    let version = control.versions.of::<ProduceRequest>()?;
    let batch = Batch::encode(load.batch_bytes, load.record_bytes, 1)?;
    let mut lanes = Vec::with_capacity(load.connections);
    for number in 0..load.connections {
        let connection = Connection::open_as(&target.broker, control.versions.clone()).await?;
        let partition = i32::try_from(number % usize::try_from(target.partitions)?)?;
        let mine = (partition..target.partitions).step_by(load.connections);
        let requests =
            mine.map(|p| batch.request(&target.topic, &[p], load.acks.0, version)).collect::<Result<_>>()?;
        lanes.push(Lane { connection, requests });
    }
    let ends = topics::offsets(&mut control, &target.topic, target.partitions, topics::LATEST).await?;

    let schedule = open_loop::schedule(lanes.len(), args.rate, args.seconds);
    let meter = Meter::start(target.pid)?;
    let received = Arc::new(Mutex::new(times()));
    let mut consumers = JoinSet::new();
    if args.end_to_end {
        for (partition, end) in ends.into_iter().enumerate() {
            let connection = Connection::open_as(&target.broker, control.versions.clone()).await?;
            let reader = Consumer {
                topic: target.topic.clone(),
                partition,
                first: end,
                records: batch.records,
                schedule,
            };
            consumers.spawn(reader.run(connection, received.clone()));
        }
    }
    let outcome = open_loop::run(lanes, schedule, version, check_produced).await?;
    let drain = async {
        while let Some(consumer) = consumers.join_next().await {
            consumer??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(RECEIVE_TIMEOUT, drain).await.context("records do not arrive")??;
    let usage = meter.stop()?;

    let mut report = Report::of(if args.end_to_end { "end-to-end" } else { "latency" });
    load.describe(&mut report);
    report.put("partitions", target.partitions);
    report.figure("rate_per_s", args.rate);
    report.usage(&usage);
    outcome.describe(&mut report, "ack");
    if args.end_to_end {
        report.latency("end_to_end", &received.lock().expect("nobody panics with it"));
    }
    report.print();
    Ok(())
}

/// Reads one partition from its end on, for as many records as the schedule sends.
struct Consumer {
    topic: String,
    partition: usize,
    first: i64,
    /// Records of a request.
    records: u64,
    schedule: Schedule,
}

impl Consumer {
    async fn run(self, mut connection: Connection, received: Arc<Mutex<Histogram<u64>>>) -> Result<()> {
        let version = connection.versions.of::<FetchRequest>()?;
        let lane = self.partition as u64;
        let last = self.first + i64::try_from(self.schedule.in_lane(lane) * self.records)?;
        let mut next = self.first;
        while next < last {
            let partition = fetch_partition(i32::try_from(self.partition)?, next, FETCH_BYTES);
            let request = fetch(&self.topic, vec![partition], FETCH_BYTES);
            connection.writer.write_all(&wire::encode(&request, version)?).await?;
            let frame = connection.frames.next().await?;
            let now = std::time::Instant::now();
            let answer: FetchResponse = wire::decode(frame, version)?;
            check(answer.error_code).context("Fetch")?;
            for data in answer.responses.iter().flat_map(|topic| &topic.partitions) {
                check(data.error_code).context("Fetch")?;
                for (_, batch) in batches(data.records.as_deref().unwrap_or_default()).map_while(Result::ok) {
                    ensure!(
                        batch.base_offset.0 == next,
                        "offset {} follows where {next} should",
                        batch.base_offset.0
                    );
                    let nth = u64::try_from(next - self.first)? / self.records;
                    let waited = now.saturating_duration_since(self.schedule.due_in_lane(lane, nth));
                    received.lock().expect("nobody panics with it").saturating_record(micros(waited));
                    next = batch.last_offset().0 + 1;
                }
            }
        }
        Ok(())
    }
}
