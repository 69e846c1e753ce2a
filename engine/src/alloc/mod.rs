//! The alloc room.
