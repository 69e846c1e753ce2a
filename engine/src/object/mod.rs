//! The object room.
pub mod records;

#[cfg(test)]
mod full_volume;
