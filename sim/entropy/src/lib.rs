//! Seeded randomness in place of the operating system's: whoever links this crate and asks for randomness gets it from a seed.
//!
//! `std` (the keys of hash maps), the `getrandom` crates (`uuid`, `rand`) and, through them, tokio all ask the C library's `getrandom`. A program's own
//! function of that name comes before the library's. So nothing in the simulated code is any different from the real one.
//!
//! Invariant: the only unsafe code of the repository is the one line here that writes to the caller's buffer.
//! Not for secrets: only the simulation's program links it, and a test holds that against the dependencies of all crates.

use std::sync::Mutex;

static STATE: Mutex<u64> = Mutex::new(0);

/// Begins anew with this seed. What a thread has been given for its hash maps it keeps: simulate on a new thread.
pub fn seed(seed: u64) {
    if let Ok(mut state) = STATE.lock() {
        *state = seed;
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fill(buffer: &mut [u8]) {
    let Ok(mut state) = STATE.lock() else { return };
    for piece in buffer.chunks_mut(8) {
        piece.copy_from_slice(&next(&mut state).to_le_bytes()[..piece.len()]);
    }
}

/// `ssize_t getrandom(void *buf, size_t buflen, unsigned int flags)` of the C library.
///
/// # Safety
///
/// As there: `buffer` is good for writes of `length` bytes, or `length` is 0.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    if !buffer.is_null() && length > 0 {
        // SAFETY: the caller says so, and nobody else has the buffer during the call.
        fill(unsafe { std::slice::from_raw_parts_mut(buffer, length) });
    }
    length as isize
}
