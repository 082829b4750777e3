//! The stages of a task, and how long each of them took.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The stages that a task has run so far.
#[derive(Default)]
pub(crate) struct Stages {
    seconds: Vec<(&'static str, f64)>,
    failed: Vec<(&'static str, anyhow::Error)>,
}

impl Stages {
    /// Runs a stage on which later stages depend.
    ///
    /// # Errors
    /// Errors of the stage.
    pub(crate) fn run(&mut self, name: &'static str, command: &mut Command) -> Result<()> {
        self.time(name, || step(command))
    }

    /// Runs a stage. If the stage fails, later stages still run, and [`Stages::finish`] reports the
    /// failure.
    pub(crate) fn try_run(&mut self, name: &'static str, command: &mut Command) {
        self.try_time(name, || step(command));
    }

    /// Runs a function as a stage. If the stage fails, later stages still run, and
    /// [`Stages::finish`] reports the failure.
    pub(crate) fn try_time(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) {
        if let Err(error) = self.time(name, work) {
            self.failed.push((name, error));
        }
    }

    /// Runs a function as a stage on which later stages depend.
    ///
    /// # Errors
    /// Errors of the stage.
    pub(crate) fn time(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let begun = Instant::now();
        let outcome = work();
        self.seconds.push((name, begun.elapsed().as_secs_f64()));
        outcome
    }

    /// Prints the seconds of each stage, their sum, and the errors of the stages that failed in
    /// [`Stages::try_run`] or [`Stages::try_time`]. The errors come last because CI shows only the
    /// end of a long output.
    ///
    /// # Errors
    /// An error that names the stages that failed in [`Stages::try_run`] or [`Stages::try_time`],
    /// if there are any.
    pub(crate) fn finish(self) -> Result<()> {
        eprintln!("\nseconds  stage");
        for (name, seconds) in &self.seconds {
            eprintln!("{seconds:7.1}  {name}");
        }
        let total: f64 = self.seconds.iter().map(|(_, seconds)| seconds).sum();
        eprintln!("{total:7.1}  in all");
        if self.failed.is_empty() {
            return Ok(());
        }
        for (name, error) in &self.failed {
            eprintln!("\n{name}: {error:#}");
        }
        let names: Vec<_> = self.failed.iter().map(|(name, _)| *name).collect();
        bail!("failed stages: {}", names.join(", "))
    }
}

/// Returns a command that runs cargo without incremental builds. A task builds everything only
/// once, and the data of incremental builds takes three times the space of all other build output.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments).env("CARGO_INCREMENTAL", "0");
    command
}

/// Runs one command. Prints the command and, if it succeeds, how long it took.
///
/// # Errors
/// An error if the command cannot be started or does not succeed.
pub(crate) fn step(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    eprintln!("==> {shown}");
    let begun = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    eprintln!("<== {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Prints the size of a file, in MiB.
pub(crate) fn print_size(file: &str) -> Result<()> {
    let length = fs::metadata(Path::new(file))
        .with_context(|| format!("cannot read {file}"))?
        .len();
    eprintln!("{file}: {:.1} MiB", length as f64 / (1 << 20) as f64);
    Ok(())
}
