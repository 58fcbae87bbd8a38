//! Segments: the header, the statistics, the index, every batch, and whether one follows the other.

use kafscale_core::batch::{BatchHeader, batches};
use kafscale_core::ids::{Offset, PartitionId};
use object_store::{GetOptions, GetRange, ObjectStore};

use super::snapshot::Extents;
use super::{Finding, Harm, Scrub, ScrubError};
use crate::disaster::survey::{Object, Segments};
use crate::segment::{Header, ReadLimits, SegmentError, SegmentReader, SegmentRef, last_offset};

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 4 << 20;
const CACHE_BYTES: usize = 16 << 20;
/// A footer of either version.
const END_BYTES: u64 = 64;

/// What one segment turned out to be.
struct Checked {
    findings: Vec<Finding>,
    batches: u64,
    last: Option<Offset>,
}

/// Gives which offsets the segments of each partition reach over.
pub async fn check(scrub: &mut Scrub<'_>, segments: Segments) -> Result<Extents, ScrubError> {
    let mut extents = Extents::new();
    let reader = SegmentReader::new(scrub.store.clone(), ReadLimits::with_cache_bytes(CACHE_BYTES));
    for (id, mut objects) in segments.by_partition {
        objects.sort_by_key(|object| (object.base_offset, object.number));
        let mut expected: Option<Offset> = None;
        for (i, object) in objects.iter().enumerate() {
            let next = objects[i + 1..].iter().map(|o| o.base_offset).find(|base| *base > object.base_offset);
            hole(scrub, id, expected, object);
            if let Some(checked) =
                check_one(&*scrub.store, &reader, id, object, next).await.map_err(|e| scrub.failed(e))?
            {
                scrub.done.batches += checked.batches;
                scrub.done.segments += 1;
                expected = expected
                    .max(checked.last.map(|last| last.plus(1)))
                    .max(next.filter(|_| checked.last.is_none()));
                checked.findings.into_iter().for_each(|finding| scrub.found(finding));
            }
            scrub.object_done(object.size_bytes);
        }
        if let (Some(first), Some(end)) = (objects.first(), expected) {
            extents.insert(id, (first.base_offset, end));
        }
    }
    reader.shutdown().await;
    Ok(extents)
}

/// Segments of a partition follow each other. Leftovers of merges overlap, and do no harm.
fn hole(scrub: &mut Scrub<'_>, id: PartitionId, expected: Option<Offset>, object: &Object) {
    let Some(expected) = expected.filter(|expected| *expected < object.base_offset) else { return };
    let finding = Finding {
        object: object.path.to_string(),
        position: 0,
        topic: Some(scrub.topic(id.topic)),
        partition: Some(id.index),
        offsets: Some((expected, Offset(object.base_offset.0 - 1))),
        why: "no segment has the offsets before it: one is missing".to_owned(),
        harm: Harm::Records,
    };
    scrub.found(finding);
}

/// `None` when it was deleted meanwhile.
async fn check_one(
    store: &dyn ObjectStore,
    reader: &SegmentReader,
    id: PartitionId,
    object: &Object,
    next: Option<Offset>,
) -> Result<Option<Checked>, object_store::Error> {
    let options = GetOptions { range: Some(GetRange::Suffix(END_BYTES)), ..GetOptions::default() };
    let end = match store.get_opts(&object.path, options).await {
        Ok(end) => end.bytes().await?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        // Nothing can be read of an empty object.
        Err(_) if object.size_bytes == 0 => bytes::Bytes::new(),
        Err(e) => return Err(e),
    };
    let stated = last_offset(&end, object.size_bytes);
    // Where the footer is damaged, up to the next segment.
    let last = match (&stated, next) {
        (Ok(last), _) => *last,
        (Err(_), Some(next)) => Offset(next.0 - 1),
        (Err(_), None) => Offset(i64::MAX - 1),
    };
    let segment = SegmentRef {
        path: object.path.as_ref().into(),
        size_bytes: object.size_bytes,
        base_offset: object.base_offset,
        last_offset: last,
    };
    let mut check = Check { segment: &segment, findings: Vec::new(), batches: 0, last: None };
    let is_v1 = end.ends_with(b"END!");
    if !is_v1 {
        let header = reader.header(&segment).await;
        if let Ok(header) = &header
            && (header.partition, header.base_offset) != (id, object.base_offset)
        {
            check.is_another(header, next);
            return Ok(Some(Checked { findings: check.findings, batches: 0, last: None }));
        }
        check.part(header.map(drop), Harm::None);
        check.part(reader.statistics(&segment).await.map(drop), Harm::None);
    }
    check.batches(reader).await;
    for damage in reader.damages().report().places {
        check.note(damage.position, None, damage.why, Harm::None);
    }
    reader.forget(&segment);
    let last = stated.ok().or(check.last);
    Ok(Some(Checked { findings: check.findings, batches: check.batches, last }))
}

struct Check<'a> {
    segment: &'a SegmentRef,
    findings: Vec<Finding>,
    batches: u64,
    /// Of the last batch that was found.
    last: Option<Offset>,
}

impl Check<'_> {
    /// A whole header that is not the one of this name: the segment was put in the place of another one, whose records are not there. A
    /// broker knows the end of what it reads, and gives none of this one's.
    fn is_another(&mut self, header: &Header, next: Option<Offset>) {
        let Header { partition, base_offset, .. } = header;
        let why =
            format!("it is another segment than its name says: of {partition}, from offset {base_offset}");
        let last = next.map_or(Offset(i64::MAX - 1), |next| Offset(next.0 - 1));
        self.note(0, Some((self.segment.base_offset, last)), why, Harm::Records);
    }

    /// A part that readers of records do without.
    fn part(&mut self, read: Result<(), SegmentError>, harm: Harm) {
        match read {
            Err(SegmentError::Corrupt { position, why, .. }) => self.note(position, None, why, harm),
            Err(SegmentError::Store(e)) => self.note(0, None, e.to_string(), Harm::Records),
            Ok(()) => {}
        }
    }

    /// Every batch, as a consumer reads that goes past what is damaged.
    async fn batches(&mut self, reader: &SegmentReader) {
        let mut from = self.segment.base_offset;
        while from <= self.segment.last_offset {
            match reader.read(self.segment, from, PIECE_BYTES, true).await {
                Ok(read) => {
                    self.piece(&read.chunks.concat());
                    from = read.next;
                }
                Err(SegmentError::Corrupt { position, first, last, why, .. }) => {
                    self.note(position, Some((first.max(from), last)), why, Harm::Records);
                    from = last.plus(1);
                }
                Err(SegmentError::Store(e)) => {
                    let offsets = Some((from, self.segment.last_offset));
                    return self.note(0, offsets, format!("it cannot be read: {e}"), Harm::Records);
                }
            }
        }
    }

    /// The checksums of groups matched; those of the batches themselves are what clients compare.
    fn piece(&mut self, piece: &[u8]) {
        for (at, header) in batches(piece).map_while(Result::ok) {
            self.batches += 1;
            self.last = Some(header.last_offset());
            if !BatchHeader::crc_matches(&header, &piece[at..]) {
                let offsets = Some((header.base_offset, header.last_offset()));
                self.note(
                    0,
                    offsets,
                    "a batch does not match its CRC32C, although its group does".to_owned(),
                    Harm::Records,
                );
            }
        }
    }

    fn note(&mut self, position: u64, offsets: Option<(Offset, Offset)>, why: String, harm: Harm) {
        let (topic, partition) = crate::segment::owner_in(&self.segment.path);
        let finding = Finding {
            object: self.segment.path.to_string(),
            position,
            topic: Some(topic.to_owned()),
            partition: Some(partition),
            offsets,
            why,
            harm,
        };
        if !self
            .findings
            .iter()
            .any(|f| f.position == finding.position && f.why == finding.why && f.offsets == finding.offsets)
        {
            self.findings.push(finding);
        }
    }
}
