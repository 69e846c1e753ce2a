//! The kit room.
