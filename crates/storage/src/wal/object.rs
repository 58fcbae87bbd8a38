//! The bytes of one write-ahead object: the unit that becomes durable, and that an acknowledgement waits for.
//!
//! ```text
//! header (64) | body: in an object store a copy of the index, then the batches | index (96 per batch) | footer (32)
//! ```
//!
//! An object holds batches of many partitions. The index at its end says what is where, so that recovery from an
//! object store needs no more than a suffix of each object. Integers are big-endian, CRCs are CRC32C. The body
//! carries no CRC of its own: each batch has one, and its first 21 bytes, which that does not cover, are repeated
//! in the index. Only the index says whose a batch is: so it is there twice, and each entry has a CRC of its own
//! ([`super::salvage`]). A seal, which ends a chain in an object store, is an object without batches and with a flag.
//! docs/format.md has the tables.

use bytes::{Buf, BufMut, Bytes};
use kafscale_core::batch::{BatchHeader, PlacedBatch};
use kafscale_core::crc;
use kafscale_core::ids::{LeaderEpoch, Offset, PartitionId, ProducerId, TopicId};
use kafscale_core::producer::Sequence;
use uuid::Uuid;

use super::chain_id::ChainId;

pub const HEADER_BYTES: usize = 64;
pub const INDEX_ENTRY_BYTES: usize = 96;
pub const FOOTER_BYTES: usize = 32;
pub const VERSION: u16 = 1;

/// Where an entry's CRC of the bytes before it stands. Earlier versions left 0 there.
const ENTRY_CRC_AT: usize = 90;

/// Flag of a seal: the chain ends here, whatever may stand above.
const FLAG_SEAL: u16 = 0x0100;
/// Flags that a reader must know.
const FLAGS_CRITICAL: u16 = 0xff00;

pub const HEADER_MAGIC: [u8; 4] = *b"KAFW";
const FOOTER_MAGIC: [u8; 4] = *b"KAFE";

/// Who wrote an object, and where it stands in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectId {
    pub node_id: i32,
    /// The epoch of the writing broker process; never reused.
    pub incarnation: u64,
    pub seq: u64,
    /// Ties an object to the file that holds it, so that neither an object left over in a recycled file nor bytes
    /// that a producer made up can be taken for one. In an object store, what tells different content apart.
    pub salt: u64,
}

/// The fixed front of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectHeader {
    pub id: ObjectId,
    pub seal: bool,
    pub body_bytes: u64,
    pub entries: u32,
    /// Whether the body begins with a copy of the index.
    pub has_index_copy: bool,
    /// In an object store: all objects of the chain below this one were there, and acknowledged, when this one was made. So whoever
    /// misses one of them knows that it is lost, and not that it never was. 0 where nothing is known.
    pub durable_below: u64,
}

/// One batch of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    pub partition: PartitionId,
    pub leader_epoch: LeaderEpoch,
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// Where the batch begins, counted from the start of the body.
    pub position: u64,
    pub size_bytes: u32,
    pub records_count: i32,
    pub max_timestamp_ms: i64,
    /// How many bits the difference between the largest and the smallest timestamp has. `None` where it is not known.
    pub span_bits: Option<u8>,
    pub appended_ms: i64,
    pub sequence: Option<Sequence>,
}

/// Why bytes are not a whole object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error("no object begins here")]
    NoMagic,
    #[error("format version {0} is newer than this program knows ({VERSION})")]
    NewerVersion(u16),
    #[error("the object is cut off or damaged: {0}")]
    Damaged(&'static str),
}

impl ObjectHeader {
    /// The whole object: header, body, index and footer.
    pub fn object_bytes(&self) -> u64 {
        // Saturating: a damaged header may state any size.
        ((HEADER_BYTES + FOOTER_BYTES) as u64 + self.index_bytes()).saturating_add(self.body_bytes)
    }

    /// The index, or its copy.
    pub fn index_bytes(&self) -> u64 {
        u64::from(self.entries) * INDEX_ENTRY_BYTES as u64
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut b = &mut out[..];
        b.put_slice(&HEADER_MAGIC);
        b.put_u16(VERSION);
        b.put_u16(if self.seal { FLAG_SEAL } else { 0 });
        b.put_i32(self.id.node_id);
        b.put_u32(self.entries);
        b.put_u64(self.id.incarnation);
        b.put_u64(self.id.seq);
        b.put_u64(self.id.salt);
        b.put_u64(self.body_bytes);
        b.put_u64(self.durable_below);
        b.put_u32(if self.has_index_copy { self.index_bytes() as u32 } else { 0 });
        let crc = crc::crc32c(&out[..HEADER_BYTES - 4]);
        out[HEADER_BYTES - 4..].copy_from_slice(&crc.to_be_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<ObjectHeader, ObjectError> {
        let Some(mut b) = bytes.get(..HEADER_BYTES) else {
            return Err(ObjectError::Damaged("the header is cut off"));
        };
        if b[..4] != HEADER_MAGIC {
            return Err(ObjectError::NoMagic);
        }
        let crc = u32::from_be_bytes(b[HEADER_BYTES - 4..].try_into().expect("four bytes"));
        if crc::crc32c(&b[..HEADER_BYTES - 4]) != crc {
            return Err(ObjectError::Damaged("the CRC of the header does not match"));
        }
        b.advance(4);
        let version = b.get_u16();
        if version != VERSION {
            return Err(ObjectError::NewerVersion(version));
        }
        let flags = b.get_u16();
        if flags & FLAGS_CRITICAL & !FLAG_SEAL != 0 {
            return Err(ObjectError::Damaged("it has flags that this program does not know"));
        }
        let node_id = b.get_i32();
        let entries = b.get_u32();
        let id = ObjectId { node_id, incarnation: b.get_u64(), seq: b.get_u64(), salt: b.get_u64() };
        let (body_bytes, durable_below) = (b.get_u64(), b.get_u64());
        let has_index_copy = b.get_u32() != 0;
        Ok(ObjectHeader {
            id,
            seal: flags & FLAG_SEAL != 0,
            body_bytes,
            entries,
            has_index_copy,
            durable_below,
        })
    }
}

impl IndexEntry {
    pub fn of(partition: PartitionId, batch: &PlacedBatch, position: u64, appended_ms: i64) -> IndexEntry {
        IndexEntry {
            partition,
            leader_epoch: batch.leader_epoch,
            base_offset: batch.base_offset,
            last_offset: batch.last_offset,
            position,
            size_bytes: batch.bytes.len() as u32,
            records_count: batch.records_count,
            max_timestamp_ms: batch.max_timestamp_ms,
            span_bits: batch.times.map(|times| span_bits(times.min_ms, batch.max_timestamp_ms)),
            appended_ms,
            sequence: batch.sequence,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.put_slice(self.partition.topic.0.as_bytes());
        out.put_i32(self.partition.index);
        out.put_i32(self.leader_epoch.0);
        out.put_i64(self.base_offset.0);
        out.put_i64(self.last_offset.0);
        out.put_u64(self.position);
        out.put_u32(self.size_bytes);
        out.put_i32(self.records_count);
        out.put_i64(self.max_timestamp_ms);
        out.put_i64(self.appended_ms);
        match self.sequence {
            Some(s) => {
                out.put_i64(s.producer_id.0);
                out.put_i32(s.first);
                out.put_i32(s.last);
                out.put_i16(s.epoch);
            }
            None => {
                out.put_i64(-1);
                out.put_i32(-1);
                out.put_i32(-1);
                out.put_i16(-1);
            }
        }
        debug_assert_eq!(out.len() - begin, ENTRY_CRC_AT);
        let crc = crc::crc32c(&out[begin..]);
        out.put_u32(crc);
        out.put_u8(self.span_bits.map_or(0, |bits| bits + 1));
        out.put_u8(0);
    }

    /// A time that no record of the batch is before.
    pub fn min_timestamp_ms(&self) -> Option<i64> {
        let span_ms = u64::MAX.checked_shr(64 - u32::from(self.span_bits?)).unwrap_or(0);
        Some(self.max_timestamp_ms.saturating_sub_unsigned(span_ms))
    }

    /// Reads an entry that proves itself; those of earlier versions do not.
    pub fn decode_proven(entry: &[u8]) -> Option<IndexEntry> {
        let crc = entry.get(ENTRY_CRC_AT..ENTRY_CRC_AT + 4)?;
        let proven = crc::crc32c(&entry[..ENTRY_CRC_AT]).to_be_bytes() == crc;
        // What stands behind its CRC may be anything.
        proven.then(|| IndexEntry { span_bits: None, ..IndexEntry::decode(entry) })
    }

    /// Whether it can be an entry of a body of so many bytes.
    pub fn is_plausible(&self, body_bytes: u64) -> bool {
        let end = self.position.checked_add(self.size_bytes.into());
        end.is_some_and(|end| end <= body_bytes)
            && self.base_offset.0 >= 0
            && self.last_offset >= self.base_offset
    }

    fn decode(mut b: &[u8]) -> IndexEntry {
        let mut topic = [0; 16];
        b.copy_to_slice(&mut topic);
        let partition = PartitionId { topic: TopicId(Uuid::from_bytes(topic)), index: b.get_i32() };
        let leader_epoch = LeaderEpoch(b.get_i32());
        let (base_offset, last_offset) = (Offset(b.get_i64()), Offset(b.get_i64()));
        let (position, size_bytes, records_count) = (b.get_u64(), b.get_u32(), b.get_i32());
        let (max_timestamp_ms, appended_ms) = (b.get_i64(), b.get_i64());
        let (producer_id, first, last, epoch) =
            (ProducerId(b.get_i64()), b.get_i32(), b.get_i32(), b.get_i16());
        let sequence = (producer_id.0 >= 0).then_some(Sequence { producer_id, epoch, first, last });
        b.advance(4);
        IndexEntry {
            partition,
            leader_epoch,
            base_offset,
            last_offset,
            position,
            size_bytes,
            records_count,
            max_timestamp_ms,
            span_bits: b.get_u8().checked_sub(1).filter(|bits| *bits <= 64),
            appended_ms,
            sequence,
        }
    }
}

fn span_bits(min_ms: i64, max_ms: i64) -> u8 {
    let bits = u64::BITS - max_ms.abs_diff(min_ms).leading_zeros();
    u8::try_from(bits).expect("at most 64")
}

/// The entries of an index, as they stand in front of the footer and, in an object store, in front of the batches.
pub fn encode_index(index: &[IndexEntry]) -> Bytes {
    let mut out = Vec::with_capacity(index.len() * INDEX_ENTRY_BYTES);
    index.iter().for_each(|entry| entry.encode(&mut out));
    out.into()
}

/// The footer of an object with this index.
pub fn encode_footer(header: &ObjectHeader, index_crc: u32) -> [u8; FOOTER_BYTES] {
    let mut out = [0; FOOTER_BYTES];
    let mut b = &mut out[..];
    b.put_slice(&FOOTER_MAGIC);
    b.put_u32(header.entries);
    b.put_u64(header.body_bytes);
    b.put_u64(header.id.seq);
    b.put_u32(index_crc);
    let crc = crc::crc32c(&out[..FOOTER_BYTES - 4]);
    out[FOOTER_BYTES - 4..].copy_from_slice(&crc.to_be_bytes());
    out
}

/// The index and the footer, which follow the body.
pub fn encode_tail(header: &ObjectHeader, index: &[IndexEntry]) -> Bytes {
    let mut out = Vec::with_capacity(index.len() * INDEX_ENTRY_BYTES + FOOTER_BYTES);
    index.iter().for_each(|entry| entry.encode(&mut out));
    let footer = encode_footer(header, crc::crc32c(&out));
    out.put_slice(&footer);
    out.into()
}

/// What the fixed end of an object says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    pub entries: u32,
    pub body_bytes: u64,
    pub seq: u64,
    pub index_crc: u32,
}

impl Footer {
    /// Reads the last bytes of an object.
    pub fn decode(end: &[u8]) -> Result<Footer, ObjectError> {
        let Some(mut footer) = end.len().checked_sub(FOOTER_BYTES).and_then(|at| end.get(at..)) else {
            return Err(ObjectError::Damaged("the footer is cut off"));
        };
        let crc = u32::from_be_bytes(footer[FOOTER_BYTES - 4..].try_into().expect("four bytes"));
        if crc::crc32c(&footer[..FOOTER_BYTES - 4]) != crc || footer[..4] != FOOTER_MAGIC {
            return Err(ObjectError::Damaged("the CRC of the footer does not match"));
        }
        footer.advance(4);
        let (entries, body_bytes, seq) = (footer.get_u32(), footer.get_u64(), footer.get_u64());
        Ok(Footer { entries, body_bytes, seq, index_crc: footer.get_u32() })
    }

    fn index_bytes(&self) -> u64 {
        u64::from(self.entries) * INDEX_ENTRY_BYTES as u64
    }

    fn decode_index(&self, index: &[u8]) -> Result<Vec<IndexEntry>, ObjectError> {
        decode_index(index, self.index_crc, self.body_bytes)
    }
}

/// Reads a whole index.
pub fn decode_index(index: &[u8], index_crc: u32, body_bytes: u64) -> Result<Vec<IndexEntry>, ObjectError> {
    if crc::crc32c(index) != index_crc {
        return Err(ObjectError::Damaged("the CRC of the index does not match"));
    }
    let entries: Vec<_> = index.chunks_exact(INDEX_ENTRY_BYTES).map(IndexEntry::decode).collect();
    if !entries.iter().all(|entry| entry.is_plausible(body_bytes)) {
        return Err(ObjectError::Damaged("an index entry cannot be right"));
    }
    Ok(entries)
}

/// What the end of an object says of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suffix {
    Index(Vec<IndexEntry>),
    Seal,
    /// So many bytes of the end are needed.
    More(u64),
}

/// Reads the index of object `seq`, which has `object_bytes` bytes, from its last ones. Batches are not looked at: their own CRCs
/// tell whether what is read later is whole.
pub fn decode_suffix(end: &[u8], object_bytes: u64, seq: u64) -> Result<Suffix, ObjectError> {
    let footer = Footer::decode(end)?;
    let fixed = (HEADER_BYTES + FOOTER_BYTES) as u64;
    if footer.index_bytes().saturating_add(fixed).saturating_add(footer.body_bytes) != object_bytes {
        return Err(ObjectError::Damaged("the footer does not match the size"));
    }
    if footer.seq != seq {
        return Err(ObjectError::Damaged("the footer is of another object"));
    }
    if footer.entries == 0 {
        let Some(front) = end.len().checked_sub(fixed as usize).map(|at| &end[at..]) else {
            return Ok(Suffix::More(fixed));
        };
        let header = ObjectHeader::decode(front)?;
        return Ok(if header.seal { Suffix::Seal } else { Suffix::Index(Vec::new()) });
    }
    let needed = footer.index_bytes() + FOOTER_BYTES as u64;
    let index = match usize::try_from(needed).ok().and_then(|n| end.len().checked_sub(n)) {
        Some(at) => &end[at..end.len() - FOOTER_BYTES],
        None => return Ok(Suffix::More(needed)),
    };
    let entries = footer.decode_index(index)?;
    Ok(Suffix::Index(entries))
}

/// The size of a seal. No other object of a chain is as small, but one without batches.
pub const SEAL_BYTES: usize = HEADER_BYTES + FOOTER_BYTES;

/// The seal of a chain at `seq`: it says whose chain it ends, not who made it.
pub fn encode_seal_of(chain: ChainId, seq: u64) -> Bytes {
    encode_seal(ObjectId { node_id: chain.node_id, incarnation: chain.incarnation, seq, salt: 0 })
}

/// The object that ends a chain.
fn encode_seal(id: ObjectId) -> Bytes {
    let header =
        ObjectHeader { id, seal: true, body_bytes: 0, entries: 0, has_index_copy: false, durable_below: 0 };
    [&header.encode()[..], &encode_tail(&header, &[])].concat().into()
}

/// Reads a whole object and checks everything in it, the batches' CRCs included.
pub fn decode(bytes: &[u8]) -> Result<(ObjectHeader, Vec<IndexEntry>), ObjectError> {
    let header = ObjectHeader::decode(bytes)?;
    let whole = usize::try_from(header.object_bytes()).ok().filter(|n| *n <= bytes.len());
    let Some(whole) = whole else { return Err(ObjectError::Damaged("it is cut off")) };
    let body_end = HEADER_BYTES + header.body_bytes as usize;
    let (body, tail) = (&bytes[HEADER_BYTES..body_end], &bytes[body_end..whole]);
    let entries = decode_tail(&header, tail)?;
    for entry in &entries {
        check_batch(body, entry)?;
    }
    Ok((header, entries))
}

/// The same, but each batch is told of for itself: whether it is what was written. A copy of the index that is not like the index is
/// no error.
#[allow(clippy::type_complexity, reason = "the batches of one object, each with a verdict")]
pub fn decode_sound_parts(bytes: &[u8]) -> Result<(ObjectHeader, Vec<(IndexEntry, bool)>), ObjectError> {
    let header = ObjectHeader::decode(bytes)?;
    if header.object_bytes() != bytes.len() as u64 {
        return Err(ObjectError::Damaged("its size is not what its header says"));
    }
    let body_end = HEADER_BYTES + header.body_bytes as usize;
    let (body, tail) = (&bytes[HEADER_BYTES..body_end], &bytes[body_end..]);
    let entries = decode_tail(&header, tail)?;
    Ok((header, entries.into_iter().map(|entry| (entry, check_batch(body, &entry).is_ok())).collect()))
}

/// Whether the copy of the index in front of the batches is like the one behind them. The object was decoded.
pub fn index_copy_matches(header: &ObjectHeader, bytes: &[u8]) -> bool {
    let (Ok(size), Ok(body)) = (usize::try_from(header.index_bytes()), usize::try_from(header.body_bytes))
    else {
        return false;
    };
    let copy = bytes.get(HEADER_BYTES..HEADER_BYTES + size);
    copy.is_some() && copy == bytes.get(HEADER_BYTES + body..HEADER_BYTES + body + size)
}

/// Reads the index and the footer of an object, all that follows its body. Batches are not looked at.
pub fn decode_tail(header: &ObjectHeader, tail: &[u8]) -> Result<Vec<IndexEntry>, ObjectError> {
    let footer = Footer::decode(tail)?;
    if (footer.entries, footer.body_bytes, footer.seq) != (header.entries, header.body_bytes, header.id.seq) {
        return Err(ObjectError::Damaged("header and footer disagree"));
    }
    footer.decode_index(&tail[..tail.len() - FOOTER_BYTES])
}

/// Makes the checksums of an object right after a fuzzer changed it; `None` when it does not look like one at all.
pub fn repair_checksums(bytes: &mut [u8]) -> Option<()> {
    let put = |bytes: &mut [u8], range: std::ops::Range<usize>, at: usize| {
        let crc = crc::crc32c(bytes.get(range)?);
        bytes.get_mut(at..at.checked_add(4)?)?.copy_from_slice(&crc.to_be_bytes());
        Some(())
    };
    put(bytes, 0..HEADER_BYTES - 4, HEADER_BYTES - 4)?;
    let header = ObjectHeader::decode(bytes).ok()?;
    let whole = usize::try_from(header.object_bytes()).ok().filter(|n| *n <= bytes.len())?;
    let footer = whole - FOOTER_BYTES;
    let index = footer - header.entries as usize * INDEX_ENTRY_BYTES;
    for entry in (index..footer).step_by(INDEX_ENTRY_BYTES) {
        put(bytes, entry..entry + ENTRY_CRC_AT, entry + ENTRY_CRC_AT)?;
    }
    put(bytes, index..footer, whole - 8)?;
    put(bytes, footer..whole - 4, whole - 4)
}

/// A batch must be whole, and say of itself what the index says of it.
pub fn check_batch(body: &[u8], entry: &IndexEntry) -> Result<(), ObjectError> {
    let batch = usize::try_from(entry.position)
        .ok()
        .and_then(|at| body.get(at..))
        .and_then(|rest| rest.get(..entry.size_bytes as usize))
        .ok_or(ObjectError::Damaged("an index entry points outside the body"))?;
    let header =
        BatchHeader::parse(batch).map_err(|_| ObjectError::Damaged("a batch header is unreadable"))?;
    let same = header.size_bytes == batch.len()
        && header.base_offset == entry.base_offset
        && header.last_offset() == entry.last_offset
        && header.leader_epoch == entry.leader_epoch;
    if !same {
        return Err(ObjectError::Damaged("a batch does not match its index entry"));
    }
    if !header.crc_matches(batch) {
        return Err(ObjectError::Damaged("the CRC of a batch does not match"));
    }
    Ok(())
}
