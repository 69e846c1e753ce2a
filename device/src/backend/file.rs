//! A regular file as a store: created with its space, opened, measured.
//!
//! Guarantees: never shrinks and never empties a file; a file that could not be created whole is
//! removed again; creation is durable when it returns (the file's size and its name). Does not
//! move blocks. Called by `open`.

use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::FallocateFlags;

use crate::backend::store::Store;
use crate::backend::store::open_error;
use crate::backend::store::open_failed;
use crate::backend::store::open_locked;
use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Result;
use crate::geometry::BLOCK_SIZE;
use crate::geometry::Geometry;

/// How big a file must be, and whether its space is set aside at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Create {
    pub(super) bytes: u64,
    pub(super) sparse: bool,
}

/// Opens the file, after creating or growing it if asked.
pub(super) fn open(path: &Path, create: Option<Create>) -> Result<Store> {
    let fresh = create.is_some() && create_new(path)?;
    let store = open_prepared(path, create);
    // Between creating and locking, somebody else may have made the file theirs.
    let ours = |error: &DeviceError| error.kind != DeviceErrorKind::Locked;
    if fresh && store.as_ref().is_err_and(ours) {
        let _ = std::fs::remove_file(path);
    }
    store
}

/// Whether the file was made just now.
fn create_new(path: &Path) -> Result<bool> {
    match File::options().read(true).write(true).create_new(true).open(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(open_failed(path, "creating", &e)),
    }
}

fn open_prepared(path: &Path, create: Option<Create>) -> Result<Store> {
    let mut opened = open_locked(path, 0)?;
    if let Some(create) = create {
        let note = grow(&opened.file, create)
            .and_then(|note| sync_with_parent(&opened.file, path).map(|()| note))
            .map_err(|e| open_failed(path, "setting its space aside", &e))?;
        opened.notes.extend(note);
    }
    let metadata = opened.file.metadata().map_err(|e| open_failed(path, "reading its size", &e))?;
    opened.notes.extend(remarks(&metadata));
    let blocks = metadata.len() / BLOCK_SIZE as u64;
    if blocks == 0 {
        let detail = format!("it has {} bytes, less than one block", metadata.len());
        return Err(open_error(path, DeviceErrorKind::InvalidInput, &detail));
    }
    let geometry = Geometry {
        logical_block_bytes: opened.offset_alignment,
        physical_block_bytes: BLOCK_SIZE as u32,
        memory_alignment_bytes: opened.memory_alignment,
        volatile_cache: true,
        discard: true,
        write_zeroes: true,
        ..Geometry::plain(blocks)
    };
    Ok(Store { file: opened.file, path: path.into(), geometry, notes: opened.notes })
}

/// Makes the file at least as long as asked, with its space unless it may be sparse. Returns what
/// people should know.
fn grow(file: &File, create: Create) -> io::Result<Option<String>> {
    let len = file.metadata()?.len();
    if create.sparse {
        if len < create.bytes {
            file.set_len(create.bytes)?;
        }
        return Ok(None);
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, create.bytes) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            if len < create.bytes {
                file.set_len(create.bytes)?;
            }
            Ok(Some("the file system cannot set space aside".into()))
        }
        Err(e) => {
            // Give back what was set aside of a file that grew in vain.
            let _ = file.set_len(len);
            Err(e.into())
        }
    }
}

fn sync_with_parent(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

fn remarks(metadata: &Metadata) -> Vec<String> {
    let mut notes = Vec::new();
    let stored = metadata.blocks() * 512;
    if stored < metadata.len() {
        notes.push(format!(
            "the file is sparse ({stored} of {} bytes have space): writes are slower and may \
             find no space",
            metadata.len()
        ));
    }
    if !metadata.len().is_multiple_of(BLOCK_SIZE as u64) {
        notes.push(format!("the last {} bytes are not used", metadata.len() % BLOCK_SIZE as u64));
    }
    notes
}
