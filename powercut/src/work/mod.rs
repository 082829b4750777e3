//! The work during which power is lost.

mod images;
mod ingest;
mod wrong;

pub(crate) use self::images::{FILLER, full_name};

use std::path::Path;
use std::thread;

use anyhow::{Result, anyhow};
use cas::blocking::Cas;
use clap::ValueEnum;
use testkit::random::Random;

use crate::material::Material;
use crate::promise::Notes;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// Blobs of all sizes at all durabilities, under leases.
    Ingest,
    /// Imports that unpack, tags, removals and collections.
    Images,
    /// As `images`, on a disk that is full for a while.
    Full,
    /// Images that get their names before their blobs are flushed, which the checks must find.
    NameFirst,
}

impl Work {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Work::Ingest => "ingest",
            Work::Images => "images",
            Work::Full => "full",
            Work::NameFirst => "name-first",
        }
    }
}

/// What the work runs with.
#[derive(Clone)]
struct Worker {
    cas: Cas,
    notes: Notes,
    material: Material,
}

/// The number of threads that work at the same time.
const THREADS: u64 = 3;

/// Works on the root `root` until all is done.
pub(crate) fn work(
    kind: Work,
    root: &Path,
    marks: &Path,
    material: Material,
    seed: u64,
) -> Result<()> {
    let cas = Cas::open(root)?;
    let notes = Notes::open(marks)?;
    let worker = Worker {
        cas: cas.clone(),
        notes,
        material,
    };
    match kind {
        Work::Ingest => each_thread(seed, |thread, random| ingest::run(&worker, thread, random))?,
        Work::Images => images::run(&worker, seed, None)?,
        Work::Full => images::run(&worker, seed, root.parent())?,
        Work::NameFirst => wrong::name_first(&worker)?,
    }
    drop(worker);
    cas.close()?;
    Ok(())
}

/// Runs a task in each thread, and returns an error of one that failed.
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
