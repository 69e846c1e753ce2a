//! See `foliant::testing::fuzz::superblock`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| foliant::testing::fuzz::superblock(bytes));
