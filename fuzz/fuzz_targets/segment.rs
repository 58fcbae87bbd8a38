//! A segment of either version from an untrusted bucket: errors, never a panic, never a read that does not end.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| kafscale_storage::fuzz::segment(bytes));
