//! Runs one law on one store, and determines the verdict.

use std::any::Any;
use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cas_core::{Capabilities, Capability, ContentStore, ImageStore, Records, Snapshotter, Store};

use crate::crash::victim_home;
use crate::law::{Gaps, Law};
use crate::subject::{Open, Subject};

/// The time after which a law that still waits for the store is broken. A call that blocks its
/// thread is not interrupted.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The result of one law on one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The store keeps the law.
    Kept,
    /// The store does not keep the law. The text describes the failure.
    Broken(String),
    /// The law needs a promise that the store does not make.
    NotClaimed(Capability),
    /// The store declares the law as a gap, for this reason.
    Gap(&'static str),
    /// The store declares the law as a gap, but keeps it.
    Outgrown,
    /// Something that the law needs is missing on this machine, such as a service, a tool or
    /// superuser rights. The text is the argument of [`skip`].
    Skipped(&'static str),
}

thread_local! {
    /// What is missing for the law that runs on this thread.
    static SKIPPED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Marks the law that runs on this thread as skipped, and prints the reason `missing`, such as
/// "strace is not installed". A law that cannot check its whole rule calls this function and
/// returns. An opener whose service is missing calls this function and returns any store.
pub fn skip(missing: &'static str) {
    eprintln!("SKIPPED: {missing}");
    SKIPPED.set(Some(missing));
}

/// A kind of store that reports its promises, which are capabilities.
pub trait Promises {
    /// Returns the promises.
    fn promises(&self) -> Capabilities;
}

impl Promises for dyn ContentStore {
    fn promises(&self) -> Capabilities {
        self.capabilities()
    }
}

impl Promises for dyn Records {
    fn promises(&self) -> Capabilities {
        self.capabilities()
    }
}

/// The laws of a whole store are the laws of garbage collection. The promises of a whole store are
/// the promises of its records.
impl Promises for Store {
    fn promises(&self) -> Capabilities {
        self.records.capabilities()
    }
}

/// An image store makes no promises. Only the records store that it uses makes promises.
impl Promises for dyn ImageStore {
    fn promises(&self) -> Capabilities {
        Capabilities::default()
    }
}

/// A snapshotter makes no promises. A law that depends on an ability of the snapshotter, such as
/// [`Snapshotter::rebases`], queries the snapshotter.
impl Promises for dyn Snapshotter {
    fn promises(&self) -> Capabilities {
        Capabilities::default()
    }
}

/// Runs one law on a new store. Returns the verdict. `open` opens the store, and `gaps` are the
/// gaps that the store declares. `test` is the path of the `#[test]` that runs the law. A law that
/// runs this test again in a child process panics if `test` is `None`, so it counts as broken.
///
/// # Panics
/// If the temporary directory or the tokio runtime cannot be created.
pub fn judge<S>(law: &Law<S>, open: Open<S>, gaps: Gaps, test: Option<&'static str>) -> Verdict
where
    S: ?Sized + Promises + 'static,
{
    SKIPPED.take();
    match (look(law, open, gaps, test), SKIPPED.take()) {
        (Verdict::Kept | Verdict::NotClaimed(_) | Verdict::Outgrown, Some(missing)) => {
            Verdict::Skipped(missing)
        }
        (verdict, _) => verdict,
    }
}

fn look<S>(law: &Law<S>, open: Open<S>, gaps: Gaps, test: Option<&'static str>) -> Verdict
where
    S: ?Sized + Promises + 'static,
{
    let temporary = tempfile::Builder::new().prefix("law-").tempdir();
    let temporary = temporary.expect("the directory for temporary files must be writable");
    let home = victim_home().unwrap_or_else(|| temporary.path().to_owned());
    // A victim does not query the promises, because its parent process did.
    if let Some(needed) = law.needs.filter(|_| victim_home().is_none()) {
        match lacks(needed, open, &home) {
            Ok(false) => {}
            Ok(true) => return Verdict::NotClaimed(needed),
            Err(seen) => return Verdict::Broken(seen),
        }
    }
    let gap = gaps.iter().find(|(name, _)| *name == law.name);
    if let Some((_, reason)) = gap.filter(|_| law.racy) {
        return Verdict::Gap(reason);
    }
    let subject = Subject::new(open, home, test);
    match (run((law.run)(subject)), gap) {
        (Ok(()), None) => Verdict::Kept,
        (Err(seen), None) => Verdict::Broken(seen),
        (Ok(()), Some(_)) => Verdict::Outgrown,
        (Err(_), Some((_, reason))) => Verdict::Gap(reason),
    }
}

fn lacks<S>(needed: Capability, open: Open<S>, home: &Path) -> Result<bool, String>
where
    S: ?Sized + Promises + 'static,
{
    let dir: PathBuf = home.join("asked");
    fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
    run(async move {
        let store = open(dir).await.expect("the store must open");
        !store.promises().has(needed)
    })
}

/// Runs a law. Returns its result, or a message if it panics or takes too long.
fn run<T>(law: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime must start");
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async { tokio::time::timeout(TIMEOUT, law).await })
    }));
    runtime.shutdown_background();
    match outcome {
        Ok(Ok(out)) => Ok(out),
        Ok(Err(_)) => Err(format!("not finished after {} s", TIMEOUT.as_secs())),
        Err(panic) => Err(panic_message(panic.as_ref())),
    }
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
