//! The write-ahead log in an object store: every object as a whole, and whether one is missing.

use std::collections::BTreeMap;

use kafscale_core::ids::Offset;
use object_store::ObjectStoreExt;

use super::{Finding, Harm, Scrub, ScrubError};
use crate::disaster::survey::ChainObjects;
use crate::wal::chain_id::ChainId;
use crate::wal::object::{self, IndexEntry, ObjectHeader};
use crate::wal::salvage;

pub async fn check(scrub: &mut Scrub<'_>, chains: BTreeMap<ChainId, ChainObjects>) -> Result<(), ScrubError> {
    for (id, objects) in chains {
        let mut durable_below = 0;
        for (seq, size_bytes) in &objects {
            let read = match scrub.store.get(&id.object(*seq)).await {
                Ok(read) => read.bytes().await,
                Err(e) => Err(e),
            };
            match read {
                Ok(bytes) => {
                    let header = check_one(scrub, id, *seq, &bytes);
                    durable_below = durable_below.max(header.map_or(0, |header| header.durable_below));
                    scrub.done.wal_objects += 1;
                }
                // Freed since it was listed.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(scrub.failed(e)),
            }
            scrub.object_done(*size_bytes);
        }
        missing(scrub, id, &objects, durable_below);
    }
    Ok(())
}

/// What must be there and is not. An owner frees objects from the lowest on, so that a hole between objects is one that somebody took
/// away, or whose upload was under way when the broker died. The objects of a chain whose records segments have are seals, or gone.
fn missing(scrub: &mut Scrub<'_>, id: ChainId, objects: &ChainObjects, durable_below: u64) {
    let Some(lowest) = objects.keys().next() else { return };
    for seq in (*lowest..durable_below).filter(|seq| !objects.contains_key(seq)) {
        let why = "it is missing, and was acknowledged, as later objects say".to_owned();
        scrub.found(finding(id, seq, 0, why, Harm::Records));
    }
}

fn check_one(scrub: &mut Scrub<'_>, id: ChainId, seq: u64, bytes: &[u8]) -> Option<ObjectHeader> {
    let (header, entries) = match object::decode_sound_parts(bytes) {
        Ok(parts) => parts,
        Err(why) => return salvaged(scrub, id, seq, bytes, &why.to_string()),
    };
    if header.has_index_copy && !object::index_copy_matches(&header, bytes) {
        let why = "the copy of its index is damaged".to_owned();
        scrub.found(finding(id, seq, object::HEADER_BYTES as u64, why, Harm::None));
    }
    scrub.done.batches += entries.len() as u64;
    let mine = (header.id.node_id, header.id.incarnation, header.id.seq) == (id.node_id, id.incarnation, seq);
    if !mine && !header.seal {
        scrub.found(finding(id, seq, 0, "it is another object than its name says".to_owned(), Harm::Start));
    }
    for (entry, sound) in entries {
        if !sound {
            let finding = of_batch(
                scrub,
                id.object(seq).to_string(),
                object::HEADER_BYTES as u64 + entry.position,
                &entry,
            );
            scrub.found(finding);
        }
    }
    Some(header)
}

/// An object whose structure is damaged, with the batches that it has nevertheless.
fn salvaged(scrub: &mut Scrub<'_>, id: ChainId, seq: u64, bytes: &[u8], why: &str) -> Option<ObjectHeader> {
    let found = salvage::salvage(bytes, id, seq);
    let harm = match &found {
        Some(found) if found.lost_entries == 0 => Harm::None,
        Some(_) | None => Harm::Records,
    };
    scrub.found(finding(id, seq, 0, why.to_owned(), harm));
    for entry in found.iter().flat_map(|found| &found.entries) {
        scrub.done.batches += 1;
        let body = bytes.get(object::HEADER_BYTES..).unwrap_or_default();
        if object::check_batch(body, entry).is_err() {
            let position = object::HEADER_BYTES as u64 + entry.position;
            let finding = of_batch(scrub, id.object(seq).to_string(), position, entry);
            scrub.found(finding);
        }
    }
    // Its header may be right, and says what was acknowledged.
    ObjectHeader::decode(bytes).ok().filter(|header| header.id.seq == seq)
}

/// A batch of the write-ahead log that is not what was written.
pub fn of_batch(scrub: &Scrub<'_>, object: String, position: u64, entry: &IndexEntry) -> Finding {
    let offsets: (Offset, Offset) = (entry.base_offset, entry.last_offset);
    Finding {
        object,
        position,
        topic: Some(scrub.topic(entry.partition.topic)),
        partition: Some(entry.partition.index),
        offsets: Some(offsets),
        why: "the batch does not match its CRC32C".to_owned(),
        harm: Harm::Records,
    }
}

fn finding(id: ChainId, seq: u64, position: u64, why: String, harm: Harm) -> Finding {
    Finding {
        object: id.object(seq).to_string(),
        position,
        topic: None,
        partition: None,
        offsets: None,
        why,
        harm,
    }
}
