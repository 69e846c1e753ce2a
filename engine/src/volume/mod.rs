//! The volume: make, open, close, and the tasks that keep it going.

pub mod flusher;
pub mod make;
pub mod mount;
mod reclaimer;
pub mod resume;
mod shrinkers;
