//! A plain file for each object, changed by the same operations through system calls.
//!
//! Guarantees that files are removed when the value is dropped. What is compared: bytes and size
//! after each read and verification, and after a sync where data must lie, as the file system tells
//! it (`SEEK_DATA`, `SEEK_HOLE`). Does not judge the engine: it proves that the oracle means what a
//! file means. Used by `play`.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::Advice;
use rustix::fs::FallocateFlags;
use rustix::fs::SeekFrom;

use super::op::End;
use super::op::Op;
use super::op::Span;
use super::oracle::BLOCK;
use super::oracle::Model;
use super::oracle::Oracle;

/// The files.
#[derive(Debug)]
pub struct Beside {
    files: Vec<(PathBuf, File)>,
}

fn make(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
}

impl Beside {
    /// Empty files for `objects` objects in the folder `dir`.
    pub fn new(dir: &Path, objects: usize) -> io::Result<Self> {
        let path = |at: usize| dir.join(format!("foliant-beside-{}-{at}", std::process::id()));
        let one = |at: usize| Ok((path(at), make(&path(at))?));
        Ok(Self { files: (0..objects).map(one).collect::<io::Result<_>>()? })
    }

    fn file(&self, at: usize) -> &File {
        &self.files[at].1
    }

    fn allocate(&self, span: &Span, flags: FallocateFlags) -> io::Result<()> {
        if span.len == 0 {
            return Ok(());
        }
        let flags = flags | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(self.file(span.object), flags, span.at, span.len)?)
    }

    /// Does to the files what `op` does to the objects.
    pub fn apply(&mut self, op: &Op) -> io::Result<()> {
        match op {
            Op::Write(fill) | Op::WriteDirect(fill, _) => {
                self.file(fill.span.object).write_all_at(&fill.bytes(), fill.span.at)
            }
            Op::Punch(span) => self.allocate(span, FallocateFlags::PUNCH_HOLE),
            Op::Zero(span) => self.zero(span),
            Op::Allocate(span) => self.allocate(span, FallocateFlags::empty()),
            Op::Truncate(object, size) => self.file(*object).set_len(*size),
            Op::Sync(object) => self.file(*object).sync_data(),
            Op::SyncAll => self.files.iter().try_for_each(|(_, file)| file.sync_data()),
            Op::Evict => self.files.iter().try_for_each(|(_, file)| {
                rustix::fs::fadvise(file, 0, None, Advice::DontNeed).map_err(io::Error::from)
            }),
            Op::Reopen => {
                for (path, file) in &mut self.files {
                    file.sync_all()?;
                    *file = OpenOptions::new().read(true).write(true).open(path)?;
                }
                Ok(())
            }
            Op::Recreate(object) => {
                let (path, file) = &mut self.files[*object];
                std::fs::remove_file(&*path)?;
                *file = make(path)?;
                Ok(())
            }
            Op::Commit(End::Dropped, _) => Ok(()),
            Op::Commit(_, fills) => fills.iter().try_for_each(|fill| self.apply(&Op::Write(*fill))),
            Op::Both(a, b) => {
                self.apply(a)?;
                self.apply(b)
            }
            Op::Read(_) | Op::Share(_) | Op::ReadDirect(..) | Op::Extents(_) => Ok(()),
            Op::Seek(..) | Op::Verify => Ok(()),
        }
    }

    /// Zeroes below the size; what the call would do behind it is not what an object does.
    fn zero(&self, span: &Span) -> io::Result<()> {
        let size = self.file(span.object).metadata()?.len();
        let inside = Span { len: span.end().min(size).saturating_sub(span.at), ..*span };
        self.allocate(&inside, FallocateFlags::ZERO_RANGE)
    }

    /// Compares what an operation looks at; the answer is a sentence about a difference.
    pub fn compare(&self, op: &Op, oracle: &Oracle) -> io::Result<Option<String>> {
        match op {
            Op::Seek(object, at) => self.compare_seek(*object, *at, oracle.object(*object)),
            Op::Read(span) | Op::Share(span) | Op::ReadDirect(span, _) => {
                self.compare_bytes(span, oracle.object(span.object))
            }
            Op::Sync(object) => self.compare_places(*object, oracle.object(*object)),
            Op::Verify => {
                for object in 0..self.files.len() {
                    let len = oracle.object(object).bytes.len() + 1;
                    let all = Span { object, at: 0, len };
                    let found = self.compare_bytes(&all, oracle.object(object))?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn compare_bytes(&self, span: &Span, model: &Model) -> io::Result<Option<String>> {
        let size = self.file(span.object).metadata()?.len();
        if size != model.bytes.len() {
            let why = format!("a file has {size} bytes, the oracle {}", model.bytes.len());
            return Ok(Some(why));
        }
        let want = model.read(span);
        let mut found = vec![0; want.len()];
        self.file(span.object).read_exact_at(&mut found, span.at)?;
        let differs = found.iter().zip(&want).position(|(a, b)| a != b);
        Ok(differs.map(|at| format!("a file differs from the oracle at {}", span.at + at as u64)))
    }

    /// After a sync a block with data must lie in a run of data. The converse is no promise of a
    /// file: what XFS allocated in advance behind an end is told as data once the file grows over it.
    fn compare_places(&self, object: usize, model: &Model) -> io::Result<Option<String>> {
        let runs = self.data_runs(object)?;
        for block in 0..model.bytes.len().div_ceil(BLOCK) {
            let (start, end) = (block * BLOCK, (block + 1) * BLOCK);
            let touched = runs.iter().any(|&(from, to)| from < end && start < to);
            if model.has_data(block) && !touched {
                return Ok(Some(format!("block {block} holds data, and the file says hole")));
            }
        }
        Ok(None)
    }

    /// No byte that is not zero may be passed by, on the way to what the file calls data.
    fn compare_seek(&self, object: usize, at: u64, model: &Model) -> io::Result<Option<String>> {
        let tail = model.bytes.read(at..u64::MAX);
        let first = tail.iter().position(|&byte| byte != 0).map(|byte| at + byte as u64);
        let found = match rustix::fs::seek(self.file(object), SeekFrom::Data(at)) {
            Ok(found) => Some(found),
            Err(rustix::io::Errno::NXIO) => None,
            Err(cause) => return Err(cause.into()),
        };
        let passes = first.is_some_and(|first| found.is_none_or(|found| found > first));
        let beyond = tail.is_empty() && found.is_some();
        let what = || format!("data behind {at} in a file at {found:?}, the oracle has {first:?}");
        Ok((passes || beyond).then(what))
    }

    /// Where data lies, as `SEEK_DATA` and `SEEK_HOLE` tell it: ascending `from..to`.
    fn data_runs(&self, object: usize) -> io::Result<Vec<(u64, u64)>> {
        let file = self.file(object);
        let mut runs = Vec::new();
        let mut at = 0;
        loop {
            let from = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(from) => from,
                // No data behind.
                Err(rustix::io::Errno::NXIO) => return Ok(runs),
                Err(cause) => return Err(cause.into()),
            };
            at = rustix::fs::seek(file, SeekFrom::Hole(from))?;
            runs.push((from, at));
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        for (path, _) in &self.files {
            // Whoever removed it before did what was wanted.
            std::fs::remove_file(path).ok();
        }
    }
}
