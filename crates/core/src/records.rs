//! The records inside a v2 batch: a bounded, streaming walk, through any codec, that never holds a whole batch
//! decompressed. See "Record" in the Kafka protocol documentation and KIP-98.
//!
//! Only what the broker must know is looked at: lengths, deltas, whether a key is there. Keys, values and headers
//! are skipped over.

use std::io::{self, BufRead, BufReader, Read};

use crate::batch::{BatchHeader, Codec};
use crate::ids::Offset;

/// A batch that inflates to more than this is refused: the producer's own limits are far below it, a
/// decompression bomb's are not.
pub const DECOMPRESSED_MAX_BYTES: u64 = 256 << 20;

/// Uncompressed records are walked several times as fast as compressed ones are inflated.
pub const PLAIN_FACTOR: u64 = 8;

/// How far a walk through the records of a batch may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalkLimit {
    /// Of compressed records; uncompressed ones may have [`PLAIN_FACTOR`] times as many bytes.
    pub inflated_bytes: u64,
    pub records: i32,
}

impl WalkLimit {
    /// Every batch that is accepted is within it.
    pub const FULL: WalkLimit = WalkLimit { inflated_bytes: DECOMPRESSED_MAX_BYTES, records: i32::MAX };

    /// Whether the header alone says that the batch is beyond the limit.
    pub fn is_exceeded_by(self, header: &BatchHeader) -> bool {
        let factor = if header.codec() == Codec::None { PLAIN_FACTOR } else { 1 };
        header.size_bytes as u64 > self.inflated_bytes.saturating_mul(factor)
            || header.records_count > self.records
    }
}

/// LZ4 before its frame format; blocks are of 8 MiB.
const LZ4_LEGACY_MAGIC: &[u8] = &0x184c_2102u32.to_le_bytes();

/// The largest single block of the Snappy format that is accepted; snappy-java writes blocks of 32 KiB.
const SNAPPY_BLOCK_MAX_BYTES: usize = 64 << 20;

/// What the walk reports of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordSummary {
    pub offset_delta: i64,
    pub timestamp_delta: i64,
    pub has_key: bool,
}

/// Why the records of a batch cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    #[error("the compressed records cannot be decompressed: {0}")]
    Decompress(io::Error),
    #[error("record {index}: {why}")]
    Malformed { index: i32, why: &'static str },
    #[error("{0} bytes are left after the last record")]
    TrailingBytes(u64),
    #[error("the records inflate to more than {limit_bytes} bytes")]
    TooLarge { limit_bytes: u64 },
}

/// Walks the records of a batch in order and gives each to `visit`; stops early when that says `false`.
///
/// `batch` is the whole batch, header included. The records must end exactly where the batch does.
pub fn walk(
    header: &BatchHeader,
    batch: &[u8],
    visit: impl FnMut(i32, RecordSummary) -> bool,
) -> Result<(), RecordsError> {
    walk_within(header, batch, DECOMPRESSED_MAX_BYTES, visit).map(drop)
}

/// As [`walk`], over compressed records that inflate to `limit_bytes` at most; others are `TooLarge`, and no more than the limit
/// was inflated to find out. Gives how many bytes they inflated to. Uncompressed records have no limit.
pub fn walk_within(
    header: &BatchHeader,
    batch: &[u8],
    limit_bytes: u64,
    mut visit: impl FnMut(i32, RecordSummary) -> bool,
) -> Result<u64, RecordsError> {
    let body = &batch[BatchHeader::SIZE_BYTES..header.size_bytes];
    let (count, visit) = (header.records_count, &mut visit);
    match header.codec() {
        Codec::None => walk_plain(body, count, visit).map(|()| body.len() as u64),
        Codec::Gzip => {
            let decoder = flate2::bufread::MultiGzDecoder::new(body);
            walk_stream(BufReader::new(decoder), count, limit_bytes, visit)
        }
        Codec::Snappy => walk_stream(SnappyReader::new(body, limit_bytes), count, limit_bytes, visit),
        // The decoder makes room for a whole block of the largest size that the frame may hold, and fills it.
        Codec::Lz4 if lz4_block_max_bytes(body) > limit_bytes => Err(RecordsError::TooLarge { limit_bytes }),
        Codec::Lz4 => {
            let decoder = lz4_flex::frame::FrameDecoder::new(body);
            walk_stream(BufReader::new(decoder), count, limit_bytes, visit)
        }
        Codec::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(RecordsError::Decompress)?;
            walk_stream(BufReader::with_capacity(64 << 10, decoder), count, limit_bytes, visit)
        }
    }
}

/// The largest block that a frame in LZ4 may hold, as its descriptor says; 0 for what is no such frame.
fn lz4_block_max_bytes(body: &[u8]) -> u64 {
    if body.starts_with(LZ4_LEGACY_MAGIC) {
        return 8 << 20;
    }
    let id = body.get(5).map_or(0, |descriptor| descriptor >> 4 & 0b111);
    if id < 4 { 0 } else { 1 << (8 + 2 * id) }
}

/// All records of a batch, decompressed: for who needs the keys. The others walk.
pub fn inflate(header: &BatchHeader, batch: &[u8]) -> Result<Vec<u8>, RecordsError> {
    read_all(stream(header, batch)?)
}

/// The records of a batch, decompressed as they are read; how many come is not bounded.
pub(crate) fn stream<'a>(
    header: &BatchHeader,
    batch: &'a [u8],
) -> Result<Box<dyn BufRead + 'a>, RecordsError> {
    let body = &batch[BatchHeader::SIZE_BYTES..header.size_bytes];
    Ok(match header.codec() {
        Codec::None => Box::new(body),
        Codec::Gzip => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(body))),
        Codec::Snappy => Box::new(SnappyReader::new(body, DECOMPRESSED_MAX_BYTES)),
        Codec::Lz4 => Box::new(BufReader::new(lz4_flex::frame::FrameDecoder::new(body))),
        Codec::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(RecordsError::Decompress)?;
            Box::new(BufReader::with_capacity(64 << 10, decoder))
        }
    })
}

fn read_all<R: BufRead>(reader: R) -> Result<Vec<u8>, RecordsError> {
    let mut reader = Counted { inner: reader, left: DECOMPRESSED_MAX_BYTES + 1 };
    let mut out = Vec::new();
    let read = reader.read_to_end(&mut out);
    if reader.left == 0 {
        return Err(RecordsError::TooLarge { limit_bytes: DECOMPRESSED_MAX_BYTES });
    }
    read.map(|_| out).map_err(RecordsError::Decompress)
}

/// The offset and timestamp of the first record whose timestamp is at least `target_ms`.
pub fn first_at_or_after(
    header: &BatchHeader,
    batch: &[u8],
    target_ms: i64,
) -> Result<Option<(Offset, i64)>, RecordsError> {
    first_within(header, batch, target_ms, DECOMPRESSED_MAX_BYTES)
}

/// As [`first_at_or_after`], in records that inflate to `limit_bytes` at most: see [`walk_within`].
pub fn first_within(
    header: &BatchHeader,
    batch: &[u8],
    target_ms: i64,
    limit_bytes: u64,
) -> Result<Option<(Offset, i64)>, RecordsError> {
    if header.max_timestamp_ms < target_ms {
        return Ok(None);
    }
    if header.is_log_append_time() {
        return Ok(Some((header.base_offset, header.max_timestamp_ms)));
    }
    let mut found = None;
    walk_within(header, batch, limit_bytes, |_, record| {
        let timestamp_ms = header.base_timestamp_ms.saturating_add(record.timestamp_delta);
        if timestamp_ms >= target_ms {
            // A damaged object may claim any delta.
            let offset = Offset(header.base_offset.0.saturating_add(record.offset_delta));
            found = Some((offset, timestamp_ms));
        }
        found.is_none()
    })?;
    Ok(found)
}

fn walk_stream<R: BufRead>(
    reader: R,
    count: i32,
    limit_bytes: u64,
    visit: &mut impl FnMut(i32, RecordSummary) -> bool,
) -> Result<u64, RecordsError> {
    // One byte more than the limit, so that hitting it can be told from a batch that just fits.
    let allowed = limit_bytes + 1;
    let mut reader = Counted { inner: reader, left: allowed };
    match walk_records(&mut reader, count, visit) {
        _ if reader.left == 0 => Err(RecordsError::TooLarge { limit_bytes }),
        Err(RecordsError::Decompress(e)) if e.kind() == io::ErrorKind::FileTooLarge => {
            Err(RecordsError::TooLarge { limit_bytes })
        }
        outcome => outcome.map(|()| allowed - reader.left),
    }
}

fn walk_plain(
    mut body: &[u8],
    count: i32,
    visit: &mut impl FnMut(i32, RecordSummary) -> bool,
) -> Result<(), RecordsError> {
    walk_records(&mut body, count, visit)
}

fn walk_records<R: BufRead>(
    reader: &mut R,
    count: i32,
    visit: &mut impl FnMut(i32, RecordSummary) -> bool,
) -> Result<(), RecordsError> {
    for index in 0..count {
        let summary = read_record(reader).map_err(|e| e.at(index))?;
        if !visit(index, summary) {
            return Ok(());
        }
    }
    let rest = reader.fill_buf().map_err(RecordsError::Decompress)?.len();
    if rest > 0 { Err(RecordsError::TrailingBytes(rest as u64)) } else { Ok(()) }
}

pub(crate) enum ReadError {
    Io(io::Error),
    Malformed(&'static str),
}

impl ReadError {
    pub(crate) fn at(self, index: i32) -> RecordsError {
        match self {
            ReadError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                RecordsError::Malformed { index, why: "it is cut off" }
            }
            ReadError::Io(e) => RecordsError::Decompress(e),
            ReadError::Malformed(why) => RecordsError::Malformed { index, why },
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(e: io::Error) -> ReadError {
        ReadError::Io(e)
    }
}

/// Reads one record; every inner length must stay inside the record's own.
fn read_record<R: BufRead>(reader: &mut R) -> Result<RecordSummary, ReadError> {
    let (length, _) = read_varint(reader)?;
    let mut left = u64::try_from(length).map_err(|_| ReadError::Malformed("its length is negative"))?;
    let mut spend = |n: u64| {
        left = left.checked_sub(n).ok_or(ReadError::Malformed("a field runs past its end"))?;
        Ok::<u64, ReadError>(left)
    };
    spend(1)?;
    skip(reader, 1)?; // attributes, unused
    let (timestamp_delta, n) = read_varint(reader)?;
    spend(n)?;
    let (offset_delta, n) = read_varint(reader)?;
    spend(n)?;
    let (key_length, n) = read_varint(reader)?;
    spend(n)?;
    if key_length > 0 {
        spend(key_length as u64)?;
        skip(reader, key_length as u64)?;
    }
    let (value_length, n) = read_varint(reader)?;
    spend(n)?;
    if value_length > 0 {
        spend(value_length as u64)?;
        skip(reader, value_length as u64)?;
    }
    let (headers, n) = read_varint(reader)?;
    let left_for_headers = spend(n)?;
    if headers < 0 || headers as u64 > left_for_headers {
        return Err(ReadError::Malformed("its number of headers is impossible"));
    }
    for _ in 0..headers {
        let (key, n) = read_varint(reader)?;
        spend(n)?;
        let key = u64::try_from(key).map_err(|_| ReadError::Malformed("a header key is null"))?;
        spend(key)?;
        skip(reader, key)?;
        let (value, n) = read_varint(reader)?;
        spend(n)?;
        if value > 0 {
            spend(value as u64)?;
            skip(reader, value as u64)?;
        }
    }
    if spend(0)? != 0 {
        return Err(ReadError::Malformed("its length does not match its fields"));
    }
    Ok(RecordSummary { offset_delta, timestamp_delta, has_key: key_length >= 0 })
}

/// A zigzag varint of at most ten bytes, and how many it took.
pub(crate) fn read_varint<R: BufRead>(reader: &mut R) -> Result<(i64, u64), ReadError> {
    let buffer = reader.fill_buf()?;
    // Most are a byte long: deltas of offsets and timestamps, lengths of keys, counts of headers.
    if let Some(byte) = buffer.first().copied().filter(|byte| byte & 0x80 == 0) {
        reader.consume(1);
        return Ok((unzigzag(u64::from(byte)), 1));
    }
    // The whole varint is in the buffer.
    let mut value = 0u64;
    for (i, byte) in buffer.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            reader.consume(i + 1);
            return Ok((unzigzag(value), i as u64 + 1));
        }
    }
    if buffer.len() >= 10 {
        return Err(ReadError::Malformed("a varint is longer than ten bytes"));
    }
    let (mut value, mut byte) = (0u64, [0u8; 1]);
    for i in 0..10 {
        reader.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << (7 * i);
        if byte[0] & 0x80 == 0 {
            return Ok((unzigzag(value), i + 1));
        }
    }
    Err(ReadError::Malformed("a varint is longer than ten bytes"))
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn skip<R: BufRead>(reader: &mut R, mut count: u64) -> io::Result<()> {
    while count > 0 {
        let available = reader.fill_buf()?.len() as u64;
        if available == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let n = available.min(count);
        reader.consume(n as usize);
        count -= n;
    }
    Ok(())
}

/// Ends the stream after a number of bytes, so that inflating is bounded.
struct Counted<R> {
    inner: R,
    left: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX);
        let buffer = self.inner.fill_buf()?;
        Ok(&buffer[..buffer.len().min(limit)])
    }

    fn consume(&mut self, amount: usize) {
        self.left -= amount as u64;
        self.inner.consume(amount);
    }
}

/// Snappy as Kafka clients write it: the block stream of snappy-java ("xerial"), or one raw block.
struct SnappyReader<'a> {
    input: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    position: usize,
    /// No block may be larger.
    limit_bytes: u64,
}

impl<'a> SnappyReader<'a> {
    const MAGIC: &'static [u8] = b"\x82SNAPPY\0";
    const HEADER_BYTES: usize = 16;

    fn new(input: &'a [u8], limit_bytes: u64) -> SnappyReader<'a> {
        let framed = input.starts_with(Self::MAGIC) && input.len() >= Self::HEADER_BYTES;
        let input = if framed { &input[Self::HEADER_BYTES..] } else { input };
        SnappyReader { input, framed, block: Vec::new(), position: 0, limit_bytes }
    }

    fn next_block(&mut self) -> io::Result<()> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let compressed = if self.framed {
            let (length, rest) =
                self.input.split_first_chunk::<4>().ok_or_else(|| invalid("snappy: cut off"))?;
            let length = u32::from_be_bytes(*length) as usize;
            if length > rest.len() {
                return Err(invalid("snappy: a block runs past the end"));
            }
            let (block, rest) = rest.split_at(length);
            self.input = rest;
            block
        } else {
            std::mem::take(&mut self.input)
        };
        let size = snap::raw::decompress_len(compressed).map_err(|e| invalid(&e.to_string()))?;
        // Snappy cannot shrink anything below about a sixty-fourth: a larger claim is a lie made to allocate.
        if size > SNAPPY_BLOCK_MAX_BYTES || size / 64 > compressed.len() {
            return Err(invalid("snappy: a block claims an impossible size"));
        }
        if size as u64 > self.limit_bytes {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "snappy: a block is too large"));
        }
        self.block.resize(size, 0);
        let n = snap::raw::Decoder::new()
            .decompress(compressed, &mut self.block)
            .map_err(|e| invalid(&e.to_string()))?;
        self.block.truncate(n);
        self.position = 0;
        Ok(())
    }
}

impl Read for SnappyReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for SnappyReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.position == self.block.len() && !self.input.is_empty() {
            self.next_block()?;
        }
        Ok(&self.block[self.position..])
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount;
    }
}
