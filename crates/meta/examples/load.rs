//! Measures the embedded store in a directory: commits per second with many groups committing at once, and how long
//! it takes to create and to load 10,000 partitions.
//!
//!     cargo run --release -p kafscale-meta --example load -- [directory]

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use kafscale_meta::{
    EmbeddedStore, Metadata, NewTopic, Result,
    records::{AssignmentRecord, OffsetKey, OffsetRecord, PartitionAssignment, TopicRecord},
};
use uuid::Uuid;

const CLUSTER: &str = "load";

#[tokio::main]
async fn main() -> Result<()> {
    let scratch = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "kafscale-meta-load".to_owned()));
    let metadata = Metadata::new(Arc::new(EmbeddedStore::file(&scratch).await?), CLUSTER)?;
    create(&metadata).await?;
    for concurrency in [1, 10, 100, 1000] {
        commit(&metadata, concurrency, Duration::from_secs(3)).await?;
    }
    metadata.store().close().await?;
    drop(metadata);

    let start = Instant::now();
    let metadata = Metadata::new(Arc::new(EmbeddedStore::file(&scratch).await?), CLUSTER)?;
    println!("opened in {:?}", start.elapsed());
    let start = Instant::now();
    let topics = metadata.list_topics().await?.items.len();
    let assigned = metadata.list_assignments().await?.items;
    let partitions: usize = assigned.iter().map(|(_, assignment)| assignment.record.partitions.len()).sum();
    println!("loaded {topics} topics with {partitions} partitions in {:?}", start.elapsed());
    let start = Instant::now();
    let offsets = metadata.load_all_offsets().await?.items.len();
    println!("loaded {offsets} offsets in {:?}", start.elapsed());
    Ok(())
}

async fn create(metadata: &Metadata) -> Result<()> {
    let new = |name: String, partitions: usize| {
        let topic = TopicRecord {
            topic_id: Uuid::new_v4(),
            partitions: i32::try_from(partitions).expect("a small number"),
            configs: [("retention.ms".to_owned(), "604800000".to_owned())].into(),
            created_ms: 0,
            internal: false,
        };
        let one = PartitionAssignment::new(1, 0, 0);
        NewTopic { name, topic, assignment: AssignmentRecord { partitions: vec![one; partitions] } }
    };
    let run = Uuid::new_v4();
    let start = Instant::now();
    metadata.create_topic(&new(format!("one-{run}"), 10_000)).await?;
    println!("created 1 topic with 10,000 partitions in {:?}", start.elapsed());
    let many: Vec<_> = (0..10_000).map(|i| new(format!("many-{run}-{i}"), 1)).collect();
    let start = Instant::now();
    metadata.create_topics(&many).await?;
    println!("created 10,000 topics with 1 partition in {:?}", start.elapsed());
    Ok(())
}

async fn commit(metadata: &Metadata, concurrency: u32, run_for: Duration) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    let start = Instant::now();
    for group in 0..concurrency {
        let metadata = metadata.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while start.elapsed() < run_for {
                let offset = i64::try_from(latencies.len()).expect("a small number");
                let of = |partition| OffsetKey {
                    group: format!("group-{group}"),
                    topic: "orders".to_owned(),
                    partition,
                };
                let record = OffsetRecord {
                    offset,
                    leader_epoch: 0,
                    metadata: String::new(),
                    commit_time_ms: 0,
                    expires_at_ms: None,
                    topic_id: Uuid::nil(),
                };
                let began = Instant::now();
                metadata.commit_offsets((0..6).map(|p| (of(p), record.clone()))).await?;
                latencies.push(began.elapsed());
            }
            Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    for task in tasks.join_all().await {
        latencies.extend(task?);
    }
    latencies.sort_unstable();
    let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize];
    let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
    println!("{concurrency} groups: {rate:.0} commits of 6 offsets/s, p50 {:?}, p99 {:?}", at(0.5), at(0.99));
    Ok(())
}
