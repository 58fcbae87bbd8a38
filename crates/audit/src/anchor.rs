//! The anchor of an audit log: its last line, kept where somebody who can write the log's directory cannot: in the metadata store, or in
//! a file elsewhere. A log that lacks the line that its anchor holds was shortened, together with its head or not.
//!
//! The anchor follows the log with a delay of about [`ANCHOR_INTERVAL`]: lines of that time can be removed unseen after a crash.
//!
//! Where the anchor is a file that cannot be written, the log takes no lines until it can: a disk that is full or gone would hide the
//! end for as long as somebody likes.
//!
//! Invariant: a log that lacks its anchored line is not gone on with, and stays as it is, its head included. Where there is no log at any more, a new chain begins with a line
//! that says where the one before ended.

use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_core::shell::quoted;
use kafscale_meta::Metadata;
use kafscale_meta::files::{Apart, read_small_text};
use kafscale_meta::records::AuditAnchorRecord;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::hex;
use crate::log::{FILE_MODE, Writer, begin_link, io_error, is_short};
use crate::verify::{check_anchored, read_link};
use crate::{AuditError, AuditLog, Event, Link, Violation};

/// At most one write in this time.
const ANCHOR_INTERVAL: Duration = Duration::from_secs(1);
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// After an attempt that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// More is no anchor.
const MAX_ANCHOR_BYTES: u64 = 1 << 10;
const FILE_HANGS: &str = "the disk of the anchor's file does not answer";

/// Where the anchor is.
#[derive(Clone, Debug)]
pub enum Anchor {
    File(PathBuf),
    Metadata { metadata: Metadata, key: String, host: String },
}

impl Anchor {
    /// In the metadata store, under the name of this host and the log's path: several servers may have logs of the same path.
    pub fn in_metadata(metadata: &Metadata, log: &Path) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let path = std::path::absolute(log).unwrap_or_else(|_| log.to_owned());
        let name = hex(&Sha256::digest(format!("{host}\0{}", path.display()))[..16]);
        Self::Metadata { metadata: metadata.clone(), key: metadata.keys().audit_anchor(&name), host }
    }

    /// The line that is anchored, or why that cannot be found out.
    async fn load(&self, apart: &mut Apart) -> Result<Option<Link>, String> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                let read = apart.run(move || read_small_link(&path)).await;
                read.unwrap_or_else(|| Err(FILE_HANGS.to_owned()))
            }
            Self::Metadata { metadata, key, .. } => {
                let load = metadata.load::<AuditAnchorRecord>(key);
                let read = tokio::time::timeout(STORE_TIMEOUT, load).await;
                let read = read.map_err(|_| "the metadata store does not answer".to_owned())?;
                let record = read.map_err(|e| e.to_string())?.map(|read| read.record);
                let link = record.map(|record| {
                    Link::new(record.seq, &record.hash).ok_or_else(|| format!("{key} is no anchor"))
                });
                link.transpose()
            }
        }
    }

    async fn save(&self, apart: &mut Apart, log: &Path, link: &Link, at_ms: i64) -> Result<(), String> {
        match self {
            Self::File(path) => {
                let (file, line) = (path.clone(), link.line());
                let written = apart.run(move || write_file(&file, &line)).await.ok_or(FILE_HANGS)?;
                written.map_err(|error| format!("{}: {error}", path.display()))
            }
            Self::Metadata { metadata, key, host } => {
                let (seq, hash, host) = (link.seq, link.hash.clone(), host.clone());
                let path = log.display().to_string();
                let record = AuditAnchorRecord { seq, hash, at_ms, host, path };
                match tokio::time::timeout(STORE_TIMEOUT, metadata.save(key, &record)).await {
                    Ok(saved) => saved.map(|_| ()).map_err(|e| e.to_string()),
                    Err(_) => Err("the metadata store does not answer".to_owned()),
                }
            }
        }
    }
}

fn write_file(path: &Path, line: &str) -> std::io::Result<()> {
    begin_link(path, line)?;
    let options = &mut std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
    std::io::Write::write_all(&mut file, line.as_bytes())?;
    file.sync_data()
}

/// Adds one line to a log that nobody holds open, where that still ends with the line of this number and hash (zero: it is empty).
/// The line is on disk and anchored when this returns.
///
/// Unlike with [`open`], an anchor that is gone is an error, and one that cannot be written is found before the line is. A log that
/// is gone while its anchor is there does not begin anew. It waits for the disk.
pub fn append_once(path: &Path, anchor: &Path, after: (u64, &str), event: &Event) -> Result<(), AuditError> {
    let mut writer = Writer::open(path)?;
    let last = writer.last();
    if last.seq != after.0 || (last.seq > 0 && last.hash != after.1) {
        return Err(AuditError::Changed { path: path.to_owned() });
    }
    let save = |link: &Link| write_file(anchor, &link.line()).map_err(|error| io_error(anchor, error));
    let anchored = read_link(anchor).map_err(|violation| violated(path, violation))?;
    match anchored {
        Some(anchored) => {
            check_anchored(path, &anchored).map_err(|violation| violated(path, violation))?;
            save(&anchored)?;
        }
        // It is there before the first line is, and from then on.
        None if writer.is_empty() => save(&Link::genesis())?,
        None => {
            return Err(AuditError::AnchorGone { path: path.to_owned(), anchor: anchor.to_owned() });
        }
    }
    writer.open_head(true)?;
    match writer.append([event].into_iter())?.into_values().next() {
        Some(refused) => Err(refused),
        None => save(writer.last()),
    }
}

fn read_small_link(path: &Path) -> Result<Option<Link>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    match read_small_text(path, MAX_ANCHOR_BYTES) {
        Ok(text) => Link::parse(&text).map(Some).ok_or_else(|| {
            failed(&format!(
                "it is no anchor; to begin a new one: mv {0} {0}.old",
                quoted(&path.display().to_string())
            ))
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

/// Opens a log and compares it with its anchor before anything is written. Where the anchor cannot be read now, [`keep_anchored`]
/// compares later.
pub async fn open(path: &Path, anchor: &Anchor, now_ms: i64) -> Result<(AuditLog, Compared), AuditError> {
    let writer = Writer::open(path)?;
    let was_empty = writer.is_empty();
    match anchor.load(&mut Apart::default()).await {
        Ok(anchored) => {
            if let Some(anchored) = anchored.as_ref().filter(|_| !was_empty) {
                check(path, anchored).await?;
            }
            let log = AuditLog::start(writer, true)?;
            if let Some(anchored) = anchored.as_ref().filter(|_| was_empty) {
                begin_anew(&log, path, anchored, now_ms).await?;
            }
            Ok((log, Compared { was_empty, done: true }))
        }
        Err(why) => {
            tracing::warn!(file = %path.display(), why, "the anchor of the audit log cannot be read now; it is compared later");
            Ok((AuditLog::start(writer, false)?, Compared { was_empty, done: false }))
        }
    }
}

/// Finds a log that lacks the line that its head or its anchor holds, without changing anything; [`open`] finds more, and reads all
/// of the log for it. An anchor that cannot be read now says nothing.
pub async fn look(path: &Path, anchor: &Anchor) -> Result<(), AuditError> {
    let anchored = anchor.load(&mut Apart::default()).await.ok().flatten();
    let (file, expected) = (path.to_owned(), anchored.as_ref().map_or(0, |link| link.seq));
    let is_short = tokio::task::spawn_blocking(move || is_short(&file, expected)).await;
    if !is_short.map_err(|_| AuditError::Closed)? {
        return Ok(());
    }
    let file = path.to_owned();
    tokio::task::spawn_blocking(move || Writer::look(&file)).await.map_err(|_| AuditError::Closed)??;
    match anchored {
        Some(anchored) => check(path, &anchored).await,
        None => Ok(()),
    }
}

/// Whether a log was compared with its anchor.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    /// There was no line when the log was opened.
    was_empty: bool,
    done: bool,
}

/// Whether the line that is anchored is in the log.
async fn check(path: &Path, anchored: &Link) -> Result<(), AuditError> {
    let (file, anchored) = (path.to_owned(), anchored.clone());
    let held = tokio::task::spawn_blocking(move || check_anchored(&file, &anchored)).await;
    held.map_err(|_| AuditError::Closed)?.map_err(|violation| violated(path, violation))
}

/// Writes what there was before as the first line of a new log.
async fn begin_anew(log: &AuditLog, path: &Path, before: &Link, now_ms: i64) -> Result<(), AuditError> {
    let Link { seq: lines, hash } = before;
    if *lines == 0 {
        return Ok(());
    }
    tracing::warn!(
        file = %path.display(), lines,
        "the audit log begins anew: the one before had lines, and is not there"
    );
    let mut event = Event::new(now_ms, "server", "server");
    event.method = "audit/begin".to_owned();
    event.outcome = format!("a new chain: the one before ended with line {lines}, sha256 {hash}");
    log.append(event).await
}

fn violated(path: &Path, violation: Violation) -> AuditError {
    AuditError::Violated { path: path.to_owned(), violation: Arc::new(violation) }
}

/// Keeps the anchor at the log's end, until `stop` and then once more.
pub async fn keep_anchored(
    log: AuditLog,
    path: PathBuf,
    anchor: Anchor,
    mut compared: Compared,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let mut end = log.end();
    let (mut anchored, mut is_violated, mut apart) = (None, false, Apart::default());
    loop {
        let link = end.borrow_and_update().clone();
        let mut pause = ANCHOR_INTERVAL;
        if let Err(why) = async {
            if !compared.done {
                let held = match anchor.load(&mut apart).await? {
                    Some(before) if compared.was_empty => {
                        begin_anew(&log, &path, &before, clock.now_ms()).await
                    }
                    Some(before) => check(&path, &before).await,
                    None => Ok(()),
                };
                match held {
                    Ok(()) => compared.done = true,
                    Err(error @ AuditError::Violated { .. }) => {
                        tracing::error!(%error, "the audit log was shortened; calls are refused");
                        log.refuse(error);
                        is_violated = true;
                        return Ok(());
                    }
                    Err(other) => return Err(other.to_string()),
                }
            }
            if compared.done && link.seq > 0 && anchored.as_ref() != Some(&link) {
                let saved = anchor.save(&mut apart, &path, &link, clock.now_ms()).await;
                // A file is there or is not. A store that does not answer for a while stops nobody.
                if matches!(anchor, Anchor::File(_)) {
                    log.anchored(&path, saved.is_ok());
                }
                saved?;
                anchored = Some(link.clone());
            }
            Ok::<(), String>(())
        }
        .await
        {
            tracing::warn!(file = %path.display(), why, "the anchor of the audit log cannot be written; trying again");
            pause = if matches!(anchor, Anchor::File(_)) { ANCHOR_INTERVAL } else { RETRY_INTERVAL };
        }
        if is_violated || stop.is_cancelled() {
            return;
        }
        let waited = async {
            tokio::time::sleep(pause).await;
            // An attempt that failed is repeated without a new line.
            if anchored.as_ref() == Some(&*end.borrow()) || end.borrow().seq == 0 {
                let _ = end.changed().await;
            }
        };
        stop.run_until_cancelled(waited).await;
    }
}

#[cfg(test)]
mod tests {
    use kafscale_meta::EmbeddedStore;

    use super::*;
    use crate::{verify, verify_anchored};

    #[derive(Debug)]
    struct AClock;

    impl Clock for AClock {
        fn now_ms(&self) -> i64 {
            1_700_000_000_000
        }
    }

    /// Writes lines as one run of a server does.
    async fn run(path: &Path, anchor: &Anchor, tools: &[&str]) -> Result<(), AuditError> {
        let (log, compared) = open(path, anchor, 0).await?;
        let stop = CancellationToken::new();
        let keeping = tokio::spawn(keep_anchored(
            log.clone(),
            path.to_owned(),
            anchor.clone(),
            compared,
            Arc::new(AClock),
            stop.clone(),
        ));
        for tool in tools {
            log.append(Event { tool: Some((*tool).into()), ..Event::new(0, "ana", "http") }).await?;
        }
        stop.cancel();
        keeping.await.unwrap();
        Ok(())
    }

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    async fn anchors(dir: &Path, log: &Path) -> [Anchor; 2] {
        let metadata = Metadata::new(Arc::new(EmbeddedStore::memory()), "test").unwrap();
        [Anchor::File(dir.join("elsewhere")), Anchor::in_metadata(&metadata, log)]
    }

    #[tokio::test]
    async fn an_end_that_is_removed_together_with_the_head_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        for anchor in anchors(dir.path(), &path).await {
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_file(dir.path().join("audit.jsonl.head"));
            run(&path, &anchor, &["a", "b"]).await.unwrap();
            run(&path, &anchor, &["c", "d"]).await.unwrap();
            let whole = lines(&path);
            assert_eq!(whole.len(), 4);
            for kept in 1..4 {
                let text: String = whole[..kept].iter().map(|line| format!("{line}\n")).collect();
                std::fs::write(&path, text).unwrap();
                std::fs::remove_file(dir.path().join("audit.jsonl.head")).unwrap();
                for attempt in 0..2 {
                    let error = run(&path, &anchor, &["e"]).await.unwrap_err();
                    assert!(matches!(error, AuditError::Violated { .. }), "{kept} lines: {error}");
                    assert!(error.to_string().contains("the anchor outside the log holds line 4"), "{error}");
                    // What was refused does not look better afterwards.
                    assert_eq!(lines(&path).len(), kept);
                    assert_eq!(verify(&path).unwrap().end_confirmed, None, "{kept} lines, attempt {attempt}");
                }
                std::fs::write(dir.path().join("audit.jsonl.head"), Link::genesis().line()).unwrap();
            }
            // Also one that was written anew from the line that was kept.
            std::fs::write(&path, "").unwrap();
            let _ = std::fs::remove_file(dir.path().join("audit.jsonl.head"));
            let forged = AuditLog::start(Writer::open(&path).unwrap(), true).unwrap();
            for tool in ["x", "y", "z", "w", "v"] {
                forged
                    .append(Event { tool: Some(tool.into()), ..Event::new(0, "bob", "http") })
                    .await
                    .unwrap();
            }
            drop(forged);
            let error = run(&path, &anchor, &["e"]).await.unwrap_err();
            assert!(error.to_string().contains("line 4 is not the one that the anchor"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_head_is_not_made_while_nobody_knows_whether_the_end_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (path, head) = (dir.path().join("audit.jsonl"), dir.path().join("audit.jsonl.head"));
        let anchor = Anchor::File(dir.path().join("elsewhere"));
        run(&path, &anchor, &["a", "b", "c"]).await.unwrap();
        let whole = lines(&path);
        let half = format!("{}\n{}", whole[0], &whole[1][..9]);
        std::fs::write(&path, &half).unwrap();
        std::fs::remove_file(&head).unwrap();
        // Half a line is evidence, too.
        run(&path, &anchor, &["d"]).await.unwrap_err();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), half);
        // A directory cannot be read as an anchor.
        let (log, compared) = open(&path, &Anchor::File(dir.path().to_owned()), 0).await.unwrap();
        assert!(!compared.done);
        log.append(Event::new(0, "ana", "http")).await.unwrap();
        assert_eq!(verify(&path).unwrap().end_confirmed, None);
        assert!(!head.exists());
    }

    async fn wait_for_file(path: &Path) -> std::fs::Metadata {
        loop {
            match path.metadata() {
                Ok(found) => return found,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    #[tokio::test]
    async fn nothing_is_taken_while_the_anchor_is_gone_or_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("audit.jsonl"), dir.path().join("other"));
        std::fs::create_dir(&elsewhere).unwrap();
        let anchor = Anchor::File(elsewhere.join("anchor"));
        let (log, compared) = open(&path, &anchor, 0).await.unwrap();
        let stop = CancellationToken::new();
        let clock = Arc::new(AClock);
        let keeping =
            tokio::spawn(keep_anchored(log.clone(), path.clone(), anchor, compared, clock, stop.clone()));
        let append = async || log.append(Event::new(0, "ana", "http")).await;
        let until = async |is_writable: bool| {
            for _ in 0..500 {
                // What is refused is not asked again by itself: the next line tells.
                if append().await.is_ok() == is_writable && log.is_writable() == is_writable {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("it is not writable: {is_writable}");
        };
        until(true).await;
        let anchored = wait_for_file(&elsewhere.join("anchor")).await;
        // No more than may read the log itself.
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&anchored.permissions()) & 0o137, 0);
        std::fs::remove_dir_all(&elsewhere).unwrap();
        until(false).await;
        assert!(matches!(append().await, Err(AuditError::Unanchored { .. })));
        std::fs::create_dir(&elsewhere).unwrap();
        until(true).await;
        let moved = dir.path().join("moved");
        std::fs::rename(&path, &moved).unwrap();
        assert!(matches!(append().await, Err(AuditError::Io { .. })) && !log.is_writable());
        std::fs::rename(&moved, &path).unwrap();
        until(true).await;
        stop.cancel();
        keeping.await.unwrap();
        assert!(verify(&path).unwrap().lines > 0);
    }

    fn once(path: &Path, anchor: &Path, after: &Link, tool: &str) -> Result<Link, AuditError> {
        let event = Event { tool: Some(tool.into()), ..Event::new(0, "ana", "command") };
        append_once(path, anchor, (after.seq, &after.hash), &event)?;
        Ok(read_link(anchor).unwrap().unwrap())
    }

    #[test]
    fn one_line_is_added_where_the_log_was_read_to_and_never_without_its_anchor() {
        let dir = tempfile::tempdir().unwrap();
        let (path, anchor) = (dir.path().join("log"), dir.path().join("anchor"));
        let first = once(&path, &anchor, &Link::genesis(), "a").unwrap();
        let second = once(&path, &anchor, &first, "b").unwrap();
        assert_eq!((second.seq, verify_anchored(&path, &anchor).unwrap().lines), (2, 2));
        let other = Link { hash: first.hash.clone(), ..second.clone() };
        for after in [&Link::genesis(), &first, &other] {
            let late = once(&path, &anchor, after, "c");
            assert!(matches!(late, Err(AuditError::Changed { .. })), "{late:?}");
        }
        let long = once(&path, &anchor, &second, &"x".repeat(crate::MAX_LINE_BYTES));
        assert!(matches!(long, Err(AuditError::TooLong { .. })), "{long:?}");
        let kept = std::fs::read(&anchor).unwrap();
        std::fs::remove_file(&anchor).unwrap();
        let gone = once(&path, &anchor, &second, "c");
        assert!(matches!(gone, Err(AuditError::AnchorGone { .. })), "{gone:?}");
        // What cannot be written is told before there is a line.
        let nowhere = once(&path, &dir.path().join("no/anchor"), &second, "c");
        assert!(nowhere.is_err() && lines(&path).len() == 2);
        std::fs::write(&anchor, kept).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(dir.path().join("log.head")).unwrap();
        let anew = once(&path, &anchor, &Link::genesis(), "c");
        assert!(matches!(anew, Err(AuditError::Violated { .. })), "{anew:?}");
    }

    #[test]
    fn one_line_is_added_behind_what_a_crash_left() {
        let dir = tempfile::tempdir().unwrap();
        let (path, anchor) = (dir.path().join("log"), dir.path().join("anchor"));
        // Before there was a line: no head and no anchor is half made.
        std::fs::write(&path, "").unwrap();
        for name in ["anchor.new", "log.head.new"] {
            std::fs::write(dir.path().join(name), "half of ").unwrap();
        }
        let first = once(&path, &anchor, &Link::genesis(), "a").unwrap();
        // It ended before the first line was anchored.
        write_file(&anchor, &Link::genesis().line()).unwrap();
        assert_eq!(crate::verify_whole_lines(&path, &anchor).unwrap().lines, 1);
        // And in the middle of the second.
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], &whole[..whole.len() / 2]].concat()).unwrap();
        assert!(verify_anchored(&path, &anchor).is_err());
        assert_eq!(crate::verify_whole_lines(&path, &anchor).unwrap().last_hash, first.hash);
        once(&path, &anchor, &first, "b").unwrap();
        assert_eq!(verify_anchored(&path, &anchor).unwrap().lines, 2);
        // A line that was whole is missed.
        std::fs::write(&path, [&whole[..], &whole[..whole.len() / 2]].concat()).unwrap();
        assert!(crate::verify_whole_lines(&path, &anchor).is_err());
        std::fs::remove_file(dir.path().join("log.head")).unwrap();
        assert!(crate::verify_whole_lines(&path, &anchor).is_err());
    }

    /// Neither would be one, and the log would not open again.
    #[test]
    fn a_full_disk_leaves_no_empty_head_and_no_empty_anchor() {
        let dir = tempfile::tempdir().unwrap();
        let (path, anchor) = (dir.path().join("log"), dir.path().join("anchor"));
        let full = |name: &str| {
            let new = dir.path().join(format!("{name}.new"));
            std::os::unix::fs::symlink("/dev/full", &new).unwrap();
            new
        };
        let new = full("log.head");
        AuditLog::open(&path).unwrap_err();
        assert!(!dir.path().join("log.head").exists());
        std::fs::remove_file(new).unwrap();
        AuditLog::open(&path).unwrap();
        let new = full("anchor");
        let line = Link::genesis().line();
        write_file(&anchor, &line).unwrap_err();
        assert!(!anchor.exists());
        std::fs::remove_file(new).unwrap();
        write_file(&anchor, &line).unwrap();
        assert_eq!(verify_anchored(&path, &anchor).unwrap().lines, 0);
        // One that is a link to another place stays so.
        let (link, place) = (dir.path().join("link"), dir.path().join("place"));
        std::os::unix::fs::symlink(&place, &link).unwrap();
        write_file(&link, &line).unwrap();
        assert!(link.is_symlink() && std::fs::read_to_string(&place).unwrap() == line);
    }

    #[tokio::test]
    async fn a_log_that_is_gone_begins_anew_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        for anchor in anchors(dir.path(), &path).await {
            run(&path, &anchor, &["a", "b"]).await.unwrap();
            std::fs::remove_file(&path).unwrap();
            std::fs::remove_file(dir.path().join("audit.jsonl.head")).unwrap();
            run(&path, &anchor, &["c"]).await.unwrap();
            let found = lines(&path);
            assert_eq!(found.len(), 2);
            assert!(
                found[0].contains("a new chain: the one before ended with line 2, sha256 "),
                "{}",
                found[0]
            );
            run(&path, &anchor, &["d"]).await.unwrap();
            assert_eq!(lines(&path).len(), 3);
            if let Anchor::File(file) = &anchor {
                assert_eq!(verify_anchored(&path, file).unwrap().lines, 3);
            }
            std::fs::remove_file(&path).unwrap();
            std::fs::remove_file(dir.path().join("audit.jsonl.head")).unwrap();
        }
    }
}
