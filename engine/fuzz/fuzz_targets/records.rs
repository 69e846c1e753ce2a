//! See `foliant::testing::fuzz::records`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| foliant::testing::fuzz::records(bytes));
