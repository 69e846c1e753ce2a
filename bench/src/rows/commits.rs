//! Rows e1 to e3: durable commits of one 4 KiB block, by 1, 16 and 64 clients, on loop devices.
//!
//! Peers: a file on XFS that is overwritten, files on XFS that are appended to (one for each client, so
//! that no lock of a file is between them), pwrite and fdatasync in both; and the bare device, a
//! write and a flush. Flushes are those that the kernel counted. Called by `rows`.

use anyhow::Result;

use crate::rows::contest;
use crate::rows::contest::Levels;
use crate::rows::contest::Side;
use crate::rows::contest::Unit;
use crate::rows::disk::Watched;
use crate::rows::overwrite::disk;
use crate::rows::overwrite::nothing;
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

/// What tells these rows apart.
struct Kind {
    clients: usize,
    overwrite: Levels,
    append: Levels,
    raw: Levels,
    flushes: Levels,
}

pub fn e1(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let (overwrite, raw) = (Levels::new(1.0, 1.3), Levels::new(0.9, 1.2));
    let (append, flushes) = (Levels::NONE, Levels::NONE);
    committed(plan, outcome, &Kind { clients: 1, overwrite, append, raw, flushes })
}

pub fn e2(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let (overwrite, append) = (Levels::new(2.5, 4.5), Levels::new(5.0, 10.0));
    let (raw, flushes) = (Levels::NONE, Levels::NONE);
    committed(plan, outcome, &Kind { clients: 16, overwrite, append, raw, flushes })
}

pub fn e3(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let (overwrite, append) = (Levels::new(4.0, 7.0), Levels::new(8.0, 15.0));
    let (raw, flushes) = (Levels::NONE, Levels::new(0.1, 0.03));
    committed(plan, outcome, &Kind { clients: 64, overwrite, append, raw, flushes })
}

fn committed(plan: &Plan, outcome: &mut Outcome, kind: &Kind) -> Result<()> {
    let size = plan.size(256 << 20, 8 << 20);
    let memory = if plan.quick { 16 << 20 } else { 128 << 20 };
    let device = size * 2 + (64 << 20);
    let Some(own) = disk(plan, outcome, "foliant", device) else {
        return nothing(outcome);
    };
    let shape = Shape { verb: Verb::Commit, clients: kind.clients, glance: false, ..READ };
    let lodging = lodge_on(&own, "foliant", size, memory)?;
    // One client has nobody to share two workers with.
    let workers = if kind.clients == 1 { 1 } else { 2 };
    let store = Store::<Foliant>::start_in(plan, shape, lodging, workers)?;
    let name = format!("foliant, {} clients", kind.clients);
    let mut subject = Watched::new(store.side(&name), &own);
    if plan.alone {
        outcome.alone(plan, "commits", &mut subject)?;
    } else {
        let peers = (plan, (size, memory, device), kind.clients);
        against_xfs(peers, outcome, &mut subject, ("overwrite", size, kind.overwrite))?;
        against_xfs(peers, outcome, &mut subject, ("append", 0, kind.append))?;
        against_raw(peers, outcome, &mut subject, kind.raw)?;
    }
    if kind.flushes.ship.is_some() {
        let (judge, values) = ((Unit::Count, kind.flushes), vec![subject.flushes_per_op()]);
        let what = "flushes per commit";
        outcome.contests.push(contest::judged(what, judge, values, plan.rules.seed));
    }
    outcome.fact("foliant", subject.words());
    let stats = crate::target::Target::counters(store.target());
    let each = stats.commits.unwrap_or(0) as f64 / stats.commit_groups.unwrap_or(1).max(1) as f64;
    outcome.fact("foliant, transactions per log write", format!("{each:.2}"));
    outcome.verdicts.push(store.finish()?);
    Ok(())
}

/// The plan; bytes of data, memory and device; clients.
type Peers<'a> = (&'a Plan, (u64, u64, u64), usize);

fn against_xfs(
    (plan, (_, memory, device), clients): Peers<'_>,
    outcome: &mut Outcome,
    subject: &mut dyn Side,
    (what, size, levels): (&str, u64, Levels),
) -> Result<()> {
    // Appended files are cut at 64 MiB each.
    let room = if size == 0 { device + clients as u64 * (64 << 20) } else { device };
    let Some(xfs) = Xfs::or_skip(plan, outcome, room) else { return Ok(()) };
    let line = PeerLine {
        folder: xfs.folder().to_owned(),
        size,
        clients: clients as u64,
        sync_every: 1,
        seed: plan.rules.seed,
    };
    let name = format!("XFS {what}");
    let (peer, remark) = PeerSide::start(&name, &line, memory)?;
    outcome.fact(&name, format!("pwrite and fdatasync {remark}"));
    let mut peer = Watched::new(peer, xfs.disk());
    outcome.contest(plan, &format!("over {name}"), (Unit::Ratio, levels), subject, &mut peer)?;
    outcome.fact(&name, peer.words());
    outcome.verdicts.push(peer.side.verify()?);
    Ok(())
}

fn against_raw(
    (plan, (size, memory, device), clients): Peers<'_>,
    outcome: &mut Outcome,
    subject: &mut dyn Side,
    levels: Levels,
) -> Result<()> {
    let Some(own) = disk(plan, outcome, "raw", device) else {
        return Ok(());
    };
    let judge = (Unit::Ratio, levels);
    // All clients' writes and one flush for them, which is the most that a bare device can share.
    let sync_every = Some(clients as u64);
    let shape = Shape { verb: Verb::Write, clients, sync_every, glance: false, ..READ };
    let lodging = lodge_on(&own, "raw", size, memory)?;
    let store = Store::<Raw>::start_in(plan, shape, lodging, 1)?;
    let mut peer = Watched::new(store.side("raw, write and flush"), &own);
    outcome.contest(plan, "over raw write and flush", judge, subject, &mut peer)?;
    outcome.fact("raw, write and flush", peer.words());
    let shape = Shape { verb: Verb::Commit, clients, glance: false, ..READ };
    let (lodging, ledger) = store.closed()?;
    let store = Store::<Raw>::reopened(lodging, ledger, shape, 1)?;
    let mut peer = Watched::new(store.side("raw, RWF_DSYNC"), &own);
    let told = (Unit::Ratio, Levels::NONE);
    outcome.contest(plan, "over raw write with RWF_DSYNC", told, subject, &mut peer)?;
    outcome.fact("raw, RWF_DSYNC", peer.words());
    outcome.verdicts.push(store.finish()?);
    Ok(())
}
