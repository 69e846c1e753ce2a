//! A raw block device as a store: opened exclusively, measured, its abilities read from sysfs.
//!
//! Guarantees that a mounted device, or one that another has opened exclusively, is refused. Needs
//! no ioctl of its own: the size is where the end is, the sector sizes come through `rustix`. Does
//! not move blocks. Called by `open`.

use std::io::Seek;
use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use crate::backend::store::Store;
use crate::backend::store::open_error;
use crate::backend::store::open_failed;
use crate::backend::store::open_locked;
use crate::error::DeviceErrorKind;
use crate::error::Result;
use crate::geometry::BLOCK_SIZE;
use crate::geometry::Geometry;

/// Opens the device; it must have at least `bytes_min` bytes.
pub(super) fn open(path: &Path, bytes_min: u64) -> Result<Store> {
    let opened = open_locked(path, libc::O_EXCL)?;
    let failed = |doing: &str, cause: std::io::Error| open_failed(path, doing, &cause);
    let mut file = &*opened.file;
    let bytes = file.seek(SeekFrom::End(0)).map_err(|e| failed("reading its size", e))?;
    if bytes < bytes_min.max(BLOCK_SIZE as u64) {
        let detail = format!("the device has {bytes} bytes, {bytes_min} are wanted");
        return Err(open_error(path, DeviceErrorKind::InvalidInput, &detail));
    }
    let logical = rustix::fs::ioctl_blksszget(&*opened.file)
        .map_err(|e| failed("reading its sector size", e.into()))?;
    let physical = rustix::fs::ioctl_blkpbszget(&*opened.file)
        .map_err(|e| failed("reading its physical sector size", e.into()))?;
    if logical as usize > BLOCK_SIZE {
        let detail = format!("its sectors have {logical} bytes, more than a block");
        return Err(open_error(path, DeviceErrorKind::Unsupported, &detail));
    }
    let rdev = opened.file.metadata().map_err(|e| failed("reading its number", e))?.rdev();
    let queue = Queue::of(rdev);
    let zeroes = queue.number("write_zeroes_max_bytes") > 0;
    let geometry = Geometry {
        blocks: bytes / BLOCK_SIZE as u64,
        logical_block_bytes: logical.max(opened.offset_alignment),
        physical_block_bytes: physical.max(logical),
        memory_alignment_bytes: opened.memory_alignment,
        volatile_cache: !opened.direct || queue.text("write_cache") != Some("write through".into()),
        // Blocks are given back by punching a hole, which the kernel does with an unmapping zeroing.
        discard: queue.number("discard_max_bytes") > 0 && zeroes,
        write_zeroes: zeroes,
    };
    Ok(Store { file: opened.file, path: path.into(), geometry, notes: opened.notes })
}

/// The queue's page in sysfs; a partition's is its disk's.
struct Queue(PathBuf);

impl Queue {
    fn of(rdev: u64) -> Self {
        let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
        let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        let own = device.join("queue");
        Self(if own.exists() { own } else { device.join("../queue") })
    }

    /// An attribute, or `None` where sysfs or the attribute is missing.
    fn text(&self, name: &str) -> Option<String> {
        Some(std::fs::read_to_string(self.0.join(name)).ok()?.trim().to_owned())
    }

    /// A numeric attribute; 0 where it is missing.
    fn number(&self, name: &str) -> u64 {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}
