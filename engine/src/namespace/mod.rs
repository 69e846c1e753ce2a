//! The namespace room.
