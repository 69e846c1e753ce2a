//! See `foliant::testing::fuzz::image`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| foliant::testing::fuzz::image(bytes));
