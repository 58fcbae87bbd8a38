//! `kafscale-bench`: load for benchmarks of KafScale and of other brokers that speak Kafka's protocol, one kind of it per command.
//!
//! Each command prints one line of JSON, in which every name ends with its unit. `bench/run` starts the brokers and calls it.

mod batches;
mod consume;
mod groups;
mod hardware;
mod latency;
mod open_loop;
mod pace;
mod produce;
mod report;
mod start;
mod topics;
mod wire;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use crate::report::Report;

#[derive(Debug, clap::Parser)]
#[command(
    version,
    about = "Load for benchmarks of brokers that speak Kafka's protocol; prints a line of JSON"
)]
struct Cli {
    /// Threads of the load; one is enough for most brokers, and leaves them the other cores
    #[arg(long, default_value_t = 1, global = true)]
    threads: usize,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, clap::Subcommand)]
enum Mode {
    /// Produce as fast as the broker takes it
    Produce(produce::Args),
    /// Consume as fast as the broker gives it, and verify
    Consume(consume::Args),
    /// Produce at a fixed rate and time acknowledgements, and with --end-to-end arrivals, from when each was due
    Latency(latency::Args),
    /// Many groups that each commit once a second
    Commits(groups::CommitArgs),
    /// A group of many members: its first assignment, and a rebalance
    Rebalance(groups::RebalanceArgs),
    /// Start a broker and time the first acknowledged record
    Start(start::Args),
    /// Write to a disk with fdatasync
    Disk(hardware::DiskArgs),
    /// Read files that the page cache has forgotten
    Read(hardware::ReadArgs),
    /// Serve an echo
    Echo(hardware::EchoArgs),
    /// Time messages to an echo server and back
    RoundTrip(hardware::RoundTripArgs),
}

/// The broker and the topic.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// The broker, host:port
    #[arg(long)]
    broker: String,
    /// The topic; it is made if it is not there
    #[arg(long, default_value = "bench")]
    topic: String,
    /// Its partitions
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    /// The broker's process, whose CPU time and memory are then reported
    #[arg(long)]
    pid: Option<u32>,
}

/// What is produced.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Connections
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Most bytes of a batch; at least one record goes in
    #[arg(long, default_value_t = 65_536)]
    batch_bytes: usize,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
    /// Acknowledgements: 0, 1 or all
    #[arg(long, default_value = "all", value_parser = acks)]
    acks: Acks,
}

impl Load {
    fn describe(&self, report: &mut Report) {
        report.put("connections", self.connections);
        report.put("batch_bytes", self.batch_bytes);
        report.put("record_bytes", self.record_bytes);
        report.put("acks", self.acks.0);
    }
}

#[derive(Debug, Clone, Copy)]
struct Acks(i16);

fn acks(text: &str) -> Result<Acks, String> {
    match text {
        "all" | "-1" => Ok(Acks(-1)),
        "0" => Ok(Acks(0)),
        "1" => Ok(Acks(1)),
        other => Err(format!("{other} is none of 0, 1 and all")),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let runtime = match cli.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        threads => {
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?
        }
    };
    runtime.block_on(async {
        match cli.mode {
            Mode::Produce(args) => produce::run(args).await,
            Mode::Consume(args) => consume::run(args).await,
            Mode::Latency(args) => latency::run(args).await,
            Mode::Commits(args) => groups::commits(args).await,
            Mode::Rebalance(args) => groups::rebalance(args).await,
            Mode::Start(args) => start::run(args).await,
            Mode::Disk(args) => hardware::disk(&args),
            Mode::Read(args) => hardware::read(&args),
            Mode::Echo(args) => hardware::echo(args).await,
            Mode::RoundTrip(args) => hardware::round_trip(args).await,
        }
    })
}
