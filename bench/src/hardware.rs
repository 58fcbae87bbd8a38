//! What the machine itself can do: its disk, its page cache, its loopback. Results of brokers are read beside these.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{Advice, fadvise};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::report::{Meter, Report, micros, times};

const READ_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, clap::Args)]
pub struct DiskArgs {
    /// Where to write; the files are removed again
    #[arg(long)]
    dir: PathBuf,
    /// Bytes that are written between two fdatasync
    #[arg(long, default_value_t = 1 << 20)]
    group_bytes: usize,
    /// Size of each file, as logs have it too
    #[arg(long, default_value_t = 64 << 20)]
    file_bytes: u64,
    /// How long
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Write no more than this
    #[arg(long, default_value_t = u64::MAX)]
    max_bytes: u64,
}

/// Appends groups of bytes to files, each made durable by fdatasync.
pub fn disk(args: &DiskArgs) -> Result<()> {
    let data: Vec<u8> = (0..args.group_bytes).map(|at| (at * 31 % 251) as u8).collect();
    let dir = args.dir.join(format!("kafscale-bench-disk-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let (mut latency, mut bytes) = (times(), 0);
    let began = Instant::now();
    let written = (|| {
        let (mut file, mut in_file, mut number) = (File::create(dir.join("0"))?, 0, 0);
        while began.elapsed().as_secs_f64() < args.seconds && bytes < args.max_bytes {
            let at = Instant::now();
            file.write_all(&data)?;
            file.sync_data()?;
            latency.saturating_record(micros(at.elapsed()));
            bytes += data.len() as u64;
            in_file += data.len() as u64;
            if in_file >= args.file_bytes {
                // As few files at a time as a log has, so that the disk does not fill up.
                fs::remove_file(dir.join(number.to_string()))?;
                number += 1;
                (file, in_file) = (File::create(dir.join(number.to_string()))?, 0);
            }
        }
        anyhow::Ok(())
    })();
    let seconds = began.elapsed().as_secs_f64();
    fs::remove_dir_all(&dir)?;
    written?;
    let mut report = Report::of("disk");
    report.put("group_bytes", args.group_bytes);
    report.put("payload_bytes", bytes);
    report.figure("seconds", seconds);
    report.figure("throughput_mb_per_s", bytes as f64 / 1e6 / seconds);
    report.latency("fdatasync", &latency);
    report.print();
    Ok(())
}

#[derive(Debug, Clone, clap::Args)]
pub struct ReadArgs {
    /// The files below this directory
    #[arg(long)]
    dir: PathBuf,
    /// Only make the page cache forget the files
    #[arg(long)]
    only_forget: bool,
}

/// Reads files in order after the page cache has forgotten them.
pub fn read(args: &ReadArgs) -> Result<()> {
    let mut files = Vec::new();
    find(&args.dir, &mut files)?;
    files.sort();
    for path in &files {
        forget(path)?;
    }
    let mut report = Report::of("read");
    report.put("files", files.len());
    if !args.only_forget {
        let (mut buffer, mut bytes) = (vec![0; READ_BYTES], 0);
        let began = Instant::now();
        for path in &files {
            let mut file = File::open(path)?;
            loop {
                let size = file.read(&mut buffer)?;
                if size == 0 {
                    break;
                }
                bytes += size as u64;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        report.put("payload_bytes", bytes);
        report.figure("seconds", seconds);
        report.figure("throughput_mb_per_s", bytes as f64 / 1e6 / seconds);
    }
    report.print();
    Ok(())
}

fn find(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => find(&entry.path(), files)?,
            kind if kind.is_file() && entry.metadata()?.len() > 0 => files.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

/// Only clean pages can be dropped, so the file is written back first.
fn forget(path: &Path) -> Result<()> {
    let file = OpenOptions::new().read(true).open(path)?;
    file.sync_data()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(())
}

#[derive(Debug, Clone, clap::Args)]
pub struct EchoArgs {
    /// Where to listen; port 0 takes a free one. The address is printed
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
}

/// Sends back what comes in, until it is killed. The least that any server costs.
pub async fn echo(args: EchoArgs) -> Result<()> {
    let listener = TcpListener::bind(&args.listen).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(size @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..size]).await.is_err() {
                    break;
                }
            }
        });
    }
}

#[derive(Debug, Clone, clap::Args)]
pub struct RoundTripArgs {
    /// An echo server
    #[arg(long)]
    to: String,
    /// Size of each message
    #[arg(long, default_value_t = 200)]
    message_bytes: usize,
    /// How long
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Process whose CPU time is counted
    #[arg(long)]
    pid: Option<u32>,
}

pub async fn round_trip(args: RoundTripArgs) -> Result<()> {
    let mut stream = TcpStream::connect(&args.to).await?;
    stream.set_nodelay(true)?;
    let (message, mut answer) = (vec![7; args.message_bytes], vec![0; args.message_bytes]);
    let mut latency = times();
    let meter = Meter::start(args.pid)?;
    let until = meter.began() + Duration::from_secs_f64(args.seconds);
    while Instant::now() < until {
        let at = Instant::now();
        stream.write_all(&message).await?;
        stream.read_exact(&mut answer).await?;
        latency.saturating_record(micros(at.elapsed()));
        ensure!(answer == message, "the echo is another one");
    }
    let usage = meter.stop()?;
    let mut report = Report::of("round-trip");
    report.put("message_bytes", args.message_bytes);
    report.latency("round_trip", &latency);
    report.usage(&usage);
    report.print();
    Ok(())
}
