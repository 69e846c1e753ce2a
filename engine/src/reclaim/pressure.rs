//! What the machine says about memory: limit and use of the process's control group.
//!
//! Guarantees: parsers are pure and never panic on odd text; what cannot be read is absent, not
//! zero. Does not decide what a budget should be; reads three small kernel files when asked, never
//! on a data path. Called by the volume at open.

use std::path::Path;
use std::path::PathBuf;

/// A limit at or above this means "none" (version 1 writes about 2^63).
const UNLIMITED: u64 = 1 << 60;

/// Limit and use of a control group, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupMemory {
    /// Largest use allowed; `None` for no limit or an unreadable one.
    pub limit: Option<u64>,
    /// Bytes in use.
    pub usage: Option<u64>,
}

/// Where the files of this process's control group lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupDir {
    /// Version 1, the directory of the memory controller.
    V1(PathBuf),
    /// Version 2.
    V2(PathBuf),
}

/// A limit file: a number, or `max`.
pub fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes < UNLIMITED)
}

/// The directory named by a `/proc/self/cgroup` text, under `root` (usually `/sys/fs/cgroup`). The
/// memory controller of version 1 wins, because where it exists it is the one that counts.
pub fn group_dir(proc_text: &str, root: &Path) -> Option<GroupDir> {
    let lines = || proc_text.lines().filter_map(split_group_line);
    let v1 = lines().find(|(list, _)| list.split(',').any(|one| one == "memory"));
    if let Some((_, path)) = v1 {
        let dir = root.join("memory").join(path.trim_start_matches('/'));
        return Some(GroupDir::V1(dir));
    }
    let (_, path) = lines().find(|(list, _)| list.is_empty())?;
    Some(GroupDir::V2(root.join(path.trim_start_matches('/'))))
}

/// `id:controllers:path`.
fn split_group_line(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(':')?;
    rest.split_once(':')
}

fn read(dir: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(dir.join(file)).ok()
}

/// Limit and use of this process's control group; `None` where there is none to be seen.
pub fn of_this_process() -> Option<GroupMemory> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    Some(group_dir(&text, Path::new("/sys/fs/cgroup"))?.memory())
}

impl GroupDir {
    /// Limit and use, as far as they can be read.
    pub fn memory(&self) -> GroupMemory {
        let (dir, limit, usage) = match self {
            Self::V1(dir) => (dir, "memory.limit_in_bytes", "memory.usage_in_bytes"),
            Self::V2(dir) => (dir, "memory.max", "memory.current"),
        };
        GroupMemory {
            limit: read(dir, limit).and_then(|text| parse_limit(&text)),
            usage: read(dir, usage).and_then(|text| text.trim().parse().ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_know_their_ways_of_saying_none() {
        assert_eq!(parse_limit("1048576\n"), Some(1 << 20));
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("9223372036854771712\n"), None);
        assert_eq!(parse_limit("-1"), None);
        assert_eq!(parse_limit(""), None);
    }

    #[test]
    fn the_group_directory_follows_the_hierarchy_that_has_the_controller() {
        let root = Path::new("/r");
        let v2 = group_dir("0::/system.slice/a.service\n", root);
        assert_eq!(v2, Some(GroupDir::V2("/r/system.slice/a.service".into())));
        let both = "12:cpu,memory:/docker/x\n0::/init.scope\n";
        let v1 = group_dir(both, root);
        assert_eq!(v1, Some(GroupDir::V1("/r/memory/docker/x".into())));
        assert_eq!(group_dir("nonsense", root), None);
    }

    #[test]
    fn files_are_read_under_the_injected_root() {
        let root = std::env::temp_dir().join(format!("foliant-pressure-{}", std::process::id()));
        let dir = root.join("a");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("memory.max"), "8192\n").unwrap();
        std::fs::write(dir.join("memory.current"), "4096\n").unwrap();
        let group = group_dir("0::/a", &root).unwrap();
        let memory = group.memory();
        assert_eq!((memory.limit, memory.usage), (Some(8192), Some(4096)));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
