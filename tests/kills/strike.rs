//! One process that is killed, measured, or ended.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tempfile::NamedTempFile;

use crate::common::text;

/// How a process ended.
pub(crate) enum End {
    /// It was killed while it ran.
    Killed,
    /// It ended by itself after this time.
    Itself(Duration),
}

/// The time between two checks of a running process.
const LOOK: Duration = Duration::from_micros(200);
/// The time between two questions whether a running process must be killed.
const ASK: Duration = Duration::from_millis(100);

/// Runs a command and kills it at `moment`, unless it has succeeded by then.
pub(crate) fn kill(command: &mut Command, moment: Duration) -> End {
    let begun = Instant::now();
    let (mut process, written) = start(command);
    loop {
        let ran = begun.elapsed();
        if let Some(status) = process.try_wait().unwrap() {
            let said = text(&fs::read(written).unwrap());
            assert!(status.success(), "{command:?}: {status}: {said}");
            return End::Itself(ran);
        }
        if ran >= moment {
            break;
        }
        thread::sleep(LOOK.min(moment - ran));
    }
    process.kill().unwrap();
    match process.wait().unwrap().code() {
        None => End::Killed,
        // It ended between the last look and the kill.
        Some(_) => End::Itself(begun.elapsed()),
    }
}

/// Runs a command that must succeed. Returns how long it ran.
pub(crate) fn measure(command: &mut Command) -> Duration {
    match kill(command, Duration::MAX) {
        End::Itself(time) => time,
        End::Killed => unreachable!("nobody kills it"),
    }
}

/// Runs a command. Returns how it ended, and what it wrote. If it has not ended within `time`, or if
/// `is_over` returns true meanwhile, kills it and the programs that it started, and returns `None`.
pub(crate) fn end_within(
    command: &mut Command,
    time: Duration,
    is_over: impl Fn() -> bool,
) -> Option<(ExitStatus, String)> {
    let begun = Instant::now();
    let (mut process, written) = start(command.process_group(0));
    let mut asked = begun;
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        let mut must_end = begun.elapsed() > time;
        if asked.elapsed() > ASK {
            asked = Instant::now();
            must_end |= is_over();
        }
        if must_end {
            let group = Pid::from_child(&process);
            kill_process_group(group, Signal::KILL).unwrap();
            process.wait().unwrap();
            while test_kill_process_group(group).is_ok() {
                thread::sleep(LOOK);
            }
            return None;
        }
        thread::sleep(LOOK);
    };
    Some((status, text(&fs::read(written).unwrap())))
}

/// Starts a command without input. Returns the process, and the file to which it writes.
fn start(command: &mut Command) -> (Child, NamedTempFile) {
    // Not a pipe, because nobody reads it before the command ends.
    let written = NamedTempFile::new().unwrap();
    let file = || written.as_file().try_clone().unwrap();
    let silent = command.stdin(Stdio::null());
    let process = silent.stdout(file()).stderr(file()).spawn().unwrap();
    (process, written)
}
