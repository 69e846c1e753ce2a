//! WATCH: has one of these keys been changed since?
//!
//! The writer touches the keys of each change twice: when it is planned, so that a condition later in
//! the same commit sees it, and when it has become visible, because who began to watch in between may
//! have read the old state. So a change is never missed, and one that is just being made may be
//! noticed although its watcher has read it already: then the watcher tries again for nothing.
//!
//! Guarantees that a watch costs nothing once it is dropped, and a touch without watches one atomic
//! load. Does not bound watches: `session` does. Called by `session` (as a watcher) and `writer`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::kv::units::Millis;

/// All watches of a store.
#[derive(Debug, Default)]
pub struct Watches {
    /// Keys in `watchers`. Read without the lock, to leave early; what a watcher did before it read a
    /// view happens before the touch that follows the view's end (the lock of the view orders them).
    watched: AtomicUsize,
    /// Held for a look-up per key, never over an await.
    watchers: Mutex<HashMap<Bytes, Vec<Arc<AtomicBool>>>>,
}

impl Watches {
    /// Some keys were changed, by a transaction with the watch `own` if there is one: that one has been
    /// asked already, and may be asked again if the transaction has to be planned anew.
    pub fn touch<'k>(&self, keys: impl IntoIterator<Item = &'k Bytes>, own: Option<&Watch>) {
        if self.watched.load(Ordering::Acquire) == 0 {
            return;
        }
        let watchers = self.watchers.lock();
        for key in keys {
            let flags = watchers.get(key).into_iter().flatten();
            let is_own =
                |flag: &&Arc<AtomicBool>| own.is_some_and(|own| Arc::ptr_eq(flag, &own.touched));
            flags.filter(|flag| !is_own(flag)).for_each(|flag| flag.store(true, Ordering::Release));
        }
    }

    /// All keys were changed.
    pub fn touch_all(&self) {
        let watchers = self.watchers.lock();
        watchers.values().flatten().for_each(|flag| flag.store(true, Ordering::Release));
    }
}

/// Keys that one client watches.
#[derive(Debug)]
pub struct Watch {
    watches: Arc<Watches>,
    keys: Vec<Bytes>,
    touched: Arc<AtomicBool>,
    /// The first end among the entries that were there.
    until: Option<Millis>,
}

impl Watch {
    /// No keys yet.
    pub fn new(watches: Arc<Watches>) -> Self {
        Self { watches, keys: Vec::new(), touched: Arc::default(), until: None }
    }

    /// Watches one more key. What is read afterwards is watched.
    pub fn add(&mut self, key: Bytes) {
        if self.keys.contains(&key) {
            return;
        }
        let mut watchers = self.watches.watchers.lock();
        watchers.entry(key.clone()).or_default().push(self.touched.clone());
        self.watches.watched.store(watchers.len(), Ordering::Release);
        drop(watchers);
        self.keys.push(key);
    }

    /// One of the entries ends then; that is a change as well.
    pub fn add_end(&mut self, end: Millis) {
        self.until = Some(self.until.map_or(end, |until| until.min(end)));
    }

    /// Keys watched.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether one of the keys was changed, or ended before `now`.
    pub fn is_touched(&self, now: Millis) -> bool {
        self.touched.load(Ordering::Acquire) || self.until.is_some_and(|until| until <= now)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = self.watches.watchers.lock();
        for key in &self.keys {
            let Some(flags) = watchers.get_mut(key) else { continue };
            flags.retain(|flag| !Arc::ptr_eq(flag, &self.touched));
            if flags.is_empty() {
                watchers.remove(key);
            }
        }
        self.watches.watched.store(watchers.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touch_reaches_those_who_watch_and_leaves_nothing() {
        let watches = Arc::new(Watches::default());
        let (mut first, mut second) = (Watch::new(watches.clone()), Watch::new(watches.clone()));
        first.add("a".into());
        second.add("a".into());
        second.add("b".into());
        watches.touch([&Bytes::from("b")], Some(&second));
        assert!(!second.is_touched(0));
        watches.touch([&Bytes::from("b")], None);
        assert!(!first.is_touched(0) && second.is_touched(0));
        first.add_end(10);
        assert!(!first.is_touched(9) && first.is_touched(10));
        watches.touch_all();
        assert!(first.is_touched(0));
        drop((first, second));
        assert!(watches.watchers.lock().is_empty());
        assert_eq!(watches.watched.load(Ordering::Acquire), 0);
    }
}
