//! Records what happens to a disk while workers run, and checks disks in states that a loss of
//! power can leave.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use cas::blocking::Cas;
use testkit::random::Random;

use super::disk::{Disk, Record};
use super::fault::Fault;
use super::file_system::{FileSystem, Loop, Mounted};
use super::plant::Plant;
use super::states::{Flip, Replay, State, positions};
use crate::material::Material;
use crate::namespace;
use crate::outcome::Outcome;
use crate::scratch::Scratch;
use crate::stack::Stack;
use crate::work::{self, Work};

/// The longest that a check may take, in seconds.
const CHECK_SECONDS: &str = "300";
/// The boot ID that a check finds. It differs from the boot ID that the workers found.
const NEXT_BOOT: &str = "00000000-0000-4000-8000-000000000001\n";
/// A shell script. Mounts the file `$0` over the file with the kernel's boot ID, and then runs the
/// command `$@`.
const AS_NEXT_BOOT: &str = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;

/// The exit code of a check that has found the damage of [`Fault::Rot`].
pub(crate) const NOTICED: u8 = 3;

/// What a check has found in a state.
enum Verdict {
    /// All promises are kept.
    Sound,
    /// `fsck` or the file system has found the bits that [`Fault::Rot`] has changed.
    Noticed,
    /// Promises are broken, as the text says.
    Broken(String),
}

/// What is tried.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) stack: Stack,
    pub(crate) file_system: FileSystem,
    pub(crate) work: Work,
    /// The number of processes that work at a time.
    pub(crate) processes: u64,
    pub(crate) plant: Option<Plant>,
    /// The fault of the disk while the workers run.
    pub(crate) fault: Option<Fault>,
    /// Chooses the material, the changes of the worker, the requests that `fault` hits, and the
    /// states. The order in which the threads of the worker write is chosen by the kernel.
    pub(crate) seed: u64,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file_system, work) = (self.file_system.name(), self.work.name());
        write!(f, "{} {file_system} {work}", self.stack)?;
        if let Some(fault) = self.fault {
            write!(f, " {}", fault.name())?;
        }
        if self.processes > 1 {
            write!(f, " {} processes", self.processes)?;
        }
        write!(f, " {}", self.seed)
    }
}

impl Trial {
    /// Records the work once, and checks `states` disks. Returns what was found.
    ///
    /// If `keep` is given and a disk breaks a promise, writes the first such disk to the file
    /// `keep`.
    pub(crate) fn run(&self, states: usize, keep: Option<&Path>) -> Result<Outcome> {
        let scratch = Scratch::in_memory()?;
        let material = Material::make(&scratch.path("material"), self.seed)?;
        let registry = match self.work {
            Work::Images | Work::Full => Some(material.serve(work::owners(self.processes))?),
            _ => None,
        };
        let record = self.record(&scratch, &material)?;
        drop(registry);
        let mut random = Random::new(self.seed, "states");
        let mut replay = Replay::new(&record, self.file_system.sector());
        let mut violations = Vec::new();
        let mut noticed = false;
        let positions = match self.fault {
            Some(Fault::Rot) => vec![record.events.len(); states],
            _ => positions(&record, states, &mut random),
        };
        let rots = self.fault == Some(Fault::Rot);
        for (number, position) in positions.iter().enumerate() {
            // Without changed bits, the first disk must be sound.
            let state = match rots && number > 0 {
                true => replay.rotten(&mut random),
                false => replay.state(*position, &mut random),
            };
            let verdict = self.check(&scratch, &material, &state)?;
            let is_noticed = matches!(verdict, Verdict::Noticed);
            noticed |= is_noticed;
            if is_noticed && number == 0 {
                violations.push("fsck finds damage on a disk without changed bits".into());
            }
            if let Verdict::Broken(found) = verdict {
                if let Some(keep) = keep.filter(|_| violations.is_empty()) {
                    let file = File::create(keep);
                    let file = file.with_context(|| format!("cannot create {}", keep.display()))?;
                    state.pages.save(&file, self.file_system.size())?;
                }
                let (events, tail) = (record.events.len(), state.tail);
                violations.push(format!(
                    "state at event {position} of {events}, tail {tail:?}:\n{found}"
                ));
            }
        }
        if rots && !noticed {
            violations.push("the changed bits damage none of the disks".into());
        }
        Ok(Outcome {
            tried: positions.len() as u64,
            what: "disks".into(),
            violations,
        })
    }

    fn record(&self, scratch: &Scratch, material: &Material) -> Result<Record> {
        let disk = Disk::mount(&scratch.path("disk"), self.file_system.size())?;
        let device = Loop::new(&disk.path())?;
        self.file_system.format(&device.0)?;
        let mounted = Mounted::new(&device.0, &scratch.path("mounted"), self.file_system)?;
        let root = scratch.root();
        self.stack.init(&root)?;
        if self.processes > 1 && !self.stack.is_shared(&root)? {
            bail!(
                "only one process at a time can open the store {}; use `--processes 1`",
                self.stack.store
            );
        }
        if self.plant.is_some() {
            Cas::open(&root)?.close()?;
        }
        let directory = File::open(scratch.path("mounted"))?;
        rustix::fs::syncfs(&directory)?;
        drop(directory);

        let start = disk.begin(self.fault.map(|fault| {
            let mut random = Random::new(self.seed, "fault");
            (fault, fault.hits(&mut random))
        }));
        let workers = (0..self.processes).map(|process| {
            let mut worker = self.worker(process, (&disk.marks(), material, &root))?;
            let worker = worker.stdout(Stdio::piped()).stderr(Stdio::piped());
            worker.spawn().context("cannot start a worker")
        });
        let workers = workers.collect::<Result<Vec<_>>>()?;
        let outputs = workers.into_iter().map(Child::wait_with_output);
        let outputs = outputs.collect::<io::Result<Vec<_>>>()?;
        if self.fault == Some(Fault::Rot) {
            rustix::fs::syncfs(&File::open(scratch.path("mounted"))?)?;
        }
        let events = disk.end();
        mounted.unmount()?;
        drop(device);
        disk.unmount()?;
        outputs
            .iter()
            .try_for_each(|output| work::printed(output).map(|_| ()))?;
        Ok(Record { start, events })
    }

    /// Returns the command of a worker.
    fn worker(&self, process: u64, places: (&Path, &Material, &Path)) -> Result<Command> {
        let program = std::env::current_exe()?;
        let mut command = match self.plant {
            None => Command::new(&program),
            Some(plant) => plant.command(&program, places.2),
        };
        let seed = self.seed.wrapping_add(process);
        work::tell(&mut command, (self.work, seed, process), places);
        if self.processes > 1 {
            command.arg("--shared");
        }
        if self.fault.is_some() {
            command.arg("--accept-errors");
        }
        Ok(command)
    }

    fn check(&self, scratch: &Scratch, material: &Material, state: &State) -> Result<Verdict> {
        let (image, marks) = (scratch.path("image"), scratch.path("marks"));
        state
            .pages
            .save(&File::create(&image)?, self.file_system.size())?;
        fs::write(&marks, state.marks.concat())?;
        if !state.flips.is_empty() {
            self.rot(scratch, &image, &state.flips)?;
        }
        let device = Loop::new(&image)?;
        let mounted = Mounted::new(&device.0, &scratch.path("mounted"), self.file_system);
        let mounted = match mounted {
            // Without its flushes, the file system itself may be damaged. This is a violation, too.
            Err(error) if self.fault == Some(Fault::Lie) => {
                return Ok(Verdict::Broken(format!("{error:#}\n")));
            }
            Err(_) if self.fault == Some(Fault::Rot) => return Ok(Verdict::Noticed),
            // A file system that has met an error may have to be repaired before it is mounted.
            Err(_) if self.fault.is_some() => {
                self.file_system.repair(&device.0)?;
                Mounted::new(&device.0, &scratch.path("mounted"), self.file_system)?
            }
            mounted => mounted?,
        };
        let boot_id = scratch.path("boot_id");
        fs::write(&boot_id, NEXT_BOOT)?;
        let mut command = Command::new("unshare");
        command
            .args(namespace::NEW)
            .args(["sh", "-c", AS_NEXT_BOOT])
            .arg(boot_id)
            .args(["timeout", CHECK_SECONDS])
            .arg(std::env::current_exe()?)
            .arg("check")
            .arg("--marks")
            .arg(&marks)
            .arg("--material")
            .arg(material.path())
            .arg("--view")
            .arg(scratch.path("view"))
            .args((self.fault == Some(Fault::Rot)).then_some("--rot"))
            .arg(scratch.root());
        let output = command.output().context("cannot run the check")?;
        mounted.unmount()?;
        drop(device);
        fs::remove_file(image)?;
        match output.status.code() {
            Some(0) => return Ok(Verdict::Sound),
            Some(code) if code == i32::from(NOTICED) => return Ok(Verdict::Noticed),
            _ => {}
        }
        let (said, cause) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let broken = format!("{said}{cause}({})\n", output.status);
        Ok(Verdict::Broken(broken))
    }

    /// Lets the file system recover, and then changes bits of the disk. If a bit of the journal
    /// were changed before the recovery, the file system could lose what was acknowledged, and
    /// nobody would notice.
    fn rot(&self, scratch: &Scratch, image: &Path, flips: &[Flip]) -> Result<()> {
        let device = Loop::new(image)?;
        Mounted::new(&device.0, &scratch.path("mounted"), self.file_system)?.unmount()?;
        drop(device);
        let file = File::options().read(true).write(true).open(image)?;
        for flip in flips {
            let mut byte = [0];
            file.read_exact_at(&mut byte, flip.offset)?;
            file.write_all_at(&[byte[0] ^ flip.mask], flip.offset)?;
        }
        Ok(())
    }
}
