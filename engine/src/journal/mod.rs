//! The journal: ordered, atomic, durable records, whatever they mean.

mod flights;
pub mod ring;
pub mod scan;
pub mod slots;
mod state;
pub mod writer;

pub use writer::Journal;

#[cfg(test)]
mod tests;
