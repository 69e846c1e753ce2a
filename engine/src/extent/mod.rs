//! The extent room.
