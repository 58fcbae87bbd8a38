//! Reads an audit log and finds any line that was changed, removed or moved.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use kafscale_meta::files::{open_regular, read_small_text};
use sha2::{Digest as _, Sha256};

use crate::hex;
use crate::log::whole_lines;
use crate::{DECIDED, Event, Line, Link, MAX_LINE_BYTES, VERSION};

/// A log whose lines are all as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub lines: u64,
    /// The hash of the last line: keep it elsewhere to be able to show that nothing before it changed.
    pub last_hash: String,
    /// Whether `FILE.head` confirms that no line is missing at the end. None: there is no such file.
    pub end_confirmed: Option<()>,
    /// Decisions that have no outcome: the server ended before, or was just at work on them.
    pub cut_off: u64,
}

/// What is wrong, and where.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("line {line}: {why}")]
    Line { line: u64, why: String },
    #[error("the end is missing: {last} lines are there, line {expected} was written")]
    EndMissing { last: u64, expected: u64 },
    #[error("{} is not the head of an audit log", path.display())]
    Head { path: PathBuf },
    #[error(
        "the log was shortened, or begun anew: {last} lines are there, and the anchor outside the log holds line {expected}"
    )]
    Shortened { last: u64, expected: u64 },
    #[error("line {line} is not the one that the anchor outside the log holds")]
    NotAnchored { line: u64 },
}

/// Verifies a log and its head.
pub fn verify(path: &Path) -> Result<Verified, Violation> {
    verify_watched(path, None, &mut |_| ())
}

/// Verifies a log, its head, and that it holds the line that a file with an anchor names.
pub fn verify_anchored(path: &Path, anchor: &Path) -> Result<Verified, Violation> {
    verify_watched(path, Some(anchor), &mut |_| ())
}

/// The same, without half a line at the end, which a crash leaves behind, and the next line replaces. The head and the anchor say
/// where a whole one is missing.
pub fn verify_whole_lines(path: &Path, anchor: &Path) -> Result<Verified, Violation> {
    let unreadable = |error| Violation::Unreadable { path: path.to_owned(), error };
    let mut file = open_regular(path).map_err(unreadable)?;
    let (bytes, _) = whole_lines(&mut file).map_err(unreadable)?;
    verify_bytes(path, bytes, Some(anchor), &mut |_| ())
}

/// The same as [`verify_anchored`]; `progress` is told after each line how many bytes of the log were read.
pub fn verify_watched(
    path: &Path,
    anchor: Option<&Path>,
    progress: &mut dyn FnMut(u64),
) -> Result<Verified, Violation> {
    verify_bytes(path, u64::MAX, anchor, progress)
}

fn verify_bytes(
    path: &Path,
    bytes: u64,
    anchor: Option<&Path>,
    progress: &mut dyn FnMut(u64),
) -> Result<Verified, Violation> {
    let head = read_head(path)?;
    let mut head_seen = head.as_ref().is_none_or(|head| head.seq == 0);
    let mut open = HashSet::new();
    let last = walk(path, bytes, |Walked { link, event, bytes }| {
        progress(*bytes);
        if let Some(call) = &event.call {
            match event.outcome == DECIDED {
                true => open.insert(call.clone()),
                false => open.remove(call),
            };
        }
        if let Some(head) = head.as_ref().filter(|head| head.seq == link.seq) {
            head_seen = true;
            if head.hash != link.hash {
                return Err("it is not the line that the head names".to_owned());
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if let Some(head) = head.as_ref().filter(|_| !head_seen) {
        return Err(Violation::EndMissing { last: last.seq, expected: head.seq });
    }
    if let Some(anchor) = anchor {
        let anchored = read_link(anchor)?.ok_or_else(|| Violation::Head { path: anchor.to_owned() })?;
        check_anchored(path, &anchored)?;
    }
    let cut_off = open.len() as u64;
    Ok(Verified { lines: last.seq, last_hash: last.hash, end_confirmed: head.map(|_| ()), cut_off })
}

/// Reads up to `lines` lines, hands each to `each` until that has seen enough, and returns how many it were. The chain is followed
/// here too, so that a log that was changed since it was verified is an error.
pub fn read(
    path: &Path,
    lines: u64,
    mut each: impl FnMut(&Walked<'_>) -> ControlFlow<()>,
) -> Result<u64, Violation> {
    if lines == 0 {
        return Ok(0);
    }
    let last = walk(path, u64::MAX, |walked| {
        Ok(if each(walked).is_break() || walked.link.seq == lines {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    Ok(last.seq)
}

/// A line on a walk over the chain.
#[derive(Debug)]
pub struct Walked<'a> {
    pub(crate) link: &'a Link,
    pub event: &'a Event,
    /// Of the file, up to and with this line.
    pub bytes: u64,
}

impl Walked<'_> {
    /// The number of the line.
    pub fn seq(&self) -> u64 {
        self.link.seq
    }

    /// In hex, as the next line has it.
    pub fn sha256(&self) -> &str {
        &self.link.hash
    }
}

/// Whether a log holds the line that its anchor names. What stands behind that line is not read: it may be half written.
pub(crate) fn check_anchored(path: &Path, anchored: &Link) -> Result<(), Violation> {
    // Of a log that had no line yet.
    if anchored.seq == 0 {
        return Ok(());
    }
    let mut found = false;
    let last = walk(path, u64::MAX, |Walked { link, .. }| {
        if link.seq < anchored.seq {
            return Ok(ControlFlow::Continue(()));
        }
        found = true;
        match link.hash == anchored.hash {
            true => Ok(ControlFlow::Break(())),
            false => Err(NOT_ANCHORED.to_owned()),
        }
    });
    match last {
        Ok(_) if found => Ok(()),
        Ok(last) => Err(Violation::Shortened { last: last.seq, expected: anchored.seq }),
        Err(Violation::Line { line, why }) if why == NOT_ANCHORED => Err(Violation::NotAnchored { line }),
        Err(other) => Err(other),
    }
}

const NOT_ANCHORED: &str = "it is not the line that the anchor names";

/// Walks the chain in the first `bytes` of a file until `each` has seen enough, and returns the last line that it saw.
pub(crate) fn walk(
    path: &Path,
    bytes: u64,
    mut each: impl FnMut(&Walked<'_>) -> Result<ControlFlow<()>, String>,
) -> Result<Link, Violation> {
    let unreadable = |error| Violation::Unreadable { path: path.to_owned(), error };
    let mut reader = BufReader::new(open_regular(path).map_err(unreadable)?.take(bytes));
    let (mut last, mut bytes) = (Link::genesis(), 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let read = reader.by_ref().take(limit).read_until(b'\n', &mut line).map_err(unreadable)?;
        if read == 0 {
            return Ok(last);
        }
        let number = last.seq + 1;
        let wrong = |why: String| Violation::Line { line: number, why };
        let text = line.strip_suffix(b"\n").ok_or_else(|| wrong("it is cut off".to_owned()))?;
        let (link, event) = next(&last, text).map_err(wrong)?;
        last = link;
        bytes += read as u64;
        if each(&Walked { link: &last, event: &event, bytes }).map_err(wrong)?.is_break() {
            return Ok(last);
        }
    }
}

/// The link that a line makes, if it follows `last`, and what it says.
fn next(last: &Link, text: &[u8]) -> Result<(Link, Event), String> {
    let line: Line =
        serde_json::from_slice(text).map_err(|e| format!("it is no line of an audit log: {e}"))?;
    if line.v != VERSION {
        return Err(format!("its format is {}, this release reads {VERSION}", line.v));
    }
    if line.seq != last.seq + 1 {
        return Err(format!(
            "number {} stands where {} belongs: lines are missing or moved",
            line.seq,
            last.seq + 1
        ));
    }
    if line.prev != last.hash {
        return Err("it does not follow the line before: one of the two was changed".to_owned());
    }
    Ok((Link { seq: line.seq, hash: hex(&Sha256::digest(text)) }, line.event))
}

pub(crate) fn head_path(path: &Path) -> PathBuf {
    let mut head = path.as_os_str().to_owned();
    head.push(".head");
    PathBuf::from(head)
}

/// The head, if there is one.
pub(crate) fn read_head(path: &Path) -> Result<Option<Link>, Violation> {
    read_link(&head_path(path))
}

/// The link in a file that holds one.
pub(crate) fn read_link(path: &Path) -> Result<Option<Link>, Violation> {
    let text = match read_small_text(path, MAX_LINE_BYTES as u64) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Violation::Unreadable { path: path.to_owned(), error }),
    };
    Link::parse(&text).map(Some).ok_or_else(|| Violation::Head { path: path.to_owned() })
}
