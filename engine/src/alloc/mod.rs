//! Free space: who may use which block, and why a promise of room is always kept.
//!
//! # States of a block
//!
//! | state | on disk | in memory | becomes |
//! |---|---|---|---|
//! | usable | clear | clear | claimed |
//! | claimed | clear | busy | used (its transaction commits) or usable (ticket dropped) |
//! | used | set | busy | held (freed by a committed transaction) |
//! | held | clear | busy | usable, when the freeing transaction is durable and, if a record that replay could apply names the block, the log's tail has passed |
//!
//! # The promise
//!
//! `reserve(n)` succeeds only while, after it,
//!
//! ```text
//! usable >= (promised - claimed) + promised / 16 + metadata reserve
//! ```
//!
//! where `promised` is the sum of all reservations, and `claimed` counts blocks claimed by tickets
//! that are neither settled nor dropped (node blocks apart). Rule for callers: *whatever is claimed
//! was promised before, and stays promised until its ticket was settled or dropped*. Then a claim
//! of `n` promised blocks finds them, because
//!
//! * a claim lowers both sides by `n`, dropping the ticket raises both; after settling, the
//!   promise is given back and only the right side falls;
//! * held blocks are not usable: they count only once they can really be handed out;
//! * a node block lowers the left side alone, but there is room set aside for it. One promised block
//!   leads to two more extent entries at worst (it splits an extent in two and stands between);
//!   an entry takes 38 bytes, nodes are at least half full after a split, so a node is needed for 26
//!   promised blocks at most, its parents included for 25. That is the `promised / 16`;
//! * what takes nodes without a promise (delete, truncate, punch: they must work on a full volume)
//!   draws on the metadata reserve, and in the end gives back more than it took. What adds without
//!   data (create, rename) promises [`space::NODES_PER_CHANGE`] blocks first;
//! * any usable block serves: fragmentation makes a claim slower and its answer longer, it never
//!   makes it fail.
//!
//! So a claim that fails for want of space means that the volume's count of free blocks is wrong.
//! That `reserve` fails while blocks are held is not final: once the log is durable, or its tail
//! has moved, they are usable; [`space::SpaceStats::held`] says whether that is worth waiting for.
//!
//! Called by `object` and `volume`; nodes are taken through `meta::view::NodeSupply`.

pub mod checksums;
pub mod discard;
pub mod group;
pub mod inner;
pub mod moves;
mod moving;
mod ready;
pub mod release;
mod search;
pub mod space;
pub mod spans;
pub mod ticket;
pub mod windows;

pub use space::Space;
pub use ticket::Ticket;

#[cfg(test)]
mod tests;
