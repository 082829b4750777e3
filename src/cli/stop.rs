//! Stopping a command by a signal. The work of the command is cancelled and then cleans up, as
//! after an error. If the main thread does not notice the signal because a system call does not
//! return, another thread ends the process.

use std::future::{self, Future};
use std::process::{self, ExitCode};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use cas::Result;
use cas::backend::pool;
use rustix::process::Signal;
use tokio::runtime::Builder;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::message::{tell, tell_if_ready};

/// Maximum time to wait for work that a signal has interrupted.
const LAST_WORK: Duration = Duration::from_secs(10);
/// Maximum time from a signal to the end of the process. It is longer than [`LAST_WORK`], so that
/// the main thread ends the process, unless it waits for a system call.
const PATIENCE: Duration = Duration::from_secs(15);
/// Maximum time from a second signal to the end of the process.
const MOMENT: Duration = Duration::from_secs(1);

const UNFINISHED: &str = "cas: the command had not finished cleaning up and may have left files; \
                          `cas gc` removes those in the store";

/// A signal that stops the command. While this value exists, the process ends at the latest
/// [`PATIENCE`] after the signal, and [`MOMENT`] after another signal.
pub(crate) struct Stop {
    kind: SignalKind,
    _watchdog: Watchdog,
}

/// Does `work`, and returns its exit code. If SIGINT, SIGTERM or SIGHUP comes first, drops `work`,
/// and returns what [`stopped`] returns.
///
/// # Errors
/// Errors of the work and of the system.
pub(crate) async fn at_a_signal(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let stop = signalled()?;
    let stop = tokio::select! {
        done = work => return done,
        stop = stop => stop,
    };
    stopped(stop).await
}

/// Prints that a signal stopped the command. Waits until the work of the command has cleaned up.
/// Stops waiting after [`LAST_WORK`] or at the next signal. Returns the exit code: 128 plus the
/// number of the signal.
///
/// # Errors
/// Errors of the system.
pub(crate) async fn stopped(stop: Stop) -> Result<ExitCode> {
    tell(stopped_by(stop.kind));
    let again = first_signal()?;
    tokio::select! {
        _ = again => {}
        () = last_work() => {}
    }
    if !pool::wait_until_idle(Duration::ZERO) {
        tell(UNFINISHED);
    }
    Ok(ExitCode::from(code(stop.kind)))
}

fn stopped_by(kind: SignalKind) -> String {
    format!("cas: stopped by signal {}", kind.as_raw_value())
}

/// Returns the exit code of a command that a signal stopped.
fn code(kind: SignalKind) -> u8 {
    u8::try_from(128 + kind.as_raw_value()).unwrap_or(u8::MAX)
}

/// Waits until work in the background has ended, for at most [`LAST_WORK`].
pub(crate) async fn last_work() {
    let begun = Instant::now();
    while !pool::wait_until_idle(Duration::ZERO) && begun.elapsed() < LAST_WORK {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Handles SIGINT, SIGTERM and SIGHUP from now on, except signals that this process ignored from
/// its start, as under `nohup`. Returns a future that ends at the first signal that is handled.
///
/// # Errors
/// Errors of the system.
pub(crate) fn signalled() -> Result<impl Future<Output = Stop>> {
    let signal = first_signal()?;
    let watchdog = Watchdog::start(first_signal()?);
    Ok(async move {
        Stop {
            kind: signal.await,
            _watchdog: watchdog,
        }
    })
}

/// Handles the signals of [`signalled`] from now on. Returns a future that ends at the first of
/// them.
///
/// # Errors
/// Errors of the system.
fn first_signal() -> Result<impl Future<Output = SignalKind> + Send + 'static> {
    let mut interrupt = Handled::new(SignalKind::interrupt())?;
    let mut terminate = Handled::new(SignalKind::terminate())?;
    let mut hang_up = Handled::new(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            () = interrupt.recv() => SignalKind::interrupt(),
            () = terminate.recv() => SignalKind::terminate(),
            () = hang_up.recv() => SignalKind::hangup(),
        }
    })
}

/// A thread that ends the process if a signal has not ended it, for example because the main thread
/// waits for a disk or for the reader of a pipe. The thread ends when this value is dropped.
struct Watchdog {
    _until: oneshot::Sender<()>,
}

impl Watchdog {
    /// Starts the thread, which waits for `signal`. If the system does not allow another thread or
    /// more open files, no watchdog is started.
    fn start(signal: impl Future<Output = SignalKind> + Send + 'static) -> Self {
        let (until, dropped) = oneshot::channel();
        let thread = thread::Builder::new().name("cas-signals".to_owned());
        let _ = thread.spawn(move || watch(signal, dropped));
        Watchdog { _until: until }
    }
}

/// Ends the process [`PATIENCE`] after `signal`, or [`MOMENT`] after another signal. Returns when
/// the [`Watchdog`] is dropped.
///
/// # Errors
/// Errors of the system.
fn watch(signal: impl Future<Output = SignalKind>, dropped: oneshot::Receiver<()>) -> Result<()> {
    // While the main thread waits for a system call, its runtime does nothing.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let overdue = runtime.block_on(async {
        tokio::select! {
            _ = dropped => Ok(None),
            kind = overdue(signal) => kind.map(Some),
        }
    })?;
    if let Some(kind) = overdue {
        // The main thread may be waiting until standard error can be written.
        tell_if_ready(&format!("{}\n{UNFINISHED}\n", stopped_by(kind)));
        process::exit(i32::from(code(kind)));
    }
    Ok(())
}

/// Waits for `signal`, and then until the process should have ended. Returns the signal.
///
/// # Errors
/// Errors of the system.
async fn overdue(signal: impl Future<Output = SignalKind>) -> Result<SignalKind> {
    let kind = signal.await;
    let again = first_signal()?;
    tokio::select! {
        _ = again => sleep(MOMENT).await,
        () = sleep(PATIENCE) => {}
    }
    Ok(kind)
}

/// Handles SIGXFSZ from now on, unless this process ignored the signal from its start. The kernel
/// sends SIGXFSZ to a process that writes beyond its limit on the size of files. Without a handler,
/// the signal ends the process. With a handler, the write fails, and the command reports the error
/// and cleans up. A program that this process starts has the default action for SIGXFSZ again,
/// because exec resets handled signals.
///
/// # Errors
/// Errors of the system.
pub(crate) fn survive_file_limit() -> Result<()> {
    let exceeded = SignalKind::from_raw(Signal::XFSZ.as_raw());
    if !is_ignored(exceeded) {
        // The handler stays when the listener is dropped.
        drop(unix::signal(exceeded)?);
    }
    Ok(())
}

/// A signal that this process handles after `Handled::new`, unless the process ignored the signal
/// from its start, as under `nohup`.
pub(crate) struct Handled(Option<unix::Signal>);

impl Handled {
    /// # Errors
    /// Errors of the system.
    pub(crate) fn new(kind: SignalKind) -> Result<Self> {
        let handled = match is_ignored(kind) {
            true => None,
            false => Some(unix::signal(kind)?),
        };
        Ok(Handled(handled))
    }

    /// Waits for the signal, or for ever if it is ignored.
    pub(crate) async fn recv(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => future::pending().await,
        }
    }
}

/// Returns whether this process ignored the signal when this function was first called. Returns
/// false if `/proc/self/status` could not be read then.
fn is_ignored(kind: SignalKind) -> bool {
    static IGNORED: OnceLock<u64> = OnceLock::new();
    let ignored = IGNORED.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        ignored.unwrap_or_default()
    });
    ignored & (1 << (kind.as_raw_value() - 1)) != 0
}
