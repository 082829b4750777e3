//! `cas run`: makes a bundle of an image, and starts the bundle with a runtime.

pub(super) mod chroot;
mod devices;
pub(super) mod run_dir;
mod runtime;

use std::io::IsTerminal;
use std::process::ExitCode;

use cas::bundle::{self, Program, Rootfs, UserIds};
use cas::{BundleOptions, Cas, Error, ErrorKind, ImageRef, Result, UnpackOptions};
use cas_core::error::excerpt;
use clap::Args;

use self::run_dir::RunDir;
pub(super) use self::runtime::on_path;
use self::runtime::{Runtime, Signals};
use super::bundle::Process;
#[cfg(feature = "on-demand")]
use super::lazy;
use super::message::tell;
use super::{Context, in_namespace, stop, subids};

/// Run a program of an image, and exit with the exit code of the program
#[derive(Args)]
#[command(after_help = "Example:
  cas run app:1
  cas run app:1 -- sh -c 'echo hello; exit 7'

Arguments after -- replace the image's command, as with docker run. They follow the image's
entrypoint, or the program of --entrypoint. If there is neither a command nor an entrypoint, sh
runs. The program is started by runc, or by crun if runc is not installed or cannot start the
program. With runc and crun, the only network device of the program is loopback. If neither is
installed, the program runs in a chroot, which does not isolate it. Changes that the program makes
to files of the image are lost when it ends.

Without privileges, the image is unpacked for each run, and the program runs in a user namespace,
in which you are the superuser. For the other users that the image names, you need ranges of ids in
/etc/subuid and /etc/subgid, and newuidmap and newgidmap (package uidmap). In `cas unshare`, the
image is unpacked once into snapshots, which all runs share.

Exit codes: that of the program; 128 plus the number of the signal that ended the program; 126 if
the program cannot be executed; 127 if the program is not found. If cas fails before it starts the
program, the exit code is one that `cas --help` lists.")]
pub(crate) struct Run {
    /// Name or digest of the image
    image: String,
    #[command(flatten)]
    process: Process,
    /// Runtime to use: a path, a program on PATH, or `chroot` [default: runc or crun if found,
    /// otherwise chroot]
    #[arg(long, value_name = "PATH")]
    runtime: Option<String>,
    /// If the image is not in the store, pull it first, as `cas pull --lazy` does
    #[cfg(feature = "on-demand")]
    #[arg(long)]
    lazy: bool,
}

impl Run {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let runtimes = Runtime::choose(self.runtime.as_deref())?;
        if self.runtime.is_none() && runtimes == [Runtime::Chroot] {
            let why = "neither runc nor crun is installed: the program runs in a chroot, \
                       without isolation; install one of them to isolate the program";
            context.progress.warn(why);
        }
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let options = self.process.options();
        let options = options
            .with_terminal(terminal)
            .with_mounted(!is_rootless())
            .with_rootless(is_rootless().then(subids::of_this_user))
            .with_temporary(true)
            .with_progress(context.progress.clone());
        #[cfg(feature = "on-demand")]
        if self.lazy {
            let stop = stop::signalled()?;
            tokio::select! {
                pulled = lazy::pull_missing(context, &self.image, options.platforms.clone()) => {
                    pulled?;
                }
                stop = stop => return stop::stopped(stop).await,
            }
        }
        let cas = context.cas_to_mount().await?;
        run_dir::sweep(&cas, false, &*context.progress).await?;
        let (run_dir, made, mut signals) = match make(&cas, context, &self.image, options).await? {
            Made::Bundle(run_dir, made, signals) => (run_dir, made, signals),
            Made::Stopped(code, run_dir) => {
                if let Some(run_dir) = run_dir {
                    clean_up(run_dir, Ok(cas), context).await;
                }
                return Ok(code);
            }
        };
        // Some stores admit one process at a time. The store is closed here, so that other
        // processes can open it while the program runs.
        drop(cas);
        let outcome = match made {
            Ok(()) => start(&run_dir, &runtimes, &mut signals).await,
            Err(error) => Err(error),
        };
        clean_up(run_dir, context.cas().await, context).await;
        outcome
    }
}

/// Ends the container of a run, and removes the mount, snapshot and bundle. A failure is only a
/// warning, so that the tool still returns the exit code of the run.
async fn clean_up(run_dir: RunDir, cas: Result<Cas>, context: &Context) {
    let removed = match cas {
        Ok(cas) => run_dir.remove(&cas).await,
        Err(error) => Err(error),
    };
    if let Err(error) = removed {
        let why = format!("cannot clean up after the run: {error}; the next `cas gc` tries again");
        context.progress.warn(&why);
    }
}

/// Returns whether this user is not the superuser.
fn is_rootless() -> bool {
    !rustix::process::geteuid().is_root()
}

/// How far a run has come before its program starts.
enum Made {
    /// The directory of the run, the outcome of making its bundle, and the watch for later signals.
    Bundle(RunDir, Result<()>, Signals),
    /// A signal stopped the run. The directory, if there is one, has an incomplete bundle.
    Stopped(ExitCode, Option<RunDir>),
}

/// Makes the bundle. A signal during the unpacking of the image, which may take long, stops the
/// run. Later signals are passed on to the program.
async fn make(cas: &Cas, context: &Context, image: &str, options: BundleOptions) -> Result<Made> {
    let image = || ImageRef::typed(image);
    let stop = stop::signalled()?;
    if options.rootless.is_some() {
        let run_dir = RunDir::create(cas).await?;
        let made = tokio::select! {
            made = make_rootless(cas, image(), &run_dir, options) => made,
            stop = stop => {
                let code = stop::stopped(stop).await?;
                return Ok(Made::Stopped(code, Some(run_dir)));
            }
        };
        return Ok(Made::Bundle(run_dir, made, Signals::watch()?));
    }
    let unpack = UnpackOptions::default()
        .with_platforms(options.platforms.clone())
        .with_progress(context.progress.clone());
    tokio::select! {
        unpacked = cas.snapshot_with(image(), unpack) => unpacked?,
        stop = stop => return Ok(Made::Stopped(stop::stopped(stop).await?, None)),
    };
    let signals = Signals::watch()?;
    let run_dir = RunDir::create(cas).await?;
    let made = cas.bundle_with(image(), run_dir.bundle(), options).await;
    Ok(Made::Bundle(run_dir, made, signals))
}

/// Makes a bundle without privileges. If this user has more ids than their own, gives the files in
/// the bundle's root file system to the owners that they have in the image.
async fn make_rootless(
    cas: &Cas,
    image: ImageRef,
    run_dir: &RunDir,
    options: BundleOptions,
) -> Result<()> {
    let has_more = options.rootless.as_ref().is_some_and(UserIds::has_more);
    cas.bundle_with(image, run_dir.bundle(), options).await?;
    if has_more {
        in_namespace::give_owners(&run_dir.rootfs()).await?;
    }
    Ok(())
}

/// Starts the bundle with the first runtime that can start it, and returns the exit code of the
/// program. Starts nothing and returns 127 if the image does not have the program, or 126 if the
/// program is not executable.
async fn start(run_dir: &RunDir, runtimes: &[Runtime], signals: &mut Signals) -> Result<ExitCode> {
    let process = bundle::process(run_dir.bundle())?;
    let name = excerpt(process.args.first().map_or("", String::as_str));
    let program = Rootfs::open(&run_dir.rootfs()).and_then(|rootfs| rootfs.program(&process));
    match program {
        // The image may give the directory of the program to another user. Then this process cannot
        // look for the program, but the runtime can.
        Err(error) if error.kind() == ErrorKind::Denied && is_rootless() => {}
        found => match found? {
            Program::Found => {}
            Program::Absent => {
                tell(format_args!(
                    "cas: run \"{name}\": the image does not have this program; check its name"
                ));
                return Ok(ExitCode::from(127));
            }
            Program::NotExecutable => {
                tell(format_args!(
                    "cas: run \"{name}\": expected an executable file, found something else in the \
                     image; name another program"
                ));
                return Ok(ExitCode::from(126));
            }
        },
    }
    for runtime in runtimes {
        if let Some(code) = runtime.run(run_dir, signals).await? {
            return Ok(code);
        }
        tell(format_args!("cas: {runtime} could not start the program"));
    }
    let why = "no runtime could start the program, for the reasons above; \
               `--runtime chroot` starts it without isolation";
    Err(Error::precondition(why).operation("run"))
}
