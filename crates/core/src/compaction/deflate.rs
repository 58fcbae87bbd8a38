//! Compresses records again, in the form that every Kafka client reads.

use std::io::{self, Write};

use crate::batch::Codec;

/// The blocks of snappy-java's stream, which is what Java clients expect of Snappy.
const SNAPPY_BLOCK_BYTES: usize = 32 << 10;
const SNAPPY_HEADER: &[u8; 16] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

pub fn deflate(codec: Codec, records: &[u8]) -> io::Result<Vec<u8>> {
    match codec {
        Codec::None => Ok(records.to_vec()),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(records)?;
            encoder.finish()
        }
        Codec::Snappy => {
            let mut out = SNAPPY_HEADER.to_vec();
            let mut encoder = snap::raw::Encoder::new();
            for block in records.chunks(SNAPPY_BLOCK_BYTES) {
                let block = encoder.compress_vec(block)?;
                out.extend((block.len() as u32).to_be_bytes());
                out.extend(block);
            }
            Ok(out)
        }
        Codec::Lz4 => {
            // Clients in Java read independent blocks only, which is the default here.
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(records)?;
            encoder.finish().map_err(io::Error::other)
        }
        Codec::Zstd => zstd::encode_all(records, zstd::DEFAULT_COMPRESSION_LEVEL),
    }
}
