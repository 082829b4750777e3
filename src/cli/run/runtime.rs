//! Programs that run a bundle: runc, crun, or this tool itself, which uses a chroot.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use cas::{Context, Error, Result};
use cas_host::calls::undisturbed;
use rustix::fs::Access;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::SignalKind;
use tokio::time::{Instant, sleep_until};

use super::super::stop::Handled;
use super::run_dir::RunDir;

/// Maximum time that a program may take to end after a signal was passed on to it. A program that
/// takes longer is killed.
const GRACE: Duration = Duration::from_secs(10);

/// A program that runs a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Runtime {
    /// A program with the command line of runc.
    Oci(PathBuf),
    /// This tool itself: see [`super::chroot`].
    Chroot,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Runtime::Oci(path) => path.display().fmt(f),
            Runtime::Chroot => f.write_str("chroot"),
        }
    }
}

impl Runtime {
    /// Returns the runtimes to try, in order. The list has at least one runtime.
    ///
    /// # Errors
    /// `NotFound` if the program that the user wants does not exist; `InvalidArgument` if it cannot
    /// be executed.
    pub(super) fn choose(wanted: Option<&str>) -> Result<Vec<Self>> {
        match wanted {
            Some("chroot") => Ok(vec![Runtime::Chroot]),
            Some(program) => {
                let path = find(program).during("find runtime", program)?;
                Ok(vec![Runtime::Oci(path)])
            }
            None => {
                let found = ["runc", "crun"].into_iter().filter_map(on_path);
                let mut runtimes: Vec<Self> = found.map(Runtime::Oci).collect();
                if runtimes.is_empty() {
                    runtimes.push(Runtime::Chroot);
                }
                Ok(runtimes)
            }
        }
    }

    /// Runs the bundle to its end. Returns the exit code of the program, or `None` if the bundle
    /// could not be started.
    pub(super) async fn run(
        &self,
        run_dir: &RunDir,
        signals: &mut Signals,
    ) -> Result<Option<ExitCode>> {
        // The runtime writes this file once the container exists.
        let pid_file = run_dir.bundle().join("pid");
        let mut command = match self {
            Runtime::Oci(path) => {
                record(run_dir, path)?;
                let mut command = oci(run_dir, path);
                command.arg("run").arg("--bundle").arg(run_dir.bundle());
                command.arg("--pid-file").arg(&pid_file).arg(run_dir.id());
                command
            }
            Runtime::Chroot => {
                let mut command = Command::new("/proc/self/exe");
                command.arg(super::chroot::COMMAND).arg(run_dir.bundle());
                command
            }
        };
        run_dir.share()?;
        let mut child = command.spawn().during("start", self)?;
        let status = signals.attend(&mut child, run_dir).await?;
        let started = *self == Runtime::Chroot || exists(&pid_file)?;
        if !started {
            end(run_dir).await?;
        }
        Ok(started.then(|| code(status)))
    }
}

/// Returns the exit code of a program, or 128 plus the signal that ended it.
fn code(status: ExitStatus) -> ExitCode {
    let number = status.code().unwrap_or(128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(number).unwrap_or(1))
}

fn exists(path: &Path) -> Result<bool> {
    undisturbed(|| path.try_exists()).during("open", path.display())
}

/// Returns the path of a program that the user has named: a path, or a name on `PATH`.
fn find(program: &str) -> Result<PathBuf> {
    if !program.contains('/') {
        return on_path(program).ok_or_else(|| {
            Error::not_found(
                "no program of this name is on PATH; install it, or name another runtime",
            )
        });
    }
    // An absolute path, because a later `cas gc` may run in another directory.
    let path = std::path::absolute(program)?;
    if !undisturbed(|| path.try_exists()).unwrap_or(false) {
        return Err(Error::not_found(
            "found nothing at this path; check the path",
        ));
    }
    match may_execute(&path) {
        true => Ok(path),
        false => Err(Error::invalid(
            "the path is not that of an executable file; name a program such as runc",
        )),
    }
}

/// Looks on `PATH`, then in `/usr/sbin` and `/sbin`, for a program that this user can execute.
/// Returns the path of the first, or `None` if there is none.
pub(in super::super) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut files = folders.map(|folder| folder.join(program));
    files.find(|file| may_execute(file))
}

/// Returns whether this user can execute a file.
fn may_execute(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, Access::EXEC_OK).is_ok()
}

/// Returns a command that starts `runtime`, which then keeps its state in the bundle.
fn oci(run_dir: &RunDir, runtime: &Path) -> Command {
    let mut command = Command::new(runtime);
    command.arg("--root").arg(run_dir.bundle().join("state"));
    command
}

/// Writes the path of the runtime into the bundle, so that a later process can end the container
/// with this runtime.
fn record(run_dir: &RunDir, runtime: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let file = run_dir.bundle().join("runtime");
    std::fs::write(&file, runtime.as_os_str().as_bytes()).during("write", file.display())
}

/// Calls the runtime of a run with these arguments. Returns false, without a call, if the run has
/// no container.
///
/// # Errors
/// `Busy` if the runtime fails and the container is still there; errors of starting the runtime,
/// and of reading its path.
async fn call(run_dir: &RunDir, arguments: &[&str]) -> Result<bool> {
    use std::os::unix::ffi::OsStringExt;
    let state = run_dir.bundle().join("state").join(run_dir.id());
    if !exists(&state)? {
        return Ok(false);
    }
    let file = run_dir.bundle().join("runtime");
    let runtime = match std::fs::read(&file) {
        // An earlier removal of the bundle was interrupted. It began when the container had ended.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        read => read.during("read", file.display())?,
    };
    let runtime = PathBuf::from(OsString::from_vec(runtime));
    let output = oci(run_dir, &runtime).args(arguments).output().await;
    let output = output.during("start", runtime.display())?;
    // The container may have ended meanwhile.
    if output.status.success() || !exists(&state)? {
        return Ok(true);
    }
    let printed = String::from_utf8_lossy(&output.stderr);
    let why = format!(
        "the container does not end: {}; end it, then run `cas gc`",
        printed.trim_end()
    );
    Err(Error::busy(why)).during("run", runtime.display())
}

/// Ends the container of a run, if one is left.
pub(super) async fn end(run_dir: &RunDir) -> Result<()> {
    let ended = call(run_dir, &["delete", "--force", run_dir.id()]).await;
    ended.map(|_| ())
}

/// Signals that ask the tool to end. They are passed on to the program.
pub(super) struct Signals {
    interrupt: Handled,
    terminate: Handled,
    hang_up: Handled,
}

impl Signals {
    /// Catches the signals from now on, except those that this process ignored from its start.
    pub(super) fn watch() -> Result<Self> {
        Ok(Signals {
            interrupt: Handled::new(SignalKind::interrupt())?,
            terminate: Handled::new(SignalKind::terminate())?,
            hang_up: Handled::new(SignalKind::hangup())?,
        })
    }

    /// Waits for the end of `child` and passes signals on to it. A program that does not end within
    /// the grace period is killed, except after Ctrl-C on a terminal, which some programs handle
    /// themselves.
    async fn attend(&mut self, child: &mut Child, run_dir: &RunDir) -> Result<ExitStatus> {
        let at_terminal = std::io::IsTerminal::is_terminal(&std::io::stdin());
        let (mut deadline, mut killed) = (None, false);
        loop {
            let last = deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                status = child.wait() => return status.during("wait for", "the program"),
                // After Ctrl-C at a terminal, the kernel has sent this signal to the program, too.
                () = self.interrupt.recv() => if !at_terminal {
                    pass(child, Signal::INT);
                    deadline.get_or_insert(Instant::now() + GRACE);
                },
                () = self.terminate.recv() => {
                    pass(child, Signal::TERM);
                    deadline.get_or_insert(Instant::now() + GRACE);
                }
                () = self.hang_up.recv() => {
                    pass(child, Signal::HUP);
                    deadline.get_or_insert(Instant::now() + GRACE);
                }
                () = sleep_until(last), if deadline.is_some() => {
                    // Kill the container first, so that the runtime can report how it ended. Kill
                    // the runtime only if the run has no container, or if the runtime has not
                    // ended within another grace period.
                    if killed || !call(run_dir, &["kill", run_dir.id(), "KILL"]).await? {
                        child.start_kill().during("end", "the program")?;
                    }
                    killed = true;
                    deadline = Some(Instant::now() + GRACE);
                }
            }
        }
    }
}

fn pass(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // The child may have ended just now.
        let _ = kill_process(pid, signal);
    }
}
