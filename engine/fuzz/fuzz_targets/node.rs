//! See `foliant::testing::fuzz::node`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| foliant::testing::fuzz::node(bytes));
