//! The design of Foliant, page by page.
//!
//! | page | question it answers |
//! |---|---|
//! | [`design`] | what is the house like, and what must always hold |
//! | [`format`](mod@format) | what does every byte on the device mean |
//! | [`locks`] | which locks are there, in which order, and why can nothing deadlock |
//! | [`faults`] | what is survived, what is only detected, and which test says so |
//! | [`check`] | how is a store looked at from outside, and what does each finding mean |
//! | [`tests`] | which test guards which invariant |
//! | [`models`] | which races are explored, over which types, and what proves it |
//! | [`mechanisms`] | which known race of a mapping layer is held off where, by which test, hit how often |
//! | [`decisions`] | what was chosen, against what, on which grounds |
//! | [`dependencies`] | why is each foreign crate here |
//! | [`performance`] | measured figures, and how to measure them again |

#![allow(clippy::doc_markdown)] // These pages are prose with many names.

#[doc = include_str!("design.md")]
pub mod design {}
#[doc = include_str!("format.md")]
pub mod format {}
#[doc = include_str!("locks.md")]
pub mod locks {}
#[doc = include_str!("faults.md")]
pub mod faults {}
#[doc = include_str!("check.md")]
pub mod check {}
#[doc = include_str!("tests.md")]
pub mod tests {}
#[doc = include_str!("models.md")]
pub mod models {}
#[doc = include_str!("mechanisms.md")]
pub mod mechanisms {}
#[doc = include_str!("decisions.md")]
pub mod decisions {}
#[doc = include_str!("dependencies.md")]
pub mod dependencies {}
#[doc = include_str!("performance.md")]
pub mod performance {}
