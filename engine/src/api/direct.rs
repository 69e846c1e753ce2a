//! Direct I/O: between the device and memory that the caller fills, past the cache.
//!
//! Guarantees: the device is only ever given engine memory, which the caller lends and gets back, so
//! that a dropped future harms nobody; direct and cached verbs on one object agree. Called by
//! users.

use std::fmt;
use std::ops::Deref;
use std::ops::DerefMut;
use std::ops::Range;

use foliant_device::Buffer;

use crate::api::engine::Engine;
use crate::api::object::Object;
use crate::error::Error;
use crate::error::Result;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::limits::DIRECT_BUFFER_BYTES_MAX;
use crate::units::BLOCK_BYTES;

/// Block-aligned memory of an engine, for [`Object::read_direct`] and [`Object::write_direct`].
///
/// Made by [`Engine::direct_buffer`]. Its bytes (rounded up to a power of two of blocks) count in
/// the engine's memory budget until it is dropped: who keeps much of it makes everybody wait. It
/// may outlive its engine.
pub struct DirectBuffer {
    /// Held by nobody else while it is here; `None` when a device kept it.
    memory: Option<Buffer>,
    len: usize,
}

impl DirectBuffer {
    /// Takes memory back. A device that hangs may still hold it; then nobody may change it any more.
    fn returned(memory: Option<Buffer>, len: usize) -> Self {
        match memory.filter(Buffer::is_unique) {
            Some(memory) => Self { memory: Some(memory), len },
            None => Self { memory: None, len: 0 },
        }
    }

    /// The memory, if it is of this budget and has the bytes `within`. Errors: `InvalidInput`.
    fn lend(
        self,
        within: &Range<usize>,
        of: &Memory,
    ) -> std::result::Result<Buffer, (Self, Error)> {
        let why = if within.start > within.end || within.end > self.len {
            format!("bytes {within:?} of a direct buffer of {}", self.len)
        } else {
            match self.memory {
                Some(memory) if of.arena().owns(&memory) => return Ok(memory),
                Some(memory) => {
                    let own = Self { memory: Some(memory), len: self.len };
                    return Err((own, Error::invalid("a direct buffer of another engine")));
                }
                None => "a direct buffer whose memory a device kept".into(),
            }
        };
        Err((self, Error::invalid(why)))
    }
}

impl Deref for DirectBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| &memory[..self.len])
    }
}

impl DerefMut for DirectBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let Some(memory) = &mut self.memory else { return &mut [] };
        &mut memory.get_mut().expect("nobody else holds the memory")[..self.len]
    }
}

impl fmt::Debug for DirectBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectBuffer({} bytes)", self.len)
    }
}

impl Engine {
    /// Memory for direct I/O: at least `len` bytes, rounded up to blocks of 4096, zeroed.
    ///
    /// `len` is 1 to 2 MiB. Waits for memory in the budget, at most 30 s; the memory is one piece, so a
    /// large buffer can be hard to come by in a small budget. Errors: `InvalidInput`, `OutOfMemory`,
    /// `Closed`. Dropping the future has no effect.
    pub async fn direct_buffer(&self, len: usize) -> Result<DirectBuffer> {
        self.inner.volume.check_open()?;
        if len == 0 || len > DIRECT_BUFFER_BYTES_MAX {
            let why = format!("a direct buffer of {len} bytes, 1 to {DIRECT_BUFFER_BYTES_MAX}");
            return Err(Error::invalid(why));
        }
        let blocks = len.div_ceil(BLOCK_BYTES);
        let order = blocks.next_power_of_two().ilog2() as u8;
        let memory = &self.inner.volume.table.wing().memory;
        let mut memory = memory.allocate(order, Purpose::Data).await?;
        memory.get_mut().expect("a fresh buffer has one owner").fill(0);
        Ok(DirectBuffer { memory: Some(memory), len: blocks * BLOCK_BYTES })
    }
}

impl Object {
    /// Reads from `offset` on into the bytes `within` of `buffer`, straight from the device where nothing
    /// is cached; gives back how many bytes were read, fewer than asked only at the end of the object.
    ///
    /// The bytes are those that [`Object::read_at`] would give: cached blocks are copied from the
    /// cache, holes are zero, checksums are verified. Blocks go straight, and leave nothing in the
    /// cache, when `offset` and `within.start` are the same modulo 4096; parts of blocks at the edges, or
    /// everything if they are not, are read through the cache and copied. Bytes of the buffer outside of
    /// `within` stay; those inside but behind the count are unspecified.
    ///
    /// The buffer comes back also with an error; only if a device never gave it back it is empty.
    /// Errors: `InvalidInput` (a buffer of another engine, bytes that it does not have, a range behind the
    /// largest object), and those of [`Object::read_at`]. Dropping the future has no effect on the
    /// object; the buffer goes back to the engine when the device is done with it.
    pub async fn read_direct(
        &self,
        offset: u64,
        buffer: DirectBuffer,
        within: Range<usize>,
    ) -> (DirectBuffer, Result<usize>) {
        let len = buffer.len();
        let memory = match self.lent(buffer, &within) {
            Ok(memory) => memory,
            Err((buffer, cause)) => return (buffer, Err(cause)),
        };
        let (memory, result) = self.opened().core().read_direct(offset, memory, within).await;
        (DirectBuffer::returned(memory, len), result)
    }

    /// Writes the bytes `within` of `buffer` at `offset`, whole blocks straight to the device, growing the
    /// object if need be. Readers see them on return; not durable before [`Object::sync`].
    ///
    /// Whole blocks go straight when `offset` and `within.start` are the same modulo 4096: they are
    /// placed afresh (a power cut leaves each block old or new), mapped with one flush and one
    /// transaction per call, and leave nothing in the cache. All of them change, or none; the parts of
    /// blocks before them are written before, those behind them after, through the cache. If the two
    /// are not the same modulo 4096, this is [`Object::write_at`]. Up to four direct writes of one object
    /// are on their way at once; those that grow it go one after the other.
    ///
    /// The buffer comes back also with an error; only if a device never gave it back it is empty.
    /// Errors: `InvalidInput` (a buffer of another engine, bytes that it does not have, a range behind the
    /// largest object), `NoSpace` (whole blocks need room beside what they replace), `Device` (nothing
    /// was replaced), and those of [`Object::write_at`]; what was written before stays. Dropping the
    /// future, once polled, does not stop it; the buffer goes back to the engine.
    pub async fn write_direct(
        &self,
        offset: u64,
        buffer: DirectBuffer,
        within: Range<usize>,
    ) -> (DirectBuffer, Result<()>) {
        let len = buffer.len();
        let entered = match self.volume().enter() {
            Ok(entered) => entered,
            Err(cause) => return (buffer, Err(cause)),
        };
        let memory = match self.lent(buffer, &within) {
            Ok(memory) => memory,
            Err((buffer, cause)) => return (buffer, Err(cause)),
        };
        let open = self.opened().clone();
        let work = async move {
            let _entered = entered;
            let result = open.core().write_direct(offset, &memory, within).await;
            Ok((memory, result))
        };
        match self.volume().flusher.run_to_end(work).await {
            Ok((memory, result)) => (DirectBuffer::returned(Some(memory), len), result),
            Err(cause) => (DirectBuffer::returned(None, 0), Err(cause)),
        }
    }

    fn lent(
        &self,
        buffer: DirectBuffer,
        within: &Range<usize>,
    ) -> std::result::Result<Buffer, (DirectBuffer, Error)> {
        match self.check() {
            Ok(()) => buffer.lend(within, &self.volume().table.wing().memory),
            Err(cause) => Err((buffer, cause)),
        }
    }
}
