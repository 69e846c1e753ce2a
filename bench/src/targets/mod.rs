//! The things under measurement.

pub mod foliant;
pub mod raw;
