//! The CRC32C of bytes that were checksummed in parts, without reading them again.
//!
//! A CRC is the remainder of a polynomial over GF(2): appending `n` bytes multiplies it by x^(8n), modulo the Castagnoli polynomial
//! (RFC 3720, appendix B.4). Bits are reflected: the highest bit of a word is x^0.

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

    proptest! {
        #[test]
        fn concat_is_the_crc_of_both(bytes in proptest::collection::vec(any::<u8>(), 0..5000), at in any::<prop::sample::Index>()) {
            let (first, second) = bytes.split_at(at.index(bytes.len() + 1));
            let both = concat(crc32c::crc32c(first), crc32c::crc32c(second), second.len() as u32);
            prop_assert_eq!(both, crc32c::crc32c(&bytes));
        }
    }

    #[test]
    fn concat_agrees_with_the_crate_on_long_parts() {
        for bytes in [1, 4095, 1 << 20, u32::MAX] {
            assert_eq!(
                concat(0x1234_5678, 0x9abc_def0, bytes),
                crc32c::crc32c_combine(0x1234_5678, 0x9abc_def0, bytes as usize)
            );
        }
    }
}
