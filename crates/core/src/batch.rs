//! The v2 record batch (magic 2, KIP-98): its header, and the checks that everything passes before it is stored.
//!
//! The base offset and the partition leader epoch stand outside the batch's CRC, so the broker writes them in
//! place and stores the rest exactly as the producer sent it, still compressed. Where a topic's `compression.type`
//! names another codec than the batch has, its records are compressed anew, and nothing else of it changes.

use bytes::{Bytes, BytesMut};

use crate::compress::{CompressError, Compression};
use crate::crc;
use crate::ids::{LeaderEpoch, Offset, ProducerId};
use crate::producer::{Sequence, sequence_after};
use crate::records::{self, RecordSummary, RecordsError, WalkLimit};
use crate::times::Times;

const LENGTH_AT: usize = 8;
const EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const RECORDS_COUNT_AT: usize = 57;

const LOG_APPEND_TIME: i16 = 0b1000;
const TRANSACTIONAL: i16 = 0b1_0000;
const CONTROL: i16 = 0b10_0000;
const DELETE_HORIZON: i16 = 0b100_0000;
const CODEC: i16 = 0b111;

/// No timestamp (`RecordBatch.NO_TIMESTAMP`).
pub const NO_TIMESTAMP: i64 = -1;

/// The compression of a batch, bits 0 to 2 of its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
    /// The codec as bits of a batch's attributes.
    fn attribute(self) -> i16 {
        match self {
            Codec::None => 0,
            Codec::Gzip => 1,
            Codec::Snappy => 2,
            Codec::Lz4 => 3,
            Codec::Zstd => 4,
        }
    }
}

/// Where a record's timestamp comes from (`message.timestamp.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// The 61 bytes before the records. Integers on the wire are big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: Offset,
    /// The whole batch, the first 12 bytes included.
    pub size_bytes: usize,
    pub leader_epoch: LeaderEpoch,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp_ms: i64,
    pub max_timestamp_ms: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub records_count: i32,
}

/// Why bytes are not a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("the batch is cut off: {have} bytes of {need}")]
    Truncated { have: usize, need: usize },
    #[error("the batch states an impossible length of {0}")]
    Length(i32),
    #[error("message format {0} is not supported, only 2 is")]
    Magic(i8),
    #[error("compression codec {0} is not known")]
    Codec(i16),
}

fn i16_at(b: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(b[at..at + 2].try_into().expect("two bytes"))
}

fn i32_at(b: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

fn i64_at(b: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}

impl BatchHeader {
    /// Size of the header, and so of the smallest batch.
    pub const SIZE_BYTES: usize = 61;
    /// The base offset and the length, which the stated length does not count.
    pub const PREFIX_BYTES: usize = 12;
    /// Where the CRC32C stands of everything that comes after it.
    pub const CRC: std::ops::Range<usize> = CRC_AT..ATTRIBUTES_AT;

    /// Reads the header of the batch at the start of `bytes`, which must hold the whole batch.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, HeaderError> {
        let header = Self::parse_prefix(bytes)?;
        if bytes.len() < header.size_bytes {
            return Err(HeaderError::Truncated { have: bytes.len(), need: header.size_bytes });
        }
        Ok(header)
    }

    /// Reads the header from its own 61 bytes; the records may be missing.
    pub fn parse_prefix(bytes: &[u8]) -> Result<BatchHeader, HeaderError> {
        if bytes.len() <= MAGIC_AT {
            return Err(HeaderError::Truncated { have: bytes.len(), need: Self::SIZE_BYTES });
        }
        if bytes[MAGIC_AT] != 2 {
            return Err(HeaderError::Magic(bytes[MAGIC_AT] as i8));
        }
        if bytes.len() < Self::SIZE_BYTES {
            return Err(HeaderError::Truncated { have: bytes.len(), need: Self::SIZE_BYTES });
        }
        let length = i32_at(bytes, LENGTH_AT);
        if length < (Self::SIZE_BYTES - Self::PREFIX_BYTES) as i32 {
            return Err(HeaderError::Length(length));
        }
        let header = BatchHeader {
            base_offset: Offset(i64_at(bytes, 0)),
            size_bytes: length as usize + Self::PREFIX_BYTES,
            leader_epoch: LeaderEpoch(i32_at(bytes, EPOCH_AT)),
            crc: i32_at(bytes, CRC_AT) as u32,
            attributes: i16_at(bytes, ATTRIBUTES_AT),
            last_offset_delta: i32_at(bytes, LAST_OFFSET_DELTA_AT),
            base_timestamp_ms: i64_at(bytes, BASE_TIMESTAMP_AT),
            max_timestamp_ms: i64_at(bytes, MAX_TIMESTAMP_AT),
            producer_id: i64_at(bytes, 43),
            producer_epoch: i16_at(bytes, 51),
            base_sequence: i32_at(bytes, 53),
            records_count: i32_at(bytes, RECORDS_COUNT_AT),
        };
        match header.attributes & CODEC {
            0..=4 => Ok(header),
            codec => Err(HeaderError::Codec(codec)),
        }
    }

    pub fn codec(&self) -> Codec {
        match self.attributes & CODEC {
            0 => Codec::None,
            1 => Codec::Gzip,
            2 => Codec::Snappy,
            3 => Codec::Lz4,
            4 => Codec::Zstd,
            other => unreachable!("parse refused codec {other}"),
        }
    }

    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// When the tombstones of a compacted batch may go (KIP-534). The base timestamp's field holds it.
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp_ms)
    }

    /// This batch, `batch`, with other records: `body`, compressed as it was, with deltas relative to the same base
    /// offset and to the base timestamp, or to the delete horizon where one is given.
    pub fn with_records(
        &self,
        batch: &[u8],
        body: &[u8],
        records_count: i32,
        max_timestamp_ms: i64,
        delete_horizon_ms: Option<i64>,
    ) -> Bytes {
        let mut out = Vec::with_capacity(Self::SIZE_BYTES + body.len());
        out.extend_from_slice(&batch[..Self::SIZE_BYTES]);
        out.extend_from_slice(body);
        let mut put = |at: usize, field: &[u8]| out[at..at + field.len()].copy_from_slice(field);
        let length = i32::try_from(Self::SIZE_BYTES - Self::PREFIX_BYTES + body.len());
        put(LENGTH_AT, &length.expect("records are limited to less").to_be_bytes());
        if let Some(horizon_ms) = delete_horizon_ms {
            put(ATTRIBUTES_AT, &(self.attributes | DELETE_HORIZON).to_be_bytes());
            put(BASE_TIMESTAMP_AT, &horizon_ms.to_be_bytes());
        }
        put(MAX_TIMESTAMP_AT, &max_timestamp_ms.to_be_bytes());
        put(RECORDS_COUNT_AT, &records_count.to_be_bytes());
        let crc = crc::crc32c(&out[ATTRIBUTES_AT..]);
        out[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        out.into()
    }

    /// `batch`, ending at another offset.
    pub fn with_last_offset(&self, batch: &[u8], last: Offset) -> Bytes {
        let delta =
            i32::try_from(last.0.saturating_sub(self.base_offset.0)).unwrap_or(self.last_offset_delta);
        let mut out = batch.to_vec();
        out[LAST_OFFSET_DELTA_AT..LAST_OFFSET_DELTA_AT + 4].copy_from_slice(&delta.to_be_bytes());
        let crc = crc::crc32c(&out[ATTRIBUTES_AT..]);
        out[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        out.into()
    }

    pub fn last_offset(&self) -> Offset {
        // Saturating: bytes that nobody checked yet may state any offset.
        Offset(self.base_offset.0.saturating_add(self.last_offset_delta.into()))
    }

    /// The sequence numbers of a batch from an idempotent producer.
    pub fn sequence(&self) -> Option<Sequence> {
        (self.producer_id >= 0).then(|| Sequence {
            producer_id: ProducerId(self.producer_id),
            epoch: self.producer_epoch,
            first: self.base_sequence,
            last: sequence_after(self.base_sequence, self.last_offset_delta),
        })
    }

    /// Whether the CRC32C over everything from the attributes on is right.
    pub fn crc_matches(&self, batch: &[u8]) -> bool {
        crc::crc32c(&batch[ATTRIBUTES_AT..self.size_bytes]) == self.crc
    }
}

/// What a topic's configuration demands of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRules {
    /// `max.message.bytes`: the largest batch, compressed, header included.
    pub max_message_bytes: usize,
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`
    pub timestamp_after_max_ms: i64,
    /// A compacted topic cannot hold a record without a key.
    pub key_required: bool,
    /// `compression.type`; `None` keeps what the producer chose.
    pub compression: Option<Compression>,
}

impl BatchRules {
    /// Whether the records of a batch with this header are to be compressed anew. That takes a processor for milliseconds,
    /// as decompressing does: [`ValidBatch::check`] is then called where it keeps no other work waiting.
    pub fn recompression(&self, header: &BatchHeader) -> Option<Compression> {
        self.compression.filter(|compression| compression.codec != header.codec())
    }
}

/// Why a batch is not stored. The edge turns each kind into its Kafka error code.
#[derive(Debug, thiserror::Error)]
pub enum BatchRejection {
    #[error("the batch is damaged: {0}")]
    Corrupt(String),
    #[error("the batch holds {size} bytes, the topic's max.message.bytes is {max}")]
    TooLarge { size: usize, max: usize },
    #[error(
        "compressed as the topic's compression.type asks, the batch exceeds the topic's max.message.bytes of {max}"
    )]
    RecompressedTooLarge { max: usize },
    #[error("{0}")]
    InvalidBatch(String),
    #[error("transactions are not supported yet")]
    Transactional,
    /// The timestamp type is the broker's to set.
    #[error("{0}")]
    InvalidTimestampType(String),
    #[error("{0}")]
    InvalidRecords(BadRecords),
}

/// What is wrong with one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("its offset delta is {found}, expected {expected}")]
    OffsetDelta { found: i64, expected: i32 },
    #[error("a compacted topic cannot take a record without a key")]
    NoKey,
    #[error("its timestamp {0} is out of the range that the topic accepts")]
    Timestamp(i64),
}

/// The records for which a batch is refused (KIP-467). A client may send the others again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecords {
    /// By their place in the batch, in order; the first ones only, if there are many.
    pub named: Vec<(i32, RecordFault)>,
    pub count: usize,
    /// At least one has an unacceptable timestamp.
    pub by_timestamp: bool,
}

impl std::fmt::Display for BadRecords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 3;
        if let [(index, fault)] = self.named[..]
            && self.count == 1
        {
            return write!(f, "record {index}: {fault}");
        }
        write!(f, "{} records are refused, the first are:", self.count)?;
        for (i, (index, fault)) in self.named.iter().take(SHOWN).enumerate() {
            write!(f, "{} record {index}: {fault}", if i == 0 { "" } else { ";" })?;
        }
        Ok(())
    }
}

/// So many bad records of a batch are named, and one more for each of so many of its bytes: a small batch can inflate to millions of
/// records, and the answer must not be much larger than the request.
const NAMED_MIN: usize = 100;
const BYTES_PER_NAMED: usize = 8;

impl BadRecords {
    fn new() -> BadRecords {
        BadRecords { named: Vec::new(), count: 0, by_timestamp: false }
    }

    #[cold]
    fn add(&mut self, index: i32, fault: RecordFault, batch_bytes: usize) {
        self.count += 1;
        self.by_timestamp |= matches!(fault, RecordFault::Timestamp(_));
        if self.named.len() < NAMED_MIN + batch_bytes / BYTES_PER_NAMED {
            self.named.push((index, fault));
        }
    }
}

/// One batch that passed every check, not yet placed in a log.
#[derive(Debug)]
pub struct ValidBatch {
    bytes: BytesMut,
    header: BatchHeader,
    timestamp_type: TimestampType,
    times: Times,
    inflated_bytes: u64,
}

/// Compressing takes several times as long as inflating: no batch is compressed within a lower limit.
const COMPRESS_MIN_BYTES: u64 = 1 << 20;

/// What a check came to that may only take so long.
#[derive(Debug)]
pub enum Checked {
    Valid(ValidBatch),
    /// The limit is too low for this batch, which is given back as it was.
    NotWithin(BytesMut),
}

/// A batch as the log holds it.
#[derive(Debug, Clone)]
pub struct PlacedBatch {
    pub bytes: Bytes,
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub max_timestamp_ms: i64,
    /// `None` where the records were not looked at.
    pub times: Option<Times>,
    pub records_count: i32,
    pub sequence: Option<Sequence>,
}

impl ValidBatch {
    /// Checks the one batch that a producer sent for a partition.
    ///
    /// The rules are those of Apache Kafka's `LogValidator` and `ProduceRequest.validateRecords`: exactly one batch,
    /// magic 2, CRC32C, counts that agree, offset deltas 0, 1, 2, …, no control batches, timestamps in bounds.
    ///
    /// It may take long: a few kilobytes can inflate to [`records::DECOMPRESSED_MAX_BYTES`].
    pub fn check(bytes: BytesMut, rules: &BatchRules, now_ms: i64) -> Result<ValidBatch, BatchRejection> {
        let header = parse_only(&bytes, rules)?;
        let records = check_contents(&header, &bytes, rules, now_ms, records::DECOMPRESSED_MAX_BYTES)?;
        ValidBatch::new(bytes, header, rules, records?)
    }

    /// As [`check`](Self::check), but gives a batch back that is beyond the limit.
    pub fn check_within(
        bytes: BytesMut,
        rules: &BatchRules,
        now_ms: i64,
        limit: WalkLimit,
    ) -> Result<Checked, BatchRejection> {
        let header = parse_only(&bytes, rules)?;
        // Of the bytes that are to be compressed, if any.
        let may_compress = |bytes: u64| {
            rules.recompression(&header).is_none_or(|compression| {
                limit.inflated_bytes >= COMPRESS_MIN_BYTES
                    && bytes.saturating_mul(compression.weight()) <= limit.inflated_bytes
            })
        };
        if limit.is_exceeded_by(&header) || !may_compress(header.size_bytes as u64) {
            return Ok(Checked::NotWithin(bytes));
        }
        match check_contents(&header, &bytes, rules, now_ms, limit.inflated_bytes)? {
            Ok(records) if may_compress(records.inflated_bytes) => {
                ValidBatch::new(bytes, header, rules, records).map(Checked::Valid)
            }
            Ok(_) | Err(_) => Ok(Checked::NotWithin(bytes)),
        }
    }

    /// Of a batch that was checked. It is compressed anew where the topic asks for it.
    fn new(
        bytes: BytesMut,
        header: BatchHeader,
        rules: &BatchRules,
        records: CheckedRecords,
    ) -> Result<ValidBatch, BatchRejection> {
        let CheckedRecords { times, inflated_bytes } = records;
        let (bytes, header) = match rules.recompression(&header) {
            None => (bytes, header),
            Some(compression) => recompress(&header, &bytes, compression, rules.max_message_bytes)?,
        };
        Ok(ValidBatch { bytes, header, timestamp_type: rules.timestamp_type, times, inflated_bytes })
    }

    /// The bytes of the records, decompressed.
    pub fn inflated_bytes(&self) -> u64 {
        self.inflated_bytes
    }

    /// What is left of a limit after this batch was checked.
    pub fn left_of(&self, limit: WalkLimit) -> WalkLimit {
        let factor = if self.header.codec() == Codec::None { records::PLAIN_FACTOR } else { 1 };
        WalkLimit {
            inflated_bytes: limit.inflated_bytes.saturating_sub(self.inflated_bytes / factor),
            records: limit.records - self.header.records_count,
        }
    }

    pub fn records_count(&self) -> i32 {
        self.header.records_count
    }

    pub fn size_bytes(&self) -> usize {
        self.header.size_bytes
    }

    pub fn sequence(&self) -> Option<Sequence> {
        self.header.sequence()
    }

    /// Writes the offset, the epoch and, where the topic asks for it, the time of the append into the batch.
    pub fn place(mut self, base_offset: Offset, leader_epoch: LeaderEpoch, now_ms: i64) -> PlacedBatch {
        self.bytes[0..8].copy_from_slice(&base_offset.0.to_be_bytes());
        self.bytes[EPOCH_AT..EPOCH_AT + 4].copy_from_slice(&leader_epoch.0.to_be_bytes());
        let (attributes, times) = match self.timestamp_type {
            TimestampType::CreateTime => (self.header.attributes, self.times),
            TimestampType::LogAppendTime => (self.header.attributes | LOG_APPEND_TIME, Times::one(now_ms)),
        };
        let max_timestamp_ms = times.max_ms;
        if (attributes, max_timestamp_ms) != (self.header.attributes, self.header.max_timestamp_ms) {
            self.bytes[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
            self.bytes[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8]
                .copy_from_slice(&max_timestamp_ms.to_be_bytes());
            let crc = crc::crc32c(&self.bytes[ATTRIBUTES_AT..]);
            self.bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        }
        PlacedBatch {
            bytes: self.bytes.freeze(),
            base_offset,
            last_offset: base_offset.plus(i64::from(self.header.last_offset_delta)),
            leader_epoch,
            max_timestamp_ms,
            times: Some(times),
            records_count: self.header.records_count,
            sequence: self.header.sequence(),
        }
    }
}

impl PlacedBatch {
    /// Takes a batch that was read back from a log; it was checked when it was written.
    pub fn from_log(bytes: Bytes) -> Result<PlacedBatch, HeaderError> {
        let header = BatchHeader::parse(&bytes)?;
        Ok(PlacedBatch {
            bytes: bytes.slice(..header.size_bytes),
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            leader_epoch: header.leader_epoch,
            max_timestamp_ms: header.max_timestamp_ms,
            times: None,
            records_count: header.records_count,
            sequence: header.sequence(),
        })
    }
}

/// Walks the batches that stand one after the other in `bytes`, with the position of each. Ends at the first
/// thing that is not a whole batch, which it gives as an error.
pub fn batches(bytes: &[u8]) -> impl Iterator<Item = Result<(usize, BatchHeader), HeaderError>> + '_ {
    let (mut at, mut failed) = (0, false);
    std::iter::from_fn(move || {
        if failed || at >= bytes.len() {
            return None;
        }
        let parsed = BatchHeader::parse(&bytes[at..]).map(|header| (at, header));
        match &parsed {
            Ok((_, header)) => at += header.size_bytes,
            Err(_) => failed = true,
        }
        Some(parsed)
    })
}

fn check_header(header: &BatchHeader, rules: &BatchRules) -> Result<(), BatchRejection> {
    let invalid = |why: String| Err(BatchRejection::InvalidBatch(why));
    if header.records_count <= 0 {
        return invalid(format!(
            "a batch holds at least one record, this one states {}",
            header.records_count
        ));
    }
    if i64::from(header.last_offset_delta) + 1 != i64::from(header.records_count) {
        let (delta, count) = (header.last_offset_delta, header.records_count);
        return invalid(format!("the last offset delta {delta} does not fit the record count {count}"));
    }
    if header.is_control() {
        return invalid("clients are not allowed to write control records".into());
    }
    if header.is_transactional() {
        return Err(BatchRejection::Transactional);
    }
    if header.producer_id >= 0 && (header.base_sequence < 0 || header.producer_epoch < 0) {
        let (sequence, epoch) = (header.base_sequence, header.producer_epoch);
        return invalid(format!(
            "sequence {sequence} or epoch {epoch} of an idempotent producer is negative"
        ));
    }
    if header.is_log_append_time() && rules.timestamp_type == TimestampType::CreateTime {
        let message = "the producer set the timestamp type to LogAppendTime, which is the broker's to set";
        return Err(BatchRejection::InvalidTimestampType(message.into()));
    }
    Ok(())
}

/// The batch with its records compressed by another codec. Its offsets, timestamps, producer and record headers stay.
fn recompress(
    header: &BatchHeader,
    batch: &[u8],
    compression: Compression,
    max_bytes: usize,
) -> Result<(BytesMut, BatchHeader), BatchRejection> {
    let unreadable = |error: RecordsError| BatchRejection::Corrupt(error.to_string());
    let records = records::stream(header, batch).map_err(unreadable)?;
    let body_max = max_bytes.saturating_sub(BatchHeader::SIZE_BYTES);
    let body = compression.compress(records, body_max).map_err(|error| match error {
        CompressError::TooLarge(_) => BatchRejection::RecompressedTooLarge { max: max_bytes },
        CompressError::Io(error) => BatchRejection::Corrupt(error.to_string()),
    })?;
    let mut out = BytesMut::with_capacity(BatchHeader::SIZE_BYTES + body.len());
    out.extend_from_slice(&batch[..BatchHeader::SIZE_BYTES]);
    out.extend_from_slice(&body);
    let length = i32::try_from(out.len() - BatchHeader::PREFIX_BYTES);
    let length = length.expect("check_records refused what inflates to more").to_be_bytes();
    out[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length);
    let attributes = (header.attributes & !CODEC) | compression.codec.attribute();
    out[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    let crc = crc::crc32c(&out[ATTRIBUTES_AT..]);
    out[BatchHeader::CRC].copy_from_slice(&crc.to_be_bytes());
    let header = BatchHeader { size_bytes: out.len(), attributes, crc, ..*header };
    Ok((out, header))
}

/// The header of the one batch that `bytes` are.
fn parse_only(bytes: &[u8], rules: &BatchRules) -> Result<BatchHeader, BatchRejection> {
    let header = BatchHeader::parse(bytes).map_err(|e| match e {
        HeaderError::Magic(_) => BatchRejection::InvalidBatch(e.to_string()),
        HeaderError::Truncated { .. } | HeaderError::Length(_) | HeaderError::Codec(_) => {
            BatchRejection::Corrupt(e.to_string())
        }
    })?;
    if bytes.len() > header.size_bytes {
        let why = "a produce request holds exactly one record batch per partition";
        return Err(BatchRejection::InvalidBatch(why.into()));
    }
    if header.size_bytes > rules.max_message_bytes {
        return Err(BatchRejection::TooLarge { size: header.size_bytes, max: rules.max_message_bytes });
    }
    Ok(header)
}

/// The records inflate to more than the check may take.
struct NotWithin(RecordsError);

impl From<NotWithin> for BatchRejection {
    fn from(NotWithin(error): NotWithin) -> BatchRejection {
        BatchRejection::InvalidBatch(error.to_string())
    }
}

/// What the records told.
struct CheckedRecords {
    times: Times,
    inflated_bytes: u64,
}

fn check_contents(
    header: &BatchHeader,
    batch: &[u8],
    rules: &BatchRules,
    now_ms: i64,
    limit_bytes: u64,
) -> Result<Result<CheckedRecords, NotWithin>, BatchRejection> {
    if !header.crc_matches(batch) {
        return Err(BatchRejection::Corrupt("its CRC32C does not match its contents".into()));
    }
    check_header(header, rules)?;
    check_records(header, batch, rules, now_ms, limit_bytes)
}

/// Checks every record.
fn check_records(
    header: &BatchHeader,
    batch: &[u8],
    rules: &BatchRules,
    now_ms: i64,
    limit_bytes: u64,
) -> Result<Result<CheckedRecords, NotWithin>, BatchRejection> {
    let (mut times, mut bad) = (None, BadRecords::new());
    let walked = records::walk_within(header, batch, limit_bytes, |index, record| {
        let timestamp_ms = header.base_timestamp_ms.saturating_add(record.timestamp_delta);
        let one = Times::one(timestamp_ms);
        times = Some(times.map_or(one, |before: Times| before.then(one)));
        if let Err(fault) = check_record(index, record, timestamp_ms, rules, now_ms) {
            bad.add(index, fault, batch.len());
        }
        true
    });
    match walked {
        Ok(inflated_bytes) if bad.count == 0 => {
            let times = times.unwrap_or(Times::one(NO_TIMESTAMP)).stated(NO_TIMESTAMP);
            Ok(Ok(CheckedRecords { times, inflated_bytes }))
        }
        Ok(_) => Err(BatchRejection::InvalidRecords(bad)),
        // What stands behind it cannot be looked at.
        Err(RecordsError::Malformed { index, why }) => {
            bad.add(index, RecordFault::Malformed(why), batch.len());
            Err(BatchRejection::InvalidRecords(bad))
        }
        Err(e @ RecordsError::Decompress(_)) => Err(BatchRejection::Corrupt(e.to_string())),
        Err(e @ RecordsError::TrailingBytes(_)) => Err(BatchRejection::InvalidBatch(e.to_string())),
        Err(e @ RecordsError::TooLarge { .. }) => Ok(Err(NotWithin(e))),
    }
}

fn check_record(
    index: i32,
    record: RecordSummary,
    timestamp_ms: i64,
    rules: &BatchRules,
    now_ms: i64,
) -> Result<(), RecordFault> {
    if record.offset_delta != i64::from(index) {
        return Err(RecordFault::OffsetDelta { found: record.offset_delta, expected: index });
    }
    if rules.key_required && !record.has_key {
        return Err(RecordFault::NoKey);
    }
    if rules.timestamp_type == TimestampType::CreateTime && timestamp_ms != NO_TIMESTAMP {
        let early = now_ms.saturating_sub(timestamp_ms) > rules.timestamp_before_max_ms;
        let late = timestamp_ms.saturating_sub(now_ms) > rules.timestamp_after_max_ms;
        if early || late {
            return Err(RecordFault::Timestamp(timestamp_ms));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
