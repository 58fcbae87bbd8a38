//! Makes the checksums of an object right after a fuzzer changed it: behind them is what it should reach.

use super::format::{FOOTER_BYTES, HEADER_BYTES, INDEX_ENTRY_BYTES};
use super::v1;
use kafscale_core::crc;

/// Rewrites every checksum that can be found. `None` when the bytes do not look like a segment at all.
pub fn repair_checksums(bytes: &mut [u8]) -> Option<()> {
    match bytes.last_chunk()? {
        &v1::FOOTER_MAGIC => repair_v1(bytes),
        _ => repair_v2(bytes),
    }
}

fn repair_v1(bytes: &mut [u8]) -> Option<()> {
    let footer = bytes.len().checked_sub(v1::FOOTER_BYTES as usize)?;
    let crc = crc::crc32c(bytes.get(v1::HEADER_BYTES as usize..footer)?);
    put(bytes, footer, crc)
}

fn repair_v2(bytes: &mut [u8]) -> Option<()> {
    let footer = bytes.len().checked_sub((HEADER_BYTES + FOOTER_BYTES) as usize)? + HEADER_BYTES as usize;
    let header_crc = crc::crc32c(&bytes[..HEADER_BYTES as usize - 4]);
    put(bytes, HEADER_BYTES as usize - 4, header_crc)?;
    let (statistics, index) = (position(bytes, footer)?, position(bytes, footer + 16)?);
    if statistics > index || index > footer {
        return None;
    }
    let groups: Vec<usize> = (index..footer)
        .step_by(INDEX_ENTRY_BYTES as usize)
        .filter_map(|entry| position(bytes, entry + 8))
        .chain([statistics])
        .collect();
    for (i, group) in groups.windows(2).enumerate() {
        if let Some(group) = bytes.get(group[0]..group[1]) {
            let crc = crc::crc32c(group);
            put(bytes, index + i * INDEX_ENTRY_BYTES as usize + 24, crc)?;
        }
    }
    let crc = crc::crc32c(&bytes[statistics..index]);
    put(bytes, footer + 12, crc)?;
    let crc = crc::crc32c(&bytes[index..footer]);
    put(bytes, footer + 28, crc)?;
    let crc = crc::crc32c(&bytes[footer..footer + 56]);
    put(bytes, footer + 56, crc)
}

/// The position that stands at `at`, when it is one in these bytes.
fn position(bytes: &[u8], at: usize) -> Option<usize> {
    let field: [u8; 8] = bytes.get(at..at.checked_add(8)?)?.try_into().ok()?;
    usize::try_from(u64::from_be_bytes(field)).ok().filter(|p| *p <= bytes.len())
}

fn put(bytes: &mut [u8], at: usize, crc: u32) -> Option<()> {
    bytes.get_mut(at..at.checked_add(4)?)?.copy_from_slice(&crc.to_be_bytes());
    Some(())
}
