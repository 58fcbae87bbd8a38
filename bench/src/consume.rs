//! Fetches as fast as the broker gives, and looks at every batch: checksum, offsets without a gap, and whether it is one that was sent.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::FetchResponse;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafscale_core::batch::{HeaderError, batches};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use crate::report::{Meter, Report};
use crate::topics;
use crate::wire::{self, Connection, check};

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: crate::Target,
    /// Connections, each with its share of the partitions
    #[arg(long, default_value_t = 2)]
    connections: usize,
    /// Most bytes of one fetch
    #[arg(long, default_value_t = 8 << 20)]
    fetch_bytes: i32,
    /// Most bytes of one partition in a fetch
    #[arg(long, default_value_t = 8 << 20)]
    partition_bytes: i32,
    /// How long to read, from the beginning again at the end; 0 reads everything once
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
    /// Check nothing but the offsets of batches
    #[arg(long)]
    no_checksums: bool,
    /// Checksums of the batches that were sent, as `produce` prints them; any other one is an error
    #[arg(long, value_delimiter = ',')]
    batch_crcs: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Position {
    partition: i32,
    begin: i64,
    end: i64,
    next: i64,
}

#[derive(Default, Clone, Copy)]
struct Sum {
    fetches: u64,
    records: u64,
    batch_bytes: u64,
}

#[derive(Clone)]
struct Rules {
    args: Args,
    known: Arc<HashSet<u32>>,
    until: Option<Instant>,
}

pub async fn run(args: Args) -> Result<()> {
    let target = &args.target;
    let mut control = Connection::open(&target.broker).await?;
    let begins = topics::offsets(&mut control, &target.topic, target.partitions, topics::EARLIEST).await?;
    let ends = topics::offsets(&mut control, &target.topic, target.partitions, topics::LATEST).await?;
    let mut shares = vec![Vec::new(); args.connections];
    for (partition, (begin, end)) in begins.into_iter().zip(ends).enumerate().filter(|(_, (b, e))| b < e) {
        let position = Position { partition: i32::try_from(partition)?, begin, end, next: begin };
        shares[partition % args.connections].push(position);
    }
    shares.retain(|share| !share.is_empty());
    ensure!(!shares.is_empty(), "{} holds nothing to consume", target.topic);
    let mut lanes = Vec::new();
    for share in shares {
        lanes.push((Connection::open_as(&target.broker, control.versions.clone()).await?, share));
    }

    let meter = Meter::start(target.pid)?;
    let until = (args.seconds > 0.0).then(|| meter.began() + Duration::from_secs_f64(args.seconds));
    let rules =
        Rules { known: Arc::new(args.batch_crcs.iter().copied().collect()), args: args.clone(), until };
    let mut tasks = JoinSet::new();
    for (connection, share) in lanes {
        tasks.spawn(read(connection, share, rules.clone()));
    }
    let mut sum = Sum::default();
    while let Some(done) = tasks.join_next().await {
        let lane = done??;
        sum.fetches += lane.fetches;
        sum.records += lane.records;
        sum.batch_bytes += lane.batch_bytes;
    }
    let usage = meter.stop()?;

    let mut report = Report::of("consume");
    report.put("connections", args.connections);
    report.put("partitions", target.partitions);
    report.put("fetch_bytes", args.fetch_bytes);
    report.put("fetches", sum.fetches);
    report.put("verified", if args.no_checksums { "offsets" } else { "offsets, checksums" });
    report.throughput(sum.batch_bytes, sum.records, &usage);
    report.print();
    Ok(())
}

async fn read(mut connection: Connection, mut share: Vec<Position>, rules: Rules) -> Result<Sum> {
    let version = connection.versions.of::<FetchRequest>()?;
    let mut sum = Sum::default();
    loop {
        let request = request(&rules.args, &share);
        connection.writer.write_all(&wire::encode(&request, version)?).await?;
        let answer: FetchResponse = wire::decode(connection.frames.next().await?, version)?;
        check(answer.error_code).context("Fetch")?;
        sum.fetches += 1;
        let before = sum.batch_bytes;
        for data in answer.responses.iter().flat_map(|topic| &topic.partitions) {
            check(data.error_code).with_context(|| format!("Fetch of partition {}", data.partition_index))?;
            let position = share.iter_mut().find(|p| p.partition == data.partition_index);
            let position = position.context("a partition that nobody asked for")?;
            take(data.records.as_ref().unwrap_or(&Bytes::new()), position, &rules, &mut sum)?;
        }
        ensure!(sum.batch_bytes > before, "a fetch below the end of the log brought nothing");
        match rules.until {
            Some(until) if Instant::now() >= until => return Ok(sum),
            Some(_) => share.iter_mut().filter(|p| p.next >= p.end).for_each(|p| p.next = p.begin),
            None => share.retain(|p| p.next < p.end),
        }
        if share.is_empty() {
            return Ok(sum);
        }
        // Those that are served first are asked for last, so that none is left behind.
        share.rotate_left(1);
    }
}

/// Checks what came of a partition and moves its position behind it.
fn take(records: &Bytes, position: &mut Position, rules: &Rules, sum: &mut Sum) -> Result<()> {
    for parsed in batches(records) {
        let (at, header) = match parsed {
            Ok(batch) => batch,
            // The last batch may be cut off; it is fetched again.
            Err(HeaderError::Truncated { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let (base, expected) = (header.base_offset.0, position.next);
        ensure!(base == expected, "offset {base} follows where {expected} should");
        if !rules.args.no_checksums {
            ensure!(header.crc_matches(&records[at..]), "the batch at offset {base} is damaged");
            let known = rules.known.is_empty() || rules.known.contains(&header.crc);
            ensure!(known, "nobody sent the batch at offset {base}");
        }
        position.next = header.last_offset().0 + 1;
        sum.records += u64::try_from(header.records_count)?;
        sum.batch_bytes += header.size_bytes as u64;
    }
    Ok(())
}

fn request(args: &Args, share: &[Position]) -> FetchRequest {
    let partitions = share
        .iter()
        .map(|position| fetch_partition(position.partition, position.next, args.partition_bytes))
        .collect();
    fetch(&args.target.topic, partitions, args.fetch_bytes)
}

pub fn fetch_partition(partition: i32, offset: i64, max_bytes: i32) -> FetchPartition {
    FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(max_bytes)
}

/// A fetch outside of any session that waits for one byte.
pub fn fetch(topic: &str, partitions: Vec<FetchPartition>, max_bytes: i32) -> FetchRequest {
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(500)
        .with_min_bytes(1)
        .with_max_bytes(max_bytes)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(vec![FetchTopic::default().with_topic(topics::name(topic)).with_partitions(partitions)])
}
