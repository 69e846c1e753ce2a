//! Cuts, delays and counts at the named places of the engine. Needs its feature `testing`.
//!
//! Guarantees that nothing of this outlives a run: [`HOOKS`] are set and taken back by it. Used by `soak` and by
//! the tests.

use std::cell::Cell;
use std::rc::Rc;

use foliant::testing::Point;
use foliant::testing::point_hits;
use foliant::testing::stop;
use foliant::testing::stop::Stop;
use foliant::testing::sway;
use foliant_device::sim::SimDisk;

/// The named places of the provider and the metadata wing.
pub const STOPS: [Stop; 4] = [
    Stop::BeforeCheckpointWrite,
    Stop::BeforeAttach,
    Stop::BeforeWritebackMapping,
    Stop::BeforeCompletion,
];

/// The named places of the data wing.
pub const POINTS: [Point; 6] = [
    Point::AfterMap,
    Point::BeforeFolioLock,
    Point::AfterFolioLock,
    Point::BetweenCopyAndAttach,
    Point::BeforeWritebackMapping,
    Point::BeforeCompletion,
];

/// A cut comes at one of the first so many visits of a place; some are rare.
const VISITS_MAX: [u64; 4] = [3, 30, 10, 10];

thread_local! {
    static CUTS: [Cell<u64>; 4] = const { [const { Cell::new(0) }; 4] };
}

/// Cuts the power at a visit of a place, both chosen by the number, or nowhere.
pub fn cut(at: Option<(SimDisk, u64)>) {
    STOPS.iter().for_each(|&stop| stop::on(stop, None));
    let Some((disk, number)) = at else { return };
    let which = (number % 4) as usize;
    let left = Cell::new(number / 4 % VISITS_MAX[which]);
    let hook = move || {
        if left.get() == 0 && disk.is_powered() {
            CUTS.with(|cuts| cuts[which].set(cuts[which].get() + 1));
            disk.power_off();
        }
        left.set(left.get().saturating_sub(1));
    };
    stop::on(STOPS[which], Some(Rc::new(hook)));
}

/// Both for a run.
pub const HOOKS: super::Hooks = super::Hooks { sway, cut };

/// Each place, how often this thread came by, and how often the power went there.
pub fn hits() -> Vec<(String, u64, u64)> {
    let cuts = |which: usize| CUTS.with(|cuts| cuts[which].get());
    let stops = STOPS.iter().enumerate();
    let stops = stops.map(|(i, &s)| (format!("{s:?}"), stop::hits(s), cuts(i)));
    let points = POINTS.iter().map(|&p| (format!("cache {p:?}"), point_hits(p), 0));
    stops.chain(points).collect()
}
