//! Stopping a command by a signal. The work of the command is cancelled and then cleans up, as
//! after an error.

use std::future::{self, Future};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cas::Result;
use cas::backend::pool;
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::sleep;

use super::message::tell;

/// Maximum time to wait for work that a signal has interrupted.
const LAST_WORK: Duration = Duration::from_secs(10);

/// Does `work`, and returns its exit code. If SIGINT, SIGTERM or SIGHUP comes first, drops `work`,
/// and returns what [`stopped`] returns.
///
/// # Errors
/// Errors of the work and of the system.
pub(crate) async fn at_a_signal(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let stop = signalled()?;
    let kind = tokio::select! {
        done = work => return done,
        kind = stop => kind,
    };
    stopped(kind).await
}

/// Prints that a signal stopped the command. Waits until the work of the command has cleaned up.
/// Stops waiting after [`LAST_WORK`] or at the next signal. Returns the exit code: 128 plus the
/// number of the signal `kind`.
///
/// # Errors
/// Errors of the system.
pub(crate) async fn stopped(kind: SignalKind) -> Result<ExitCode> {
    let number = kind.as_raw_value();
    tell(format_args!("cas: stopped by signal {number}"));
    let again = signalled()?;
    tokio::select! {
        _ = again => {}
        () = last_work() => {}
    }
    if !pool::wait_until_idle(Duration::ZERO) {
        tell(
            "cas: the command had not finished cleaning up and may have left files; `cas gc` \
             removes those in the store",
        );
    }
    Ok(ExitCode::from(
        u8::try_from(128 + number).unwrap_or(u8::MAX),
    ))
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
pub(crate) fn signalled() -> Result<impl Future<Output = SignalKind>> {
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

/// Returns whether this process ignores the signal. Returns false if `/proc/self/status` cannot be
/// read.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & (1 << (kind.as_raw_value() - 1)) != 0)
}
