//! Small tools without a domain: memory budget, locks, flags, checksums, bit sets.

pub mod bitset;
pub mod canary;
pub mod checksum;
pub mod fault;
pub mod lock_order;
pub mod memory;
pub mod poison;
pub mod range_lock;
pub mod stop;
pub mod sync;
pub mod watermark;

#[cfg(test)]
pub mod dice;
