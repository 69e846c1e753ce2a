//! The vocabulary of pages.
//!
//! Defines types and nothing else. Called by every file that touches pages.

use crate::kv::limits::PAGE_BYTES;

/// The number of a page; its bytes start at number * 4096 of the object.
pub type PageNo = u32;
/// The number of a large value; its object is named by it.
pub type LargeId = u64;
/// Milliseconds since 1970, in UTC.
pub type Millis = u64;
/// The bytes of a page.
pub type Page = [u8; PAGE_BYTES];
