//! See `foliant::testing::fuzz::journal`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| foliant::testing::fuzz::journal(bytes));
