//! The kernel's two queues behind a safe face: set up, push, enter, reap, register, give up.
//!
//! Guarantees: an entry that was pushed is handed to the kernel in order; a completion is reported
//! exactly once; registered memory stays mapped as long as the ring lives; [`Ring::retire`] leaves
//! nothing of the file behind. Does not know requests: it relies on `slot` to keep the memory of
//! an entry until its completion has been reaped. Apart from `buffer.rs` and the ioctls this is
//! the only place with `unsafe`. Called by `driver`; entries are made by `op`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;
use std::time::Duration;

use io_uring::EnterFlags;
use io_uring::IoUring;
use io_uring::squeue::Entry;
use io_uring::types;

use crate::buffer::Arena;
use crate::locked::LockedFile;
use crate::uring::probe;
use crate::uring::probe::Missing;

/// The kernel takes at most this much in one registered buffer. A multiple of the largest region
/// of the arena, so that no region lies in two.
const REGISTERED_BYTES_MAX: usize = 1 << 30;

/// How often an interrupted system call is repeated before it counts as an error.
const INTERRUPTS_MAX: u32 = 64;

/// Addresses and lengths of a request with several buffers; kept in its slot.
#[derive(Debug, Default)]
pub(crate) struct Vectors(Vec<libc::iovec>);

// SAFETY: the addresses are plain numbers for the kernel; nothing here follows them, and the slot
// that holds them also holds the buffers that they point to.
unsafe impl Send for Vectors {}

impl Vectors {
    /// Forgets all, keeps the room.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds one piece of memory; pieces that touch become one.
    pub(crate) fn push(&mut self, at: *const u8, len: usize) {
        if let Some(last) = self.0.last_mut()
            && last.iov_base as usize + last.iov_len == at as usize
        {
            last.iov_len += len;
            return;
        }
        self.0.push(libc::iovec { iov_base: at.cast_mut().cast(), iov_len: len });
    }

    /// Number of pieces.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first piece.
    pub(crate) fn first(&self) -> Option<(*const u8, usize)> {
        self.0.first().map(|piece| (piece.iov_base.cast_const().cast(), piece.iov_len))
    }

    /// All pieces, as addresses that nobody here follows.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (usize, usize)> {
        self.0.iter().map(|piece| (piece.iov_base as usize, piece.iov_len))
    }

    /// Where the kernel finds the pieces; stable until the next `push`.
    pub(crate) fn as_ptr(&self) -> *const libc::iovec {
        self.0.as_ptr()
    }
}

/// An entry whose memory a slot owns; only `op::prepare` makes one.
pub(crate) struct Prepared(Entry);

impl Prepared {
    /// Wraps an entry. The caller answers for it that all memory it names is owned by the slot
    /// under whose key it is pushed, until the completion with that key was reaped.
    pub(super) fn new(entry: Entry) -> Self {
        Self(entry)
    }
}

/// Where a transfer of registered memory lies.
pub(crate) type BufferIndex = u16;

/// One ring and the file it serves.
pub(crate) struct Ring {
    uring: IoUring,
    file: LockedFile,
    file_is_registered: bool,
    /// The kernel takes several pieces of registered memory in one entry (since 6.15).
    vectors_may_be_registered: bool,
    /// Keys of entries that were pushed and not yet taken by the kernel, oldest first.
    staged: VecDeque<u64>,
    /// Entries that were given up on still stand in the queue: it must not be entered again.
    broken: bool,
    /// The registered arena. Held so that its addresses cannot come to mean other memory.
    arena: Option<Arena>,
}

impl Ring {
    /// Sets up a ring with room for `depth` entries, and twice that for completions.
    pub(crate) fn new(file: LockedFile, depth: u32) -> Result<Self, (Missing, LockedFile)> {
        let uring = match build(depth).map_err(|e| Missing::from_setup(&e)) {
            Ok(uring) => uring,
            Err(missing) => return Err((missing, file)),
        };
        let abilities = match probe::check(&uring) {
            Ok(abilities) => abilities,
            Err(missing) => return Err((missing, file)),
        };
        assert!(uring.params().sq_entries() >= depth, "the ring is smaller than asked");
        assert!(uring.params().cq_entries() >= 2 * depth, "completions could overflow");
        let file_is_registered = uring.submitter().register_files(&[file.as_raw_fd()]).is_ok();
        Ok(Self {
            uring,
            file,
            file_is_registered,
            vectors_may_be_registered: abilities.registered_vectors,
            staged: VecDeque::new(),
            broken: false,
            arena: None,
        })
    }

    /// Makes the kernel signal `fd` (an eventfd) for completions while [`Ring::listen`] is on.
    pub(crate) fn register_eventfd(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.uring.submitter().register_eventfd(fd.as_raw_fd())
    }

    /// Pins the arena, so that transfers of single buffers need not look up pages.
    pub(crate) fn register_arena(&mut self, arena: &Arena) -> io::Result<()> {
        assert!(self.arena.is_none(), "an arena is registered at most once");
        let (base, bytes) = arena.mapping();
        let chunks: Vec<libc::iovec> = (0..bytes)
            .step_by(REGISTERED_BYTES_MAX)
            .map(|at| libc::iovec {
                iov_base: base.wrapping_add(at).cast(),
                iov_len: REGISTERED_BYTES_MAX.min(bytes - at),
            })
            .collect();
        // SAFETY: the chunks lie in the arena's mapping, which the handle kept below outlives the
        // registration (fields are given up in `retire`, or the ring is dropped first).
        unsafe { self.uring.submitter().register_buffers(&chunks) }?;
        self.arena = Some(arena.clone());
        Ok(())
    }

    /// The registered buffer that holds all pieces, if there is one that an entry may name.
    pub(crate) fn buffer_index(&self, vectors: &Vectors) -> Option<BufferIndex> {
        if vectors.len() > 1 && !self.vectors_may_be_registered {
            return None;
        }
        let mut pieces = vectors.pieces();
        let (at, len) = pieces.next()?;
        let index = self.chunk_of(at, len)?;
        pieces.all(|(at, len)| self.chunk_of(at, len) == Some(index)).then_some(index)
    }

    fn chunk_of(&self, at: usize, len: usize) -> Option<BufferIndex> {
        let (base, bytes) = self.arena.as_ref()?.mapping();
        let offset = at.checked_sub(base as usize)?;
        if offset.checked_add(len)? > bytes {
            return None;
        }
        let chunk = offset / REGISTERED_BYTES_MAX;
        let last = (offset + len.max(1) - 1) / REGISTERED_BYTES_MAX;
        (chunk == last).then_some(chunk as BufferIndex)
    }

    /// How entries name the file: its registered index, if it has one.
    pub(crate) fn registered_file(&self) -> Option<types::Fixed> {
        self.file_is_registered.then_some(types::Fixed(0))
    }

    /// How entries name the file when it could not be registered.
    pub(crate) fn plain_file(&self) -> types::Fd {
        types::Fd(self.file.as_raw_fd())
    }

    /// Queues an entry for the next [`Ring::enter`].
    ///
    /// # Panics
    /// If there is no room: the slot table bounds the entries by the ring's depth.
    pub(crate) fn push(&mut self, prepared: Prepared, key: u64) {
        assert!(!self.broken, "pushed into a broken ring");
        let entry = prepared.0.user_data(key);
        // SAFETY: the memory named by the entry is owned by the slot `key` until its completion is
        // reaped (`Prepared`), and slots are leaked rather than freed when that never comes.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        assert!(pushed.is_ok(), "more entries than the ring's depth");
        self.staged.push_back(key);
    }

    /// Number of entries that the kernel has not taken yet.
    pub(crate) fn staged(&self) -> usize {
        self.staged.len()
    }

    /// Whether nothing can be handed to the kernel any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Gives up on handing anything to the kernel. Returns the keys of what it has not taken.
    pub(crate) fn break_down(&mut self) -> Vec<u64> {
        self.broken = true;
        self.staged.drain(..).collect()
    }

    /// Hands all staged entries to the kernel. `Ok` with entries left means that the kernel is
    /// short of something for the moment.
    pub(crate) fn enter(&mut self) -> io::Result<usize> {
        assert!(!self.broken, "entered a broken ring");
        let mut interrupts = 0;
        loop {
            match self.uring.submit() {
                Ok(taken) => {
                    assert!(taken <= self.staged.len(), "the kernel took what was not there");
                    self.staged.drain(..taken);
                    return Ok(taken);
                }
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) if interrupts < INTERRUPTS_MAX => interrupts += 1,
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => return Ok(0),
                    _ => return Err(e),
                },
            }
        }
    }

    /// Whether a completion waits to be reaped.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// Calls `each` with the key and the result of every completion that is there.
    pub(crate) fn reap(&mut self, mut each: impl FnMut(u64, i32)) {
        let completions = self.uring.completion();
        assert_eq!(completions.overflow(), 0, "the depth bounds the completions");
        for completion in completions {
            each(completion.user_data(), completion.result());
        }
    }

    /// Turns signals to the eventfd on or off. After turning them on the caller must look for
    /// completions once more: one that came just before is not signalled.
    pub(crate) fn listen(&mut self, on: bool) {
        let completions = self.uring.completion();
        if on {
            completions.enable_eventfd();
        } else {
            completions.disable_eventfd();
        }
        drop(completions);
        // The kernel publishes a completion, then (behind a full barrier) reads the flag; this side
        // writes the flag, then reads the queue. Without a fence each could miss the other.
        fence(Ordering::SeqCst);
    }

    /// Blocks the thread until a completion is there or the time is over. Submits nothing.
    pub(crate) fn wait_blocking(&mut self, patience: Duration) {
        let timespec = types::Timespec::from(patience);
        let arguments = types::SubmitArgs::new().timespec(&timespec);
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // SAFETY: nothing is submitted; the arguments and the time they point to live on this stack
        // frame until the call returns. Failure (time over, signal) means to look again.
        let _ = unsafe { self.uring.submitter().enter(0, 1, flags.bits(), Some(&arguments)) };
    }

    /// Gives everything back: registrations, the ring, the advisory lock, the file.
    ///
    /// Must only be called with nothing in flight. A request that has just completed may hold on to
    /// the file for a moment, but not to its lock.
    pub(crate) fn retire(self) {
        drop(self.into_file());
    }

    /// Gives back all but the file, which stays locked. With nothing in flight, as above.
    ///
    /// Unregisters by hand, because the kernel tears a closed ring down later, in the background,
    /// and until then would keep the file open.
    pub(crate) fn into_file(self) -> LockedFile {
        let Self { uring, file, file_is_registered, arena, .. } = self;
        if arena.is_some() {
            let _ = uring.submitter().unregister_buffers();
        }
        if file_is_registered {
            let _ = uring.submitter().unregister_files();
        }
        let _ = uring.submitter().unregister_eventfd();
        drop(uring);
        drop(arena);
        file
    }
}

/// Asks for a ring that goes on after a bad entry; an older kernel does not know that wish.
fn build(depth: u32) -> io::Result<IoUring> {
    let wish = |submit_all: bool| {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_cqsize(2 * depth.next_power_of_two());
        if submit_all {
            builder.setup_submit_all();
        }
        builder.build(depth.next_power_of_two())
    };
    wish(true).or_else(|e| match e.raw_os_error() {
        Some(libc::EINVAL) => wish(false),
        _ => Err(e),
    })
}
