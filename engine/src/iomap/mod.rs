//! The mapping core: moves bytes between callers, folios and the device.
//!
//! | file | what it does |
//! |---|---|
//! | [`contract`] | the treaty with the provider and the transport |
//! | [`bundle`] | one object's parts, held together: [`bundle::Mapped`] |
//! | [`read`], [`fetch`] | hits, misses, verified blocks into folios |
//! | [`share`] | reads without a copy |
//! | [`read_direct`], [`write_direct`] | between the device and memory of the caller, past the cache |
//! | [`write`], [`guard`] | pieces applied whole or not at all |
//! | [`eof`] | the one owner of the end-of-object rule |
//! | [`zero`] | zeroing, and taking blocks out of the cache |
//! | [`scrub`] | stored blocks against their checksums |
//! | [`seek`] | data, holes, extents: what lies where, with what the cache holds |
//! | [`hold`] | folios locked for a transaction |
//! | [`writeback`] | dirty folios to the device |
//! | [`publish`] | how a read learns that a commit came by |
//! | [`whole`] | reads that see a commit entirely or not at all |
//! | `retry` | what happens when a mapping goes stale |
//! | [`iter`] | the cursor over mappings |
//! | [`ahead`] | the read-ahead detector |
//! | `launch`, `flight` | device reads ahead of the reader |
//! | [`run`] | joins dirty runs into device writes |
//! | [`bio`] | the transport over a device |
//! | [`identity`] | the simplest provider |
//! | `rest` | whether anybody holds anything, for tests |
//! | [`pause`] | named places for tests |

pub mod ahead;
pub mod bio;
pub mod bundle;
pub mod contract;
pub mod eof;
mod fetch;
mod flight;
pub mod grip;
pub mod guard;
pub mod hold;
#[cfg(test)]
mod identity;
pub mod iter;
mod launch;
pub mod pause;
pub mod publish;
pub mod read;
pub mod read_direct;
#[cfg(feature = "testing")]
mod rest;
mod retry;
pub mod run;
pub mod scrub;
pub mod seek;
pub mod share;
pub mod whole;
pub mod write;
pub mod write_direct;
pub mod writeback;
pub mod zero;

#[cfg(test)]
pub mod mock;
#[cfg(test)]
pub mod testkit;
#[cfg(test)]
mod tests;
