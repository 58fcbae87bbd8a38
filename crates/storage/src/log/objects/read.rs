//! Reading batches back from objects of chains: the tail of a partition beyond what is kept in memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use object_store::{OBJECT_STORE_COALESCE_DEFAULT, ObjectStoreExt, coalesce_ranges};

use crate::error::ReadError;
use crate::log::shared::Shared;
use crate::wal::files::Place;

/// Objects that one read asks for at a time.
const OBJECTS_AT_ONCE: usize = 16;

/// The bytes of batches, in the order that they are asked for; those of one object in one request where they are close together.
pub async fn batches(shared: &Shared, wanted: &[(Place, u32)]) -> Result<Vec<Bytes>, ReadError> {
    let mut by_object: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (i, (place, _)) in wanted.iter().enumerate() {
        by_object.entry(place.file_no).or_default().push(i);
    }
    shared.counters.objects_read.fetch_add(by_object.len() as u64, Ordering::Relaxed);
    let mut found = vec![Bytes::new(); wanted.len()];
    let (mut left, mut reads) = (by_object.into_iter(), FuturesUnordered::new());
    loop {
        while reads.len() < OBJECTS_AT_ONCE
            && let Some((file_no, at)) = left.next()
        {
            let range = |i: &usize| {
                let (place, size_bytes) = wanted[*i];
                place.position..place.position + u64::from(size_bytes)
            };
            let ranges = at.iter().map(range).collect();
            reads.push(read_object(shared, file_no, at, ranges));
        }
        let Some(read) = reads.next().await else { return Ok(found) };
        let (at, bytes) = read?;
        at.into_iter().zip(bytes).for_each(|(i, bytes)| found[i] = bytes);
    }
}

async fn read_object(
    shared: &Shared,
    file_no: u64,
    at: Vec<usize>,
    ranges: Vec<Range<u64>>,
) -> Result<(Vec<usize>, Vec<Bytes>), ReadError> {
    // Rewritten since the read was planned: the next plan finds a segment.
    let moved = || ReadError::Unavailable("the records are being moved; read again".to_owned());
    let object = shared.files.object(file_no).ok_or_else(moved)?;
    let get = |range: Range<u64>| async {
        let wanted = range.end - range.start;
        let read = shared.store.get_range(&object.path, range).await;
        let bytes = read.map_err(|e| ReadError::Unavailable(format!("{}: {e}", object.path)))?;
        // The chain is dead and is being collected: a seal, which is shorter, stands in the object's place.
        if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(moved()) }
    };
    Ok((at, coalesce_ranges(&ranges, get, OBJECT_STORE_COALESCE_DEFAULT).await?))
}
