//! Mount options as `mount(8)` and `fstab(5)` give them.
//!
//! Guarantees that what is meant for others is passed over, and that what nobody knows reaches the kernel, which
//! refuses it. Called by `mount` and `helper`.

use anyhow::bail;
use fuser::MountOption;

/// Options of this program among them: `size=`, of the store if it has to be made, and `memory=`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    /// As `--store-size`.
    pub store_size: Option<String>,
    /// As `--memory`.
    pub memory: Option<String>,
    /// All others.
    pub rest: String,
}

/// Words for `mount(8)`, for the boot, and about times of access, which nothing here sets.
const PASSED_OVER: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "owner",
    "nofail",
    "_netdev",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "diratime",
    "nodiratime",
    "allow_other",
    "default_permissions",
    "rw",
    "",
];

/// Takes the options of this program out.
pub fn split(text: &str) -> Own {
    let mut own = Own::default();
    let mut rest = Vec::new();
    for word in text.split(',') {
        match word.split_once('=') {
            Some(("size", value)) => own.store_size = Some(value.to_owned()),
            Some(("memory", value)) => own.memory = Some(value.to_owned()),
            _ => rest.push(word),
        }
    }
    own.rest = rest.join(",");
    own
}

/// The options for the kernel. Errors: those that this file system cannot be mounted with.
pub fn parse(text: &str) -> anyhow::Result<Vec<MountOption>> {
    let mut options = Vec::new();
    for word in text.split(',') {
        let option = match word {
            word if PASSED_OVER.contains(&word) || word.starts_with("x-") => continue,
            "ro" => MountOption::RO,
            "dev" => MountOption::Dev,
            "nodev" => MountOption::NoDev,
            "suid" => MountOption::Suid,
            "nosuid" => MountOption::NoSuid,
            "exec" => MountOption::Exec,
            "noexec" => MountOption::NoExec,
            "atime" => MountOption::Atime,
            "noatime" => MountOption::NoAtime,
            "sync" => MountOption::Sync,
            "async" => MountOption::Async,
            "dirsync" => MountOption::DirSync,
            "remount" => bail!("a mounted store cannot be mounted anew: unmount it first"),
            word => match word.split_once('=') {
                Some(("fsname", name)) => MountOption::FSName(name.to_owned()),
                Some(("subtype", name)) => MountOption::Subtype(name.to_owned()),
                _ => MountOption::CUSTOM(word.to_owned()),
            },
        };
        options.push(option);
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_goes_to_whom_it_concerns() {
        let own = split("rw,size=1GiB,nosuid,memory=64MiB,x-systemd.automount,context=c");
        assert_eq!(
            (own.store_size.as_deref(), own.memory.as_deref()),
            (Some("1GiB"), Some("64MiB"))
        );
        let options = parse(&own.rest).unwrap();
        assert_eq!(options, [MountOption::NoSuid, MountOption::CUSTOM("context=c".into())]);
        assert_eq!(parse("").unwrap(), []);
        assert!(parse("ro,remount").is_err());
    }
}
