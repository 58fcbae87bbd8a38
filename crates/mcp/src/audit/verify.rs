//! Reads an audit log and finds any line that was changed, removed or moved.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{Line, Link, MAX_LINE_BYTES, VERSION};
use crate::auth::hex;

/// A log whose lines are all as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub lines: u64,
    /// The hash of the last line: keep it elsewhere to be able to show that nothing before it changed.
    pub last_hash: String,
    /// Whether `FILE.head` confirms that no line is missing at the end. None: there is no such file.
    pub end_confirmed: Option<()>,
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
}

/// Verifies a log and its head.
pub fn verify(path: &Path) -> Result<Verified, Violation> {
    let head = read_head(path)?;
    let mut head_seen = head.as_ref().is_none_or(|head| head.seq == 0);
    let last = walk(path, |link| {
        let Some(head) = head.as_ref().filter(|head| head.seq == link.seq) else { return Ok(()) };
        head_seen = true;
        if head.hash == link.hash { Ok(()) } else { Err("it is not the line that the head names".to_owned()) }
    })?;
    match &head {
        Some(head) if !head_seen => Err(Violation::EndMissing { last: last.seq, expected: head.seq }),
        _ => Ok(Verified { lines: last.seq, last_hash: last.hash, end_confirmed: head.map(|_| ()) }),
    }
}

/// Walks the chain. The file may not exist.
pub(super) fn walk(
    path: &Path,
    mut each: impl FnMut(&Link) -> Result<(), String>,
) -> Result<Link, Violation> {
    let unreadable = |error| Violation::Unreadable { path: path.to_owned(), error };
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut last = Link::genesis();
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
        last = next(&last, text).map_err(wrong)?;
        each(&last).map_err(wrong)?;
    }
}

/// The link that a line makes, if it follows `last`.
fn next(last: &Link, text: &[u8]) -> Result<Link, String> {
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
    Ok(Link { seq: line.seq, hash: hex(&Sha256::digest(text)) })
}

pub(super) fn head_path(path: &Path) -> PathBuf {
    let mut head = path.as_os_str().to_owned();
    head.push(".head");
    PathBuf::from(head)
}

/// The head, if there is one.
pub(super) fn read_head(path: &Path) -> Result<Option<Link>, Violation> {
    let path = head_path(path);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Violation::Unreadable { path, error }),
    };
    let link = text.trim_end().split_once(' ').and_then(|(seq, hash)| {
        let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        is_hash.then_some(Link { seq: seq.parse().ok()?, hash: hash.to_owned() })
    });
    link.map(Some).ok_or(Violation::Head { path })
}
