//! See `foliant_examples::fuzz::resp`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| foliant_examples::fuzz::resp(bytes));
