//! A root on which one or two processes work, with its material and its registry.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use cas::backend::{Snapshotter, pool};
use cas::blocking::Cas;
use cas::gc::GcOptions;
use cas::snapshot;
use testkit::docker::Registry;
use testkit::inventory::Inventory;

use crate::check::{self, Place};
use crate::material::Material;
use crate::promise::{Promise, Resource};
use crate::scratch::Scratch;
use crate::stack::Stack;
use crate::work::{self, Work, remove_snapshot};

/// The number of processes that work on a root at a time, if the store allows several.
const PROCESSES: u64 = 2;
/// The number of changes that each process makes before anything is killed.
const UNHARMED: u64 = 240;
/// How far the clock of a collection is set ahead: longer than the life of any lease, and longer
/// than the time for which content without a lease is kept.
const LATER: Duration = Duration::from_secs(40 * 86_400);
/// Maximum time in which a root must open after a kill.
const AT_ONCE: Duration = Duration::from_secs(30);
/// Maximum number of violations that a comparison returns.
const SHOWN: usize = 12;

/// A root, its material and a registry.
pub(crate) struct Site {
    scratch: Scratch,
    root: PathBuf,
    /// An empty directory for mounts.
    view: PathBuf,
    material: Material,
    _registry: Registry,
    /// The number of processes that work on the root at a time.
    pub(crate) processes: u64,
    promise: Promise,
    /// What was left before the first kill, after everything that workers had made was removed.
    unharmed: Inventory,
}

impl Site {
    /// Makes a root, runs workers on it without kills, removes what they have made, and takes an
    /// inventory of what is left.
    ///
    /// # Errors
    /// An error if a promise is broken although nothing was killed, or if the root, the registry or
    /// a worker fails.
    pub(crate) fn new(stack: &Stack, seed: u64) -> Result<Self> {
        let scratch = Scratch::for_snapshotter(&stack.snapshotter)?;
        let material = Material::make(&scratch.path("material"), seed)?;
        stack.init(&scratch.root())?;
        let processes = match stack.is_shared(&scratch.root())? {
            true => PROCESSES,
            false => 1,
        };
        let registry = material.serve(work::owners(processes))?;
        let mut site = Site {
            root: scratch.root(),
            view: scratch.path("view"),
            scratch,
            material,
            _registry: registry,
            processes,
            promise: Promise::default(),
            unharmed: Inventory::default(),
        };
        for process in 0..processes {
            let mut worker = site.worker(Work::Storm, seed, process);
            worker.args(["--changes", &UNHARMED.to_string()]);
            work::printed(&worker.output().context("cannot run a worker")?)?;
        }
        let named = site.read_marks()?;
        let found = site.compare(&named)?;
        if !found.is_empty() {
            bail!("without kills: {}", found.join("\n"));
        }
        site.clear()?;
        site.unharmed = take_inventory(&site.scratch)?;
        Ok(site)
    }

    /// Returns a worker that has not started.
    pub(crate) fn worker(&self, work: Work, seed: u64, process: u64) -> Command {
        let mut command = Command::new("/proc/self/exe");
        let places = (&*self.scratch.path("marks"), &self.material, &*self.root);
        work::tell(&mut command, (work, seed, process), places);
        command.stdin(Stdio::null());
        command
    }

    fn place(&self) -> Place<'_> {
        Place {
            root: &self.root,
            mount: &self.view,
            material: &self.material,
        }
    }

    /// Returns the path of this name in the directory of the trial.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    /// Reads what workers have noted since the last call. Returns the resources that they named.
    pub(crate) fn read_marks(&mut self) -> Result<BTreeSet<Resource>> {
        let marks = self.scratch.path("marks");
        let named = self.promise.add(&fs::read_to_string(&marks)?)?;
        File::create(marks)?;
        Ok(named)
    }

    /// Opens the root and compares the resources `which` with what was promised. Returns a line for
    /// each violation, at most [`SHOWN`]. From now on, each resource that has one of its promised
    /// values must keep the value that it has now, see [`Promise::settle`].
    pub(crate) fn compare(&mut self, which: &BTreeSet<Resource>) -> Result<Vec<String>> {
        let begun = Instant::now();
        let cas = Cas::open(&self.root)?;
        let opened = begun.elapsed();
        let compared = check::compare(&cas, &self.place(), &self.promise, which);
        cas.close()?;
        let mut found = compared.violations;
        if opened > AT_ONCE {
            found.push(format!("opening the root took too long: {opened:?}"));
        }
        for (resource, value) in compared.values {
            self.promise.settle(resource, value);
        }
        found.truncate(SHOWN);
        Ok(found)
    }

    /// Compares everything with what was promised, checks all bytes, and removes everything. Then
    /// compares what is left with what was left before the first kill, and looks for processes that
    /// still use the root. Returns a line for each violation, at most [`SHOWN`].
    pub(crate) fn compare_all(&mut self) -> Result<Vec<String>> {
        let all = self.promise.0.keys().cloned().collect();
        let mut found = self.compare(&all)?;
        let cas = Cas::open(&self.root)?;
        found.extend(check::incomplete(&cas)?);
        cas.close()?;
        found.extend(check::has_no_damage(&self.place())?);
        self.clear()?;
        found.extend(take_inventory(&self.scratch)?.differences(&self.unharmed));
        found.extend(self.processes_left()?);
        found.truncate(SHOWN);
        Ok(found)
    }

    /// Removes all names of images, and removes the snapshots that workers have committed or left
    /// active. Then runs a garbage collection with a clock that is ahead by [`LATER`], so that all
    /// leases have expired. Forgets all promises.
    fn clear(&mut self) -> Result<()> {
        let cas = Cas::open(&self.root)?;
        for image in cas.images()? {
            cas.remove(image.name.as_str())?;
        }
        let snapshotter: &dyn Snapshotter = &**cas.snapshotter()?;
        for info in pool::wait(snapshot::all(snapshotter))? {
            if ["own-", "active-"]
                .iter()
                .any(|own| info.key.starts_with(own))
            {
                remove_snapshot(snapshotter, &info.key)?;
            }
        }
        cas.gc_with(GcOptions::default().with_now(SystemTime::now() + LATER))?;
        cas.close()?;
        self.promise = Promise::default();
        Ok(())
    }

    /// Returns a line for each process that names the root in its command line, such as a worker
    /// that still runs.
    fn processes_left(&self) -> Result<Vec<String>> {
        let root = self
            .root
            .to_str()
            .context("the path of the root is not UTF-8")?;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let Ok(line) = fs::read(path.join("cmdline")) else {
                continue;
            };
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(root) {
                found.push(format!("a process is left: {line}"));
            }
        }
        Ok(found)
    }
}

fn take_inventory(scratch: &Scratch) -> Result<Inventory> {
    let root = scratch.root();
    let cas = Cas::open(&root)?;
    let around = root.parent().context("the root has no parent directory")?;
    let snapshotter: &dyn Snapshotter = &**cas.snapshotter()?;
    let taken = pool::wait(Inventory::take(around, &root, cas.store(), snapshotter));
    cas.close()?;
    Ok(taken)
}
