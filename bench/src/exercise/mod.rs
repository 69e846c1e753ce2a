//! The exerciser: streams of operations over the public API, each answer compared with a byte oracle.
//!
//! In the tradition of fsx: a seed makes a stream (`generate`), a stream has a text form that reads
//! back (`op`), a run plays it on an engine (`run`, `play`, `both`) next to the oracle (`oracle`, `content`)
//! and, if wanted, next to a plain file (`beside`), and a failing stream is made small (`shrink`).
//!
//! To add an operation: a variant and its text in `op`, its effect in `oracle`, its call in
//! `play::act` and in `beside`, its share in `generate`; what it tells of places is judged in `places`.

pub mod beside;
mod both;
pub mod content;
mod failure;
pub mod generate;
pub mod op;
pub mod oracle;
mod places;
mod play;
pub mod run;
pub mod shrink;
