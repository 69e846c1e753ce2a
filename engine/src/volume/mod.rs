//! The volume: make, open, close, and the tasks that keep it going.

pub mod cleaner;
pub mod flusher;
mod guarded;
pub mod make;
pub mod mount;
mod patience;
mod reclaimer;
pub mod resume;
mod shrinkers;
pub mod stall;
