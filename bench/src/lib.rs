//! What programs and tests of this crate share: the crash runs and the exerciser.
#![forbid(unsafe_code)]

pub mod crash;
pub mod exercise;
