//! `fuse mount`: a store as a file system.
//!
//! Guarantees that a store that is missing is made, that SIGINT and SIGTERM end in a closed engine with everything
//! synced, and that it ends by itself when the file system is unmounted. A directory on which a killed server
//! still hangs is taken off before. Called by the binary and `helper`.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use fuser::BackgroundSession;
use fuser::Config;
use fuser::MountOption;
use fuser::Session;
use fuser::SessionACL;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::getegid;
use rustix::process::geteuid;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::fuse::desk::Desk;
use crate::fuse::fault::Fault;
use crate::fuse::filesystem::Server;
use crate::fuse::fs::Fs;
use crate::fuse::limits::READERS_MAX;
use crate::fuse::limits::STOP_WAIT;
use crate::fuse::options;
use crate::fuse::store::Store;
use crate::opening;
use crate::service::Signals;
use crate::service::announce;
use crate::service::say;
use crate::size;

/// Shows a store as a file system until it is unmounted.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The store: a file, made if it is missing, or a block device that holds a store.
    #[arg(long = "store", value_name = "PATH")]
    pub store: PathBuf,
    /// Where.
    pub directory: PathBuf,
    /// Memory budget of the engine.
    #[arg(long, default_value = "128MiB", value_parser = size::parse)]
    pub memory: u64,
    /// Size of the store, if it has to be made.
    #[arg(long, default_value = "4GiB", value_parser = size::parse)]
    pub store_size: u64,
    /// Mount options, with commas between them.
    #[arg(short, long = "options", value_name = "OPTIONS", default_value = "")]
    pub options: String,
    /// Says where it is mounted, what fails, and nothing else.
    #[arg(long)]
    pub quiet: bool,
}

/// Serves until it is unmounted, or a signal comes.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    take_off_dead(&arguments.directory)?;
    let kernel = kernel_options(&arguments)?;
    let (path, size, memory) = (&arguments.store, arguments.store_size, arguments.memory);
    let engine = opening::open_or_make(path, size, memory).await?;
    let owner = (geteuid().as_raw(), getegid().as_raw());
    let store = Store::open(engine.clone(), owner).await;
    let store = store.with_context(|| format!("opening {}", path.display()))?;
    let fs = Fs::new(store).await.map_err(failed("reading the root directory"))?;
    let orphans = fs.reclaim_orphans().await.map_err(failed("removing orphans"))?;
    let session = begin(&arguments.directory, kernel, &fs).await?;
    let (more, ready) = (
        format!(", {orphans} orphans removed"),
        format!("mounted on {}", arguments.directory.display()),
    );
    announce(&engine, arguments.quiet, &more, &ready)?;
    let (tell, mut ended) = oneshot::channel();
    // Not of the runtime's threads: it may outlive the runtime, if somebody holds the file system.
    std::thread::Builder::new().name("fuse-session".into()).spawn(move || {
        // Nobody listens any more if it took too long.
        let _ = tell.send(session.join());
    })?;
    tokio::select! {
        end = &mut ended => end.context("the session is lost")?.context("serving the kernel")?,
        () = signals.any() => {
            say(arguments.quiet, "stopping");
            // From here on it is not found by new paths; who is in it may end.
            if let Err(cause) = rustix::mount::unmount(&arguments.directory, UnmountFlags::DETACH) {
                tracing::warn!(%cause, "unmounting");
            }
            if timeout(STOP_WAIT, &mut ended).await.is_err() {
                tracing::warn!("the file system is in use; who uses it will hear errors");
            }
        }
    }
    finish(&fs).await?;
    engine.close().await.context("closing the engine")?;
    say(arguments.quiet, "closed");
    Ok(())
}

/// A failure of the file system in words.
fn failed(what: &'static str) -> impl Fn(Fault) -> anyhow::Error {
    move |fault| anyhow::anyhow!("{what}: error {}", fault.0.code())
}

/// What is to be done when nobody asks for anything any more.
async fn finish(fs: &Fs) -> anyhow::Result<()> {
    fs.tasks.close();
    fs.tasks.wait().await;
    for node in fs.nodes.all() {
        if let Ok(mut meta) = node.lock().await {
            fs.store_times(&node, &mut meta).await.map_err(failed("storing times"))?;
        }
    }
    fs.reclaim_orphans().await.map_err(failed("removing orphans"))?;
    Ok(())
}

/// Mounts, and starts to serve.
async fn begin(directory: &Path, config: Config, fs: &Fs) -> anyhow::Result<BackgroundSession> {
    let server = Server::new(fs.clone(), Desk::new(Handle::current(), fs.tasks.clone()));
    let (directory, kernel) = (directory.to_owned(), fs.kernel.clone());
    // The handshake waits for the kernel.
    let mounted = tokio::task::spawn_blocking(move || {
        let shown = directory.display().to_string();
        let session = Session::new(server, &directory, &config);
        let spawned = session.and_then(|session| {
            kernel.get_or_init(|| session.notifier());
            session.spawn()
        });
        spawned.with_context(|| format!("mounting on {shown}"))
    });
    mounted.await.context("mounting")?
}

fn kernel_options(arguments: &Arguments) -> anyhow::Result<Config> {
    let mut config = Config::default();
    config.mount_options = options::parse(&arguments.options)?;
    let store = arguments.store.display().to_string();
    let has_name = |option: &MountOption| matches!(option, MountOption::FSName(_));
    if !config.mount_options.iter().any(has_name) {
        config.mount_options.push(MountOption::FSName(store));
    }
    config.mount_options.push(MountOption::DefaultPermissions);
    // The permissions are the kernel's to check, so others may come in where root says so.
    config.acl = if geteuid().is_root() { SessionACL::All } else { SessionACL::Owner };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    config.n_threads = Some(threads.clamp(1, READERS_MAX));
    config.clone_fd = true;
    Ok(config)
}

/// Takes the mount of a server off that is no more. Errors: the directory is none.
fn take_off_dead(directory: &Path) -> anyhow::Result<()> {
    // Opened, because what `stat` says the kernel may know without a server.
    let Err(cause) = std::fs::read_dir(directory) else { return Ok(()) };
    let dead = [Errno::NOTCONN, Errno::CONNABORTED].map(|errno| Some(errno.raw_os_error()));
    if !dead.contains(&cause.raw_os_error()) {
        return Err(cause).with_context(|| format!("looking at {}", directory.display()));
    }
    tracing::info!(directory = %directory.display(), "taking a dead mount off");
    rustix::mount::unmount(directory, UnmountFlags::DETACH)
        .with_context(|| format!("taking a dead mount off {}", directory.display()))
}
