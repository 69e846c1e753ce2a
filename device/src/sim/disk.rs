//! The simulated medium as its owner sees it: plug in, cut the power, plan faults, look inside.
//!
//! Guarantees that the content outlives handles and cuts, and that every decision comes from the
//! seed. Handles are not exclusive: the lock of a real store is not simulated. Called by tests of this
//! and other crates; `device` is the other side.

use std::sync::Arc;

use crate::geometry::BLOCK_SIZE;
use crate::sim::cut::Cut;
use crate::sim::device::SimDevice;
use crate::sim::image;
use crate::sim::options::SimOptions;
use crate::sim::plan::FaultRule;
use crate::sim::plan::RuleId;
use crate::sim::platter::Platter;
use crate::sim::trace::Record;

/// A simulated disk. Clones are handles to the same medium.
#[derive(Debug, Clone)]
pub struct SimDisk {
    platter: Arc<Platter>,
}

impl SimDisk {
    /// A zeroed disk of `blocks` blocks; costs nothing until it is written to.
    pub fn new(blocks: u64, options: SimOptions) -> Self {
        Self { platter: Arc::new(Platter::new(blocks, options)) }
    }

    /// A disk of its own as `cut` could have left it: the writes survived whose bit is set, the oldest
    /// being bit 0.
    ///
    /// # Panics
    /// With more than 64 writes in the cut.
    pub fn after(cut: &Cut, survivors: u64) -> Self {
        let image = cut.survived(survivors);
        Self { platter: Arc::new(Platter::with_image(cut.blocks, cut.options.clone(), image)) }
    }

    /// What the last cut could have left, if [`SimOptions::keeps_cuts`] is set and there was one.
    pub fn last_cut(&self) -> Option<Cut> {
        self.platter.with(|state| {
            let image = state.last_cut.clone()?;
            Some(Cut::new(image, state.blocks, state.options.clone()))
        })
    }

    /// Plugs the disk in. The device answers until the next power cut, and then `Gone` for ever.
    pub fn attach(&self) -> SimDevice {
        SimDevice::new(self.platter.clone())
    }

    /// The power goes at the `n`-th request from now (at the next one for 0 and 1): that request
    /// and all in flight are unfinished. The disk is off until [`SimDisk::power_cut`].
    pub fn crash_after_requests(&self, n: u64) {
        self.platter.with(|state| state.crash_at = Some(state.requests + n.max(1)));
    }

    /// Cuts the power now, unless it is off already, cancels a planned crash, and makes the disk
    /// attachable again, with the content that the cut left.
    pub fn power_cut(&self) {
        self.platter.with(|state| state.power_cut());
        self.platter.changed.notify_waiters();
    }

    /// The power goes now, from the middle of whatever calls this; it is off until [`SimDisk::power_cut`].
    pub fn power_off(&self) {
        self.platter.with(|state| state.power_off());
        self.platter.changed.notify_waiters();
    }

    /// Whether the disk is on: `false` between a planned crash, or [`SimDisk::power_off`], and [`SimDisk::power_cut`].
    pub fn is_powered(&self) -> bool {
        self.platter.with(|state| state.is_powered())
    }

    /// Puts a rule in force for requests that start from now on.
    pub fn inject(&self, rule: FaultRule) -> RuleId {
        self.platter.with(|state| state.plan.add(rule))
    }

    /// Ends a rule. Requests that it made hang go on hanging.
    pub fn withdraw(&self, rule: RuleId) {
        self.platter.with(|state| state.plan.withdraw(rule));
    }

    /// Ends every rule.
    pub fn withdraw_all(&self) {
        self.platter.with(|state| state.plan.withdraw_all());
    }

    /// How many requests a rule has struck.
    pub fn struck(&self, rule: RuleId) -> u64 {
        self.platter.with(|state| state.plan.struck(rule))
    }

    /// Lets every request that hangs go on, as if it had started now.
    pub fn release(&self) {
        self.platter.with(|state| state.release());
        self.platter.changed.notify_waiters();
    }

    /// Flips one bit of a block, on the medium and in its cache.
    ///
    /// # Panics
    /// If there is no such block, byte or bit.
    pub fn flip(&self, block: u64, byte: usize, bit: u8) {
        assert!(byte < BLOCK_SIZE && bit < 8, "no bit {bit} of byte {byte} in a block");
        self.platter.with(|state| {
            assert!(block < state.blocks, "no block {block} on the disk");
            state.image.flip(block, byte, bit);
        });
    }

    /// What a block would hold if the power went now and nothing cached survived.
    pub fn peek(&self, block: u64) -> Vec<u8> {
        let page = self.platter.with(|state| state.image.read_durable(block));
        page.map_or_else(|| vec![0; BLOCK_SIZE], |page| page.to_vec())
    }

    /// What a read of a block would find now.
    pub fn peek_cached(&self, block: u64) -> Vec<u8> {
        let page = self.platter.with(|state| state.image.read(block));
        page.map_or_else(|| vec![0; BLOCK_SIZE], |page| page.to_vec())
    }

    /// Replaces the content of a block, durably, whatever is cached of it.
    ///
    /// # Panics
    /// If there is no such block, or `bytes` is not one block.
    pub fn poke(&self, block: u64, bytes: &[u8]) {
        let page = image::page(bytes);
        self.platter.with(|state| {
            assert!(block < state.blocks, "no block {block} on the disk");
            state.image.poke(block, page);
        });
    }

    /// The size that devices attached from now on have. Blocks beyond it keep their content.
    pub fn resize(&self, blocks: u64) {
        self.platter.with(|state| state.blocks = blocks);
    }

    /// How many blocks the disk has.
    pub fn blocks(&self) -> u64 {
        self.platter.with(|state| state.blocks)
    }

    /// How many requests were made of the disk, by all handles together.
    pub fn requests(&self) -> u64 {
        self.platter.with(|state| state.requests)
    }

    /// How many requests started while another one on the same blocks was in flight, at least one of
    /// the two changing them. The treaty forbids that to the caller: a test may demand zero.
    pub fn overlaps(&self) -> u64 {
        self.platter.with(|state| state.overlaps)
    }

    /// How many of them have not ended.
    pub fn in_flight(&self) -> usize {
        self.platter.with(|state| state.in_flight())
    }

    /// How many writes a cut could undo now, those in flight not counted.
    pub fn unstable_writes(&self) -> usize {
        self.platter.with(|state| state.image.unstable_writes())
    }

    /// The newest requests, oldest first.
    pub fn trace(&self) -> Vec<Record> {
        self.platter.with(|state| state.trace.records())
    }

    /// Forgets the trace up to now.
    pub fn clear_trace(&self) {
        self.platter.with(|state| state.trace.clear());
    }
}
