//! Runs fuzz targets.

mod campaign;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use cas_fuzz::{Target, replay};
use clap::{Args, Parser, Subcommand};

/// Runs fuzz targets.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Look for inputs that break promises; `cargo xtask fuzz` calls this
    All(AllArgs),
    /// Print the names of the targets
    List,
    /// Run a target on the inputs in files
    Replay {
        /// A name that `fuzz list` prints
        target: String,
        /// Files, such as findings of `fuzz all`
        files: Vec<PathBuf>,
    },
}

/// What a campaign needs.
#[derive(Args)]
struct AllArgs {
    /// CPU minutes for each target, including those of its runs in the log
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// The program `libfuzzer` of this package, built with coverage counters
    #[arg(long)]
    program: PathBuf,
    /// A directory for seeds, the corpus that grows, findings, and output of libFuzzer
    #[arg(long)]
    work: PathBuf,
    /// A file with a line for each run of a target that has ended; a campaign continues where its
    /// log ends, and counts the findings in it
    #[arg(long)]
    log: PathBuf,
    /// Names of targets; all if none are given
    targets: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Returns false if a target has failed.
fn run(task: Task) -> Result<bool> {
    match task {
        Task::All(arguments) => campaign::run(&arguments),
        Task::List => {
            for target in cas_fuzz::targets() {
                println!("{}", target.name);
            }
            Ok(true)
        }
        Task::Replay { target, files } => {
            let target = named(&target)?;
            let mut good = true;
            for file in files {
                let input =
                    fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                let outcome = replay::run(&target, &input);
                let said = match &outcome.result {
                    Ok(true) => "accepted",
                    Ok(false) => "refused",
                    Err(panic) => panic,
                };
                println!("{}: {said} ({:?})", file.display(), outcome.took);
                good &= outcome.result.is_ok();
            }
            Ok(good)
        }
    }
}

/// Returns the target with this name.
///
/// # Errors
/// An error if there is none.
fn named(name: &str) -> Result<Target> {
    cas_fuzz::target(name)
        .with_context(|| format!("no target has the name {name}; see `fuzz list`"))
}
