//! The key-value store's two commands. Reads the command line, starts a runtime, and says what went
//! wrong; everything else is the library's.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use foliant_examples::kv::demo;
use foliant_examples::kv::serve;
use foliant_examples::service;
use tracing::Level;

/// A durable ordered key-value store on Foliant.
#[derive(Debug, Parser)]
#[command(version)]
enum Arguments {
    /// Loads, reads, writes, gets killed, recovers, verifies.
    Demo(demo::Arguments),
    /// The process that the demo kills.
    #[command(hide = true)]
    DemoChild(demo::ChildArguments),
    /// Serves Redis clients.
    Serve(serve::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_max_level(Level::WARN).with_writer(std::io::stderr).init();
    let runtime = match &arguments {
        // Each client is a task, and a deep pipeline of reads keeps one thread busy: all processors, unless told.
        Arguments::Serve(serve::Arguments { threads: threads @ Some(_), .. }) => {
            service::runtime(*threads)
        }
        _ => tokio::runtime::Runtime::new(),
    };
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(cause) => {
            eprintln!("kv: no runtime: {cause}");
            return ExitCode::FAILURE;
        }
    };
    let done = match arguments {
        Arguments::Demo(arguments) => runtime.block_on(demo::run(arguments)),
        Arguments::DemoChild(arguments) => runtime.block_on(demo::run_child(arguments)),
        Arguments::Serve(arguments) => runtime.block_on(serve::run(arguments)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("kv: {cause:#}");
            ExitCode::FAILURE
        }
    }
}
