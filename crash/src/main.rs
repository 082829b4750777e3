//! Checks that roots of `cas` keep their promises after losses of power, after kills of processes,
//! and while collections run.
//!
//! | module | contains |
//! |---|---|
//! | [`power`] | losses of power: disks that record what is written to them |
//! | [`kill`] | kills of processes at random moments |
//! | [`storm`] | collections that run back to back while workers make all kinds of changes |
//! | [`campaign`] | trials of all stores, with a log |
//! | [`work`] | what the workers do |
//! | [`promise`] | what the workers were promised |
//! | [`check`] | checks of a root after losses of power, kills and storms |

mod campaign;
mod check;
mod kill;
mod material;
mod namespace;
mod outcome;
mod power;
mod promise;
mod scratch;
mod site;
mod stack;
mod storm;
mod work;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::campaign::Counts;
use crate::check::Place;
use crate::material::Material;
use crate::power::{Fault, FileSystem, Plant};
use crate::promise::Promise;
use crate::stack::Stack;
use crate::work::{Work, WorkArgs};

/// Checks that roots of `cas` keep their promises after losses of power, after kills of processes,
/// and while collections run.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Record what workers write to a disk, and check disks in states that a loss of power can
    /// leave; needs the superuser
    Power(PowerArgs),
    /// Kill processes at work, and check after each round of kills; needs the superuser
    Kill(KillArgs),
    /// Make changes while collections run back to back, and check at the end; needs the superuser
    Storm(StormArgs),
    /// Try losses of power, kills and storms on every store; needs the superuser and takes a day
    All(AllArgs),
    /// Work on a root; used by `power`, `kill`, `storm` and `all`
    #[command(hide = true)]
    Work(WorkArgs),
    /// Check a root; used by `power` and `all`
    #[command(hide = true)]
    Check(CheckArgs),
}

/// Kinds of work for `power`, which end by themselves.
const POWER_WORKS: [Work; 5] = [
    Work::Ingest,
    Work::Images,
    Work::Full,
    Work::Repair,
    Work::NameFirst,
];
/// Kinds of work for `kill`, which only a kill ends.
const KILL_WORKS: [Work; 2] = [Work::Load, Work::Early];
/// Kinds of work for `storm`, which make changes while collections run.
const STORM_WORKS: [Work; 2] = [Work::Storm, Work::LateStorm];

/// Returns a parser that accepts the names of the kinds of work in `some`.
fn works(some: &[Work]) -> impl TypedValueParser<Value = Work> {
    let names = some.iter().map(|work| work.name());
    PossibleValuesParser::new(names).try_map(|name| Work::from_str(&name, false))
}

#[derive(Args)]
struct PowerArgs {
    #[command(flatten)]
    stack: Stack,
    /// The file system of the disk
    #[arg(long, value_enum, default_value = "ext4")]
    file_system: FileSystem,
    /// What the worker does
    #[arg(long, value_parser = works(&POWER_WORKS), default_value = "images")]
    work: Work,
    /// Make some sync calls of the worker return success without a sync; the checks must find
    /// broken promises
    #[arg(long, value_enum)]
    plant: Option<Plant>,
    /// A fault of the disk while the worker runs, or afterwards
    #[arg(long, value_enum)]
    fault: Option<Fault>,
    /// Number of processes that work at a time; `ingest` and `images` can have several, if the
    /// store allows this
    #[arg(long, default_value_t = 1)]
    processes: u64,
    /// Number of disks to check
    #[arg(long, default_value_t = 100)]
    disks: usize,
    /// The file to which the first disk with a broken promise is written
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Chooses the images, the changes, the requests that a fault hits, and the disks
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct KillArgs {
    #[command(flatten)]
    stack: Stack,
    /// What the processes do
    #[arg(long, value_parser = works(&KILL_WORKS), default_value = "load")]
    work: Work,
    /// Number of kills, rounded up to an even number if two processes work
    #[arg(long, default_value_t = 500)]
    kills: u64,
    /// Chooses the images, the changes and the moments of the kills
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct StormArgs {
    #[command(flatten)]
    stack: Stack,
    /// What the processes do
    #[arg(long, value_parser = works(&STORM_WORKS), default_value = "storm")]
    work: Work,
    /// Number of changes
    #[arg(long, default_value_t = 10_000)]
    changes: u64,
    /// Chooses the images and the changes
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct AllArgs {
    #[command(flatten)]
    counts: Counts,
    /// The file with a line for each trial that has ended; a trial that has a line in this file is
    /// not run again
    #[arg(long, default_value = "crashes.log")]
    log: PathBuf,
}

#[derive(Args)]
struct CheckArgs {
    #[arg(long)]
    marks: PathBuf,
    #[arg(long)]
    material: PathBuf,
    #[arg(long)]
    view: PathBuf,
    /// Bits of the disk were changed
    #[arg(long)]
    rot: bool,
    root: PathBuf,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(end) => end,
        Err(error) => {
            eprintln!("crash: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Does a task. Returns the exit code, which is 1 if a promise was broken.
fn run(task: Task) -> Result<ExitCode> {
    if !matches!(task, Task::Work(_) | Task::Check(_)) {
        namespace::enter()?;
    }
    let outcome = match task {
        Task::Power(arguments) => {
            let trial = power::Trial {
                stack: arguments.stack,
                file_system: arguments.file_system,
                work: arguments.work,
                processes: arguments.processes,
                plant: arguments.plant,
                fault: arguments.fault,
                seed: arguments.seed,
            };
            trial.run(arguments.disks, arguments.keep.as_deref())?
        }
        Task::Kill(arguments) => {
            let KillArgs { stack, work, .. } = arguments;
            kill::kill(&stack, work, arguments.kills, arguments.seed)?
        }
        Task::Storm(arguments) => {
            let StormArgs { stack, work, .. } = arguments;
            storm::storm(&stack, work, arguments.changes, arguments.seed)?
        }
        Task::All(arguments) => {
            return campaign::run(&arguments.counts, &arguments.log).map(code);
        }
        Task::Work(arguments) => return work::work(arguments).map(|()| ExitCode::SUCCESS),
        Task::Check(arguments) => return check_root(arguments),
    };
    for violation in &outcome.violations {
        println!("{violation}");
    }
    println!("{outcome}");
    Ok(code(outcome.violations.is_empty()))
}

/// Returns the exit code of a task that has found whether all promises are kept.
fn code(kept: bool) -> ExitCode {
    ExitCode::from(u8::from(!kept))
}

fn check_root(arguments: CheckArgs) -> Result<ExitCode> {
    let marks = fs::read_to_string(&arguments.marks)?;
    let place = Place {
        root: &arguments.root,
        mount: &arguments.view,
        material: &Material::at(arguments.material),
    };
    let promise = Promise::of(&marks)?;
    let found = match arguments.rot {
        true => check::after_rot(&place, &promise),
        false => Some(check::after_loss_of_power(&place, &promise)),
    };
    let Some(found) = found else {
        return Ok(ExitCode::from(power::NOTICED));
    };
    for violation in &found {
        println!("  {violation}");
    }
    Ok(code(found.is_empty()))
}
