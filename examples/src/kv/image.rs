//! The image of a page: bytes that many may hold, and nobody changes any more.
//!
//! A read that cannot look in place needs one for its leaf, each change three. Their memory is used again by the
//! thread that lets go of it, while it is still in that processor's caches: an allocator of 4 KiB pieces costs a
//! seventh of a SET.
//!
//! Guarantees at most `IMAGES_SPARE` unused pages a thread. Does not know what the bytes mean. Used by
//! everything that reads or changes the tree.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::Arc;

use crate::kv::limits::IMAGES_SPARE;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::units::Page;

thread_local! {
    static SPARE: RefCell<Vec<Arc<Page>>> = const { RefCell::new(Vec::new()) };
}

/// A page in memory. Cheap to clone; all clones are the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image(
    /// None only while it is dropped.
    Option<Arc<Page>>,
);

impl Image {
    /// One to be filled by its only owner; its bytes are any.
    pub fn to_fill() -> Self {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
        Self(Some(spare.unwrap_or_else(|| Arc::new([0; PAGE_BYTES]))))
    }

    /// One of zeroes.
    pub fn blank() -> Self {
        let mut image = Self::to_fill();
        image.sole().fill(0);
        image
    }

    /// A copy, to be changed by its only owner.
    pub fn copied(&self) -> Self {
        let mut copy = Self::to_fill();
        copy.sole().copy_from_slice(&self[..]);
        copy
    }

    /// The bytes, to be changed.
    ///
    /// # Panics
    /// If it was cloned before.
    pub fn sole(&mut self) -> &mut Page {
        let page = self.0.as_mut().and_then(Arc::get_mut);
        page.expect("the page was not handed out")
    }
}

impl Deref for Image {
    type Target = Page;

    fn deref(&self) -> &Page {
        self.0.as_ref().expect("it is not being dropped")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let Some(mut page) = self.0.take() else { return };
        if Arc::get_mut(&mut page).is_none() {
            return;
        }
        // The thread may be ending, and with it what it has to spare.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < IMAGES_SPARE {
                spare.push(page);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_never_while_somebody_holds_it() {
        let mut first = Image::blank();
        first.sole()[0] = 7;
        let held = first.clone();
        drop(first);
        let other = Image::to_fill();
        assert!(!std::ptr::eq(&*other, &*held), "somebody holds it");
        assert_eq!(held[0], 7);
        let place: *const Page = &*held;
        drop(held);
        let again = Image::blank();
        assert!(std::ptr::eq(&*again, place), "nobody holds it");
        assert_eq!(again[0], 0);
        assert_eq!(again.copied(), again);
    }
}
