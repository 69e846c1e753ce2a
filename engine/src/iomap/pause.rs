//! Named places in the middle of an operation where a test can stop it, count it or break it.
//!
//! Guarantees: in a normal build all of this is empty and costs nothing. In this crate's unit tests
//! each bundle has its own registry, so tests do not disturb each other. With the feature `testing` visits
//! are counted, faults set and passers-by delayed (`counted`), for one thread, as in `kit::canary`.
//!
//! Does not decide anything in production. Called by `read`, `write` and `writeback`.

/// Where an operation can be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The mappings are there, nothing is locked but the range.
    AfterMap,
    /// About to lock the next folio of a write or a read miss.
    BeforeFolioLock,
    /// All folios of the piece are locked; nothing is checked or changed.
    AfterFolioLock,
    /// The bytes are in the folio, which is marked neither dirty nor attached. Synchronous.
    BetweenCopyAndAttach,
    /// A batch is collected, its folios are unlocked, nothing has a place.
    BeforeWritebackMapping,
    /// A batch is on the device; the provider does not know it.
    BeforeCompletion,
}

/// Deliberate faults: each must make a test fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canary {
    /// Stale mappings are taken for good ones.
    IgnoreStaleness,
    /// Nobody zeroes behind the old end when the size grows.
    LeaveOldEnd,
    /// Checksums of blocks read are not compared.
    TrustDevice,
    /// A failed batch is taken for a good one.
    ForgetWriteErrors,
    /// The size may be durable whatever else is dirty.
    SettleEverything,
    /// What a direct write replaced stays cached.
    KeepSuperseded,
    /// A direct write does not lock its range.
    WriteUnlocked,
    /// A direct read does not look into the cache.
    ReadPastDirty,
    /// A batch settles the size of before it took its images, whatever these hold.
    SettleOldSize,
    /// Zeroing waits for its share of the dirty room with the range locked.
    WaitForZeroes,
    /// The size is published with the last folio of a write only.
    PublishLate,
    /// A folio leaves its guard without having been attached.
    SkipAttach,
    /// What a short copy brought is accepted, whatever was in the block before.
    AcceptShort,
    /// Zeroing looks at mappings only, not at what is dirty or under writeback.
    ZeroMappedOnly,
    /// An empty copy keeps the promise of a block that it did not dirty.
    KeepPromises,
    /// A guard that is dropped does not put its folio.
    SkipPut,
    /// However often a mapping went stale, writeback is not held still.
    RetryForEver,
}

#[cfg(test)]
pub use armed::Pauses;

#[cfg(all(not(test), feature = "testing"))]
mod counted;
#[cfg(all(not(test), feature = "testing"))]
pub use counted::Pauses;
#[cfg(all(not(test), feature = "testing"))]
pub use counted::break_on_purpose;
#[cfg(all(not(test), feature = "testing"))]
pub use counted::hits;
#[cfg(all(not(test), feature = "testing"))]
pub use counted::sway;

#[cfg(not(any(test, feature = "testing")))]
pub use disarmed::Pauses;

#[cfg(not(any(test, feature = "testing")))]
mod disarmed {
    use super::Canary;
    use super::Point;

    /// Nothing.
    #[derive(Debug, Clone, Default)]
    pub struct Pauses {
        _nothing: (),
    }

    impl Pauses {
        /// Goes on at once.
        #[inline(always)]
        pub async fn at(&self, _: Point) {}

        /// Goes on at once.
        #[inline(always)]
        pub fn visit(&self, _: Point) {}

        /// Nothing is broken.
        #[inline(always)]
        pub fn is_broken(&self, _: Canary) -> bool {
            false
        }
    }
}

#[cfg(test)]
mod armed {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::sync::Notify;

    use super::Canary;
    use super::Point;

    const POINTS: usize = 6;

    type Hook = Arc<dyn Fn() + Send + Sync>;

    #[derive(Default)]
    struct State {
        hits: [u64; POINTS],
        held: [bool; POINTS],
        waiting: [usize; POINTS],
        hooks: [Option<Hook>; POINTS],
        broken: Vec<Canary>,
    }

    #[derive(Default)]
    struct Inner {
        /// Short look-ups; never held across an await or a hook.
        state: Mutex<State>,
        changed: Notify,
    }

    /// The registry of one bundle.
    #[derive(Clone, Default)]
    pub struct Pauses {
        inner: Arc<Inner>,
    }

    impl std::fmt::Debug for Pauses {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Pauses")
        }
    }

    /// A closed point; it opens when this is dropped.
    pub struct Hold {
        inner: Arc<Inner>,
        point: Point,
    }

    struct Waiting<'a>(&'a Inner, Point);

    impl Drop for Waiting<'_> {
        fn drop(&mut self) {
            self.0.state.lock().waiting[self.1 as usize] -= 1;
        }
    }

    impl Pauses {
        /// Counts the visit, runs the hook and waits while the point is held.
        pub async fn at(&self, point: Point) {
            self.visit(point);
            if !self.inner.state.lock().held[point as usize] {
                return;
            }
            self.inner.state.lock().waiting[point as usize] += 1;
            let _waiting = Waiting(&self.inner, point);
            self.inner.changed.notify_waiters();
            self.inner.until(|s| !s.held[point as usize]).await;
        }

        /// Counts the visit and runs the hook; all that a point can do that cannot wait.
        pub fn visit(&self, point: Point) {
            let hook = {
                let mut state = self.inner.state.lock();
                state.hits[point as usize] += 1;
                state.hooks[point as usize].clone()
            };
            if let Some(hook) = hook {
                crate::kit::lock_order::apart(|| hook());
            }
        }

        /// Closes a point.
        pub fn hold(&self, point: Point) -> Hold {
            self.inner.state.lock().held[point as usize] = true;
            Hold { inner: Arc::clone(&self.inner), point }
        }

        /// Runs `hook` at each visit of the point.
        pub fn on(&self, point: Point, hook: impl Fn() + Send + Sync + 'static) {
            self.inner.state.lock().hooks[point as usize] = Some(Arc::new(hook));
        }

        /// How often the point was visited.
        pub fn hits(&self, point: Point) -> u64 {
            self.inner.state.lock().hits[point as usize]
        }

        /// Breaks something.
        pub fn break_on_purpose(&self, canary: Canary) {
            self.inner.state.lock().broken.push(canary);
        }

        /// Whether it was broken.
        pub fn is_broken(&self, canary: Canary) -> bool {
            self.inner.state.lock().broken.contains(&canary)
        }
    }

    impl Inner {
        async fn until(&self, is_so: impl Fn(&State) -> bool) {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if is_so(&self.state.lock()) {
                    return;
                }
                changed.await;
            }
        }
    }

    impl Hold {
        /// Waits until somebody stands at the point.
        pub async fn reached(&self) {
            let at = self.point as usize;
            self.inner.until(|s| s.waiting[at] > 0).await;
        }
    }

    impl Drop for Hold {
        fn drop(&mut self) {
            self.inner.state.lock().held[self.point as usize] = false;
            self.inner.changed.notify_waiters();
        }
    }
}
