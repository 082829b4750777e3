//! What becomes of one law on one store.

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

/// A law that takes longer is broken: the store hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The store keeps the law.
    Kept,
    /// It does not, and this is what was seen.
    Broken(String),
    /// The law is about a promise that the store does not make.
    NotClaimed(Capability),
    /// The store declares this limit, with the reason.
    Gap(&'static str),
    /// The store declares a limit that it does not have.
    Outgrown,
    /// What the law needs is not here, as a service, a tool or root: [`skip`] said so.
    Skipped(&'static str),
}

thread_local! {
    /// What the law that this thread runs could not look at.
    static SKIPPED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Says aloud that a law cannot look at all that it should, and what is missing for that. To be
/// called by the law, or by the opener of a store that needs a service.
pub fn skip(missing: &'static str) {
    eprintln!("SKIPPED: {missing}");
    SKIPPED.set(Some(missing));
}

/// A kind of store that says what it promises.
pub trait Promises {
    /// The promises.
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

/// What its home of records promises: the protocol of collection needs no more.
impl Promises for Store {
    fn promises(&self) -> Capabilities {
        self.records.capabilities()
    }
}

/// Image stores promise nothing of their own: what holds their names does.
impl Promises for dyn ImageStore {
    fn promises(&self) -> Capabilities {
        Capabilities::default()
    }
}

/// Snapshotters are alike but for what their laws ask them themselves.
impl Promises for dyn Snapshotter {
    fn promises(&self) -> Capabilities {
        Capabilities::default()
    }
}

/// Judges a fresh store by one law. `test` is the path of the `#[test]` that asks, if one does;
/// laws that kill cannot do without.
///
/// # Panics
/// When no directory or runtime can be had.
pub fn judge<S>(law: &Law<S>, open: Open<S>, gaps: Gaps, test: Option<&'static str>) -> Verdict
where
    S: ?Sized + Promises + 'static,
{
    SKIPPED.take();
    match (look(law, open, gaps, test), SKIPPED.take()) {
        (Verdict::Kept | Verdict::NotClaimed(_), Some(missing)) => Verdict::Skipped(missing),
        (verdict, _) => verdict,
    }
}

fn look<S>(law: &Law<S>, open: Open<S>, gaps: Gaps, test: Option<&'static str>) -> Verdict
where
    S: ?Sized + Promises + 'static,
{
    let gap = gaps.iter().find(|(name, _)| *name == law.name);
    if let Some((_, reason)) = gap.filter(|_| law.racy) {
        return Verdict::Gap(reason);
    }
    let temporary = tempfile::Builder::new().prefix("law-").tempdir();
    let temporary = temporary.expect("a directory can be made for the law");
    let home = victim_home().unwrap_or_else(|| temporary.path().to_owned());
    // A victim was asked before it was started.
    if let Some(needed) = law.needs.filter(|_| victim_home().is_none()) {
        match lacks(needed, open, &home) {
            Ok(false) => {}
            Ok(true) => return Verdict::NotClaimed(needed),
            Err(seen) => return Verdict::Broken(seen),
        }
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
        let store = open(dir).await.expect("the store opens");
        !store.promises().has(needed)
    })
}

/// Runs a law to its end; what it said when it panicked.
fn run<T>(law: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime can be had");
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async { tokio::time::timeout(PATIENCE, law).await })
    }));
    runtime.shutdown_background();
    match outcome {
        Ok(Ok(out)) => Ok(out),
        Ok(Err(_)) => Err(format!("no end after {} s", PATIENCE.as_secs())),
        Err(panic) => Err(words(panic.as_ref())),
    }
}

pub(crate) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned())
}
