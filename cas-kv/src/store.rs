//! The store, and access to its content, records and images.

use std::path::Path;
use std::sync::Arc;

use cas_core::image::RecordImages;
use cas_core::{ContentStore, Error, ErrorKind, ImageStore, Records, Result, Store};

use crate::content::KvContent;
use crate::engine::Engine;
use crate::kv::{Access, Kv};
use crate::owned_dir::OwnedDir;
use crate::records::KvRecords;

/// How a database is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Create a database. There is none at the path.
    Create,
    /// Open the database at the path.
    Existing,
    /// Open the database at the path, and change no file.
    ReadOnly,
    /// Open as much as possible of the damaged database at the path, only for reading. No file of
    /// the database changes. The engine may create a directory at the path that
    /// [`side_dir`](crate::side_dir) returns.
    Damaged,
}

impl OpenMode {
    /// Returns whether the database can be changed.
    pub const fn is_writable(self) -> bool {
        matches!(self, OpenMode::Create | OpenMode::Existing)
    }
}

/// A store over an engine.
#[derive(Clone)]
pub struct KvStore {
    content: Arc<KvContent>,
    records: Arc<KvRecords>,
    images: Arc<RecordImages>,
}

impl KvStore {
    /// Opens the store in `dir`, or creates it if there is none and `dir` can be written. Upgrades
    /// a database of an older format, if it is writable and the disk has room. The parameter `open`
    /// is a function that receives a path and a mode, and opens or creates the database at that
    /// path. The store is read-only if the directory cannot be written, or if the engine cannot
    /// open the database for writing because the disk is full.
    ///
    /// A new database is prepared under a temporary name first, so a crash leaves either no store
    /// or a complete one.
    ///
    /// # Errors
    /// `FailedPrecondition` if the database has a newer format or belongs to another program;
    /// `Corrupt` if the directory can be written and had a database that is missing now; errors of
    /// the engine and of the file system.
    pub fn open<E: Engine>(
        dir: OwnedDir,
        open: impl Fn(&Path, OpenMode) -> Result<E>,
    ) -> Result<Self> {
        if dir.is_writable() {
            let new = dir.remove_unfinished()?;
            if !dir.database().try_exists()? {
                if dir.has_lost_database()? {
                    return Err(Error::corrupt(
                        "the database is missing; restore a copy, or let `cas fsck --repair` make \
                         an empty database",
                    ));
                }
                Kv::write_format(&open(&new, OpenMode::Create)?)?;
                dir.publish()?;
            }
        }
        let read_only = || open(&dir.database(), OpenMode::ReadOnly);
        let (engine, access) = if dir.is_writable() {
            match open(&dir.database(), OpenMode::Existing) {
                Err(error) if error.kind() == ErrorKind::Full => (read_only()?, Access::Full),
                opened => (opened?, Access::Writable),
            }
        } else {
            (read_only()?, Access::ReadOnly)
        };
        let kv = Arc::new(Kv::open(Box::new(engine), dir, access)?);
        let records = Arc::new(KvRecords(Arc::clone(&kv)));
        let images = match kv.has_targets {
            true => RecordImages::with_targets(records.clone())?,
            false => RecordImages::new(records.clone()),
        };
        Ok(KvStore {
            content: Arc::new(KvContent(kv)),
            records,
            images: Arc::new(images),
        })
    }

    /// Returns the content store.
    pub fn content(&self) -> Arc<dyn ContentStore> {
        self.content.clone()
    }

    /// Returns the records store.
    pub fn records(&self) -> Arc<dyn Records> {
        self.records.clone()
    }

    /// Returns the image store, which keeps image names in the records store.
    pub fn images(&self) -> Arc<dyn ImageStore> {
        self.images.clone()
    }

    /// Returns the content store, the records store and the image store together.
    pub fn store(&self) -> Store {
        Store {
            content: self.content(),
            records: self.records(),
            images: self.images(),
        }
    }
}
