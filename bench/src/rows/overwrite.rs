//! Rows d1 to d4: random 4 KiB overwrites with a sync now and then, on loop devices of one kind.
//!
//! The store is overwritten three times before anything counts, because an engine that writes out of
//! place flatters itself on an empty device. Peers: one file on XFS, pwrite and fdatasync, with as
//! much memory; and the bare device, in place, 32 writes at once and a flush. Flushes and bytes are those
//! that the kernel counted on each loop device. Called by `rows`.

use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use foliant_device::BLOCK_SIZE;

use crate::rows::contest;
use crate::rows::contest::Levels;
use crate::rows::contest::Side;
use crate::rows::contest::Unit;
use crate::rows::disk::Disk;
use crate::rows::disk::Watched;
use crate::rows::peer::PeerLine;
use crate::rows::peer::PeerSide;
use crate::rows::plan::Plan;
use crate::rows::report::Outcome;
use crate::rows::store::READ;
use crate::rows::store::Store;
use crate::rows::store::lodge_on;
use crate::rows::xfs::Xfs;
use crate::targets::foliant::Foliant;
use crate::targets::raw::Raw;
use crate::workload::Shape;
use crate::workload::Verb;
use crate::workload::show_bytes;

/// Writes in flight of the bare device.
const RAW_DEPTH: usize = 32;
/// How often the data is overwritten before anything counts.
const AGED_TIMES: u64 = 3;
/// Ageing ends here, and says so.
const AGEING_MAX: Duration = Duration::from_secs(90);

/// What tells these rows apart.
struct Kind {
    every: u64,
    fill_percent: u64,
    xfs: Levels,
    raw: Levels,
}

pub fn d1(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let (xfs, raw) = (Levels::new(4.0, 8.0), Levels::new(2.5, 5.0));
    overwritten(plan, outcome, &Kind { every: 16_384, fill_percent: 50, xfs, raw })
}

pub fn d2(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let (xfs, raw) = (Levels::new(5.0, 10.0), Levels::NONE);
    overwritten(plan, outcome, &Kind { every: 1024, fill_percent: 50, xfs, raw })
}

pub fn d3(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let (xfs, raw) = (Levels::new(1.8, 3.0), Levels::new(1.2, 2.0));
    overwritten(plan, outcome, &Kind { every: 16_384, fill_percent: 80, xfs, raw })
}

/// Bytes that the device was given per byte that the user wrote, everything included.
pub fn d4(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let sizes = Sizes::of(plan, 16_384, 50);
    let Some(disk) = disk(plan, outcome, "foliant", sizes.device) else {
        return nothing(outcome);
    };
    let store = aged(plan, outcome, &disk, &sizes)?;
    let mut side = Watched::new(store.side("foliant"), &disk);
    for pair in 0..plan.rules.pairs {
        side.block(plan.rules.time, (plan.rules.seed << 20) + pair as u64)?;
    }
    let (levels, values) = (Levels::new(1.45, 1.30), side.amplification.clone());
    let what = "d4 device bytes per user byte";
    outcome.contests.push(contest::judged(what, (Unit::Count, levels), values, plan.rules.seed));
    outcome.fact("foliant", side.words());
    outcome.verdicts.push(store.finish()?);
    Ok(())
}

struct Sizes {
    data: u64,
    memory: u64,
    device: u64,
    every: u64,
}

impl Sizes {
    fn of(plan: &Plan, every: u64, fill_percent: u64) -> Self {
        let data = plan.size(1 << 30, 8 << 20);
        let memory = (data / 4).max(16 << 20);
        // Metadata and journal are part of the device.
        let device = (data * 100 / fill_percent).max(40 << 20).next_multiple_of(1 << 20);
        Self { data, memory, device, every: if plan.quick { every.min(256) } else { every } }
    }

    fn shape(&self, clients: usize) -> Shape {
        let sync_every = Some(self.every);
        Shape { verb: Verb::Write, clients, sync_every, glance: false, ..READ }
    }
}

fn overwritten(plan: &Plan, outcome: &mut Outcome, kind: &Kind) -> Result<()> {
    let sizes = Sizes::of(plan, kind.every, kind.fill_percent);
    let Some(disk) = disk(plan, outcome, "foliant", sizes.device) else {
        return nothing(outcome);
    };
    let store = aged(plan, outcome, &disk, &sizes)?;
    let mut subject = Watched::new(store.side("foliant"), &disk);
    if plan.alone {
        outcome.alone(plan, "overwrites", &mut subject)?;
    } else {
        against_xfs(plan, outcome, &sizes, &mut subject, kind)?;
        against_raw(plan, outcome, &sizes, &mut subject, kind.raw)?;
    }
    outcome.fact("foliant", subject.words());
    outcome.verdicts.push(store.finish()?);
    Ok(())
}

/// A store that was overwritten some times.
fn aged(plan: &Plan, outcome: &mut Outcome, disk: &Disk, sizes: &Sizes) -> Result<Store> {
    let lodging = lodge_on(disk, "foliant", sizes.data, sizes.memory)?;
    let store = Store::<Foliant>::start_in(plan, sizes.shape(1), lodging, 2)?;
    let goal = if plan.quick { sizes.data } else { sizes.data * AGED_TIMES };
    let (start, mut written, mut stretch) = (Instant::now(), 0.0, 1 << 40);
    while written < goal as f64 && start.elapsed() < AGEING_MAX {
        written += store.side("ageing").block(plan.rules.time, stretch)?.bytes;
        stretch += 1;
    }
    let (blocks, times) = (sizes.data / BLOCK_SIZE as u64, written / sizes.data as f64);
    let (data, device) = (show_bytes(sizes.data), show_bytes(sizes.device));
    let memory = show_bytes(sizes.memory);
    outcome.fact(
        "shape",
        format!(
            "{data} of data ({blocks} blocks) on a device of {device}, memory {memory}, a sync every {}, \
             overwritten {times:.1} times beforehand at {}/s",
            sizes.every,
            show_bytes((written / start.elapsed().as_secs_f64().max(1e-9)) as u64)
        ),
    );
    Ok(store)
}

fn against_xfs(
    plan: &Plan,
    outcome: &mut Outcome,
    sizes: &Sizes,
    subject: &mut dyn Side,
    kind: &Kind,
) -> Result<()> {
    let Some(xfs) = Xfs::or_skip(plan, outcome, sizes.device) else { return Ok(()) };
    let line = PeerLine {
        folder: xfs.folder().to_owned(),
        size: sizes.data,
        clients: 1,
        sync_every: sizes.every,
        seed: plan.rules.seed,
    };
    let (peer, remark) = PeerSide::start("XFS", &line, sizes.memory)?;
    outcome.fact("XFS", format!("pwrite and fdatasync {remark}"));
    let mut peer = Watched::new(peer, xfs.disk());
    outcome.contest(plan, "over XFS", (Unit::Ratio, kind.xfs), subject, &mut peer)?;
    outcome.fact("XFS", peer.words());
    outcome.verdicts.push(peer.side.verify()?);
    Ok(())
}

fn against_raw(
    plan: &Plan,
    outcome: &mut Outcome,
    sizes: &Sizes,
    subject: &mut dyn Side,
    levels: Levels,
) -> Result<()> {
    let Some(disk) = disk(plan, outcome, "raw", sizes.device) else {
        return Ok(());
    };
    let lodging = lodge_on(&disk, "raw", sizes.data, sizes.memory)?;
    let store = Store::<Raw>::start_in(plan, sizes.shape(RAW_DEPTH), lodging, 1)?;
    let mut peer = Watched::new(store.side("raw in place"), &disk);
    outcome.contest(plan, "over the bare device", (Unit::Ratio, levels), subject, &mut peer)?;
    outcome.fact("raw", peer.words());
    outcome.verdicts.push(store.finish()?);
    Ok(())
}

/// A loop device, or a loud word why there is none.
pub fn disk(plan: &Plan, outcome: &mut Outcome, name: &str, bytes: u64) -> Option<Disk> {
    let made = Disk::new(plan, name, bytes);
    made.map_err(|e| outcome.skip(format!("a loop device, which needs root: {e:#}"))).ok()
}

/// No device, no data: the row says so, and nothing that it holds is wrong.
pub fn nothing(outcome: &mut Outcome) -> Result<()> {
    outcome.fact("measured", "nothing: this row needs loop devices");
    Ok(())
}
