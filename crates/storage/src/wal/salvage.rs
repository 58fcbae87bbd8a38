//! What can be told of an object whose index or footer is damaged.
//!
//! The batches have CRCs of their own, but only the index says whose they are. It stands in front of the batches and behind them, and each
//! entry proves itself: so an entry is lost only where both copies of it are. Entries of earlier versions do not prove
//! themselves, and are believed all together where the CRC of the index matches.

use std::ops::Range;

use kafscale_core::crc;

use super::chain_id::ChainId;
use super::object::{
    FOOTER_BYTES, Footer, HEADER_BYTES, INDEX_ENTRY_BYTES, IndexEntry, ObjectHeader, SEAL_BYTES,
    decode_index, encode_seal_of,
};

/// Where the CRC of the index stands in a footer.
const INDEX_CRC_AT: u64 = 24;

/// What is left of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// In the order of the object. The bytes of their batches may be damaged, or not there.
    pub entries: Vec<IndexEntry>,
    /// Batches that nothing tells of any more.
    pub lost_entries: u32,
    /// The size that the object had.
    pub object_bytes: u64,
}

/// Where the parts of an object are, as its header or its footer says.
struct Layout {
    entries: u32,
    body_bytes: u64,
    may_have_copy: bool,
}

impl Layout {
    fn of(bytes: &[u8], chain: ChainId, seq: u64) -> Option<Layout> {
        let is_mine = |header: &ObjectHeader| {
            (header.id.node_id, header.id.incarnation, header.id.seq)
                == (chain.node_id, chain.incarnation, seq)
        };
        if let Some(header) = ObjectHeader::decode(bytes).ok().filter(is_mine) {
            let ObjectHeader { entries, body_bytes, has_index_copy: may_have_copy, .. } = header;
            return Some(Layout { entries, body_bytes, may_have_copy });
        }
        let footer = Footer::decode(bytes).ok().filter(|footer| footer.seq == seq)?;
        let Footer { entries, body_bytes, .. } = footer;
        let layout = Layout { entries, body_bytes, may_have_copy: true };
        (layout.object_bytes() == bytes.len() as u64).then_some(layout)
    }

    fn object_bytes(&self) -> u64 {
        let fixed = (HEADER_BYTES + FOOTER_BYTES) as u64 + self.index_bytes();
        fixed.saturating_add(self.body_bytes)
    }

    fn index_bytes(&self) -> u64 {
        u64::from(self.entries) * INDEX_ENTRY_BYTES as u64
    }
}

/// Reads what is left of object `seq` of a chain. `None` when neither its header nor its footer says what it was.
pub fn salvage(bytes: &[u8], chain: ChainId, seq: u64) -> Option<Salvaged> {
    let layout = Layout::of(bytes, chain, seq)?;
    let object_bytes = layout.object_bytes();
    let part = |at: u64, size: u64| {
        let (at, end) = (usize::try_from(at).ok()?, usize::try_from(at.checked_add(size)?).ok()?);
        bytes.get(at..end)
    };
    let index_at = (HEADER_BYTES as u64).saturating_add(layout.body_bytes);
    // The footer may be damaged elsewhere than in this CRC.
    if let Some(index) = part(index_at, layout.index_bytes())
        && let Some(stated) = part(index_at + layout.index_bytes() + INDEX_CRC_AT, 4)
        && crc::crc32c(index).to_be_bytes() == stated
        && let Ok(entries) = decode_index(index, crc::crc32c(index), layout.body_bytes)
    {
        return Some(Salvaged { entries, lost_entries: 0, object_bytes });
    }
    let (mut entries, mut lost_entries) = (Vec::new(), 0);
    for i in 0..u64::from(layout.entries) {
        let (begin, size) = (i * INDEX_ENTRY_BYTES as u64, INDEX_ENTRY_BYTES as u64);
        let copy = part(HEADER_BYTES as u64 + begin, size).filter(|_| layout.may_have_copy);
        let original = part(index_at + begin, size);
        if copy.is_none() && original.is_none() {
            lost_entries += layout.entries - i as u32;
            break;
        }
        let mut proven = [copy, original].into_iter().flatten().filter_map(IndexEntry::decode_proven);
        match proven.find(|entry| entry.is_plausible(layout.body_bytes)) {
            Some(entry) => entries.push(entry),
            None => lost_entries += 1,
        }
    }
    Some(Salvaged { entries, lost_entries, object_bytes })
}

/// Whether an object of the size of a seal is one; `None` where too little is left of it to tell.
pub fn is_seal(bytes: &[u8], chain: ChainId, seq: u64) -> Option<bool> {
    if bytes.len() != SEAL_BYTES {
        return Some(false);
    }
    if let Ok(header) = ObjectHeader::decode(bytes) {
        return Some(header.seal);
    }
    // A seal's bytes are known. It differs from an object without batches in its flags, and in the CRC that follows from them.
    let seal = encode_seal_of(chain, seq);
    let (flags, crc) = (6..8, HEADER_BYTES - 4..HEADER_BYTES);
    if bytes[crc.clone()] == seal[crc] {
        return Some(true);
    }
    let mut without_flags = [0; HEADER_BYTES];
    without_flags.copy_from_slice(&bytes[..HEADER_BYTES]);
    without_flags[flags.clone()].fill(0);
    if ObjectHeader::decode(&without_flags).is_ok() {
        return Some(false);
    }
    // Who wrote it is right: so the flags may be.
    let is_same = |part: Range<usize>| bytes[part.clone()] == seal[part];
    if !is_same(0..6) || !is_same(8..12) || !is_same(16..32) {
        return is_same(flags).then_some(true);
    }
    match bytes[flags] {
        [0, 0] => Some(false),
        [1, 0] => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::object::{ObjectId, encode_footer, encode_index};
    use super::*;
    use crate::testing::batch_bytes;
    use kafscale_core::batch::PlacedBatch;
    use kafscale_core::ids::{PartitionId, TopicId};

    const CHAIN: ChainId = ChainId { node_id: 3, incarnation: 9 };

    fn object() -> (Vec<u8>, Vec<IndexEntry>) {
        let batches: Vec<_> =
            (0..4).map(|i| PlacedBatch::from_log(batch_bytes(i * 3, 3, 20)).unwrap()).collect();
        let mut at = (batches.len() * INDEX_ENTRY_BYTES) as u64;
        let mut index = Vec::new();
        for (i, batch) in batches.iter().enumerate() {
            let partition = PartitionId { topic: TopicId(uuid::Uuid::nil()), index: i as i32 };
            index.push(IndexEntry::of(partition, batch, at, 77));
            at += batch.bytes.len() as u64;
        }
        let id = ObjectId { node_id: 3, incarnation: 9, seq: 5, salt: 1 };
        let header = ObjectHeader {
            id,
            seal: false,
            body_bytes: at,
            entries: 4,
            has_index_copy: true,
            durable_below: 2,
        };
        let encoded = encode_index(&index);
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(&encoded);
        batches.iter().for_each(|batch| bytes.extend_from_slice(&batch.bytes));
        bytes.extend_from_slice(&encoded);
        bytes.extend_from_slice(&encode_footer(&header, crc::crc32c(&encoded)));
        (bytes, index)
    }

    #[test]
    fn the_index_survives_whatever_one_damage_leaves_of_it() {
        let (whole, index) = object();
        let size = whole.len();
        for (what, zeroed) in [
            ("nothing", 0..0),
            ("the header", 0..64),
            ("the copy", 64..64 + 384),
            ("the header and the copy", 0..64 + 384),
            ("the index", size - 32 - 384..size - 32),
            ("the footer", size - 32..size),
            ("the index and the footer", size - 32 - 384..size),
            ("all but the header and the copy", 64 + 384..size),
        ] {
            let mut bytes = whole.clone();
            bytes[zeroed].fill(0);
            let found = salvage(&bytes, CHAIN, 5).unwrap_or_else(|| panic!("{what}"));
            assert_eq!((found.lost_entries, found.object_bytes), (0, size as u64), "{what}");
            assert_eq!(found.entries, index, "{what}");
        }
        for cut in 64 + 384..size {
            assert_eq!(salvage(&whole[..cut], CHAIN, 5).unwrap().entries, index, "cut at {cut}");
        }
    }

    #[test]
    fn an_entry_is_lost_where_both_copies_are() {
        let (mut bytes, index) = object();
        let back = bytes.len() - 32 - 384;
        bytes[64 + 96 + 5] ^= 1;
        bytes[back + 96 + 20] ^= 1;
        bytes[back + 2 * 96] ^= 1;
        let found = salvage(&bytes, CHAIN, 5).unwrap();
        assert_eq!((found.lost_entries, found.entries), (1, vec![index[0], index[2], index[3]]));
        assert_eq!(salvage(&bytes, CHAIN, 6), None, "another object");
        let end = bytes.len();
        bytes[..64].fill(0);
        bytes[end - 32..].fill(0);
        assert_eq!(salvage(&bytes, CHAIN, 5), None, "neither end says what it was");
    }

    #[test]
    fn a_damaged_seal_is_still_one() {
        let seal = encode_seal_of(CHAIN, 5);
        let id = ObjectId { node_id: 3, incarnation: 9, seq: 5, salt: 0 };
        let header = ObjectHeader {
            id,
            seal: false,
            body_bytes: 0,
            entries: 0,
            has_index_copy: false,
            durable_below: 2,
        };
        let empty = [&header.encode()[..], &encode_footer(&header, 0)].concat();
        for bit in 0..SEAL_BYTES * 8 {
            for (bytes, expect) in [(&seal[..], true), (&empty, false)] {
                let mut bytes = bytes.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let found = is_seal(&bytes, CHAIN, 5);
                assert!(found == Some(expect) || (found.is_none() && !expect), "{expect} {bit}: {found:?}");
            }
        }
        assert_eq!(is_seal(&[0; SEAL_BYTES], CHAIN, 5), None);
    }
}
