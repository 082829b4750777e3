//! Child processes, and how much time, processor time and memory they take.
//!
//! A measurement runs in a process whose only child is the measured command, because the peak
//! memory of a process's children never goes down.

use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The time and the memory that a run took.
pub struct Sample {
    /// How long the run took.
    pub seconds: f64,
    /// The seconds of processor time that the run took, in user space and in the kernel.
    pub processor: f64,
    /// The largest resident set in bytes.
    pub peak: u64,
}

/// First argument of the process that measures.
const CHILD: &str = "--measure-one";

/// Runs the program of `command` with its arguments. Other settings of `command` have no effect.
/// Returns the time and the memory that the run took.
///
/// # Errors
/// Errors of the system, or a command that fails.
pub fn measure(command: &Command) -> Result<Sample> {
    let out = Command::new(std::env::current_exe()?)
        .arg(CHILD)
        .arg(command.get_program())
        .args(command.get_args())
        .stderr(Stdio::inherit())
        .output()?;
    if !out.status.success() {
        bail!("{command:?} ended with {}", out.status);
    }
    let text = String::from_utf8(out.stdout)?;
    let mut numbers = text.split_whitespace();
    let mut next = || {
        let number = numbers.next();
        number
            .context("expected the measuring process to print time, processor time and peak memory")
    };
    Ok(Sample {
        seconds: next()?.parse()?,
        processor: next()?.parse()?,
        peak: next()?.parse()?,
    })
}

/// Must be called first in `main` of a program that uses [`measure`], because [`measure`] starts
/// the program again. In the new process, runs the command in the arguments, prints its time,
/// processor time and memory, and returns its exit code, or 1 if a signal ended it. In other
/// processes, returns `None`.
///
/// # Errors
/// Errors of the system, or arguments without a command.
pub fn as_child() -> Result<Option<i32>> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != CHILD) {
        return Ok(None);
    }
    let program = arguments
        .next()
        .context("expected a program after --measure-one")?;
    let begun = Instant::now();
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .status()?;
    let seconds = begun.elapsed().as_secs_f64();
    let usage = usage(libc::RUSAGE_CHILDREN)?;
    let processor = total(&usage).as_secs_f64();
    let peak = usage.ru_maxrss.unsigned_abs() * 1024;
    println!("{seconds} {processor} {peak}");
    Ok(Some(status.code().unwrap_or(1)))
}

/// Returns the processor time of this process so far, in user space and in the kernel.
///
/// # Errors
/// Errors of the system.
pub fn processor_time() -> Result<Duration> {
    Ok(total(&usage(libc::RUSAGE_SELF)?))
}

fn total(usage: &libc::rusage) -> Duration {
    let length = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs())
            + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    length(usage.ru_utime) + length(usage.ru_stime)
}

fn usage(of: libc::c_int) -> Result<libc::rusage> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the structure it is given; all-zero is a valid value as well.
    unsafe {
        if libc::getrusage(of, usage.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error().into());
        }
        Ok(usage.assume_init())
    }
}

/// Runs a command that is not measured. Its standard output is discarded.
///
/// # Errors
/// Errors of the system, or a command that fails.
pub fn finish(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::null()).status()?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
