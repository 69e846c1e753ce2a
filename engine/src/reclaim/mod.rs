//! The reclaim room.
