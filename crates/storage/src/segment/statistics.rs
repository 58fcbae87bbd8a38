//! The statistics of a version 2 segment: a summary, and a table with one entry per batch, so that other programs plan
//! their reads without touching the batches. The table's entries are varints relative to the entry before, and start anew
//! with every group of the index.

use kafscale_core::batch::NO_TIMESTAMP;
use kafscale_core::crc;
use kafscale_core::ids::{LeaderEpoch, Offset};

use super::format::{Fields, Footer, FormatError, IndexEntry, SUMMARY_BYTES};

/// What a segment says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistics {
    pub records: u64,
    /// The smallest timestamp that a batch begins with; -1 when none has any. Later records of a batch may have smaller
    /// ones.
    pub min_timestamp_ms: i64,
    /// The largest timestamp; -1 when no record has any.
    pub max_timestamp_ms: i64,
    pub batches: Vec<BatchEntry>,
}

/// One batch of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchEntry {
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// Of the batch's first byte in the object.
    pub position: u64,
    pub size_bytes: u32,
    pub max_timestamp_ms: i64,
    pub records_count: u32,
    pub leader_epoch: LeaderEpoch,
    /// The batch's own CRC32C, as its header states it.
    pub crc: u32,
}

/// Appends the entries of one group.
pub(super) fn encode_group(group: &[BatchEntry], max_timestamp_ms: i64, out: &mut Vec<u8>) {
    let mut expected = group.first().map_or(Offset::ZERO, |b| b.base_offset);
    let mut epoch = LeaderEpoch(0);
    for batch in group {
        put_unsigned(out, batch.base_offset.0.wrapping_sub(expected.0) as u64);
        put_unsigned(out, batch.last_offset.0.wrapping_sub(batch.base_offset.0) as u64);
        put_unsigned(out, batch.size_bytes.into());
        put_signed(out, max_timestamp_ms.wrapping_sub(batch.max_timestamp_ms));
        put_unsigned(out, batch.records_count.into());
        put_signed(out, i64::from(batch.leader_epoch.0).wrapping_sub(epoch.0.into()));
        out.extend(batch.crc.to_be_bytes());
        expected = Offset(batch.last_offset.0.wrapping_add(1));
        epoch = batch.leader_epoch;
    }
}

/// The summary, which stands before the table.
pub(super) fn encode_summary(
    records: u64,
    batches: u32,
    min_timestamp_ms: i64,
    max_timestamp_ms: i64,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(SUMMARY_BYTES as usize);
    out.extend(records.to_be_bytes());
    out.extend(batches.to_be_bytes());
    out.extend([0; 4]); // reserved
    out.extend(min_timestamp_ms.to_be_bytes());
    out.extend(max_timestamp_ms.to_be_bytes());
    out
}

/// Reads the statistics, `bytes`, of a segment with this footer and index.
pub(super) fn decode(footer: &Footer, index: &[IndexEntry], bytes: &[u8]) -> Result<Statistics, FormatError> {
    let bad = |why: &str| FormatError::new(footer.statistics_position, why);
    if bytes.len() != footer.statistics_bytes as usize || crc::crc32c(bytes) != footer.statistics_crc {
        return Err(bad("the CRC32C of the statistics does not match"));
    }
    let summary = bytes.get(..SUMMARY_BYTES as usize).ok_or_else(|| bad("the summary is cut off"))?;
    let mut fields = Fields(summary);
    let (records, count, _reserved) = (fields.u64(), fields.u32(), fields.u32());
    let (min_timestamp_ms, max_timestamp_ms) = (fields.i64(), fields.i64());
    let mut batches = Vec::new();
    let mut expected_from = SUMMARY_BYTES as usize;
    for (i, group) in index.iter().enumerate() {
        let next = index.get(i + 1);
        let (from, to) =
            (group.table_position as usize, next.map_or(bytes.len(), |n| n.table_position as usize));
        let entries = bytes.get(from..to).filter(|_| from == expected_from);
        let entries = entries.ok_or_else(|| bad("the index does not fit the table"))?;
        let end = next.map_or(footer.statistics_position, |n| n.position);
        decode_group(group, end, entries, &mut batches).ok_or_else(|| bad("the table is malformed"))?;
        expected_from = to;
    }
    let latest = batches.iter().map(|b| b.max_timestamp_ms).max().unwrap_or(NO_TIMESTAMP);
    let sum = batches.iter().map(|b| u64::from(b.records_count)).sum::<u64>();
    if expected_from != bytes.len()
        || (sum, batches.len(), latest) != (records, count as usize, max_timestamp_ms)
    {
        return Err(bad("the summary does not fit the table"));
    }
    Ok(Statistics { records, min_timestamp_ms, max_timestamp_ms, batches })
}

/// `None` when the bytes are not the entries of the batches from the group's position to `end`.
fn decode_group(group: &IndexEntry, end: u64, mut bytes: &[u8], out: &mut Vec<BatchEntry>) -> Option<()> {
    let (mut expected, mut position, mut epoch) = (group.base_offset.0, group.position, 0i64);
    while !bytes.is_empty() {
        let base_offset = expected.checked_add(i64::try_from(get_unsigned(&mut bytes)?).ok()?)?;
        let last_offset = base_offset.checked_add(i64::try_from(get_unsigned(&mut bytes)?).ok()?)?;
        let size_bytes = u32::try_from(get_unsigned(&mut bytes)?).ok()?;
        let max_timestamp_ms = group.max_timestamp_ms.wrapping_sub(get_signed(&mut bytes)?);
        let records_count = u32::try_from(get_unsigned(&mut bytes)?).ok()?;
        epoch = epoch.checked_add(get_signed(&mut bytes)?)?;
        let (crc, rest) = bytes.split_first_chunk::<4>()?;
        bytes = rest;
        out.push(BatchEntry {
            base_offset: Offset(base_offset),
            last_offset: Offset(last_offset),
            position,
            size_bytes,
            max_timestamp_ms,
            records_count,
            leader_epoch: LeaderEpoch(i32::try_from(epoch).ok()?),
            crc: u32::from_be_bytes(*crc),
        });
        expected = last_offset.checked_add(1)?;
        position = position.checked_add(size_bytes.into())?;
    }
    (position == end).then_some(())
}

fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_unsigned(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn get_unsigned(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn get_signed(bytes: &mut &[u8]) -> Option<i64> {
    let value = get_unsigned(bytes)?;
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}
