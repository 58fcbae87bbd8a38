//! The entities that left on a day, as keyed hashes, in a file beside the audit log: what budgets of entities go on with after a restart.
//!
//! The first line has the day and the secret of its hashes, each other one a principal and hashes of entities that it had not had
//! before. The file of another day is replaced, and its secret with it: then nothing ties its hashes to anybody any more.
//!
//! Invariant: when [`Ledger::append`] returns, its line is on disk. Half a line at the end is of an answer that was not given.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use kafscale_audit::hex;
use kafscale_meta::files::open_regular;
use serde::{Deserialize, Serialize};

use crate::governed::cover::KEY_BYTES;

const VERSION: u32 = 1;
/// Hashes of one line.
const LINE_HASHES: usize = 4_096;
const MAX_LINE_BYTES: u64 = 1 << 20;
const FILE_MODE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("the ledger of entities {} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "line {line} of the ledger of entities {} is damaged: move the file away, and entities that left today count as others", path.display()
    )]
    Damaged { path: PathBuf, line: usize },
    #[error("{}: {source}", path.display())]
    Unwritten { path: PathBuf, source: io::Error },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    v: u32,
    day: i64,
    secret: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    principal: String,
    /// 16 digits each.
    entities: String,
}

/// What a ledger holds of its day.
pub struct Kept {
    pub secret: [u8; KEY_BYTES],
    pub entities: Vec<(String, Vec<u64>)>,
}

/// See the file's comment.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    /// The file of a day.
    open: Option<(i64, File)>,
    /// Up to where it is known to be good.
    good_bytes: u64,
}

impl Ledger {
    /// Nothing is read or written yet.
    pub fn new(path: PathBuf) -> Ledger {
        Ledger { path, open: None, good_bytes: 0 }
    }

    /// Beside an audit log.
    pub fn beside(log: &Path) -> Ledger {
        let mut path = log.as_os_str().to_owned();
        path.push(".entities");
        Ledger::new(path.into())
    }

    /// What is there of a day. None: nothing is.
    pub fn load(&mut self, day: i64) -> Result<Option<Kept>, LedgerError> {
        let unreadable = |source| LedgerError::Unreadable { path: self.path.clone(), source };
        let file = match open_regular(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let mut reader = BufReader::new(file);
        let (mut line, mut number, mut bytes) = (Vec::new(), 0, 0);
        let mut kept: Option<Kept> = None;
        loop {
            line.clear();
            number += 1;
            let read =
                reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(unreadable)?;
            let Some(text) = line.strip_suffix(b"\n") else { break };
            let damaged = || LedgerError::Damaged { path: self.path.clone(), line: number };
            match &mut kept {
                None => match header(text).ok_or_else(damaged)? {
                    (of, secret) if of == day => kept = Some(Kept { secret, entities: Vec::new() }),
                    _ => return Ok(None),
                },
                Some(kept) => kept.entities.push(entities(text).ok_or_else(damaged)?),
            }
            bytes += read as u64;
        }
        if line.len() as u64 >= MAX_LINE_BYTES {
            return Err(LedgerError::Damaged { path: self.path.clone(), line: number });
        }
        if kept.is_some() {
            let file = OpenOptions::new().write(true).open(&self.path).map_err(unreadable)?;
            (self.open, self.good_bytes) = (Some((day, file)), bytes);
        }
        Ok(kept)
    }

    /// Adds entities of a principal. They are on disk when this returns.
    pub fn append(
        &mut self,
        day: i64,
        secret: &[u8; KEY_BYTES],
        principal: &str,
        hashes: &[u64],
    ) -> Result<(), LedgerError> {
        let path = self.path.clone();
        self.write(day, secret, principal, hashes).map_err(|source| LedgerError::Unwritten { path, source })
    }

    fn write(
        &mut self,
        day: i64,
        secret: &[u8; KEY_BYTES],
        principal: &str,
        hashes: &[u64],
    ) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|(of, _)| *of != day) {
            self.begin(day, secret)?;
        }
        let mut text = Vec::new();
        for part in hashes.chunks(LINE_HASHES) {
            let bytes: Vec<u8> = part.iter().flat_map(|hash| hash.to_be_bytes()).collect();
            serde_json::to_writer(
                &mut text,
                &Line { principal: principal.to_owned(), entities: hex(&bytes) },
            )?;
            text.push(b'\n');
        }
        let Some((_, file)) = &self.open else { return Err(io::ErrorKind::NotFound.into()) };
        // What an attempt that failed has left behind the good part goes.
        file.set_len(self.good_bytes)?;
        file.write_all_at(&text, self.good_bytes)?;
        file.sync_data()?;
        self.good_bytes += text.len() as u64;
        Ok(())
    }

    /// Replaces the file of the day before.
    fn begin(&mut self, day: i64, secret: &[u8; KEY_BYTES]) -> io::Result<()> {
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let options = &mut OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(&new)?;
        let mut text = serde_json::to_vec(&Header { v: VERSION, day, secret: hex(secret) })?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let parent = self.path.parent().filter(|parent| *parent != Path::new(""));
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        (self.open, self.good_bytes) = (Some((day, file)), text.len() as u64);
        Ok(())
    }
}

fn header(text: &[u8]) -> Option<(i64, [u8; KEY_BYTES])> {
    let Header { v, day, secret } = serde_json::from_slice(text).ok()?;
    let secret = bytes_of(&secret)?.try_into().ok()?;
    (v == VERSION).then_some((day, secret))
}

fn entities(text: &[u8]) -> Option<(String, Vec<u64>)> {
    let Line { principal, entities } = serde_json::from_slice(text).ok()?;
    let bytes = bytes_of(&entities)?;
    let (hashes, rest) = bytes.as_chunks::<8>();
    let hashes = hashes.iter().map(|hash| u64::from_be_bytes(*hash)).collect();
    rest.is_empty().then_some((principal, hashes))
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| (byte as char).to_digit(16);
    let byte = |pair: &[u8; 2]| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok();
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_is_of_nothing_that_left_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entities");
        let mut ledger = Ledger::new(path.clone());
        assert!(ledger.load(5).unwrap().is_none());
        let many: Vec<u64> = (0..10_000).collect();
        ledger.append(5, &[7; KEY_BYTES], "ada", &many).unwrap();
        ledger.append(5, &[7; KEY_BYTES], "bob", &[3]).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut torn = whole.clone();
        torn.extend(b"{\"principal\":\"ada\",\"ent");
        fs::write(&path, &torn).unwrap();
        let mut ledger = Ledger::new(path.clone());
        let kept = ledger.load(5).unwrap().unwrap();
        assert_eq!(kept.entities.iter().map(|(_, hashes)| hashes.len()).sum::<usize>(), 10_001);
        ledger.append(5, &[7; KEY_BYTES], "eve", &[4]).unwrap();
        assert_eq!(Ledger::new(path.clone()).load(5).unwrap().unwrap().entities.last().unwrap().1, [4]);
        let mut damaged = whole;
        damaged[200] = b'!';
        fs::write(&path, &damaged).unwrap();
        assert!(matches!(Ledger::new(path.clone()).load(5), Err(LedgerError::Damaged { line: 2, .. })));
        // Of another day nothing is left, its secret neither.
        ledger.append(6, &[8; KEY_BYTES], "ada", &[1]).unwrap();
        assert!(Ledger::new(path.clone()).load(5).unwrap().is_none());
        assert!(!fs::read_to_string(&path).unwrap().contains(&hex(&[7; KEY_BYTES])));
    }
}
