//! A write at the end of the log that is not whole: what is known of it, and what that means.
//!
//! Objects are written one at a time, each durable before it is acknowledged and before the next begins. So a write that a crash cut
//! off was not acknowledged. Nothing in the file tells it from one that was whole, and that a disk or a person has cut off since.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use kafscale_core::ids::{Offset, PartitionId, TopicId};

use super::object::{self, HEADER_BYTES, IndexEntry, ObjectError, ObjectHeader};
use crate::vectored::read_exact_at;

/// So many batches are named.
const NAMED_MAX: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutOff {
    pub path: PathBuf,
    /// Where the write begins in its file.
    pub position: u64,
    pub why: ObjectError,
    /// The file ends within it, although files are reserved at their full size before they are written to.
    pub is_shortened: bool,
    /// Its batches, where its index is whole. What a part of an index says may be of an earlier use of the file.
    pub entries: Vec<IndexEntry>,
    /// Batches that no index tells of.
    unknown: u32,
    /// What stands where the first of them has its offset.
    first: Option<Offset>,
}

impl CutOff {
    /// What is known of the write that begins at `position`.
    pub fn read(path: PathBuf, file: &File, position: u64, why: ObjectError) -> io::Result<CutOff> {
        let left = file.metadata()?.len().saturating_sub(position);
        let mut cut =
            CutOff { path, position, why, is_shortened: true, entries: Vec::new(), unknown: 0, first: None };
        if left < HEADER_BYTES as u64 {
            return Ok(cut);
        }
        cut.is_shortened = false;
        let Ok(header) = ObjectHeader::decode(&read_exact_at(file, HEADER_BYTES, position)?) else {
            return Ok(cut);
        };
        cut.is_shortened = header.object_bytes() > left;
        let body_at = position + HEADER_BYTES as u64;
        if !cut.is_shortened {
            let tail = usize::try_from(header.object_bytes() - HEADER_BYTES as u64 - header.body_bytes);
            let tail = read_exact_at(file, tail.unwrap_or(0), body_at + header.body_bytes)?;
            cut.entries = object::decode_tail(&header, &tail).unwrap_or_default();
        }
        if cut.entries.is_empty() {
            cut.unknown = header.entries;
            let offset =
                (left >= HEADER_BYTES as u64 + 8).then(|| read_exact_at(file, 8, body_at)).transpose()?;
            cut.first = offset.and_then(|bytes| Some(Offset(i64::from_be_bytes(bytes[..].try_into().ok()?))));
        }
        Ok(cut)
    }

    /// Whose records it had. `ends` is where the log before it ends.
    pub fn records(&self, ends: &HashMap<PartitionId, Offset>, name: impl Fn(TopicId) -> String) -> String {
        let named = |id: &PartitionId| format!("{}-{}", name(id.topic), id.index);
        let one = |entry: &IndexEntry| {
            let IndexEntry { partition, base_offset, last_offset, .. } = entry;
            format!("{} offsets {base_offset} to {last_offset}", named(partition))
        };
        let mut parts: Vec<_> = self.entries.iter().take(NAMED_MAX).map(one).collect();
        match self.entries.len().saturating_sub(NAMED_MAX) {
            0 => {}
            more => parts.push(format!("{more} other batches")),
        }
        if self.entries.is_empty() {
            // A batch goes where its partition ends; where another one ends as well, it may be of either.
            let goes_on = ends.iter().filter(|(_, end)| Some(**end) == self.first);
            let goes_on: Vec<String> =
                goes_on.map(|(id, end)| format!("{} from offset {end} on", named(id))).collect();
            parts.push(match (self.unknown, &goes_on[..]) {
                (0, _) => "batches of which nothing is known".to_owned(),
                (count, [one]) => format!("{count} batches, as it seems the first of them {one}"),
                (count, _) => format!("{count} batches of which nothing is known"),
            });
        }
        parts.join(", ")
    }

    /// Where it is, and whose records it had, on one line.
    pub fn found(&self, ends: &HashMap<PartitionId, Offset>, name: impl Fn(TopicId) -> String) -> String {
        let (path, position, why) = (self.path.display(), self.position, &self.why);
        format!(
            "{path} at byte {position}: the last write is not whole ({why}): {}",
            self.records(ends, name)
        )
    }

    /// Whether somebody may count on it.
    pub fn meaning(&self) -> &'static str {
        match self.is_shortened {
            true => {
                "the file was reserved at its full size and ends within this write: where the file system can reserve space, \
                 it was shortened later, and the records may have been acknowledged. Put the file back from a copy before a \
                 broker starts on it"
            }
            false => {
                "a crash in the middle of a write leaves this, and then nobody was told that the records are kept; if the disk \
                 has damaged it since, they may have been acknowledged, and a copy of the file from after that write has them"
            }
        }
    }
}
