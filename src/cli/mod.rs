//! What a person types; each command is one file of thin calls on [`cas::Cas`].

mod backends;
mod bench;
mod blob;
mod bundle;
mod demo;
mod df;
pub(crate) mod exit;
mod export;
mod gc;
mod images;
mod import;
mod init;
mod lease;
mod mount;
mod output;
mod owners;
mod progress;
#[cfg(feature = "registry")]
mod remote;
mod run;
mod snapshot;
mod tree;
mod unpack;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use cas::layer::progress::Progress;
use cas::{Cas, Options, Result};
use clap::{CommandFactory, Parser, Subcommand};

use self::output::Output;
use self::progress::Bars;

/// Content, image and snapshot storage for container images.
#[derive(Parser)]
#[command(name = "cas", version, arg_required_else_help = true, after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// Directory of the root [default: /var/lib/cas for root, else in the user's data directory]
    #[arg(long, global = true, env = "CAS_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Another store than the root's, for this call: a scheme, a URL or a table of cas.toml
    #[arg(long, global = true, value_name = "URL")]
    store: Option<String>,
    /// Another snapshotter than the root's, for this call
    #[arg(long, global = true, value_name = "NAME")]
    snapshotter: Option<String>,
    /// Print JSON: one document, or one a line for lists
    #[arg(long, global = true)]
    json: bool,
    /// Print nothing but results and errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Print the causes of an error as well
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// No progress bars
    #[arg(long, global = true)]
    no_progress: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "Example:
  cas import image.tar --name app:1
  cas unpack app:1 /tmp/rootfs";

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    Import(import::Import),
    Export(export::Export),
    #[cfg(feature = "registry")]
    Pull(remote::Pull),
    #[cfg(feature = "registry")]
    Push(remote::Push),
    Images(images::Images),
    Inspect(images::Inspect),
    Tag(images::Tag),
    Rmi(images::Rmi),
    Tree(tree::Tree),
    Unpack(unpack::Unpack),
    Bundle(bundle::Bundle),
    Run(run::Run),
    #[command(hide = true)]
    RunInChroot(run::chroot::RunInChroot),
    #[command(hide = true)]
    HoldNamespace(owners::HoldNamespace),
    Mount(mount::Mount),
    Umount(mount::Umount),
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    #[command(subcommand)]
    Blob(blob::Blob),
    #[command(subcommand)]
    Lease(lease::Leases),
    Gc(gc::Gc),
    Why(gc::Why),
    Df(df::Df),
    Backends(backends::Backends),
    Bench(bench::Bench),
    #[command(hide = true)]
    BenchTask(bench::BenchTask),
    Demo(demo::Demo),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  cas completions bash > /etc/bash_completion.d/cas")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What every command gets: where to work and how to speak.
pub(crate) struct Session {
    root: PathBuf,
    options: Options,
    pub(crate) out: Output,
    pub(crate) progress: Arc<dyn Progress>,
    /// Whether progress is wanted at all.
    speaks: bool,
}

impl Session {
    /// Opens the root.
    pub(crate) async fn cas(&mut self) -> Result<Cas> {
        let options = Options {
            store: self.options.store.clone(),
            snapshotter: self.options.snapshotter.clone(),
            registry: None,
        };
        Cas::open_with(&self.root, options).await
    }
}

/// Runs one command; the exit code is that of the tool, or of what it has run.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let silent = arguments.no_progress || arguments.json;
    let mut session = Session {
        root: arguments.root.map_or_else(default_root, Ok)?,
        options: Options {
            store: arguments.store,
            snapshotter: arguments.snapshotter,
            registry: None,
        },
        out: Output::new(arguments.json, arguments.quiet),
        progress: Arc::new(Bars::new(arguments.quiet, silent)),
        speaks: !arguments.quiet && !silent,
    };
    let session = &mut session;
    match arguments.command {
        Command::Init(command) => command.run(session),
        Command::Import(command) => command.run(session).await,
        Command::Export(command) => command.run(session).await,
        #[cfg(feature = "registry")]
        Command::Pull(command) => command.run(session).await,
        #[cfg(feature = "registry")]
        Command::Push(command) => command.run(session).await,
        Command::Images(command) => command.run(session).await,
        Command::Inspect(command) => command.run(session).await,
        Command::Tag(command) => command.run(session).await,
        Command::Rmi(command) => command.run(session).await,
        Command::Tree(command) => command.run(session).await,
        Command::Unpack(command) => command.run(session).await,
        Command::Bundle(command) => command.run(session).await,
        Command::Run(command) => return command.run(session).await,
        Command::RunInChroot(command) => return command.run(),
        Command::HoldNamespace(command) => return command.run(),
        Command::Mount(command) => command.run(session).await,
        Command::Umount(command) => command.run(session).await,
        Command::Snapshot(command) => command.run(session).await,
        Command::Blob(command) => command.run(session).await,
        Command::Lease(command) => command.run(session).await,
        Command::Gc(command) => command.run(session).await,
        Command::Why(command) => command.run(session).await,
        Command::Df(command) => command.run(session).await,
        Command::Backends(command) => command.run(session),
        Command::Bench(command) => command.run(session).await,
        Command::BenchTask(command) => command.run().await,
        Command::Demo(command) => command.run(session).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "cas", &mut script);
            session.out.bytes(&script)
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

/// `/var/lib/cas` for root, else `cas` in the user's data directory.
fn default_root() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/cas".into());
    }
    let var = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    var("XDG_DATA_HOME")
        .or_else(|| var("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("cas"))
        .ok_or_else(|| {
            cas::Error::invalid("no home directory is known; name a root with --root DIR")
        })
}
