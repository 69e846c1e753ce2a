//! The ring: probe, slots, operations, driver.
//!
//! | file | what it does |
//! |---|---|
//! | [`probe`] | which features and opcodes are needed, and a typed reason when one is missing |
//! | `ring` | the one place that talks to the kernel's queues |
//! | `op` | one row per operation: its entry, and what its result means |
//! | `slot` | who owns the memory of a request in each state |
//! | `driver` | submits in batches, reaps for all, wakes |

pub mod probe;

pub(crate) mod driver;
pub(crate) mod op;
pub(crate) mod ring;
pub(crate) mod slot;
