//! The arena, and the reference-counted, block-aligned buffers cut from it.
//!
//! Guarantees: a buffer's bytes change only through [`Buffer::get_mut`], which needs the only
//! handle; memory is aligned to a block and initialised; a buffer keeps its arena mapped. The arena never
//! grows: when it is empty, [`Arena::allocate`] says so and the caller decides who waits.
//!
//! Does not: wait, zero buffers on reuse, or know what they are for. With `uring/ring.rs` and the
//! ioctls this is the only place where `unsafe` is allowed. Called by everything that holds bytes.

use std::fmt;
use std::ops::Deref;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Operation;
use crate::error::Result;
use crate::geometry::BLOCK_SIZE;

/// The largest order: 2^9 blocks, 2 MiB, one huge page.
pub const ORDER_MAX: u8 = 9;

/// A fixed range of memory from which buffers of 2^order blocks are cut (a buddy allocator).
#[derive(Clone)]
pub struct Arena {
    inner: Arc<ArenaInner>,
}

struct ArenaInner {
    base: NonNull<u8>,
    bytes: usize,
    /// A short, never-waiting critical section (list push and pop), so a plain mutex.
    free: Mutex<FreeLists>,
    freed: Notify,
}

// SAFETY: `base` points to a private mapping that lives as long as this value; which handle may
// touch which part of it is decided by `FreeLists` under its mutex.
unsafe impl Send for ArenaInner {}
// SAFETY: as above; no method hands out access to the mapping except through unique `Region`s.
unsafe impl Sync for ArenaInner {}

/// One stack of free regions per order (indices in units of that order's size).
struct FreeLists {
    /// `free[order]` holds block indices of free regions of that order.
    free: Vec<Vec<u32>>,
    /// For every block that starts a free region: its order + 1, and where it sits in its stack.
    head: Vec<u8>,
    slot: Vec<u32>,
    free_blocks: usize,
}

impl FreeLists {
    fn new(blocks: usize) -> Self {
        let mut lists = Self {
            free: vec![Vec::new(); usize::from(ORDER_MAX) + 1],
            head: vec![0; blocks],
            slot: vec![0; blocks],
            free_blocks: 0,
        };
        let mut at = 0;
        while at < blocks {
            let mut order = ORDER_MAX;
            while !at.is_multiple_of(1 << order) || at + (1 << order) > blocks {
                order -= 1;
            }
            lists.push(at as u32, order);
            lists.free_blocks += 1 << order;
            at += 1 << order;
        }
        lists
    }

    fn push(&mut self, at: u32, order: u8) {
        let list = &mut self.free[usize::from(order)];
        self.head[at as usize] = order + 1;
        self.slot[at as usize] = list.len() as u32;
        list.push(at);
    }

    fn unlink(&mut self, at: u32, order: u8) {
        assert_eq!(self.head[at as usize], order + 1, "not the head of a free region");
        let list = &mut self.free[usize::from(order)];
        let slot = self.slot[at as usize] as usize;
        list.swap_remove(slot);
        if let Some(&moved) = list.get(slot) {
            self.slot[moved as usize] = slot as u32;
        }
        self.head[at as usize] = 0;
    }

    fn take(&mut self, order: u8) -> Option<u32> {
        let from = (order..=ORDER_MAX).find(|&o| !self.free[usize::from(o)].is_empty())?;
        let at = *self.free[usize::from(from)].last()?;
        self.unlink(at, from);
        for split in (order..from).rev() {
            self.push(at + (1 << split), split);
        }
        self.free_blocks -= 1 << order;
        Some(at)
    }

    fn give(&mut self, mut at: u32, mut order: u8) {
        self.free_blocks += 1 << order;
        while order < ORDER_MAX {
            let buddy = at ^ (1 << order);
            if self.head.get(buddy as usize) != Some(&(order + 1)) {
                break;
            }
            self.unlink(buddy, order);
            at = at.min(buddy);
            order += 1;
        }
        self.push(at, order);
    }
}

impl Arena {
    /// Maps `bytes` (rounded down to whole blocks) and faults every page in.
    ///
    /// Asks for huge pages; the kernel may not give them. Errors: `InvalidInput` for less than one
    /// block, `NoSpace` when the mapping fails.
    pub fn new(bytes: usize) -> Result<Self> {
        let blocks = bytes / BLOCK_SIZE;
        let fail =
            |kind, detail: String| DeviceError::new(Operation::Open, 0, bytes as u64, kind, detail);
        if blocks == 0 || blocks > u32::MAX as usize {
            return Err(fail(DeviceErrorKind::InvalidInput, "arena size out of range".into()));
        }
        let bytes = blocks * BLOCK_SIZE;
        // SAFETY: a fresh private anonymous mapping; nothing else knows its address.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            let cause = std::io::Error::last_os_error();
            return Err(fail(DeviceErrorKind::NoSpace, format!("mapping the arena: {cause}")));
        }
        // SAFETY: the range is the mapping just made; advice cannot break it. Failure only means
        // small pages or pages that fault in later.
        unsafe {
            libc::madvise(base, bytes, libc::MADV_HUGEPAGE);
            libc::madvise(base, bytes, libc::MADV_POPULATE_WRITE);
        }
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| fail(DeviceErrorKind::NoSpace, "mapped at address zero".into()))?;
        let free = Mutex::new(FreeLists::new(blocks));
        Ok(Self { inner: Arc::new(ArenaInner { base, bytes, free, freed: Notify::new() }) })
    }

    /// A buffer of 2^order blocks, or `None` when no region of that size is free.
    ///
    /// The bytes are initialised but arbitrary (what an earlier owner left).
    ///
    /// # Panics
    /// If `order` is over [`ORDER_MAX`].
    pub fn allocate(&self, order: u8) -> Option<Buffer> {
        assert!(order <= ORDER_MAX, "order {order} is over the largest one");
        let at = self.inner.free.lock().take(order)?;
        let region = Region { arena: self.clone(), at, order, joined: false };
        Some(Buffer { region: Arc::new(region) })
    }

    /// Whether `buffer` was cut from this arena.
    pub fn owns(&self, buffer: &Buffer) -> bool {
        Arc::ptr_eq(&self.inner, &buffer.region.arena.inner)
    }

    /// Size of the arena in blocks.
    pub fn capacity_blocks(&self) -> usize {
        self.inner.bytes / BLOCK_SIZE
    }

    /// Blocks that are free now, in regions of any order.
    pub fn free_blocks(&self) -> usize {
        self.inner.free.lock().free_blocks
    }

    /// Notified each time a region comes back; one waiter is woken per region.
    pub fn freed(&self) -> &Notify {
        &self.inner.freed
    }

    /// Start and length of the mapping, for registration with a ring.
    pub(crate) fn mapping(&self) -> (*mut u8, usize) {
        (self.inner.base.as_ptr(), self.inner.bytes)
    }
}

impl Drop for ArenaInner {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `Arena::new` with this length; every region holds a
        // handle to the arena, so none is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({} of {} blocks free)", self.free_blocks(), self.capacity_blocks())
    }
}

struct Region {
    arena: Arena,
    at: u32,
    order: u8,
    /// Another region has taken these blocks over and gives them back.
    joined: bool,
}

impl Region {
    fn len(&self) -> usize {
        BLOCK_SIZE << self.order
    }

    fn ptr(&self) -> *mut u8 {
        // SAFETY: `at` was handed out by the free lists, so it lies inside the mapping.
        unsafe { self.arena.inner.base.as_ptr().add(self.at as usize * BLOCK_SIZE) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.joined {
            return;
        }
        self.arena.inner.free.lock().give(self.at, self.order);
        self.arena.inner.freed.notify_one();
    }
}

/// A handle to 2^order blocks of arena memory. Clones share the bytes.
#[derive(Clone)]
pub struct Buffer {
    region: Arc<Region>,
}

impl Buffer {
    /// The bytes, if this is the only handle.
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        let region = Arc::get_mut(&mut self.region)?;
        // SAFETY: the only handle to a region that the free lists gave to nobody else; the memory
        // is initialised (mapped zero, and only ever written as bytes).
        Some(unsafe { std::slice::from_raw_parts_mut(region.ptr(), region.len()) })
    }

    /// Gives up the upper half of the blocks as a buffer of its own, so that the halves can be lent to
    /// different requests; each goes back to the arena by itself. `None`, with nothing changed, for
    /// one block or a shared buffer.
    pub fn split_half(&mut self) -> Option<Self> {
        let region = Arc::get_mut(&mut self.region).filter(|region| region.order > 0)?;
        region.order -= 1;
        let (order, at) = (region.order, region.at + (1 << region.order));
        let upper = Region { arena: region.arena.clone(), at, order, joined: false };
        Some(Self { region: Arc::new(upper) })
    }

    /// Takes back the upper half that [`Buffer::split_half`] gave up. Gives it back, with nothing changed,
    /// when it is not the upper half of this, or one of both is shared.
    pub fn join_half(&mut self, mut upper: Self) -> std::result::Result<(), Self> {
        let (low, high) = (&*self.region, &*upper.region);
        let aligned = low.order < ORDER_MAX && low.at.is_multiple_of(2 << low.order);
        let next = high.order == low.order && high.at == low.at + (1 << low.order);
        if !aligned || !next || !low.arena.owns(&upper) {
            return Err(upper);
        }
        match (Arc::get_mut(&mut self.region), Arc::get_mut(&mut upper.region)) {
            (Some(low), Some(high)) => {
                high.joined = true;
                low.order += 1;
                Ok(())
            }
            _ => Err(upper),
        }
    }

    /// Whether this is the only handle.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.region) == 1
    }

    /// log2 of the number of blocks.
    pub fn order(&self) -> u8 {
        self.region.order
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        1 << self.region.order
    }

    /// A shared view of some of the bytes.
    ///
    /// # Panics
    /// If the range is not inside the buffer.
    pub fn segment(&self, range: Range<usize>) -> Segment {
        assert!(range.start <= range.end && range.end <= self.len(), "segment out of bounds");
        Segment { buffer: self.clone(), range }
    }

    /// The address the kernel reads from or writes to.
    pub(crate) fn as_raw(&self) -> *mut u8 {
        self.region.ptr()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the region is initialised memory; bytes change only through `get_mut` (needs the
        // only handle) or by the kernel filling a unique buffer that the slot table owns.
        unsafe { std::slice::from_raw_parts(self.region.ptr(), self.region.len()) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer(block {}, order {})", self.region.at, self.region.order)
    }
}

/// A shared, read-only part of a buffer; keeps the buffer alive.
#[derive(Clone, Debug)]
pub struct Segment {
    buffer: Buffer,
    range: Range<usize>,
}

impl Segment {
    /// A part of this segment, sharing the same bytes.
    ///
    /// # Panics
    /// If the range is not inside the segment.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.range.len(), "slice out of bounds");
        let range = self.range.start + range.start..self.range.start + range.end;
        Self { buffer: self.buffer.clone(), range }
    }

    /// Bytes of the arena that cannot be used anew while this lives: more than it shows, if it is a part.
    pub fn held_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The address the kernel reads from.
    pub(crate) fn as_raw(&self) -> *const u8 {
        self.as_ref().as_ptr()
    }
}

impl From<Buffer> for Segment {
    fn from(buffer: Buffer) -> Self {
        let range = 0..buffer.len();
        Self { buffer, range }
    }
}

impl Deref for Segment {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

impl AsRef<[u8]> for Segment {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_buffer_cannot_be_changed() {
        let arena = Arena::new(16 * BLOCK_SIZE).unwrap();
        let mut one = arena.allocate(0).unwrap();
        one.get_mut().unwrap()[0] = 7;
        let two = one.clone();
        assert!(one.get_mut().is_none());
        drop(two);
        assert_eq!(one.get_mut().unwrap()[0], 7);
    }

    #[test]
    fn buddies_join_again() {
        let arena = Arena::new((1 << ORDER_MAX) * BLOCK_SIZE).unwrap();
        let all: Vec<_> = (0..1 << ORDER_MAX).map(|_| arena.allocate(0).unwrap()).collect();
        assert!(arena.allocate(0).is_none());
        drop(all);
        assert_eq!(arena.free_blocks(), 1 << ORDER_MAX);
        assert_eq!(arena.allocate(ORDER_MAX).unwrap().blocks(), 1 << ORDER_MAX);
    }

    #[test]
    fn halves_go_back_by_themselves_and_join_again() {
        let arena = Arena::new(8 * BLOCK_SIZE).unwrap();
        let mut whole = arena.allocate(3).unwrap();
        for (at, byte) in whole.get_mut().unwrap().iter_mut().enumerate() {
            *byte = (at / BLOCK_SIZE) as u8;
        }
        let mut upper = whole.split_half().unwrap();
        let last = upper.split_half().unwrap();
        assert_eq!((whole.blocks(), upper.blocks(), last.blocks()), (4, 2, 2));
        assert_eq!((whole[0], upper[0], last[0]), (0, 4, 6));
        let shared = last.clone();
        let last = upper.join_half(last).unwrap_err();
        drop(shared);
        let upper = whole.join_half(upper).unwrap_err();
        let mut upper =
            last.clone().join_half(upper).map_or_else(|back| back, |()| panic!("joined"));
        upper.join_half(last).unwrap();
        whole.join_half(upper).unwrap();
        assert!(whole.chunks(BLOCK_SIZE).enumerate().all(|(at, block)| block[0] == at as u8));
        assert_eq!(arena.free_blocks(), 0);
        let upper = whole.split_half().unwrap();
        drop(whole);
        assert_eq!(arena.free_blocks(), 4);
        drop(upper);
        assert_eq!(arena.free_blocks(), 8);
        assert_eq!(arena.allocate(3).unwrap().blocks(), 8);
        let other = Arena::new(8 * BLOCK_SIZE).unwrap();
        assert!(!other.owns(&arena.allocate(0).unwrap()));
        assert!(arena.owns(&arena.allocate(0).unwrap()));
        assert!(arena.allocate(0).unwrap().split_half().is_none());
    }

    #[test]
    fn an_arena_that_is_no_power_of_two_is_used_whole() {
        let arena = Arena::new(1337 * BLOCK_SIZE).unwrap();
        let all: Vec<_> = std::iter::from_fn(|| arena.allocate(0)).collect();
        assert_eq!(all.len(), 1337);
    }
}
