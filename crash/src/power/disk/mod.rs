//! A disk that records what a file system does with it.
//!
//! The disk is a file in a FUSE file system of this process. A loop device on this file is
//! formatted and mounted. Next to the disk there is a file `marks`. A write to `marks` adds a mark
//! to the record. So the record tells which writes to the disk and which flushes came before the
//! mark.

mod fuse;
mod pages;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use fuser::{BackgroundSession, Config, MountOption, SessionACL};

use self::fuse::Files;
pub(crate) use self::pages::Pages;
use super::fault::Fault;

/// What happened to a disk. Requests are answered one after the other, and their events are
/// recorded in this order. So if a record has a write before a flush, the write had ended when the
/// flush began.
pub(crate) enum Event {
    /// These bytes were written at this offset.
    Write(u64, Box<[u8]>),
    /// All earlier writes were made durable.
    Flush,
    /// A worker noted this line.
    Mark(String),
}

/// The bytes of a disk before workers ran, and everything that happened to it while they ran.
pub(crate) struct Record {
    /// The bytes of the disk before the first event.
    pub(crate) start: Pages,
    pub(crate) events: Vec<Event>,
}

/// The state that [`Files`] and its [`Disk`] share.
#[derive(Default)]
struct Shared {
    pages: Pages,
    /// `None` while nothing is recorded.
    events: Option<Vec<Event>>,
    /// The fault of the disk, if any, while a record is made.
    faulty: Option<Faulty>,
}

/// A fault, and the numbers of the requests that it hits.
struct Faulty {
    fault: Fault,
    hits: Range<u64>,
    /// How many requests that the fault may hit were made since the record began.
    requests: u64,
}

impl Shared {
    fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `faults` lists the faults that can hit a request of this kind. If the disk has one of them,
    /// counts the request, and returns the fault if it hits the request with this number. Otherwise
    /// returns `None`.
    fn hit(&mut self, faults: &[Fault]) -> Option<Fault> {
        let faulty = self
            .faulty
            .as_mut()
            .filter(|one| faults.contains(&one.fault))?;
        faulty.requests += 1;
        let hits = faulty.hits.contains(&(faulty.requests - 1));
        hits.then_some(faulty.fault)
    }

    fn note(&mut self, event: Event) {
        if let Some(events) = &mut self.events {
            events.push(event);
        }
    }
}

/// A mounted disk.
pub(crate) struct Disk {
    directory: PathBuf,
    shared: Arc<Mutex<Shared>>,
    session: BackgroundSession,
}

impl Disk {
    /// Mounts a disk of `size` bytes, all zeros, on `directory`.
    pub(crate) fn mount(directory: &Path, size: u64) -> Result<Self> {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let files = Files::new(Arc::clone(&shared), size);
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("crash".into())];
        config.acl = SessionACL::All;
        let session = fuser::spawn_mount(files, directory, &config)
            .with_context(|| format!("cannot mount a disk on {}", directory.display()))?;
        Ok(Disk {
            directory: directory.to_owned(),
            shared,
            session,
        })
    }

    /// Returns the path of the disk.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(fuse::DISK)
    }

    /// Returns the path of the file of marks.
    pub(crate) fn marks(&self) -> PathBuf {
        self.directory.join(fuse::MARKS)
    }

    /// Begins a record. Returns the bytes that the disk has now. The caller must have flushed all
    /// of them. `fault` is a fault with the numbers of the requests that it hits, as
    /// [`Fault::hits`] returns them. The disk has this fault until the record ends.
    pub(crate) fn begin(&self, fault: Option<(Fault, Range<u64>)>) -> Pages {
        let mut shared = Shared::lock(&self.shared);
        shared.faulty = fault.map(|(fault, hits)| Faulty {
            fault,
            hits,
            requests: 0,
        });
        shared.events = Some(Vec::new());
        shared.pages.clone()
    }

    /// Ends the record, and removes the fault from the disk. Returns the events of the record.
    pub(crate) fn end(&self) -> Vec<Event> {
        let mut shared = Shared::lock(&self.shared);
        shared.faulty = None;
        shared.events.take().unwrap_or_default()
    }

    /// Unmounts the disk.
    pub(crate) fn unmount(self) -> Result<()> {
        self.session
            .umount_and_join()
            .context("cannot unmount the disk")
    }
}
