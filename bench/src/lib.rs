//! What programs and tests of this crate share: the exerciser.
#![forbid(unsafe_code)]

pub mod exercise;
