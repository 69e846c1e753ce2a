//! The journal: ordered, atomic, durable records, whatever they mean.

pub mod ring;
pub mod scan;
pub mod slots;
pub mod writer;

pub use writer::Journal;

#[cfg(test)]
mod tests;
