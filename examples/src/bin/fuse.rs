//! The commands of the file system. Reads the command line, starts a runtime, and says what went wrong;
//! everything else is the library's.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use foliant_examples::fuse::check;
use foliant_examples::fuse::helper;
use foliant_examples::fuse::mount;
use tracing::Level;

/// A Foliant store as a file system. With DEV DIR in place of a command: a helper of mount(8).
#[derive(Debug, Parser)]
#[command(version)]
enum Arguments {
    Mount(mount::Arguments),
    Check(check::Arguments),
}

const COMMANDS: &[&str] = &["mount", "check", "help"];

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let done = match helper::is_called(&words, COMMANDS) {
        true => helper::run(&helper::Arguments::parse_from(words)),
        false => serve(Arguments::parse_from(words)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("fuse: {cause:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let quiet = !matches!(&arguments, Arguments::Mount(mount) if !mount.quiet);
    tracing_subscriber::fmt()
        .with_max_level(if quiet { Level::WARN } else { Level::INFO })
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        match arguments {
            Arguments::Mount(arguments) => {
                let done = mount::run(arguments).await;
                // The helper hears of a start that failed on this way only.
                if let Err(cause) = &done {
                    println!("failed: {cause:#}");
                }
                done
            }
            Arguments::Check(arguments) => check::run(arguments).await,
        }
    });
    runtime.shutdown_background();
    done
}
