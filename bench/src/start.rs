//! From the start of a broker's process to the first acknowledged record.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kafka_protocol::messages::ProduceRequest;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::batches::{Batch, check_produced};
use crate::pace::Timer;
use crate::report::Report;
use crate::topics;
use crate::wire::Connection;

const START_TIMEOUT: Duration = Duration::from_secs(120);
const ATTEMPT_INTERVAL: Duration = Duration::from_micros(200);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: crate::Target,
    /// Make the topic; otherwise it must be there from an earlier run
    #[arg(long)]
    create: bool,
    /// The broker's command, after `--`; it is stopped at the end
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub async fn run(args: Args) -> Result<()> {
    let batch = Batch::encode(0, 100, 1)?;
    let began = Instant::now();
    let mut broker = std::process::Command::new(&args.command[0])
        .args(&args.command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the broker")?;
    let times = tokio::time::timeout(START_TIMEOUT, first_produce(&args, &batch, &mut broker)).await;
    let acknowledged = Instant::now();
    // SIGTERM: a broker that is killed leaves work for the next start.
    if let Some(pid) = i32::try_from(broker.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    broker.wait()?;
    let listening = times.context("no first record in time")??;
    let mut report = Report::of("start");
    report.put("fresh", args.create);
    report.figure("listening_ms", listening.duration_since(began).as_secs_f64() * 1e3);
    report.figure("first_ack_ms", acknowledged.duration_since(began).as_secs_f64() * 1e3);
    report.print();
    Ok(())
}

/// Waits for the port and produces until a record is taken; gives when the port was there.
async fn first_produce(args: &Args, batch: &Batch, broker: &mut Child) -> Result<Instant> {
    let timer = Timer::new()?;
    while TcpStream::connect(&args.target.broker).await.is_err() {
        let ended = broker.try_wait()?;
        ensure!(ended.is_none(), "the broker ended by itself: {ended:?}");
        timer.wait_until(Instant::now() + ATTEMPT_INTERVAL).await?;
    }
    let listening = Instant::now();
    loop {
        match attempt(args, batch).await {
            Ok(()) => return Ok(listening),
            // Not ready yet, or still looking for a leader.
            Err(_) => timer.wait_until(Instant::now() + ATTEMPT_INTERVAL).await?,
        }
    }
}

async fn attempt(args: &Args, batch: &Batch) -> Result<()> {
    let target = &args.target;
    let mut connection = Connection::open(&target.broker).await?;
    if args.create {
        topics::ensure_exists(&mut connection, &target.topic, target.partitions).await?;
    }
    let version = connection.versions.of::<ProduceRequest>()?;
    connection.writer.write_all(&batch.request(&target.topic, &[0], -1, version)?).await?;
    check_produced(connection.frames.next().await?, version)
}
