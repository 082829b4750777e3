//! Faults at every system call that changes the disk: the victim of a law runs under strace.
//!
//! The victim does its job on one thread, for strace counts the calls of each. A first run is
//! only watched; from its trace come the points at which the later ones are hurt.

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
use crate::judge::words;

/// Points that one law tries at most; the first of them are next to each other.
const POINTS: usize = 24;
const FIRST: usize = 10;
/// After this a law tries no more of them, for its judge does not wait for ever.
const BUDGET: Duration = Duration::from_secs(30);
/// A victim that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// More than the test harness writes on a thread of its own.
const OTHERS: usize = 8;

/// What a victim says last.
const ALL: &str = "all";
const REFUSED: &str = "refused ";

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is killed in its place.
    Kill,
    /// It fails with EIO.
    Broken,
    /// It fails with ENOSPC.
    Full,
}

impl Fault {
    fn injection(self) -> &'static str {
        match self {
            Fault::Kill => "signal=SIGKILL",
            Fault::Broken => "error=EIO",
            Fault::Full => "error=ENOSPC",
        }
    }
}

/// A victim that came to its end, and its store.
pub(crate) struct Hurt<S: ?Sized + 'static> {
    /// Where the store is.
    pub(crate) subject: Subject<S>,
    /// What it acknowledged, in order.
    pub(crate) said: Vec<String>,
    /// Whether the call that was hurt is one that syncs.
    pub(crate) at_sync: bool,
}

impl<S: ?Sized> Hurt<S> {
    /// Whether `step` was acknowledged.
    pub(crate) fn has(&self, step: &str) -> bool {
        self.said.iter().any(|said| said == step)
    }
}

/// A victim that ended, however it did.
struct Ended {
    said: Vec<String>,
    other: String,
    trace: String,
    /// Below which its calls count.
    store: String,
}

impl<S: ?Sized + 'static> Subject<S> {
    /// Does the job of a victim, which acknowledges each of its steps, until one is refused.
    pub(crate) fn perform(&self, job: impl Future<Output = Result<()>>) {
        thread::spawn(|| {
            thread::sleep(PATIENCE);
            eprintln!("no end after {} s", PATIENCE.as_secs());
            abort();
        });
        // The test's other thread writes a little: a call of its that fails would end both.
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

    /// Has victims of this law hurt at each call that changes the disk, or at an even choice of
    /// many, and `check`s what each has left.
    pub(crate) async fn at_every_call<F>(&self, fault: Fault, check: impl Fn(Hurt<S>) -> F)
    where
        F: Future<Output = ()>,
    {
        let Some(whole) = self.watched() else { return };
        let Some(other) = self.watched() else { return };
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
            let context = format!("{fault:?} at call {number} of {}, {aim:?}", calls.len());
            let home = in_memory();
            let subject = self.elsewhere(&home);
            let ended = subject.hurt(&aim, fault, &call.name);
            if !ended.was_hit(fault) {
                continue;
            }
            hits += 1;
            let judged = async {
                ended.check_kind(fault, call);
                let said = ended.said.clone();
                let at_sync = call.syncs();
                check(Hurt {
                    subject,
                    said,
                    at_sync,
                })
                .await;
            };
            if let Err(seen) = caught(judged).await {
                panic!("{context}: {seen}\n{}", ended.other);
            }
        }
        // Where a store has threads of its own, some points are missed.
        assert!(hits * 2 >= tried, "{hits} of {tried} hit");
        eprintln!("{fault:?}: {tried} of {} calls, {hits} hit", calls.len());
    }

    /// Runs a victim that is not hurt. Nothing, said aloud, where strace is not installed, or the
    /// store is on no disk of this machine.
    fn watched(&self) -> Option<Ended> {
        if Command::new("strace").arg("-V").output().is_err() {
            crate::judge::skip("strace is not installed");
            return None;
        }
        let home = in_memory();
        let ended = self.elsewhere(&home).traced(CALLS, &[]);
        assert_eq!(
            ended.said.last().map(String::as_str),
            Some(ALL),
            "the job fails without a fault: {}",
            ended.other
        );
        let mut calls = parse(&ended.trace).into_iter();
        if !calls.any(|call| call.succeeded() && call.changes(&ended.store)) {
            crate::judge::skip("no call changes the disk below the store's directory");
            return None;
        }
        Some(ended)
    }

    fn elsewhere(&self, home: &TempDir) -> Subject<S> {
        let dir = home.path().canonicalize().expect("it was just made");
        Subject::new(self.opener(), dir, self.test())
    }

    /// Runs a victim that is hurt at the call of this aim, and traces `calls`.
    fn hurt(&self, aim: &Aim, fault: Fault, calls: &str) -> Ended {
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
        // The victim finds it, so that no fault is the law's own.
        fs::create_dir(&store).expect("the directory of a store can be made");
        let file = self.dir().join("trace");
        let mut words = ["strace", "-f", "-qq", "-y", "-a1", "-s9000"]
            .map(str::to_owned)
            .to_vec();
        let out = file.to_str().expect("a path in letters").to_owned();
        let trace = format!("trace={calls}");
        words.extend(["-o".to_owned(), out, "-e".to_owned(), trace]);
        words.extend_from_slice(options);
        let mut victim = self.victim(&words).spawn().expect("strace runs");
        let (mut said, mut other) = (Vec::new(), String::new());
        let lines = BufReader::new(victim.stderr.take().expect("stderr is a pipe")).lines();
        for line in lines.map_while(std::io::Result::ok) {
            match line.strip_prefix(MARK) {
                Some(what) => said.push(what.to_owned()),
                None if line.is_empty() => {}
                None => other = other + &line + "\n",
            }
        }
        victim.wait().expect("the victim ends");
        Ended {
            said,
            other,
            trace: fs::read(&file).map_or_else(
                |error| panic!("strace has left no trace: {error}"),
                |trace| String::from_utf8_lossy(&trace).into_owned(),
            ),
            store: store.display().to_string(),
        }
    }
}

impl Ended {
    fn is_whole(&self) -> bool {
        self.said.last().is_some_and(|said| said == ALL)
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

    /// An error says that the device failed, or that it is full. Why a file could not be made or
    /// synced an engine need not know (SQLite does not tell); a store whose sync failed may take
    /// nothing more until it is opened anew.
    fn check_kind(&self, fault: Fault, call: &Call) {
        let told = self.said.last().and_then(|said| said.strip_prefix(REFUSED));
        let kinds: &[ErrorKind] = match fault {
            Fault::Kill => &[],
            Fault::Full if call.opens() => &[ErrorKind::Full, ErrorKind::Unavailable],
            Fault::Full if call.syncs() => &[
                ErrorKind::Full,
                ErrorKind::Unavailable,
                ErrorKind::FailedPrecondition,
            ],
            Fault::Full => &[ErrorKind::Full],
            Fault::Broken => &[ErrorKind::Unavailable, ErrorKind::FailedPrecondition],
        };
        assert!(
            fault == Fault::Kill || self.is_whole() || told.is_some(),
            "the process ended"
        );
        let right = told.is_none_or(|told| kinds.iter().any(|kind| told == kind.as_str()));
        assert!(right, "{told:?} is told");
    }
}

/// Which of so many calls are hurt.
fn points(calls: usize) -> Vec<usize> {
    if calls <= POINTS {
        return (0..calls).collect();
    }
    let (rest, left) = (calls - FIRST, POINTS - FIRST);
    let even = (0..left).map(|number| FIRST + number * rest / left);
    (0..FIRST).chain(even).collect()
}

/// A kill loses nothing that the kernel has, and a fault comes before the disk is asked: none need
/// be waited for.
fn in_memory() -> TempDir {
    let shared = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("law-");
    let made = builder.tempdir_in(shared).or_else(|_| builder.tempdir());
    made.expect("a directory can be made for the victim")
}

/// What a check says when it panics, or has no end.
async fn caught(check: impl Future<Output = ()>) -> Result<(), String> {
    let mut check = pin!(check);
    let caught = poll_fn(|context| {
        let turn = catch_unwind(AssertUnwindSafe(|| check.as_mut().poll(context)));
        match turn {
            Ok(turn) => turn.map(Ok),
            Err(panic) => Poll::Ready(Err(words(panic.as_ref()))),
        }
    });
    let ended = tokio::time::timeout(PATIENCE, caught).await;
    ended.unwrap_or_else(|_| Err(format!("no end after {} s", PATIENCE.as_secs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_points_and_an_even_choice_are_hurt() {
        assert_eq!(points(12), (0..12).collect::<Vec<_>>());
        let many = points(1_000);
        assert_eq!((many.len(), many[..10].len()), (POINTS, FIRST));
        assert!(many.windows(2).all(|two| two[0] < two[1]) && many[POINTS - 1] > 900);
    }
}
