//! The folio room.
