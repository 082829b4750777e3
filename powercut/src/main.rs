//! Loses power while a store works, and checks what is left.
//!
//! ```text
//! worker -> file system -> loop device -> Disk -> Record -> State -> check
//! ```
//! A worker changes a root on a file system on a loop device on a [`Disk`](disk::Disk), which
//! records all writes and flushes, and what the worker was promised. From the record, this program
//! builds [`states`] in which a loss of power can leave the disk. It mounts each state, so
//! that the file system recovers, and [checks](check) that `cas` keeps its promises.

mod campaign;
mod check;
mod disk;
mod file_system;
mod material;
mod namespace;
mod plant;
mod promise;
mod states;
mod trial;
mod work;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::check::Place;
use crate::file_system::FileSystem;
use crate::material::Material;
use crate::plant::Plant;
use crate::promise::Promise;
use crate::trial::Trial;
use crate::work::Work;

/// Loses power while a store works, and checks what is left.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Record the work once, and check disks that a loss of power can leave; needs the superuser
    Try(TryArgs),
    /// Check disks for each store on each file system; needs the superuser and takes hours
    All(AllArgs),
    /// Work on a root; used by `try`
    #[command(hide = true)]
    Work(WorkArgs),
    /// Check a root; used by `try`
    #[command(hide = true)]
    Check(CheckArgs),
}

#[derive(Args)]
struct TryArgs {
    /// The store, as in `cas --store`
    #[arg(long, default_value = "fs")]
    store: String,
    /// The snapshotter
    #[arg(long, default_value = "overlay")]
    snapshotter: String,
    /// The file system of the disk
    #[arg(long, value_enum, default_value = "ext4")]
    file_system: FileSystem,
    /// What the worker does
    #[arg(long, value_enum, default_value = "images")]
    work: Work,
    /// A wrong order of writes, which the checks must find
    #[arg(long, value_enum)]
    plant: Option<Plant>,
    /// Number of disks to check
    #[arg(long, default_value_t = 100)]
    states: usize,
    /// A file for the first disk that breaks a promise
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Repeats the work and the choice of the disks of an earlier run
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct AllArgs {
    /// Number of disks to check for each store on each file system
    #[arg(long, default_value_t = 1000)]
    states: usize,
    /// Chooses the works and the disks
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A file with a line for each trial that has ended; another run with this file leaves the
    /// trials out
    #[arg(long, default_value = "powercuts.log")]
    log: PathBuf,
}

#[derive(Args)]
struct WorkArgs {
    #[arg(long, value_enum)]
    work: Work,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    marks: PathBuf,
    #[arg(long)]
    material: PathBuf,
    root: PathBuf,
}

#[derive(Args)]
struct CheckArgs {
    #[arg(long)]
    marks: PathBuf,
    #[arg(long)]
    material: PathBuf,
    #[arg(long)]
    view: PathBuf,
    root: PathBuf,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("powercut: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether nothing is wrong.
fn run(task: Task) -> Result<bool> {
    match task {
        Task::Try(arguments) => {
            namespace::enter()?;
            attempt(arguments)
        }
        Task::All(arguments) => {
            namespace::enter()?;
            campaign::run(arguments.states, arguments.seed, &arguments.log)
        }
        Task::Work(arguments) => {
            let material = Material::at(arguments.material);
            let (root, marks) = (&arguments.root, &arguments.marks);
            work::work(arguments.work, root, marks, material, arguments.seed)?;
            Ok(true)
        }
        Task::Check(arguments) => {
            let marks = fs::read_to_string(&arguments.marks)?;
            let place = Place {
                root: &arguments.root,
                mount: &arguments.view,
                material: &Material::at(arguments.material),
            };
            let found = check::check(&place, &Promise::of(marks.lines())?);
            for violation in &found {
                println!("  {violation}");
            }
            Ok(found.is_empty())
        }
    }
}

fn attempt(arguments: TryArgs) -> Result<bool> {
    let trial = Trial {
        store: arguments.store,
        snapshotter: arguments.snapshotter,
        file_system: arguments.file_system,
        work: arguments.work,
        plant: arguments.plant,
        seed: arguments.seed,
    };
    let outcome = trial.run(arguments.states, arguments.keep.as_deref())?;
    for violation in &outcome.violations {
        println!("{violation}");
    }
    let (bad, states) = (outcome.violations.len(), outcome.states);
    println!("{bad} of {states} disks break a promise");
    Ok(outcome.violations.is_empty())
}
