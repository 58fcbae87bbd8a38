//! Compresses records, in the forms that every Kafka client reads. Levels are those of KIP-390.

use std::io::{self, Read, Write};

use crate::batch::Codec;

/// The blocks of snappy-java's stream, which is what Java clients expect of Snappy.
const SNAPPY_BLOCK_BYTES: usize = 32 << 10;
const SNAPPY_HEADER: &[u8; 16] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

/// zstd sizes its tables by what it is told of the input, or else by the level alone: hundreds of megabytes for a small batch at level 22.
/// Inputs below this are read before they are compressed, so that their size is known.
const ZSTD_SMALL_BYTES: u64 = 256 << 10;
/// The largest window for others, as a power of two: that of level 19, which every decoder takes.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
const ZSTD_LEVEL_OF_WINDOW_MAX: i32 = 19;

/// How to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    pub codec: Codec,
    /// For gzip 0 to 9, or -1 for the codec's own default; for zstd -131072 to 22. The other codecs have one level here.
    pub level: i32,
}

/// Why records cannot be compressed.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    #[error("the compressed records take more than {0} bytes")]
    TooLarge(usize),
    #[error(transparent)]
    Io(io::Error),
}

impl Compression {
    /// A codec at its default level.
    pub fn default_of(codec: Codec) -> Compression {
        let level = match codec {
            Codec::Zstd => zstd::DEFAULT_COMPRESSION_LEVEL,
            Codec::None | Codec::Gzip | Codec::Snappy | Codec::Lz4 => -1,
        };
        Compression { codec, level }
    }

    /// How many times as long as inflating the same bytes it takes at most, beside what every codec takes at its default level.
    pub fn weight(self) -> u64 {
        match self.codec {
            Codec::Gzip if self.level > 6 => 64,
            Codec::Zstd if self.level > 9 => 64,
            Codec::None | Codec::Gzip | Codec::Snappy | Codec::Lz4 | Codec::Zstd => 1,
        }
    }

    /// Compresses everything that `records` holds into at most `max_bytes`, without ever holding all of `records`.
    pub fn compress(self, records: impl Read, max_bytes: usize) -> Result<Vec<u8>, CompressError> {
        let out = Bounded { bytes: Vec::new(), max_bytes };
        let compressed = self.write(records, out);
        compressed.map(|out| out.bytes).map_err(|error| match error.get_ref() {
            Some(inner) if inner.is::<Full>() => CompressError::TooLarge(max_bytes),
            Some(_) | None => CompressError::Io(error),
        })
    }

    fn write(self, mut records: impl Read, mut out: Bounded) -> io::Result<Bounded> {
        match self.codec {
            Codec::None => {
                io::copy(&mut records, &mut out)?;
                Ok(out)
            }
            Codec::Gzip => {
                let level = u32::try_from(self.level)
                    .map_or(flate2::Compression::default(), flate2::Compression::new);
                let mut encoder = flate2::write::GzEncoder::new(out, level);
                io::copy(&mut records, &mut encoder)?;
                encoder.finish()
            }
            Codec::Snappy => write_snappy(records, out),
            Codec::Lz4 => {
                // Clients in Java read independent blocks only, which is the default here.
                let mut encoder = lz4_flex::frame::FrameEncoder::new(out);
                io::copy(&mut records, &mut encoder)?;
                encoder.finish().map_err(io::Error::from)
            }
            Codec::Zstd => {
                let mut front = Vec::new();
                records.by_ref().take(ZSTD_SMALL_BYTES).read_to_end(&mut front)?;
                let is_small = (front.len() as u64) < ZSTD_SMALL_BYTES;
                let mut encoder = zstd::stream::write::Encoder::new(out, self.level)?;
                if is_small {
                    encoder.set_pledged_src_size(Some(front.len() as u64))?;
                } else if self.level > ZSTD_LEVEL_OF_WINDOW_MAX {
                    encoder.window_log(ZSTD_WINDOW_LOG_MAX)?;
                }
                encoder.write_all(&front)?;
                io::copy(&mut records, &mut encoder)?;
                encoder.finish()
            }
        }
    }
}

fn write_snappy(mut records: impl Read, mut out: Bounded) -> io::Result<Bounded> {
    out.write_all(SNAPPY_HEADER)?;
    let mut encoder = snap::raw::Encoder::new();
    let mut block = Vec::with_capacity(SNAPPY_BLOCK_BYTES);
    loop {
        block.clear();
        records.by_ref().take(SNAPPY_BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(out);
        }
        let compressed = encoder.compress_vec(&block)?;
        out.write_all(&(compressed.len() as u32).to_be_bytes())?;
        out.write_all(&compressed)?;
    }
}

/// Bytes up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    max_bytes: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("the output is full")]
struct Full;

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.max_bytes - self.bytes.len() {
            return Err(io::Error::other(Full));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_beyond_the_limit_is_refused_by_each_codec() {
        let noise: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let compression = Compression::default_of(codec);
            let whole = compression.compress(&noise[..], usize::MAX).unwrap();
            assert_eq!(compression.compress(&noise[..], whole.len()).unwrap(), whole, "{codec:?}");
            let refused = compression.compress(&noise[..], whole.len() - 1);
            assert!(matches!(refused, Err(CompressError::TooLarge(_))), "{codec:?}: {refused:?}");
        }
    }

    #[test]
    fn small_batches_at_the_highest_level_take_little_time() {
        let compression = Compression { codec: Codec::Zstd, level: 22 };
        let began = std::time::Instant::now();
        for i in 0..200u8 {
            let compressed = compression.compress(&[i; 170][..], usize::MAX).unwrap();
            assert_eq!(zstd::decode_all(&compressed[..]).unwrap(), [i; 170]);
        }
        // Half a second each where the tables are made for inputs of any size.
        assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    }

    #[test]
    fn inputs_of_all_sizes_come_back_at_all_levels() {
        let text: Vec<u8> = (0..700_000u32).map(|i| (i / 7 % 251) as u8).collect();
        for level in [-5, 3, 19, 22] {
            for size in [0, 1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 700_000] {
                let compression = Compression { codec: Codec::Zstd, level };
                let compressed = compression.compress(&text[..size], usize::MAX).unwrap();
                assert!(zstd::decode_all(&compressed[..]).unwrap() == text[..size], "{level} {size}");
            }
        }
    }

    #[test]
    fn a_higher_level_takes_fewer_bytes() {
        let text: Vec<u8> =
            (0..20_000).flat_map(|i| format!("{{\"id\":{i},\"n\":{}}}", i * i).into_bytes()).collect();
        for (codec, low, high) in [(Codec::Gzip, 1, 9), (Codec::Zstd, -5, 19)] {
            let size = |level| Compression { codec, level }.compress(&text[..], usize::MAX).unwrap().len();
            assert!(size(high) < size(low), "{codec:?}: {} and {}", size(high), size(low));
        }
    }
}
