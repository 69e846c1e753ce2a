//! The inner pages of the tree, kept in memory: what every way from the root passes.
//!
//! A tree has some hundred leaves to one inner page, so these are few, and most of what a read would copy out
//! of the engine's cache otherwise. They are those of the latest commit; a reader of an earlier state asks its
//! view for what was there before, as for every other page.
//!
//! ```text
//!  writer                                    reader
//!  view.begin(undo), uppers.begin()          takes a page from here, then asks its view; or
//!  commit                                    stamp, reads the object, keeps the page if since the stamp
//!  uppers.end(changed), view.advance()         no commit has begun
//! ```
//! So what is kept is what the object holds, unless a commit is on its way; then it is what the object held
//! before, for which nobody asks the view yet.
//!
//! Guarantees at most as many pages as it was made for, and sound ones; who finds no room does without. Does not
//! read, and does not know who is allowed to see what (`view`). Called by `snapshot`, `draft` and `writer`.

use std::collections::HashMap;

use parking_lot::RwLock;
use parking_lot::RwLockReadGuard;

use crate::kv::guide::Guide;
use crate::kv::image::Image;
use crate::kv::units::PageNo;

/// Inner pages as of the latest commit.
#[derive(Debug)]
pub struct Uppers {
    most: usize,
    /// Held for one look, or for the changes of one commit; never over an await.
    state: RwLock<State>,
}

/// A page, and how to find the way through it.
#[derive(Debug)]
struct Kept {
    page: Image,
    guide: Guide,
}

impl Kept {
    /// None for what is no sound inner page: who reads it finds out what it is.
    fn new(no: PageNo, page: &Image) -> Option<Self> {
        let guide = Guide::new(no, page).ok()?;
        Some(Self { page: page.clone(), guide })
    }
}

#[derive(Debug, Default)]
struct State {
    pages: HashMap<PageNo, Kept>,
    /// Commits that have begun or ended: odd while one is on its way.
    turns: u64,
}

/// When a read began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(u64);

/// A look at what is kept: of one commit, all of it.
pub struct Look<'a>(RwLockReadGuard<'a, State>);

impl Look<'_> {
    /// The child of a page under which `key` belongs, if the page is kept.
    pub fn child(&self, no: PageNo, key: &[u8]) -> Option<PageNo> {
        let Kept { page, guide } = self.0.pages.get(&no)?;
        guide.child(page, key).ok()
    }
}

impl Uppers {
    /// None yet, and `most` at most.
    pub fn new(most: usize) -> Self {
        Self { most, state: RwLock::default() }
    }

    /// A page that is kept.
    pub fn get(&self, no: PageNo) -> Option<Image> {
        self.state.read().pages.get(&no).map(|kept| kept.page.clone())
    }

    /// All that are kept, to look at one after the other. Commits wait meanwhile: not to be held over an await.
    pub fn look(&self) -> Look<'_> {
        Look(self.state.read())
    }

    /// To be asked before a page is read that is to be kept.
    pub fn stamp(&self) -> Stamp {
        Stamp(self.state.read().turns)
    }

    /// Keeps a page as it was read from the object after `stamp`, if it is that of the latest commit.
    pub fn keep(&self, stamp: Stamp, no: PageNo, page: &Image) {
        // A guide is not made for nothing: when there is no room, each read comes by here.
        if !self.takes(&self.state.read(), stamp) {
            return;
        }
        let Some(kept) = Kept::new(no, page) else { return };
        let mut state = self.state.write();
        if self.takes(&state, stamp) {
            state.pages.insert(no, kept);
        }
    }

    fn takes(&self, state: &State, stamp: Stamp) -> bool {
        let is_latest = state.turns == stamp.0 && state.turns.is_multiple_of(2);
        is_latest && state.pages.len() < self.most
    }

    /// To be called before a commit changes anything.
    pub fn begin(&self) {
        let turns = &mut self.state.write().turns;
        assert!(turns.is_multiple_of(2), "one commit at a time");
        *turns += 1;
    }

    /// To be called when the commit has happened, with all pages that it has changed: inner ones as they are
    /// now, and none for those that are something else. When it has failed, with nothing.
    pub fn end(&self, changed: Vec<(PageNo, Option<Image>)>) {
        let kept =
            |(no, page): (PageNo, Option<Image>)| (no, page.and_then(|page| Kept::new(no, &page)));
        let changed: Vec<_> = changed.into_iter().map(kept).collect();
        let state = &mut *self.state.write();
        assert!(!state.turns.is_multiple_of(2), "a commit ends that has begun");
        state.turns += 1;
        for (no, page) in changed {
            match page {
                Some(kept) if state.pages.len() < self.most || state.pages.contains_key(&no) => {
                    state.pages.insert(no, kept);
                }
                _ => drop(state.pages.remove(&no)),
            }
        }
    }

    /// Keeps nothing of what was there.
    pub fn clear(&self) {
        self.state.write().pages = HashMap::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::node::NodeMut;
    use crate::kv::page::Kind;

    /// An inner page that leads to `child`.
    fn page(no: PageNo, child: PageNo) -> Image {
        let mut page = Image::blank();
        NodeMut::format(no, page.sole(), Kind::Inner, child);
        page
    }

    fn kept(uppers: &Uppers, no: PageNo) -> Option<PageNo> {
        let child = uppers.look().child(no, b"key");
        assert_eq!(uppers.get(no), child.map(|child| page(no, child)));
        child
    }

    #[test]
    fn what_a_commit_may_have_passed_is_not_kept() {
        let uppers = Uppers::new(8);
        let before = uppers.stamp();
        uppers.begin();
        // The first may be of before the commit, the second half of it.
        let beside = uppers.stamp();
        for (no, stamp) in [(1, before), (2, beside)] {
            uppers.keep(stamp, no, &page(no, 5));
            assert_eq!(kept(&uppers, no), None);
        }
        uppers.end(Vec::new());
        for (no, stamp) in [(1, before), (2, beside)] {
            uppers.keep(stamp, no, &page(no, 5));
            assert_eq!(kept(&uppers, no), None);
        }
        uppers.keep(uppers.stamp(), 3, &page(3, 6));
        assert_eq!(kept(&uppers, 3), Some(6));
    }

    #[test]
    fn a_commit_replaces_what_it_changed_and_takes_away_what_is_no_inner_page() {
        let uppers = Uppers::new(2);
        uppers.keep(uppers.stamp(), 1, &page(1, 5));
        uppers.keep(uppers.stamp(), 2, &page(2, 5));
        uppers.keep(uppers.stamp(), 3, &page(3, 5));
        assert_eq!(kept(&uppers, 3), None, "there is no room");
        uppers.begin();
        assert_eq!(kept(&uppers, 1), Some(5), "as long as nobody sees the commit");
        uppers.end(vec![(1, Some(page(1, 15))), (4, Some(page(4, 5))), (2, None)]);
        assert_eq!([1, 2, 4].map(|no| kept(&uppers, no)), [Some(15), None, None]);
        uppers.clear();
        assert_eq!(kept(&uppers, 1), None);
    }

    #[test]
    fn what_is_no_sound_inner_page_is_not_kept() {
        let uppers = Uppers::new(2);
        uppers.keep(uppers.stamp(), 1, &Image::blank());
        uppers.keep(uppers.stamp(), 2, &page(1, 5));
        assert_eq!([1, 2].map(|no| kept(&uppers, no)), [None, None]);
        uppers.keep(uppers.stamp(), 1, &page(1, 5));
        uppers.begin();
        uppers.end(vec![(1, Some(Image::blank()))]);
        assert_eq!(kept(&uppers, 1), None, "what was there before is gone");
    }
}
