//! Trials in a process of their own, which is watched: a panic, a crash, a trial without an end,
//! too much memory and a full disk are reported. If the process ends during a trial, or has to be
//! ended, the next case begins in another process.
//!
//! The process is this test binary with only the test [`child`]. It prints a line when a trial
//! begins, a line for each wrong thing, and a line when the trial has ended.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::common::disk::Disk;

/// What one trial may take, in all places together.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Bounds {
    /// Time of the processor.
    pub(super) processor: Duration,
    /// Time after which a trial counts as one without an end.
    pub(super) time: Duration,
    /// Growth of the resident memory, in bytes.
    pub(super) memory: u64,
    /// Size in bytes of the file system that all places are on.
    pub(super) disk: u64,
}

/// The usual bounds of a trial. The memory must be enough for a zstd window of 128 MiB, which a
/// layer may have.
pub(super) const BOUNDS: Bounds = Bounds {
    processor: Duration::from_secs(20),
    time: Duration::from_secs(300),
    memory: 256 << 20,
    disk: 96 << 20,
};

/// Maximum number of bytes that the process may allocate, so that it fails before the machine has
/// no memory left.
const ALLOCATED: u64 = 2 << 30;

/// Numbers of trials, and what was wrong with them.
#[derive(Default)]
pub(super) struct Report {
    pub(super) refused: usize,
    pub(super) defined: usize,
    pub(super) wrong: Vec<String>,
}

/// The environment variables of the process: the plan, the number of its first case, and the
/// directory for its places.
const PLAN: &str = "CAS_HOSTILE_PLAN";
const FROM: &str = "CAS_HOSTILE_FROM";
const PLACE: &str = "CAS_HOSTILE_PLACE";

/// Makes all trials of a plan. Returns what came of them.
pub(super) fn watch(plan: &Plan) -> Report {
    let mut report = Report::default();
    let mut next = Some(0);
    while let Some(from) = next {
        // The places are on a disk, because the metadata of an EROFS image cannot be in a tmpfs.
        // The disk is mounted below the root of the system, so that a link may also point to the
        // file systems of the system.
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = |name: &str| scratch.path().join(name);
        let disk = Disk::ext4(&path("image"), path("disk"), plan.bounds.disk);
        let errors = path("errors");
        let mut child = start(plan, from, &disk.0, &errors);
        let unfinished = listen(&mut child, plan, &mut report);
        child.kill().unwrap();
        child.wait().unwrap();
        next = unfinished.map(|trial| {
            let said = fs::read_to_string(&errors).unwrap();
            let said: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
            let last = said[said.len().saturating_sub(4)..].join(" / ");
            let failed = &trial.failed;
            report
                .wrong
                .push(format!("{}: {failed}: {last}", trial.name));
            // Other neighbours of the case may end the process, too.
            trial.case + 1
        });
    }
    report
}

fn start(plan: &Plan, from: usize, place: &Path, errors: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "hostile::watch::child", "--nocapture"])
        .env(PLAN, serde_json::to_string(plan).unwrap())
        .env(FROM, from.to_string())
        .env(PLACE, place)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(errors).unwrap());
    command.spawn().unwrap()
}

/// The trial during which the process ended, or was ended.
struct Unfinished {
    case: usize,
    name: String,
    failed: String,
}

/// Reads what the process prints. Returns the trial that did not end, or `None` if all did.
fn listen(child: &mut Child, plan: &Plan, report: &mut Report) -> Option<Unfinished> {
    let lines = lines(child);
    let mut now = None;
    let failed = loop {
        // The process itself needs some time to begin.
        let limit = now.as_ref().map_or(BOUNDS.time, |_| plan.bounds.time);
        match lines.recv_timeout(limit) {
            Err(RecvTimeoutError::Disconnected) => break "the process ended".to_owned(),
            Err(RecvTimeoutError::Timeout) => {
                break format!("no end after {limit:?}");
            }
            Ok(line) => match line.split_once(' ') {
                Some(("begin", trial)) => {
                    let (case, name) = trial.split_once(' ').unwrap();
                    now = Some((case.parse().unwrap(), name.to_owned()));
                }
                Some(("wrong", what)) => {
                    let name = now.as_ref().map_or("", |(_, name)| name);
                    report.wrong.push(format!("{name}: {what}"));
                }
                Some(("ended", "refused")) => report.refused += 1,
                Some(("ended", "defined")) => report.defined += 1,
                Some(("ended", "all")) => return None,
                _ => {}
            },
        }
    };
    let (case, name) = now.expect("the process begins a trial");
    Some(Unfinished { case, name, failed })
}

fn lines(child: &mut Child) -> Receiver<String> {
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// The process that is watched. Does nothing in any other process.
#[tokio::test]
async fn child() {
    let Ok(plan) = std::env::var(PLAN) else {
        return;
    };
    let plan: Plan = serde_json::from_str(&plan).unwrap();
    let from: usize = std::env::var(FROM).unwrap().parse().unwrap();
    let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
    let most = Some(ALLOCATED);
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Data, limit).unwrap();
    // The test harness may have begun a line.
    println!();
    let mut trials = Trials {
        bounds: plan.bounds,
        used: Used::begin(),
    };
    plan.run(from, &place, &mut trials).await;
    println!("ended all");
}

/// The trials of the process that is watched.
pub(super) struct Trials {
    bounds: Bounds,
    used: Used,
}

impl Trials {
    /// Begins a trial of a case.
    pub(super) fn begin(&mut self, case: usize, name: &str) {
        println!("begin {case} {}", name.escape_debug());
        self.used = Used::begin();
    }

    /// Ends the trial that was begun last.
    pub(super) fn end(&self, is_refused: bool, wrong: Vec<String>) {
        for line in wrong.into_iter().chain(self.used.beyond(&self.bounds)) {
            println!("wrong {}", line.escape_debug());
        }
        println!("ended {}", if is_refused { "refused" } else { "defined" });
    }
}

/// What this process had used at the beginning of a trial.
struct Used {
    processor: Duration,
    memory: u64,
}

impl Used {
    fn begin() -> Self {
        // Resets the peak of the resident memory.
        fs::write("/proc/self/clear_refs", "5").unwrap();
        Used {
            processor: processor_time(),
            memory: memory("VmRSS:"),
        }
    }

    /// Returns a line for each bound that the trial has exceeded.
    fn beyond(&self, bounds: &Bounds) -> Vec<String> {
        let processor = processor_time() - self.processor;
        let memory = memory("VmHWM:").saturating_sub(self.memory);
        let mut beyond = Vec::new();
        if processor > bounds.processor {
            beyond.push(format!("took {processor:?} of the processor"));
        }
        if memory > bounds.memory {
            beyond.push(format!("took {} MiB of memory", memory >> 20));
        }
        beyond
    }
}

/// Returns a field of the status of this process, in bytes.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.trim().parse::<u64>().unwrap() << 10
}

/// Returns the time of the processor that all threads of this process took.
pub(super) fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // The name of the program is in parentheses. The times are the 12th and 13th field after it,
    // in hundredths of a second.
    let fields = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .skip(11)
        .take(2);
    let hundredths: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(hundredths * 10)
}
