//! What the tests of this room share: a runtime, seeded randomness, a device that fails on demand.
//!
//! Guarantees: the same seed gives the same run. Does not test anything itself. Called by the
//! tests of this room only.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use foliant_device::Arena;
use foliant_device::Buffer;
use foliant_device::Device;
use foliant_device::Persist;
use foliant_device::Segment;
use foliant_device::backend::mem::MemDevice;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::folio::cache::MappingCache;
use crate::folio::dirty::DirtyLimits;
use crate::folio::evict::try_evict;
use crate::iomap::bundle::Mapped;
use crate::iomap::bundle::Parts;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::identity::IdentityProvider;
use crate::iomap::mock::MockProvider;
use crate::kit::memory::Memory;
use crate::kit::range_lock::RangeGuard;
use crate::kit::range_lock::RangeLock;
use crate::kit::sync::Mutex;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;
use crate::units::DeviceSpan;
use crate::units::FileBlocks;
use crate::units::ObjectId;

/// Runs a future on a fresh single-threaded runtime whose clock stands still when idle.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

/// splitmix64.
pub struct Random(u64);

impl Random {
    /// A generator.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1))
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Random bytes, never zero.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let first = self.next();
        (0..len).map(|i| (first.wrapping_mul(i as u64 + 3) >> 32) as u8 | 1).collect()
    }
}

/// Polls `future` up to `polls` times without waiting for wakes; gives the output if it finished.
pub fn poll_times<F: Future + ?Sized>(future: &mut Pin<Box<F>>, polls: usize) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
    }
    None
}

/// Returns to the poller once, and wakes at once: tokio's own yield defers the wake until its
/// runtime parks, which never happens between two polls of [`poll_times`].
pub async fn give_way() {
    let mut gave = false;
    std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        match std::mem::replace(&mut gave, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// Failures and counters of a [`TestTransport`].
#[derive(Debug, Default)]
pub struct TransportState {
    /// Reads of these device blocks fail.
    pub bad_reads: BTreeSet<u64>,
    /// Writes of these device blocks fail.
    pub bad_writes: BTreeSet<u64>,
    /// All writes fail.
    pub fail_writes: bool,
    /// Each read, as first block and count.
    pub reads: Vec<(u64, u64)>,
    /// Each write, as first block and count.
    pub writes: Vec<(u64, u64)>,
    /// Yield once per request before completing it.
    pub yields: bool,
}

/// A device in memory that fails on demand; the same on each clone.
#[derive(Clone)]
pub struct TestTransport {
    device: Device,
    arena: Arena,
    /// Short look-ups; never held across an await.
    state: Arc<Mutex<TransportState>>,
}

impl TestTransport {
    /// `blocks` blocks of zeroes.
    pub fn new(blocks: u64) -> Self {
        Self {
            device: Device::new(MemDevice::new(blocks)),
            arena: Arena::new(64 * BLOCK_BYTES).unwrap(),
            state: Arc::default(),
        }
    }

    /// Changes what fails, looks at what happened.
    pub fn with<T>(&self, look: impl FnOnce(&mut TransportState) -> T) -> T {
        look(&mut self.state.lock())
    }

    /// Overwrites a device block behind everybody's back.
    pub fn scribble(&self, block: u64, byte: u8) {
        let mut buffer = self.arena.allocate(0).unwrap();
        buffer.get_mut().unwrap().fill(byte);
        let request = self.device.write(block, vec![buffer.into()], Persist::Cached);
        block_on_ready(request).unwrap();
    }

    /// Overwrites the end of a device block, from byte `from` of it on.
    pub fn scribble_from(&self, block: u64, from: usize, byte: u8) {
        let mut bytes = self.peek(block);
        bytes[from..].fill(byte);
        let mut buffer = self.arena.allocate(0).unwrap();
        buffer.get_mut().unwrap().copy_from_slice(&bytes);
        let request = self.device.write(block, vec![buffer.into()], Persist::Cached);
        block_on_ready(request).unwrap();
    }

    /// Copies one device block to another.
    pub fn copy(&self, from: u64, to: u64) {
        let bytes = self.peek(from);
        let mut buffer = self.arena.allocate(0).unwrap();
        buffer.get_mut().unwrap().copy_from_slice(&bytes);
        let request = self.device.write(to, vec![buffer.into()], Persist::Cached);
        block_on_ready(request).unwrap();
    }

    /// The bytes of a device block.
    pub fn peek(&self, block: u64) -> Vec<u8> {
        let buffer = self.arena.allocate(0).unwrap();
        let (buffers, result) = block_on_ready(self.device.read(block, vec![buffer]));
        result.unwrap();
        buffers[0].to_vec()
    }
}

/// The device in memory is done at once.
fn block_on_ready<F: Future + Unpin>(mut future: F) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(&mut future).poll(&mut context) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the device in memory made somebody wait"),
    }
}

fn failure(what: &str, at: BlockNo) -> Error {
    Error::new(ErrorKind::Device, format!("{what} of {at} was told to fail"))
}

impl Transport for TestTransport {
    fn read(
        &self,
        at: BlockNo,
        into: Vec<Buffer>,
    ) -> impl Future<Output = (Vec<Buffer>, Result<()>)> + Send + 'static {
        let count: u64 = into.iter().map(|b| b.blocks() as u64).sum();
        let (bad, yields) = self.with(|s| {
            s.reads.push((at.0, count));
            let bad = s.bad_reads.range(at.0..at.0 + count).next().copied();
            (bad, s.yields)
        });
        let request = self.device.read(at.0, into);
        async move {
            if yields {
                give_way().await;
            }
            let (buffers, result) = request.await;
            let result = match bad {
                Some(block) => Err(failure("read", BlockNo(block))),
                None => result.map_err(Error::from),
            };
            (buffers, result)
        }
    }

    fn write(
        &self,
        at: BlockNo,
        from: Vec<Segment>,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let count: u64 = from.iter().map(|s| (s.len() / BLOCK_BYTES) as u64).sum();
        let (bad, yields) = self.with(|s| {
            s.writes.push((at.0, count));
            let bad = s.bad_writes.range(at.0..at.0 + count).next().is_some();
            (bad || s.fail_writes, s.yields)
        });
        let request = (!bad).then(|| self.device.write(at.0, from, Persist::Cached));
        async move {
            if yields {
                give_way().await;
            }
            match request {
                Some(request) => request.await.map_err(Error::from),
                None => Err(failure("write", at)),
            }
        }
    }
}

/// A bundle over a provider and a device that fails on demand.
pub struct Room<P: MappingProvider> {
    /// The bundle.
    pub mapped: Arc<Mapped<P, TestTransport>>,
    /// Its provider.
    pub provider: Arc<P>,
    /// Its device.
    pub transport: TestTransport,
}

/// Blocks of the devices in these tests.
pub const DEVICE_BLOCKS: u64 = 2048;

impl<P: MappingProvider> Room<P> {
    fn over(provider: P) -> Self {
        // Large enough that no test waits for writeback which it does not drive itself.
        let memory = Memory::new(64 << 20).unwrap();
        let dirty = DirtyLimits::new(memory.capacity_blocks());
        Self::with(provider, memory, dirty)
    }

    fn with(provider: P, memory: Memory, dirty: DirtyLimits) -> Self {
        let provider = Arc::new(provider);
        let transport = TestTransport::new(DEVICE_BLOCKS);
        let parts = Parts {
            provider: Arc::clone(&provider),
            cache: MappingCache::new(ObjectId(1), dirty.clone(), Arc::new(())),
            ranges: RangeLock::of(1),
            transport: transport.clone(),
            memory,
            dirty,
        };
        Self { mapped: Arc::new(Mapped::new(parts)), provider, transport }
    }

    /// Drops every clean folio.
    pub fn evict(&self) -> usize {
        let all = self.mapped.cache().folios(FileBlocks::new(0, u64::MAX), usize::MAX);
        all.into_iter().filter_map(|folio| try_evict(folio).ok()).count()
    }

    /// Writes everything back.
    pub async fn settle(&self) {
        let all = FileBlocks::new(0, u64::MAX);
        self.mapped.write_back(all).await.unwrap();
        assert_eq!(self.unsettled(), 0);
    }

    /// Dirty blocks and blocks under writeback; one that is both counts twice.
    pub fn unsettled(&self) -> u64 {
        let cache = self.mapped.cache();
        cache.dirty_blocks() + cache.writeback_blocks()
    }

    /// All bytes below the size, read through the cache.
    pub async fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0xee; self.provider.size() as usize + 1];
        let read = self.mapped.read_at(0, &mut bytes).await.unwrap();
        bytes.truncate(read);
        bytes
    }

    /// The exclusive range lock over all that lies at or behind byte `from`.
    pub async fn lock_from(&self, from: u64) -> RangeGuard {
        self.mapped.ranges().exclusive(from / BLOCK..u64::MAX).await
    }

    /// Nothing is locked.
    pub fn expect_unlocked(&self) {
        assert_eq!(self.mapped.ranges().counts(), (0, 0), "a range is locked");
        for folio in self.mapped.cache().folios(FileBlocks::new(0, u64::MAX), usize::MAX) {
            assert!(folio.try_lock().is_some(), "a folio is locked");
        }
    }
}

/// A room whose extents move.
pub fn mock_room() -> Room<MockProvider> {
    Room::over(MockProvider::new(DEVICE_BLOCKS))
}

/// The same where writers wait as soon as `blocks` blocks are dirty.
pub fn tight_room(blocks: u64) -> Room<MockProvider> {
    let limits = DirtyLimits::new((blocks * 8).div_ceil(3) as usize);
    assert_eq!(limits.hard_limit(), blocks);
    Room::with(MockProvider::new(DEVICE_BLOCKS), Memory::new(64 << 20).unwrap(), limits)
}

/// The same with the smallest memory there is: for tests that need thousands of rooms.
pub fn small_room() -> Room<MockProvider> {
    let memory = Memory::new(8 << 20).unwrap();
    let dirty = DirtyLimits::new(memory.capacity_blocks());
    Room::with(MockProvider::new(DEVICE_BLOCKS), memory, dirty)
}

/// A room over the bare device.
pub fn identity_room(size: u64) -> Room<IdentityProvider> {
    let span = DeviceSpan::new(BlockNo(3), DEVICE_BLOCKS - 3);
    Room::over(IdentityProvider::new(span, size))
}

impl Room<MockProvider> {
    /// Lets every asynchronous step give way once, so that futures have many places to be dropped.
    pub fn yield_everywhere(&self) {
        self.provider.script(|s| s.yields = true);
        self.transport.with(|t| t.yields = true);
    }

    /// Nothing is locked, open or claimed, and there is one promise per unsettled block.
    pub fn expect_balance(&self) {
        self.expect_unlocked();
        let counts = self.provider.counts();
        assert_eq!(counts.open, 0, "mappings are left open");
        assert_eq!(counts.batches, 0, "batches are left open");
        assert_eq!(counts.promised, self.unsettled(), "promises and dirty blocks");
    }

    /// Cuts the object as `object` does: cache, size, mappings.
    pub async fn truncate(&self, size: u64) {
        let held = self.lock_from(size.min(self.provider.size())).await;
        if size > self.provider.size() {
            self.mapped.grow(&held, size).await.unwrap();
            return;
        }
        let provider = Arc::clone(&self.provider);
        let end = self.mapped.hold_end(&held, size).await.unwrap();
        provider.set_size(size);
        self.mapped.cut(&held, end).await.unwrap();
        self.provider.unmap(FileBlocks::new(size.div_ceil(BLOCK), u64::MAX));
    }
}
