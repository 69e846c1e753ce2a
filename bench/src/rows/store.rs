//! A filled Foliant store for a row, on a runtime of its own.
//!
//! Guarantees that `finish` reopens the store and compares every byte. Called by the rows.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use foliant_device::BLOCK_SIZE;
use tokio::runtime::Runtime;

use crate::data::Ledger;
use crate::place::Lodging;
use crate::place::Wish;
use crate::report::Verdict;
use crate::rows::contest::Reading;
use crate::rows::contest::Side;
use crate::rows::disk::Disk;
use crate::rows::plan::Plan;
use crate::run::Session;
use crate::sample::Sample;
use crate::target::Place;
use crate::target::Target;
use crate::targets::foliant::Foliant;
use crate::workload::Order;
use crate::workload::Shape;
use crate::workload::Verb;
use crate::workload::store_bytes;

/// 4 KiB reads at random by one client; rows change what they need.
pub const READ: Shape = Shape {
    verb: Verb::Read,
    order: Order::Random,
    clients: 1,
    piece: BLOCK_SIZE,
    sync_every: None,
    final_sync: false,
    warm: false,
    glance: true,
    fill_percent: 80,
};

/// A target with its data, open on a runtime.
pub struct Store<T: Target = Foliant> {
    pub runtime: Runtime,
    session: Session<T>,
    shape: Shape,
    lodging: Lodging,
}

/// The runtime for a number of workers; one is a current-thread runtime.
pub fn runtime(workers: usize) -> Result<Runtime> {
    let mut builder = match workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads(workers).enable_all().build().context("starting the runtime")
}

/// A place for a target of `size` bytes in the plan's folder.
pub fn lodge(plan: &Plan, name: &str, size: u64, memory: u64, fill: u64) -> Result<Lodging> {
    let wish = Wish { folder: plan.folder.clone(), ..Wish::default() };
    let mut lodging = Lodging::find(&wish, name, size, store_bytes(size, fill), memory)?;
    lodging.place.write_out = !plan.quick;
    Ok(lodging)
}

/// A place on a device of the row's own, for `size` bytes of data.
pub fn lodge_on(disk: &Disk, name: &str, size: u64, memory: u64) -> Result<Lodging> {
    let device = Some(disk.path()?.to_owned());
    let wish = Wish { device, overwrite: true, ..Wish::default() };
    Lodging::find(&wish, name, size, size, memory)
}

impl<T: Target> Store<T> {
    /// Makes and fills `size` bytes.
    pub fn start(
        plan: &Plan,
        shape: Shape,
        (size, memory): (u64, u64),
        workers: usize,
    ) -> Result<Self> {
        let lodging = lodge(plan, T::NAME, size, memory, shape.fill_percent)?;
        Self::start_in(plan, shape, lodging, workers)
    }

    /// Makes and fills the target in `lodging`.
    pub fn start_in(plan: &Plan, shape: Shape, lodging: Lodging, workers: usize) -> Result<Self> {
        let runtime = runtime(workers)?;
        let session = runtime.block_on(Session::start(&lodging.place, &shape, plan.rules.seed))?;
        Ok(Self { runtime, session, shape, lodging })
    }

    /// Closes it and opens it again on another runtime.
    pub fn moved(self, workers: usize) -> Result<Self> {
        let shape = self.shape.clone();
        let (lodging, ledger) = self.closed()?;
        Self::reopened(lodging, ledger, shape, workers)
    }

    /// Closes it; the file stays as long as the lodging.
    pub fn closed(self) -> Result<(Lodging, Arc<Ledger>)> {
        let Self { runtime, session, lodging, .. } = self;
        let Session { target, ledger, .. } = session;
        runtime.block_on(async {
            target.sync().await?;
            target.close().await
        })?;
        Ok((lodging, ledger))
    }

    /// Opens what was closed.
    pub fn reopened(
        lodging: Lodging,
        ledger: Arc<Ledger>,
        shape: Shape,
        workers: usize,
    ) -> Result<Self> {
        let runtime = runtime(workers)?;
        let target = runtime.block_on(T::open(&lodging.place))?;
        let session = Session::over(target, ledger, &lodging.place, &shape);
        Ok(Self { runtime, session, shape, lodging })
    }

    pub fn place(&self) -> &Place {
        &self.lodging.place
    }

    pub fn target(&self) -> &T {
        &self.session.target
    }

    /// The store as a side that runs its shape.
    pub fn side(&self, name: &str) -> Clients<'_, T> {
        Clients { store: self, name: name.to_owned() }
    }

    /// Reopens and compares every byte.
    pub fn finish(self) -> Result<Verdict> {
        let ledger = self.session.ledger.clone();
        self.runtime.block_on(self.session.finish())?;
        Ok(Verdict::of(&ledger))
    }
}

/// The clients of a store's shape.
pub struct Clients<'a, T: Target> {
    store: &'a Store<T>,
    name: String,
}

impl<T: Target> Side for Clients<'_, T> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn block(&mut self, time: Duration, stretch: u64) -> Result<Reading> {
        let work = self.store.session.measure(time, stretch);
        Ok(Reading::of(&self.store.runtime.block_on(work)?))
    }
}

impl Reading {
    fn of(sample: &Sample) -> Self {
        Self {
            ops: sample.ops as f64,
            bytes: sample.bytes as f64,
            seconds: sample.elapsed.as_secs_f64(),
            cpu_seconds: sample.cpu_seconds,
        }
    }
}
