//! What can be read of a damaged segment: the healthy batches, and which offsets are lost between them.
//!
//! Where the index is sound, a damaged group is taken apart with the table of the statistics, which says where each of its batches
//! is and what it must say. Without the table, and where the index or the footer is damaged, the batches are walked by their
//! own headers and CRCs; across the gaps that compaction leaves only where the CRC of all batches, or that of a group, proves the offsets. A walk goes on behind a damaged batch only where the header of that one leads to a sound batch, never by
//! searching for bytes that look like one: those may stand in a record's value.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64};

use kafscale_core::batch::BatchHeader;
use kafscale_core::ids::Offset;

use super::format::{
    FOOTER_BYTES, Fields, Footer, HEADER_BYTES, Header, INDEX_ENTRY_BYTES, IndexEntry, MAGIC, SUMMARY_BYTES,
};
use super::loader::{Loader, SegmentIndex};
use super::span::{BatchAt, Span};
use super::statistics::BatchEntry;
use super::{SegmentError, SegmentRef, after, v1};
use crate::damages::Damage;

/// Batches of a walked segment that are checked together.
const GROUP_BYTES: u64 = 16 << 10;

/// So much in front of a footer is searched for entries of an index; writers keep theirs below that.
const INDEX_MAX_BYTES: u64 = 4 << 20;

/// Offsets that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    pub first: Offset,
    pub last: Offset,
    pub position: u64,
    /// The largest timestamp among them, where something sound states it.
    pub max_timestamp_ms: Option<i64>,
    pub why: String,
}

impl Lost {
    pub fn error(&self, segment: &SegmentRef) -> SegmentError {
        SegmentError::Corrupt {
            object: segment.path.clone(),
            position: self.position,
            first: self.first,
            last: self.last,
            why: self.why.clone(),
        }
    }
}

/// The parts of a stretch of batches. Both lists are in the order of offsets.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    pub sound: Vec<BatchAt>,
    pub lost: Vec<Lost>,
}

/// What is lost when a group is: the offsets up to the next group.
fn whole_group(segment: &SegmentRef, index: &SegmentIndex, group: usize, why: &str) -> Lost {
    let entry = &index.entries[group];
    let next = index.entries.get(group + 1).map_or(after(segment.last_offset), |next| next.base_offset);
    Lost {
        first: entry.base_offset,
        last: Offset(next.0 - 1),
        position: entry.position,
        max_timestamp_ms: (!entry.is_lost()).then_some(entry.max_timestamp_ms),
        why: why.to_owned(),
    }
}

/// Takes a damaged group apart. `table` has the segment's batches, where the statistics are sound.
pub(super) async fn group(
    span: &mut Span<'_>,
    segment: &SegmentRef,
    index: &SegmentIndex,
    group: usize,
    table: Option<&[BatchEntry]>,
) -> Result<Salvaged, SegmentError> {
    let entry = index.entries[group];
    if entry.is_lost() {
        let lost = whole_group(segment, index, group, "its batches cannot be found");
        return Ok(Salvaged { sound: Vec::new(), lost: vec![lost] });
    }
    let end = index.group_end(group);
    span.extend_to(end).await?;
    if let Some(table) = table {
        let first = table.partition_point(|b| b.position < entry.position);
        let count = table[first..].partition_point(|b| b.position < end);
        return Ok(by_table(span, &table[first..first + count]));
    }
    let bounds = whole_group(segment, index, group, "");
    let mut walk = Walk::new(entry.position..end, bounds.first, bounds.last, false);
    walk.run(span).await?;
    if walk.at < walk.end {
        walk.lose(bounds.last, "a batch is damaged, and the next one cannot be found");
    }
    Ok(walk.found)
}

/// Compares each batch of a group with its entry in the table.
fn by_table(span: &Span<'_>, entries: &[BatchEntry]) -> Salvaged {
    let mut found = Salvaged::default();
    for entry in entries {
        let end = entry.position + u64::from(entry.size_bytes);
        let bytes = span.contiguous(entry.position, end);
        let header = BatchHeader::parse(&bytes).ok().filter(|header| {
            header.size_bytes == bytes.len()
                && header.base_offset == entry.base_offset
                && header.last_offset() == entry.last_offset
                && header.leader_epoch == entry.leader_epoch
                && header.crc == entry.crc
                && header.crc_matches(&bytes)
        });
        match header {
            Some(header) => {
                let (position, last_offset) = (entry.position, entry.last_offset);
                found.sound.push(BatchAt { header, position, last_offset });
            }
            None => found.lost.push(Lost {
                first: entry.base_offset,
                last: entry.last_offset,
                position: entry.position,
                max_timestamp_ms: Some(entry.max_timestamp_ms),
                why: format!("the batch at offset {} does not match its CRC32C", entry.base_offset),
            }),
        }
    }
    found
}

/// Goes through batches by their own headers.
struct Walk {
    start: u64,
    first: Offset,
    at: u64,
    end: u64,
    expected: Offset,
    last: Offset,
    /// Whether offsets may be missing between batches, as compaction leaves them. Base offsets are outside of the batches' CRCs: where
    /// nothing else proves them, only the one that continues the batch before is believed.
    gaps: bool,
    found: Salvaged,
    /// Of all sound batches, one after the other.
    crc: u32,
}

impl Walk {
    fn new(bytes: Range<u64>, first: Offset, last: Offset, gaps: bool) -> Walk {
        let Range { start, end } = bytes;
        Walk { start, first, at: start, end, expected: first, last, gaps, found: Salvaged::default(), crc: 0 }
    }

    async fn run(&mut self, span: &mut Span<'_>) -> Result<(), SegmentError> {
        while self.at < self.end && self.expected <= self.last {
            span.release(self.at);
            let Some(batch) = self.batch_at(span, self.at).await? else { break };
            if self.is_sound(span, &batch, self.expected) {
                self.crc = span.crc(self.crc, self.at, batch.end());
                self.expected = after(batch.last_offset);
                self.at = batch.end();
                self.found.sound.push(batch);
                continue;
            }
            let Some(next) = self.behind(span, &batch).await? else { break };
            self.lose(Offset(next.0 - 1), "a batch does not match its CRC32C");
            self.at = batch.end();
        }
        Ok(())
    }

    /// Where the log goes on behind a damaged batch: its header may be right, and then a sound batch follows, or the end.
    async fn behind(&self, span: &mut Span<'_>, damaged: &BatchAt) -> Result<Option<Offset>, SegmentError> {
        if damaged.end() == self.end {
            return Ok(Some(after(self.last)));
        }
        let Some(next) = self.batch_at(span, damaged.end()).await? else { return Ok(None) };
        // It began where it was expected, and so says how far it went; unless offsets may be missing.
        let delta = if self.gaps { 0 } else { i64::from(damaged.header.last_offset_delta.max(0)) };
        let expected = after(Offset(self.expected.0.saturating_add(delta)));
        let follows = self.is_sound(span, &next, expected);
        Ok(follows.then_some(next.header.base_offset))
    }

    /// Keeps of the batches those that are proven. Around the others, offsets are lost.
    fn keep(&mut self, batches: Vec<BatchAt>, proven: &[bool]) {
        let end = (self.at, self.expected);
        let mut lost = std::mem::take(&mut self.found.lost).into_iter().peekable();
        (self.at, self.expected) = (self.start, self.first);
        let mut is_open = false;
        for (batch, proven) in batches.into_iter().zip(proven) {
            while lost.next_if(|lost| lost.first < batch.header.base_offset).is_some() {
                is_open = true;
            }
            if !*proven {
                is_open = true;
                continue;
            }
            if is_open {
                self.lose(
                    Offset(batch.header.base_offset.0 - 1),
                    "nothing proves the offsets of its batches",
                );
                is_open = false;
            }
            (self.at, self.expected) = (batch.end(), after(batch.last_offset));
            self.found.sound.push(batch);
        }
        if is_open || lost.next().is_some() {
            self.lose(self.last, "nothing proves the offsets of its batches");
        } else {
            (self.at, self.expected) = end;
        }
    }

    fn lose(&mut self, last: Offset, why: &str) {
        let (first, position) = (self.expected, self.at);
        if first <= last {
            self.found.lost.push(Lost { first, last, position, max_timestamp_ms: None, why: why.to_owned() });
        }
        self.expected = after(last);
    }

    /// A batch that fits between here and the end, whatever its bytes are worth; it is loaded.
    async fn batch_at(&self, span: &mut Span<'_>, at: u64) -> Result<Option<BatchAt>, SegmentError> {
        let header_end = at + BatchHeader::SIZE_BYTES as u64;
        if header_end > self.end {
            return Ok(None);
        }
        span.extend_to(header_end).await?;
        let Ok(header) = BatchHeader::parse_prefix(&span.contiguous(at, header_end)) else { return Ok(None) };
        if header.size_bytes as u64 > self.end - at {
            return Ok(None);
        }
        span.extend_to(at + header.size_bytes as u64).await?;
        Ok(Some(BatchAt { header, position: at, last_offset: header.last_offset() }))
    }

    fn is_sound(&self, span: &Span<'_>, batch: &BatchAt, expected: Offset) -> bool {
        let BatchAt { header, position, last_offset } = batch;
        let follows = header.base_offset == expected || (self.gaps && header.base_offset > expected);
        follows
            && header.last_offset_delta >= 0
            && *last_offset <= self.last
            && header.crc_matches(&span.contiguous(*position, batch.end()))
    }
}

/// Finds the batches of a segment without its index and footer. `None` when the object is not this segment at all.
pub(super) async fn index(
    loader: &Loader,
    segment: &SegmentRef,
    why: &SegmentError,
) -> Result<Option<SegmentIndex>, SegmentError> {
    let size_bytes = loader.size_of(segment).await?.min(segment.size_bytes);
    let mut front = Span::new(loader, segment, 0, size_bytes);
    front.extend_to(size_bytes.min(HEADER_BYTES)).await?;
    let front = front.contiguous(0, size_bytes.min(HEADER_BYTES));
    let Some(start) = body_start(segment, &front) else { return Ok(None) };
    let Some(Ending { body_end, body_crc, is_known }) = ending(loader, segment, size_bytes, start).await?
    else {
        return Ok(None);
    };
    let mut walk = walk(loader, segment, start..body_end, true).await?;
    // What proves the base offsets is the CRC over all batches, or that no offset is missing between them.
    let proven = !walk.found.sound.is_empty() && walk.found.lost.is_empty() && body_crc == Some(walk.crc);
    if !proven {
        let gapless = self::walk(loader, segment, start..body_end, false).await?;
        let by_index = by_index(loader, segment, walk, size_bytes).await?;
        let has_more = by_index.found.sound.len() > gapless.found.sound.len();
        walk = if has_more { by_index } else { gapless };
    }
    if walk.expected <= segment.last_offset && !ends_here(loader, segment, &walk, proven, is_known).await? {
        walk.lose(segment.last_offset, "its batches cannot be found from here on");
    }
    let (entries, end) = entries(loader, segment, &walk.found, start..body_end.max(start)).await?;
    note(loader, segment, why);
    let (next_position, reads_in_order) = (AtomicU64::new(start), AtomicU32::new(0));
    Ok(Some(SegmentIndex { entries, body: start..end, footer: None, next_position, reads_in_order }))
}

async fn walk(
    loader: &Loader,
    segment: &SegmentRef,
    bytes: Range<u64>,
    gaps: bool,
) -> Result<Walk, SegmentError> {
    let mut span = Span::new(loader, segment, bytes.start.min(bytes.end), bytes.end);
    let mut walk = Walk::new(bytes, segment.base_offset, segment.last_offset, gaps);
    walk.run(&mut span).await?;
    Ok(walk)
}

/// Keeps of a walk across gaps what an entry of the index proves, although nothing says where the index is. The CRC of a group covers base
/// offsets. A batch that joins a proven one without a gap is proven with it.
async fn by_index(
    loader: &Loader,
    segment: &SegmentRef,
    mut walk: Walk,
    size_bytes: u64,
) -> Result<Walk, SegmentError> {
    let sound = std::mem::take(&mut walk.found.sound);
    let mut proven = vec![false; sound.len()];
    let entries = match size_bytes == segment.size_bytes {
        true => entries_behind(loader, segment, walk.at).await?,
        false => Vec::new(),
    };
    for entry in entries {
        let at = |batch: &BatchAt| batch.position;
        let Ok(first) = sound.binary_search_by_key(&entry.position, at) else { continue };
        let mut span = Span::new(loader, segment, entry.position, walk.end);
        let (mut crc, mut at) = (0, entry.position);
        for (i, batch) in sound.iter().enumerate().skip(first) {
            if batch.position != at {
                break;
            }
            span.extend_to(batch.end()).await?;
            (crc, at) = (span.crc(crc, at, batch.end()), batch.end());
            span.release(at);
            if crc == entry.crc {
                proven[first..=i].fill(true);
                break;
            }
        }
    }
    let joins = |i: usize, j: usize| after(sound[i].last_offset) == sound[j].header.base_offset;
    for i in 1..sound.len() {
        proven[i] = proven[i] || (proven[i - 1] && joins(i - 1, i));
    }
    for i in (1..sound.len()).rev() {
        proven[i - 1] = proven[i - 1] || (proven[i] && joins(i - 1, i));
    }
    walk.keep(sound, &proven);
    Ok(walk)
}

/// What may be entries of an index that ends where the footer begins.
async fn entries_behind(
    loader: &Loader,
    segment: &SegmentRef,
    batches_end: u64,
) -> Result<Vec<IndexEntry>, SegmentError> {
    let Some(footer_at) = segment.size_bytes.checked_sub(FOOTER_BYTES).filter(|at| *at > batches_end) else {
        return Ok(Vec::new());
    };
    let begin = batches_end.max(footer_at.saturating_sub(INDEX_MAX_BYTES));
    let bytes = loader.fetch_cold(segment, begin..footer_at).await?;
    Ok(bytes.rchunks_exact(INDEX_ENTRY_BYTES as usize).map(IndexEntry::decode).collect())
}

/// Where the batches begin; `None` when the object says that it is another one.
fn body_start(segment: &SegmentRef, front: &[u8]) -> Option<u64> {
    if let Ok(header) = Header::decode(front) {
        return segment.check_owner(&header).is_ok().then_some(HEADER_BYTES);
    }
    let is_v1 = front.len() >= v1::HEADER_BYTES as usize && front[..4] == MAGIC && front[4..6] == [0, 1];
    Some(if is_v1 { v1::HEADER_BYTES } else { HEADER_BYTES })
}

/// What the end of an object says, as far as it can be believed.
struct Ending {
    /// No batch ends behind this.
    body_end: u64,
    /// Whether that is where they end.
    is_known: bool,
    /// The CRC of all batches, which proves itself where it matches.
    body_crc: Option<u32>,
}

/// `None` when the end is that of another segment.
async fn ending(
    loader: &Loader,
    segment: &SegmentRef,
    size_bytes: u64,
    start: u64,
) -> Result<Option<Ending>, SegmentError> {
    let footer_bytes = if start == v1::HEADER_BYTES { v1::FOOTER_BYTES } else { FOOTER_BYTES };
    let Some(footer_at) = size_bytes.checked_sub(footer_bytes).filter(|_| size_bytes == segment.size_bytes)
    else {
        return Ok(Some(Ending { body_end: size_bytes, is_known: false, body_crc: None }));
    };
    let end = loader.fetch_cold(segment, footer_at..size_bytes).await?;
    if start == v1::HEADER_BYTES {
        let body_crc = Some(Fields(&end).u32());
        // No offsets are missing at the end of such a segment: without all of its batches it is cut off.
        return Ok(Some(Ending { body_end: footer_at, is_known: false, body_crc }));
    }
    let body_crc = Some(Fields(&end[Footer::BODY_CRC_AT..]).u32());
    let footer = end.last_chunk().and_then(|footer| Footer::decode(footer, size_bytes).ok());
    Ok(match footer {
        Some(footer) if footer.last_offset != segment.last_offset => None,
        Some(footer) => Some(Ending { body_end: footer.statistics_position, is_known: true, body_crc }),
        None => Some(Ending { body_end: footer_at, is_known: false, body_crc }),
    })
}

/// Whether nothing is missing behind the last batch that was found: compaction may have taken the last ones away.
async fn ends_here(
    loader: &Loader,
    segment: &SegmentRef,
    walk: &Walk,
    proven: bool,
    is_known: bool,
) -> Result<bool, SegmentError> {
    let summary_end = walk.at + SUMMARY_BYTES;
    // The summary of nothing is zeros, which a file system leaves behind as well: it proves nothing.
    if proven || is_known || walk.found.sound.is_empty() || summary_end > walk.end {
        return Ok(proven || (is_known && walk.at == walk.end));
    }
    let summary = loader.fetch_cold(segment, walk.at..summary_end).await?;
    let mut fields = Fields(&summary);
    let (records, count, reserved) = (fields.u64(), fields.u32(), fields.u32());
    let sound = &walk.found.sound;
    let records_found: u64 = sound.iter().map(|b| u64::try_from(b.header.records_count).unwrap_or(0)).sum();
    Ok((records, count as usize, reserved) == (records_found, sound.len(), 0) && walk.found.lost.is_empty())
}

/// An index over what was found, and where the last batch ends. Lost offsets have entries of their own.
async fn entries(
    loader: &Loader,
    segment: &SegmentRef,
    found: &Salvaged,
    body: Range<u64>,
) -> Result<(Vec<IndexEntry>, u64), SegmentError> {
    let mut span = Span::new(loader, segment, body.start, body.end);
    let mut entries: Vec<IndexEntry> = Vec::new();
    let mut lost = found.lost.iter().peekable();
    // Where the last entry's bytes end and a batch may join it.
    let mut open = None;
    for batch in &found.sound {
        while let Some(lost) = lost.next_if(|lost| lost.first < batch.header.base_offset) {
            entries.push(IndexEntry::lost(lost.first, lost.position));
            open = None;
        }
        let (position, end) = (batch.position, batch.end());
        span.release(position);
        span.extend_to(end).await?;
        match entries.last_mut() {
            Some(group) if open == Some(position) && position - group.position < GROUP_BYTES => {
                group.max_timestamp_ms = group.max_timestamp_ms.max(batch.header.max_timestamp_ms);
                group.crc = span.crc(group.crc, position, end);
            }
            Some(_) | None => entries.push(IndexEntry {
                base_offset: batch.header.base_offset,
                position,
                max_timestamp_ms: batch.header.max_timestamp_ms,
                crc: span.crc(0, position, end),
                table_position: 0,
            }),
        }
        open = Some(end);
    }
    let end = if lost.peek().is_none() { open } else { None };
    entries.extend(lost.map(|lost| IndexEntry::lost(lost.first, lost.position)));
    Ok((entries, end.unwrap_or(body.end)))
}

/// Takes note that the object is damaged, although its batches were found.
fn note(loader: &Loader, segment: &SegmentRef, why: &SegmentError) {
    let SegmentError::Corrupt { position, why, .. } = why else { return };
    let (topic, partition) = super::owner_in(&segment.path);
    loader.damages.note(Damage {
        object: segment.path.clone(),
        position: *position,
        topic: topic.into(),
        partition,
        offsets: None,
        why: why.clone(),
    });
}
