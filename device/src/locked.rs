//! An open file with its exclusive advisory lock, which is given up by hand.
//!
//! The lock belongs to the opening of the file, and a process that starts a child has a second copy of
//! every descriptor until the child runs its program. Whoever only closed his own copy would leave the
//! lock behind for that instant, and the next opener would be told `Locked` by nobody.
//!
//! Guarantees: unlocked when this is dropped, whoever else has a copy of the descriptor. So it must be
//! dropped only when the kernel has no request for the file any more. Does not open files. Called by
//! `backend`, and by `uring`, which holds one for as long as its ring.

use std::fs::File;
use std::ops::Deref;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// A file that nobody else who asks for the lock can have.
#[derive(Debug)]
pub(crate) struct LockedFile(File);

impl LockedFile {
    /// Takes the exclusive lock of `file`, which belongs to this opening, not to the process.
    ///
    /// Errors: `WOULDBLOCK` when another opening has it; whatever else the system says.
    pub(crate) fn new(file: File) -> Result<Self, Errno> {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self(file))
    }
}

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // It cannot fail for a lock that is held; and if it did, closing would do it a moment later.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_lock() {
        let path = std::env::temp_dir().join(format!("foliant-locked-{}", std::process::id()));
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let first = open().unwrap();
        // What a child has between its making and its program.
        let copy = first.try_clone().unwrap();
        let first = LockedFile::new(first).unwrap();
        assert_eq!(LockedFile::new(open().unwrap()).unwrap_err(), Errno::WOULDBLOCK);
        drop(first);
        let second = LockedFile::new(open().unwrap());
        std::fs::remove_file(&path).unwrap();
        second.expect("the lock went with its owner");
        drop(copy);
    }
}
