//! The jobs of the snapshotters `erofs`, `overlay` and `native`, and the performance goals of
//! `erofs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use cas::blocking::Cas;
use cas::{OpenOptions, snapshot};
use tokio::runtime::{Builder, Runtime};

use super::jobs::{Contender, Jobs, Subject};
use super::{Summary, Table};
use oci_cas_benches::measure::{time, verdict};
use oci_cas_benches::process::{Sample, finish, measure, processor_time};

/// The snapshotters. The first snapshotter has goals.
const ALL: [&str; 3] = ["erofs", "overlay", "native"];
/// Indexes of the contenders `overlay` and `ctr`. The contenders are the snapshotters in the order
/// of [`ALL`], then `ctr`.
const OVERLAY: usize = 1;
const CTR: usize = ALL.len();

/// A maximum for `erofs`.
enum Goal {
    /// A part of the value of another contender.
    Part {
        /// Index of the other contender.
        than: usize,
        part: f64,
        /// Whether the goal is for the processor time, too.
        with_processor: bool,
    },
    /// Seconds, on a file system with reflinks.
    WithReflinks(f64),
}

const IMPORT: &[Goal] = &[
    Goal::Part {
        than: OVERLAY,
        part: 0.85,
        with_processor: true,
    },
    Goal::Part {
        than: CTR,
        part: 0.22,
        with_processor: false,
    },
];
const REMOVAL: &[Goal] = &[of_overlay(0.1)];
const DISK: &[Goal] = &[Goal::WithReflinks(0.05)];
const COLD_FIND: &[Goal] = &[of_overlay(0.6)];
const COLD_READ: &[Goal] = &[of_overlay(0.5)];
const WARM: &[Goal] = &[of_overlay(1.1)];

const fn of_overlay(part: f64) -> Goal {
    Goal::Part {
        than: OVERLAY,
        part,
        with_processor: false,
    }
}

/// The program that is started in a container's root directory, if the image has it.
const PYTHON: &str = "usr/bin/python3";

/// The state of the caches before a run.
#[derive(Clone, Copy, PartialEq)]
enum Caches {
    Cold,
    Warm,
}

impl Table<'_> {
    /// Measures all jobs of the snapshotters. Prints their lines, and then the goals.
    pub(super) fn print_snapshotters(&self, subject: &Subject) -> Result<()> {
        let jobs = &self.jobs;
        let mut goals = Vec::new();
        let mut job = |name: &str, contenders: &[Contender<'_>], of: &[Goal]| -> Result<()> {
            let summaries = self.job(name, contenders)?;
            goals.extend(of.iter().map(|goal| goal.verdict(name, &summaries)));
            Ok(())
        };
        let imports = jobs.imports_of_all(subject);
        job("import and unpack, by snapshotter", &imports, IMPORT)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let removals = jobs.removals(&runtime, subject);
        job("removal of snapshots by the library", &removals, REMOVAL)?;
        for kind in ALL {
            let present = self.present(kind);
            finish(jobs.of(kind, &present).arg("init"))?;
            jobs.present(&present, &subject.archive)?;
        }
        let present = ALL.map(|kind| (kind, self.present(kind)));
        for (name, writable) in [("mount", false), ("mount --rw", true)] {
            let mounts = present.iter().map(|(kind, present)| {
                Contender::new(format!("cas, {kind}"), jobs.mount(present, writable))
            });
            job(name, &mounts.collect::<Vec<_>>(), &[])?;
        }
        let disks = present
            .iter()
            .map(|(kind, present)| jobs.disk(kind, present));
        job("disk of a present image", &disks.collect::<Vec<_>>(), DISK)?;
        let mut mounted = Vec::new();
        for (kind, root) in &present {
            let at = self.directory.join(format!("mounted-{kind}"));
            mounted.push((*kind, Mounted::new(jobs, root, at)?));
        }
        use Caches::{Cold, Warm};
        job("find, cold", &reads(&mounted, find, Cold), COLD_FIND)?;
        job("find, warm", &reads(&mounted, find, Warm), WARM)?;
        job(
            "read of all files, cold",
            &reads(&mounted, read, Cold),
            COLD_READ,
        )?;
        job(
            "read of all files, warm",
            &reads(&mounted, read, Warm),
            WARM,
        )?;
        if mounted[0].1.at.join(PYTHON).exists() {
            job("start of python3, cold", &reads(&mounted, start, Cold), &[])?;
            job(
                "start of python3, warm",
                &reads(&mounted, start, Warm),
                WARM,
            )?;
        }
        println!();
        goals.iter().for_each(|goal| println!("- {goal}"));
        drop(mounted);
        Ok(present
            .iter()
            .try_for_each(|(_, root)| fs::remove_dir_all(root))?)
    }

    /// Returns the root with the image in this snapshotter.
    fn present(&self, snapshotter: &str) -> PathBuf {
        self.directory.join(format!("present-{snapshotter}"))
    }
}

impl Goal {
    /// Returns in words whether the goal is met.
    fn verdict(&self, job: &str, summaries: &[Summary]) -> String {
        let (first, erofs) = (&summaries[0], ALL[0]);
        match *self {
            Goal::Part {
                than,
                part,
                with_processor,
            } => {
                let [time, processor] = first.parts_of(&summaries[than]);
                let (most, also) = match with_processor {
                    true => (time.max(processor), format!(", processor {processor:.2}")),
                    false => (time, String::new()),
                };
                let (than, met) = (ALL.get(than).unwrap_or(&"ctr"), verdict(most <= part));
                format!("{job}: {erofs} / {than} {time:.2}{also}; goal {part} {met}")
            }
            Goal::WithReflinks(seconds) => {
                let met = verdict(first.median <= seconds);
                format!("{job}: {erofs} {first} s; goal with reflinks {seconds} s {met}")
            }
        }
    }
}

impl Jobs<'_> {
    /// Returns a command on a root that uses this snapshotter.
    fn of(&self, snapshotter: &str, root: &Path) -> Command {
        let mut command = self.cas(root);
        command.args(["--snapshotter", snapshotter]);
        command
    }

    /// Returns a command that imports an image into a new root, and unpacks it.
    fn unpacked(&self, snapshotter: &str, root: &Path, subject: &Subject) -> Command {
        let mut command = self.of(snapshotter, root);
        command.args(["import", "--unpack", "--name", "bench"]);
        command.arg(&subject.archive);
        command
    }

    /// Returns the contenders that import an archive and unpack it: the snapshotters, and `ctr`.
    fn imports_of_all<'a>(&'a self, subject: &'a Subject) -> Vec<Contender<'a>> {
        let import = |kind: &'static str| {
            Contender::command(format!("cas, {kind}"), move |fresh| {
                self.unpacked(kind, fresh, subject)
            })
        };
        let ours = ALL.map(import).into_iter();
        ours.chain([self.ctr_import(subject)]).collect()
    }

    /// Returns the contender that writes an image as one file that can be mounted.
    fn disk<'a>(&'a self, snapshotter: &str, present: &'a Path) -> Contender<'a> {
        Contender::new(format!("cas, {snapshotter}"), |fresh: &Path| {
            fs::create_dir_all(fresh)?;
            let mut command = self.cas(present);
            command
                .args(["disk", "bench", "-o"])
                .arg(fresh.join("disk"));
            measure(&command)
        })
    }

    /// Returns the contenders that remove all snapshots of an image.
    fn removals<'a>(&'a self, runtime: &'a Runtime, subject: &'a Subject) -> Vec<Contender<'a>> {
        let removal = |kind: &'static str| {
            Contender::new(format!("cas, {kind}"), move |fresh: &Path| {
                finish(&mut self.unpacked(kind, fresh, subject))?;
                finish(Command::new("sync").arg("-f").arg(fresh))?;
                let options = OpenOptions::default().with_snapshotter(kind);
                let cas = Cas::open_with(fresh, options)?;
                let before = processor_time()?;
                let (taken, removed) = time(|| runtime.block_on(remove_all(&cas)));
                removed?;
                let processor = (processor_time()? - before).as_secs_f64();
                cas.close()?;
                Ok(Sample {
                    seconds: taken.as_secs_f64(),
                    processor,
                    peak: 0,
                })
            })
        };
        ALL.map(removal).into()
    }
}

/// Removes all snapshots, the topmost first, and their files.
async fn remove_all(cas: &Cas) -> Result<()> {
    let snapshots = cas.snapshotter()?;
    let mut left = snapshot::all(&**snapshots).await?;
    ensure!(!left.is_empty(), "the image has no snapshots");
    while let Some(top) = left.iter().position(|one| {
        let mut others = left.iter();
        !others.any(|other| other.parent.as_ref() == Some(&one.key))
    }) {
        snapshots.remove(&left.swap_remove(top).key).await?;
    }
    snapshots.cleanup().await?;
    Ok(())
}

/// A container's root directory, which is unmounted on drop.
struct Mounted {
    at: PathBuf,
    unmount: Command,
}

impl Mounted {
    fn new(jobs: &Jobs<'_>, root: &Path, at: PathBuf) -> Result<Self> {
        fs::create_dir_all(&at)?;
        finish(jobs.cas(root).args(["mount", "--rw", "bench"]).arg(&at))?;
        let mut unmount = jobs.cas(root);
        unmount.arg("umount").arg(&at);
        Ok(Mounted { at, unmount })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A failure is printed by the command.
        let _ = finish(&mut self.unmount);
    }
}

/// Returns the contenders that run a command on a container's root directory.
fn reads<'a>(
    mounted: &'a [(&'static str, Mounted)],
    command: fn(&Path) -> Command,
    caches: Caches,
) -> Vec<Contender<'a>> {
    let contender = |(kind, mounted): &'a (&'static str, Mounted)| {
        Contender::new(format!("cas, {kind}"), move |fresh: &Path| {
            fs::create_dir_all(fresh)?;
            match caches {
                Caches::Cold => drop_caches()?,
                Caches::Warm => finish(&mut command(&mounted.at))?,
            }
            measure(&command(&mounted.at))
        })
    };
    mounted.iter().map(contender).collect()
}

/// Drops the kernel's caches of files. Then starts the programs that are measured, so that only the
/// container's files are cold.
fn drop_caches() -> Result<()> {
    finish(&mut Command::new("sync"))?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    finish(Command::new("find").args(["/dev/null", "-exec", "cat", "{}", "+"]))?;
    finish(Command::new("chroot").arg("--version"))
}

fn find(at: &Path) -> Command {
    let mut command = Command::new("find");
    command.arg(at).arg("-ls");
    command
}

fn read(at: &Path) -> Command {
    let mut command = Command::new("find");
    command
        .arg(at)
        .args(["-type", "f", "-exec", "cat", "{}", "+"]);
    command
}

fn start(at: &Path) -> Command {
    let mut command = Command::new("chroot");
    command.arg(at).args(["python3", "-c", "import json"]);
    command
}
