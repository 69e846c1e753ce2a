//! What file and block device have in common: an open, locked, probed file with a geometry.
//!
//! Guarantees: while a [`Store`] or the device made from it lives, no other opener of this crate
//! has the same file open, in this process or another. Does not move blocks. Called by `file`,
//! `block` and `open`.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::AtFlags;
use rustix::fs::StatxFlags;

use crate::buffer::Arena;
use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Operation;
use crate::error::Result;
use crate::geometry::BLOCK_SIZE;
use crate::geometry::Geometry;
use crate::locked::LockedFile;

/// A file that is ready to be served.
#[derive(Debug)]
pub(super) struct Store {
    /// Open for reading and writing, locked.
    pub(super) file: LockedFile,
    /// Where it was found.
    pub(super) path: PathBuf,
    /// Sizes and abilities.
    pub(super) geometry: Geometry,
    /// What people should know about it.
    pub(super) notes: Vec<String>,
}

/// How a file was opened, and what that asks of requests.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: LockedFile,
    /// Past the page cache.
    pub(super) direct: bool,
    pub(super) memory_alignment: u32,
    pub(super) offset_alignment: u32,
    pub(super) notes: Vec<String>,
}

/// An error of opening, with the path in words.
pub(super) fn open_error(path: &Path, kind: DeviceErrorKind, detail: &str) -> DeviceError {
    DeviceError::new(Operation::Open, 0, 0, kind, format!("{}: {detail}", path.display()))
}

/// An error of opening, from the system.
pub(super) fn open_failed(path: &Path, doing: &str, cause: &io::Error) -> DeviceError {
    let mut error = DeviceError::from_io(Operation::Open, 0, 0, cause);
    // A path or a size that cannot be is the caller's mistake, not the medium's.
    let callers = [io::ErrorKind::NotFound, io::ErrorKind::FileTooLarge];
    if callers.contains(&cause.kind()) {
        error.kind = DeviceErrorKind::InvalidInput;
    }
    error.detail = format!("{}: {doing}: {cause}", path.display());
    error
}

/// Opens for reading and writing past the page cache where that works, with `flags` besides, and
/// takes the lock.
pub(super) fn open_locked(path: &Path, flags: i32) -> Result<Opened> {
    match open_with(path, flags | libc::O_DIRECT) {
        Ok(file) => {
            let file = lock(file, path)?;
            match probe_direct(&file) {
                Ok((memory_alignment, offset_alignment)) => Ok(Opened {
                    file,
                    direct: true,
                    memory_alignment,
                    offset_alignment,
                    notes: Vec::new(),
                }),
                Err(why) => {
                    drop(file);
                    open_buffered(path, flags, &why)
                }
            }
        }
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            open_buffered(path, flags, "the file system does not know O_DIRECT")
        }
        Err(e) => Err(open_refused(path, &e)),
    }
}

fn open_buffered(path: &Path, flags: i32, why: &str) -> Result<Opened> {
    let file = open_with(path, flags).map_err(|e| open_refused(path, &e))?;
    let file = lock(file, path)?;
    let notes = vec![format!("buffered, because {why}")];
    Ok(Opened { file, direct: false, memory_alignment: 1, offset_alignment: 512, notes })
}

fn open_with(path: &Path, flags: i32) -> io::Result<File> {
    File::options().read(true).write(true).custom_flags(flags).open(path)
}

fn open_refused(path: &Path, cause: &io::Error) -> DeviceError {
    match cause.raw_os_error() {
        // A block device that is mounted, or opened exclusively by somebody else.
        Some(libc::EBUSY) => open_error(path, DeviceErrorKind::Locked, "the device is in use"),
        _ => open_failed(path, "opening", cause),
    }
}

fn lock(file: File, path: &Path) -> Result<LockedFile> {
    match LockedFile::new(file) {
        Ok(file) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(open_error(
            path,
            DeviceErrorKind::Locked,
            "another opener, in this or another process, holds the lock",
        )),
        Err(e) => Err(open_failed(path, "locking", &e.into())),
    }
}

/// What direct I/O asks of memory and offsets, or why it cannot be had.
fn probe_direct(file: &File) -> std::result::Result<(u32, u32), String> {
    let told = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        .ok()
        .filter(|stat| stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0)
        .map(|stat| (stat.stx_dio_mem_align, stat.stx_dio_offset_align));
    let (memory, offset) = match told {
        Some((0, _) | (_, 0)) => return Err("the file system refuses O_DIRECT for it".into()),
        Some(alignments) => alignments,
        // An older kernel does not say; blocks are aligned enough for whatever it wants.
        None => (BLOCK_SIZE as u32, BLOCK_SIZE as u32),
    };
    if memory as usize > BLOCK_SIZE || offset as usize > BLOCK_SIZE {
        return Err(format!("O_DIRECT needs an alignment of {} bytes", memory.max(offset)));
    }
    try_direct_read(file)?;
    Ok((memory, offset))
}

/// Some file systems take the flag and then refuse every transfer.
fn try_direct_read(file: &File) -> std::result::Result<(), String> {
    let Some(mut buffer) = Arena::new(BLOCK_SIZE).ok().and_then(|arena| arena.allocate(0)) else {
        return Ok(());
    };
    let memory = buffer.get_mut().expect("a fresh buffer has one handle");
    match rustix::io::pread(file, memory, 0) {
        Err(rustix::io::Errno::INVAL) => Err("an aligned direct read is refused".into()),
        // Anything else, a bad medium included, shows when it matters.
        _ => Ok(()),
    }
}
