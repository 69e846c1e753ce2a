//! The commands of the block device server. Reads the command line, starts a runtime, and says what
//! went wrong; everything else is the library's.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use foliant_examples::nbd::manage;
use foliant_examples::nbd::serve;
use foliant_examples::service;
use tracing::Level;

/// Objects of a Foliant store as network block devices.
#[derive(Debug, Parser)]
#[command(version)]
enum Arguments {
    Serve(serve::Arguments),
    Create(manage::Create),
    List(manage::List),
    Remove(manage::Remove),
    Resize(manage::Resize),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The other commands say what they have to say themselves.
    let quiet = !matches!(&arguments, Arguments::Serve(serve) if !serve.quiet);
    tracing_subscriber::fmt()
        .with_max_level(if quiet { Level::WARN } else { Level::INFO })
        .with_writer(std::io::stderr)
        .init();
    let threads = match &arguments {
        Arguments::Serve(serve) => serve.threads,
        _ => None,
    };
    let runtime = match service::runtime(threads) {
        Ok(runtime) => runtime,
        Err(cause) => {
            eprintln!("nbd: no runtime: {cause}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match arguments {
            Arguments::Serve(arguments) => serve::run(arguments).await,
            Arguments::Create(arguments) => manage::create(arguments).await,
            Arguments::List(arguments) => manage::list(arguments).await,
            Arguments::Remove(arguments) => manage::remove(arguments).await,
            Arguments::Resize(arguments) => manage::resize(arguments).await,
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("nbd: {cause:#}");
            ExitCode::FAILURE
        }
    }
}
