//! `cas lazy`: serves the data of layers that are read on demand.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::pin::pin;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cas::{Context as _, Error, ErrorKind, ImageRef, OnDemand, Platforms, PullOptions, Result};
use clap::{Args, Subcommand};
use rustix::fs::OFlags;

use super::Context;
use super::message::tell;
use super::remote::pull_first;

/// How long a command waits until the process that it has started serves layers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two checks whether the process serves layers.
const STEP: Duration = Duration::from_millis(20);
/// Minimum time between the starts of two processes that serve layers. It bounds the load if the
/// processes end right after their start.
const LIFE: Duration = Duration::from_millis(200);
/// If this many processes in a row each end within [`LIFE`] of their start, no further process is
/// started.
const ATTEMPTS: u32 = 20;
/// The process that serves layers gives memory of this size in bytes back to the system when it no
/// longer needs it.
const FREED: usize = 256 << 10;
/// The name of the file for the messages of a `cas lazy serve` that another command has started.
const LOG: &str = "lazy.log";

/// Serve the data of layers that are read on demand
#[derive(Subcommand)]
#[command(after_help = "Example:\n  cas pull --lazy registry.example/team/app:1 && cas lazy serve")]
pub(crate) enum Lazy {
    Serve(Serve),
}

/// Serve the data of layers that are read on demand, until the FUSE file system with this data is
/// unmounted
#[derive(Args)]
#[command(after_help = "Example:
  cas pull --lazy registry.example/team/app:1
  cas lazy serve &
  cas run registry.example/team/app:1

Commands that mount an image start this command in the background if it is not running and the root
has layers that are read on demand. This command has two processes. The first process mounts the
file system. The second process fetches the data. If the second process ends unexpectedly, the first
process starts it again. Both processes end when the root was removed and no mounted image uses the
file system. If another command has started them, they also end when no mounted image uses the file
system and, for a minute, the root has had no layers that are read on demand.")]
pub(crate) struct Serve {
    /// Serve the FUSE session whose device is the standard input (used by the process that holds
    /// the session)
    #[arg(long, hide = true)]
    session: bool,
    /// End when the root has no layers that are read on demand (used by commands that start this
    /// command in the background)
    #[arg(long, hide = true)]
    background: bool,
    /// Answer requests that an earlier process left unanswered (used by the process that holds the
    /// session)
    #[arg(long, hide = true, requires = "session")]
    resume: bool,
}

impl Lazy {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode> {
        let Lazy::Serve(serve) = self;
        let root = context.root()?;
        let on_demand = OnDemand::open(&root)?.ending_without_layers(serve.background);
        if !serve.session {
            hold(&on_demand, &root, serve.background)?;
            return Ok(ExitCode::SUCCESS);
        }
        let session = std::io::stdin().as_fd().try_clone_to_owned();
        let session = session.during("open", "session")?;
        // Serving blocks while registries answer, so it needs a thread that runs no futures.
        let server = thread::Builder::new().spawn(move || on_demand.serve(session, serve.resume));
        let server = server.during("start", "thread")?;
        match server.join() {
            Ok(served) => served.map(|()| ExitCode::SUCCESS),
            Err(_) => Err(Error::internal(
                "the thread that serves layers panicked; please report it",
            )),
        }
    }
}

/// Holds a FUSE session until the session ends. Starts the process that serves the session. Starts
/// this process again whenever it fails.
///
/// # Errors
/// As [`OnDemand::hold`]; `Unavailable` if [`ATTEMPTS`] processes in a row failed less than
/// [`LIFE`] after their start.
fn hold(on_demand: &OnDemand, root: &Path, in_background: bool) -> Result<()> {
    let held = on_demand.hold()?;
    let (mut is_resumed, mut short_lives) = (false, 0);
    loop {
        let session = held.device().try_clone();
        let begun = Instant::now();
        let mut server = serve_command(root);
        server
            .arg("--session")
            // Each thread of glibc keeps memory that it has freed, unless it is of this size.
            .env("MALLOC_MMAP_THRESHOLD_", FREED.to_string())
            .stdin(Stdio::from(session.during("open", "session")?));
        if in_background {
            server.arg("--background");
        }
        if is_resumed {
            server.arg("--resume");
        }
        let ended = server.status().during("start", "cas lazy serve")?;
        if ended.success() {
            return Ok(());
        }
        short_lives = match begun.elapsed() < LIFE {
            true => short_lives + 1,
            false => 0,
        };
        if short_lives == ATTEMPTS {
            return Err(Error::unavailable(format!(
                "the process that serves layers ended {ATTEMPTS} times in a row right after its \
                 start; read its messages above for the reason",
            )));
        }
        tell(format_args!(
            "cas: the process that serves layers ended with {ended}; starting it again"
        ));
        is_resumed = true;
        thread::sleep(LIFE.saturating_sub(begun.elapsed()));
    }
}

/// Pulls an image, without the layers that can be read on demand. Meanwhile, starts the process
/// that serves such layers as soon as the root has some. Does nothing if the store has the image.
///
/// # Errors
/// `Denied` for a read-only root; `InvalidArgument` if `image` stands for several images; as
/// [`cas::Cas::pull_with`] and [`ensure_served`]; errors of the files by which short names are
/// looked up.
pub(super) async fn pull_missing(
    context: &Context,
    image: &str,
    platforms: impl Into<Platforms>,
) -> Result<()> {
    let cas = context.writable_cas().await?;
    match cas.image(ImageRef::typed(image)).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        found => return found.map(drop),
    }
    let hosts = cas.remote_settings().hosts();
    let names = hosts.expand(image).await?;
    let options = PullOptions::default()
        .with_on_demand(true)
        .with_platforms(platforms)
        .with_hosts(hosts)
        .with_progress(context.progress.clone());
    let root = context.root()?;
    let mut pull = pin!(pull_first(&cas, names, &options));
    tokio::select! {
        pulled = &mut pull => return pulled.map(drop),
        used = used(&root) => used?,
    }
    tokio::try_join!(pull, ensure_served(&root)).map(drop)
}

/// Waits until the root has layers that are read on demand.
///
/// # Errors
/// As [`OnDemand::open`].
async fn used(root: &Path) -> Result<()> {
    let on_demand = OnDemand::open(root)?;
    while !on_demand.is_used() {
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}

/// Starts the process that serves layers, in the background, and waits until it serves. Does
/// nothing if the root never had layers that are read on demand, or if a process already serves
/// them.
///
/// # Errors
/// `FailedPrecondition` if no process serves within [`PATIENCE`]; as [`OnDemand::open`]; errors of
/// the system.
pub(super) async fn ensure_served(root: &Path) -> Result<()> {
    let on_demand = OnDemand::open(root)?;
    if !on_demand.is_used() || on_demand.is_served() {
        return Ok(());
    }
    let log = on_demand.directory().join(LOG);
    let begun = Instant::now();
    let mut server = start(root, &log)?;
    while !on_demand.is_served() {
        if begun.elapsed() > PATIENCE {
            return Err(Error::precondition(format!(
                "`cas lazy serve` did not begin to serve layers within {} seconds; read its \
                 messages in the log",
                PATIENCE.as_secs()
            ))
            .subject(log.display()));
        }
        tokio::time::sleep(STEP).await;
        // If an earlier session is unmounted, but its processes have not ended yet, the new process
        // ends right away. It is then started again.
        if server
            .try_wait()
            .during("wait for", "cas lazy serve")?
            .is_some()
        {
            server = start(root, &log)?;
        }
    }
    Ok(())
}

/// Starts the process that holds a session, in the background. Its messages go to `log`.
fn start(root: &Path, log: &Path) -> Result<Child> {
    let mut file = OpenOptions::new();
    // The call neither follows a symbolic link nor waits at a pipe.
    let file = file
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(log);
    let messages: OwnedFd = file.during("open", log.display())?.into();
    let started = serve_command(root)
        .arg("--background")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(messages))
        .process_group(0)
        .spawn();
    started.during("start", "cas lazy serve")
}

fn serve_command(root: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--root").arg(root).args(["lazy", "serve"]);
    command
}
