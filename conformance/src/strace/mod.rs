//! Runs a law again in a child process, the victim, under strace. The first runs are only traced.
//! Their traces show the system calls that change the disk. In each later run, strace injects a
//! fault into one of these calls.
//!
//! The victim does its job on one thread, because strace counts the calls of each thread
//! separately.

mod aim;
mod calls;
mod order;

use std::fs;
use std::future::{Future, poll_fn};
use std::io::{BufRead, BufReader, Write, stderr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::pin;
use std::process::{Command, abort};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use cas_core::{ErrorKind, Result, pool};
use tempfile::TempDir;

use self::aim::{Aim, HERE, is_of_threads};
use self::calls::{CALLS, Call, parse};
use crate::Subject;
use crate::crash::MARK;
use crate::judge::panic_message;

/// Maximum number of calls that one law injects a fault into.
const POINTS: usize = 24;
/// Number of calls at the beginning that each get a fault. The other faults are spread evenly over
/// the later calls.
const FIRST: usize = 10;
/// The time after which a law tries no more calls.
const BUDGET: Duration = Duration::from_secs(30);
/// The time after which a victim or a check counts as hanging.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Number of writes before the job. The test harness makes fewer writes on its own thread.
const OTHERS: usize = 8;

/// The last acknowledgement of a victim whose job succeeds.
const ALL: &str = "all";
/// The prefix of the last acknowledgement of a victim whose job fails.
const REFUSED: &str = "refused ";

/// What is injected into a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is killed before it makes the call.
    Kill,
    /// The call fails with EIO.
    Error,
    /// The call fails with ENOSPC.
    Full,
}

impl Fault {
    fn injection(self) -> &'static str {
        match self {
            Fault::Kill => "signal=SIGKILL",
            Fault::Error => "error=EIO",
            Fault::Full => "error=ENOSPC",
        }
    }
}

/// What a victim left behind.
pub(crate) struct Victim<S: ?Sized + 'static> {
    /// Opens its store.
    pub(crate) subject: Subject<S>,
    /// What it acknowledged, in order.
    pub(crate) acknowledged: Vec<String>,
    /// Whether the fault was injected into a sync.
    pub(crate) at_sync: bool,
}

impl<S: ?Sized> Victim<S> {
    /// Returns whether `step` was acknowledged.
    pub(crate) fn has(&self, step: &str) -> bool {
        self.acknowledged
            .iter()
            .any(|acknowledged| acknowledged == step)
    }
}

/// The output and the trace of a victim.
struct Ended {
    acknowledged: Vec<String>,
    other: String,
    trace: String,
    /// The directory of its store.
    store: String,
}

impl<S: ?Sized + 'static> Subject<S> {
    /// Does the job of a victim until a step fails. The job acknowledges each step. At the end,
    /// this function acknowledges that all steps succeeded, or acknowledges the kind of the error.
    /// Aborts the process if the job takes longer than [`TIMEOUT`].
    pub(crate) fn perform(&self, job: impl Future<Output = Result<()>>) {
        thread::spawn(|| {
            thread::sleep(TIMEOUT);
            eprintln!("the job is not finished after {} s", TIMEOUT.as_secs());
            abort();
        });
        // strace counts the calls of each thread by name. After these writes, the writes of the job
        // have higher numbers than those of the harness thread, so that no fault hits the latter.
        for _ in 0..OTHERS {
            let _ = stderr().write(b"\n");
        }
        match pool::wait(job) {
            Ok(()) => self.acknowledge(ALL),
            Err(error) => {
                eprintln!("{error:?}");
                self.acknowledge(format_args!("{REFUSED}{}", error.kind().as_str()));
            }
        }
    }

    /// For each call that changes the disk, or for a selection of them, runs a victim of this law
    /// with a fault in that call. If the victim reaches the fault, calls `check` with what the
    /// victim left behind. Skips the law as [`Subject::run_without_fault`] does.
    ///
    /// # Panics
    /// If a check fails, if the kind of the error does not fit the fault, or if fewer than half of
    /// the victims reach their faults.
    pub(crate) async fn at_every_call<F>(&self, fault: Fault, check: impl Fn(Victim<S>) -> F)
    where
        F: Future<Output = ()>,
    {
        let Some(whole) = self.run_without_fault() else {
            return;
        };
        let Some(other) = self.run_without_fault() else {
            return;
        };
        let all = parse(&whole.trace);
        let changes = |at: &usize| all[*at].succeeded() && all[*at].changes(&whole.store);
        let calls: Vec<_> = (0..all.len()).filter(changes).collect();
        let (begun, mut tried, mut hits) = (Instant::now(), 0, 0);
        for point in points(calls.len()) {
            let call = &all[calls[point]];
            let aim = Aim::at(&all, calls[point], &whole, &other);
            if aim.path.is_none() && fault != Fault::Kill && is_of_threads(&all, &call.name) {
                continue;
            }
            if begun.elapsed() > BUDGET {
                break;
            }
            tried += 1;
            let number = point + 1;
            let context = format!(
                "fault {fault:?} at call {number} of {}, {aim:?}",
                calls.len()
            );
            let home = in_memory();
            let subject = self.elsewhere(&home);
            let ended = subject.run_with_fault(&aim, fault, &call.name);
            if !ended.was_hit(fault) {
                continue;
            }
            hits += 1;
            let judged = async {
                ended.check_kind(fault, call);
                let acknowledged = ended.acknowledged.clone();
                let at_sync = call.syncs();
                check(Victim {
                    subject,
                    acknowledged,
                    at_sync,
                })
                .await;
            };
            if let Err(seen) = caught(judged).await {
                panic!("{context}: {seen}\n{}", ended.other);
            }
        }
        // Some calls are not reached if the store has its own threads.
        assert!(
            hits * 2 >= tried,
            "expected to reach the fault in at least half of the runs, but reached it in {hits} of \
             {tried}"
        );
        eprintln!(
            "fault {fault:?}: tried {tried} of {} calls, and reached the fault {hits} times",
            calls.len()
        );
    }

    /// Runs a victim without a fault. Returns what it printed and its trace. Skips the law and
    /// returns `None` if strace is not installed, or if the victim changes nothing below the
    /// directory of its store, because the store is in memory or on another machine.
    fn run_without_fault(&self) -> Option<Ended> {
        if Command::new("strace").arg("-V").output().is_err() {
            crate::judge::skip("strace is not installed");
            return None;
        }
        let home = in_memory();
        let ended = self.elsewhere(&home).traced(CALLS, &[]);
        assert_eq!(
            ended.acknowledged.last().map(String::as_str),
            Some(ALL),
            "the job fails without a fault: {}",
            ended.other
        );
        let mut calls = parse(&ended.trace).into_iter();
        if !calls.any(|call| call.succeeded() && call.changes(&ended.store)) {
            crate::judge::skip(
                "the test found no system call that changes a file below the store's directory",
            );
            return None;
        }
        Some(ended)
    }

    fn elsewhere(&self, home: &TempDir) -> Subject<S> {
        let dir = home
            .path()
            .canonicalize()
            .expect("the directory was just created");
        Subject::new(self.opener(), dir, self.test())
    }

    /// Runs a victim with a fault in one call, and traces `calls`. Returns what it printed and its
    /// trace.
    fn run_with_fault(&self, aim: &Aim, fault: Fault, calls: &str) -> Ended {
        let (name, nth) = (&aim.name, aim.nth);
        let inject = format!("inject={name}:{}:when={nth}", fault.injection());
        let mut options = vec!["-e".to_owned(), inject];
        if let Some(path) = &aim.path {
            let store = self.dir().join("store").display().to_string();
            options.extend(["-P".to_owned(), path.replace(HERE, &store)]);
        }
        self.traced(calls, &options)
    }

    fn traced(&self, calls: &str, options: &[String]) -> Ended {
        let store = self.dir().join("store");
        // The directory is created beforehand, so that no fault hits its creation.
        fs::create_dir(&store).expect("the directory of the law must be writable");
        let file = self.dir().join("trace");
        let mut words = ["strace", "-f", "-qq", "-y", "-a1", "-s9000"]
            .map(str::to_owned)
            .to_vec();
        let out = file.to_str().expect("the path is UTF-8").to_owned();
        let trace = format!("trace={calls}");
        words.extend(["-o".to_owned(), out, "-e".to_owned(), trace]);
        words.extend_from_slice(options);
        let mut victim = self.victim(&words).spawn().expect("strace must start");
        let (mut acknowledged, mut other) = (Vec::new(), String::new());
        let lines = BufReader::new(victim.stderr.take().expect("stderr is a pipe")).lines();
        for line in lines.map_while(std::io::Result::ok) {
            match line.strip_prefix(MARK) {
                Some(what) => acknowledged.push(what.to_owned()),
                None if line.is_empty() => {}
                None => other = other + &line + "\n",
            }
        }
        victim.wait().expect("the victim must end");
        Ended {
            acknowledged,
            other,
            trace: fs::read(&file).map_or_else(
                |error| panic!("strace wrote no trace: {error}"),
                |trace| String::from_utf8_lossy(&trace).into_owned(),
            ),
            store: store.display().to_string(),
        }
    }
}

impl Ended {
    fn is_whole(&self) -> bool {
        self.acknowledged
            .last()
            .is_some_and(|acknowledged| acknowledged == ALL)
    }

    fn was_hit(&self, fault: Fault) -> bool {
        match fault {
            Fault::Kill => !self.is_whole(),
            _ => {
                let mut hit = self
                    .trace
                    .lines()
                    .filter(|line| line.contains("(INJECTED)"));
                hit.any(|line| line.contains(&self.store))
            }
        }
    }

    /// Checks that the job succeeded in spite of the fault, or that its error reports a failed or
    /// full device. Some engines, such as SQLite, do not report why a file could not be created or
    /// synced, so `Unavailable` is accepted instead of `Full` there. A store whose sync failed may
    /// refuse everything until it is reopened, so `FailedPrecondition` is accepted, too.
    fn check_kind(&self, fault: Fault, call: &Call) {
        let told = self
            .acknowledged
            .last()
            .and_then(|acknowledged| acknowledged.strip_prefix(REFUSED));
        let kinds: &[ErrorKind] = match fault {
            Fault::Kill => &[],
            Fault::Full if call.opens() => &[ErrorKind::Full, ErrorKind::Unavailable],
            Fault::Full if call.syncs() => &[
                ErrorKind::Full,
                ErrorKind::Unavailable,
                ErrorKind::FailedPrecondition,
            ],
            Fault::Full => &[ErrorKind::Full],
            Fault::Error => &[ErrorKind::Unavailable, ErrorKind::FailedPrecondition],
        };
        assert!(
            fault == Fault::Kill || self.is_whole() || told.is_some(),
            "the process ended before it reported success or an error"
        );
        let right = told.is_none_or(|told| kinds.iter().any(|kind| told == kind.as_str()));
        assert!(
            right,
            "expected an error of one of the kinds {kinds:?}, found {told:?}"
        );
    }
}

/// Returns the indexes of the calls that get a fault, if a victim makes `calls` calls.
fn points(calls: usize) -> Vec<usize> {
    if calls <= POINTS {
        return (0..calls).collect();
    }
    let (rest, left) = (calls - FIRST, POINTS - FIRST);
    let even = (0..left).map(|number| FIRST + number * rest / left);
    (0..FIRST).chain(even).collect()
}

/// Creates a temporary directory, in memory if possible. Returns it. No disk is needed, because a
/// killed process loses no bytes that the kernel has accepted, and because strace injects a fault
/// before the kernel uses the disk.
fn in_memory() -> TempDir {
    let shared = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("law-");
    let made = builder.tempdir_in(shared).or_else(|_| builder.tempdir());
    made.expect("the directory for temporary files must be writable")
}

/// Runs a check. Returns an error with a message if it panics or hangs.
async fn caught(check: impl Future<Output = ()>) -> Result<(), String> {
    let mut check = pin!(check);
    let caught = poll_fn(|context| {
        let turn = catch_unwind(AssertUnwindSafe(|| check.as_mut().poll(context)));
        match turn {
            Ok(turn) => turn.map(Ok),
            Err(panic) => Poll::Ready(Err(panic_message(panic.as_ref()))),
        }
    });
    let ended = tokio::time::timeout(TIMEOUT, caught).await;
    ended.unwrap_or_else(|_| {
        Err(format!(
            "the check is not finished after {} s",
            TIMEOUT.as_secs()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_calls_and_an_even_selection_are_tried() {
        assert_eq!(points(12), (0..12).collect::<Vec<_>>());
        let many = points(1_000);
        assert_eq!((many.len(), many[..10].len()), (POINTS, FIRST));
        assert!(many.windows(2).all(|two| two[0] < two[1]) && many[POINTS - 1] > 900);
    }
}
