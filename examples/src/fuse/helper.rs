//! The program as a helper of `mount(8)`: `DEV DIR -o OPTIONS`.
//!
//! `mount -t fuse.NAME DEV DIR` runs a program of that name in this way, and `/sbin/mount.NAME` does so without
//! FUSE in between. It waits until the helper ends, so the server is a process of its own, started from the same
//! file. Guarantees that the helper ends well only when the file system is there. Called by the binary.

use std::ffi::OsString;
use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;
use anyhow::bail;
use clap::Parser;

use crate::fuse::options;

/// What a helper of mount(8) is given.
#[derive(Debug, Clone, Parser)]
pub struct Arguments {
    /// The store: a file, made if it is missing, or a block device that holds a store.
    pub store: PathBuf,
    /// Where.
    pub directory: PathBuf,
    /// Mount options, with commas between them; size= and memory= are this program's.
    #[arg(short, long, default_value = "", action = clap::ArgAction::Append)]
    pub options: Vec<String>,
    /// Passed over: be tolerant of options.
    #[arg(short)]
    pub sloppy: bool,
    /// Passed over: do not write mtab.
    #[arg(short)]
    pub no_mtab: bool,
    /// Passed over: say more.
    #[arg(short)]
    pub verbose: bool,
    /// Do not mount.
    #[arg(short)]
    pub fake: bool,
    /// Passed over: the type.
    #[arg(short)]
    pub type_: Option<String>,
}

/// Whether these are the arguments of a helper, and not a command of this program.
pub fn is_called(arguments: &[OsString], commands: &[&str]) -> bool {
    let Some(first) = arguments.get(1).and_then(|word| word.to_str()) else { return false };
    arguments.len() > 2 && !first.starts_with('-') && !commands.contains(&first)
}

/// Starts the server, and waits until the file system is there.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.fake {
        return Ok(());
    }
    let own = options::split(&arguments.options.join(","));
    let mut command = Command::new(std::env::current_exe().context("looking for this program")?);
    // Paths are the caller's, and the server lives on in the root.
    let store = std::path::absolute(&arguments.store).context("looking for the store")?;
    let directory = arguments.directory.canonicalize();
    let directory = directory.context("looking for the directory")?;
    command.arg("mount").arg("--quiet").arg("--store").arg(store);
    for (option, value) in [("--store-size", &own.store_size), ("--memory", &own.memory)] {
        if let Some(value) = value {
            command.arg(option).arg(value);
        }
    }
    command.arg("--options").arg(&own.rest).arg(directory).current_dir("/");
    // A group of its own: a signal of the caller's terminal is not meant for it.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = command.spawn().context("starting the server")?;
    let lines = server.stdout.take().map(|pipe| BufReader::new(pipe).lines());
    for line in lines.into_iter().flatten() {
        let line = line.context("listening to the server")?;
        if line.starts_with("mounted on ") {
            return Ok(());
        }
        if let Some(cause) = line.strip_prefix("failed: ") {
            bail!("{cause}");
        }
    }
    bail!("the server ended without a word")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_is_known_by_what_it_is_given() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let commands = ["mount", "check"];
        assert!(is_called(&words("fuse /dev/x /mnt -o rw,dev"), &commands));
        assert!(is_called(&words("mount.foliant store dir"), &commands));
        for own in ["fuse", "fuse mount --store s d", "fuse --help", "fuse check"] {
            assert!(!is_called(&words(own), &commands), "{own}");
        }
        let parsed = Arguments::try_parse_from(words("fuse s d -n -o rw -o size=1MiB")).unwrap();
        assert_eq!(parsed.options, ["rw", "size=1MiB"]);
    }
}
