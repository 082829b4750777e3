//! Programs that start a bundle.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use cas::{Context, Error, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, sleep_until};

use super::place::Place;

/// From a request to end until it is not asked any more.
const GRACE: Duration = Duration::from_secs(10);

/// What starts a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Runtime {
    /// A program with the commands of runc.
    Oci(PathBuf),
    /// This tool: see [`super::chroot`].
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
    /// The runtimes to try; never none.
    pub(super) fn choose(wanted: Option<&str>) -> Vec<Self> {
        match wanted {
            Some("chroot") => vec![Runtime::Chroot],
            // Others find it again, wherever they are.
            Some(path) => vec![Runtime::Oci(match path.contains('/') {
                true => std::path::absolute(path).unwrap_or_else(|_| path.into()),
                false => on_path(path).unwrap_or_else(|| path.into()),
            })],
            None => {
                let found = ["runc", "crun"].into_iter().filter_map(on_path);
                let found: Vec<Self> = found.map(Runtime::Oci).collect();
                match found.is_empty() {
                    true => vec![Runtime::Chroot],
                    false => found,
                }
            }
        }
    }

    /// Runs the bundle to its end; nothing when it could not be started.
    pub(super) async fn run(
        &self,
        place: &Place,
        signals: &mut Signals,
    ) -> Result<Option<ExitCode>> {
        // Written once the container is there.
        let pid_file = place.bundle().join("pid");
        let mut command = match self {
            Runtime::Oci(path) => {
                note(place, path)?;
                let mut command = oci(place, path);
                command.arg("run").arg("--bundle").arg(place.bundle());
                command.arg("--pid-file").arg(&pid_file).arg(place.id());
                command
            }
            Runtime::Chroot => {
                let mut command = Command::new("/proc/self/exe");
                command.arg(super::chroot::COMMAND).arg(place.bundle());
                command
            }
        };
        place.share()?;
        let mut child = command.spawn().during("start", self)?;
        let status = signals.attend(&mut child, place).await?;
        let started = *self == Runtime::Chroot || pid_file.exists();
        if !started {
            end(place).await?;
        }
        Ok(started.then(|| code(status)))
    }
}

/// The code of a program, or of the signal that has ended it as shells give it.
fn code(status: ExitStatus) -> ExitCode {
    let number = status.code().unwrap_or(128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(number).unwrap_or(1))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut files = folders.map(|folder| folder.join(program));
    files.find(|file| file.is_file())
}

/// A runtime whose state is in the place of the run alone.
fn oci(place: &Place, runtime: &Path) -> Command {
    let mut command = Command::new(runtime);
    command.arg("--root").arg(place.bundle().join("state"));
    command
}

/// Notes which runtime is started, for whoever must end what it has started.
fn note(place: &Place, runtime: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let file = place.bundle().join("runtime");
    std::fs::write(&file, runtime.as_os_str().as_bytes()).during("write", file.display())
}

/// Asks the runtime of a run for something; false when it has no container there any more.
async fn ask(place: &Place, arguments: &[&str]) -> Result<bool> {
    use std::os::unix::ffi::OsStringExt;
    let state = place.bundle().join("state").join(place.id());
    if !state.exists() {
        return Ok(false);
    }
    let file = place.bundle().join("runtime");
    let runtime = std::fs::read(&file).during("read", file.display())?;
    let runtime = PathBuf::from(OsString::from_vec(runtime));
    let output = oci(place, &runtime).args(arguments).output().await;
    let output = output.during("start", runtime.display())?;
    // It may have ended by itself meanwhile.
    match output.status.success() || !state.exists() {
        true => Ok(true),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let why = format!("the container does not end: {}", said.trim_end());
            Err(Error::busy(why)).during("run", runtime.display())
        }
    }
}

/// Ends the container of a run whose runtime is gone, if there is one.
pub(super) async fn end(place: &Place) -> Result<()> {
    let ended = ask(place, &["delete", "--force", place.id()]).await;
    ended.map(|_| ())
}

/// Signals that ask the tool to end: they are the program's.
pub(super) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: unix::Signal,
}

impl Signals {
    /// Takes the signals from now on.
    pub(super) fn watch() -> Result<Self> {
        Ok(Signals {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            hang_up: unix::signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the end of `child`, and passes on what comes meanwhile. What is asked to end and
    /// does not is killed; a key on a terminal asks the program, which may have its own use for it.
    async fn attend(&mut self, child: &mut Child, place: &Place) -> Result<ExitStatus> {
        let at_terminal = std::io::IsTerminal::is_terminal(&std::io::stdin());
        let (mut deadline, mut killed) = (None, false);
        loop {
            let last = deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                status = child.wait() => return status.during("wait for", "the program"),
                // The kernel has told everybody at the terminal.
                _ = self.interrupt.recv() => if !at_terminal {
                    pass(child, Signal::INT);
                    deadline.get_or_insert(Instant::now() + GRACE);
                },
                _ = self.terminate.recv() => {
                    pass(child, Signal::TERM);
                    deadline.get_or_insert(Instant::now() + GRACE);
                }
                _ = self.hang_up.recv() => {
                    pass(child, Signal::HUP);
                    deadline.get_or_insert(Instant::now() + GRACE);
                }
                () = sleep_until(last), if deadline.is_some() => {
                    // The runtime tells how its container ended, and is itself the last resort.
                    if killed || !ask(place, &["kill", place.id(), "KILL"]).await? {
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
        // It may have ended just now.
        let _ = kill_process(pid, signal);
    }
}
