//! Models: the real folios, mappings, locks and counters under a scheduler that decides each step.
//!
//! | file | what races |
//! |---|---|
//! | `explorer` | runs a model under many schedules, and demands that a broken one is caught |
//! | `stage` | one object over the mock provider, with the engine's reclaim |
//! | `reclaimer` | a writer, plain or journaled, against reclaim |
//! | `writers` | two writers of one folio, and writeback, also one that fails |
//! | `truncate` | a cut against reads, writeback and the durable size |
//! | `shared` | zero-copy readers against a writer |
//! | `dropped` | futures that are dropped at any await |
//! | `stale` | blocks that move while somebody holds their old mapping |
//! | `waiters` | range locks, room to dirty, memory: no lost wake-up, also with dropped waiters |
//!
//! Each model has a broken twin (its canary). Built only for tests with the feature `model`; see
//! [`crate::doc::models`].

mod explorer;
mod stage;

mod dropped;
mod reclaimer;
mod shared;
mod stale;
mod truncate;
mod waiters;
mod writers;
