//! The named places for simulations of the whole engine: counted, broken and delayed for one thread.
//!
//! Guarantees: nothing is broken or delayed that was not asked for on this thread, and one seed gives one
//! sequence of delays. A delay is virtual time where time is virtual. Exists with the feature `testing`
//! alone, outside of unit tests. Set by `testing`, asked by `read`, `write` and `writeback`.

use std::cell::Cell;
use std::time::Duration;

use super::Canary;
use super::Point;
use crate::kit::sync::sleep;

const POINTS: usize = 6;
/// Two requests of the simulated disk fit into the longest delay.
const DELAY_MS_MAX: u64 = 8;
/// Who passes is delayed once in so many times.
const DELAYED_ONE_IN: u64 = 4;

thread_local! {
    static HITS: [Cell<u64>; POINTS] = const { [const { Cell::new(0) }; POINTS] };
    static BROKEN: Cell<Option<Canary>> = const { Cell::new(None) };
    static SWAY: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Breaks something on this thread, or nothing.
pub fn break_on_purpose(what: Option<Canary>) {
    BROKEN.set(what);
}

/// How often somebody came by on this thread.
pub fn hits(point: Point) -> u64 {
    HITS.with(|hits| hits[point as usize].get())
}

/// Delays some of those who come by on this thread, as the seed says, or nobody.
pub fn sway(seed: Option<u64>) {
    SWAY.set(seed);
}

/// The next delay; a step of the generator of Knuth's MMIX, whose high bits are good enough here.
fn delay() -> Option<Duration> {
    let state = SWAY.get()?;
    let next =
        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    SWAY.set(Some(next));
    let drawn = next >> 33;
    let delayed = drawn.is_multiple_of(DELAYED_ONE_IN);
    delayed.then(|| Duration::from_millis(drawn / DELAYED_ONE_IN % DELAY_MS_MAX))
}

/// The way into what this thread set; the same for each bundle.
#[derive(Debug, Clone, Default)]
pub struct Pauses {
    _nothing: (),
}

impl Pauses {
    /// Counts the visit and waits if it is to be delayed.
    pub async fn at(&self, point: Point) {
        self.visit(point);
        if let Some(delay) = delay() {
            sleep(delay).await;
        }
    }

    /// Counts the visit.
    pub fn visit(&self, point: Point) {
        HITS.with(|hits| hits[point as usize].set(hits[point as usize].get() + 1));
    }

    /// Whether it is broken on this thread.
    pub fn is_broken(&self, canary: Canary) -> bool {
        BROKEN.get() == Some(canary)
    }
}
