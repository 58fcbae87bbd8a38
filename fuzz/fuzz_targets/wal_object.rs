//! A write-ahead object as recovery finds it after a crash.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| kafscale_storage::fuzz::wal_object(bytes));
