//! Lying.
