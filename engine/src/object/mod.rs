//! Objects: the provider that answers the core's questions, and the journal's grip on folios.
//!
//! | file | what it is |
//! |---|---|
//! | [`records`] | the object record in its tree, and removal markers |
//! | [`state`], [`cookies`] | sizes, health, validity of one open object |
//! | [`ground`] | what all objects stand on, promises of room |
//! | [`provider`] | where bytes lie: mapping, placement, remap |
//! | [`inline`] | small objects in their record |
//! | [`journaled`] | logged writes: the put-folio hook that attaches data to a transaction |
//! | [`part`] | what a transaction changes in one object, and its range locks |
//! | [`stored`] | blocks written back as they are, so that a large commit can log differences |
//! | [`resize`] | truncate, punch, preallocate |
//! | [`relocate`] | moves stored blocks beside everything else |
//! | [`clean`], [`defragment`] | which blocks: those of windows to be emptied, those of a scattered object |
//! | [`open`], [`table`] | an open object, and all of them |

pub mod clean;
pub mod cookies;
pub mod defragment;
pub mod ground;
pub mod inline;
pub mod journaled;
pub mod open;
pub mod part;
pub mod provider;
pub mod records;
pub mod relocate;
pub mod resize;
pub mod state;
pub mod stored;
pub mod table;

#[cfg(test)]
mod full_volume;
