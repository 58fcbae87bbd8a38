//! Objects that go bad in the store: bits that flip, stretches of zeros, ends that are cut off, objects that vanish.
//!
//! What is damaged is known to the batch: an object is looked through before, and the records with whose batches the damage has bytes
//! in common go into the history. Only those may be unreadable.
//!
//! What cannot be demanded of anybody is not done:
//! - an object is damaged once. With two damages in a segment, what the one leaves may be found only by what the other has taken;
//! - an object of the write-ahead log is damaged only when a later one of its chain says that it was acknowledged. Without that nobody
//!   can tell it from one that was still under way;
//! - it is never cut to nothing, which is how a person says that its records are given up.
//!
//! An object of the write-ahead log whose end, beginning or whole is damaged keeps partitions from being served. It is put back from a
//! copy when all is made well; half of the segments are put back before the processes start anew.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kafscale_core::batch::BatchHeader;
use object_store::path::Path;
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::client::records::decode;
use crate::history::{Event, Value};
use crate::rng::Rng;
use crate::store::Bucket;
use crate::world::Surroundings;

/// Of segments, of objects of the write-ahead log, and the footer of a segment (docs/format.md).
const HEADER_BYTES: usize = 64;
/// An object of the write-ahead log without batches is as large: a seal.
const SEAL_BYTES: usize = 96;
/// Where the header of an object of the write-ahead log says how large its body is, and up to where its chain was acknowledged.
const BODY_BYTES_AT: usize = 40;
const DURABLE_BELOW_AT: usize = 48;
/// How large the copy of the index is that stands before the batches.
const COPY_BYTES_AT: usize = 56;

/// When an object is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mending {
    Heals,
    BeginsAnew,
    Never,
}

/// An object that was damaged.
#[derive(Debug)]
struct Spoiled {
    whole: Bytes,
    /// What is there instead; `None` when nothing is.
    left: Option<Bytes>,
    records: Vec<(i64, Value)>,
    mending: Mending,
    /// Whether what holds its records is not rewritten before it is put back, so that all are readable then.
    keeps: bool,
}

/// All objects that were damaged.
#[derive(Debug, Clone, Default)]
pub struct Damages(Arc<Mutex<BTreeMap<Path, Spoiled>>>);

impl Damages {
    /// Puts back what is put back at this time, where nobody has put something else in its place.
    pub fn mend(&self, around: &Surroundings, mending: Mending) {
        for (path, spoiled) in self.0.lock().iter().filter(|(_, spoiled)| spoiled.mending == mending) {
            if around.bucket.peek(path) == spoiled.left {
                around.bucket.tamper(path, Some(spoiled.whole.clone()));
            }
            if spoiled.keeps {
                let (object, records) = (path.to_string(), spoiled.records.clone());
                around.history.note(Event::Mended { object, records });
            }
        }
    }

    fn is_spoiled(&self, path: &Path) -> bool {
        self.0.lock().contains_key(path)
    }
}

/// Damages objects again and again.
pub async fn run(around: &Surroundings, mut rng: Rng) {
    loop {
        sleep(rng.ms(500, 5000)).await;
        let is_segment = rng.per_mille(500);
        let objects = candidates(around, is_segment);
        if objects.is_empty() {
            continue;
        }
        let path = rng.pick(&objects);
        let whole = around.bucket.peek(path).expect("it was just listed");
        if let Some(object) = Object::of(is_segment, whole) {
            spoil(around, &mut rng, path, object);
        }
    }
}

/// Objects of a kind that may be damaged.
fn candidates(around: &Surroundings, is_segment: bool) -> Vec<Path> {
    let prefix = Path::from(if is_segment { "topics" } else { "wal" });
    let listed = around.bucket.list(Some(&prefix)).expect("the store in memory lists");
    let mut sound: Vec<Path> = listed
        .into_iter()
        .filter(|object| !is_segment || object.location.as_ref().ends_with(".kfs"))
        .map(|object| object.location)
        .filter(|path| !around.damages.is_spoiled(path))
        .collect();
    sound.sort();
    if is_segment {
        return sound;
    }
    let acknowledged = acknowledged_below(&around.bucket, &sound);
    let is_acknowledged = |path: &Path| {
        let (chain, seq) = chain_and_seq(path)?;
        Some(seq < *acknowledged.get(chain)?)
    };
    sound.retain(|path| is_acknowledged(path) == Some(true));
    sound
}

fn chain_and_seq(path: &Path) -> Option<(&str, u64)> {
    let (chain, seq) = path.as_ref().rsplit_once('/')?;
    Some((chain, seq.parse().ok()?))
}

/// By chain, below which number its objects say that everything was acknowledged.
fn acknowledged_below(bucket: &Bucket, sound: &[Path]) -> BTreeMap<String, u64> {
    let mut below = BTreeMap::new();
    for path in sound {
        let Some((chain, _)) = chain_and_seq(path) else { continue };
        let bytes = bucket.peek(path).unwrap_or_default();
        let said = if bytes.len() > SEAL_BYTES { number_at(&bytes, DURABLE_BELOW_AT) } else { 0 };
        let most: &mut u64 = below.entry(chain.to_owned()).or_default();
        *most = said.max(*most);
    }
    below
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |field| u64::from_be_bytes(field.try_into().expect("eight bytes")))
}

/// Where a batch stands in its object, and its records with their offsets.
type Batch = (Range<usize>, Vec<(i64, Value)>);

/// A sound object.
struct Object {
    is_segment: bool,
    whole: Bytes,
    body: Range<usize>,
    batches: Vec<Batch>,
}

impl Object {
    /// `None` when it is not sound, as a segment that has a damaged batch of the write-ahead log, or has nothing to damage.
    fn of(is_segment: bool, whole: Bytes) -> Option<Object> {
        let footer_at = whole.len().checked_sub(HEADER_BYTES)?;
        let body_end = match is_segment {
            // The footer begins with where the batches end.
            true => number_at(&whole, footer_at) as usize,
            false => HEADER_BYTES + number_at(&whole, BODY_BYTES_AT) as usize,
        };
        let copy_bytes = if is_segment { 0 } else { (number_at(&whole, COPY_BYTES_AT) >> 32) as usize };
        let (begin, mut batches) = (HEADER_BYTES + copy_bytes, Vec::new());
        let mut at = begin;
        while at < body_end {
            let bytes = whole.slice(at..);
            let header = BatchHeader::parse(&bytes).ok().filter(|header| header.crc_matches(&bytes))?;
            let records = decode(bytes.slice(..header.size_bytes), 0).ok()?;
            batches.push((at..at + header.size_bytes, records));
            at += header.size_bytes;
        }
        (at == body_end && !batches.is_empty()).then_some(Object {
            is_segment,
            whole,
            body: begin..body_end,
            batches,
        })
    }

    /// The records of the batches that have bytes in a range.
    fn records_in(&self, range: &Range<usize>) -> Vec<(i64, Value)> {
        let touched = |batch: &Range<usize>| batch.start < range.end && range.start < batch.end;
        let batches = self.batches.iter().filter(|(at, _)| touched(at));
        batches.flat_map(|(_, records)| records.clone()).collect()
    }
}

/// Damages an object in one of the ways.
fn spoil(around: &Surroundings, rng: &mut Rng, path: &Path, object: Object) {
    let len = object.whole.len();
    let mut bytes = object.whole.to_vec();
    let (how, range, left) = match rng.below(4) {
        0 => {
            let at = rng.below(len as u64) as usize;
            bytes[at] ^= 1 << rng.below(8);
            ("a bit flipped", at..at + 1, Some(bytes))
        }
        1 => {
            let from = rng.below(len as u64) as usize;
            let to = len.min(from + *rng.pick(&[8, 64, 512, 4096]));
            bytes[from..to].fill(0);
            ("zeros", from..to, Some(bytes))
        }
        2 => {
            // As large as a seal is what stands for one: it tells readers that the records have moved.
            let keep = rng.between(1, len as u64 - 1) as usize;
            let keep = if keep == SEAL_BYTES { keep - 1 } else { keep };
            bytes.truncate(keep);
            ("cut off", keep..len, Some(bytes))
        }
        _ => ("missing", 0..len, None),
    };
    let records = object.records_in(&range);
    let is_short = matches!(how, "cut off" | "missing");
    let is_in_body = range.start >= object.body.start && range.end <= object.body.end;
    let (mending, keeps) = match object.is_segment {
        true if rng.per_mille(500) => (Mending::BeginsAnew, true),
        true => (Mending::Never, false),
        // A damaged batch is rewritten as it is; one that is not there is waited for.
        false if is_short || !is_in_body => (Mending::Heals, is_short),
        false => (Mending::Never, false),
    };
    around.faults.count(if object.is_segment { "damaged segment" } else { "damaged chain object" });
    around.history.note(Event::Nemesis { what: format!("{path}: {how} at {range:?} of {len}") });
    around.history.note(Event::Damaged { object: path.to_string(), records: records.clone() });
    let left = left.map(Bytes::from);
    around.bucket.tamper(path, left.clone());
    let spoiled = Spoiled { whole: object.whole, left, records, mending, keeps };
    around.damages.0.lock().insert(path.clone(), spoiled);
}
