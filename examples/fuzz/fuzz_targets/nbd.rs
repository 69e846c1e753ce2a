//! See `foliant_examples::fuzz::nbd`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| foliant_examples::fuzz::nbd(bytes));
