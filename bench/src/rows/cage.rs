//! A memory cgroup for a peer, so that it has no more memory than Foliant.
//!
//! Reads both layouts (v1 with a memory controller, v2). Guarantees that the group is gone when the
//! value is dropped. Where no group can be made, the row says so and runs without. Called by `fio.rs`.

use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// One group with a limit.
#[derive(Debug)]
pub struct Cage {
    folder: PathBuf,
}

impl Cage {
    /// A group that may use `bytes`. Errors say what the machine lacks.
    pub fn new(bytes: u64) -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts").context("reading /proc/mounts")?;
        let (root, limit) = find(&mounts).context("no memory controller is mounted")?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = root.join(format!("foliant-bench-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        let cage = Self { folder };
        let file = cage.folder.join(limit);
        if let Err(e) = std::fs::write(&file, bytes.to_string()) {
            bail!("writing {}: {e}", file.display());
        }
        Ok(cage)
    }

    /// `program`, started inside the group.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(self.folder.join("cgroup.procs")).arg(program);
        command
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir(&self.folder) {
            eprintln!("bench: {} stays: {e}", self.folder.display());
        }
    }
}

/// The root of the memory controller, and the file of its limit.
fn find(mounts: &str) -> Option<(PathBuf, &'static str)> {
    let fields = |line: &'_ str| -> Option<(PathBuf, String, String)> {
        let mut fields = line.split(' ').skip(1);
        let (at, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        Some((PathBuf::from(at), kind.to_owned(), options.to_owned()))
    };
    let all: Vec<_> = mounts.lines().filter_map(fields).collect();
    let has_memory = |options: &str| options.split(',').any(|o| o == "memory");
    if let Some((at, ..)) = all.iter().find(|(_, kind, o)| kind == "cgroup" && has_memory(o)) {
        return Some((at.clone(), "memory.limit_in_bytes"));
    }
    let (at, ..) = all.iter().find(|(at, kind, _)| kind == "cgroup2" && hands_down_memory(at))?;
    Some((at.clone(), "memory.max"))
}

/// Whether children of this v2 root have the memory controller; asks for it if need be.
fn hands_down_memory(root: &Path) -> bool {
    let control = root.join("cgroup.subtree_control");
    let has = || {
        let text = std::fs::read_to_string(&control).unwrap_or_default();
        text.split_whitespace().any(|c| c == "memory")
    };
    has() || (std::fs::write(&control, "+memory").is_ok() && has())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_layout_is_found_among_others() {
        let mounts = "cgroup /c/cpu cgroup rw,cpu 0 0\ncgroup /c/memory cgroup rw,memory 0 0\n";
        assert_eq!(find(mounts), Some((PathBuf::from("/c/memory"), "memory.limit_in_bytes")));
        assert_eq!(find("tmpfs /tmp tmpfs rw 0 0\n"), None);
    }
}
