//! The ring: probe, slots, operations, driver.
//!
//! | file | what it does |
//! |---|---|
//! | [`probe`] | which features and opcodes are needed, and a typed reason when one is missing |
//! | `ring` | the one place that talks to the kernel's queues |
//! | `op` | one row per operation: its entry, and what its result means |
//! | `slot` | who owns the memory of a request in each state |
//! | `driver` | the handle: accepts requests, hands out tickets, closes |
//! | `pilot` | the task: submits in batches, spins, sleeps, and what happens when it ends |
//! | `shared` | what handle, tickets and task share: one turn, reaping for all |
//! | `meters` | counters of the real devices |

pub mod probe;

pub(crate) mod driver;
pub(crate) mod meters;
pub(crate) mod op;
mod pilot;
pub(crate) mod ring;
mod shared;
pub(crate) mod slot;
