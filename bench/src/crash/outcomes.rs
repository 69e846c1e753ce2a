//! One cut, and every disk that it could have left.
//!
//! Called by tests and by `soak`.

use foliant_device::sim::SimDisk;

use super::ground::is_sound;
use super::ground::open;
use super::ground::simulate;
use super::run::Plan;
use super::run::Run;

/// Writes that a cut may leave in any subset, at most: 2^12 disks are opened.
const UNDOABLE_MAX: usize = 12;

/// One run that ends in a cut, and then every disk that this cut could have left. The answer is how many
/// writes it could undo and how many disks were opened; none when there would have been too many.
pub fn every_outcome(seed: u64) -> (usize, u64) {
    simulate(async {
        let mut run = Run::new(&Plan::new(seed)).await;
        let engine = open(&run.disk).await.expect("a fresh volume opens");
        if let Err(cause) = run.burst(&engine).await {
            assert!(!run.disk.is_powered(), "refused with the power on: {cause}");
        }
        run.disk.power_cut();
        drop(engine);
        let cut = run.disk.last_cut().expect("the disk keeps its cuts");
        if cut.writes() > UNDOABLE_MAX {
            return (cut.writes(), 0);
        }
        for survivors in 0..1_u64 << cut.writes() {
            let mut run = Run { disk: SimDisk::after(&cut, survivors), ..run.clone() };
            is_sound(&run.disk, true).await;
            let engine = open(&run.disk).await.expect("a cut volume opens");
            run.check(&engine).await;
        }
        (cut.writes(), 1 << cut.writes())
    })
}
