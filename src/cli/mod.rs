//! The commands of the tool, which leave most of the work to [`cas::Cas`]. Each command or group of
//! related commands has its own file or directory.
#![deny(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "the print macros panic if the reader has closed the pipe; use `message` or `Output`"
)]

#[cfg(feature = "aci")]
mod aci;
mod backends;
mod bench;
mod blob;
mod bundle;
#[cfg(feature = "registry")]
mod connection;
mod copy;
mod demo;
mod df;
mod disk;
pub(crate) mod exit;
mod export;
mod fsck;
mod gc;
mod idmap;
mod images;
mod import;
mod in_namespace;
mod ingest;
mod init;
mod inspect;
#[cfg(feature = "on-demand")]
mod lazy;
mod lease;
mod log;
#[cfg(feature = "registry")]
mod login;
mod manual;
mod message;
mod mount;
mod names;
mod output;
mod patient;
mod place;
mod progress;
#[cfg(feature = "registry")]
mod prompt;
mod prune;
#[cfg(feature = "registry")]
mod registry;
#[cfg(feature = "registry")]
mod remote;
mod resource;
mod rootfs;
mod run;
mod snapshot;
#[cfg(feature = "soci")]
mod soci;
mod stop;
mod subids;
mod tree;
mod unpack;
mod unshare;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use cas::{Cas, Error, OpenOptions, Progress, Result};
use cas_host::check_outside;
use clap::{Parser, Subcommand};

use self::output::Output;
use self::progress::Bars;

/// Store, unpack, mount and run container images
#[derive(Parser)]
#[command(name = "cas", version, arg_required_else_help = true, after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// Root: the directory with the store, the snapshots and cas.toml [default: /var/lib/cas for
    /// the superuser, otherwise $XDG_DATA_HOME/cas or ~/.local/share/cas]
    #[arg(long, global = true, help_heading = GLOBAL, env = "CAS_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Use this store instead of the root's own: a scheme such as redb, a URL, or the name of a
    /// table in cas.toml
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "URL")]
    store: Option<String>,
    /// Use this snapshotter instead of the root's own
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "NAME")]
    snapshotter: Option<String>,
    /// Print JSON: one document, or one line per item for lists
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
    /// Print only results and errors
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    quiet: bool,
    /// Also print the causes of an error
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub(crate) verbose: bool,
    /// Do not show progress
    #[arg(long, global = true, help_heading = GLOBAL)]
    no_progress: bool,
    /// Do not confine the threads that unpack images. By default, the kernel lets them reach only
    /// the directory that they write
    #[arg(long, global = true, help_heading = GLOBAL)]
    no_confine: bool,
    #[command(subcommand)]
    command: Command,
}

/// The heading of the options that every command has.
const GLOBAL: &str = "Global options";

const EXAMPLE: &str = "Example:
  cas import image.tar --name app:1
  cas unpack app:1 /tmp/rootfs

Exit codes: 0 done; 1 failed; 2 wrong usage or not supported; 3 not found; 4 damaged or unexpected
content, such as a document that lists too much or is nested too deep; 5 busy or in conflict; 6 no
space or over any other limit; 7 a registry, an object store or a device does not answer, or a
registry denies access; 128 plus the number of the signal that stopped cas.";

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    Import(import::Import),
    Export(export::Export),
    Copy(copy::Copy),
    #[cfg(feature = "registry")]
    Pull(remote::Pull),
    #[cfg(feature = "registry")]
    Push(remote::Push),
    #[cfg(feature = "registry")]
    #[command(subcommand)]
    Registry(registry::Registry),
    #[cfg(feature = "registry")]
    Login(login::Login),
    #[cfg(feature = "registry")]
    Logout(login::Logout),
    Images(images::Images),
    Inspect(inspect::Inspect),
    Tag(images::Tag),
    Rmi(images::Rmi),
    Tree(tree::Tree),
    Unpack(unpack::Unpack),
    Disk(disk::Disk),
    Bundle(bundle::Bundle),
    Run(run::Run),
    #[command(hide = true)]
    RunInChroot(run::chroot::RunInChroot),
    #[command(hide = true)]
    HoldNamespace(idmap::HoldNamespace),
    Mount(mount::Mount),
    Umount(mount::Umount),
    #[command(subcommand)]
    Rootfs(rootfs::Rootfs),
    Unshare(unshare::Unshare),
    #[command(hide = true)]
    MapIds(unshare::MapIds),
    #[command(hide = true)]
    GiveOwners(in_namespace::GiveOwners),
    #[command(hide = true)]
    RemoveTree(in_namespace::RemoveTree),
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    #[command(subcommand)]
    Blob(blob::Blob),
    #[command(subcommand)]
    Ingest(ingest::Ingests),
    #[command(subcommand)]
    Lease(lease::Leases),
    #[cfg(feature = "on-demand")]
    #[command(subcommand)]
    Lazy(lazy::Lazy),
    #[cfg(feature = "soci")]
    #[command(subcommand)]
    Soci(soci::Soci),
    #[cfg(feature = "aci")]
    #[command(subcommand)]
    Aci(aci::Aci),
    Gc(gc::Gc),
    Fsck(fsck::Fsck),
    Why(gc::Why),
    Df(df::Df),
    Backends(backends::Backends),
    Bench(bench::Bench),
    #[command(hide = true)]
    BenchTask(bench::BenchTask),
    Demo(demo::Demo),
    Completions(manual::Completions),
    Man(manual::Man),
}

/// What every command receives: the root, its store and its snapshotter, and where results and
/// progress are shown.
pub(crate) struct Context {
    /// The root, if one was given.
    root: Option<PathBuf>,
    store: Option<String>,
    snapshotter: Option<String>,
    /// Whether the threads that unpack images are not confined.
    unconfined: bool,
    pub(crate) out: Output,
    pub(crate) progress: Arc<dyn Progress>,
    /// Whether progress is shown at all.
    shows_progress: bool,
}

impl Context {
    /// Opens the root. Makes the root if there is none.
    ///
    /// # Errors
    /// As [`Context::root`] and [`Cas::open_with`].
    pub(crate) async fn cas(&self) -> Result<Cas> {
        Cas::open_with(self.root()?, self.open_options()).await
    }

    /// Returns whether `directory`, a canonical path, is the root of this command, and the command
    /// uses the store of this root. Returns false if the user gave `--store`.
    pub(crate) fn is_own_root(&self, directory: &Path) -> bool {
        let root = self.root().and_then(|root| Ok(root.canonicalize()?));
        self.store.is_none() && root.is_ok_and(|root| root == directory)
    }

    /// Returns the directory of the root.
    ///
    /// # Errors
    /// `InvalidArgument` if no root was given, and the user has no data directory.
    pub(crate) fn root(&self) -> Result<PathBuf> {
        self.root.clone().map_or_else(default_root, Ok)
    }

    /// Checks that a path that a command writes is outside of the root, if there is one. Commands
    /// that write by a method of [`Cas`] do not need this check.
    ///
    /// # Errors
    /// `InvalidArgument` if the path is in the root.
    pub(crate) fn check_output(&self, path: &Path) -> Result<()> {
        match self.root() {
            Ok(root) => check_outside(path, &root, "root"),
            Err(_) => Ok(()),
        }
    }

    /// If a misplaced file or directory in the root may have caused `error`, returns an error that
    /// names this file or directory. Otherwise returns `error`.
    fn explain(&self, error: Error) -> Error {
        match self.root() {
            Ok(root) => Cas::explain_error(root, error),
            Err(_) => error,
        }
    }

    /// Returns the options with which the root is opened.
    pub(crate) fn open_options(&self) -> OpenOptions {
        let mut options = OpenOptions::default();
        options.store.clone_from(&self.store);
        options.snapshotter.clone_from(&self.snapshotter);
        options.unconfined = self.unconfined;
        options
    }

    /// Opens the root for a command that mounts images, and checks that it is not read-only. If the
    /// root has layers that are read on demand, also starts the process that serves them, unless it
    /// is already running.
    pub(crate) async fn cas_to_mount(&self) -> Result<Cas> {
        let cas = self.writable_cas().await?;
        #[cfg(feature = "on-demand")]
        lazy::ensure_served(&self.root()?).await?;
        Ok(cas)
    }

    /// Opens the root, and checks with [`Cas::check_writable`] that it is not read-only. The
    /// methods of [`Cas`] that change the root make the same check. Commands that change the root
    /// without these methods call `writable_cas`.
    pub(crate) async fn writable_cas(&self) -> Result<Cas> {
        let cas = self.cas().await?;
        cas.check_writable()?;
        Ok(cas)
    }
}

/// Runs one command. Returns the exit code with which the tool ends. For `cas run`, this is the
/// exit code of the program that was run.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    stop::survive_file_limit()?;
    let hide_progress = arguments.no_progress || arguments.json;
    let progress: Arc<dyn Progress> = Arc::new(Bars::new(arguments.quiet, hide_progress));
    log::show(Arc::clone(&progress));
    let context = &Context {
        root: arguments.root,
        store: arguments.store,
        snapshotter: arguments.snapshotter,
        unconfined: arguments.no_confine,
        out: Output::new(arguments.json, arguments.quiet),
        progress,
        shows_progress: !arguments.quiet && !hide_progress,
    };
    let command = arguments.command;
    let handles_signals = command.handles_signals();
    let work = async {
        let done = command
            .run(context)
            .await
            .map_err(|error| context.explain(error));
        // When the command drops its `Cas`, the last uses of images are written in the background.
        stop::last_work().await;
        done
    };
    if handles_signals {
        work.await
    } else {
        stop::at_a_signal(work).await
    }
}

impl Command {
    /// Returns whether the command itself handles signals. If not, a signal cancels the command.
    fn handles_signals(&self) -> bool {
        use Command::{Bench, Run, RunInChroot, Unshare};
        use Command::{GiveOwners, HoldNamespace, MapIds, RemoveTree};
        #[cfg(feature = "on-demand")]
        if matches!(self, Command::Lazy(_)) {
            return true;
        }
        matches!(
            self,
            Bench(_) | Run(_) | RunInChroot(_) | Unshare(_)
                // These do not wait for anything that could be cancelled.
                | GiveOwners(_) | HoldNamespace(_) | MapIds(_) | RemoveTree(_)
        )
    }

    async fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Command::Run(command) => return command.run(context).await,
            Command::Fsck(command) => return command.run(context).await,
            Command::RunInChroot(command) => return command.run(context),
            Command::HoldNamespace(command) => return command.run(),
            #[cfg(feature = "on-demand")]
            Command::Lazy(command) => return command.run(context),
            Command::Unshare(command) => return command.run(context),
            Command::MapIds(command) => return command.run(),
            Command::Bench(command) => return command.run(context).await,
            Command::Init(command) => command.run(context),
            Command::Import(command) => command.run(context).await,
            Command::Export(command) => command.run(context).await,
            Command::Copy(command) => command.run(context).await,
            #[cfg(feature = "registry")]
            Command::Pull(command) => command.run(context).await,
            #[cfg(feature = "registry")]
            Command::Push(command) => command.run(context).await,
            #[cfg(feature = "registry")]
            Command::Registry(command) => command.run(context).await,
            #[cfg(feature = "registry")]
            Command::Login(command) => command.run(context).await,
            #[cfg(feature = "registry")]
            Command::Logout(command) => command.run(context).await,
            Command::Images(command) => command.run(context).await,
            Command::Inspect(command) => command.run(context).await,
            Command::Tag(command) => command.run(context).await,
            Command::Rmi(command) => command.run(context).await,
            Command::Tree(command) => command.run(context).await,
            Command::Unpack(command) => command.run(context).await,
            Command::Disk(command) => command.run(context).await,
            Command::Bundle(command) => command.run(context).await,
            Command::Mount(command) => command.run(context).await,
            Command::Umount(command) => command.run(context).await,
            Command::Rootfs(command) => command.run(context).await,
            Command::Snapshot(command) => command.run(context).await,
            Command::Blob(command) => command.run(context).await,
            Command::Ingest(command) => command.run(context).await,
            Command::Lease(command) => command.run(context).await,
            #[cfg(feature = "soci")]
            Command::Soci(command) => command.run(context).await,
            #[cfg(feature = "aci")]
            Command::Aci(command) => command.run(context).await,
            Command::Gc(command) => command.run(context).await,
            Command::Why(command) => command.run(context).await,
            Command::Df(command) => command.run(context).await,
            Command::Backends(command) => command.run(context),
            Command::GiveOwners(command) => command.run(context),
            Command::RemoveTree(command) => command.run(context),
            Command::BenchTask(command) => command.run().await,
            Command::Demo(command) => command.run(context).await,
            Command::Completions(command) => command.run(context),
            Command::Man(command) => command.run(context),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns `/var/lib/cas` for the superuser, otherwise `cas` in the user's data directory.
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
            cas::Error::invalid(
                "no default root: neither XDG_DATA_HOME nor HOME is an absolute path; \
                 choose a directory with --root DIR",
            )
        })
}
