//! Appends to the audit log: one thread owns the file, takes events from a bounded channel, and answers each once its
//! line is on disk. Lines that wait together are made durable together.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use kafscale_core::shell::quoted;
use kafscale_meta::files::{self, open_regular};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot, watch};

use crate::hex;
use crate::verify::{Walked, head_path, read_head, walk};
use crate::{Event, Line, Link, MAX_LINE_BYTES, VERSION, Violation};

/// Names of people and of what they looked at are not for everybody on the machine.
pub(crate) const FILE_MODE: u32 = 0o640;
/// Calls that wait for their line at the same time.
const QUEUE: usize = 1024;
/// Lines that are made durable together.
const BATCH: usize = 256;

/// Why an audit log cannot be opened or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuditError {
    #[error("audit log {}: {error}", path.display())]
    Io { path: PathBuf, error: Arc<std::io::Error> },
    #[error(
        "the audit log {} was tampered with, or cut off by a full disk or a copy: {violation}. Put it back as it was. Without that, keep \
         what is left as evidence, and start again; the first line of the new log has what the anchor knows of this one: {}",
        path.display(), put_aside(path)
    )]
    Violated { path: PathBuf, violation: Arc<Violation> },
    #[error("the anchor of the audit log {} cannot be written; once its file can be written, calls are answered again", path.display())]
    Unanchored { path: PathBuf },
    #[error("audit log {}: a line of {bytes} bytes is longer than the {MAX_LINE_BYTES} that are read, and not written", path.display())]
    TooLong { path: PathBuf, bytes: usize },
    #[error("audit log {}: another line was written meanwhile", path.display())]
    Changed { path: PathBuf },
    #[error("audit log {}: its anchor {} is not there", path.display(), anchor.display())]
    AnchorGone { path: PathBuf, anchor: PathBuf },
    #[error("the audit log is closed")]
    Closed,
}

/// The command that puts a log and its head aside.
fn put_aside(path: &Path) -> String {
    let (log, head) = (path.to_owned(), head_path(path));
    let aside = |path: &Path, n: u32| {
        format!("{}.cut{}", path.display(), if n == 0 { String::new() } else { n.to_string() })
    };
    let is_free = |n: &u32| [&log, &head].iter().all(|path| !Path::new(&aside(path, *n)).exists());
    let n = (0..u32::MAX).find(is_free).unwrap_or_default();
    let moved =
        |path: &Path| format!("mv {} {}", quoted(&path.display().to_string()), quoted(&aside(path, n)));
    let commands: Vec<_> =
        [&log, &head].into_iter().filter(|path| path.exists()).map(|path| moved(path)).collect();
    commands.join(" && ")
}

struct Pending {
    event: Event,
    done: oneshot::Sender<Result<(), AuditError>>,
}

/// See the file's comment. The file is closed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct AuditLog {
    pending: mpsc::Sender<Pending>,
    /// The last line that is on disk.
    end: watch::Receiver<Link>,
    /// Set when the anchor shows that lines are missing: nothing is answered any more.
    violated: Arc<OnceLock<AuditError>>,
    writable: Arc<AtomicBool>,
    /// Why no line is taken, while the anchor cannot be written.
    unanchored: watch::Sender<Option<AuditError>>,
}

impl AuditLog {
    /// Goes on with a log. `end_holds`: its anchor says that no line is missing at the end.
    pub(crate) fn start(mut writer: Writer, end_holds: bool) -> Result<Self, AuditError> {
        writer.open_head(end_holds)?;
        let path = writer.path.clone();
        let (tell_end, end) = watch::channel(writer.last.clone());
        let (pending, mut events) = mpsc::channel::<Pending>(QUEUE);
        let writable = Arc::new(AtomicBool::new(true));
        let told = Arc::clone(&writable);
        let run = move || {
            while let Some(first) = events.blocking_recv() {
                let mut batch = vec![first];
                while let Some(more) = (batch.len() < BATCH).then(|| events.try_recv().ok()).flatten() {
                    batch.push(more);
                }
                let written = writer.append(batch.iter().map(|pending| &pending.event));
                told.store(written.is_ok(), Ordering::Relaxed);
                tell_end.send_replace(writer.last.clone());
                for (at, pending) in batch.into_iter().enumerate() {
                    let done = written.as_ref().map_err(Clone::clone);
                    let done = done.and_then(|refused| refused.get(&at).map_or(Ok(()), |e| Err(e.clone())));
                    // Nobody waits any more when the call was cancelled; its line stays.
                    let _ = pending.done.send(done);
                }
            }
        };
        let spawned = std::thread::Builder::new().name("audit".to_owned()).spawn(run);
        spawned.map_err(|error| io_error(&path, error))?;
        let unanchored = watch::Sender::default();
        Ok(Self { pending, end, violated: Arc::default(), writable, unanchored })
    }

    /// Goes on with a log that has no anchor, or begins one.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        Self::start(Writer::open(path)?, true)
    }

    /// The last line that is on disk, whenever there is another one.
    pub(crate) fn end(&self) -> watch::Receiver<Link> {
        self.end.clone()
    }

    /// Ends the log's use: lines of it are missing.
    pub(crate) fn refuse(&self, violated: AuditError) {
        let _ = self.violated.set(violated);
    }

    /// Takes no line until there is an anchor again.
    pub(crate) fn anchored(&self, path: &Path, is_anchored: bool) {
        let why = (!is_anchored).then(|| AuditError::Unanchored { path: path.to_owned() });
        self.unanchored.send_replace(why);
    }

    /// Whether the last line could be written, and its anchor.
    pub fn is_writable(&self) -> bool {
        self.violated.get().is_none()
            && self.unanchored.borrow().is_none()
            && self.writable.load(Ordering::Relaxed)
    }

    /// Hands over an event whose line nobody waits for, since its caller is gone.
    pub fn note(&self, event: Event) {
        let (done, _) = oneshot::channel();
        if self.pending.try_send(Pending { event, done }).is_err() {
            tracing::error!("a line of the audit log is lost: too many are waiting");
        }
    }

    /// Returns when the event's line is on disk.
    pub async fn append(&self, event: Event) -> Result<(), AuditError> {
        if let Some(violated) = self.violated.get() {
            return Err(violated.clone());
        }
        if let Some(unanchored) = &*self.unanchored.borrow() {
            return Err(unanchored.clone());
        }
        let (done, written) = oneshot::channel();
        self.pending.send(Pending { event, done }).await.map_err(|_| AuditError::Closed)?;
        written.await.map_err(|_| AuditError::Closed)?
    }
}

pub(crate) fn io_error(path: &Path, error: std::io::Error) -> AuditError {
    AuditError::Io { path: path.to_owned(), error: Arc::new(error) }
}

/// The file and where its chain ends.
pub(crate) struct Writer {
    path: PathBuf,
    file: File,
    /// None: it is not there, and nobody knows whether it is with the end of the log that it was removed.
    head: Option<File>,
    last: Link,
    /// Up to where the file is known to be good.
    good_bytes: u64,
    /// A write was cut off, by an error or a crash: what it left behind is removed before the next.
    torn: bool,
}

impl Writer {
    /// Opens a log, or makes an empty one. What is there stays as it is until the log is gone on with, so that a log that is refused
    /// tells the same as before.
    pub(crate) fn open(path: &Path) -> Result<Self, AuditError> {
        let failed = |error| io_error(path, error);
        let options = &mut OpenOptions::new();
        options.read(true).append(true).create(true).mode(FILE_MODE);
        let mut file = options.open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(std::io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")));
        }
        lock(&file).map_err(failed)?;
        let (good_bytes, torn_bytes) = whole_lines(&mut file).map_err(failed)?;
        let last = Self::find_end(path, good_bytes)?;
        let torn = torn_bytes > 0;
        if torn {
            tracing::warn!(
                bytes = torn_bytes,
                "the audit log ends in half a line, which the next one replaces"
            );
        }
        Ok(Self { path: path.to_owned(), file, head: None, last, good_bytes, torn })
    }

    pub(crate) fn last(&self) -> &Link {
        &self.last
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.last.seq == 0
    }

    /// Opens the head. One that is missing is made only where the log's end is known to hold: it would say so.
    pub(crate) fn open_head(&mut self, end_holds: bool) -> Result<(), AuditError> {
        let (head, may_begin) = (head_path(&self.path), end_holds || self.is_empty());
        if may_begin {
            begin_link(&head, &self.last.line()).map_err(|error| io_error(&head, error))?;
        }
        let options = &mut OpenOptions::new();
        let options = options.write(true).create(may_begin).truncate(false).mode(FILE_MODE);
        self.head = match options.open(&head) {
            Ok(head) => Some(head),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(io_error(&self.path, error)),
        };
        self.write_head().map_err(|error| io_error(&self.path, error))
    }

    /// Fails as [`Writer::open`] does where the chain is not as it was written. Nothing is changed.
    pub(crate) fn look(path: &Path) -> Result<(), AuditError> {
        let mut file = open_regular(path).map_err(|error| io_error(path, error))?;
        let (good_bytes, _) = whole_lines(&mut file).map_err(|error| io_error(path, error))?;
        Self::find_end(path, good_bytes).map(drop)
    }

    /// The last line, if the whole chain is as it was written. The head may be some lines behind after a crash.
    fn find_end(path: &Path, good_bytes: u64) -> Result<Link, AuditError> {
        let violated =
            |violation| AuditError::Violated { path: path.to_owned(), violation: Arc::new(violation) };
        let head = read_head(path).map_err(violated)?;
        let mut at_head = None;
        let last = walk(path, good_bytes, |Walked { link, .. }| {
            if head.as_ref().is_some_and(|head| head.seq == link.seq) {
                at_head = Some((*link).clone());
            }
            Ok(ControlFlow::Continue(()))
        })
        .map_err(violated)?;
        match head {
            Some(head) if head.seq > 0 && at_head.as_ref() != Some(&head) => {
                Err(violated(Violation::EndMissing { last: last.seq, expected: head.seq }))
            }
            _ => Ok(last),
        }
    }

    /// Writes events, and returns those that are not: a line that no reader takes would end the log.
    pub(crate) fn append<'a>(
        &mut self,
        events: impl Iterator<Item = &'a Event>,
    ) -> Result<HashMap<usize, AuditError>, AuditError> {
        let (mut last, mut refused) = (self.last.clone(), HashMap::new());
        let mut lines = Vec::new();
        for (at, event) in events.enumerate() {
            let line = Line { v: VERSION, seq: last.seq + 1, prev: last.hash.clone(), event: event.clone() };
            let text = serde_json::to_vec(&line).map_err(|e| io_error(&self.path, e.into()))?;
            if text.len() > MAX_LINE_BYTES {
                refused.insert(at, AuditError::TooLong { path: self.path.clone(), bytes: text.len() });
                continue;
            }
            last = Link { seq: line.seq, hash: hex(&Sha256::digest(&text)) };
            lines.extend_from_slice(&text);
            lines.push(b'\n');
        }
        self.write(&lines).map_err(|error| {
            self.torn = true;
            tracing::error!(file = %self.path.display(), %error, "the audit log cannot be written; calls are refused");
            io_error(&self.path, error)
        })?;
        self.good_bytes += lines.len() as u64;
        self.last = last;
        // The lines are safe; a head that lags behind them is caught up with the next ones.
        if let Err(error) = self.write_head() {
            tracing::warn!(file = %self.path.display(), %error, "the head of the audit log cannot be written");
        }
        Ok(refused)
    }

    fn write(&mut self, lines: &[u8]) -> std::io::Result<()> {
        if self.torn {
            self.file.set_len(self.good_bytes)?;
            self.torn = false;
        }
        // Lines in a file that nobody finds any more are no lines.
        let (open, named) = (self.file.metadata()?, std::fs::metadata(&self.path)?);
        if (open.dev(), open.ino()) != (named.dev(), named.ino()) {
            return Err(std::io::Error::new(ErrorKind::NotFound, "the file was removed or replaced"));
        }
        self.file.write_all(lines)?;
        self.file.sync_data()
    }

    /// Always as long as before, so that it is written in place.
    fn write_head(&mut self) -> std::io::Result<()> {
        let Some(head) = &mut self.head else { return Ok(()) };
        head.seek(SeekFrom::Start(0))?;
        head.write_all(self.last.line().as_bytes())
    }
}

/// Makes a file of one line, of a head or an anchor, where there is none yet: whole, also where the disk is full or the machine stops.
pub(crate) fn begin_link(path: &Path, line: &str) -> std::io::Result<()> {
    // A link to another place stays one.
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        found => return found.map(drop),
    }
    let mut new = path.to_owned().into_os_string();
    new.push(".new");
    let options = &mut OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(&new)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Two writers would break the chain.
fn lock(file: &File) -> std::io::Result<()> {
    files::lock_soon(file).map_err(|error| match error {
        TryLockError::WouldBlock => {
            std::io::Error::new(ErrorKind::ResourceBusy, "another process writes to it")
        }
        TryLockError::Error(error) => error,
    })
}

/// Whether the last whole line of a log has a lower number than its head says, or `expected`. Where there is no log, none is short.
pub(crate) fn is_short(path: &Path, expected: u64) -> bool {
    let Ok(mut file) = open_regular(path) else { return false };
    let head = read_head(path).map_or(u64::MAX, |head| head.map_or(0, |head| head.seq));
    last_number(&mut file).is_ok_and(|last| last < head.max(expected) && (last > 0 || head > 0))
}

/// The number of the last whole line. 0 where there is none, or it is none of ours.
fn last_number(file: &mut File) -> std::io::Result<u64> {
    let (whole, _) = whole_lines(file)?;
    let tail_bytes = whole.min(MAX_LINE_BYTES as u64 + 1);
    file.seek(SeekFrom::Start(whole - tail_bytes))?;
    let mut tail = vec![0; tail_bytes as usize];
    file.read_exact(&mut tail)?;
    let last = tail.strip_suffix(b"\n").unwrap_or_default().rsplit(|byte| *byte == b'\n').next();
    Ok(last.and_then(|line| serde_json::from_slice::<Line>(line).ok()).map_or(0, |line| line.seq))
}

/// How many bytes whole lines take, and how many a last line without its line break.
pub(crate) fn whole_lines(file: &mut File) -> std::io::Result<(u64, u64)> {
    let length = file.metadata()?.len();
    let tail_bytes = length.min(MAX_LINE_BYTES as u64 + 1);
    file.seek(SeekFrom::Start(length - tail_bytes))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let whole = match tail.iter().rposition(|b| *b == b'\n') {
        Some(at) => length - tail_bytes + at as u64 + 1,
        None if tail_bytes == length => 0,
        // That is no line of ours: the walk over the chain will say so.
        None => length,
    };
    Ok((whole, length - whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify;

    fn event(tool: &str) -> Event {
        Event {
            tool: Some(tool.into()),
            outcome: "ok".into(),
            ..Event::new(1_700_000_000_000, "ana", "http")
        }
    }

    fn open(path: &Path) -> Result<AuditLog, AuditError> {
        AuditLog::start(Writer::open(path)?, true)
    }

    async fn write(path: &Path, tools: &[&str]) {
        let log = open(path).unwrap();
        for tool in tools {
            log.append(event(tool)).await.unwrap();
        }
    }

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    fn put(path: &Path, lines: &[String]) {
        std::fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    }

    #[tokio::test]
    async fn decisions_without_an_outcome_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let log = open(&path).unwrap();
        let of = |call: Option<&str>, outcome: &str| {
            let call = call.map(str::to_owned);
            Event { call, outcome: outcome.to_owned(), ..event("query") }
        };
        let decided = crate::DECIDED;
        for (call, outcome) in [
            (Some("a"), decided),
            (Some("b"), decided),
            (Some("a"), "ok"),
            (None, "ok"),
            (Some("c"), decided),
        ] {
            log.append(of(call, outcome)).await.unwrap();
        }
        assert_eq!(verify(&path).unwrap().cut_off, 2);
        drop(log);
        let log = open(&path).unwrap();
        log.append(of(Some("b"), "timeout")).await.unwrap();
        assert_eq!(verify(&path).unwrap().cut_off, 1);
    }

    #[tokio::test]
    async fn what_was_written_is_verified_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        write(&path, &["a", "b"]).await;
        write(&path, &["c"]).await;
        let verified = verify(&path).unwrap();
        assert_eq!((verified.lines, verified.end_confirmed), (3, Some(())));
    }

    #[tokio::test]
    async fn a_line_that_no_reader_takes_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let log = open(&path).unwrap();
        log.append(event("a")).await.unwrap();
        let beside = verify(&path).unwrap();
        let length = std::fs::metadata(&path).unwrap().len() as usize;
        // As long as may be, then one byte more.
        for (more, is_written) in [(MAX_LINE_BYTES - (length - 1) + 1, true), (MAX_LINE_BYTES, false)] {
            let written = log.append(event(&"x".repeat(more))).await;
            assert_eq!(written.is_ok(), is_written, "{written:?}");
            assert!(is_written || matches!(written, Err(AuditError::TooLong { .. })), "{written:?}");
            log.append(event("b")).await.unwrap();
            assert!(log.is_writable() && verify(&path).unwrap().lines > beside.lines);
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().map(str::len).max(), Some(MAX_LINE_BYTES));
        drop(log);
        open(&path).unwrap();
    }

    #[tokio::test]
    async fn any_changed_missing_or_moved_line_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        write(&path, &["a", "b", "c", "d"]).await;
        let good = lines(&path);
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] = changed[at].replace("ana", "bob");
            put(&path, &changed);
            assert!(verify(&path).is_err(), "line {at} changed");
            let mut missing = good.clone();
            missing.remove(at);
            put(&path, &missing);
            assert!(verify(&path).is_err(), "line {at} missing");
            assert!(matches!(open(&path), Err(AuditError::Violated { .. })));
            let mut doubled = good.clone();
            doubled.insert(at, good[at].clone());
            put(&path, &doubled);
            assert!(verify(&path).is_err(), "line {at} doubled");
        }
        for at in 1..good.len() {
            let mut moved = good.clone();
            moved.swap(at - 1, at);
            put(&path, &moved);
            assert!(verify(&path).is_err(), "line {at} moved");
        }
        put(&path, &good);
        assert!(verify(&path).is_ok());
    }

    #[tokio::test]
    async fn half_a_line_is_removed_and_the_chain_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        write(&path, &["a", "b"]).await;
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"v\":1,\"seq\":3,").unwrap();
        assert!(matches!(verify(&path), Err(Violation::Line { line: 3, .. })));
        write(&path, &["c"]).await;
        assert_eq!(verify(&path).unwrap().lines, 3);
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_written_is_an_error() {
        let full = Path::new("/dev/full");
        if full.exists() {
            let file = OpenOptions::new().append(true).open(full).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let head = Some(File::create(dir.path().join("head")).unwrap());
            let mut writer =
                Writer { path: full.into(), file, head, last: Link::genesis(), good_bytes: 0, torn: false };
            assert!(matches!(writer.append([&event("a")].into_iter()), Err(AuditError::Io { .. })));
        }
    }
}
