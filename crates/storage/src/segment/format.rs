//! The fixed parts of format version 2: header, index entries, footer. Integers are big-endian, as in Kafka's batches.
//!
//! Object = header (64) · batches · statistics · index (32 per entry) · footer (64). See docs/format.md, "Segment version 2".

use kafscale_core::crc;
use kafscale_core::ids::{Offset, PartitionId, TopicId};
use uuid::Uuid;

pub(super) const MAGIC: [u8; 4] = *b"KAFS";
pub(super) const FOOTER_MAGIC: [u8; 4] = *b"KAF2";
pub(super) const VERSION: u16 = 2;
pub(super) const HEADER_BYTES: u64 = 64;
pub(super) const FOOTER_BYTES: u64 = 64;
pub(super) const INDEX_ENTRY_BYTES: u64 = 32;
pub(super) const SUMMARY_BYTES: u64 = 32;
/// A segment without any batch.
pub const EMPTY_BYTES: u64 = HEADER_BYTES + SUMMARY_BYTES + FOOTER_BYTES;

/// Flags in the upper half change what the bytes mean: a reader that does not know one refuses the object.
const INCOMPATIBLE_FLAGS: u16 = 0xff00;

/// What is wrong with stored bytes, and where in the object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {position}: {why}")]
pub struct FormatError {
    pub position: u64,
    pub why: String,
}

impl FormatError {
    pub(super) fn new(position: u64, why: impl Into<String>) -> FormatError {
        FormatError { position, why: why.into() }
    }
}

/// Reads fixed-size fields in order. The caller gives it a slice that it knows to be long enough.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the caller checked the length");
        self.0 = rest;
        *field
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    pub(super) fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }

    pub(super) fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }
}

/// The first 64 bytes: whose records these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub partition: PartitionId,
    pub base_offset: Offset,
    pub created_ms: i64,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES as usize);
        out.extend(MAGIC);
        out.extend(VERSION.to_be_bytes());
        out.extend(0u16.to_be_bytes()); // flags
        out.extend(self.partition.topic.0.as_bytes());
        out.extend(self.partition.index.to_be_bytes());
        out.extend(self.base_offset.0.to_be_bytes());
        out.extend(self.created_ms.to_be_bytes());
        out.extend([0; 16]); // reserved
        let crc = crc::crc32c(&out);
        out.extend(crc.to_be_bytes());
        out
    }

    /// Reads the header from the first 64 bytes of an object.
    pub fn decode(bytes: &[u8]) -> Result<Header, FormatError> {
        let bad = |why: &str| FormatError::new(0, why);
        let bytes = bytes.get(..HEADER_BYTES as usize).ok_or_else(|| bad("the header is cut off"))?;
        let mut fields = Fields(bytes);
        if fields.take() != MAGIC {
            return Err(bad("it does not begin as a segment does"));
        }
        let version = fields.u16();
        if version != VERSION {
            return Err(bad(&format!("segment version {version} is not known")));
        }
        let (body, crc) = bytes.split_at(bytes.len() - 4);
        if Fields(crc).u32() != crc::crc32c(body) {
            return Err(bad("the header's CRC32C does not match"));
        }
        check_flags(fields.u16(), 0)?;
        Ok(Header {
            partition: PartitionId { topic: TopicId(Uuid::from_bytes(fields.take())), index: fields.i32() },
            base_offset: Offset(fields.i64()),
            created_ms: fields.i64(),
        })
    }
}

fn check_flags(flags: u16, position: u64) -> Result<(), FormatError> {
    if flags & INCOMPATIBLE_FLAGS != 0 {
        return Err(FormatError::new(position, format!("flags {flags:#06x} need a newer reader")));
    }
    Ok(())
}

/// A group: batches that stand one after the other and are checked together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// Of the group's first batch.
    pub base_offset: Offset,
    /// Of the group's first byte in the object.
    pub position: u64,
    /// The largest of the group.
    pub max_timestamp_ms: i64,
    /// CRC32C of the group's bytes, the parts of the batches that their own CRC leaves out included.
    pub crc: u32,
    /// Where the group's entries begin, from the start of the statistics.
    pub table_position: u32,
}

/// Where the entries of a group's batches would begin if they were known: no index on a disk says this.
const LOST: u32 = u32::MAX;

impl IndexEntry {
    /// Stands for offsets from this one on that cannot be read. Only an index that was made from a damaged object has such.
    pub(super) fn lost(base_offset: Offset, position: u64) -> IndexEntry {
        IndexEntry { base_offset, position, max_timestamp_ms: i64::MAX, crc: 0, table_position: LOST }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.table_position == LOST
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.base_offset.0.to_be_bytes());
        out.extend(self.position.to_be_bytes());
        out.extend(self.max_timestamp_ms.to_be_bytes());
        out.extend(self.crc.to_be_bytes());
        out.extend(self.table_position.to_be_bytes());
    }

    pub(super) fn decode(bytes: &[u8]) -> IndexEntry {
        let mut fields = Fields(bytes);
        IndexEntry {
            base_offset: Offset(fields.i64()),
            position: fields.u64(),
            max_timestamp_ms: fields.i64(),
            crc: fields.u32(),
            table_position: fields.u32(),
        }
    }
}

/// The last 64 bytes: where everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    /// The end of the batches.
    pub statistics_position: u64,
    pub statistics_bytes: u32,
    pub statistics_crc: u32,
    pub index_position: u64,
    pub index_bytes: u32,
    pub index_crc: u32,
    pub size_bytes: u64,
    pub last_offset: Offset,
    /// CRC32C of all batches, for programs that read whole objects.
    pub body_crc: u32,
}

impl Footer {
    /// Where the CRC of all batches stands in it.
    pub(super) const BODY_CRC_AT: usize = 48;

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_BYTES as usize);
        out.extend(self.statistics_position.to_be_bytes());
        out.extend(self.statistics_bytes.to_be_bytes());
        out.extend(self.statistics_crc.to_be_bytes());
        out.extend(self.index_position.to_be_bytes());
        out.extend(self.index_bytes.to_be_bytes());
        out.extend(self.index_crc.to_be_bytes());
        out.extend(self.size_bytes.to_be_bytes());
        out.extend(self.last_offset.0.to_be_bytes());
        out.extend(self.body_crc.to_be_bytes());
        out.extend(VERSION.to_be_bytes());
        out.extend(0u16.to_be_bytes()); // flags
        let crc = crc::crc32c(&out);
        out.extend(crc.to_be_bytes());
        out.extend(FOOTER_MAGIC);
        out
    }

    /// Reads the footer of an object of `size_bytes` from its last 64 bytes, and checks that its parts fit together.
    pub(super) fn decode(
        bytes: &[u8; FOOTER_BYTES as usize],
        size_bytes: u64,
    ) -> Result<Footer, FormatError> {
        let position = size_bytes.saturating_sub(FOOTER_BYTES);
        let bad = |why: &str| FormatError::new(position, why);
        let mut fields = Fields(bytes);
        let footer = Footer {
            statistics_position: fields.u64(),
            statistics_bytes: fields.u32(),
            statistics_crc: fields.u32(),
            index_position: fields.u64(),
            index_bytes: fields.u32(),
            index_crc: fields.u32(),
            size_bytes: fields.u64(),
            last_offset: Offset(fields.i64()),
            body_crc: fields.u32(),
        };
        let (version, flags, crc) = (fields.u16(), fields.u16(), fields.u32());
        if fields.take() != FOOTER_MAGIC {
            return Err(bad("it does not end as a segment does"));
        }
        if crc != crc::crc32c(&bytes[..bytes.len() - 8]) {
            return Err(bad("the footer's CRC32C does not match"));
        }
        if version != VERSION {
            return Err(bad(&format!("segment version {version} is not known")));
        }
        check_flags(flags, position)?;
        if footer.size_bytes != size_bytes {
            let why = format!(
                "the footer is of an object of {} bytes, this one has {size_bytes}",
                footer.size_bytes
            );
            return Err(bad(&why));
        }
        let statistics_end = footer.statistics_position.checked_add(footer.statistics_bytes.into());
        let index_end = footer.index_position.checked_add(footer.index_bytes.into());
        let fits = footer.statistics_position >= HEADER_BYTES
            && u64::from(footer.statistics_bytes) >= SUMMARY_BYTES
            && statistics_end == Some(footer.index_position)
            && index_end == Some(position)
            && u64::from(footer.index_bytes) % INDEX_ENTRY_BYTES == 0;
        if fits { Ok(footer) } else { Err(bad("the footer's positions do not fit together")) }
    }

    /// Reads the index, which must be as the footer says.
    pub(super) fn decode_index(&self, bytes: &[u8]) -> Result<Vec<IndexEntry>, FormatError> {
        let bad = |why: &str| FormatError::new(self.index_position, why);
        if bytes.len() != self.index_bytes as usize || crc::crc32c(bytes) != self.index_crc {
            return Err(bad("the index's CRC32C does not match"));
        }
        let index: Vec<_> = bytes.chunks_exact(INDEX_ENTRY_BYTES as usize).map(IndexEntry::decode).collect();
        let rising = index.windows(2).all(|w| {
            w[0].base_offset < w[1].base_offset
                && w[0].position < w[1].position
                && w[0].table_position < w[1].table_position
        });
        let begins = index.first().map_or(self.statistics_position, |e| e.position) == HEADER_BYTES;
        let ends = index.last().is_none_or(|e| {
            e.position < self.statistics_position
                && e.table_position < self.statistics_bytes
                && e.base_offset <= self.last_offset
        });
        if rising && begins && ends { Ok(index) } else { Err(bad("the index is out of order")) }
    }
}
