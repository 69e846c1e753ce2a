//! Runs of the whole engine on the simulated disk, cut off, damaged, reopened and compared with a model.
//!
//! Each run is one seed on one thread and virtual time, so that the seed replays it: on a sound engine
//! nothing panics, and what is wrong is a panic that says so.
//!
//! | run | what it proves |
//! |---|---|
//! | [`crash`], [`crash_past_the_cache`] | random work, faults and power cuts, recovery included: nothing acknowledged is lost |
//! | [`every_outcome`] | one cut, and every disk that it could have left |
//! | [`lying`] | a disk that loses, misplaces and changes what it was given: what is returned is right |
//! | [`short`] | every sequence of up to three operations, cut at each flush |
//!
//! Called by the tests of this crate and by the program `soak`.

mod change;
mod check;
mod commit;
pub mod ground;
pub mod lying;
mod model;
mod moves;
mod outcomes;
#[cfg(feature = "testing")]
pub mod points;
mod run;
pub mod short;
mod squall;
mod tally;

pub use outcomes::every_outcome;
pub use run::Hooks;
pub use run::Plan;
pub use run::crash;
pub use run::crash_past_the_cache;
pub use run::crash_seen_by_the_model;
pub use run::run;
pub use tally::Tally;
