//! The work during which power is lost or processes are killed.

mod changes;
mod images;
mod ingest;
mod load;
mod repair;
mod snapshots;
mod wrong;

pub(crate) use self::images::FILLER;
pub(crate) use self::repair::repair;
pub(crate) use self::snapshots::{FILES, remove as remove_snapshot};

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use cas::blocking::Cas;
use clap::{Args, ValueEnum};
use testkit::random::Random;

use crate::material::Material;
use crate::promise::Notes;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// Blobs of all sizes at all durabilities, under leases.
    Ingest,
    /// Imports and pulls, both of which unpack; copies, tags, removals, commits of snapshots, and
    /// collections.
    Images,
    /// As `images`, on a disk that is full for a while.
    Full,
    /// Losses of blobs and snapshots, and their repair.
    Repair,
    /// Images that get their names before their blobs are flushed. The checks must find this error.
    NameFirst,
    /// All changes of `images` and `ingest`, until the process is killed.
    Load,
    /// As `load`, but notes too early, before each unpack, that the image is unpacked. The checks
    /// must find this error.
    Early,
    /// All changes of `load`, while collections run back to back, until each process has made
    /// `--changes` changes.
    Storm,
    /// As `storm`, but the clocks of some collections are days ahead. So jobs lose their leases.
    LateStorm,
}

impl Work {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Work::Ingest => "ingest",
            Work::Images => "images",
            Work::Full => "full",
            Work::Repair => "repair",
            Work::NameFirst => "name-first",
            Work::Load => "load",
            Work::Early => "early",
            Work::Storm => "storm",
            Work::LateStorm => "late-storm",
        }
    }
}

/// The arguments of a worker.
#[derive(Args)]
pub(crate) struct WorkArgs {
    #[arg(long, value_enum)]
    pub(crate) work: Work,
    #[arg(long)]
    pub(crate) seed: u64,
    /// The index of this process, from 0, among the processes that work on the root
    #[arg(long, default_value_t = 0)]
    pub(crate) process: u64,
    /// Whether other processes work on the root; if so, no collection may end their leases
    #[arg(long)]
    pub(crate) shared: bool,
    /// Ignore errors, because the disk has faults
    #[arg(long)]
    pub(crate) accept_errors: bool,
    /// The number of changes that this process makes in a storm
    #[arg(long, default_value_t = 0)]
    pub(crate) changes: u64,
    #[arg(long)]
    pub(crate) marks: PathBuf,
    #[arg(long)]
    pub(crate) material: PathBuf,
    pub(crate) root: PathBuf,
}

/// What the threads of a worker use: the open root, the notes, the material and settings.
#[derive(Clone)]
struct Worker {
    cas: Cas,
    notes: Notes,
    material: Material,
    /// The index of this process, from 0, among the processes that work on the root.
    process: u64,
    /// Whether other processes work on the root.
    is_shared: bool,
    /// Whether to note too early, before each unpack, that the image is unpacked.
    is_early: bool,
    /// Whether an image that was unpacked must stay unpacked. If a job loses its lease, a
    /// collection may remove the snapshots of its image, and the next mount makes them again.
    promises_trees: bool,
    /// Whether changes may fail.
    accepts_errors: bool,
}

/// The time by which the clocks of some collections are ahead. It is longer than the time for which
/// collections keep content without a name and without a lease.
const LATER: Duration = Duration::from_secs(3 * 86_400);
/// The number of threads that work at the same time.
const THREADS: u64 = 3;

/// Works on a root until the work is done. `load` and `early` are never done.
pub(crate) fn work(arguments: WorkArgs) -> Result<()> {
    let root: &Path = &arguments.root;
    let notes = Notes::open(&arguments.marks)?;
    let material = Material::at(arguments.material);
    let seed = arguments.seed;
    if arguments.work == Work::Repair {
        return repair::run(root, &notes, &material, Random::new(seed, "repair"));
    }
    let cas = match Cas::open(root) {
        Err(_) if arguments.accept_errors => return Ok(()),
        cas => cas?,
    };
    let worker = Worker {
        cas: cas.clone(),
        notes,
        material,
        process: arguments.process,
        is_shared: arguments.shared,
        is_early: arguments.work == Work::Early,
        promises_trees: arguments.work != Work::LateStorm,
        accepts_errors: arguments.accept_errors || arguments.work == Work::Full,
    };
    match arguments.work {
        Work::Ingest => each_thread(seed, |thread, random| ingest::run(&worker, thread, random))?,
        Work::Images => images::run(&worker, seed, None)?,
        Work::Full => images::run(&worker, seed, root.parent())?,
        Work::NameFirst => wrong::name_first(&worker)?,
        Work::Load | Work::Early => load::run(&worker, seed)?,
        Work::Storm => load::storm(&worker, seed, arguments.changes, Duration::ZERO)?,
        Work::LateStorm => load::storm(&worker, seed, arguments.changes, LATER)?,
        Work::Repair => {}
    }
    drop(worker);
    match cas.close() {
        Err(error) if !arguments.accept_errors => Err(error.into()),
        _ => Ok(()),
    }
}

/// Appends the arguments of a worker to the command of this program.
pub(crate) fn tell(
    command: &mut Command,
    (work, seed, process): (Work, u64, u64),
    (marks, material, root): (&Path, &Material, &Path),
) {
    command
        .args(["work", "--work", work.name()])
        .args(["--seed", &seed.to_string()])
        .args(["--process", &process.to_string()])
        .arg("--marks")
        .arg(marks)
        .arg("--material")
        .arg(material.path())
        .arg(root);
}

/// Returns what a worker has printed to its standard output.
///
/// # Errors
/// An error with the worker's message, if the worker failed.
pub(crate) fn printed(output: &Output) -> Result<Cow<'_, str>> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("a worker failed ({}): {}", output.status, said.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout))
}

/// Returns the owner names of all threads of `processes` processes. The registry has a copy of each
/// image for each owner.
pub(crate) fn owners(processes: u64) -> impl Iterator<Item = String> {
    (0..processes).flat_map(|process| (0..THREADS).map(move |thread| owner(process, thread)))
}

/// Returns the name of a thread as an owner of images, leases and snapshots.
fn owner(process: u64, thread: u64) -> String {
    format!("p{process}t{thread}")
}

/// Runs `task` in [`THREADS`] threads at once. If tasks fail, returns the error of one of them.
fn each_thread(seed: u64, task: impl Fn(u64, Random) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let random = Random::new(seed, &format!("thread {thread}"));
                let task = &task;
                scope.spawn(move || task(thread, random))
            })
            .collect();
        let ends = threads.into_iter().map(|thread| match thread.join() {
            Ok(end) => end,
            Err(_) => Err(anyhow!("a thread of the worker panicked")),
        });
        ends.collect()
    })
}
