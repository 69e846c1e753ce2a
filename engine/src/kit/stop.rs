//! Named places of the provider and the metadata wing where a test can count, look, or hold somebody up.
//!
//! Guarantees: without the feature `testing` all of this is empty. With it, a place is set for one thread,
//! as the deliberate faults of `canary` are: a simulation runs on one thread, so runs beside it are not
//! disturbed. (The data wing has its own, one registry per object: `iomap::pause`.)
//!
//! Does not decide anything in production. Called by the rooms that have such a place.

/// Where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The images of a round of the checkpoint are chosen; none is written home.
    BeforeCheckpointWrite,
    /// A commit is in the log; the folio, which is locked, is about to get its new image, and its
    /// mark is not set.
    BeforeAttach,
    /// A batch of dirty blocks is collected; nothing has a place.
    BeforeWritebackMapping,
    /// A batch is on the device, and not mapped.
    BeforeCompletion,
    /// Blocks that move are copied, and not mapped.
    BlocksCopied,
}

#[cfg(not(feature = "testing"))]
mod disarmed {
    use super::Stop;

    /// Goes on at once.
    #[inline(always)]
    pub fn visit(_: Stop) {}

    /// Goes on at once.
    #[inline(always)]
    pub async fn at(_: Stop) {}
}

#[cfg(not(feature = "testing"))]
pub use disarmed::at;
#[cfg(not(feature = "testing"))]
pub use disarmed::visit;

#[cfg(feature = "testing")]
mod armed {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::Stop;

    const STOPS: usize = 5;

    type Hook = Rc<dyn Fn()>;

    #[derive(Default)]
    struct State {
        hits: [u64; STOPS],
        hooks: [Option<Hook>; STOPS],
        gates: [Option<Arc<Semaphore>>; STOPS],
    }

    thread_local! {
        static STATE: RefCell<State> = RefCell::new(State::default());
    }

    /// Counts the visit and runs the hook.
    pub fn visit(stop: Stop) {
        let hook = STATE.with_borrow_mut(|state| {
            state.hits[stop as usize] += 1;
            state.hooks[stop as usize].clone()
        });
        if let Some(hook) = hook {
            crate::kit::lock_order::apart(|| hook());
        }
    }

    /// Counts the visit, runs the hook, and waits while the place is closed.
    pub async fn at(stop: Stop) {
        visit(stop);
        let gate = STATE.with_borrow(|state| state.gates[stop as usize].clone());
        if let Some(gate) = gate {
            let _through = gate.acquire().await;
        }
    }

    /// How often somebody came by, on this thread.
    pub fn hits(stop: Stop) -> u64 {
        STATE.with_borrow(|state| state.hits[stop as usize])
    }

    /// Runs `hook` at each visit on this thread, or nothing.
    pub fn on(stop: Stop, hook: Option<Rc<dyn Fn()>>) {
        STATE.with_borrow_mut(|state| state.hooks[stop as usize] = hook);
    }

    /// Closes the place on this thread, or opens it.
    pub fn close(stop: Stop, closed: bool) {
        let gate = closed.then(|| Arc::new(Semaphore::new(0)));
        let before =
            STATE.with_borrow_mut(|state| std::mem::replace(&mut state.gates[stop as usize], gate));
        if let Some(before) = before {
            before.close();
        }
    }
}

#[cfg(feature = "testing")]
pub use armed::at;
#[cfg(feature = "testing")]
pub use armed::close;
#[cfg(feature = "testing")]
pub use armed::hits;
#[cfg(feature = "testing")]
pub use armed::on;
#[cfg(feature = "testing")]
pub use armed::visit;
