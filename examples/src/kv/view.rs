//! Which state of the tree a reader sees: versions without locks that wait.
//!
//! A reader takes the current view and keeps it to its end. The writer never makes it wait, and it
//! never makes the writer wait: around each commit the writer leaves the old images of the pages that
//! the commit changes in the view that the commit ends.
//!
//! ```text
//!  writer                                   reader with view n
//!  view n .undo = old images
//!  commit() publishes new pages             reads page p from the object: old, new or torn
//!  view n .next = view n+1, current         asks n .undo, then n+1 .undo, ... for p:
//!                                             the first image found is p as of view n;
//!                                             none: p has not changed since view n
//! ```
//! The reader reads *first* and asks *then*: if the undo was not there after the read, the commit had
//! not begun before the read ended.
//!
//! Guarantees that a view shows exactly one committed state, all of it or an error. Memory: the
//! images live as long as a reader could ask for them, at most `VIEWS_BYTES_MAX`; older views expire
//! and their readers start again. (An expired view may be read below, but nothing comes of it.) Does not read pages and does not commit. Called by `snapshot`
//! (readers) and `writer`.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::image::Image;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::limits::VIEWS_BEHIND_MAX;
use crate::kv::limits::VIEWS_BYTES_MAX;
use crate::kv::meta::Meta;
use crate::kv::units::LargeId;
use crate::kv::units::PageNo;

/// What a commit changes, as it was before.
#[derive(Debug, Default)]
pub struct Undo {
    /// Old images by page.
    pub pages: HashMap<PageNo, Image>,
    /// Bytes of large values, in the order in which they were replaced.
    pub larges: Vec<Old>,
}

/// Bytes of a large value before they were replaced.
#[derive(Debug, Clone)]
pub struct Old {
    /// Of which one.
    pub id: LargeId,
    /// Where they were.
    pub at: usize,
    /// Themselves.
    pub bytes: Bytes,
}

impl Undo {
    fn bytes(&self) -> usize {
        let larges: usize = self.larges.iter().map(|old| old.bytes.len()).sum();
        self.pages.len() * PAGE_BYTES + larges
    }
}

/// One committed state of the tree.
#[derive(Debug)]
pub struct View {
    meta: Meta,
    /// Written twice in a view's life, read at every page read behind that; held for a lookup, never over
    /// an await.
    state: RwLock<State>,
    /// A commit has begun behind it. Set before that commit changes anything, so that who reads first and asks
    /// then needs no lock as long as nothing changes.
    has_ended: AtomicBool,
    /// Wakes the writer that waits for old views to go.
    gone: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// What the following commit changes. Set before it begins.
    undo: Option<Undo>,
    /// The state after it.
    next: Option<Arc<View>>,
    /// The undo and the way to later views were dropped to save memory.
    expired: bool,
}

impl View {
    fn new(meta: Meta, gone: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { meta, state: RwLock::default(), has_ended: AtomicBool::new(false), gone })
    }

    /// The tree's root and size at this state.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Whether everything that was read up to now, from the object or from what is kept of it, was of this view.
    pub fn is_untouched(&self) -> bool {
        !self.has_ended.load(Ordering::SeqCst)
    }

    /// What `no` is in this view, if that is something else than what was just read from the object.
    ///
    /// Errors: `ViewExpired`.
    pub fn before(&self, no: PageNo) -> Result<Option<Image>> {
        if self.is_untouched() {
            return Ok(None);
        }
        let mut following = match self.look(no)? {
            Look::Settled(image) => return Ok(image),
            Look::Ask(next) => next,
        };
        loop {
            following = match following.look(no)? {
                Look::Settled(image) => return Ok(image),
                Look::Ask(next) => next,
            };
        }
    }

    /// Whether no commit has ended it.
    pub fn is_current(&self) -> bool {
        let state = self.state.read();
        !state.expired && state.next.is_none()
    }

    /// What the commits behind this view have replaced in a large value, in their order.
    ///
    /// Errors: `ViewExpired`.
    pub fn replaced(&self, id: LargeId) -> Result<Vec<Old>> {
        let mut all = Vec::new();
        let mut following = self.collect(id, &mut all)?;
        while let Some(view) = following {
            following = view.collect(id, &mut all)?;
        }
        Ok(all)
    }

    fn collect(&self, id: LargeId, all: &mut Vec<Old>) -> Result<Option<Arc<Self>>> {
        let state = self.state.read();
        if state.expired {
            return Err(Error::ViewExpired);
        }
        let replaced = state.undo.iter().flat_map(|undo| &undo.larges);
        all.extend(replaced.filter(|old| old.id == id).cloned());
        Ok(state.next.clone())
    }

    fn look(&self, no: PageNo) -> Result<Look> {
        let state = self.state.read();
        if state.expired {
            return Err(Error::ViewExpired);
        }
        if let Some(image) = state.undo.as_ref().and_then(|undo| undo.pages.get(&no)) {
            return Ok(Look::Settled(Some(image.clone())));
        }
        Ok(state.next.clone().map_or(Look::Settled(None), Look::Ask))
    }
}

/// What one view knows of a page.
enum Look {
    /// This is what it was, or nothing has changed it.
    Settled(Option<Image>),
    /// It did not change up to this view.
    Ask(Arc<View>),
}

impl Drop for View {
    fn drop(&mut self) {
        // One by one: dropping a long chain by recursion would overflow the stack.
        let mut next = self.state.get_mut().next.take();
        while let Some(view) = next {
            next = Arc::into_inner(view).and_then(|mut view| view.state.get_mut().next.take());
        }
        self.gone.notify_one();
    }
}

/// The reader's side: where the current view is found.
#[derive(Debug, Clone)]
pub struct Current {
    /// Swapped once per commit, cloned once per read; never held over an await.
    view: Arc<RwLock<Arc<View>>>,
}

impl Current {
    /// The latest committed state.
    pub fn get(&self) -> Arc<View> {
        self.view.read().clone()
    }
}

/// The writer's side. There is one.
#[derive(Debug)]
pub struct Views {
    current: Current,
    /// Views that were current before, oldest first, as long as somebody may read in them.
    old: VecDeque<(Weak<View>, usize)>,
    gone: Arc<Notify>,
}

impl Views {
    /// Starts with `meta`.
    pub fn new(meta: Meta) -> Self {
        let gone = Arc::new(Notify::new());
        let view = Arc::new(RwLock::new(View::new(meta, gone.clone())));
        Self { current: Current { view }, old: VecDeque::new(), gone }
    }

    /// For readers.
    pub fn current(&self) -> Current {
        self.current.clone()
    }

    /// To be called before a commit changes the pages in `undo`.
    pub fn begin(&mut self, undo: Undo) {
        let view = self.current.get();
        let before = view.state.write().undo.replace(undo);
        assert!(before.is_none(), "a view ends once");
        view.has_ended.store(true, Ordering::SeqCst);
    }

    /// To be called when the commit has happened, with its state, or has failed, with the old one.
    pub fn advance(&mut self, meta: Meta) {
        let next = View::new(meta, self.gone.clone());
        let ended = std::mem::replace(&mut *self.current.view.write(), next.clone());
        assert!(!ended.is_untouched(), "a commit begins before it ends");
        let bytes = {
            let mut state = ended.state.write();
            state.next = Some(next);
            state.undo.as_ref().map_or(0, Undo::bytes)
        };
        self.old.push_back((Arc::downgrade(&ended), bytes));
        drop(ended);
        self.trim();
    }

    fn trim(&mut self) {
        self.old.retain(|(view, _)| view.strong_count() > 0);
        let mut bytes: usize = self.old.iter().map(|(_, bytes)| bytes).sum();
        while bytes > VIEWS_BYTES_MAX || self.old.len() > VIEWS_BEHIND_MAX {
            let Some((oldest, freed)) = self.old.pop_front() else { return };
            bytes -= freed;
            if let Some(view) = oldest.upgrade() {
                let mut state = view.state.write();
                state.expired = true;
                state.undo = None;
                state.next = None;
            }
        }
    }

    /// Waits until nobody reads in any state but the current one.
    pub async fn only_current(&mut self) {
        loop {
            self.old.retain(|(view, _)| view.strong_count() > 0);
            if self.old.is_empty() {
                return;
            }
            self.gone.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undo(no: PageNo, byte: u8) -> Undo {
        let mut image = Image::blank();
        image.sole().fill(byte);
        let pages = HashMap::from([(no, image)]);
        Undo { pages, larges: Vec::new() }
    }

    #[test]
    fn what_was_replaced_in_a_large_value_is_found_in_order() {
        let mut views = Views::new(Meta::empty());
        let behind = views.current().get();
        for (id, at) in [(1, 5), (2, 6), (1, 7)] {
            let old = Old { id, at, bytes: Bytes::from_static(b"old") };
            views.begin(Undo { larges: vec![old], ..Undo::default() });
            views.advance(Meta::empty());
        }
        let places = |view: &View| {
            let all = view.replaced(1).unwrap();
            all.iter().map(|old| old.at).collect::<Vec<_>>()
        };
        assert_eq!(places(&behind), [5, 7]);
        assert_eq!(places(&views.current().get()), [0_usize; 0]);
        assert!(!behind.is_current() && views.current().get().is_current());
    }

    #[test]
    fn each_view_sees_its_own_state() {
        let mut views = Views::new(Meta::empty());
        let mut seen = Vec::new();
        for n in 0..5 {
            seen.push(views.current().get());
            views.begin(undo(7, n));
            views.advance(Meta::empty());
        }
        for (n, view) in seen.iter().enumerate() {
            assert_eq!(view.before(7).unwrap().map(|page| page[0]), Some(n as u8));
            assert_eq!(view.before(8).unwrap(), None);
        }
        assert_eq!(views.current().get().before(7).unwrap(), None);
    }

    #[test]
    fn a_reader_far_behind_is_told() {
        let mut views = Views::new(Meta::empty());
        let behind = views.current().get();
        for n in 0..100_000_u32 {
            let undo = if n % 10 == 0 { undo(n, 1) } else { Undo::default() };
            views.begin(undo);
            views.advance(Meta::empty());
        }
        let told = behind.before(7);
        assert!(matches!(told, Err(Error::ViewExpired)));
        drop(behind);
    }

    #[tokio::test]
    async fn the_writer_can_wait_for_old_readers() {
        let mut views = Views::new(Meta::empty());
        let behind = views.current().get();
        views.begin(Undo::default());
        views.advance(Meta::empty());
        let waiting = tokio::spawn(async move { views.only_current().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(behind);
        waiting.await.unwrap();
    }
}
