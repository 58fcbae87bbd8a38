//! CRC32C (Castagnoli; RFC 3720, appendix B.4): of bytes, with what the processor has for it, and of bytes that were checksummed in
//! parts, without reading them again.
//!
//! A CRC is the remainder of a polynomial over GF(2): appending `n` bytes multiplies it by x^(8n), modulo the Castagnoli polynomial.
//! Bits are reflected: the highest bit of a word is x^0.

use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi};

pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32_iscsi(bytes)
}

/// The CRC of bytes with this CRC, followed by these.
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    digest.finalize() as u32
}

const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;

/// x^(2^k) for each k that the bits of a length can ask for.
const POWERS: [u32; 35] = {
    let mut powers = [0; 35];
    powers[0] = ONE >> 1;
    let mut k = 1;
    while k < powers.len() {
        powers[k] = product(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

const fn product(a: u32, mut b: u32) -> u32 {
    let mut sum = 0;
    let mut bit = ONE;
    while bit != 0 {
        if a & bit != 0 {
            sum ^= b;
        }
        bit >>= 1;
        b = (b >> 1) ^ if b & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    sum
}

/// The CRC of `first` followed by `second`, which has `second_bytes`.
pub fn concat(first: u32, second: u32, second_bytes: u32) -> u32 {
    let mut shift = ONE;
    let mut bits = second_bytes;
    // A byte is 2^3 bits.
    let mut k = 3;
    while bits != 0 {
        if bits & 1 == 1 {
            shift = product(POWERS[k], shift);
        }
        bits >>= 1;
        k += 1;
    }
    product(shift, first) ^ second
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_rfc_3720() {
        let rising: Vec<u8> = (0..32).collect();
        for (bytes, crc) in [
            (&[0; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&rising, 0x46dd_794e),
            (b"123456789", 0xe306_9283),
        ] {
            assert_eq!(crc32c(bytes), crc);
        }
    }

    proptest! {
        #[test]
        fn parts_give_the_crc_of_both(bytes in proptest::collection::vec(any::<u8>(), 0..5000), at in any::<prop::sample::Index>()) {
            let (first, second) = bytes.split_at(at.index(bytes.len() + 1));
            prop_assert_eq!(concat(crc32c(first), crc32c(second), second.len() as u32), crc32c(&bytes));
            prop_assert_eq!(append(crc32c(first), second), crc32c(&bytes));
        }
    }

    #[test]
    fn concat_agrees_with_the_crate_on_long_parts() {
        for bytes in [1, 4095, 1 << 20, u32::MAX] {
            let (first, second) = (0x1234_5678, 0x9abc_def0);
            let expected = crc_fast::checksum_combine(
                CrcAlgorithm::Crc32Iscsi,
                first.into(),
                second.into(),
                bytes.into(),
            );
            assert_eq!(u64::from(concat(first, second, bytes)), expected);
        }
    }
}
