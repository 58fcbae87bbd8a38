//! Reading batches back from objects of chains: the tail of a partition beyond what is kept in memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use object_store::path::Path;
use object_store::{OBJECT_STORE_COALESCE_DEFAULT, ObjectStoreExt, coalesce_ranges};

use crate::error::ReadError;
use crate::log::objects::seal::SEAL_BYTES;
use crate::log::shared::{BatchLost, Shared};
use crate::store::{StoreError, StoreErrorKind};
use crate::wal::files::{Lost, Place};
use crate::wal::object::{HEADER_BYTES, ObjectHeader};

/// Objects that one read asks for at a time.
const OBJECTS_AT_ONCE: usize = 16;

/// The bytes of batches, in the order that they are asked for; those of one object in one request where they are close together. An
/// object that the store does not give costs its own batches.
pub async fn batches(
    shared: &Shared,
    wanted: &[(Place, u32)],
) -> Result<Vec<Result<Bytes, BatchLost>>, ReadError> {
    let mut by_object: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (i, (place, _)) in wanted.iter().enumerate() {
        by_object.entry(place.file_no).or_default().push(i);
    }
    shared.counters.objects_read.fetch_add(by_object.len() as u64, Ordering::Relaxed);
    let mut found: Vec<_> = wanted.iter().map(|_| Ok(Bytes::new())).collect();
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

type Read = Vec<Result<Bytes, BatchLost>>;

async fn read_object(
    shared: &Shared,
    file_no: u64,
    at: Vec<usize>,
    ranges: Vec<Range<u64>>,
) -> Result<(Vec<usize>, Read), ReadError> {
    // Rewritten since the read was planned: the next plan finds a segment.
    let moved = || ReadError::Unavailable("the records are being moved; read again".to_owned());
    let object = shared.files.object(file_no).ok_or_else(moved)?;
    if let Some(lost) = object.lost {
        let error = || match lost {
            Lost::GivenUp => BatchLost::CutOff(format!("{} was lost, and its records given up", object.path)),
            Lost::Missed => BatchLost::Missing(format!(
                "{} is lost, with records that nothing else tells of",
                object.path
            )),
        };
        return Ok((at, ranges.iter().map(|_| Err(error())).collect()));
    }
    let is_short = AtomicBool::new(false);
    let get = async |range: Range<u64>| {
        let wanted = range.end - range.start;
        let bytes = shared.store.get_range(&object.path, range).await?;
        if bytes.len() as u64 == wanted {
            return Ok(bytes);
        }
        // An object that was cut off, or the chain is dead and is being collected: a seal, which is shorter, stands in its place.
        is_short.store(true, Ordering::Relaxed);
        Err(cut_off())
    };
    let unreadable = shared.segments.unreadable();
    let away = |error: &StoreError| {
        let error = || Err(BatchLost::Away(format!("{}: {error}", object.path)));
        ranges.iter().map(|_| error()).collect()
    };
    if let Some(error) = unreadable.failed_just_now(object.path.as_ref()) {
        return Ok((at, away(&error)));
    }
    let error = match coalesce_ranges(&ranges, get, OBJECT_STORE_COALESCE_DEFAULT).await {
        Ok(read) => {
            unreadable.forget(object.path.as_ref());
            return Ok((at, read.into_iter().map(Ok).collect()));
        }
        Err(error) => StoreError::from(error),
    };
    // What a store says of a range beyond the end differs; the size does not. One that does not answer is not asked once more.
    let is_silent = error.kind() == StoreErrorKind::Retry && !is_short.into_inner();
    let found = if is_silent { None } else { size_of(shared, &object.path).await };
    let Some(size_bytes) = found.filter(|size_bytes| *size_bytes < object.size_bytes) else {
        unreadable.note(&object.path.to_string().into(), &error);
        return Ok((at, away(&error)));
    };
    if size_bytes == SEAL_BYTES && is_seal(shared, &object.path).await {
        return Err(moved());
    }
    let why = match size_bytes {
        0 => format!("{} is not there", object.path),
        _ => format!("{} has {size_bytes} bytes of {}", object.path, object.size_bytes),
    };
    let mut read = Read::with_capacity(ranges.len());
    for range in ranges {
        read.push(match range.end <= size_bytes {
            true => {
                shared.store.get_range(&object.path, range).await.map_err(|_| BatchLost::Missing(why.clone()))
            }
            false => Err(BatchLost::Missing(why.clone())),
        });
    }
    Ok((at, read))
}

/// What an object has; 0 when it is not there, `None` when the store does not say.
async fn size_of(shared: &Shared, path: &Path) -> Option<u64> {
    match shared.store.head(path).await {
        Ok(meta) => Some(meta.size),
        Err(object_store::Error::NotFound { .. }) => Some(0),
        Err(_) => None,
    }
}

/// Whether a seal stands there, and not what is left of an object with batches.
async fn is_seal(shared: &Shared, path: &Path) -> bool {
    let front = shared.store.get_range(path, 0..HEADER_BYTES as u64).await;
    front.is_ok_and(|front| ObjectHeader::decode(&front).is_ok_and(|header| header.seal))
}

fn cut_off() -> object_store::Error {
    object_store::Error::Generic { store: "chain", source: "the object ends before its batches do".into() }
}
