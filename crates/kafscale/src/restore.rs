//! `kafscale restore`: rebuilds the metadata of a cluster from its store, or brings one topic back as it was at some time.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use kafscale_core::clock::Clock;
use kafscale_core::utc;
use kafscale_meta::{EmbeddedStore, MetaUrl, Metadata};
use kafscale_storage::{CopiedPartition, LostRange, RestoreOptions, Restored, TopicAt};
use tokio::runtime::Builder;

use crate::backend::{EtcdArgs, StoreUrl};
use crate::clock::SystemClock;
use crate::failure::Failure;
use crate::runtime;
use crate::s3::S3Args;

pub const EXAMPLES: &str = "\
When the metadata store is lost, stop all brokers, start an empty etcd, and:
  kafscale restore --store s3://bucket/prefix --meta etcd://etcd-1:2379 --dry-run
  kafscale restore --store s3://bucket/prefix --meta etcd://etcd-1:2379
Topics come back with their ids, settings and partitions, and with every acknowledged record;
committed offsets are those of the last snapshot, which the brokers write to the store every
30 seconds when something has changed. A broker that still runs is fenced. When this is cut off,
brokers do not start: run it again.

When the metadata of a broker on a local disk is lost (meta/kafscale.redb), stop the broker, and:
  kafscale restore --data-dir /var/lib/kafscale --dry-run
  kafscale restore --data-dir /var/lib/kafscale

When a broker does not start because a part of its write-ahead log is lost, and there is no copy:
  kafscale restore --data-dir /var/lib/kafscale --accept-loss --dry-run
  kafscale restore --data-dir /var/lib/kafscale --accept-loss
Everything that can be read is served, and the lost offsets are listed; metadata that is there is
kept.

When a topic was spoilt, bring it back as it was, under a new name, while the cluster runs:
  kafscale restore --store s3://bucket/prefix --meta etcd://etcd-1:2379 \\
      --topic orders --to-time 2026-11-25T10:00:00Z --as orders-restored
The new topic has all records before the first that is later, at the same offsets, and keeps them
until you set its retention.ms. What retention or compaction has taken out of the old topic is
not in the new one.

Exit status: 0 restored, 1 refused or failed, 2 a wrong argument.";

/// So many partitions are listed whose ends may be lost: it may be any of them.
const ENDS_LISTED_MAX: usize = 100;

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Only say what would be done; nothing is written
    #[arg(long)]
    pub dry_run: bool,

    /// Restore even where the metadata store has this cluster: what is there is lost
    #[arg(long, conflicts_with = "topic")]
    pub replace: bool,

    /// Do without parts of the write-ahead log that are lost: everything else is served, and what is lost is listed
    #[arg(long, conflicts_with = "topic")]
    pub accept_loss: bool,

    /// Bring topics back that were deleted, too, where their records are still there
    #[arg(long, conflicts_with = "topic")]
    pub with_deleted: bool,

    /// Bring back this topic only
    #[arg(long, value_name = "NAME", requires = "to_time", requires = "as_name")]
    pub topic: Option<String>,

    /// As it was at this time: 2026-11-25T10:00:00Z
    #[arg(long, value_name = "TIME", requires = "topic")]
    pub to_time: Option<Time>,

    /// Name of the new topic
    #[arg(long = "as", id = "as_name", value_name = "NAME", requires = "topic")]
    pub as_name: Option<String>,

    /// Data directory of a broker on a local disk, where neither --store nor --meta names another place
    #[arg(long, env = "KAFSCALE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// The store with the log: s3://bucket/prefix, file:///absolute/dir or file:relative/dir [default: the data directory]
    #[arg(long, env = "KAFSCALE_STORE", value_name = "URL")]
    pub store: Option<StoreUrl>,

    /// The metadata store: etcd://host:port,host:port, etcds:// for TLS, or file:///absolute/dir [default: the data directory]
    #[arg(long, env = "KAFSCALE_META", value_name = "URL")]
    pub meta: Option<MetaUrl>,

    /// Name of the cluster, as its brokers have it
    #[arg(long, env = "KAFSCALE_CLUSTER_NAME", value_name = "NAME", default_value = "kafscale")]
    pub cluster_name: String,

    #[command(flatten)]
    pub etcd: EtcdArgs,
    #[command(flatten)]
    pub s3: S3Args,
}

/// A moment, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub i64);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "a time is written like 2026-11-25T10:00:00Z or 2026-11-25T11:00:00+01:00";
        utc::parse(text).map(Time).ok_or_else(|| example.to_owned())
    }
}

/// Restores, and tells what came back.
pub fn run(args: &RestoreArgs) -> Result<String, Failure> {
    let (store, meta) = places(args)?;
    let store = match &store {
        StoreUrl::S3 { bucket, prefix } => {
            let s3 = args.s3.config(bucket, prefix, crate::s3::process_variables())?;
            kafscale_storage::StoreUrl::S3(Box::new(s3))
        }
        StoreUrl::File(directory) if !directory.is_dir() => {
            return Err(Failure::runtime(format!(
                "--store {store}: there is no such directory to restore from"
            )));
        }
        StoreUrl::File(directory) if args.topic.is_none() => {
            kafscale_storage::StoreUrl::File(directory.clone())
        }
        StoreUrl::File(_) => {
            return Err(Failure::usage(format!(
                "--store {store}: a topic can be brought back from an object store only"
            )));
        }
        StoreUrl::Memory => return Err(Failure::usage(format!("--store {store}: nothing is kept there"))),
    };
    runtime::block_on(Builder::new_multi_thread(), restore(args, store, &meta))
}

/// The store and the metadata: those that are named, else the data directory.
fn places(args: &RestoreArgs) -> Result<(StoreUrl, MetaUrl), Failure> {
    let RestoreArgs { store, meta, data_dir, .. } = args;
    let missing = |flag| {
        Failure::usage(format!("{flag} is missing; for a broker on a local disk, --data-dir is enough"))
    };
    let store = match (store, data_dir) {
        (Some(store), _) => store.clone(),
        (None, Some(dir)) => StoreUrl::File(dir.clone()),
        (None, None) => return Err(missing("--store")),
    };
    let meta = match (meta, data_dir) {
        (Some(meta), _) => meta.clone(),
        (None, Some(dir)) => MetaUrl::File(dir.clone()),
        (None, None) => return Err(missing("--meta")),
    };
    Ok((store, meta))
}

async fn restore(
    args: &RestoreArgs,
    store: kafscale_storage::StoreUrl,
    meta: &MetaUrl,
) -> Result<String, Failure> {
    let failed = |e: kafscale_meta::Error| Failure::runtime(e.to_string());
    let etcd = args.etcd.options()?;
    let is_local = matches!(meta, MetaUrl::File(_));
    if let (MetaUrl::File(dir), None, false) = (meta, &args.topic, args.dry_run) {
        check(args, &store, dir).await?;
    }
    let is_new = matches!(meta, MetaUrl::File(dir) if !EmbeddedStore::exists(dir));
    let opened = match &args.topic {
        Some(_) if is_local && args.dry_run => kafscale_meta::open_for_reading(meta, &etcd).await,
        Some(_) if is_new => kafscale_meta::open_existing(meta, &etcd).await,
        // What would be restored is known without a file to write it to.
        None if is_local && args.dry_run => kafscale_meta::open(&MetaUrl::Memory, &etcd).await,
        Some(_) | None => kafscale_meta::open(meta, &etcd).await,
    };
    let metadata = Metadata::new(opened.map_err(failed)?, &args.cluster_name).map_err(failed)?;
    let told = match (&args.topic, args.to_time, &args.as_name) {
        (Some(topic), Some(Time(until_ms)), Some(new_name)) => {
            let (topic, new_name) = (topic.clone(), new_name.clone());
            let wanted = TopicAt { topic, until_ms, new_name, dry_run: args.dry_run };
            let copied =
                kafscale_storage::restore_topic(&store, &metadata, SystemClock.now_ms(), &wanted).await;
            copied.map(|copied| told_of_topic(&wanted, &copied)).map_err(Failure::runtime)
        }
        _ => {
            let restored =
                kafscale_storage::restore(&store, &metadata, SystemClock.now_ms(), options(args)).await;
            let told = restored.map(|restored| told_of_all(&restored, args, !is_new));
            told.map_err(|e| Failure::runtime(e.to_string()))
        }
    };
    let closed = metadata.store().close().await;
    let told = told?;
    closed.map_err(failed)?;
    Ok(told)
}

/// Whether there is anything to restore, and it may be restored there: found out before the metadata store is made or opened, so that
/// what is refused changes nothing.
async fn check(args: &RestoreArgs, store: &kafscale_storage::StoreUrl, meta: &Path) -> Result<(), Failure> {
    let failed = |e: kafscale_meta::Error| Failure::runtime(e.to_string());
    // A file that cannot be read is in the way, and opening it says so better.
    let Ok(copy) = EmbeddedStore::look(meta).await else { return Ok(()) };
    let metadata = Metadata::new(Arc::new(copy), &args.cluster_name).map_err(failed)?;
    kafscale_storage::may_restore(store, &metadata, SystemClock.now_ms(), options(args))
        .await
        .map_err(|e| Failure::runtime(e.to_string()))
}

fn options(args: &RestoreArgs) -> RestoreOptions {
    let RestoreArgs { dry_run, replace, accept_loss, with_deleted, .. } = *args;
    RestoreOptions { dry_run, replace, accept_loss, with_deleted }
}

/// `has_metadata` where there may be some.
fn told_of_all(restored: &Restored, args: &RestoreArgs, has_metadata: bool) -> String {
    let (mut text, dry_run) = (String::new(), args.dry_run);
    let did = if dry_run { "would restore" } else { "restored" };
    for topic in &restored.topics {
        let (name, partitions, offsets) = (&topic.name, topic.partitions, topic.offsets);
        let _ = write!(text, "{did} {name}: {partitions} partitions, {offsets} offsets");
        let _ = match topic.in_chains {
            0 => writeln!(text),
            of_them => writeln!(text, ", {of_them} of them in no segment yet"),
        };
    }
    let Restored { wal_files, chains, chains_sealed, newer_segments, committed_offsets, .. } = restored;
    let (sealed, fenced) = if dry_run { ("would seal", "would be fenced") } else { ("sealed", "are fenced") };
    let _ = match wal_files {
        None => writeln!(
            text,
            "{chains} chains hold records; {sealed} {chains_sealed}, whose brokers {fenced} if they still run"
        ),
        Some(files) => writeln!(text, "{files} write-ahead files hold records"),
    };
    for left_out in &restored.left_out_snapshots {
        let _ = writeln!(text, "a newer snapshot is left out, the one before is used: {left_out}");
    }
    let keeps_metadata = has_metadata && args.accept_loss && !args.replace;
    match restored.snapshot_ms {
        // What is begun with is a snapshot that the restoration itself takes first.
        _ if dry_run && keeps_metadata => {
            text += "the metadata that is there is kept, with its committed offsets and settings; where it is another store's, those of the \
                     last snapshot are taken\n";
        }
        Some(taken_ms) => {
            let age_s = (SystemClock.now_ms() - taken_ms) / 1000;
            let at = utc::seconds(taken_ms);
            let _ = writeln!(
                text,
                "{committed_offsets} committed offsets and all settings as of the snapshot of {at}, {age_s} s ago; {newer_segments} segments \
                 are newer"
            );
        }
        None => {
            text +=
                "there was no snapshot: settings of topics, consumer groups and committed offsets are lost\n"
        }
    }
    for name in &restored.nameless {
        let _ = writeln!(text, "the name of one topic is lost; it is {name} now");
    }
    for deleted in &restored.deleted_topics {
        let _ = writeln!(text, "left out, as it was deleted: {deleted}");
    }
    if !restored.deleted_topics.is_empty() {
        text += "to bring deleted topics back, run this with --replace --with-deleted before a broker is started: it drops their records\n";
    }
    tell_of_losses(restored, &mut text);
    for old in &restored.superseded {
        let _ = writeln!(
            text,
            "came back after it was given up, and is left out, as newer records have its offsets: {old}"
        );
    }
    for gap in &restored.gaps {
        let _ =
            writeln!(text, "in no object, though there are records below, and answered as damaged: {gap}");
    }
    for hole in &restored.holes {
        let _ = writeln!(text, "in no object, so the log begins above: {hole}");
    }
    for cut_off in &restored.cut_off {
        let _ = writeln!(text, "left out: {cut_off}");
    }
    text + if dry_run { "nothing was written\n" } else { "brokers can be started\n" }
}

/// Says what of a write-ahead log is given up.
fn tell_of_losses(restored: &Restored, text: &mut String) {
    for loss in &restored.losses {
        let _ = writeln!(text, "given up: {loss}");
    }
    for lost in &restored.lost {
        let _ = writeln!(text, "lost, and answered as damaged if there are records below: {lost}");
    }
    for end in restored.may_lack.iter().take(ENDS_LISTED_MAX) {
        let _ = writeln!(text, "later records may be lost, and their offsets are given again: {end}");
    }
    match restored.may_lack.len().saturating_sub(ENDS_LISTED_MAX) {
        0 => {}
        more => _ = writeln!(text, "the same of {more} other partitions"),
    }
}

fn told_of_topic(wanted: &TopicAt, copied: &[CopiedPartition]) -> String {
    let mut text = String::new();
    let TopicAt { topic, until_ms, new_name, dry_run } = wanted;
    for (index, partition) in copied.iter().enumerate() {
        let CopiedPartition { log_start, log_end, records, source_end, .. } = partition;
        let left_out = source_end.0 - log_end.0;
        let _ = writeln!(
            text,
            "{topic}, partition {index}: offsets {log_start} to {log_end}, {records} records; {left_out} later ones are left out"
        );
        for LostRange { first, last, why } in &partition.lost {
            let _ = writeln!(text, "{topic}, partition {index}: offsets {first} to {last} are lost: {why}");
        }
        for object in &partition.may_lack {
            let _ = writeln!(
                text,
                "{topic}, partition {index}: later records may have been in {object}, which is lost"
            );
        }
    }
    let (records, bytes) = copied.iter().fold((0, 0), |(r, b), p| (r + p.records, b + p.bytes));
    let did = if *dry_run { "would create" } else { "created" };
    let _ = writeln!(
        text,
        "{did} {new_name} with {records} records ({bytes} bytes) of {topic} as of {}, kept until you set its retention.ms",
        utc::milliseconds(*until_ms)
    );
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: RestoreArgs,
    }

    #[test]
    fn a_dry_run_tells_where_committed_offsets_come_from() {
        let restored = Restored { snapshot_ms: Some(0), committed_offsets: 7, ..Restored::default() };
        let of_snapshot = "7 committed offsets and all settings as of the snapshot";
        let kept = "the metadata that is there is kept, with its committed offsets";
        for (flags, has_metadata, expect) in [
            (&["--dry-run", "--accept-loss"][..], true, kept),
            (&["--dry-run", "--accept-loss"], false, of_snapshot),
            (&["--dry-run", "--accept-loss", "--replace"], true, of_snapshot),
            (&["--dry-run"], true, of_snapshot),
            (&["--accept-loss"], true, of_snapshot),
        ] {
            let args = CommandLine::parse_from([&["restore", "--data-dir", "/x"], flags].concat()).args;
            let told = told_of_all(&restored, &args, has_metadata);
            assert!(told.contains(expect), "{flags:?}: {told}");
        }
    }
}
