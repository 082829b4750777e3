//! Snapshots that a caller writes and commits.

use std::fs;
use std::os::fd::AsRawFd as _;

use anyhow::Result;
use cas::backend::{Snapshotter, pool};
use cas::snapshot::Commit;
use cas::{ErrorKind, Labels};
use cas_host::mount;
use testkit::random::Random;

use super::Worker;
use crate::promise::{ABSENT, Resource};

/// The number of files in a snapshot. All have the same text.
pub(crate) const FILES: usize = 5;
/// The label that protects a snapshot from collections.
const KEPT: &str = "containerd.io/gc.root";

/// Removes the snapshot of `owner`, and then writes and commits a new one with a random text.
pub(super) fn commit(worker: &Worker, owner: &str, random: &mut Random) -> Result<()> {
    let (key, active) = (format!("own-{owner}"), format!("active-{owner}"));
    let (resource, text) = (
        Resource::Snapshot(key.clone()),
        random.below(1_000_000).to_string(),
    );
    let snapshotter = &**worker.cas.snapshotter()?;
    worker.notes.trying(&resource, ABSENT)?;
    remove(snapshotter, &active)?;
    remove(snapshotter, &key)?;
    worker.notes.did(&resource, ABSENT)?;

    worker.notes.trying(&resource, &text)?;
    let labels = Labels::from([(KEPT.to_owned(), "yes".to_owned())]);
    let mounts = pool::wait(snapshotter.prepare(&active, None, labels.clone()))?;
    let root = mount::open(&mounts)?;
    for number in 0..FILES {
        let path = format!("/proc/self/fd/{}/f{number}", root.as_raw_fd());
        fs::write(path, &text)?;
    }
    drop(root);
    let options = Commit {
        labels,
        ..Commit::default()
    };
    pool::wait(snapshotter.commit(&key, &active, options))?;
    worker.notes.did(&resource, &text)
}

/// Removes a snapshot, if it exists.
pub(crate) fn remove(snapshotter: &dyn Snapshotter, key: &str) -> Result<()> {
    match pool::wait(snapshotter.remove(key)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
