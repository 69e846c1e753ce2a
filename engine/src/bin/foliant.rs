//! `foliant`: looks at a store that nobody has open: check, repair, export, info, dump.
//!
//! Exit status: 0 sound, 1 damaged (or, of an export, incomplete), 2 could not look. Reports go to
//! standard output, a progress bar to standard error when that is a terminal. Does not do anything that
//! `foliant::check` does not do.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use foliant::Error;
use foliant::Result;
use foliant::check;
use foliant::check::Options;
use foliant::check::Progress;
use foliant::check::Report;
use foliant::check::Structure;
use foliant::check::Which;
use foliant::units::BlockNo;
use foliant::units::ObjectId;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;

const DAMAGED: u8 = 1;
const COULD_NOT_LOOK: u8 = 2;
const TEMPLATE: &str = "[{bar:40}] {pos} of {len} blocks  {eta}";

/// Looks at a Foliant store that nobody has open.
#[derive(Debug, Parser)]
#[command(version)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
    /// Memory for what is read, in MiB.
    #[arg(long, global = true, default_value_t = 64, value_parser = clap::value_parser!(u64).range(2..1 << 20))]
    memory: u64,
    /// Most memory for what the replayed log brings home, in MiB.
    #[arg(long, global = true, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    replay: u64,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Verifies every structure and cross-reference; changes nothing.
    Check {
        /// A file or block device.
        path: PathBuf,
        /// Leaves the checksums of data out: only metadata is read.
        #[arg(long)]
        no_data: bool,
    },
    /// Mends what has one right answer, and checks again.
    Repair {
        /// A file or block device.
        path: PathBuf,
    },
    /// Writes objects into a directory, or one to standard output; the store may be damaged.
    Export(Export),
    /// The store in a few lines.
    Info {
        /// A file or block device.
        path: PathBuf,
    },
    /// One structure in words.
    Dump {
        /// A file or block device.
        path: PathBuf,
        #[command(subcommand)]
        what: What,
    },
}

#[derive(Debug, Args)]
struct Export {
    /// A file or block device.
    path: PathBuf,
    /// Where the files go; made if need be.
    #[arg(required_unless_present_any = ["name", "id"])]
    dir: Option<PathBuf>,
    /// Only the object with this name, to standard output.
    #[arg(long, conflicts_with = "dir")]
    name: Option<String>,
    /// Only the object with this id, to standard output.
    #[arg(long, conflicts_with_all = ["dir", "name"])]
    id: Option<u64>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum What {
    /// Identity, layout and features.
    Superblock,
    /// Headers, and what replay found.
    Journal,
    /// Trees and counts.
    Root,
    /// The free map of a group.
    Group {
        /// Its number, from 0.
        group: u64,
    },
    /// Whatever lies at a block of the device.
    Block {
        /// Its number.
        block: u64,
    },
    /// The record of an object.
    Object {
        /// Its id.
        id: u64,
    },
    /// The extents of an object.
    Extents {
        /// Its id.
        id: u64,
    },
    /// All names.
    Names,
}

fn main() -> ExitCode {
    let line = Line::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(&line)),
        Err(cause) => return fail(&format!("no runtime: {cause}")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(DAMAGED),
        Err(cause) if cause.is_corruption() => {
            eprintln!("{cause}");
            ExitCode::from(DAMAGED)
        }
        Err(cause) => fail(&cause.to_string()),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("foliant: {why}");
    ExitCode::from(COULD_NOT_LOOK)
}

/// Whether all is sound.
async fn run(line: &Line) -> Result<bool> {
    let bar = std::io::stderr().is_terminal().then(bar);
    let tell = |progress: Progress| {
        if let Some(bar) = &bar {
            bar.set_length(progress.of);
            bar.set_position(progress.done);
        }
    };
    let options = Options {
        memory_bytes: line.memory << 20,
        replay_bytes: line.replay << 20,
        progress: Some(&tell),
        ..Options::default()
    };
    let outcome = verb(&line.verb, &options).await;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let (sound, words) = outcome?;
    print(&words)?;
    Ok(sound)
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template(TEMPLATE);
    let style = style.expect("the template is a constant that parses");
    ProgressBar::new(0).with_style(style)
}

fn print(words: &str) -> Result<()> {
    let printed = std::io::stdout().write_all(words.as_bytes());
    printed.map_err(|cause| Error::invalid(format!("printing failed: {cause}")))
}

fn judged(report: &Report) -> (bool, String) {
    (report.is_sound(), format!("{report}\n"))
}

/// Whether all is sound, and what to print.
async fn verb(verb: &Verb, options: &Options<'_>) -> Result<(bool, String)> {
    match verb {
        Verb::Check { path, no_data } => {
            let device = check::open(path).await?;
            let options = Options { data: !no_data, ..*options };
            Ok(judged(&check::check(&device, &options).await?))
        }
        Verb::Repair { path } => {
            let device = check::open(path).await?;
            let repaired = check::repair(&device, options).await?;
            let mut words = format!("before:\n{}\n\n", repaired.before);
            for done in &repaired.done {
                words += &format!("repaired: {done}\n");
            }
            let (sound, after) = judged(&repaired.after);
            Ok((sound, format!("{words}\nafter:\n{after}")))
        }
        Verb::Export(export) => run_export(export, options).await,
        Verb::Info { path } => {
            let device = check::open(path).await?;
            let mut words = Vec::new();
            check::info(&device, options, &mut words).await?;
            Ok((true, String::from_utf8_lossy(&words).into_owned()))
        }
        Verb::Dump { path, what } => {
            let device = check::open(path).await?;
            check::dump(&device, options, structure(*what), &mut std::io::stdout()).await?;
            Ok((true, String::new()))
        }
    }
}

fn structure(what: What) -> Structure {
    match what {
        What::Superblock => Structure::Superblock,
        What::Journal => Structure::Journal,
        What::Root => Structure::Root,
        What::Group { group } => Structure::Group(group),
        What::Block { block } => Structure::Block(BlockNo(block)),
        What::Object { id } => Structure::Object(ObjectId(id)),
        What::Extents { id } => Structure::Extents(ObjectId(id)),
        What::Names => Structure::Names,
    }
}

async fn run_export(export: &Export, options: &Options<'_>) -> Result<(bool, String)> {
    let device = check::open(&export.path).await?;
    let which = match (&export.name, export.id) {
        (Some(name), _) => Some(Which::Name(name.as_bytes())),
        (None, id) => id.map(|id| Which::Id(ObjectId(id))),
    };
    let exported = match (which, &export.dir) {
        (Some(which), _) => {
            check::export_object(&device, options, which, &mut std::io::stdout()).await?
        }
        (None, Some(dir)) => check::export(&device, options, dir).await?,
        (None, None) => return Err(Error::invalid("neither a directory nor an object is named")),
    };
    let report = &exported.report;
    let mut words = String::new();
    report.findings.iter().for_each(|finding| words += &format!("{finding}\n"));
    report.unjudged.iter().for_each(|what| words += &format!("lost: {what}\n"));
    words += &format!("{} objects, {} bytes\n", exported.objects, exported.bytes);
    // Standard output may be the object itself.
    eprint!("{words}");
    Ok((report.is_sound(), String::new()))
}
