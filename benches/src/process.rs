//! Child processes, and how much time and memory they take.
//!
//! A measurement runs in a process whose only child is the measured command, because the peak
//! memory of a process's children never goes down.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// What a run took.
pub struct Sample {
    /// How long it took.
    pub seconds: f64,
    /// The largest resident set in bytes.
    pub peak: u64,
}

/// First argument of the process that measures.
const CHILD: &str = "--measure-one";

/// Runs a command, and measures it.
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
    let (seconds, peak) = text
        .trim()
        .split_once(' ')
        .context("the measuring process printed nothing")?;
    Ok(Sample {
        seconds: seconds.parse()?,
        peak: peak.parse()?,
    })
}

/// Runs the command and prints what it took, if this is a measuring process. Returns its exit code,
/// or `None` in other processes.
///
/// # Errors
/// Errors of the system.
pub fn as_child() -> Result<Option<i32>> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != CHILD) {
        return Ok(None);
    }
    let program = arguments.next().context("no program to measure")?;
    let begun = Instant::now();
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .status()?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{seconds} {}", peak_of_children());
    Ok(Some(status.code().unwrap_or(1)))
}

fn peak_of_children() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the structure it is given; all-zero is a valid value as well.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    u64::try_from(usage.ru_maxrss).unwrap_or_default() * 1024
}

/// Runs a command that is not measured.
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
