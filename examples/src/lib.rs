//! Programs on Foliant.
