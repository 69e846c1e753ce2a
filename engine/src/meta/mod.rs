//! Metadata: blocks that change together or not at all.
//!
//! | file | what it is |
//! |---|---|
//! | [`view`] | the traits through which everybody above looks at blocks |
//! | [`store`] | the blocks of an open volume: cache, table, journal, lock |
//! | [`txn`] | a shared view, an exclusive transaction, its two-step commit |
//! | [`checkpoint`] | brings logged blocks home, moves the tail |
//! | `flushes` | one device flush for everybody who waits for one |
//! | `readback` | whether what was written home is there, before the tail moves |
//! | [`recover`] | after a crash: replay, block by block |
//! | [`tree`] | B+trees on these blocks |

pub mod cache;
pub mod checkpoint;
mod flushes;
mod readback;
pub mod recover;
pub mod store;
pub mod table;
pub mod tree;
pub mod txn;
pub mod view;
#[cfg(test)]
pub mod view_model;

pub use cache::Evicted;
pub use store::Meta;
pub use store::MetaOptions;
pub use table::HomeMark;
pub use txn::DataImage;
pub use txn::MetaTxn;
