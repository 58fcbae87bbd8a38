//! `kafscale verify`: checks a whole store against its checksums, and says what is damaged and what to do.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use kafscale_core::clock::Clock;
use kafscale_storage::{Finding, Harm, Progress, Scrubbed, Watch};

use crate::backend::StoreUrl;
use crate::clock::SystemClock;
use crate::failure::Failure;
use crate::s3::{S3Args, process_variables};

pub const EXAMPLES: &str = "\
Examples:
  kafscale verify --data-dir /var/lib/kafscale
  kafscale verify --store s3://bucket/prefix --repair-report

Every segment and the whole write-ahead log are read and compared with their checksums. Nothing is
written, and brokers may run meanwhile; from an object store this reads all of its bytes, which costs
requests and traffic. Each damaged place is printed as it is found:

  topics/orders/…/segment-….kfs at byte 4160: the batch at offset 70 does not match its CRC32C;
      orders-0, offsets 70 to 79 cannot be read

A byte is counted from the beginning of the object or file. It is where the damaged batch begins, or,
where it is not known which batch is damaged, the part or the write that is.

What the words mean:
  cannot be read        consumers get CORRUPT_MESSAGE at these offsets, and all others as ever
  may be lost           the last write of a write-ahead file is not whole, and its records are left
                        out: after a crash nobody was told that they are kept, after damage perhaps
  holds up a start      a broker does not start, or does not serve partitions, before this is mended
  does no harm          an index or a checksum is damaged; all records are read without it

Segments that the newest snapshot of the metadata names are missed when they are gone; what was written
since and deleted without a trace is not. The metadata itself is not read. Where no broker runs, what
retention or DeleteRecords took after that snapshot (at most 30 seconds' worth) is missed too: the
finding says so.

Exit status: 0 everything matches, 1 something is damaged, missing or cannot be read, or there is nothing
of a broker, 2 a wrong argument.";

/// How often the progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Directory with the log, unless --store says otherwise
    #[arg(long, env = "KAFSCALE_DATA_DIR", value_name = "DIR", default_value = "./kafscale-data")]
    pub data_dir: PathBuf,

    /// Where the log is kept: file:///path or s3://bucket/prefix [default: the data directory]
    #[arg(long, env = "KAFSCALE_STORE", value_name = "URL")]
    pub store: Option<StoreUrl>,

    /// At the end, say for each damaged object what can be done about it
    #[arg(long)]
    pub repair_report: bool,

    /// Tell no progress
    #[arg(long, short)]
    pub quiet: bool,

    #[command(flatten)]
    pub s3: S3Args,
}

/// Prints findings to standard output, and progress to standard error.
struct Teller {
    quiet: bool,
    /// On a terminal one line is written over and over.
    rewrites: bool,
    began: Instant,
    told: Instant,
}

impl Watch for Teller {
    fn found(&mut self, finding: &Finding) {
        self.clear();
        println!("{}", line(finding));
    }

    fn progress(&mut self, progress: &Progress) {
        if self.quiet || self.told.elapsed() < TELL_EVERY {
            return;
        }
        self.told = Instant::now();
        let Progress { objects_done, objects, bytes_done, bytes, findings } = *progress;
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        let rate = bytes_done as f64 / seconds;
        let left = if rate > 0.0 { bytes.saturating_sub(bytes_done) as f64 / rate } else { 0.0 };
        self.clear();
        let text = format!(
            "checked {objects_done} of {objects} objects, {} of {}, {findings} damaged places, about {left:.0} s left",
            size(bytes_done),
            size(bytes)
        );
        if self.rewrites { eprint!("{text}") } else { eprintln!("{text}") }
    }
}

impl Teller {
    fn clear(&self) {
        if self.rewrites {
            eprint!("\r\x1b[K");
        }
    }
}

pub fn run(args: &VerifyArgs) -> Result<String, Failure> {
    let store = match &args.store {
        None => kafscale_storage::StoreUrl::File(args.data_dir.clone()),
        Some(StoreUrl::File(dir)) => kafscale_storage::StoreUrl::File(dir.clone()),
        Some(StoreUrl::Memory) => {
            return Err(Failure::usage("--store memory: keeps nothing that could be checked"));
        }
        Some(StoreUrl::S3 { bucket, prefix }) => {
            let config = args.s3.config(bucket, prefix, process_variables())?;
            kafscale_storage::StoreUrl::S3(Box::new(config))
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::runtime(format!("the threads could not be started: {e}")))?;
    let now = Instant::now();
    let rewrites = !args.quiet && std::io::stderr().is_terminal();
    let mut teller = Teller { quiet: args.quiet, rewrites, began: now, told: now };
    let scrubbed = runtime.block_on(kafscale_storage::scrub(&store, SystemClock.now_ms(), &mut teller));
    teller.clear();
    let scrubbed = scrubbed.map_err(|e| Failure::runtime(e.to_string()))?;
    let mut text = String::new();
    if args.repair_report {
        text += &repair_report(&scrubbed);
    }
    let Scrubbed { progress, segments, wal_objects, batches, .. } = &scrubbed;
    let _ = writeln!(
        text,
        "checked {segments} segments, {wal_objects} objects or files of the write-ahead log, {batches} batches, {}, in {:.1} s",
        size(progress.bytes_done),
        now.elapsed().as_secs_f64()
    );
    match progress.findings {
        0 => Ok(text + "everything matches its checksums\n"),
        places => {
            print!("{text}");
            Err(Failure::refused(format!("{places} places are damaged")))
        }
    }
}

/// One finding on one line.
fn line(finding: &Finding) -> String {
    let Finding { object, position, why, harm, offsets, .. } = finding;
    let at = if *position > 0 { format!(" at byte {position}") } else { String::new() };
    let of = partition(finding).map_or(String::new(), |of| format!("{of}, "));
    let what = match (harm, offsets) {
        (Harm::Records, Some((first, last))) if last.0 >= i64::MAX - 1 => {
            format!("{of}offsets from {first} on cannot be read")
        }
        (Harm::Records, Some((first, last))) => format!("{of}offsets {first} to {last} cannot be read"),
        (Harm::Records, None) => format!("{of}its records cannot be read"),
        (Harm::Unknown, Some((first, last))) => format!("{of}offsets {first} to {last} may be lost"),
        (Harm::Unknown, None) => "its records may be lost".to_owned(),
        (Harm::Start, _) => format!("{of}this holds up a start"),
        (Harm::None, _) => format!("{of}this does no harm to reads"),
    };
    format!("{object}{at}: {why}; {what}")
}

fn partition(finding: &Finding) -> Option<String> {
    Some(format!("{}-{}", finding.topic.as_ref()?, finding.partition?))
}

fn repair_report(scrubbed: &Scrubbed) -> String {
    let mut text = String::new();
    let mut objects: Vec<&str> = scrubbed.findings.iter().map(|f| f.object.as_str()).collect();
    objects.dedup();
    if !objects.is_empty() {
        text += "\nWhat can be done:\n";
    }
    for object in objects {
        let findings = || scrubbed.findings.iter().filter(|f| f.object == object);
        let _ = writeln!(text, "{object}");
        let harms = |harm| findings().any(|f| f.harm == harm);
        if harms(Harm::Start) || harms(Harm::Records) {
            text += "    put the object or file back from a copy, or from an earlier version where the bucket keeps versions; stop the\n    \
                     broker that owns it first, and run verify again\n";
        }
        if harms(Harm::Unknown) {
            text += "    after a crash in the middle of a write nothing has to be done: the next start leaves the write out; where a disk\n    \
                     or a person has cut the file, put it back from a copy before a broker starts on it\n";
        }
        if harms(Harm::Start) {
            text +=
                "    without a copy, docs/operations.md (\"Damaged data\") says how to give its records up\n";
        }
        for (first, last) in findings().filter(|f| f.harm == Harm::Records).filter_map(|f| f.offsets) {
            let of = findings().find_map(partition).unwrap_or_default();
            let _ = match last.0 >= i64::MAX - 1 {
                true => writeln!(text, "    without a copy, records of {of} from offset {first} on are lost"),
                false => writeln!(
                    text,
                    "    without a copy, offsets {first} to {last} of {of} are lost: consumers that stop there seek to {}",
                    last.plus(1)
                ),
            };
        }
        if ![Harm::Start, Harm::Records, Harm::Unknown].into_iter().any(harms) {
            text += "    nothing has to be done: records are read without the damaged part\n";
        }
    }
    if text.is_empty() { text } else { text + "\n" }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}
