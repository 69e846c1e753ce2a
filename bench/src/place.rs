//! Where a run keeps its file, and who removes it.
//!
//! Guarantees that nothing is overwritten that the caller did not name for that, and that files in
//! the temporary folder are gone when the run ends, also when it fails. Called by `main.rs`.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use crate::target::Place;

/// What the command line says about the place.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    pub file: Option<PathBuf>,
    pub device: Option<PathBuf>,
    /// For files of the run's own; the temporary folder if `None`.
    pub folder: Option<PathBuf>,
    pub keep: bool,
    pub overwrite: bool,
}

/// A place for one target; removes its file when dropped, if the file is the run's own.
#[derive(Debug)]
pub struct Lodging {
    pub place: Place,
    own: bool,
}

impl Lodging {
    /// Finds the place for `target`. Errors name what is in the way.
    pub fn find(wish: &Wish, target: &str, size: u64, store: u64, memory: u64) -> Result<Self> {
        let (path, device, own) = match (&wish.device, &wish.file) {
            (Some(path), _) => (path.clone(), true, false),
            (None, Some(path)) => (path.clone(), false, false),
            (None, None) => {
                let name = format!("foliant-bench-{}-{target}.img", std::process::id());
                let folder = wish.folder.clone().unwrap_or_else(std::env::temp_dir);
                (folder.join(name), false, !wish.keep)
            }
        };
        check(&path, device, wish.overwrite)?;
        let place = Place { path, device, size, store, memory, write_out: false };
        Ok(Self { place, own })
    }
}

fn check(path: &Path, device: bool, overwrite: bool) -> Result<()> {
    let found = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !device => return Ok(()),
        found => found.with_context(|| format!("looking at {}", path.display()))?,
    };
    let shown = path.display();
    if device {
        let block = found.file_type().is_block_device();
        ensure!(block, "{shown} is not a block device; use --file");
        ensure!(overwrite, "everything on {shown} will be lost: say --overwrite");
    } else {
        ensure!(found.is_file(), "{shown} is not a regular file");
        let free = found.len() == 0 || overwrite;
        ensure!(free, "{shown} holds {} bytes that will be lost: say --overwrite", found.len());
    }
    Ok(())
}

impl Drop for Lodging {
    fn drop(&mut self) {
        if self.own {
            // It may not exist, when the run failed before it was made.
            std::fs::remove_file(&self.place.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten_unasked_and_own_files_are_removed() {
        let path = std::env::temp_dir().join(format!("foliant-place-{}.img", std::process::id()));
        std::fs::write(&path, "precious").unwrap();
        let mut wish = Wish { file: Some(path.clone()), ..Wish::default() };
        let refused = Lodging::find(&wish, "raw", 1, 1, 1).unwrap_err().to_string();
        assert!(refused.contains("--overwrite"), "{refused}");
        wish.overwrite = true;
        drop(Lodging::find(&wish, "raw", 1, 1, 1).unwrap());
        assert!(path.exists(), "a named file stays");
        (wish.device, wish.file) = (Some(path.clone()), None);
        assert!(Lodging::find(&wish, "raw", 1, 1, 1).is_err(), "a file is no device");
        std::fs::remove_file(&path).unwrap();

        let own = Lodging::find(&Wish::default(), "place-test", 1, 1, 1).unwrap();
        let path = own.place.path.clone();
        std::fs::write(&path, "scratch").unwrap();
        drop(own);
        assert!(!path.exists(), "the run's own file goes");
    }
}
